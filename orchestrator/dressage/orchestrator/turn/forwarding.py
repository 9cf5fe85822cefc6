"""Sends to other shards: forwarded by the shard's owner, in order, one write in flight for each target.

A start followed by a cancel must arrive in that order, or the cancel meets no run and the run goes on for ever. So
the forwarder belongs to the owner, its consumer carries the epoch, a lost delivery or a failed publish ends the
tenure, and the next owner begins again at the first send that was not removed. What was forwarded twice that way is
told apart by the receiving run; the message id only saves most of these repeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from dressage.brokers.interface import Connection, Delivery, Message
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.messages import carried
from dressage.orchestrator.turn.reading import token_of
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.routing import HandedOn
from dressage.protocol.errors import DressageError, PublishRefused
from dressage.protocol.names import OUT, Names

_log = logging.getLogger("dressage.orchestrator")

SINGLES_MAX: Final = 4
"""So few sends go one after the other: staging and syncing a batch costs as much as their fsyncs."""

GROUP_MAX: Final = 500
BYTES_MAX: Final = 4 * 1024 * 1024


class Forwarder:
    """Takes the deliveries of `fwd_<epoch>`; a send is done with once the target's stream has it.

    What is for a user's subject it passes on to `publish`.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        floor: Floor,
        handed_on: HandedOn,
        publish: Callable[[Delivery], None],
    ) -> None:
        self._connection = connection
        self._names = names
        self._shard = shard
        self._floor = floor
        self._handed_on = handed_on
        self._publish = publish
        self._next_consumer_seq = 1
        self._last_seq = 0
        self._lanes: dict[int, asyncio.Queue[Delivery]] = {}
        self._unsent = 0
        self._new_lane = asyncio.Event()
        self.on_forwarded: Callable[[int], Awaitable[None]] | None = None
        """Told how many sends are done with, which makes room for others."""

    def deliver(self, delivery: Delivery) -> Awaitable[None] | None:
        """Raises `Doubt` when a delivery was lost: order would be, too."""
        if delivery.consumer_seq != self._next_consumer_seq:
            raise Doubt(f"send delivery {self._next_consumer_seq} was lost: got {delivery.consumer_seq}")
        self._next_consumer_seq += 1
        if delivery.stream_seq <= self._last_seq:
            # A redelivery of what is on its way, or is not removed as something before it is on its way.
            return None if self.on_forwarded is None else self.on_forwarded(1)
        self._last_seq = delivery.stream_seq
        self._floor.begun(delivery.stream_seq)
        to = delivery.subject.split(".")[-2]
        if to == OUT:
            self._publish(delivery)
            return None
        target = int(to)
        if target not in self._lanes:
            self._lanes[target] = asyncio.Queue()
            self._new_lane.set()
        self._lanes[target].put_nowait(delivery)
        self._unsent += 1
        return None

    @property
    def idle(self) -> bool:
        return not self._unsent

    async def run(self) -> None:
        """Forwards for ever. Raises `Doubt` at the first failure."""
        async with asyncio.TaskGroup() as group:
            working: set[int] = set()
            while True:
                await self._new_lane.wait()
                self._new_lane.clear()
                for target in self._lanes.keys() - working:
                    working.add(target)
                    group.create_task(self._forward(target))

    async def _forward(self, target: int) -> None:
        lane = self._lanes[target]
        while True:
            group = [await lane.get()]
            while (
                not lane.empty()
                and len(group) < GROUP_MAX
                and sum(len(each.data) for each in group) < BYTES_MAX
            ):
                group.append(lane.get_nowait())
            messages = [self._message(target, delivery) for delivery in group]
            try:
                stored = await self._store(messages)
            except DressageError as error:
                raise Doubt(f"forwarding to {self._names.shard_stream(target)}: {error.message}") from error
            self._unsent -= len(group)
            for delivery, seq in zip(group, stored, strict=True):
                self._handed_on.arrived(token_of(delivery), seq)
                self._floor.covered(delivery.stream_seq)
            if self.on_forwarded is not None:
                await self.on_forwarded(len(group))

    def _message(self, target: int, delivery: Delivery) -> Message:
        return Message(
            self._names.command(target, token_of(delivery)),
            delivery.data,
            carried(delivery),
            msg_id=f"send-{self._shard}-{delivery.stream_seq}",
        )

    async def _store(self, messages: list[Message]) -> list[int]:
        """Stores them in order, and gives their sequences: together if they are many, else one after the other."""
        if len(messages) > SINGLES_MAX:
            try:
                last = (await self._connection.publish_batch(messages)).seq
            except PublishRefused as refused:
                # A repeat of what an earlier owner sent refuses the whole batch; a single one is answered as known.
                _log.debug("shard %d: %d sends go one by one: %s", self._shard, len(messages), refused)
            else:
                return list(range(last - len(messages) + 1, last + 1))
        return [(await self._connection.publish(message)).seq for message in messages]
