"""What the active process of a sink has in memory: the events that are under way, those of each run in their order.

A run whose event is not taken holds up itself, and no other, up to a bound of what is under way. What is stored as the
sink's place lies below the oldest event that is not dealt with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec

from dressage.brokers.event_feed import EventFeed, Received
from dressage.connectors.connect.event_mapping import EventOutput
from dressage.connectors.connect.options import ConnectorFailed, Setting
from dressage.connectors.connect.progress import Progress
from dressage.connectors.events_out.config import EventsOutConfig
from dressage.connectors.events_out.outgoing import (
    Delivery,
    NotDelivered,
    Outgoing,
    Undeliverable,
    dead_event,
)
from dressage.connectors.events_out.place import RENEW_S, Lease, LeaseLost
from dressage.connectors.gate import Faults
from dressage.connectors.mapping import Unmappable
from dressage.protocol.errors import BadRunId, DressageError
from dressage.protocol.events import ReceivedEvent, decode_event
from dressage.protocol.names import run_token

_log = logging.getLogger("dressage.connectors")

BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0

AHEAD: Final = 10
"""How many windows it may get ahead of the oldest event that is not dealt with: so many may be delivered again."""

UNDER_WAY_BYTES_MAX: Final = 64 * 1024 * 1024

ROOM_S: Final = 0.2
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
        self._config = parts.config
        self._client = parts.setting.client
        self._options = parts.setting.options
        self._metrics = parts.setting.metrics
        self._faults = parts.faults
        self._output = parts.output
        self._delivery = parts.delivery
        self._lease = lease
        self._created = created
        self._progress = Progress(reached + 1)
        self._lanes: dict[str, deque[Outgoing]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = self._bytes = 0
        self._less = asyncio.Event()
        self._stuck: dict[int, str] = {}
        """Events that were not taken so far, with the code of why."""
        self._told: set[str] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep())
        self._lag_at = 0.0

    async def work(self, feed: EventFeed, batch: int, stop: asyncio.Event) -> None:
        """Returns after `stop`, with what was under way delivered if that takes no longer than `drain_s`."""
        failure: ConnectorFailed | None = None
        while not stop.is_set() and failure is None:
            self._check()
            if await self._has_room(batch):
                failure = await self._take_all(await feed.take(0.0))
            await self._watch_lag()
        await self._drain()
        if failure is not None:
            raise failure

    async def end(self) -> None:
        """Throws away what is not delivered, and says how far it is."""
        for task in (*self._tasks, self._keeping):
            task.cancel()
        await asyncio.gather(*self._tasks, self._keeping, return_exceptions=True)
        if self._failed.done():
            self._failed.exception()
        with contextlib.suppress(DressageError):
            await self._store()
        for seq in list(self._stuck):
            self._settle(seq)
        self._faults.end("place")

    def _check(self) -> None:
        if self._failed.done():
            self._failed.result()
        if self._keeping.done():
            self._keeping.result()

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
        self._less.set()

    # -- how far it is -----------------------------------------------------------------------------
    async def _keep(self) -> None:
        """Stores the place, which renews the lease. Raises `LeaseLost`."""
        while True:
            await asyncio.sleep(min(RENEW_S, self._options.commit_every_s))
            try:
                await self._store()
            except LeaseLost:
                self._less.set()
                raise
            except DressageError as error:
                self._faults.begin("place", error.code, error.message)
            else:
                self._faults.end("place")

    async def _store(self) -> None:
        await self._lease.store(self._created, self._reached)

    @property
    def _reached(self) -> int:
        return self._progress.watermark - 1

    async def _watch_lag(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._lag_at:
            self._lag_at = now + self._options.lag_every_s
            connection, names = self._client.connection, self._client.names
            # The stream also holds positions of shards, which are no events.
            last = await connection.last_message(names.events_stream, names.all_events())
            self._metrics.lag.set(max(0, (last.seq if last else 0) - self._reached))

    # -- taking events -----------------------------------------------------------------------------
    async def _has_room(self, batch: int) -> bool:
        """Waits a moment for it."""
        if self._full(batch):
            self._less.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROOM_S):
                    await self._less.wait()
        return not self._full(batch)

    def _full(self, batch: int) -> bool:
        return (
            self._count + batch > max(1, self._options.in_flight)
            or self._bytes >= UNDER_WAY_BYTES_MAX
            or self._progress.span >= AHEAD * self._options.in_flight
        )

    async def _take_all(self, messages: list[Received]) -> ConnectorFailed | None:
        """Why the connector stops at one of them; None if it does not."""
        for number, message in enumerate(messages, 1):
            try:
                self._take(message)
            except ConnectorFailed as error:
                return error
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return None

    def _take(self, message: Received) -> None:
        try:
            event = decode_event(message.payload)
            token = run_token(event.subject)
        except (msgspec.MsgspecError, BadRunId) as error:
            _log.warning("connector %r passes over message %d: %s", self._config.name, message.seq, error)
            self._pass_over(message.seq)
            return
        outgoing = self._outgoing(message, event, token)
        if outgoing is None:
            self._metrics.skipped.inc()
            self._pass_over(message.seq)
            return
        self._progress.take(message.seq)
        self._count += 1
        self._bytes += len(message.payload)
        lane = self._lanes.get(event.subject)
        if lane is not None:
            lane.append(outgoing)
            return
        self._lanes[event.subject] = deque([outgoing])
        task = asyncio.create_task(self._work_off(event.subject))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pass_over(self, seq: int) -> None:
        self._progress.take(seq)
        self._progress.done(seq)

    def _outgoing(self, message: Received, event: ReceivedEvent, token: str) -> Outgoing | None:
        """None if a filter leaves it out. Raises `ConnectorFailed` for what nothing can be made of, unless that is
        tolerated."""
        output_id = self._client.names.output_id(self._config.name, token, event.index, event.command)
        try:
            output = self._output.of(event, message.payload)
            if output is None:
                return None
            self._delivery.check(output)
        except Unmappable as error:
            if self._config.tolerance == "none":
                raise ConnectorFailed(
                    f"connector {self._config.name!r} stops at event {message.seq} of the stream, as "
                    f"errors.tolerance is none: {error.code}: {error.message}. Filter such events out, or mend the "
                    'expression, and start it again; with errors.tolerance = "all" such an event becomes a dead letter'
                ) from error
            return Outgoing(message.seq, output_id, event, message.payload, None, error)
        return Outgoing(message.seq, output_id, event, message.payload, output)

    @property
    def _idle(self) -> bool:
        """What is stuck is no reason to wait: the next process tries it as well."""
        return all(lane[0].seq in self._stuck for lane in self._lanes.values())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.drain_s
        while not self._idle and loop.time() < deadline:
            self._check()
            self._less.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline, loop.time() + ROOM_S)):
                    await self._less.wait()
        self._check()

    # -- the events of one run ---------------------------------------------------------------------
    async def _work_off(self, run_id: str) -> None:
        lane = self._lanes[run_id]
        try:
            while lane:
                await self._deal_with(lane[0])
                done = lane.popleft()
                self._progress.done(done.seq)
                self._count -= 1
                self._bytes -= len(done.payload)
                self._settle(done.seq)
                self._less.set()
        except (ConnectorFailed, LeaseLost) as error:
            self._fail(error)
        finally:
            del self._lanes[run_id]

    async def _deal_with(self, outgoing: Outgoing) -> None:
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
