"""From deliveries to turns: takes commands strictly in stream order and folds each into the open turn."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import Delivery, Message
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.fold import fault, fold
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.definitions import Definitions
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.messages import MessageMaker
from dressage.orchestrator.turn.reading import Unreadable, read_command, read_run_id, token_of
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.runs import Run, Runs
from dressage.orchestrator.turn.turn import PlacedEvent, Turn
from dressage.protocol.commands import REPLY_HEADER, Answer, Command, RefusalCode, StartRun
from dressage.protocol.errors import BadSpec, InvariantBroken
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.orchestrator")

FOLDS_BEFORE_YIELD: Final = 50

HEADERS_BYTES_MAX: Final = 4096
"""Left free below the server's max_payload for the headers of a message."""

_TRACE_MAX: Final = 8000
_REASON_MAX: Final = 1500


class Folder:
    """Owns the memory of a tenure: runs, and how far commands are folded.

    `committed` is the cursor's place at take-over: what lies at or below it is folded again silently. `published`
    is the position's place: events at or below it are stored already.
    """

    def __init__(
        self,
        *,
        names: Names,
        shard: int,
        shards: int,
        payload_max: int,
        runs: Runs,
        definitions: Definitions,
        maker: MessageMaker,
        committed: tuple[int, int],
        published: tuple[int, int],
        floor: Floor,
        metrics: EngineMetrics,
    ) -> None:
        self._names = names
        self._shard = shard
        self._shards = shards
        self._payload_max = payload_max - HEADERS_BYTES_MAX
        self._runs = runs
        self._definitions = definitions
        self._maker = maker
        self._committed = committed
        self._published = published
        self._floor = floor
        self._metrics = metrics
        self._inbox: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._next_consumer_seq = 1
        self._folded = 0
        self._busy = False
        self._open = Turn(committed)
        self.ready = asyncio.Event()
        """Set while the open turn holds something to commit."""

    # -- intake ------------------------------------------------------------------------------------
    def deliver(self, delivery: Delivery) -> None:
        """Raises `Doubt` when a delivery was lost: what is folded would no longer be all below the cursor."""
        if delivery.consumer_seq != self._next_consumer_seq:
            raise Doubt(f"delivery {self._next_consumer_seq} was lost: got {delivery.consumer_seq}")
        self._next_consumer_seq += 1
        self._inbox.append(delivery)
        self._arrived.set()
        if delivery.stream_seq > self._folded:
            self._prefetch(token_of(delivery))

    def _prefetch(self, token: str) -> None:
        if self._runs.peek(token) is not None:
            return
        try:
            read_run_id(token, self._shard, self._shards)
        except Unreadable:
            return  # It is refused when its turn comes.
        self._runs.prefetch(token)

    @property
    def open_effects(self) -> int:
        """Effects in the open turn so far."""
        return len(self._open.effects)

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    @property
    def idle(self) -> bool:
        """Everything that was delivered is in a turn that was taken."""
        return not self._inbox and not self._busy and not self.ready.is_set()

    def take(self) -> Turn:
        """The open turn, frozen, for its commit; a new one is open from here."""
        turn = self._open
        turn.freeze()
        self._open = Turn(turn.place)
        self.ready.clear()
        self._taken.set()
        return turn

    # -- folding -----------------------------------------------------------------------------------
    async def run(self, taken: Callable[[], Awaitable[None]]) -> None:
        """Folds for ever; `taken` is told of each delivery that is folded."""
        done = 0
        while True:
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
            if self._open.full:
                await self._until_taken()
            self._busy = True
            await self._fold(self._inbox.popleft())
            self._busy = False
            await taken()
            done += 1
            if done % FOLDS_BEFORE_YIELD == 0:
                self._runs.evict()
                await asyncio.sleep(0)

    async def _until_taken(self) -> None:
        self._taken.clear()
        self.ready.set()
        await self._taken.wait()

    async def _fold(self, delivery: Delivery) -> None:
        seq = delivery.stream_seq
        if seq <= self._folded:
            return  # A redelivery: it is folded, and will be removed when it is covered.
        self._folded = seq
        self._floor.begun(seq)
        token = token_of(delivery)
        known = self._runs.peek(token)
        try:
            if known is None or known.state is None:
                run_id = read_run_id(token, self._shard, self._shards)
            else:
                run_id = known.state.run_id
        except Unreadable as unreadable:
            self._bury(delivery, unreadable.code, unreadable.message)
            await self._record(
                delivery, Run(token), _refused(None, unreadable.code, unreadable.message), None
            )
            return
        run = await self._runs.get(token)
        if run.state is not None and run.state.seq >= seq:
            self._floor.covered(seq)  # The state that the bucket gave us has this command in it.
            return
        outcome = await self._outcome(delivery, run, run_id)
        try:
            made = self._made(outcome, token)
        except InvariantBroken as broken:
            outcome = self._fault(delivery, run, broken.message)
            made = self._made(outcome, token)
        await self._record(delivery, run, outcome, made)

    async def _outcome(self, delivery: Delivery, run: Run, run_id: str) -> Outcome:
        stamp = _stamp(delivery)
        try:
            command = read_command(delivery)
        except Unreadable as unreadable:
            self._bury(delivery, unreadable.code, unreadable.message)
            return _refused(run.state, unreadable.code, unreadable.message)
        try:
            definition = await self._definition(run.state, command)
        except BadSpec as error:
            return _refused(run.state, "SPEC_INVALID", error.message)
        try:
            return fold(run.state, command, run_id, stamp, definition)
        except Exception:
            return self._fault(delivery, run, traceback.format_exc())

    def _fault(self, delivery: Delivery, run: Run, trace: str) -> Outcome:
        """A bug of ours: it stops this run, loudly, and no other."""
        _log.error("folding command %d of run %s failed\n%s", delivery.stream_seq, run.token, trace)
        self._metrics.faults.inc()
        self._bury(delivery, "ENGINE_FAULT", trace)
        if run.state is None or run.state.finished:
            last = trace.strip().splitlines()[-1]
            return _refused(run.state, "ENGINE_FAULT", f"the engine failed on this command: {last}")
        return fault(run.state, _stamp(delivery), trace[-_TRACE_MAX:])

    def _made(self, outcome: Outcome, token: str) -> _Made:
        """The messages of an outcome. Raises `InvariantBroken` for one that no server would store."""
        state = outcome.state
        if state is None:
            return _Made([], [])
        made = _Made(
            [self._maker.effect(effect, state, token) for effect in outcome.effects],
            self._maker.events(outcome.events, outcome.first_event, state, token, outcome.actor),
        )
        for message in (*made.effects, *made.events):
            if len(message.data) > self._payload_max:
                raise InvariantBroken(
                    f"a message of {len(message.data)} bytes to {message.subject}: at most {self._payload_max} go"
                )
        return made

    async def _definition(self, state: RunState | None, command: Command) -> Definition | None:
        """The immutable version that the state names; a start names its own, unless the run exists already."""
        if state is not None:
            return await self._definitions.get(state.workflow, state.version)
        if isinstance(command, StartRun):
            return await self._definitions.get(command.workflow, command.version)
        return None

    def _bury(self, delivery: Delivery, code: RefusalCode, reason: str) -> None:
        headers = {
            "Dressage-Code": code,
            "Dressage-Reason": _short(" ".join(reason[-_REASON_MAX:].split())),
            "Dressage-Subject": _short(delivery.subject),
            "Dressage-Sequence": str(delivery.stream_seq),
        }
        message = Message(
            self._names.dead_command(self._shard),
            delivery.data[: self._payload_max],
            headers,
            msg_id=f"{self._shard}-{delivery.stream_seq}",
        )
        self._open.dead.append(message)

    # -- recording ---------------------------------------------------------------------------------
    async def _record(self, delivery: Delivery, run: Run, outcome: Outcome, made: _Made | None) -> None:
        seq = delivery.stream_seq
        if made is not None:
            await self._record_effects(seq, outcome, made.effects)
            self._record_events(seq, outcome, made.events)
        turn = self._open
        turn.commands += 1
        turn.place = max(turn.place, (seq, len(outcome.effects)))
        if outcome.state is not None and outcome.state is not run.state:
            run.state = outcome.state
            turn.changed[run.token] = run
            run.uncovered.append(seq)
        else:
            turn.stateless.append(seq)
        self._record_answer(delivery, outcome)
        self.ready.set()

    async def _record_effects(self, seq: int, outcome: Outcome, effects: list[Message]) -> None:
        """Adds the effects that no commit holds yet; more than a turn can take go into several turns.

        Until the last of these turns nothing else of the command may show: the state that it leads to must not be
        frozen before all its effects are committed.
        """
        committed_seq, committed_effects = self._committed
        done = committed_effects if seq == committed_seq else 0
        if seq < committed_seq or done >= len(effects):
            return
        if not self._open.room_for(len(effects) - done) and self.ready.is_set():
            await self._until_taken()
        for number in range(done, len(effects)):
            if not self._open.room_for(1):
                self._open.place = (seq, number)
                await self._until_taken()
            self._open.add_effect(effects[number])
            self._open.has_send = self._open.has_send or isinstance(outcome.effects[number], SendCommand)

    def _record_events(self, seq: int, outcome: Outcome, events: list[Message]) -> None:
        published_seq, published_events = self._published
        if seq < published_seq:
            return
        skip = published_events if seq == published_seq else 0
        for number in range(skip, len(events)):
            self._metrics.happened(outcome.events[number])
            self._open.events.append(PlacedEvent(seq, number + 1, events[number]))

    def _record_answer(self, delivery: Delivery, outcome: Outcome) -> None:
        kind = "accepted" if outcome.code is None else outcome.code
        self._metrics.commands.labels(kind).inc()
        reply = delivery.headers.get(REPLY_HEADER) if delivery.headers else None
        if not reply:
            return
        answer = Answer(
            accepted=outcome.code is None,
            seq=delivery.stream_seq,
            code=outcome.code or "",
            message=outcome.message,
            existing=outcome.existing,
        )
        self._open.answers.append((reply, answer))


@dataclass(slots=True, frozen=True)
class _Made:
    """What an outcome becomes on the wire: effects and output events, in their order."""

    effects: list[Message]
    events: list[Message]


def _stamp(delivery: Delivery) -> Stamp:
    """Rounded up: a timer that is set from it must not be early."""
    return Stamp(delivery.stream_seq, -(-delivery.time_ns // 1_000_000))


def _short(text: str) -> str:
    """At most `_REASON_MAX` bytes of UTF-8: what a sender wrote may come back in an error, in any size and script."""
    return text.encode()[:_REASON_MAX].decode(errors="ignore")


def _refused(state: RunState | None, code: RefusalCode, message: str) -> Outcome:
    return Outcome(state, code=code, message=_short(message))
