"""The process that starts a run, or posts an external event, for each event of a stream that belongs to somebody else.

The source delivers each event at least once, and the event alone decides the id of the run, or of what is posted: so
each event counts exactly once, whatever dies in between. An event is acknowledged only when the engine has accepted
what it asks for, or when it is stored as a dead letter, or when `when` says that it is not meant. Order is not
promised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import Connection, Delivery, Pull
from dressage.client import Client
from dressage.connectors.config import TriggerConfig
from dressage.connectors.dead_letter import dead_letter
from dressage.connectors.engine import Engine, engine_of
from dressage.connectors.gate import Faults, Gate
from dressage.connectors.mapping import EventMapping, Post, Start
from dressage.connectors.metrics import Metrics, TriggerMetrics
from dressage.connectors.rules import Rule, Rules
from dressage.connectors.source import Source
from dressage.connectors.waiting import RETRY_S
from dressage.protocol.errors import BadInput, DressageError, Refused

_log = logging.getLogger("dressage.connectors")

CANCEL_AGAIN_S: Final = 0.5

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0


@dataclass(slots=True, frozen=True)
class TriggerOptions:
    """How a process runs its triggers.

    `in_flight` is how many events of one trigger are held at a time: from half of it to all are under way. An
    event of a process that died goes to another one `ack_wait_s` after its last sign of life. `pending_max` bounds
    what all processes of a trigger hold or have put back. `answer_s` is how long an event waits for the engine
    before it is put back, `drain_s` how long a stop waits for the events in flight.
    """

    namespace: str = "default"
    in_flight: int = 400
    ack_wait_s: float = 30.0
    pending_max: int = 5_000
    answer_s: float = 8.0
    drain_s: float = 10.0
    lag_every_s: float = 5.0


@dataclass(slots=True, frozen=True)
class Setting:
    """What all triggers of a process share."""

    connection: Connection
    client: Client
    options: TriggerOptions
    metrics: Metrics

    def rule(self, name: str) -> Callable[[TriggerConfig], Rule]:
        """What makes rules of the trigger `name`."""

        def make(config: TriggerConfig) -> Rule:
            engine = engine_of(
                config.target, self.client, actor=f"trigger/{name}", answer_s=self.options.answer_s
            )
            return Rule(EventMapping(config), engine)

        return make

    def source(self, config: TriggerConfig, incarnation: int = 0) -> Source:
        return Source(
            self.connection,
            self.client.names,
            config,
            ack_wait_s=self.options.ack_wait_s,
            pending_max=self.options.pending_max,
            incarnation=incarnation,
        )


class Trigger:
    """One trigger of this process."""

    def __init__(
        self,
        config: TriggerConfig,
        source: Source,
        rules: Rules,
        setting: Setting,
    ) -> None:
        self._config = config
        self._source = source
        self._rules = rules
        self._connection = setting.connection
        self._options = setting.options
        self._metrics = metrics = TriggerMetrics(setting.metrics, config.name)
        self._names = setting.client.names
        self._faults = Faults(config.name, metrics.faulty)
        self._gate = Gate(self._faults, "engine")
        self._told: set[str] = set()
        """Codes of dead letters: the first of each is a warning, the others are counted."""
        self._held: dict[str, tuple[Delivery, float]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        beside = [
            asyncio.create_task(work) for work in (self._keep_pulling(), self._show_life(), self._watch_lag())
        ]
        try:
            await stop.wait()
            await cancelled(beside[:1])
            await self._drain()
        finally:
            await cancelled([*beside, *self._running])

    async def _drain(self) -> None:
        """Finishes the events in flight, unless a fault lasts, for then they would not get there."""
        if self._running and not self._faults["engine"]:
            _log.info("trigger %r: finishing %d events", self._config.name, len(self._running))
            await asyncio.wait(self._running, timeout=self._options.drain_s)
        await cancelled(self._running)

    # -- taking events -----------------------------------------------------------------------------
    async def _keep_pulling(self) -> None:
        """A pull that ends (consumer or stream gone, server restarted) is set up again, for as long as we live."""
        while True:
            try:
                await self._source.open()
                self._faults.end("source")
                await self._pull()
            except DressageError as error:
                self._faults.begin("source", error.code, error.message)
            except Exception:
                _log.exception("trigger %r: its source fails", self._config.name)
            await asyncio.sleep(RETRY_S)

    async def _pull(self) -> None:
        """Returns when the pull has ended."""
        ended = asyncio.Event()

        def on_end(reason: str) -> None:
            _log.warning(
                "trigger %r: stream %s: %s: asking again", self._config.name, self._source.stream, reason
            )
            ended.set()

        taking = _Taking(self._source.created)

        async def on_delivery(delivery: Delivery) -> None:
            self._take(delivery, taking)

        taking.pull = await self._connection.pull(
            self._source.stream, self._source.consumer, self._options.in_flight, on_delivery, on_end
        )
        try:
            await ended.wait()
        finally:
            await taking.pull.close()

    def _take(self, delivery: Delivery, taking: _Taking) -> None:
        self._metrics.events.inc()
        self._held[delivery.reply] = delivery, asyncio.get_running_loop().time()
        task = asyncio.create_task(self._handle(delivery, taking))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _show_life(self) -> None:
        """Tells the source of every event held for long that somebody is at work on it."""
        loop = asyncio.get_running_loop()
        interval_s = self._options.ack_wait_s / 3
        while True:
            await asyncio.sleep(interval_s / 2)
            for delivery, shown_at in list(self._held.values()):
                if shown_at < loop.time() - interval_s:
                    self._held[delivery.reply] = delivery, loop.time()
                    await self._tell(self._connection.in_progress(delivery))

    async def _watch_lag(self) -> None:
        while True:
            await asyncio.sleep(self._options.lag_every_s)
            try:
                self._metrics.lag.set(await self._source.lag())
            except DressageError as error:
                _log.debug("trigger %r: its lag cannot be told: %s", self._config.name, error)

    # -- one event ---------------------------------------------------------------------------------
    async def _handle(self, delivery: Delivery, taking: _Taking) -> None:
        try:
            await self._deal_with(delivery, await self._rules.of(taking.created, delivery.stream_seq))
            await self._tell(self._connection.ack(delivery))
        except DressageError as error:
            await self._put_back(delivery, error.code)
        except asyncio.CancelledError:
            await self._tell(self._connection.nak(delivery))
            raise
        except Exception:
            _log.exception("trigger %r fails on event %d", self._config.name, delivery.stream_seq)
            await self._put_back(delivery, "INTERNAL")
        finally:
            self._held.pop(delivery.reply, None)
            if taking.pull is not None:
                await taking.pull.taken()

    async def _deal_with(self, delivery: Delivery, rule: Rule) -> None:
        """Returns when the event may be acknowledged. Raises a `DressageError` when it has to be tried again."""
        try:
            request = rule.mapping.asked_by(delivery, self._source.event_id(delivery))
            if request is None:
                self._metrics.skipped.inc()
                return
            existing = await self._ask(rule.engine, request)
        except (BadInput, Refused) as error:
            await self._bury(delivery, error)
            return
        self._metrics.accepted(request, existing=existing)

    async def _ask(self, engine: Engine, request: Start | Post) -> bool:
        """Whether the engine knew it. Raises `BadInput` or `Refused` for what this event will never get, other errors
        for what may pass."""
        async with self._gate.passage():
            try:
                existing = await engine.ask(request)
            except (BadInput, Refused):
                self._gate.works()
                raise
            except DressageError as error:
                self._gate.fails(error.code, error.message)
                raise
            self._gate.works()
            return existing

    async def _bury(self, delivery: Delivery, error: DressageError) -> None:
        message = dead_letter(
            self._names,
            self._config.name,
            self._source.stream,
            delivery,
            error.code,
            error.message,
            payload_bytes_max=self._connection.payload_bytes_max,
        )
        try:
            await self._connection.publish(message)
        except DressageError as failed:
            self._faults.begin("dead letters", failed.code, failed.message)
            raise
        self._faults.end("dead letters")
        self._metrics.dead_letter(error.code)
        level = logging.INFO if error.code in self._told else logging.WARNING
        self._told.add(error.code)
        _log.log(
            level, "trigger %r: event %d is a dead letter: %s", self._config.name, delivery.stream_seq, error
        )

    async def _put_back(self, delivery: Delivery, code: str) -> None:
        self._metrics.retry(code)
        await self._tell(self._connection.nak(delivery, _backoff_s(delivery.attempts)))

    async def _tell(self, telling: Coroutine[None, None, None]) -> None:
        """What cannot be told to the source is no loss: the event comes again."""
        try:
            await telling
        except DressageError as error:
            _log.debug("trigger %r: %s", self._config.name, error)


class _Taking:
    """The pull that deliveries came by, which is known only after the first of them may have come, and when the stream
    was made that they are of."""

    def __init__(self, created: str) -> None:
        self.created: Final = created
        self.pull: Pull | None = None


def _backoff_s(attempts: int) -> float:
    """How long an event that was delivered so often stays away."""
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempts - 1, 10))


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels and awaits what still runs; again and again, because `wait_for` of Python 3.11 may swallow it once."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
