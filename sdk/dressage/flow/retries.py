"""How an author says that a task is retried, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypedDict

from dressage.flow.failures import WorkflowFailure
from dressage.protocol.errors import DefinitionError
from dressage.protocol.spec import Backoff, Exhausted, RetryOptions, TaskTimes


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


class TaskOptions(TypedDict, total=False):
    """What can be said of a task, and of one call of it.

    `retries` is the number of attempts after the first, `backoff` how long there is between them, and `not_retried` are
    the classes of errors (with those that derive from them) after which there is no other attempt. What becomes of a
    call whose last attempt has failed says `exhausted`: it is to "fail", or to "wait" for somebody who retries it, or
    lets it fail (`dressage task`).

    `timeout` is how long the handler of an attempt may take, and `heartbeat` how long it may give no sign of progress
    (`TaskContext.heartbeat`): then it is cancelled, and the attempt has failed. `start_timeout` is how long an attempt
    may wait for a worker, and `deadline` how long the call may take with all its attempts: then there is no other one.
    What is not done in time fails with `TaskTimeout`.
    """

    retries: int
    backoff: Exponential
    not_retried: Sequence[type[Exception]]
    exhausted: Exhausted
    timeout: timedelta
    heartbeat: timedelta
    start_timeout: timedelta
    deadline: timedelta


@dataclass(frozen=True)
class Said:
    """What one place says of retries and of times."""

    retry: RetryOptions | None = None
    times: TaskTimes | None = None


NOTHING_SAID: Final = Said()


def said_by(options: TaskOptions) -> Said:
    """Raises `DefinitionError` for what makes no sense, `TypeError` for an option that there is not."""
    unknown = options.keys() - TaskOptions.__annotations__.keys()
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


def _times(options: TaskOptions) -> TaskTimes | None:
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
