"""How an author says that a task is retried, how long it may take, and how often it may be called."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypedDict

from dressage.flow.events import check_wait_key
from dressage.flow.failures import WorkflowFailure
from dressage.flow.rates import Rate, check_priority, limit_of
from dressage.protocol.errors import DefinitionError
from dressage.protocol.names import LIMIT_KEY
from dressage.protocol.permits import TaskLimit, wrong_with_priority
from dressage.protocol.spec import Backoff, Exhausted, RetryOptions, TaskDef, TaskTimes


@dataclass(frozen=True)
class Exponential:
    """Delays that grow: `base` after the first attempt, then `factor` times the last, never above `limit`.

    `jitter` spreads each delay: 0.1 means plus or minus ten percent, so that many runs that failed together do
    not come back together.
    """

    base: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    limit: timedelta = timedelta(minutes=1)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.base < timedelta(0) or self.limit < self.base:
            raise DefinitionError("a backoff's base is at least 0 and at most its limit")
        if self.factor < 1 or not 0 <= self.jitter <= 1:
            raise DefinitionError("a backoff's factor is at least 1, and its jitter from 0 to 1")


class _Options(TypedDict, total=False):
    retries: int
    backoff: Exponential
    not_retried: Sequence[type[Exception]]
    exhausted: Exhausted
    timeout: timedelta
    heartbeat: timedelta
    start_timeout: timedelta
    deadline: timedelta
    priority: int


class TaskOptions(_Options, total=False):
    """What can be said of a task, and, but for its limit, of one call of it.

    `retries` is the number of attempts after the first, `backoff` how long there is between them, and `not_retried` are
    the classes of errors (with those that derive from them) after which there is no other attempt. What becomes of a
    call whose last attempt has failed says `exhausted`: it is to "fail", or to "wait" for somebody who retries it, or
    lets it fail (`dressage task`).

    `timeout` is how long the handler of an attempt may take, and `heartbeat` how long it may give no sign of progress
    (`TaskContext.heartbeat`): then it is cancelled, and the attempt has failed. `start_timeout` is how long an attempt
    may wait for a worker, and `deadline` how long the call may take with all its attempts: then there is no other one.
    What is not done in time fails with `TaskTimeout`.

    No more attempts than `concurrency` are with workers at a time, and no more begin than `rate` lets, in all runs of
    the namespace; where calls name a key, both count for each key. Who waits for that is served by `priority`, the
    highest first, and of the same priority one run after the other. A start timeout counts from when the wait begins.
    """

    concurrency: int
    rate: Rate


class CallOptions(_Options, total=False):
    """What can be said of one call of a task: see `TaskOptions`. Its limit counts for each `key`."""

    key: str


@dataclass(frozen=True)
class Said:
    """What one place says of retries, of times, and of the task's limit."""

    retry: RetryOptions | None = None
    times: TaskTimes | None = None
    limit: TaskLimit | None = None
    priority: int = 0


NOTHING_SAID: Final = Said()


def said_by(options: TaskOptions) -> Said:
    """What a definition says. Raises `DefinitionError` for what makes no sense, `TypeError` for an option that there is
    not."""
    said = _said(options, TaskOptions.__annotations__)
    limit = limit_of(options.get("concurrency"), options.get("rate"))
    if limit is None and "priority" in options:
        raise DefinitionError(
            "a task without a limit has no priority: nothing waits\ngive it concurrency=... or rate=..."
        )
    return replace(said, limit=limit, priority=check_priority(options.get("priority", 0)))


def said_by_call(options: CallOptions, task: TaskDef) -> Said:
    """What a call says. Raises as `said_by` does, and `TypeError` or `ValueError`, as the engine does in the workflow,
    for a key and a priority that are none."""
    said = _said(options, CallOptions.__annotations__)
    check_limited(task, options)
    if "key" in options:
        check_wait_key(options["key"], LIMIT_KEY)
    priority: object = options.get("priority", 0)
    if wrong := wrong_with_priority(priority):
        raise (ValueError if type(priority) is int else TypeError)(wrong)
    return said


def check_limited(task: TaskDef, options: Container[str]) -> None:
    """Raises `DefinitionError` for options of a limit where the task has none."""
    for name in ("key", "priority"):
        if name in options and task.limit is None:
            raise DefinitionError(
                f"task {task.name} has no limit, of which {name} could say anything: give the task concurrency=... or "
                "rate=..."
            )


def _said(options: _Options, known: Container[str]) -> Said:
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"there is no option {min(unknown)}")
    retry = retry_options(
        options.get("retries"), options.get("backoff"), options.get("not_retried"), options.get("exhausted")
    )
    return Said(retry, _times(options))


def retry_options(
    retries: int | None,
    backoff: Exponential | None,
    not_retried: Iterable[type[Exception]] | None = None,
    exhausted: Exhausted | None = None,
) -> RetryOptions | None:
    """What one place says about retries; None if it says nothing. Raises `DefinitionError` for what makes no sense."""
    if retries is None and backoff is None and not_retried is None and exhausted is None:
        return None
    if exhausted not in (None, "fail", "wait"):
        raise DefinitionError(f'exhausted is "fail" or "wait", and not {exhausted!r}')
    if retries is not None and retries < 0:
        raise DefinitionError("retries is a number of further attempts, 0 or more")
    return RetryOptions(
        retries=retries,
        backoff=None
        if backoff is None
        else Backoff(
            base_s=backoff.base.total_seconds(),
            factor=float(backoff.factor),
            limit_s=backoff.limit.total_seconds(),
            jitter=float(backoff.jitter),
        ),
        never=None if not_retried is None else _names(not_retried),
        exhausted=exhausted,
    )


def _names(kinds: Iterable[Any]) -> tuple[str, ...]:
    names: list[str] = []
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise DefinitionError(f"not_retried takes classes of errors, and {kind!r} is none")
        if issubclass(kind, WorkflowFailure):
            raise DefinitionError(
                f"{kind.__name__} is a business failure, which is never retried: leave it out"
            )
        names.append(kind.__name__)
    return tuple(names)


def _times(options: _Options) -> TaskTimes | None:
    names = {
        "timeout": "attempt_s",
        "heartbeat": "heartbeat_s",
        "start_timeout": "start_s",
        "deadline": "call_s",
    }
    found: dict[str, float] = {}
    for name, field in names.items():
        time = options.get(name)
        if time is None:
            continue
        if not isinstance(time, timedelta) or time < timedelta(milliseconds=1):
            raise DefinitionError(f"{name} is a timedelta of a millisecond or more, and not {time!r}")
        found[field] = time.total_seconds()
    return TaskTimes(**found) if found else None
