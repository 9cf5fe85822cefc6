"""Answers to questions about runs: only what is committed, from memory or from the states' bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from dressage.brokers.interface import Connection
from dressage.expressions.masked import HIDDEN
from dressage.expressions.values import decode_stored
from dressage.orchestrator.fold.advance import wire
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.limiter import attempts_of, free_ms
from dressage.orchestrator.fold.migrating import CannotMove, moved
from dressage.orchestrator.fold.rescuing import where_rescued
from dressage.orchestrator.fold.state import (
    ConditionWait,
    Limiter,
    Mailbox,
    RunState,
    Schedule,
    State,
    TaskWait,
    UserWait,
)
from dressage.orchestrator.fold.times import rfc3339
from dressage.orchestrator.turn.definitions import Definitions
from dressage.orchestrator.turn.routing import HandedOn, Maps
from dressage.orchestrator.turn.runs import Runs, read_state
from dressage.orchestrator.turn.waits import WAITS_SHOWN, waiting_for, waits_of
from dressage.protocol.commands import (
    Ask,
    AskAnswer,
    AttemptView,
    DeadTaskView,
    ForkView,
    HoldView,
    Json,
    KeyView,
    RunView,
    StopView,
)
from dressage.protocol.errors import BadInput, BadSpec
from dressage.protocol.migrations import Migration, MigrationCheck
from dressage.protocol.names import (
    Names,
    is_reply_subject,
    key_token,
    limiter_token,
    place_of,
    run_id_of,
    run_token,
    schedule_token,
)
from dressage.protocol.nesting import COMMAND_DEPTH_MAX, nests_deeper
from dressage.protocol.permits import LimiterView, TakenView
from dressage.protocol.schedules import FireView, ScheduleView
from dressage.protocol.user_tasks import UserTaskView

HOLD_S_MAX: Final = 30.0
TICK_S: Final = 0.25

_decoder = msgspec.json.Decoder(Ask)
_encode = msgspec.json.Encoder().encode


def read_ask(data: bytes) -> tuple[Ask, str]:
    """The question and the token of its run, or key. Raises `BadInput` for anything that is none."""
    if nests_deeper(data, COMMAND_DEPTH_MAX):
        raise BadInput(f"the question nests deeper than {COMMAND_DEPTH_MAX} levels (limit command-depth)")
    try:
        ask = _decoder.decode(data)
        return ask, _token_of(ask)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the question does not decode: {error}") from error


def _token_of(ask: Ask) -> str:
    if ask.op == "schedule":
        return schedule_token(ask.run_id)
    if ask.op == "limiter":
        return limiter_token(ask.run_id, ask.key)
    return key_token(ask.event, ask.run_id) if ask.op == "key" else run_token(ask.run_id)


@dataclass(slots=True)
class _Waiter:
    ask: Ask
    reply: str
    deadline: float


class Asking:
    """Serves `dressage.<ns>.ask.<shard>` for one tenure."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        runs: Runs,
        definitions: Definitions,
        committed_seq: Callable[[], int],
        still_owned: Callable[[], Awaitable[bool]],
        maps: Maps,
        handed_on: HandedOn,
    ) -> None:
        """`committed_seq` is up to which command memory may be shown; negative until it has all that was committed
        before the take-over. `still_owned` is asked before a run is said not to exist: one that was replaced and does
        not know it yet would not have heard of it."""
        self._connection = connection
        self._names = names
        self._shard = shard
        self._runs = runs
        self._definitions = definitions
        self._committed_seq = committed_seq
        self._still_owned = still_owned
        self._maps = maps
        self._handed_on = handed_on
        self._ends: dict[str, list[_Waiter]] = {}
        self._early: list[_Waiter] = []

    async def on_ask(self, _: str, data: bytes, reply: str) -> None:
        """Answers from memory at once; a question that has to read the bucket does not hold up the others."""
        try:
            ask, token = read_ask(data)
        except BadInput as error:
            await self._reply(reply, AskAnswer(code="REQUEST_MALFORMED", message=error.message))
            return
        hold = max(0.0, min(ask.hold_s, HOLD_S_MAX))
        waiter = _Waiter(ask, reply, asyncio.get_running_loop().time() + hold)
        if ask.not_before > self._committed_seq():
            self._early.append(waiter)
            return
        await self._answer(token, waiter, final=hold == 0)

    async def committed(self, states: list[tuple[str, State]]) -> None:
        """A turn is committed: the ends it brought are told, and questions that came early are asked again."""
        for token, state in states:
            if isinstance(state, RunState) and state.finished and token in self._ends:
                for waiter in self._ends.pop(token):
                    await self._reply(
                        waiter.reply, AskAnswer(run=await self._view(state, waiter.ask, self._shard))
                    )
        if self._early:
            early, self._early = self._early, []
            for waiter in early:
                if waiter.ask.not_before > self._committed_seq():
                    self._early.append(waiter)
                else:
                    await self._answer(_token_of(waiter.ask), waiter, final=False)

    async def run(self) -> None:
        """Answers what has been held long enough; the asker asks again, so a lost owner is never a hang."""
        while True:
            await asyncio.sleep(TICK_S)
            now = asyncio.get_running_loop().time()
            for token in [
                token for token, waiters in self._ends.items() if any(w.deadline <= now for w in waiters)
            ]:
                waiters = self._ends.pop(token)
                self._ends[token] = [waiter for waiter in waiters if waiter.deadline > now]
                for waiter in waiters:
                    if waiter.deadline <= now:
                        await self._answer(token, waiter, final=True)
                if not self._ends[token]:
                    del self._ends[token]
            overdue = [waiter for waiter in self._early if waiter.deadline <= now]
            if overdue:
                self._early = [waiter for waiter in self._early if waiter.deadline > now]
                for waiter in overdue:
                    message = f"command {waiter.ask.not_before} is not folded yet: ask again"
                    await self._reply(waiter.reply, AskAnswer(code="RETRY", message=message))

    async def release(self) -> None:
        """Answers everything that is held with how it stands, so that its askers turn to the next owner at once."""
        ends, self._ends = self._ends, {}
        for token, waiters in ends.items():
            for waiter in waiters:
                await self._answer(token, waiter, final=True)
        early, self._early = self._early, []
        for waiter in early:
            await self._reply(
                waiter.reply, AskAnswer(code="RETRY", message="the shard changes its owner: ask again")
            )

    async def _answer(self, token: str, waiter: _Waiter, *, final: bool) -> None:
        state, place = await self._state(token)
        if isinstance(state, Mailbox) and waiter.ask.op == "key":
            await self._reply(waiter.reply, AskAnswer(key=_key_view(state, place)))
            return
        if isinstance(state, Schedule) and waiter.ask.op == "schedule" and not state.deleted:
            await self._reply(waiter.reply, AskAnswer(schedule=schedule_view(state, place)))
            return
        if isinstance(state, Limiter) and waiter.ask.op == "limiter":
            await self._reply(waiter.reply, AskAnswer(limiter=limiter_view(state, place)))
            return
        if isinstance(state, Schedule) and state.deleted:
            await self._reply(waiter.reply, self._not_found(waiter.ask))
            return
        if not isinstance(state, RunState):
            state = None  # What was posted to a run that does not exist makes it none.
        if state is None and not await self._still_owned():
            message = "the shard has another owner: ask again"
            await self._reply(waiter.reply, AskAnswer(code="RETRY", message=message))
        elif state is None:
            await self._reply(waiter.reply, self._absent(token, waiter.ask, place))
        elif waiter.ask.op == "attempt":
            await self._reply(waiter.reply, AskAnswer(attempt=_attempt_view(state, waiter.ask.task_id)))
        elif waiter.ask.op == "waits":
            await self._reply(waiter.reply, await self._waits(state, waiter.ask, place))
        elif waiter.ask.op == "migration":
            await self._reply(waiter.reply, await self._migration(state, waiter.ask.migration))
        elif waiter.ask.op == "user-tasks":
            await self._reply(waiter.reply, await self._user_tasks(state, waiter.ask))
        elif waiter.ask.op == "wait" and not state.finished and not final:
            self._ends.setdefault(token, []).append(waiter)
        else:
            await self._reply(waiter.reply, AskAnswer(run=await self._view(state, waiter.ask, place)))

    def _absent(self, token: str, ask: Ask, place: int) -> AskAnswer:
        """The run is not here. `place` is where a state of it was seen; this shard if nowhere."""
        generation = self._maps.latest.generation
        on_its_way = self._handed_on.place(token)
        if on_its_way is not None and not on_its_way[1]:
            return AskAnswer(code="RETRY", message="the command is on its way to another shard: ask again")
        shard, not_before = on_its_way or (place, 0)
        if shard == self._shard:
            shard = self._next_place(place_of(token))
        if shard != self._shard:
            message = f"{ask.run_id!r} is not on shard {self._shard}: ask shard {shard}"
            return AskAnswer(None, "ELSEWHERE", message, shard, not_before, generation)
        return self._not_found(ask)

    def _not_found(self, ask: Ask) -> AskAnswer:
        what = f"run {ask.run_id!r}"
        if ask.op == "schedule":
            what = f"schedule {ask.run_id!r}"
        if ask.op == "limiter":
            what = f"call of task {ask.run_id!r}{f' with key {ask.key!r}' if ask.key else ''} that asked for its limit"
        if ask.op == "key":
            what = f"event {ask.event!r} of correlation key {ask.run_id!r}, and no wait for one,"
        message = f"there is no {what} in namespace {self._names.namespace!r}"
        return AskAnswer(code="NOT_FOUND", message=message, generation=self._maps.latest.generation)

    def _next_place(self, name: str) -> int:
        """Where to ask after this shard, which is itself the last one to be asked."""
        latest = self._maps.latest
        home, first = latest.home(name), latest.first(name)
        if self._shard == first:
            return home
        return first if self._shard in latest.older_places(name) else self._shard

    async def _state(self, token: str) -> tuple[State | None, int]:
        """The run's state and the shard that it is of."""
        run = self._runs.peek(token)
        if run is None:
            found = await self._stored(self._shard, token)
            # While that was read the run may have come into memory, and memory is never older.
            run = self._runs.peek(token)
            if run is None and found is not None:
                return found, self._shard
        if run is not None and run.ended_at is not None:
            return await self._stored(run.ended_at, token), run.ended_at  # Memory has no place in its stream.
        if run is not None and run.committed is not None:
            return run.committed, self._shard
        for place in self._maps.latest.other_places(place_of(token), self._shard):
            found = await self._stored(place, token)
            if isinstance(found, RunState):
                return (found if found.finished else None), place
        return None, self._shard

    async def _stored(self, shard: int, token: str) -> State | None:
        found = await self._connection.last_message(
            self._names.runs_stream(), self._names.run_key(shard, token)
        )
        return read_state(found) if found is not None and found.data else None

    async def _reply(self, reply: str, answer: AskAnswer) -> None:
        if not is_reply_subject(reply):
            return
        try:
            await self._connection.tell(reply, _encode(answer))
        except BadInput as error:
            small = AskAnswer(code="PAYLOAD_TOO_LARGE", message=f"the answer does not fit: {error.message}")
            await self._connection.tell(reply, _encode(small))

    async def _view(self, state: RunState, ask: Ask, shard: int) -> RunView:
        held, failed, forked = state.held, where_rescued(state), state.forked
        view = RunView(
            run_id=state.run_id,
            workflow=state.workflow,
            version=state.version,
            status=state.status,
            seq=state.seq,
            events=state.events,
            started_at=rfc3339(state.started_ms),
            updated_at=rfc3339(state.time_ms),
            output=state.output if ask.revealed else await self._shown_output(state),
            failure=state.failure,
            reason=state.reason,
            cancelling=state.cancelling,
            waiting_for=waiting_for(state, await self._definition_of_waits(state)),
            ended_at=rfc3339(state.ended_ms) if state.ended_ms else "",
            actor=state.actor,
            shard=shard,
            parent="" if state.parent is None else state.parent.run_id,
            stops=tuple(
                StopView(each.by, rfc3339(each.since_ms), each.thread, each.reason, each.actor)
                for each in state.stops
            ),
            dead_tasks=tuple(dead_tasks(state)),
            held=None if held is None else HoldView(rfc3339(held.since_ms), held.reason, held.actor),
            kept_until=_kept_until(state),
            born=state.born,
            awaited=state.parent is not None and state.parent.told and not state.parent.detached,
            forked=None if forked is None else ForkView(forked.run_id, forked.node, state.command_id),
            failed_node=None if failed is None else failed.node,
            failed_child="" if failed is None or failed.child is None else failed.child.run_id,
        )
        return view if ask.op in ("wait", "waits") else await self._with_variables(view, state)

    async def _waits(self, state: RunState, ask: Ask, shard: int) -> AskAnswer:
        definition = await self._definitions.get(state.workflow, state.version)
        waits, more = waits_of(state, definition)
        return AskAnswer(run=await self._view(state, ask, shard), waits=waits, more=more)

    async def _user_tasks(self, state: RunState, ask: Ask) -> AskAnswer:
        """Those that are open, or the one that is asked for, and the forms of all."""
        waits = [thread.wait for thread in state.threads if isinstance(thread.wait, UserWait)]
        waits = [each for each in waits if ask.task_id in ("", each.wait_id)]
        if not waits or state.finished:
            return AskAnswer(user_tasks=())
        definition = await self._definitions.get(state.workflow, state.version)
        views = [user_task_view(state, wait, definition) for wait in waits]
        forms = {each.user_task: each.form for each in views}
        return AskAnswer(
            user_tasks=tuple(msgspec.structs.replace(each, form={}) for each in views), forms=forms
        )

    async def _migration(self, state: RunState, migration: Migration | None) -> AskAnswer:
        """Whether the run could move, as it stands."""
        if migration is None:
            return AskAnswer(code="REQUEST_MALFORMED", message="which migration is meant is not said")
        if (state.workflow, state.version) == (migration.workflow, migration.after):
            return AskAnswer(migration=MigrationCheck(moved=True))
        try:
            before = await self._definitions.get(state.workflow, state.version)
            after = await self._definitions.get(migration.workflow, migration.after)
            moved(state, migration, before, after)
        except CannotMove as cannot:
            return AskAnswer(migration=MigrationCheck(cannot.reasons))
        except BadSpec as error:
            return AskAnswer(migration=MigrationCheck((error.message,)))
        return AskAnswer(migration=MigrationCheck())

    async def _definition_of_waits(self, state: RunState) -> Definition | None:
        """What tells how the author has written what is waited for, if it takes that."""
        if not any(isinstance(thread.wait, ConditionWait) for thread in state.threads):
            return None
        return await self._definitions.get(state.workflow, state.version)

    async def _shown_output(self, state: RunState) -> Json:
        """The output with its masked parts hidden; all of it, should its type be gone."""
        if not isinstance(state.output, msgspec.Raw):
            return state.output
        definition = await self._definitions.get(state.workflow, state.version)
        if definition is None:
            return msgspec.Raw(_encode(HIDDEN))
        codec, output = definition.output, bytes(state.output)
        return msgspec.Raw(codec.shown(output, codec.decode(output))) if codec.mask else state.output

    async def _with_variables(self, view: RunView, state: RunState) -> RunView:
        definition = await self._definitions.get(state.workflow, state.version)
        variables: dict[str, Any] = {}
        search: dict[str, Any] = {}
        given: Any = HIDDEN
        # What it was started with is as the version says that it began with.
        began = await self._definitions.get(state.workflow, state.began) if state.began else definition
        if began is not None:
            given = msgspec.Raw(began.params.shown(bytes(state.input)))
        if definition is not None:
            shown = [name for name in state.variables if name not in definition.temporaries]
            for name in shown:
                raw = state.variables[name]
                variables[name] = msgspec.Raw(wire(decode_stored(raw, definition.types)))
            searchable = definition.searchable
            for name in definition.views & state.variables.keys():
                fields: Any = msgspec.json.decode(variables[name])
                for path in (path for paths in searchable.values() for path in paths):
                    search |= _at_path(fields, path)
        return msgspec.structs.replace(view, input=given, variables=variables, search=search)


def _kept_until(state: RunState) -> str:
    """When a run that has ended is to be deleted, as it was known when it was started; empty if it is not."""
    return rfc3339(state.ended_ms + state.keep_ms) if state.keep_id and state.keep_ms is not None else ""


def _key_view(state: Mailbox, shard: int) -> KeyView:
    alive = [each.event_id for each in state.unclaimed]
    waiting = [each.run_id for each in state.waits]
    return KeyView(state.event, state.key, state.seq, tuple(waiting), tuple(alive), state.number, shard)


def _attempt_view(state: RunState, task_id: str) -> AttemptView:
    for thread in state.threads:
        if isinstance(thread.wait, TaskWait) and thread.wait.task_id == task_id:
            return AttemptView(True, thread.wait.progress, thread.wait.worker)
    return AttemptView(False)


def limiter_view(state: Limiter, shard: int) -> LimiterView:
    due_ms = free_ms(state) if state.runs else 0
    return LimiterView(
        task=state.task,
        limit=state.limit,
        seq=state.seq,
        key=state.key,
        taken=tuple(
            TakenView(run_id, task_id, rfc3339(since)) for run_id, task_id, since in attempts_of(state)
        ),
        waiting=len(state.runs),
        next=tuple(map(run_id_of, state.runs[:WAITS_SHOWN])),
        free_at=rfc3339(due_ms) if due_ms else "",
        shard=shard,
    )


def schedule_view(state: Schedule, shard: int) -> ScheduleView:
    return ScheduleView(
        name=state.name,
        spec=state.spec,
        seq=state.seq,
        made_at=rfc3339(state.made_ms),
        changed_at=rfc3339(state.changed_ms),
        next=rfc3339(state.next_ms) if state.next_ms else "",
        paused=state.paused,
        reason=state.reason,
        open=tuple(each.run_id for each in state.open),
        queued=tuple(rfc3339(each.moment_ms) for each in state.queued),
        fired=state.fired,
        skipped=state.skipped,
        missed=state.missed,
        fires=tuple(
            FireView(rfc3339(each.moment_ms), rfc3339(each.fired_ms), each.outcome, each.run_id, each.by_hand)
            for each in state.fires
        ),
        actor=state.actor,
        shard=shard,
    )


def user_task_view(state: RunState, wait: UserWait, definition: Definition | None) -> UserTaskView:
    """An open user task as people see it, with the masked parts of what was saved hidden."""
    form = None if definition is None else definition.user_tasks.get(wait.user_task)
    values: dict[str, Any] = {}
    if form is not None and wait.values:
        values = msgspec.json.decode(form.readable(bytes(wait.values)))
    return UserTaskView(
        run_id=state.run_id,
        id=wait.wait_id,
        user_task=wait.user_task,
        workflow=state.workflow,
        version=state.version,
        state="assigned" if wait.user else "unassigned",
        opened_at=rfc3339(wait.since_ms),
        user=wait.user,
        group=wait.group,
        notes=wait.notes,
        due_at="" if wait.due_ms is None else rfc3339(wait.due_ms),
        overdue=wait.overdue,
        epoch=wait.epoch,
        reminders=wait.reminders,
        comments=wait.comments,
        values=values,
        form={} if form is None else form.schema,
    )


def _at_path(fields: Any, path: str) -> dict[str, Any]:
    """What a path of the view leads to, by the path; nothing where a record on the way is None."""
    for name in path.split("."):
        if not isinstance(fields, dict) or name not in fields:
            return {}
        fields = cast("dict[str, Any]", fields)[name]
    return {path: fields}


def dead_tasks(state: RunState) -> Iterator[DeadTaskView]:
    """The calls that wait for somebody who retries them, or lets them fail."""
    for thread in state.threads:
        wait = thread.wait
        if isinstance(wait, TaskWait) and wait.dead is not None:
            since = rfc3339(wait.dead_ms)
            yield DeadTaskView(wait.task, wait.task_id, wait.attempt, since, wait.dead, thread.id)
