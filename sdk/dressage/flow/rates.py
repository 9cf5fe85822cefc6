"""How an author says how many attempts of a task may begin in a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.protocol.errors import DefinitionError
from dressage.protocol.permits import (
    CONCURRENCY_MAX,
    RATE_MAX,
    RATE_S_MAX,
    RATE_S_MIN,
    TaskLimit,
    wrong_with_priority,
)


@dataclass(frozen=True)
class Rate:
    """At most `count` attempts begin in any time as long as `per`."""

    count: int
    per: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if not _is_int(self.count) or not 1 <= self.count <= RATE_MAX:
            raise DefinitionError(f"a rate counts 1 to {RATE_MAX} attempts, and not {self.count!r}")
        if not timedelta(seconds=RATE_S_MIN) <= self.per <= timedelta(seconds=RATE_S_MAX):
            raise DefinitionError(
                f"a rate counts in {RATE_S_MIN:g} to {RATE_S_MAX} seconds, and not {self.per.total_seconds():g}"
            )


def limit_of(concurrency: int | None, rate: Rate | None) -> TaskLimit | None:
    """What a definition says about limits; None if nothing. Raises `DefinitionError` for what makes no sense."""
    if concurrency is None and rate is None:
        return None
    if concurrency is not None and not (_is_int(concurrency) and 1 <= concurrency <= CONCURRENCY_MAX):
        raise DefinitionError(f"concurrency is 1 to {CONCURRENCY_MAX} attempts, and not {concurrency!r}")
    if rate is None:
        return TaskLimit(concurrency)
    if not _is_rate(rate):
        raise DefinitionError(f"rate is a Rate, as Rate(100, per=timedelta(seconds=1)), and not {rate!r}")
    return TaskLimit(concurrency, rate.count, rate.per.total_seconds())


def check_priority(priority: int) -> int:
    """Raises `DefinitionError` for what is none."""
    if wrong := wrong_with_priority(priority):
        raise DefinitionError(wrong)
    return priority


def _is_rate(value: object) -> bool:
    return isinstance(value, Rate)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
