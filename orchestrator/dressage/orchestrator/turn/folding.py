"""From deliveries to turns: takes commands strictly in stream order and folds each into the open turn."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from dressage.brokers.interface import Delivery, Message
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.orchestrator.fold.effects import HandOn, Publish, SendCommand
from dressage.orchestrator.fold.fold import fault, fold, not_started
from dressage.orchestrator.fold.limiter import fold_limiter
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.outcome import Outcome, Stamp, stopped
from dressage.orchestrator.fold.retention import Asked, Keeping
from dressage.orchestrator.fold.schedule import fold_schedule
from dressage.orchestrator.fold.state import Gone, RunState, Schedule, State
from dressage.orchestrator.fold.timetable import fold_timetable
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.tracing import Traced, is_traced
from dressage.orchestrator.turn.definitions import Definitions
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.messages import MessageMaker
from dressage.orchestrator.turn.reading import (
    TOLD_BYTES_MAX,
    Unreadable,
    is_of_deleted,
    is_of_the_end,
    read_command,
    read_place,
    short,
    token_of,
)
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.routing import HandedOn, Maps, Route, older_places, route
from dressage.orchestrator.turn.runs import Run, Runs
from dressage.orchestrator.turn.starting import Starts
from dressage.orchestrator.turn.turn import Cleanup, PlacedEvent, TimerCancel, Turn
from dressage.protocol.commands import (
    REPLY_HEADER,
    Answer,
    AttemptStopped,
    Command,
    DeleteRun,
    FireSchedule,
    MigrateRun,
    PostEvent,
    RefusalCode,
    RescueRun,
    ReviewRun,
    SetSchedule,
    StartRun,
    TaskResult,
)
from dressage.protocol.errors import BadSpec, InvariantBroken
from dressage.protocol.events import (
    EventData,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunFaulted,
    RunRescued,
    RunStarted,
    TaskCompleted,
    TaskFailed,
)
from dressage.protocol.names import (
    Names,
    is_key,
    is_limiter,
    is_reply_subject,
    is_schedule,
    is_timetable,
    place_of,
)
from dressage.protocol.shardmap import (
    DELETED_HEADER,
    FORWARDED_HEADER,
    MAP_TOKEN,
    ShardMap,
    decode_map,
    forwarded_generation,
)
from dressage.protocol.versions import LATEST

_log = logging.getLogger("dressage.orchestrator")

FOLDS_BEFORE_YIELD: Final = 50
REFUSED_PAUSE_S: Final = 0.05
FOLDING_S_BEFORE_YIELD: Final = 0.02
"""A command may take some tenths of a second (docs/limits.md); the heartbeat, the commits and the questions must not
wait for fifty of them."""

HEADERS_BYTES_MAX: Final = 4096
"""Left free below the server's max_payload for the headers of a message."""

OPENS: Final[Mapping[type[EventData], int]] = {
    RunStarted: 1,
    RunCompleted: -1,
    RunFailed: -1,
    RunCancelled: -1,
    RunFaulted: -1,
    RunRescued: 1,
}
"""How an output event changes the number of open runs."""

_TRACE_MAX: Final = 8000


class Folder:
    """Owns the memory of a tenure: runs, and how far commands are folded.

    `committed` is the cursor's place at take-over: what lies at or below it is folded again silently. `published`
    is the position's place: events at or below it are stored already. `defined_map` reads the namespace's newest map
    from its leader. If it `traces`, turns say which commands of runs that are in a trace they hold.
    """

    def __init__(
        self,
        *,
        names: Names,
        shard: int,
        maps: Maps,
        handed_on: HandedOn,
        payload_max: int,
        runs: Runs,
        definitions: Definitions,
        maker: MessageMaker,
        committed: tuple[int, int],
        published: tuple[int, int],
        floor: Floor,
        starts: Starts,
        defined_map: Callable[[], Awaitable[ShardMap]],
        metrics: EngineMetrics,
        traces: bool = False,
    ) -> None:
        self._names = names
        self._shard = shard
        self._traces = traces
        self._maps = maps
        self._handed_on = handed_on
        self._payload_max = payload_max - HEADERS_BYTES_MAX
        self._runs = runs
        self._definitions = definitions
        self._maker = maker
        self._committed = committed
        self._published = published
        self._floor = floor
        self._starts = starts
        self._defined_map = defined_map
        self._metrics = metrics
        self._inbox: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._next_consumer_seq = 1
        self._folded = 0
        self._done = 0
        self._busy = False
        self._open = Turn(committed)
        self.commands = 0
        """Commands folded so far."""
        self.tasks = 0
        """Attempts that ended so far."""
        self.ready = asyncio.Event()
        """Set while the open turn holds something to commit."""

    def forget(self) -> None:
        """Drops what was not folded, or not committed."""
        self._inbox.clear()
        self._open = Turn(self._committed)

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
            route(self._maps.latest, read_place(token), self._shard)
        except Unreadable:
            return  # It is refused when its turn comes.
        self._runs.prefetch(token)

    @property
    def open(self) -> Turn:
        """What the next turn holds so far."""
        return self._open

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    @property
    def oldest_ns(self) -> int | None:
        """When the stream's leader stored the first command that waits."""
        return self._inbox[0].time_ns if self._inbox else None

    @property
    def idle(self) -> bool:
        """Everything that was delivered is in a turn that was taken."""
        return not self._inbox and not self._busy and not self.ready.is_set()

    def take(self) -> Turn:
        """The open turn, frozen, for its commit; a new one is open from here."""
        turn = self._open
        turn.through = self._done
        turn.maps = self._maps.kept
        turn.refused = self._starts.kept
        turn.share = self._starts.next_share
        turn.freeze()
        self._open = Turn(turn.place)
        self.ready.clear()
        self._taken.set()
        return turn

    # -- folding -----------------------------------------------------------------------------------
    async def run(self, taken: Callable[[], Awaitable[None]]) -> None:
        """Folds for ever; `taken` is told of each delivery that is folded."""
        done = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
            if self._open.full:
                await self._until_taken()
            self._busy = True
            delivery = self._inbox.popleft()
            await self._fold(delivery)
            self._done = max(self._done, delivery.stream_seq)
            if delivery.stream_seq == self._committed[0]:
                self.ready.set()  # Readers wait for this one, and it may have changed nothing.
            self._busy = False
            await taken()
            done += 1
            if done % FOLDS_BEFORE_YIELD == 0 or loop.time() - began > FOLDING_S_BEFORE_YIELD:
                self._runs.evict()
                await asyncio.sleep(0)
                began = loop.time()

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
        self._maps.now = self._maps.at(seq)
        try:
            if token == MAP_TOKEN:
                await self._change_map(delivery)
                return
            read_place(token)
        except Unreadable as unreadable:
            await self._set_aside(delivery, unreadable)
            return
        # Where a run lives is looked up before the map is: a command that was handed on may have begun it here
        # under a map that this shard has not switched to yet.
        run = await self._runs.get(token)
        absent = run.state is None or (isinstance(run.state, Gone) and run.state.seq < seq)
        if absent or not self._shown(run):
            try:
                place = self._place(delivery, token)
            except Unreadable as unreadable:
                await self._set_aside(delivery, unreadable)
                return
            except Exception:
                # A bug of ours, met by what a sender wrote: the command is set aside, and the shard goes on.
                fault = self._fault(delivery, Run(token), traceback.format_exc())
                await self._record(delivery, Run(token), fault, None)
                return
            if place.shard != self._shard and not is_of_the_end(delivery):
                deleted = is_of_deleted(delivery, run.state)
                await self._hand_on(delivery, run, HandOn(token, *place, deleted=deleted))
                return
        elif run.state is not None and run.state.seq >= seq:
            self._have_covered(delivery, run)
            return
        elif run.state is not None and run.ended_at is not None and not run.state.finished:
            # No growth is finished while a run is open where the new map would not look. Should one be, it lives there.
            await self._hand_on(delivery, run, HandOn(token, run.ended_at, checked=False))
            return
        self._handed_on.folded_here(token)
        outcome, command = await self._outcome(delivery, run)
        try:
            made = self._made(outcome, token)
        except Exception as broken:
            told = broken.message if isinstance(broken, InvariantBroken) else traceback.format_exc()
            outcome = self._fault(delivery, run, told)
            if command is not None and not (isinstance(run.state, RunState) and not run.state.finished):
                outcome.effects = not_started(command, "ENGINE_FAULT", outcome.message)
            made = self._made(outcome, token)
        await self._record(delivery, run, outcome, made, command=command)

    def _have_covered(self, delivery: Delivery, run: Run) -> None:
        """The state that the bucket gave us has this command in it. What it has left to do if it has deleted a run may
        not be done."""
        seq, state = delivery.stream_seq, run.state
        if not isinstance(state, RunState | Gone) or all(each.seq != seq for each in state.deletions):
            self._floor.covered(seq)
            return
        command = read_command(delivery)
        assert isinstance(command, DeleteRun)
        self._open.cleanups.append(Cleanup(run, seq, state.workflow, command.events))
        self.ready.set()

    def _place(self, delivery: Delivery, token: str) -> Route:
        """Where a command belongs whose run is not here. Raises `Unreadable` at a wrong shard."""
        mark = delivery.headers.get(FORWARDED_HEADER) if delivery.headers else None
        return route(self._maps.now, read_place(token), self._shard, forwarded_generation(mark))

    def _shown(self, run: Run) -> bool:
        """Whether the map of this command leads to where the run ended. In a refold it may be an earlier one."""
        return run.ended_at is None or run.ended_at in older_places(self._maps.now, run.token, self._shard)

    async def _set_aside(self, delivery: Delivery, why: Unreadable) -> None:
        """The command goes to the dead letters, and its sender is told."""
        self._bury(delivery, why.code, why.message)
        await self._record(delivery, Run(token_of(delivery)), _refused(None, why.code, why.message), None)

    async def _hand_on(self, delivery: Delivery, run: Run, effect: HandOn) -> None:
        """Sends the command on as it is; whoever folds it answers its sender."""
        if (delivery.stream_seq, 1) > self._committed:
            self._handed_on.begun(run.token, effect.shard)
        self._metrics.commands.labels("handed-on").inc()
        made = _Made([self._maker.hand_on(effect, delivery)], [])
        await self._record(delivery, run, Outcome(run.state, [effect]), made, answered=False)

    async def _change_map(self, delivery: Delivery) -> None:
        """Raises `Unreadable` for a payload that is no map, or one that the namespace does not have.

        Anybody who may publish commands could send one, and a map of shards that are not there would lead every run
        astray. What the cursor covers is decided already: it holds the maps that were taken.
        """
        try:
            changed = decode_map(delivery.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable("COMMAND_MALFORMED", f"the shard map does not decode: {error}") from error
        newer = changed.generation > self._maps.latest.generation
        if newer and (delivery.stream_seq <= self._committed[0] or changed != await self._defined_map()):
            raise Unreadable("COMMAND_MALFORMED", "the namespace has no such shard map")
        self._maps.change(delivery.stream_seq, changed)
        self._runs.forget_absent()
        await self._record(delivery, Run(MAP_TOKEN), Outcome(None), None)

    async def _outcome(self, delivery: Delivery, run: Run) -> tuple[Outcome, Command | None]:
        try:
            command = read_command(delivery)
        except Unreadable as unreadable:
            self._bury(delivery, unreadable.code, unreadable.message)
            return _refused(run.state, unreadable.code, unreadable.message), None
        outcome = await self._outcome_of(delivery, run, command)
        if outcome.code is not None and not outcome.effects:
            outcome.effects = not_started(command, outcome.code, outcome.message)
        return outcome, command

    async def _outcome_of(self, delivery: Delivery, run: Run, command: Command) -> Outcome:
        stamp = _stamp(delivery)
        # A child is part of what was admitted with the run above it.
        if isinstance(command, StartRun) and command.parent is None and not isinstance(run.state, RunState):
            refusal = await self._refusal(delivery.stream_seq)
            if refusal:
                return _refused(run.state, "OPEN_RUNS", refusal)
        try:
            definition = await self._definition(run.state, command)
            after = None
            if isinstance(command, MigrateRun):
                after = await self._definitions.get(command.migration.workflow, command.migration.after)
        except BadSpec as error:
            return _refused(run.state, "SPEC_INVALID", error.message)
        version = await self._resolved(run.state, command)
        keeping = await self._keeping(run, command)
        try:
            if is_schedule(run.token):
                of_workflow = definition if isinstance(definition, Definition) else None
                return fold_schedule(
                    run.state, command, run.token, stamp, of_workflow, version, keeping.keep_ms
                )
            if is_timetable(run.token):
                return fold_timetable(run.state, command, run.token, stamp)
            if is_limiter(run.token):
                return fold_limiter(run.state, command, run.token, stamp)
            if is_key(run.token):
                of_event = definition if isinstance(definition, EventDefinition) else None
                return fold_key(run.state, command, run.token, stamp, of_event)
            return fold(
                run.state,
                command,
                place_of(run.token),
                stamp,
                definition,
                after,
                keeping,
                of_deleted=DELETED_HEADER in (delivery.headers or {}),
            )
        except Exception:
            return self._fault(delivery, run, traceback.format_exc())

    async def _refusal(self, seq: int) -> str:
        """Why a start is refused before it is folded; empty if it is not."""
        while self._starts.full:
            self.ready.set()  # What is refused so far has to be committed, covered and removed first.
            await asyncio.sleep(REFUSED_PAUSE_S)
        if self._starts.outdated(seq):
            await self._until_taken()  # What is decided by the new limit comes behind a cursor that names it.
            self._starts.follow()
        return self._starts.refusal(seq)

    def _fault(self, delivery: Delivery, run: Run, trace: str) -> Outcome:
        """A bug of ours: it stops this run, loudly, and no other."""
        _log.error("folding command %d of run %s failed\n%s", delivery.stream_seq, run.token, trace)
        self._metrics.faults.inc()
        self._bury(delivery, "ENGINE_FAULT", trace)
        if not isinstance(run.state, RunState) or run.state.finished:
            last = trace.strip().splitlines()[-1]
            return _refused(run.state, "ENGINE_FAULT", f"the engine failed on this command: {last}")
        return fault(run.state, _stamp(delivery), trace[-_TRACE_MAX:])

    def _made(self, outcome: Outcome, token: str) -> _Made:
        """The messages of an outcome. Raises `InvariantBroken` for one that no server would store."""
        state = outcome.state
        effects = [self._maker.effect(effect, state, token) for effect in outcome.effects]
        events: list[Message] = []
        if isinstance(state, RunState | Gone | Schedule):
            events = self._maker.events(outcome.events, outcome.first_event, state, token, outcome.actor)
        made = _Made(effects, events)
        for message in (*made.effects, *made.events):
            if isinstance(message, Message) and len(message.data) > self._payload_max:
                raise InvariantBroken(
                    f"a message of {len(message.data)} bytes to {message.subject}: at most {self._payload_max} go"
                )
        return made

    async def _definition(self, state: State | None, command: Command) -> Definition | EventDefinition | None:
        """The immutable version that the state names; a start names its own, unless the run exists already, and what is
        posted where no run can tell names that of the event."""
        if isinstance(command, Asked):
            return None
        if isinstance(state, RunState):
            again = isinstance(command, StartRun) and state.began
            return await self._definitions.get(state.workflow, again or state.version)
        if isinstance(command, PostEvent):
            return await self._definitions.event(command.event, command.version)
        if isinstance(command, StartRun):
            return await self._definitions.get(command.workflow, command.version)
        if isinstance(command, SetSchedule):
            return await self._definitions.get(command.spec.workflow, command.version)
        return None

    async def _resolved(self, state: State | None, command: Command) -> int:
        """The version that a schedule starts runs of at this moment, 0 if there is none. Its state does not depend on
        it, so a command that is folded again may find another one. Who fires by hand may just have registered one."""
        if not isinstance(state, Schedule):
            return 0
        try:
            by_hand = isinstance(command, FireSchedule)
            return await self._definitions.resolve(
                state.spec.workflow, state.spec.version or LATEST, anew=by_hand
            )
        except msgspec.MsgspecError:
            return 0  # Whatever stands there: no such version can be started, as the schedule is told.

    async def _keeping(self, run: Run, command: Command) -> Keeping:
        """For how long a run, or those of a schedule, are kept as it stands; no state depends on that. Whether it is
        elsewhere says the map of this command."""
        state = run.state
        if isinstance(state, Schedule):
            kept = await self._definitions.retention(state.spec.workflow)
            return Keeping(kept.keep_ms)
        if not isinstance(state, RunState) or not isinstance(command, Asked | RescueRun):
            return Keeping()
        place, now = place_of(run.token), self._maps.now
        elsewhere = run.ended_at is not None or not now.home(place) == now.first(place) == self._shard
        if not isinstance(command, ReviewRun):
            return Keeping(elsewhere=elsewhere)
        kept = await self._definitions.retention(state.workflow)
        return Keeping(kept.keep_ms, kept.events, elsewhere)

    def _bury(self, delivery: Delivery, code: RefusalCode, reason: str) -> None:
        headers = {
            "Dressage-Code": code,
            "Dressage-Reason": short(" ".join(reason[-TOLD_BYTES_MAX:].split())),
            "Dressage-Subject": short(delivery.subject),
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
    async def _record(
        self,
        delivery: Delivery,
        run: Run,
        outcome: Outcome,
        made: _Made | None,
        *,
        command: Command | None = None,
        answered: bool = True,
    ) -> None:
        seq = delivery.stream_seq
        if _is_forgotten(outcome.state) and run.token in self._open.changed:
            await self._until_taken()  # The deletion has to be stored before nothing is.
        if made is not None:
            await self._record_effects(seq, outcome, made.effects)
            self._record_events(seq, outcome, made.events)
        turn, before = self._open, run.state
        turn.commands += 1
        self.commands += 1
        turn.place = max(turn.place, (seq, len(outcome.effects)))
        if outcome.state is not None and outcome.state is not run.state:
            run.state = outcome.state
            turn.changed[run.token] = run
            if isinstance(outcome.state, Gone) and isinstance(command, DeleteRun):
                # It is covered when all of that is done, and its state stored.
                turn.cleanups.append(Cleanup(run, seq, outcome.state.workflow, command.events))
            else:
                run.uncovered.append(seq)
        else:
            turn.stateless.append(seq)
        if answered:
            self._record_answer(delivery, outcome)
        if isinstance(before, RunState) and seq > self._committed[0]:
            self._record_stopped(before, outcome, command)
        if self._traces and command is not None and seq > self._committed[0]:
            self._record_trace(delivery, run.state, outcome, command)
        self.ready.set()

    async def _record_effects(self, seq: int, outcome: Outcome, effects: list[Message | TimerCancel]) -> None:
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
            self._open.has_send = self._open.has_send or isinstance(
                outcome.effects[number], SendCommand | Publish | HandOn
            )

    def _record_events(self, seq: int, outcome: Outcome, events: list[Message]) -> None:
        published_seq, published_events = self._published
        if seq < published_seq:
            return
        skip = published_events if seq == published_seq else 0
        workflow = outcome.state.workflow if isinstance(outcome.state, RunState | Gone) else ""
        for number in range(skip, len(events)):
            self._metrics.happened(outcome.events[number], workflow)
            self.tasks += isinstance(outcome.events[number], TaskCompleted | TaskFailed)
            opens = OPENS.get(type(outcome.events[number]), 0)
            self._starts.count(opens)
            self._open.events.append(PlacedEvent(seq, number + 1, events[number], opens))

    def _record_answer(self, delivery: Delivery, outcome: Outcome) -> None:
        kind = "accepted" if outcome.code is None else outcome.code
        self._metrics.commands.labels(kind).inc()
        reply = delivery.headers.get(REPLY_HEADER) if delivery.headers else None
        if not reply:
            return
        if not is_reply_subject(reply):
            self._metrics.unanswered.inc()
            return
        answer = Answer(
            accepted=outcome.code is None,
            seq=delivery.stream_seq,
            code=outcome.code or "",
            message=outcome.message,
            existing=outcome.existing,
            shard=self._shard,
            generation=self._maps.latest.generation,
            early=outcome.early,
        )
        self._open.answers.append((reply, answer))

    def _record_stopped(self, before: RunState, outcome: Outcome, command: Command | None) -> None:
        """Workers hear at once of attempts that nobody waits for; who does not hear finds out by asking."""
        ended = command.task_id if isinstance(command, TaskResult) else ""
        if ended and len(before.threads) == 1:
            return
        for wait in stopped(before, outcome, ended):
            told = AttemptStopped(before.run_id, wait.task_id)
            self._open.answers.append((self._names.stop(wait.queue), told))

    def _record_trace(
        self, delivery: Delivery, state: State | None, outcome: Outcome, command: Command
    ) -> None:
        """What comes when a run has ended is not told of: its trace may be over for weeks."""
        if not isinstance(state, RunState) or not is_traced(state):
            return
        ended = any(OPENS.get(type(each), 0) < 0 for each in outcome.events)
        if ended or not state.finished:
            what = str(type(command).__struct_config__.tag)
            told = Traced(state, what, delivery.stream_seq, delivery.time_ns, outcome.code or "", ended)
            self._open.traced.append(told)


@dataclass(slots=True, frozen=True)
class _Made:
    """What an outcome becomes on the wire: effects and output events, in their order."""

    effects: list[Message | TimerCancel]
    events: list[Message]


def _is_forgotten(state: State | None) -> bool:
    return isinstance(state, Gone) and state.forgotten


def _stamp(delivery: Delivery) -> Stamp:
    """Rounded up: a timer that is set from it must not be early."""
    return Stamp(delivery.stream_seq, -(-delivery.time_ns // 1_000_000))


def _refused(state: State | None, code: RefusalCode, message: str) -> Outcome:
    return Outcome(state, code=code, message=short(message))
