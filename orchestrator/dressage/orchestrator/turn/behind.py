"""Behind the commit, in order: output events under their position, then states under their fence."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from dressage.brokers.interface import (
    FENCE_IN_PROCESS,
    Connection,
    Expect,
    Message,
    all_of,
)
from dressage.orchestrator.fold.state import Gone, encode_state
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.committing import certain, doubt_of
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.lingering import Lingering
from dressage.orchestrator.turn.records import Position, encode
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.takeover import Standing
from dressage.orchestrator.turn.turn import Frozen, PlacedEvent, Turn
from dressage.protocol.errors import OutcomeUnknown, PublishRefused
from dressage.protocol.names import Names

EVENTS_MAX: Final = 900
STATES_MAX: Final = 500
EVENTS_LINGER_S: Final = 0.025
EVENTS_LINGER_BELOW: Final = 200
"""Fewer events than this wait a moment for company: the smallest batch costs several fsyncs of the disk that turns
are committed to. Under load there is company at once, and nothing lingers."""

STATES_LINGER_S: Final = 0.8
STATES_LINGER_BELOW: Final = 10_000
"""States wait longer: a run that moves on meanwhile is written once instead of at each turn, and all that waits for
the write is the removal of commands, which nobody sees. It bounds what a take-over has to fold again."""

SINGLES_MAX: Final = 8
"""So many states go as pipelined singles where there is one replica: cheaper than staging a batch."""

BYTES_MAX: Final = 4 * 1024 * 1024

EMPTY_S: Final = 60
"""So long what empties a key of the bucket stays there itself."""

_EMPTY: Final = {"KV-Operation": "PURGE"}


class Gate:
    """Wakes the one task that waits for work."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def open(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()


class EventsStage:
    """Publishes output events as atomic batches with the position last, one batch in flight."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        standing: Standing,
        published: Callable[[Turn], None],
        metrics: EngineMetrics,
    ) -> None:
        self._connection = connection
        self._subject = names.position(shard)
        self._epoch = standing.epoch
        self._position_seq = standing.position_seq
        self.position = standing.position
        """What is stored of the output events."""
        self._published = published
        self._metrics = metrics
        self._queue: deque[PlacedEvent | Turn] = deque()
        self._gate = Gate()

    def add(self, turn: Turn) -> None:
        """Takes a committed turn; `published` gets it back when its events are stored."""
        self._queue.extend(turn.events)
        self._queue.append(turn)
        self._gate.open()

    @property
    def behind(self) -> int:
        """Output events of committed turns that are not stored yet."""
        return sum(1 for item in self._queue if isinstance(item, PlacedEvent))

    def forget(self) -> None:
        """Drops what was not stored."""
        self._queue.clear()

    @property
    def idle(self) -> bool:
        return not self._queue

    async def run(self) -> None:
        while True:
            await self._gate.wait()
            while self._queue:
                if len(self._queue) < EVENTS_LINGER_BELOW:
                    await asyncio.sleep(EVENTS_LINGER_S)
                await self._publish_some()

    async def _publish_some(self) -> None:
        events: list[PlacedEvent] = []
        turns: list[Turn] = []
        size = taken = 0
        for item in self._queue:
            if isinstance(item, Turn):
                turns.append(item)
            elif len(events) < EVENTS_MAX and size < BYTES_MAX:
                events.append(item)
                size += len(item.message.data)
            else:
                break
            taken += 1
        if events:
            position = self._moved(events)
            message = Message(
                self._subject,
                encode(position),
                expect=Expect(self._position_seq),
                rollup=True,
                never_expires=True,
            )
            batch = [event.message for event in events]
            self._position_seq = (await certain(self._connection, [*batch, message])).seq
            self.position = position
            self._metrics.events.inc(len(events))
        await self._bury(turns)
        for _ in range(taken):
            self._queue.popleft()
        for turn in turns:
            self._published(turn)

    def _moved(self, events: list[PlacedEvent]) -> Position:
        """The position behind these events."""
        open_runs = self.position.open_runs
        if open_runs is not None:
            open_runs += sum(event.opens for event in events)
        return Position(self._epoch, events[-1].seq, events[-1].number, open_runs)

    async def _bury(self, turns: list[Turn]) -> None:
        """Dead letters go out before their commands are removed; a repeat carries the same message id."""
        for message in [message for turn in turns for message in turn.dead]:
            try:
                await self._connection.publish(message)
            except (PublishRefused, OutcomeUnknown) as error:
                raise Doubt(f"a dead letter could not be stored: {error.message}") from error
            self._metrics.dead_letters.labels("command").inc()


class StatesStage:
    """Writes frozen states, newest of each run only, fenced on the shard's key; that covers commands."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        standing: Standing,
        floor: Floor,
        metrics: EngineMetrics,
        linger_s: float = STATES_LINGER_S,
    ) -> None:
        self._connection = connection
        self._names = names
        self._shard = shard
        self._fence = Expect(standing.fence_seq, names.fence_key(shard))
        self._floor = floor
        self._metrics = metrics
        self._linger_s = linger_s
        self.lingering = Lingering()
        self._singles_max = SINGLES_MAX if standing.replicas == 1 else 1
        self._waiting: dict[str, Frozen] = {}
        self._gate = Gate()
        self._writing = False

    def add(self, turn: Turn) -> None:
        """Takes a turn whose events are stored: from here its states may be written."""
        for seq in turn.stateless:
            self._floor.covered(seq)
        for frozen in turn.frozen:
            if isinstance(frozen.state, Gone) and frozen.state.forgotten:
                continue  # It is written when nobody needs it any more.
            self._waiting[frozen.run.token] = frozen
        if turn.frozen:
            self._gate.open()

    def empty(self, frozen: Frozen) -> None:
        """Lets the bucket hold nothing of a run that was deleted, unless there is another one of its id."""
        run = frozen.run
        if run.covered < frozen.state.seq and run.token not in self._waiting:
            self._waiting[run.token] = frozen
            self._gate.open()

    def forget(self) -> None:
        """Drops what was not stored."""
        self._waiting.clear()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._writing

    async def run(self) -> None:
        while True:
            await self._gate.wait()
            while self._waiting:
                if len(self._waiting) < STATES_LINGER_BELOW:
                    await self.lingering.wait(self._linger_s)
                self._writing = True
                for _ in range(-(-len(self._waiting) // STATES_MAX)):
                    await self._write(*self._next())
                self._writing = False

    def _next(self) -> tuple[list[Frozen], list[Message]]:
        chosen: list[Frozen] = []
        messages: list[Message] = []
        size = 0
        for frozen in self._waiting.values():
            if len(chosen) >= STATES_MAX or size >= BYTES_MAX:
                break
            message = self._message(frozen)
            chosen.append(frozen)
            messages.append(message)
            size += len(message.data)
        for frozen in chosen:
            del self._waiting[frozen.run.token]
        return chosen, messages

    def _message(self, frozen: Frozen) -> Message:
        key = self._names.run_key(self._shard, frozen.run.token)
        if isinstance(frozen.state, Gone) and frozen.state.forgotten:
            return Message(key, b"", _EMPTY, rollup=True, expires_s=EMPTY_S)
        return Message(key, encode_state(frozen.state))

    async def _write(self, states: list[Frozen], messages: list[Message]) -> None:
        while True:
            try:
                await self._store(messages)
                break
            except PublishRefused as refused:
                if refused.err_code != FENCE_IN_PROCESS:
                    raise doubt_of(refused, "a write of states") from refused
            except OutcomeUnknown as unknown:
                raise Doubt(f"a write of states: {unknown.message}") from unknown
            await asyncio.sleep(0.02)
        self._metrics.states.inc(len(states))
        for frozen in states:
            self._covered(frozen)

    async def _store(self, messages: list[Message]) -> None:
        """A part that is stored while another is refused does no harm: every one of them may be stored."""
        if len(messages) > self._singles_max:
            messages[0].expect = self._fence
            await self._connection.publish_batch(messages)
            return
        for message in messages:
            message.expect = self._fence
        waiting = [self._connection.send(message) for message in messages]
        await all_of(waiting)

    def _covered(self, frozen: Frozen) -> None:
        run = frozen.run
        run.covered = max(run.covered, frozen.state.seq)
        for seq in run.uncovered:
            if seq <= run.covered:
                self._floor.covered(seq)
        run.uncovered = [seq for seq in run.uncovered if seq > run.covered]
