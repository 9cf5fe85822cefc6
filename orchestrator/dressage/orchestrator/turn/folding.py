"""From deliveries to turns: takes commands strictly in stream order and folds each into the open turn."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

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
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.runs import Run, Runs
from dressage.orchestrator.turn.turn import PlacedEvent, Turn
from dressage.protocol.commands import REPLY_HEADER, Answer, Command, RefusalCode, StartRun, decode_command
from dressage.protocol.errors import BadRunId, BadSpec
from dressage.protocol.names import Names, run_id_of

_log = logging.getLogger("dressage.orchestrator")

FOLDS_BEFORE_YIELD = 50


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
            self._runs.prefetch(_token(delivery))

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
        token = _token(delivery)
        if seq <= self._folded:
            return  # A redelivery: it is folded, and will be removed when it is covered.
        self._folded = seq
        self._floor.begun(seq)
        run = await self._runs.get(token)
        if run.state is not None and run.state.seq >= seq:
            self._floor.covered(seq)  # The state that the bucket gave us has this command in it.
            return
        outcome = await self._outcome(delivery, run)
        await self._record(delivery, run, outcome)

    async def _outcome(self, delivery: Delivery, run: Run) -> Outcome:
        stamp = Stamp(delivery.stream_seq, -(-delivery.time_ns // 1_000_000))
        try:
            run_id = run_id_of(run.token)
            command = decode_command(delivery.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, BadRunId, RecursionError) as error:
            self._bury(delivery, "COMMAND_MALFORMED", str(error))
            return _refused(run.state, "COMMAND_MALFORMED", f"the command does not decode: {error}")
        try:
            definition = await self._definition(run.state, command)
        except BadSpec as error:
            return _refused(run.state, "SPEC_INVALID", error.message)
        try:
            return fold(run.state, command, run_id, stamp, definition)
        except Exception:
            trace = traceback.format_exc()
            _log.exception("folding command %d of run %r failed", stamp.seq, run_id)
            self._metrics.faults.inc()
            self._bury(delivery, "ENGINE_FAULT", trace)
            if run.state is None:
                return _refused(
                    None, "ENGINE_FAULT", f"the engine failed on this command: {trace.splitlines()[-1]}"
                )
            return fault(run.state, stamp, trace)

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
            "Dressage-Reason": " ".join(reason[-1500:].split()),
            "Dressage-Subject": delivery.subject,
            "Dressage-Sequence": str(delivery.stream_seq),
        }
        message = Message(
            self._names.dead_command(self._shard),
            delivery.data,
            headers,
            msg_id=f"{self._shard}-{delivery.stream_seq}",
        )
        self._open.dead.append(message)

    # -- recording ---------------------------------------------------------------------------------
    async def _record(self, delivery: Delivery, run: Run, outcome: Outcome) -> None:
        await self._record_effects(delivery.stream_seq, run, outcome)
        turn = self._open
        turn.commands += 1
        turn.place = max(turn.place, (delivery.stream_seq, len(outcome.effects)))
        self._record_events(delivery.stream_seq, run, outcome)
        if outcome.state is not None and outcome.state is not run.state:
            run.state = outcome.state
            turn.changed[run.token] = run
            run.uncovered.append(delivery.stream_seq)
        else:
            turn.stateless.append(delivery.stream_seq)
        self._record_answer(delivery, outcome)
        self.ready.set()

    async def _record_effects(self, seq: int, run: Run, outcome: Outcome) -> None:
        """Adds the effects that no commit holds yet; more than a turn can take go into several turns.

        Until the last of these turns nothing else of the command may show: the state that it leads to must not be
        frozen before all its effects are committed.
        """
        committed_seq, committed_effects = self._committed
        if seq < committed_seq or not outcome.effects or outcome.state is None:
            return
        effects = outcome.effects[committed_effects:] if seq == committed_seq else outcome.effects
        done = len(outcome.effects) - len(effects)
        if not self._open.room_for(len(effects)) and self.ready.is_set():
            await self._until_taken()
        for effect in effects:
            if not self._open.room_for(1):
                self._open.place = (seq, done)
                await self._until_taken()
            self._open.add_effect(self._maker.effect(effect, outcome.state, run.token))
            self._open.has_send = self._open.has_send or isinstance(effect, SendCommand)
            done += 1

    def _record_events(self, seq: int, run: Run, outcome: Outcome) -> None:
        if not outcome.events or outcome.state is None:
            return
        published_seq, published_events = self._published
        if seq < published_seq:
            return
        skip = published_events if seq == published_seq else 0
        fresh = outcome.events[skip:]
        messages = self._maker.events(fresh, outcome.first_event + skip, outcome.state, run.token)
        for number, (data, message) in enumerate(zip(fresh, messages, strict=True), skip + 1):
            self._metrics.happened(data)
            self._open.events.append(PlacedEvent(seq, number, message))

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


def _token(delivery: Delivery) -> str:
    return delivery.subject.rsplit(".", 1)[1]


def _refused(state: RunState | None, code: RefusalCode, message: str) -> Outcome:
    return Outcome(state, code=code, message=message)
