"""`WorkflowTest`: a workflow in a unit test, with fake tasks."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

import msgspec

from dressage.flow import App, Event, Handler, Task, UserTask, Workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.turn.definitions import load_definition
from dressage.protocol.commands import PostEvent, TaskMessage, TaskResult
from dressage.protocol.errors import BadInput
from dressage.protocol.names import check_run_id, key_token
from dressage.protocol.spec import RegisteredWorkflow, registered_digest
from dressage.protocol.spec_reading import check_spec_size
from dressage.protocol.user_tasks import Action, CancelTask, Complete
from dressage.testing.awaiting import await_here
from dressage.testing.fakes import Branch, FakeTask, TaskCall
from dressage.testing.run import WORKER, Attempted, Run, Settings
from dressage.worker.calls import (
    Ended,
    arguments_of,
    called,
    cancelled_itself,
    ended_by,
    ended_with,
    sayable,
    took_too_long,
    was_silent,
)
from dressage.worker.context import enter_task

P = ParamSpec("P")
R = TypeVar("R")
P2 = ParamSpec("P2")
R2 = TypeVar("R2")
T = TypeVar("T")

COMMANDS_MAX: Final = 10_000
"""What a run may take to its end, if the test says nothing else: results of tasks and timers, counted together."""

BEGAN: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""When the virtual time begins, if the test says nothing else: always the same, so that each test repeats."""


class WorkflowTest(Generic[P, R]):
    """Runs a workflow in a unit test: its compiled spec, by the engine's own fold, without a broker.

    Tasks do what the test says (`task(...).returns(...)`); the others what `app` or else their own function does.
    Arguments and results go over the wire as they do between engine and worker. Time is virtual: it stands still
    while anything can happen, and then goes on to the next timer. All is deterministic.
    """

    def __init__(
        self,
        workflow: Workflow[P, R],
        app: App | None = None,
        *,
        began: datetime = BEGAN,
        commands_max: int = COMMANDS_MAX,
    ) -> None:
        """Raises `BadSpec` for a workflow that no engine would take."""
        self.workflow = workflow
        self._workflows = {each.name: each for each in workflow.with_children()}
        self._definitions = {name: _definition(each) for name, each in self._workflows.items()}
        self._tasks = {name: task for each in self._workflows.values() for name, task in each.tasks.items()}
        self._events = {name for each in self._workflows.values() for name in each.events}
        self._user_tasks = {name for each in self._workflows.values() for name in each.user_tasks}
        self._people: dict[str, list[tuple[timedelta, Action]]] = {}
        self._app = app
        self._began = began
        self._commands_max = commands_max
        self._fakes: dict[str, FakeTask[..., Any]] = {}
        self._coming: list[tuple[timedelta, str, PostEvent]] = []
        self._started = 0

    def task(self, task: Task[P2, R2]) -> FakeTask[P2, R2]:
        """What the test says and learns of one task. Raises `BadInput` for one that the workflow never calls."""
        if task.name not in self._tasks:
            known = ", ".join(sorted(self._tasks)) or "none"
            raise BadInput(
                f"workflow {self.workflow.name!r} does not call task {task.name!r}: it calls {known}",
                code="TASK_NOT_CALLED",
            )
        return cast("FakeTask[P2, R2]", self._fakes.setdefault(task.name, FakeTask(task)))

    @overload
    def comes(
        self, event: Event[T], payload: T, *, key: str = "", after: timedelta = timedelta(0)
    ) -> Self: ...
    @overload
    def comes(self, event: Event[None], *, key: str = "", after: timedelta = timedelta(0)) -> Self: ...
    def comes(
        self, event: Event[Any], payload: Any = None, *, key: str = "", after: timedelta = timedelta(0)
    ) -> Self:
        """Says that an external event comes to each run that is started from now on, `after` its start; or to a
        correlation `key`.

        Raises `BadInput` for one that the workflow never waits for, `BadValue` for a payload of another type.
        """
        if event.name not in self._events:
            known = ", ".join(sorted(self._events)) or "none"
            raise BadInput(
                f"workflow {self.workflow.name!r} does not wait for event {event.name!r}: it waits for {known}",
                code="EVENT_NOT_AWAITED",
            )
        raw = msgspec.Raw(event.encode(payload))
        token = key_token(event.name, key) if key else ""
        self._coming.append((after, token, PostEvent(event.name, f"coming-{len(self._coming)}", raw, "test")))
        return self

    def completes(
        self, user_task: UserTask[T], filled: T, *, user: str = "somebody", after: timedelta = timedelta(0)
    ) -> Self:
        """Says that somebody does a user task, `after` it was given. Said several times, it is what is done with the
        first one of a run, with the second, and so on; the last one with all that follow.

        Raises `BadInput` for one that the workflow never gives to anybody, `BadValue` for what is no such form.
        """
        return self._person(user_task, after, Complete(user, msgspec.Raw(user_task.encode(filled)), True))

    def cancels(
        self,
        user_task: UserTask[Any],
        *,
        user: str = "somebody",
        reason: str = "",
        after: timedelta = timedelta(0),
    ) -> Self:
        """The same for somebody who cancels it."""
        return self._person(user_task, after, CancelTask(user, reason))

    def _person(self, user_task: UserTask[Any], after: timedelta, action: Action) -> Self:
        if user_task.name not in self._user_tasks:
            known = ", ".join(sorted(self._user_tasks)) or "none"
            raise BadInput(
                f"workflow {self.workflow.name!r} has no user task {user_task.name!r}: it has {known}",
                code="USER_TASK_NOT_GIVEN",
            )
        self._people.setdefault(user_task.name, []).append((after, action))
        return self

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Runs the workflow with these arguments to its end, or until nothing can move any more.

        Raises `BadValue` for arguments that do not fit, `BadInput` (TASK_NOT_FAKED) for a task that has no body, and
        `DressageError` (RUN_ENDLESS) for a run that does not end.
        """
        return self.start(*args, **kwargs).finish()

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Starts a run, which goes as far as it can without any time passing. Raises as `run` does."""
        given = self.workflow.encode_input(*args, **kwargs)
        self._started += 1
        run_id = check_run_id(f"{self.workflow.name}-{self._started}")
        return Run(self.workflow, self.settings(run_id)).begin(given)

    def settings(self, run_id: str, version: int = 1) -> Settings:
        """What a run is started with, or goes on with that becomes one of this workflow."""
        definitions = self._definitions
        if version > 1:
            definitions = {**definitions, self.workflow.name: _definition(self.workflow, version)}
        return Settings(
            run_id,
            self._began,
            self._commands_max,
            self._attempt,
            definitions,
            tuple(self._coming),
            {name: tuple(said) for name, said in self._people.items()},
        )

    def _attempt(self, message: TaskMessage, at: datetime, branch: Branch, run: Run[Any]) -> Attempted:
        """One attempt, as a worker executes it."""
        fake = self.task(self._tasks[message.task])
        if not fake.taken:
            return Attempted(None)
        if message.tells_start:
            run.tell(message)
        handler = fake.handler(self._handler(message.task))
        arguments = arguments_of(handler, message.args)
        if isinstance(arguments, Ended):
            return Attempted(_result(message, arguments), fake.duration)
        call = TaskCall(
            message.task, dict(arguments), message.attempt, at, message.run_id, message.call_id, branch
        )
        fake.calls.append(call)
        run.calls.append(call)
        if not fake.answers:
            return _given_up(message)
        told = _Telling(run, message, is_async=handler.is_async)
        try:
            value = contextvars.copy_context().run(_call, handler, arguments, message, told)
        except asyncio.CancelledError:
            failed = _result(message, Ended(error=cancelled_itself()), told.lines)
            return _in_time(message, Attempted(failed, fake.duration))
        except (Exception, SystemExit) as error:
            if isinstance(error, AssertionError) and not fake.declares(error):
                raise
            if (
                isinstance(error, NotImplementedError)
                and handler.function is self._tasks[message.task].function
            ):
                raise self._unfaked(message.task) from error
            failed = _result(message, ended_by(error), told.lines)
            return _in_time(message, Attempted(failed, fake.duration, error))
        done = _result(message, ended_with(handler, value), told.lines)
        return _in_time(message, Attempted(done, fake.duration))

    def _handler(self, task: str) -> Handler:
        """Who executes a task of which the test has said nothing."""
        if self._app is not None and task in self._app.handlers:
            return self._app.handlers[task]
        found = self._tasks[task]
        return Handler(found.definition, found.body, found.signature, inspect.iscoroutinefunction(found.body))

    def _unfaked(self, task: str) -> BadInput:
        name = self.workflow.tasks[task].__name__
        return BadInput(
            f"task {task!r} is a contract without a body, and this test says nothing of it: write "
            f"`test.task({name}).returns(...)`, or give the application that handles it: `WorkflowTest(..., app)`",
            code="TASK_NOT_FAKED",
        )

    def __repr__(self) -> str:
        return f"<test of {self.workflow.name}, {self._started} runs>"


def _in_time(message: TaskMessage, ended: Attempted) -> Attempted:
    """The same, or that it has taken too long."""
    if message.timeout_s and ended.takes >= timedelta(seconds=message.timeout_s):
        late = Ended(error=took_too_long(message.timeout_s))
        return Attempted(_result(message, late), timedelta(seconds=message.timeout_s))
    return ended


def _given_up(message: TaskMessage) -> Attempted:
    """What becomes of an attempt whose handler does nothing any more."""
    told = {message.timeout_s: took_too_long, message.heartbeat_s: was_silent}
    first = min((seconds for seconds in told if seconds), default=None)
    if first is None:
        return Attempted(None)
    return Attempted(_result(message, Ended(error=told[first](first))), timedelta(seconds=first))


class _Telling:
    """What a handler tells goes to its run at once."""

    ending = ""

    def __init__(self, run: Run[Any], message: TaskMessage, *, is_async: bool) -> None:
        self._is_async = is_async
        self._run = run
        self._message = message
        self.lines: list[str] = []

    def beat(self, progress: msgspec.Raw | None) -> None:
        if progress is not None:
            self._run.tell(self._message, progress)

    async def keep(self, progress: msgspec.Raw) -> None:
        self.beat(progress)

    def keep_from_thread(self, progress: msgspec.Raw) -> None:
        if self._is_async:
            raise BadInput(
                "checkpoint_blocking() in an async handler would block its worker: write `await checkpoint(...)`",
                code="CHECKPOINT_BLOCKS",
            )
        self.beat(progress)

    def note(self, text: object) -> None:
        self.lines.append(sayable(text))


def _call(handler: Handler, arguments: dict[str, Any], message: TaskMessage, told: _Telling) -> Any:
    """In a context of its own, in which the attempt is the current one."""
    enter_task(message, told)
    value = called(handler.function, arguments)
    return await_here(value) if handler.is_async else value


def _definition(workflow: Workflow[..., Any], version: int = 1) -> Definition:
    spec = workflow.spec
    check_spec_size(spec)
    children = {child.workflow: 1 for child in spec.children}
    registered = RegisteredWorkflow(spec, version, registered_digest(spec, children), children=children)
    return load_definition(spec.name, version, msgspec.json.encode(registered))


def _result(message: TaskMessage, ended: Ended, log: Sequence[str] = ()) -> TaskResult:
    by = msgspec.structs.replace(WORKER, log="\n".join(log))
    return TaskResult(message.task_id, by, ended.output, ended.failure, ended.error)
