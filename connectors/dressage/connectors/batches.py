"""Events that are together one start of a run, or one external event.

Which events are a batch is a matter of what came when, and must not be another one when a process dies with it: so
where it ends is stored before it is asked for, and it begins behind the one before. One is under way at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from math import inf
from typing import Final

from dressage.brokers.event_feed import EventFeed
from dressage.brokers.interface import Delivery
from dressage.connectors.dealing import Dealt
from dressage.connectors.engine import Engine
from dressage.connectors.mapping import Variables
from dressage.connectors.place import Keeping
from dressage.connectors.rules import Rule
from dressage.connectors.setting import cancelled
from dressage.connectors.source import Begin, event_id
from dressage.connectors.taking import Parts, Stopped, Taking
from dressage.protocol.errors import BadInput, DressageError

BATCH_BYTES_MAX: Final = 192 * 1024
"""Of the payloads of a batch, unless it is one event: three quarters of what a workflow takes as its input."""

STORE_S: Final = 1.0
"""How often it says how far it is while no batch does."""


class Batches(Taking):
    """One batch at a time. With `until` the first one ends there, as it did for who had it before."""

    def __init__(self, parts: Parts, begin: Begin, until: int) -> None:
        super().__init__(parts, begin)
        self._reached = self._stored = begin.reached
        self._until = until
        self._open: list[tuple[Delivery, Variables]] = []
        self._bytes = 0
        self._rule_number = 0
        self._size = 1
        self._due = inf
        self._store_at = 0.0
        self._keeping = Keeping(parts.lease.renew, parts.dealing.faults)

    @property
    def _held(self) -> int:
        return len(self._open)

    async def end(self) -> None:
        await self._keeping.end()
        with contextlib.suppress(DressageError):
            await self._store_reached()

    async def _finish(self) -> None:
        """What was not asked for yet is gathered anew by the next process."""

    async def _more(self, feed: EventFeed) -> Sequence[Delivery]:
        self._keeping.check()
        now = asyncio.get_running_loop().time()
        if now >= self._due:
            await self._close()
        elif now >= self._store_at and self._stored < self._reached and not self._until:
            await self._store_reached()
        return await feed.take(0.0)

    async def _store_reached(self) -> None:
        await self._lease.store(self._created, self._reached, self._until)
        self._stored = self._reached
        self._store_at = asyncio.get_running_loop().time() + STORE_S

    # -- gathering ---------------------------------------------------------------------------------
    async def _take(self, delivery: Delivery) -> None:
        seq = delivery.stream_seq
        rule = await self._rule(delivery)
        if self._closes_before(delivery, rule):
            await self._close()
        variables = await self._meant(delivery, rule)
        if variables is not None:
            self._add(delivery, variables, rule)
        elif not self._open and not self._until:
            self._reached = seq
        if self._closes_with(seq):
            await self._close()

    def _closes_before(self, delivery: Delivery, rule: Rule) -> bool:
        if self._until:
            return delivery.stream_seq > self._until
        return bool(self._open) and (
            rule.number != self._rule_number or self._bytes + len(delivery.data) > BATCH_BYTES_MAX
        )

    def _closes_with(self, seq: int) -> bool:
        return seq == self._until if self._until else len(self._open) >= self._size

    async def _meant(self, delivery: Delivery, rule: Rule) -> Variables | None:
        """None for an event that is no part of a batch: it is not meant, or a dead letter now."""
        try:
            variables = rule.mapping.meant(delivery)
        except BadInput as error:
            await self._in_time(self._bury(delivery, error, rule.engine))
            return None
        if variables is None:
            self._metrics.skipped.inc()
        return variables

    def _add(self, delivery: Delivery, variables: Variables, rule: Rule) -> None:
        if not self._open:
            assert rule.batch is not None, "it is a trigger with batches"
            self._rule_number, self._size = rule.number, rule.batch.size
            self._due = inf if self._until else asyncio.get_running_loop().time() + rule.batch.within_s
        self._open.append((delivery, variables))
        self._bytes += len(delivery.data)

    # -- asking ------------------------------------------------------------------------------------
    async def _close(self) -> None:
        """Asks for what there is. Raises `Stopped`, or a `DressageError` when its end cannot be stored."""
        if self._open and not self._until:
            until = self._open[-1][0].stream_seq
            await self._lease.store(self._created, self._reached, until)
            self._stored, self._until = self._reached, until
        if self._open:
            await self._in_time(self._ask(self._open))
        self._reached, self._until = self._until, 0
        self._open, self._bytes, self._due = [], 0, inf

    async def _ask(self, batch: Sequence[tuple[Delivery, Variables]]) -> None:
        """Returns when the batch is dealt with. Raises `LeaseLost`."""
        events = [each for each, _ in batch]
        first, number = events[0], self._rule_number

        async def once() -> Dealt:
            await self._lease.sure()
            rule = await self._rules.of(self._created, first.stream_seq)
            try:
                # It is another rule where a mistake was mended for what waits already.
                given = [
                    variables if rule.number == number else rule.mapping.meant(event)
                    for event, variables in batch
                ]
                meant = [each for each in given if each is not None]
                batch_id = event_id(self._stream, first.stream_seq, first.time_ns)
                wanted = rule.mapping.asked_of(meant, batch_id)
            except BadInput as error:
                return await self._dealing.settle(events, self._stream, error, rule.engine)
            return await self._dealing.settle(events, self._stream, wanted, rule.engine)

        await self._dealing.persist(once, f"the batch of {len(events)} from event {first.stream_seq} on")

    async def _bury(self, event: Delivery, error: BadInput, engine: Engine) -> None:
        async def once() -> Dealt:
            return await self._dealing.settle([event], self._stream, error, engine)

        await self._dealing.persist(once, f"event {event.stream_seq}")

    async def _in_time(self, asking: Coroutine[None, None, None]) -> None:
        """Raises `Stopped` when it is not done `drain_s` after a stop; at once while a fault lasts."""
        task = asyncio.create_task(asking)
        stopping = asyncio.create_task(self._stopped())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not self._dealing.faults["engine"]:
                await asyncio.wait((task,), timeout=self._options.drain_s)
            if not task.done():
                raise Stopped
            task.result()
        finally:
            await cancelled((task, stopping))

    async def _stopped(self) -> None:
        await self._stop.wait()
