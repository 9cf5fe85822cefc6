"""Removing what is done with: commands once they are covered, tasks once workers have acknowledged them, and the
copies that a cursor leaves behind when it carries cancels.

One purge takes away everything below a floor with a handful of fsyncs, where an acknowledgement on a WorkQueue
stream costs one fsync each. A purge needs no fence: what is covered stays covered, whoever removes it, and however
late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from dressage.brokers.interface import Connection, ConsumerState
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.lingering import Lingering
from dressage.protocol.errors import BrokerError
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.orchestrator")

COMMANDS_EVERY_S: Final = 0.2
TASKS_EVERY_S: Final = 1.0
COUNT_EVERY_S: Final = 10.0
TASK_CONSUMER_PREFIX: Final = Names.task_consumer("")


class Floor:
    """Which commands, or sends, are done with. They begin in stream order and end in any order."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._covered: set[int] = set()
        self.floor = 0

    def begun(self, seq: int) -> None:
        self._order.append(seq)

    def covered(self, seq: int) -> None:
        """Tells that nothing of it is only in memory; moves the floor up as far as that goes."""
        self._covered.add(seq)
        while self._order and self._order[0] in self._covered:
            self.floor = self._order.popleft()
            self._covered.discard(self.floor)

    @property
    def open(self) -> int:
        """How many have begun and are not covered."""
        return len(self._order) - len(self._covered)


class Queue(NamedTuple):
    """Attempts that no worker has taken, and those that one has."""

    waiting: int
    taken: int


class Remover:
    """Purges one shard's stream in the background."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        commands: Floor,
        sends: Floor,
        cursors: Floor,
        epoch: int,
        still_owned: Callable[[], Awaitable[bool]],
    ) -> None:
        self._connection = connection
        self._still_owned = still_owned
        self._epoch = epoch
        self._stream = names.shard_stream(shard)
        self._names = names
        self._shard = shard
        self._floors = {
            names.commands(shard): commands,
            names.sends(shard): sends,
            names.cursor(shard): cursors,
        }
        self._removed: dict[str, int] = {}
        self.queues: dict[str, Queue] = {}
        """What has been seen of the shard's part of each queue, by its name."""
        self._done: dict[str, tuple[float, int]] = {}
        """When the attempts of a queue were counted, and how many of those beside what is with workers were done."""

        self.lingering = Lingering()

    @property
    def removed_commands(self) -> int:
        """Up to which sequence no command stands in the stream any more."""
        return self._removed.get(self._names.commands(self._shard), 0)

    @property
    def idle(self) -> bool:
        return all(self._removed.get(subjects, 0) >= floor.floor for subjects, floor in self._floors.items())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        tasks_due = loop.time()
        while True:
            await self.lingering.wait(COMMANDS_EVERY_S)
            try:
                for subjects, floor in self._floors.items():
                    await self._remove(subjects, floor.floor)
                if loop.time() >= tasks_due:
                    await self._look_at_consumers()
                    tasks_due = loop.time() + TASKS_EVERY_S
            except BrokerError as error:
                if self._connection.lost.is_set():
                    raise Doubt(f"removing what is done with: {error.message}") from error
                _log.warning("shard %d: removing what is done with: %s", self._shard, error)

    async def _remove(self, subjects: str, floor: int) -> None:
        if floor > self._removed.get(subjects, 0):
            await self._connection.purge(self._stream, subjects, floor + 1)
            self._removed[subjects] = floor

    async def _look_at_consumers(self) -> None:
        """Removes tasks that are done with, and consumers that an owner before this one made after it was replaced.

        Raises `Doubt` when somebody has fenced the shard. An owner with nothing to commit would not notice else, if
        that somebody died before it removed this one's consumers.
        """
        if not await self._still_owned():
            raise Doubt("somebody else has fenced the shard", contested=True)
        states: dict[str, ConsumerState] = {}
        for consumer in await self._connection.consumers(self._stream):
            epoch = self._names.consumer_epoch(consumer)
            if epoch is not None and epoch < self._epoch:
                await self._connection.delete_consumer(self._stream, consumer)
            elif consumer.startswith(TASK_CONSUMER_PREFIX):
                queue = consumer.removeprefix(TASK_CONSUMER_PREFIX)
                states[queue] = await self._remove_tasks(queue, consumer)
        await self._count_tasks(states)

    async def _remove_tasks(self, queue: str, consumer: str) -> ConsumerState:
        state = await self._connection.consumer_state(self._stream, consumer)
        await self._remove(self._names.task(self._shard, queue), state.floor)
        return state

    async def _count_tasks(self, states: dict[str, ConsumerState]) -> None:
        """What stands on the subject of a queue is waiting, with workers, or done with behind one that takes long."""
        tasks = self._names.tasks(self._shard)
        state = await self._connection.stream_state(self._stream, tasks)
        there = {} if state is None else state.subjects
        counts = {subject.removeprefix(tasks[:-1]): count for subject, count in there.items()}
        for queue in {*self.queues, *counts, *states}:
            consumer = states.get(queue)
            if consumer is None:
                self.queues[queue] = Queue(counts.get(queue, 0), 0)
                continue
            beside = counts.get(queue, 0) - consumer.out
            waiting = await self._waiting(queue, consumer, beside) if beside > 0 else 0
            self.queues[queue] = Queue(waiting, consumer.out)

    async def _waiting(self, queue: str, consumer: ConsumerState, beside: int) -> int:
        """How many of those `beside` what is with workers nobody has taken. In a cluster it is dear to count them, so
        it is done now and then; between that as many count as done with as then."""
        subject = self._names.task(self._shard, queue)
        if await self._connection.next_message(self._stream, consumer.delivered + 1, subject) is None:
            self._done.pop(queue, None)
            return 0
        now = asyncio.get_running_loop().time()
        counted_at, done = self._done.get(queue, (now - COUNT_EVERY_S, 0))
        if now - counted_at < COUNT_EVERY_S:
            return max(1, beside - done)
        waiting = max(1, beside - done)
        with contextlib.suppress(
            BrokerError
        ):  # It is a figure to look at: what is done with goes all the same.
            waiting = await self._connection.count_behind(self._stream, subject, consumer.delivered)
        self._done[queue] = now, max(0, beside - waiting)
        return waiting
