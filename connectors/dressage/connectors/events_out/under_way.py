"""What the active process of a sink has in memory: the events that are under way, those of each run in their order.

A run whose event is not taken holds up itself, and no other, up to a bound of what is under way. What is stored as the
sink's place lies below the oldest event that is not dealt with.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import msgspec

from dressage.brokers.event_feed import EventFeed
from dressage.brokers.interface import Delivery as Message
from dressage.connectors.connect.event_mapping import EventOutput
from dressage.connectors.connect.options import ConnectorFailed, Setting
from dressage.connectors.events_out.config import EventsOutConfig
from dressage.connectors.events_out.outgoing import (
    Delivery,
    NotDelivered,
    Outgoing,
    Undeliverable,
    dead_event,
    received,
    with_output,
)
from dressage.connectors.gate import Faults
from dressage.connectors.lanes import Lanes
from dressage.connectors.mapping import Unmappable
from dressage.connectors.place import Lease, LeaseLost
from dressage.protocol.errors import BadRunId, DressageError

_log = logging.getLogger("dressage.connectors")

BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0

YIELD_EVERY: Final = 100


@dataclass(slots=True, frozen=True)
class SinkParts:
    """What a sink is made of."""

    config: EventsOutConfig
    setting: Setting
    output: EventOutput
    delivery: Delivery
    faults: Faults


class UnderWay:
    """What the active process has in memory."""

    def __init__(self, parts: SinkParts, lease: Lease, reached: int, created: str) -> None:
        options = parts.setting.options
        self._config = parts.config
        self._client = parts.setting.client
        self._options = options
        self._metrics = parts.setting.metrics
        self._faults = parts.faults
        self._output = parts.output
        self._delivery = parts.delivery
        self._lease = lease
        self._stuck: dict[int, str] = {}
        """Events that were not taken so far, with the code of why."""
        self._told: set[str] = set()
        self._lag_at = 0.0
        self._lanes: Lanes[Outgoing] = Lanes(
            lease,
            reached,
            created,
            self._deal_with,
            parts.faults,
            in_flight=options.in_flight,
            store_every_s=options.commit_every_s,
        )

    async def work(self, feed: EventFeed, batch: int, stop: asyncio.Event) -> None:
        """Returns after `stop`, with what was under way delivered if that takes no longer than `drain_s`."""
        failure: ConnectorFailed | None = None
        while not stop.is_set() and failure is None:
            self._lanes.check()
            if await self._lanes.has_room(batch):
                failure = await self._take_all(await feed.take(0.0))
            await self._watch_lag()
        await self._lanes.until(lambda: self._idle, self._options.drain_s)
        if failure is not None:
            raise failure

    async def end(self) -> None:
        """Throws away what is not delivered, and says how far it is."""
        await self._lanes.end()
        for seq in list(self._stuck):
            self._settle(seq)

    async def _watch_lag(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._lag_at:
            self._lag_at = now + self._options.lag_every_s
            connection, names = self._client.connection, self._client.names
            # The stream also holds positions of shards, which are no events.
            last = await connection.last_message(names.events_stream, names.all_events())
            self._metrics.lag.set(max(0, (last.seq if last else 0) - self._lanes.reached))

    # -- taking events -----------------------------------------------------------------------------
    async def _take_all(self, messages: list[Message]) -> ConnectorFailed | None:
        """Why the connector stops at one of them; None if it does not."""
        for number, message in enumerate(messages, 1):
            try:
                self._take(message)
            except ConnectorFailed as error:
                return error
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return None

    def _take(self, message: Message) -> None:
        seq = message.stream_seq
        try:
            event = received(self._client.names, self._config.name, seq, message.data)
        except (msgspec.MsgspecError, BadRunId) as error:
            _log.warning("connector %r passes over message %d: %s", self._config.name, seq, error)
            self._lanes.pass_over(seq)
            return
        outgoing = self._outgoing(event)
        if outgoing is None:
            self._metrics.skipped.inc()
            self._lanes.pass_over(seq)
            return
        self._lanes.take(seq, outgoing.event.subject, len(message.data), outgoing)

    def _outgoing(self, event: Outgoing) -> Outgoing | None:
        """None if a filter leaves it out. Raises `ConnectorFailed` for what nothing can be made of, unless that is
        tolerated."""
        try:
            return with_output(event, self._output, self._delivery)
        except Unmappable as error:
            if self._config.tolerance == "none":
                raise ConnectorFailed(
                    f"connector {self._config.name!r} stops at event {event.seq} of the stream, as "
                    f"errors.tolerance is none: {error.code}: {error.message}. Filter such events out, or mend the "
                    'expression, and start it again; with errors.tolerance = "all" such an event becomes a dead letter'
                ) from error
            return msgspec.structs.replace(event, refused=error)

    @property
    def _idle(self) -> bool:
        """What is stuck is no reason to wait: the next process tries it as well."""
        return all(seq in self._stuck for seq in self._lanes.heads)

    # -- one event ---------------------------------------------------------------------------------
    async def _deal_with(self, seq: int, outgoing: Outgoing) -> None:
        await self._deliver(outgoing)
        self._settle(seq)

    async def _deliver(self, outgoing: Outgoing) -> None:
        """Returns when it is delivered, or a dead letter. Raises `ConnectorFailed`, or `LeaseLost`."""
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        attempts = 0
        while True:
            after_s = 0.0
            try:
                if deadline is None and self._delivery.deadline_s is not None:
                    deadline = loop.time() + self._delivery.deadline_s
                await self._try(outgoing, last=deadline is not None and loop.time() >= deadline)
            except (LeaseLost, ConnectorFailed):
                raise
            except DressageError as error:
                after_s = error.after_s if isinstance(error, NotDelivered) else 0.0
                self._wait(outgoing, error.code, error.message)
            except Exception as error:
                _log.exception("connector %r fails on event %d", self._config.name, outgoing.seq)
                self._wait(outgoing, "INTERNAL", str(error))
            else:
                return
            attempts += 1
            wait_s = max(after_s, min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempts - 1, 10)))
            if deadline is not None:
                wait_s = min(wait_s, max(BACKOFF_MIN_S, deadline - loop.time()))
            await asyncio.sleep(wait_s)

    async def _try(self, outgoing: Outgoing, *, last: bool) -> None:
        """Returns when it is dealt with. Raises a `DressageError` when it has to be tried again."""
        if outgoing.refused is not None:
            await self._bury(outgoing, outgoing.refused)
            return
        try:
            await self._delivery.deliver(outgoing, self._lease.sure)
        except Undeliverable as error:
            await self._bury(outgoing, error)
        except NotDelivered as error:
            if not last:
                raise
            await self._bury(outgoing, error)
        else:
            self._metrics.records.inc()

    def _wait(self, outgoing: Outgoing, code: str, message: str) -> None:
        self._metrics.retry(code)
        if self._stuck.get(outgoing.seq) != code:
            self._settle(outgoing.seq)
            self._stuck[outgoing.seq] = code
            self._faults.begin(f"delivery: {code}", code, message)
        _log.debug("connector %r waits with event %d: %s: %s", self._config.name, outgoing.seq, code, message)

    def _settle(self, seq: int) -> None:
        """The fault of an event is over, or another one; it is told of for as long as some event has it."""
        code = self._stuck.pop(seq, "")
        if code and code not in self._stuck.values():
            self._faults.end(f"delivery: {code}")

    async def _bury(self, outgoing: Outgoing, error: DressageError) -> None:
        connection = self._client.connection
        await connection.publish(
            dead_event(
                self._client.names,
                self._config.name,
                outgoing,
                error.code,
                error.message,
                connection.payload_bytes_max,
            )
        )
        self._metrics.dead_letter(error.code)
        level = logging.INFO if error.code in self._told else logging.WARNING
        self._told.add(error.code)
        _log.log(
            level, "connector %r: event %s is a dead letter: %s", self._config.name, outgoing.event.id, error
        )
