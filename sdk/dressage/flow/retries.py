"""How an author says that a task is retried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.protocol.errors import DefinitionError
from dressage.protocol.spec import Backoff, RetryOptions


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


def retry_options(retries: int | None, backoff: Exponential | None) -> RetryOptions | None:
    """What one place says about retries; None if it says nothing. Raises `DefinitionError` for `retries` below 0."""
    if retries is None and backoff is None:
        return None
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
    )
