"""Sends to other shards: forwarded by the shard's owner, in order, one in flight for each target.

A start followed by a cancel must arrive in that order, or the cancel meets no run and the run goes on for ever. So
the forwarder belongs to the owner, its consumer carries the epoch, a lost delivery or a failed publish ends the
tenure, and the next owner begins again at the first send that was not removed. What was forwarded twice that way is
told apart by the receiving run; the message id only saves most of these repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dressage.brokers.interface import Connection, Delivery, Message
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.removing import Floor
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names


class Forwarder:
    """Takes the deliveries of `fwd_<epoch>`; a send is done with once the target's stream has it."""

    def __init__(self, connection: Connection, names: Names, shard: int, floor: Floor) -> None:
        self._connection = connection
        self._names = names
        self._shard = shard
        self._floor = floor
        self._next_consumer_seq = 1
        self._last_seq = 0
        self._lanes: dict[int, asyncio.Queue[Delivery]] = {}
        self._unsent = 0
        self._new_lane = asyncio.Event()
        self.on_forwarded: Callable[[], Awaitable[None]] | None = None
        """Told of each send that is done with, which makes room for others."""

    def deliver(self, delivery: Delivery) -> None:
        """Raises `Doubt` when a delivery was lost: order would be, too."""
        if delivery.consumer_seq != self._next_consumer_seq:
            raise Doubt(f"send delivery {self._next_consumer_seq} was lost: got {delivery.consumer_seq}")
        self._next_consumer_seq += 1
        if delivery.stream_seq <= self._last_seq:
            return  # A redelivery of what is on its way.
        self._last_seq = delivery.stream_seq
        self._floor.begun(delivery.stream_seq)
        target = int(delivery.subject.split(".")[-2])
        if target not in self._lanes:
            self._lanes[target] = asyncio.Queue()
            self._new_lane.set()
        self._lanes[target].put_nowait(delivery)
        self._unsent += 1

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
        stream = self._names.shard_stream(target)
        while True:
            delivery = await lane.get()
            token = delivery.subject.rsplit(".", 1)[1]
            msg_id = f"send-{self._shard}-{delivery.stream_seq}"
            message = Message(self._names.command(target, token), delivery.data, msg_id=msg_id)
            try:
                await self._connection.publish(message)
            except DressageError as error:
                raise Doubt(f"forwarding to {stream}: {error.message}") from error
            self._unsent -= 1
            self._floor.covered(delivery.stream_seq)
            if self.on_forwarded is not None:
                await self.on_forwarded()
