"""Three ways to run one workflow with the same tasks: `WorkflowTest`, the engine on a real server, and plain Python.

Ids, times and the spread of backoffs are another each time, and are left out. The engine sleeps in real time, so its
timers are fired by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from dressage import flow
from dressage.client import Client
from dressage.client.client import RunFailed
from dressage.flow import App, Workflow, WorkflowFailure
from dressage.protocol.commands import FailureInfo, TimerFired
from dressage.protocol.errors import Refused
from dressage.testing import Run, TaskCall, WorkflowTest
from dressage.worker import Worker, WorkerConfig, current_task

VARIES: Final = {
    *(
        "task_id",
        "timer_id",
        "event_id",
        "user_task_id",
        "until",
        "due",
        "duration_ms",
        "waited_ms",
        "delay_s",
        "traceback",
        "run_id",
        "wait_id",
    ),
}
PASSING: Final = ("user-task-reminded", "user-task-overdue")
"""What time alone does, which passes in the harness and not on the engine."""

DEADLINE_S: Final = 30.0


CANCELS: Final = "somebody cancels it"
ESCALATES: Final = "nobody does it, and it escalates"


class Event(NamedTuple):
    """An output event, with the run thread that it is of."""

    thread: int
    kind: str
    data: Any


@dataclass
class Seen:
    """What came of a run: its end, its output events, and the attempts that its tasks saw."""

    status: str = ""
    result: Any = None
    failure: tuple[str, str, str] | None = None
    events: list[Event] = field(default_factory=list["Event"])
    calls: list[tuple[str, dict[str, Any], int]] = field(
        default_factory=list[tuple[str, dict[str, Any], int]]
    )

    @property
    def kinds(self) -> list[str]:
        """The kinds of the output events, in their order."""
        return [event.kind for event in self.events]

    def settled(self) -> Seen:
        """The same without what chance decides: in which order things happen that happen side by side."""
        if "branch-started" not in self.kinds:
            return self
        events = sorted(self.events, key=lambda event: event.thread)
        return dataclasses.replace(self, events=events, calls=sorted(self.calls, key=repr))


@dataclass
class Case:
    """A workflow with its arguments, and an application that is made anew for each way to run it.

    `plain` is whether Python alone can run it: it retries no task.
    """

    workflow: Workflow[..., Any]
    arguments: tuple[Any, ...]
    make: Callable[[], App]
    plain: bool = True
    coming: tuple[tuple[flow.Event[Any] | flow.UserTask[Any], Any], ...] = ()
    """External events with their payloads, and user tasks with what somebody fills in, `CANCELS` or `ESCALATES`: each
    comes, or is done, when the run waits for it."""


def watched(app: App, seen: Seen, attempt: Callable[[], int]) -> App:
    """The same application, whose attempts are written down."""
    copy = App(app.name)
    for handler in app.handlers.values():
        watch = _watched(handler.function, handler.definition.name, seen, attempt)
        copy._handlers[handler.definition.name] = dataclasses.replace(handler, function=watch)
    return copy


def _watched(
    function: Callable[..., Any], task: str, seen: Seen, attempt: Callable[[], int]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def watch(*given: Any, **arguments: Any) -> Any:
        bound = inspect.signature(function).bind(*given, **arguments)
        bound.apply_defaults()
        seen.calls.append((task, dict(bound.arguments), attempt()))
        return function(*given, **arguments)

    return watch


def now() -> int:
    return current_task().attempt


def steady(value: Any) -> Any:
    """JSON without what is another each time."""
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key not in VARIES}
    return [steady(each) for each in value] if isinstance(value, list) else value


def event_of(kind: str, data: dict[str, Any]) -> Event:
    ident = data.get("task_id") or data.get("timer_id") or data.get("user_task_id")
    thread = int(ident.split("-")[0]) if ident else data.get("thread", 0)
    return Event(thread, kind, steady(data))


def shown(failure: FailureInfo | None) -> tuple[str, str, str] | None:
    return None if failure is None else (failure.name, failure.message, failure.kind)


def by_harness(case: Case) -> Seen:
    seen = Seen()
    run = harness_run(WorkflowTest(case.workflow, watched(case.make(), seen, now)), case)
    seen.status, seen.failure = run.status, shown(run.failure)
    seen.result = run.result if run.status == "completed" else None
    seen.events = [event_of(event.kind, event.data) for event in run.events if event.kind not in PASSING]
    made = [(call.task, call.arguments, call.attempt) for call in all_calls(run)]
    if run.children:
        assert sorted(made, key=repr) == sorted(seen.calls, key=repr)
    else:
        assert made == seen.calls
    return seen


def all_calls(run: Run[Any]) -> list[TaskCall]:
    """Those of its child runs behind its own."""
    return [*run.calls, *(call for child in run.children for call in all_calls(child))]


def harness_run(test: WorkflowTest[..., Any], case: Case) -> Run[Any]:
    """A run of the case to its end."""
    run = test.start(*case.arguments)
    for expected, said in case.coming:
        while run.status == "running" and not _wants(run.waiting_for, expected):
            run.advance(timedelta(minutes=1))
        if run.status != "running":
            break
        if isinstance(expected, flow.Event):
            run.post(expected, said)
        elif said == ESCALATES:
            escalated = len(_escalations(run))
            while len(_escalations(run)) == escalated:
                run.advance(timedelta(minutes=1))
        elif said == CANCELS:
            run.cancel_user_task(expected, user="tester", reason=CANCELS)
        else:
            run.complete(expected, said, user="tester")
    return run.finish()


def _escalations(run: Run[Any]) -> list[Any]:
    return [event for event in run.events if event.data.get("how") == "escalated"]


def _wants(waiting_for: str, expected: flow.Event[Any] | flow.UserTask[Any]) -> bool:
    """Whether the run waits for this, and for no task beside it, whose end would decide what comes first."""
    what = "event" if isinstance(expected, flow.Event) else "user task"
    return f"{what} {expected.name}" in waiting_for and "(attempt " not in waiting_for


async def by_engine(case: Case, server: str) -> Seen:
    seen = Seen()
    app = watched(case.make(), seen, now)
    async with Client(server) as client, Worker(server, app, WorkerConfig(identity="test")):
        for each in case.workflow.with_children():
            await client.register(each)
        given = msgspec.Raw(case.workflow.encode_input(*case.arguments))
        handle = await client.start(case.workflow, given, run_id=uuid.uuid4().hex)
        async with asyncio.timeout(DEADLINE_S):
            coming = list(case.coming)
            while (view := await handle.state()).status == "running":
                if coming and _wants(view.waiting_for, coming[0][0]):
                    await _does(client, handle.run_id, *coming.pop(0))
                elif "(attempt " not in view.waiting_for:
                    await _fire_timers(client, handle.run_id)
                await asyncio.sleep(0.02)
        seen.status, seen.failure = view.status, shown(view.failure)
        with contextlib.suppress(RunFailed):
            seen.result = await handle.result()
        seen.events = [
            event_of(event.kind, msgspec.json.decode(event.data))
            async for event in handle.history()
            if event.kind not in PASSING
        ]
    return seen


async def _does(
    client: Client, run_id: str, expected: flow.Event[Any] | flow.UserTask[Any], said: Any
) -> None:
    if isinstance(expected, flow.Event):
        await client.post(run_id, expected, said)
        return
    views = await client.user_tasks(run_id)
    task = client.user_task(run_id, next(each.id for each in views if each.user_task == expected.name))
    if said == ESCALATES:
        # The timer of its first assignment.
        await client.send(run_id, TimerFired(f"{task.user_task_id}-escalate"))
        await client.wait_for_event(run_id, lambda event: b'"escalated"' in bytes(event.data))
    elif said == CANCELS:
        await task.cancel("tester", CANCELS)
    else:
        await task.complete("tester", said, override=True)


_BEGIN: Final = ("sleep-started", "sleep-moved", "event-awaited", "condition-awaited")
_END: Final = ("sleep-ended", "event-timed-out", "condition-timed-out")


async def _fire_timers(client: Client, run_id: str) -> None:
    """What the run sleeps for has passed, and what it waits for does not come in time."""
    begun: dict[str, bool] = {}
    async for event in client.history(run_id):
        if event.kind in (*_BEGIN, *_END):
            data = msgspec.json.decode(event.data)
            begun[data.get("replaced", "")] = False
            begun[data.get("timer_id", "")] = event.kind in _BEGIN
        elif event.kind.startswith("user-task-"):
            data = msgspec.json.decode(event.data)
            begun[f"{data['user_task_id']}-timeout"] = event.kind == "user-task-opened" and "until" in data
    begun.pop("", None)
    for timer_id in [each for each, waits in begun.items() if waits]:
        with contextlib.suppress(Refused):
            await client.send(run_id, TimerFired(timer_id))


Coming = list[tuple[flow.Event[Any] | flow.UserTask[Any], Any]]


def _next(coming: Coming, name: str, timeout: Any) -> Any:
    for place, (event, payload) in enumerate(coming):
        if event.name == name:
            del coming[place]
            return payload
    if timeout is None:
        return asyncio.get_running_loop().create_future()
    raise TimeoutError


def _person(coming: Coming, name: str, given: flow.Assignment) -> Any:
    """What somebody makes of a user task; that it goes to others first makes no difference."""
    said = _next(coming, name, given.timeout)
    if said == CANCELS:
        raise flow.UserTaskCancelled(CANCELS)
    return _person(coming, name, given) if said == ESCALATES else said


async def _when_all_wait(duration: Any) -> None:
    """Time passes when nothing else can happen: whatever is ready has had its turn many times."""
    for _ in range(100):
        await asyncio.sleep(0)


async def by_python(case: Case, monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    monkeypatch.setattr("dressage.flow.sleeping.asyncio", SimpleNamespace(sleep=_when_all_wait))
    with contextlib.ExitStack() as fakes:
        app = watched(case.make(), seen, lambda: 1)
        called = {name: task for each in case.workflow.with_children() for name, task in each.tasks.items()}
        for name, task in called.items():
            fakes.enter_context(task.faked(app.handlers[name].function))
        coming = list(case.coming)
        for name, event in case.workflow.events.items():
            fakes.enter_context(event.faked(functools.partial(_next, coming, name)))
        for name, user_task in case.workflow.user_tasks.items():
            fakes.enter_context(user_task.faked(functools.partial(_person, coming, name)))
        try:
            seen.result, seen.status = await case.workflow(*case.arguments), "completed"
        except WorkflowFailure as failure:
            seen.failure, seen.status = shown(failure.info()), "failed"
    return seen
