"""The process that starts a run, or posts an external event, for each event of a stream that belongs to somebody else.

The source delivers each event at least once, and the event alone decides the id of the run, or of what is posted: so
each event counts exactly once, whatever dies in between. An event is acknowledged only when the engine has accepted
what it asks for, or when it is stored as a dead letter, or when `when` says that it is not meant. Order is not
promised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Final

from dressage.brokers.interface import Delivery, Pull
from dressage.connectors.config import TriggerConfig
from dressage.connectors.core import CoreTrigger
from dressage.connectors.dealing import Dealing
from dressage.connectors.in_turn import TurnTrigger
from dressage.connectors.metrics import TriggerMetrics
from dressage.connectors.rules import Rules
from dressage.connectors.setting import Setting, backoff_s, cancelled
from dressage.connectors.source import Source
from dressage.connectors.waiting import RETRY_S
from dressage.protocol.errors import DressageError

_log = logging.getLogger("dressage.connectors")


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
        self._dealing = Dealing(config.name, setting, metrics)
        self._faults = self._dealing.faults
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
            rule = await self._rules.of(taking.created, delivery.stream_seq)
            await self._dealing.deal_with(delivery, self._source.stream, rule)
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

    async def _put_back(self, delivery: Delivery, code: str) -> None:
        self._metrics.retry(code)
        await self._tell(self._connection.nak(delivery, backoff_s(delivery.attempts)))

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


Running = Trigger | CoreTrigger | TurnTrigger


def trigger_of(config: TriggerConfig, rules: Rules, setting: Setting, incarnation: int = 0) -> Running:
    """What runs a trigger in this process; one that is deployed has an `incarnation`."""
    if config.source.core:
        return CoreTrigger(config, rules, setting, incarnation)
    if config.in_turn:
        return TurnTrigger(config, setting.source(config, incarnation), rules, setting)
    return Trigger(config, setting.source(config, incarnation), rules, setting)
