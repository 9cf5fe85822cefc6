"""What becomes of one event of a trigger: the engine is asked for what it says, or it is kept as a dead letter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from dressage.brokers.interface import Delivery
from dressage.connectors.dead_letter import dead_letter
from dressage.connectors.engine import Engine
from dressage.connectors.gate import Faults, Gate
from dressage.connectors.mapping import Post, Start
from dressage.connectors.metrics import TriggerMetrics
from dressage.connectors.place import LeaseLost
from dressage.connectors.rules import Rule
from dressage.connectors.setting import Setting, backoff_s
from dressage.connectors.source import event_id
from dressage.protocol.errors import BadInput, DressageError, Refused

_log = logging.getLogger("dressage.connectors")


class Dealt(NamedTuple):
    """The engine has accepted `request`, or knew it (`existing`); `when` leaves the event out (no `request`); or it is
    a dead letter for this `error`."""

    request: Start | Post | None = None
    existing: bool = False
    error: DressageError | None = None


class Dealing:
    """Deals with the events of one trigger in this process."""

    def __init__(self, trigger: str, setting: Setting, metrics: TriggerMetrics) -> None:
        self._trigger = trigger
        self._connection = setting.connection
        self._names = setting.client.names
        self._metrics = metrics
        self.faults: Final = Faults(trigger, metrics.faulty)
        self._gate = Gate(self.faults, "engine")
        self._told: set[str] = set()
        """Codes of dead letters: the first of each is a warning, the others are counted."""

    async def deal_with(self, event: Delivery, stream: str, rule: Rule) -> Dealt:
        """Returns when the event is done with. Raises a `DressageError` when it has to be tried again.

        `stream` is where it is stored, or else a name that no other event has.
        """
        request: Start | Post | BadInput | None
        try:
            request = rule.mapping.asked_by(event, event_id(stream, event.stream_seq, event.time_ns))
        except BadInput as error:
            request = error
        if request is None:
            self._metrics.skipped.inc()
            return Dealt()
        return await self.settle([event], stream, request, rule.engine)

    async def settle(
        self,
        events: Sequence[Delivery],
        stream: str,
        wanted: Start | Post | BadInput,
        engine: Engine,
        known_by: str = "",
    ) -> Dealt:
        """Asks for what events want together, or keeps them as dead letters. Raises as `deal_with`.

        A refusal with the code `known_by` says that the engine has accepted it before.
        """
        try:
            if isinstance(wanted, BadInput):
                raise wanted
            existing = await self._ask(engine, wanted)
        except (BadInput, Refused) as error:
            if not isinstance(wanted, BadInput) and error.code == known_by:
                self._metrics.accepted(wanted, existing=True, count=len(events))
                return Dealt(wanted, existing=True)
            for event in events:
                await self.bury(event, stream, error)
            return Dealt(error=error)
        self._metrics.accepted(wanted, existing=existing, count=len(events))
        return Dealt(wanted, existing)

    async def persist(self, once: Callable[[], Awaitable[Dealt]], what: str) -> Dealt:
        """Tries until it is done, with pauses. Raises only `LeaseLost`."""
        attempts = 0
        while True:
            attempts += 1
            try:
                return await once()
            except LeaseLost:
                raise
            except DressageError as error:
                self._metrics.retry(error.code)
            except Exception:
                _log.exception("trigger %r fails on %s", self._trigger, what)
                self._metrics.retry("INTERNAL")
            await asyncio.sleep(backoff_s(attempts))

    async def _ask(self, engine: Engine, request: Start | Post) -> bool:
        """Whether the engine knew it. Raises `BadInput` or `Refused` for what this event will never get, other errors
        for what may pass."""
        return await self._gate.through(lambda: engine.ask(request))

    async def bury(self, event: Delivery, stream: str, error: DressageError) -> None:
        """Keeps the event as a dead letter. Raises a `DressageError` when that cannot be done now."""
        message = dead_letter(
            self._names,
            self._trigger,
            stream,
            event,
            error.code,
            error.message,
            payload_bytes_max=self._connection.payload_bytes_max,
        )
        try:
            await self._connection.publish(message)
        except DressageError as failed:
            self.faults.begin("dead letters", failed.code, failed.message)
            raise
        self.faults.end("dead letters")
        self._metrics.dead_letter(error.code)
        level = logging.INFO if error.code in self._told else logging.WARNING
        self._told.add(error.code)
        which = f"event {event.stream_seq}" if event.stream_seq else f"an event on {event.subject!r}"
        _log.log(level, "trigger %r: %s is a dead letter: %s", self._trigger, which, error)
