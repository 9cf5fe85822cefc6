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
from dressage.connectors.mapping import Post, Start, Variables
from dressage.connectors.place import Gathered, Keeping
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
    """One batch at a time; the first is that of `decided`, if there is one: of who had it before."""

    def __init__(self, parts: Parts, begin: Begin, decided: Gathered | None) -> None:
        super().__init__(parts, begin)
        self._reached = self._stored = begin.reached
        self._decided = decided
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
        elif now >= self._store_at and self._stored < self._reached and self._decided is None:
            await self._store_reached()
        messages = await feed.take(0.0)
        if self._decided is not None and not messages and not await feed.behind():
            # Its last event is gone from the stream, and nothing comes behind it.
            await self._close()
        return messages

    async def _store_reached(self) -> None:
        await self._lease.store(self._created, self._reached, self._decided)
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
        elif not self._open and self._decided is None:
            self._reached = seq
        if self._closes_with(seq):
            await self._close()

    def _closes_before(self, delivery: Delivery, rule: Rule) -> bool:
        if self._decided is not None:
            return delivery.stream_seq > self._decided.until
        return bool(self._open) and (
            rule.number != self._rule_number or self._bytes + len(delivery.data) > BATCH_BYTES_MAX
        )

    def _closes_with(self, seq: int) -> bool:
        if self._decided is not None:
            return seq == self._decided.until
        return len(self._open) >= self._size

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
            if self._decided is None:
                self._due = asyncio.get_running_loop().time() + rule.batch.within_s
        self._open.append((delivery, variables))
        self._bytes += len(delivery.data)

    # -- asking ------------------------------------------------------------------------------------
    async def _close(self) -> None:
        """Asks for what there is. Raises `Stopped`, or a `DressageError` when its end cannot be stored."""
        if self._open and self._decided is None:
            first, last = self._open[0][0], self._open[-1][0]
            batch_id = event_id(self._stream, first.stream_seq, first.time_ns)
            decided = Gathered(last.stream_seq, batch_id, len(self._open))
            await self._lease.store(self._created, self._reached, decided)
            self._stored, self._decided = self._reached, decided
        if self._decided is not None:
            if self._open:
                await self._in_time(self._ask(self._open, self._decided))
            self._reached, self._decided = self._decided.until, None
        self._open, self._bytes, self._due = [], 0, inf

    async def _ask(self, batch: Sequence[tuple[Delivery, Variables]], decided: Gathered) -> None:
        """Returns when the batch is dealt with. Raises `LeaseLost`."""
        events = [each for each, _ in batch]
        number = self._rule_number
        # Where some of it are gone, it was accepted with them if its run is there with another input.
        known_by = "RUN_ID_CONFLICT" if len(batch) < decided.count else ""

        async def once() -> Dealt:
            await self._lease.sure()
            rule = await self._rules.of(self._created, events[0].stream_seq)
            wanted: Start | Post | BadInput
            try:
                # It is another rule where a mistake was mended for what waits already.
                given = [
                    variables if rule.number == number else rule.mapping.meant(event)
                    for event, variables in batch
                ]
                meant = [each for each in given if each is not None]
                if not meant:
                    self._metrics.skipped.inc(len(batch))
                    return Dealt()
                wanted = rule.mapping.asked_of(meant, decided.id)
            except BadInput as error:
                wanted = error
            return await self._dealing.settle(events, self._stream, wanted, rule.engine, known_by)

        await self._dealing.persist(once, f"the batch {decided.id} of {len(events)}")

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
