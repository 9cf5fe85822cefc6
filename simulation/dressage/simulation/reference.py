"""What a run must come to: its workflow executed by Python itself, with tasks that behave as the workers' do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import warnings
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import ModuleType
from typing import Any, Final, cast
from unittest import mock

from dressage.flow import Assignment, Saga, TaskTimeout, UserTaskCancelled, WorkflowFailure, tasks, workflows
from dressage.protocol.commands import FailureInfo
from dressage.protocol.spec import GROUP_TEXT
from dressage.simulation.behaviour import RETRIES, behaviour, payload_of, person_of, result_of
from dressage.simulation.programs import TASKS

PARKED: Final = timedelta(days=1)
"""A sleep of this length or more is not waited for: the run is to be found asleep."""


@dataclass(slots=True, frozen=True)
class Ending:
    """`kind` is completed, failed, cancelled or asleep; `what` the output, the failure's name, or nothing.

    Of a run that is asleep it is the line of the sleep in the module, and its length in seconds.

    `commands` is about how many it takes to get there, `events` how many external events it takes, `keys` at which
    correlation keys it takes some, as often as it does, `people` how many user tasks it gives to somebody.
    """

    kind: str
    what: Any = None
    commands: int = field(default=0, compare=False)
    events: int = field(default=0, compare=False)
    keys: tuple[str, ...] = field(default=(), compare=False)
    people: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.kind if self.what is None else f"{self.kind} {self.what!r}"


def parted_ending(whole: Ending, cancelled: Collection[int]) -> Ending:
    """How a run of `parted` ends that would end as `whole`, of which clients were told that they have cancelled these
    run threads: what somebody waits for that has no result is a failure of whoever waits, and of nobody else. One leg
    of the race may be missing."""
    gone = "branch-cancelled"
    failures: list[Any] = [gone] if 1 in cancelled else []
    for place, legs, left in ((2, {4, 5}, 2), (3, {6, 7}, 1)):
        lost = legs.intersection(cancelled)
        if place in cancelled:
            failures.append(gone)
        elif len(lost) > 2 - left:
            failures.append([gone] * len(lost))
    return replace(whole, kind="failed", what=failures) if failures else whole


class _Technical(Exception):
    """What a worker reports as an error; the workflow knows it as a `TaskError`."""


def _unheard(run: Coroutine[Any, Any, Any]) -> None:
    """What becomes of a run that nobody waits for makes no difference to the one that has started it."""
    run.close()


async def _at_once() -> None:
    """One branch runs after the other here: none has to be waited for."""


class _Hung:
    """A task that is not done in its time."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def options(self, **_: Any) -> _Hung:
        return self

    async def __call__(self, x: int) -> int:
        self._count()
        raise TaskTimeout


class _Asleep(BaseException):
    """Ends the reference where a run sleeps for so long; no handler of the workflow takes it."""

    def __init__(self, line: int, seconds: float) -> None:
        self.sleep = line, seconds


def ending_of(module: ModuleType, run_id: str, x: int) -> Ending:
    """The end of `module.flow(x)` as a run with this id."""

    commands, events, people = 1, 0, 0
    keys: list[str] = []

    def come(timeout: Any) -> int:
        nonlocal commands, events
        commands, events = commands + 1, events + 1
        return payload_of(run_id, events - 1)

    def file(timeout: Any, key: str) -> int:
        nonlocal commands
        commands += 3
        keys.append(key)
        return payload_of(key, 0)

    def ask(given: Assignment) -> Any:
        nonlocal commands, people
        commands, people = commands + 2, people + 1
        value = person_of(run_id, given.notes or "")
        if value is None:
            raise UserTaskCancelled("no")
        return module.Pair(value)

    def not_come(timeout: Any, key: str = "") -> Any:
        nonlocal commands
        if timeout is None:
            return _Forever()
        commands += 1
        raise TimeoutError

    async def sleep_until(when: Any) -> None:
        nonlocal commands
        commands += 1

    async def wait_until(condition: Callable[[], object], *, timeout: timedelta | None = None) -> None:
        """Another branch goes on first, if there is time for it."""
        nonlocal commands
        while not condition():
            if timeout is not None and timeout < PARKED:
                commands += 1
                raise TimeoutError
            await _Turn()

    async def sleep(duration: timedelta) -> None:
        nonlocal commands
        commands += 1
        if duration >= PARKED:
            raise _Asleep(_line_awaiting(), duration.total_seconds())

    def overdue() -> None:
        nonlocal commands
        commands += 1

    def called(task: str, args: dict[str, Any]) -> Any:
        nonlocal commands
        commands += 1 + min(RETRIES, behaviour(run_id, task, args).fails)
        return _called(module, run_id, task, args)

    def fake(task: str) -> Any:
        def number(x: int) -> Any:
            return called(task, {"x": x})

        def word(x: int, y: str = "w") -> Any:
            return called(task, {"x": x, "y": y})

        return word if task == "word" else number

    faked = {
        "sleep": sleep,
        "sleep_until": sleep_until,
        "wait_until": wait_until,
        "gather": _gather,
        "first_completed": _completed,
        "first_successful": _successful,
        "interruptible": _uninterrupted,
        "Saga": _Saga,
        "hung": _Hung(overdue),
    }
    before = {name: vars(module)[name] for name in faked}
    vars(module).update(faked)
    try:
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            # A branch that is made and never started, as the next one's arguments fail.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")
            for task in {*TASKS} - {"hung"}:
                stack.enter_context(getattr(module, task).faked(fake(task)))
            stack.enter_context(mock.patch.object(tasks, "within", _unlimited))
            stack.enter_context(mock.patch.object(workflows, "beside", _unheard))
            stack.enter_context(mock.patch.object(workflows, "settled", _at_once))
            stack.enter_context(module.publish.faked(lambda subject, data: None))
            stack.enter_context(module.told.faked(come))
            stack.enter_context(module.filed.faked(file))
            stack.enter_context(module.asked.faked(ask))
            stack.enter_context(module.never.faked(not_come))
            ending = _ending(module.flow(x))
            return replace(ending, commands=commands, events=events, keys=tuple(keys), people=people)
    finally:
        vars(module).update(before)


async def _uninterrupted(body: Awaitable[Any], *_: object) -> Any:
    """Its handlers do nothing that it would notice."""
    return await body


def _unlimited(_: float) -> contextlib.AbstractAsyncContextManager[tasks.Limited]:
    return contextlib.nullcontext(tasks.Limited())


def _line_awaiting() -> int:
    """The line of the workflow that awaits the caller of this function."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    assert frame is not None
    return frame.f_lineno


def _called(module: ModuleType, run_id: str, task: str, args: dict[str, Any]) -> Any:
    plan = behaviour(run_id, task, args)
    if plan.fails > RETRIES:
        raise _Technical("Broken")
    if plan.failure is not None:
        raise getattr(module, plan.failure)(f"{task} says no", n=plan.value)
    if plan.wrong_type and task != "word":
        raise _Technical("type-error")
    return result_of(task, plan.value)


class _Saga(Saga):
    """Undoes its steps where no event loop is: none of them waits, and so none can be cancelled."""

    async def _undisturbed(self, step: Coroutine[Any, Any, Any]) -> tuple[Exception | None, bool]:
        try:
            await step
        except Exception as failure:
            return failure, False
        return None, False


async def _gather(*branches: Coroutine[Any, Any, Any], limit: int | None = None) -> tuple[Any, ...]:
    """One branch after the other: what tasks come to does not depend on when they are called. Those that wait for
    others go on behind these."""
    ends: dict[int, _Ended] = {}
    try:
        if limit is not None and limit < 1:
            raise ValueError(limit)
        while len(ends) < len(branches):
            ended = len(ends)
            for place, branch in enumerate(branches):
                if place not in ends and (end := _step(branch)) is not None:
                    ends[place] = end
            assert len(ends) > ended, "the branches wait for each other"
    finally:
        for branch in branches:
            branch.close()
    failures = [error for place in sorted(ends) if (error := ends[place].error) is not None]
    if failures:
        raise ExceptionGroup(GROUP_TEXT, failures)
    return tuple(ends[place].value for place in sorted(ends))


class _Forever:
    """What never comes: only a branch that loses a race waits for it."""

    def __await__(self) -> Generator[None, None, Any]:
        while True:
            yield


class _Turn:
    """Lets other branches go on first."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@dataclass(slots=True, frozen=True)
class _Ended:
    value: Any = None
    error: Exception | None = None


def _step(branch: Coroutine[Any, Any, Any], *, cancelled: bool = False) -> _Ended | None:
    """How a branch ends; None if it waits for ever."""
    try:
        if cancelled:
            branch.throw(asyncio.CancelledError())
        else:
            branch.send(None)
    except StopIteration as stop:
        return _Ended(stop.value)
    except asyncio.CancelledError:
        return _Ended()
    except Exception as error:
        return _Ended(error=error)
    return None


async def _completed(*branches: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """The first that ends: the others wait for ever and are cancelled, or it does not matter which is the first."""
    ends = {place: end for place, branch in enumerate(branches) if (end := _step(branch)) is not None}
    won = min(ends)
    failures = {won: ends[won].error}
    for place, branch in enumerate(branches):
        if place not in ends:
            failures[place] = (_step(branch, cancelled=True) or _Ended()).error
    told = [error for place in sorted(failures) if (error := failures[place]) is not None]
    if told and told != [ends[won].error]:
        raise ExceptionGroup(GROUP_TEXT, told)
    if told:
        raise told[0]
    return won, ends[won].value


async def _successful(*branches: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """The first that does not fail: all of them end."""
    failures: list[Exception] = []
    for place, branch in enumerate(branches):
        try:
            return place, await branch
        except Exception as error:
            failures.append(error)
    raise ExceptionGroup(GROUP_TEXT, failures)


def _ending(coroutine: Coroutine[Any, Any, Any]) -> Ending:
    """Drives a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return Ending("completed", stop.value)
    except WorkflowFailure as failure:
        return Ending("failed", failure.name)
    except _Asleep as asleep:
        return Ending("asleep", asleep.sleep)
    except Exception as error:
        return Ending("failed", _told(error))
    coroutine.close()
    raise AssertionError("the reference waits for something that is not faked")


def _told(error: Exception) -> Any:
    """What an error is called: a failure by its name, another by its class, a task's by what the worker said."""
    if isinstance(error, WorkflowFailure):
        return error.name
    if isinstance(error, UserTaskCancelled):
        return "user-task-cancelled"
    if isinstance(error, ExceptionGroup):
        return [_told(each) for each in cast("ExceptionGroup[Exception]", error).exceptions]
    if isinstance(error.__cause__, _Technical):
        return str(error.__cause__)
    return type(error).__name__


def failure_ending(info: FailureInfo) -> Ending:
    """A failure of the engine as the reference names it."""
    return Ending("failed", _named(info))


def _named(info: FailureInfo) -> Any:
    if info.kind in ("expression-error", "timeout"):
        return info.family[0]
    return [_named(each) for each in info.causes] if info.kind == "group" else info.name
