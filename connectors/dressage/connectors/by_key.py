"""Events of one key come one after the other, and those of other keys beside them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dressage.brokers.event_feed import EventFeed
from dressage.brokers.interface import Delivery
from dressage.connectors.dealing import Dealt
from dressage.connectors.lanes import ROOM_S, Lanes
from dressage.connectors.mapping import Post, Start
from dressage.connectors.rules import Rule
from dressage.connectors.source import Begin, event_id
from dressage.connectors.taking import Parts, Stopped, Taking
from dressage.protocol.errors import BadInput


class _Event(msgspec.Struct, frozen=True, gc=False):
    """An event, and what it asks for by the rule that it was taken with."""

    delivery: Delivery
    wanted: Start | Post | BadInput
    rule: Rule


class ByKey(Taking):
    """A lane for each key."""

    def __init__(self, parts: Parts, begin: Begin) -> None:
        super().__init__(parts, begin)
        self._number = 0
        """Of the rule that the last event was taken with."""
        self._waiting: set[int] = set()
        """Events that were tried, and have to be tried again."""
        self._lanes: Lanes[_Event] = Lanes(
            parts.lease,
            begin.reached,
            begin.created,
            self._deal_with,
            parts.dealing.faults,
            in_flight=parts.options.in_flight,
        )

    @property
    def _held(self) -> int:
        return self._lanes.count

    async def end(self) -> None:
        await self._lanes.end()

    async def _more(self, feed: EventFeed) -> Sequence[Delivery]:
        self._lanes.check()
        return await feed.take(0.0) if await self._lanes.has_room(self._options.taken_at_once) else []

    async def _finish(self) -> None:
        """What has to be tried again is no reason to wait: the next process tries it as well."""
        await self._lanes.until(
            lambda: all(seq in self._waiting for seq in self._lanes.heads), self._options.drain_s
        )

    async def _take(self, delivery: Delivery) -> None:
        rule = await self._rule(delivery)
        if rule.number != self._number:
            # What the key is may be another matter now: so the order is that of all until then.
            await self._emptied()
            self._number = rule.number
        seq = delivery.stream_seq
        wanted: Start | Post | BadInput
        try:
            variables = rule.mapping.meant(delivery)
            if variables is None:
                self._metrics.skipped.inc()
                self._lanes.pass_over(seq)
                return
            key = f"key {rule.mapping.order_of(variables)}"
            wanted = rule.mapping.asked(variables, event_id(self._stream, seq, delivery.time_ns))
        except BadInput as error:
            key, wanted = f"event {seq}", error
        self._lanes.take(seq, key, len(delivery.data), _Event(delivery, wanted, rule))

    async def _emptied(self) -> None:
        while self._lanes.count:
            if self._stop.is_set():
                raise Stopped
            await self._lanes.until(lambda: not self._lanes.count, ROOM_S)

    async def _deal_with(self, seq: int, event: _Event) -> None:
        """Returns when it is done with. Raises `LeaseLost`."""

        async def once() -> Dealt:
            await self._lease.sure()
            rule = await self._rules.of(self._created, seq)
            if rule.number == event.rule.number:
                return await self._dealing.settle([event.delivery], self._stream, event.wanted, rule.engine)
            return await self._dealing.deal_with(event.delivery, self._stream, rule)

        async def tried() -> Dealt:
            try:
                return await once()
            except BaseException:
                self._waiting.add(seq)
                raise

        await self._dealing.persist(tried, f"event {seq}")
        self._waiting.discard(seq)
