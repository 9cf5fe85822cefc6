"""One run of a workflow in a unit test: the engine's fold, and virtual time around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar, cast, overload

import msgspec

from dressage.client.client import RunCancelled, RunFailed
from dressage.client.large import LargeValues, Shape
from dressage.expressions.values import decode_stored
from dressage.flow import Event, Task, UserTask, Workflow, WorkflowFailure
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.orchestrator.fold.effects import (
    CancelTimer,
    DispatchTask,
    Effect,
    Publish,
    SendCommand,
    SetTimer,
)
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.limiter import fold_limiter
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import Limiter, Mailbox, Marks, RunState, UserWait
from dressage.orchestrator.fold.times import rfc3339
from dressage.orchestrator.turn.asking import dead_tasks, user_task_view
from dressage.orchestrator.turn.waits import waiting_for
from dressage.protocol.alignment import propose
from dressage.protocol.commands import (
    AttemptProgress,
    Command,
    DeadTaskView,
    EditVariables,
    FailureInfo,
    ForkRun,
    Json,
    MigrateRun,
    PostEvent,
    RescueRun,
    ResumeRun,
    RunStatus,
    SettleTask,
    StartRun,
    StopRun,
    TaskMessage,
    TaskResult,
    UserTaskAction,
    WorkerInfo,
    cancel_of,
    decode_command,
    encoder,
)
from dressage.protocol.errors import BadInput, BadValue, DressageError, InvariantBroken, Refused
from dressage.protocol.events import KIND, BranchStarted, SleepMoved, SleepStarted, UserTaskOpened
from dressage.protocol.large import mentions_large
from dressage.protocol.names import is_key, is_limiter, key_token, marks_of, run_id_of, run_token
from dressage.protocol.positions import node_at
from dressage.protocol.spec import RegisteredEvent, RegisteredWorkflow
from dressage.protocol.types import TypeDef
from dressage.protocol.user_tasks import Action, CancelTask, Complete, UserTaskView
from dressage.testing.agenda import Agenda
from dressage.testing.authored import authored
from dressage.testing.awaiting import await_here
from dressage.testing.fakes import Branch, TaskCall
from dressage.testing.objects import KeptObjects

R = TypeVar("R")
T = TypeVar("T")

WORKER: Final = WorkerInfo("test", 0.0)
"""Who executes all attempts."""

_LATE: Final = frozenset({"RESULT_STALE", "RUN_FINISHED", "RUN_UNKNOWN", "USER_TASK_UNKNOWN"})
"""How the engine refuses what came after its time, of which nobody needs to hear."""


@dataclass(frozen=True)
class RunEvent:
    """An output event: its `kind`, such as "task-failed", its `data` as JSON, and its virtual time."""

    index: int
    kind: str
    data: dict[str, Any]
    at: datetime
    actor: str = ""


@dataclass(frozen=True)
class Sleep:
    """A `sleep` of the workflow: how long, from when, and in which branch."""

    duration: timedelta
    at: datetime
    branch: Branch = ()


@dataclass(frozen=True)
class Published:
    """A domain event that the workflow published: its data as others read it, its virtual time, and its branch."""

    subject: str
    data: Any
    at: datetime
    branch: Branch = ()


@dataclass(frozen=True)
class Attempted:
    """How an attempt of a task ended, and what was raised if so; without `result` nobody will ever answer."""

    result: TaskResult | None
    takes: timedelta = timedelta(0)
    error: BaseException | None = None


Execute = Callable[[TaskMessage, datetime, Branch, "Run[Any]"], Attempted]
"""Executes one attempt, at a virtual time, in a branch of a run."""


@dataclass
class Settings:
    """What a run is started with beside its input."""

    run_id: str
    began: datetime
    commands_max: int
    execute: Execute
    definitions: Mapping[str, Definition]
    """Of the workflow, and of those that it starts runs of, by their names."""

    coming: tuple[tuple[timedelta, str, PostEvent], ...] = ()
    """External events, how long after its start they come, and at which key's token; empty: to the run itself."""

    people: Mapping[str, Sequence[tuple[timedelta, Action]]] = field(
        default_factory=dict[str, Sequence[tuple[timedelta, Action]]]
    )
    """What is done with each user task of a name, one after the other, how long after it was given; the last one with
    all that follow."""


class Migrated(Protocol[T]):
    """The test of a workflow, as far as a run knows it that becomes one of it."""

    workflow: Workflow[..., T]

    def settings(self, run_id: str, version: int) -> Settings: ...


@dataclass
class _Begun:
    """An attempt that a worker has; it may answer after its run has ended."""

    dispatched: DispatchTask
    run: Run[Any]


@dataclass
class _Sent:
    """A command for a run, or for a correlation key."""

    token: str
    command: Command


class _World:
    """What a run shares with its child runs: time, what is to happen, and what is kept for correlation keys."""

    def __init__(self, began_ms: int) -> None:
        self.agenda: Agenda[_Begun | _Sent] = Agenda(began_ms)
        self.runs: dict[str, Run[Any]] = {}
        """By their tokens."""

        self.mailboxes: dict[str, Mailbox | Marks] = {}
        """By the tokens of their correlation keys."""

        self.limiters: dict[str, Limiter] = {}
        """By their tokens."""

        self.large = LargeValues(KeptObjects())
        self.seq = 0
        self.given: Counter[str] = Counter()
        """How many user tasks of a name there were."""

    def stamp(self) -> Stamp:
        """Of the next command."""
        self.seq += 1
        return Stamp(self.seq, self.agenda.now_ms)


class Run(Generic[R]):
    """A run of a workflow, as far as it has come. Made by `WorkflowTest.run` and `WorkflowTest.start`."""

    def __init__(
        self, workflow: Workflow[..., R], settings: Settings, world: _World | None = None, run_id: str = ""
    ) -> None:
        """A child run has the `world` of the one that it belongs to, and a `run_id` of its own."""
        self.run_id: Final = run_id or settings.run_id
        self.events: list[RunEvent] = []
        """The output events so far, in their order."""
        self.calls: list[TaskCall] = []
        """The attempts of tasks so far, in their order."""
        self.sleeps: list[Sleep] = []
        """The sleeps that were begun so far, in their order."""
        self.published: list[Published] = []
        """What was published so far, in its order."""
        self.children: list[Run[Any]] = []
        """The child runs that it has started so far, in their order."""
        self._workflow = workflow
        self._definition = settings.definitions[workflow.name]
        self._settings = settings
        self._world = world or _World(_milliseconds(settings.began))
        self._world.runs[run_token(self.run_id)] = self
        self._agenda = self._world.agenda
        self._state: RunState | None = None
        self._branches: dict[int, Branch] = {0: ()}
        """By their run threads."""

        self._gathers: Counter[Branch] = Counter()
        """How many gathers each branch has begun."""

        self._timed: set[str] = set()
        """The timers of the sleeps that the last command began; a timeout has one, too."""

        self._error: BaseException | None = None

    # -- how it stands -----------------------------------------------------------------------------
    @property
    def status(self) -> RunStatus:
        return self._known.status

    @property
    def result(self) -> R:
        """The output, of the workflow's return type.

        Raises `RunFailed` or `RunCancelled`, as `dressage.client` does, and `BadInput` (RUN_WAITS) before the end.
        """
        state = self._known
        if state.status == "completed":
            spec, raw = self._workflow.spec, bytes(state.output or b"null")
            return self._workflow.decode_output(self._fetched(spec.output, spec.types, raw))
        if state.status == "running":
            raise BadInput(
                f"run {self.run_id!r} has not ended: it waits for {self.waiting_for}", code="RUN_WAITS"
            )
        if state.status == "cancelled":
            raise RunCancelled(self.run_id, state.reason)
        raise self._failed(state.failure or FailureInfo(state.status)) from self._error

    @property
    def failure(self) -> FailureInfo | None:
        """What the run failed with; None if it did not."""
        return self._known.failure

    def failed_with(self, failure: type[WorkflowFailure]) -> bool:
        """Whether the run failed with this business failure, or one that inherits from it."""
        found = self.failure
        if found is None or found.kind != "failure":
            return False
        return failure is WorkflowFailure or failure.name in (found.name, *found.family)

    @property
    def reason(self) -> str:
        """What a cancelled run was cancelled for."""
        return self._known.reason

    @property
    def waiting_for(self) -> str:
        """What the run waits for, in words; empty when it has ended."""
        return waiting_for(self._known, self._definition)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables as they are now, parameters included, as values of the author's own classes."""
        definition = self._definition
        shown = {
            name: decode_stored(raw, definition.types)
            for name, raw in self._known.variables.items()
            if name not in definition.temporaries
        }
        return {name: authored(value, self._workflow.classes) for name, value in shown.items()}

    @property
    def view(self) -> Any:
        """The record that search and other services see of the run. Raises `BadInput` where there is none (yet)."""
        for name in self._definition.views & self._known.variables.keys():
            return self.variables[name]
        raise BadInput(f"workflow {self._workflow.name!r} has set no view so far", code="NO_VIEW")

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return _time(self._agenda.now_ms)

    @property
    def elapsed(self) -> timedelta:
        """The virtual time from its start to now, or to its end: what it slept, what backoffs and tasks took."""
        state = self._known
        return timedelta(milliseconds=(state.ended_ms or self._agenda.now_ms) - state.started_ms)

    @property
    def _known(self) -> RunState:
        if self._state is None:
            raise InvariantBroken("a run that was not started was given away")
        return self._state

    # -- letting it go on --------------------------------------------------------------------------
    def begin(self, given: bytes) -> Self:
        """Starts the run with this input, and lets everything happen that needs no time."""
        spec = self._workflow.spec
        command = StartRun(
            self._workflow.name, 1, self._stored(spec.params, spec.types, given), f"start-{self.run_id}"
        )
        for after, token, event in self._settings.coming:
            due_ms = self._agenda.now_ms + _length(after)
            self._agenda.enter(due_ms, _Sent(token or run_token(self.run_id), self._coming(token, event)))
        self._fold(command)
        return self.advance(timedelta(0))

    def _stored(self, shape: Shape, types: tuple[TypeDef, ...], raw: bytes) -> msgspec.Raw:
        """JSON with what is large of it stored, as a client and a worker do."""
        if not LargeValues.may_be_stored(raw):
            return msgspec.Raw(raw)
        return msgspec.Raw(await_here(self._world.large.stored(self.run_id, shape, types, raw)))

    def _fetched(self, shape: Shape, types: tuple[TypeDef, ...], raw: bytes) -> bytes:
        """The same with what is large of it in its place again."""
        if not mentions_large(raw):
            return raw
        fetched: bytes = await_here(self._world.large.fetched(self.run_id, shape, types, raw))
        return fetched

    def _coming(self, token: str, event: PostEvent) -> PostEvent:
        known = next((each for each in self._workflow.spec.events if each.name == event.event), None)
        if token or known is None:
            return event
        payload = self._stored(known.type, self._workflow.spec.types, bytes(event.payload))
        return msgspec.structs.replace(event, payload=payload)

    def advance(self, duration: timedelta) -> Self:
        """Lets `duration` of virtual time pass, with all that happens in it."""
        until_ms = self._agenda.now_ms + _length(duration)
        self._drive(until_ms)
        self._agenda.now_ms = max(self._agenda.now_ms, until_ms)
        return self

    def finish(self) -> Self:
        """Lets the run go on to its end, or until nothing can move any more."""
        self._drive(None)
        return self

    def cancel(self, reason: str = "", *, at_once: bool = False, thread: int | None = None) -> Self:
        """Cancels the run, as somebody with the client or the command line does: it tidies up, unless `at_once`. Or one
        run thread of it, which tidies up, and the run goes on."""
        command = cancel_of(f"cancel-{self._world.seq}", reason, "test", at_once, thread)
        self._fold(command, asked=True)
        return self.advance(timedelta(0))

    def stop(self, reason: str = "", *, thread: int = 0) -> Self:
        """Stops the run, as somebody with the client or the command line does, or one run thread of it."""
        self._fold(StopRun(f"stop-{self._world.seq}", reason, "test", thread), asked=True)
        return self.advance(timedelta(0))

    def resume(self, *, thread: int = 0) -> Self:
        """Lets what was stopped go on."""
        self._fold(ResumeRun(f"resume-{self._world.seq}", "test", thread), asked=True)
        return self.advance(timedelta(0))

    def rescue(
        self,
        *,
        line: int | None = None,
        skip: bool = False,
        value: Any = msgspec.UNSET,
        variables: Mapping[str, Any] | None = None,
    ) -> Self:
        """Somebody lets the run go on that has failed, as with `rescue` of the client; a line is one of the workflow's
        function. Raises `Refused` as that does, and `BadInput` (RESCUE_INVALID)."""
        node = self._node_at(line)
        given = {name: msgspec.Raw(msgspec.json.encode(each)) for name, each in (variables or {}).items()}
        instead = value if value is msgspec.UNSET else msgspec.Raw(msgspec.json.encode(value))
        chosen = f"rescue-{self._world.seq}"
        self._fold(RescueRun(chosen, "", "test", node, skip, instead, given), asked=True)
        return self.advance(timedelta(0))

    def fork(self, *, line: int | None = None, variables: Mapping[str, Any] | None = None) -> Run[R]:
        """Another run that goes on as this one has ended, as with `fork` of the client. Raises `Refused` as that does,
        and `BadInput` (RESCUE_INVALID)."""
        given = {name: msgspec.Raw(msgspec.json.encode(each)) for name, each in (variables or {}).items()}
        other = Run(self._workflow, self._settings, self._world, f"{self.run_id}-fork-{self._world.seq}")
        self._fold(ForkRun(other.run_id, f"fork-{self._world.seq}", self._node_at(line), given), asked=True)
        self.advance(timedelta(0))
        return other

    def _node_at(self, line: int | None) -> int | None:
        return None if line is None else node_at(self._definition.spec, line)

    def edit(self, variables: Mapping[str, Any], *, thread: int = 0) -> Self:
        """Somebody sets variables of the run, as with `edit` of the client. Raises `Refused` as that does."""
        given = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in variables.items()}
        self._fold(EditVariables(f"edit-{self._world.seq}", given, thread, actor="test"), asked=True)
        return self.advance(timedelta(0))

    @property
    def dead_tasks(self) -> list[DeadTaskView]:
        """The calls whose last attempt has failed, and which wait for somebody (`exhausted="wait"`)."""
        return list(dead_tasks(self._known))

    def retry_task(self, task: Task[..., Any] | DeadTaskView) -> Self:
        """Somebody retries a dead task: this one, or the one that is dead of this name.

        Raises `Refused` as the client does, and `BadInput` (TASK_NOT_DEAD) where none, or more than one, is dead.
        """
        return self._settle(task, "retry")

    def fail_task(self, task: Task[..., Any] | DeadTaskView) -> Self:
        """Somebody lets a dead task fail. Raises as `retry_task` does."""
        return self._settle(task, "fail")

    def _settle(self, task: Task[..., Any] | DeadTaskView, do: Literal["retry", "fail"]) -> Self:
        view = self._dead(task) if isinstance(task, Task) else task
        self._fold(SettleTask(view.task_id, do, f"settle-{self._world.seq}", actor="test"), asked=True)
        return self.advance(timedelta(0))

    def _dead(self, task: Task[..., Any]) -> DeadTaskView:
        found = [each for each in self.dead_tasks if each.task == task.name]
        if len(found) != 1:
            raise BadInput(
                f"{len(found)} calls of task {task.name!r} are dead: the run waits for {self.waiting_for}",
                code="TASK_NOT_DEAD",
            )
        return found[0]

    def migrate(
        self,
        test: Migrated[T],
        *,
        lines: Mapping[int, int] | None = None,
        variables: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> Run[T]:
        """The run goes on as one of another version of its workflow: that of `test`, whose fakes hold from here on.

        The rest is as with `plan_migration` and `migrate` of the client. Raises `BadInput` (MIGRATION_INVALID), and
        `Refused` (MIGRATION_REFUSED) with what is in the way.
        """
        old = self._definition
        settings = test.settings(self.run_id, old.version + 1)
        new = settings.definitions[test.workflow.name]
        given = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in (values or {}).items()}
        versions = [RegisteredWorkflow(each.spec, each.version, "") for each in (old, new)]
        planned = propose(versions[0], versions[1], lines, variables, given)
        before = self._workflow, old, self._settings
        self._workflow, self._definition, self._settings = (
            cast("Workflow[..., R]", test.workflow),
            new,
            settings,
        )
        try:
            self._fold(MigrateRun(planned.migration, f"migrate-{self._world.seq}"), asked=True, before=old)
        except Refused:
            self._workflow, self._definition, self._settings = before
            raise
        return cast("Run[T]", self.advance(timedelta(0)))

    @property
    def stopped(self) -> bool:
        """Whether the run, or a run thread of it, is stopped."""
        return bool(self._known.stops)

    @overload
    def post(self, event: Event[T], payload: T, *, key: str = "", event_id: str | None = None) -> Self: ...
    @overload
    def post(self, event: Event[None], *, key: str = "", event_id: str | None = None) -> Self: ...
    def post(
        self, event: Event[Any], payload: Any = None, *, key: str = "", event_id: str | None = None
    ) -> Self:
        """Posts an external event now: to the run, or to a correlation key. Raises `Refused` as the client does, and
        `BadValue`."""
        chosen = f"event-{self._world.seq}" if event_id is None else event_id
        command = PostEvent(event.name, chosen, msgspec.Raw(event.encode(payload)), "test")
        if key:
            self._fold_key(key_token(event.name, key), command)
        else:
            self._fold(command, asked=True)
        return self.advance(timedelta(0))

    @property
    def user_tasks(self) -> list[UserTaskView]:
        """The user tasks that are open, as people see them, those of its child runs behind its own."""
        state = self._known
        waits = [each.wait for each in state.threads if isinstance(each.wait, UserWait)]
        own = [user_task_view(state, wait, self._definition) for wait in waits]
        return [*own, *(view for child in self.children for view in child.user_tasks)]

    def act(self, user_task: UserTask[Any] | UserTaskView, action: Action) -> Self:
        """Somebody does something with a user task: with this one, or with the one that is open of this name.

        Raises `Refused` as the client does, and `BadInput` (USER_TASK_NOT_OPEN) where none, or more than one, is open.
        """
        view = self._open(user_task) if isinstance(user_task, UserTask) else user_task
        owner = self._world.runs[run_token(view.run_id)]
        owner._fold(UserTaskAction(view.id, f"action-{self._world.seq}", action, "test"), asked=True)
        return self.advance(timedelta(0))

    def complete(self, user_task: UserTask[T], filled: T, *, user: str = "somebody") -> Self:
        """Somebody has done it. Raises as `act` does, and `BadValue` for what is no such form."""
        return self.act(user_task, Complete(user, msgspec.Raw(user_task.encode(filled)), override=True))

    def cancel_user_task(self, user_task: UserTask[Any], *, user: str = "somebody", reason: str = "") -> Self:
        """Somebody cancels it. Raises as `act` does."""
        return self.act(user_task, CancelTask(user, reason))

    def _open(self, user_task: UserTask[Any]) -> UserTaskView:
        found = [each for each in self.user_tasks if each.user_task == user_task.name]
        if len(found) != 1:
            raise BadInput(
                f"{len(found)} user tasks {user_task.name!r} are open: the run waits for {self.waiting_for}",
                code="USER_TASK_NOT_OPEN",
            )
        return found[0]

    def _drive(self, until_ms: int | None) -> None:
        """Raises `DressageError` (RUN_ENDLESS) for a run that would go on for ever."""
        commands = 0
        while (due_ms := self._agenda.due_ms) is not None and (until_ms is None or due_ms <= until_ms):
            if self._known.finished and due_ms > self._agenda.now_ms:
                return
            commands += 1
            if commands > self._settings.commands_max:
                raise self._endless()
            due = self._agenda.take()
            if isinstance(due, _Begun):
                due.run._attempt(due.dispatched)
            else:
                self._sent(due)

    def _endless(self) -> DressageError:
        return DressageError(
            f"run {self.run_id!r} did not end within {self._settings.commands_max} commands and {self.elapsed} of "
            f"virtual time; it waits for {self.waiting_for}: for a workflow that is to go on for ever use start() and "
            "advance(), for one that takes so long raise commands_max",
            code="RUN_ENDLESS",
        )

    # -- the engine's part -------------------------------------------------------------------------
    def _fold(self, command: Command, *, asked: bool = False, before: Definition | None = None) -> None:
        """`asked` says that the test itself wants it, and wants to know if it comes too late. `before` is the version
        from which the command moves the run."""
        sent = decode_command(encoder.encode(command))
        after = self._definition if before is not None else None
        outcome = fold(self._state, sent, self.run_id, self._world.stamp(), before or self._definition, after)
        if outcome.code is not None:
            if (outcome.code in _LATE and not asked) or outcome.effects:
                # Of a child that cannot be started its parent is told.
                for effect in outcome.effects:
                    self._perform(effect)
                return
            raise Refused(outcome.message, code=outcome.code)
        assert isinstance(outcome.state, RunState)
        self._state = outcome.state
        self._tell(outcome)
        for effect in outcome.effects:
            self._perform(effect)

    def _sent(self, sent: _Sent) -> None:
        if is_key(sent.token):
            self._fold_key(sent.token, sent.command)
        elif is_limiter(sent.token):
            self._fold_limiter(sent.token, sent.command)
        else:
            self._world.runs[sent.token]._fold(sent.command)

    def _fold_key(self, token: str, command: Command) -> None:
        event, _, _ = marks_of(token)
        specs = [each.spec for each in self._settings.definitions.values()]
        known = next(((each, spec) for spec in specs for each in spec.events if each.name == event), None)
        definition = (
            None if known is None else EventDefinition(RegisteredEvent(known[0], known[1].types, 1, ""))
        )
        sent = decode_command(encoder.encode(command))
        outcome = fold_key(self._world.mailboxes.get(token), sent, token, self._world.stamp(), definition)
        if outcome.code is not None:
            raise Refused(outcome.message, code=outcome.code)
        if isinstance(outcome.state, Mailbox | Marks):
            self._world.mailboxes[token] = outcome.state
        for effect in outcome.effects:
            self._perform(effect)

    def _fold_limiter(self, token: str, command: Command) -> None:
        sent = decode_command(encoder.encode(command))
        outcome = fold_limiter(self._world.limiters.get(token), sent, token, self._world.stamp())
        if isinstance(outcome.state, Limiter):
            self._world.limiters[token] = outcome.state
        for effect in outcome.effects:
            if isinstance(effect, SetTimer):
                fired = _Sent(token, effect.command)
                self._agenda.enter(effect.due_ms, fired, f"{token} {effect.timer_id}")
            elif isinstance(effect, CancelTimer):
                self._agenda.cancel(f"{token} {effect.timer_id}")
            else:
                self._perform(effect)

    def _tell(self, outcome: Outcome) -> None:
        at = _time(self._known.time_ms)
        self._timed.clear()
        for index, data in enumerate(outcome.events, outcome.first_event):
            if isinstance(data, BranchStarted):
                self._note_branch(data)
            if isinstance(data, SleepStarted):
                self._timed.add(data.timer_id)
            if isinstance(data, SleepMoved) and data.replaced in self._timed:
                # Its first timer was never set.
                self._timed.add(data.timer_id)
            if isinstance(data, UserTaskOpened):
                self._give(data)
            plain = msgspec.json.decode(msgspec.json.encode(data))
            self.events.append(RunEvent(index, KIND[type(data)], plain, at, outcome.actor))

    def _give(self, opened: UserTaskOpened) -> None:
        """What the test says that people do with it."""
        said, number = self._settings.people.get(opened.user_task), self._world.given[opened.user_task]
        self._world.given[opened.user_task] += 1
        if said:
            after, action = said[min(number, len(said) - 1)]
            command = UserTaskAction(
                opened.user_task_id, f"person-{self._world.seq}-{number}", action, "test"
            )
            self._agenda.enter(self._agenda.now_ms + _length(after), _Sent(run_token(self.run_id), command))

    def _note_branch(self, started: BranchStarted) -> None:
        around = self._branches[started.parent]
        if started.branch == 0:
            self._gathers[around] += 1
        self._branches[started.thread] = (*around, (self._gathers[around] - 1, started.branch))

    def _branch_of(self, step_id: str) -> Branch:
        """The branch of a task or timer, whose id begins with its run thread."""
        return self._branches[int(step_id.partition("-")[0])]

    def _perform(self, effect: Effect) -> None:
        match effect:
            case DispatchTask():
                self._agenda.enter(effect.not_before_ms, _Begun(effect, self), self._named(effect.timer_id))
            case SetTimer():
                length = timedelta(milliseconds=effect.due_ms - self._agenda.now_ms)
                if effect.timer_id in self._timed:
                    self.sleeps.append(Sleep(length, self.now, self._branch_of(effect.timer_id)))
                fired = _Sent(run_token(self.run_id), effect.command)
                self._agenda.enter(effect.due_ms, fired, self._named(effect.timer_id))
            case CancelTimer():
                self._agenda.cancel(self._named(effect.timer_id))
            case SendCommand():
                if isinstance(effect.command, StartRun) and effect.command.fork is None:
                    self._start_child(effect.token, effect.command)
                self._agenda.enter(self._agenda.now_ms, _Sent(effect.token, effect.command))
            case Publish():
                at, branch = _time(self._known.time_ms), self._branches[effect.thread]
                self.published.append(Published(effect.subject, msgspec.json.decode(effect.data), at, branch))
            case _:
                raise InvariantBroken(f"a run of a unit test cannot have the effect {type(effect).__name__}")

    def _named(self, timer_id: str) -> str:
        """A timer's name in the world: a child run may have one of the same name."""
        return timer_id and f"{self.run_id} {timer_id}"

    def _start_child(self, token: str, start: StartRun) -> None:
        if token not in self._world.runs:
            workflow = cast("Workflow[..., Any]", self._workflow.children[start.workflow])
            self.children.append(Run(workflow, self._settings, self._world, run_id_of(token)))

    def _attempt(self, dispatched: DispatchTask) -> None:
        message = TaskMessage(
            task=dispatched.task,
            task_id=dispatched.task_id,
            call_id=dispatched.call_id,
            run_id=self.run_id,
            workflow=self._workflow.name,
            version=1,
            attempt=dispatched.attempt,
            args=dispatched.args,
            reply="",
            scheduled_at=rfc3339(dispatched.scheduled_ms),
            timeout_s=dispatched.times.attempt_s or 0.0,
            heartbeat_s=dispatched.times.heartbeat_s or 0.0,
            tells_start=dispatched.times.start_s is not None,
            progress=dispatched.progress,
        )
        task = self._workflow.tasks[message.task]
        types = tuple(task.signature.book.definitions.values())
        args = self._fetched(task.definition.params, types, bytes(message.args))
        message = msgspec.structs.replace(message, args=msgspec.Raw(args))
        ended = self._settings.execute(message, self.now, self._branch_of(message.task_id), self)
        self._error = ended.error
        if ended.result is not None:
            result = ended.result
            if isinstance(result.output, msgspec.Raw):
                output = self._stored(task.definition.output, types, bytes(result.output))
                result = msgspec.structs.replace(result, output=output)
            answer = _Sent(run_token(self.run_id), result)
            self._agenda.enter(self._agenda.now_ms + _length(ended.takes), answer)

    def tell(self, message: TaskMessage, progress: Json = msgspec.UNSET) -> None:
        """A worker tells that it has an attempt, and how far it has come."""
        try:
            self._fold(AttemptProgress(message.task_id, WORKER.worker, progress))
        except Refused as refused:
            raise BadValue(refused.message) from refused

    def _failed(self, failure: FailureInfo) -> RunFailed:
        error = RunFailed(self.run_id, failure)
        shown = [f"{call.task} (attempt {call.attempt})" for call in self.calls]
        if shown:
            error.add_note(f"tasks that were called: {', '.join(shown[-20:])}")
        return error

    def __repr__(self) -> str:
        return (
            f"<run {self.run_id} of {self._workflow.name}: {'new' if self._state is None else self.status}>"
        )


def _milliseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise BadInput("the time of a run has a zone: datetime(..., tzinfo=UTC)")
    return int(moment.timestamp() * 1000)


def _length(duration: timedelta) -> int:
    if duration < timedelta(0):
        raise BadInput(f"time does not run backwards: {duration}")
    return -(-duration // timedelta(milliseconds=1))


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms // 1000, UTC) + timedelta(milliseconds=time_ms % 1000)
