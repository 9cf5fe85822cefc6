"""Limits of tasks: how many attempts may be with workers at a time, and how many may begin in a time.

A call of a task that has a limit asks the task's limiter for a permit before its attempt is dispatched, and returns it
when nobody waits for the attempt any more. A limiter is an entry of its own, as a correlation key is: one for each
task, and one for each key that calls of it name.
"""

from __future__ import annotations

from typing import Final

import msgspec

CONCURRENCY_MAX: Final = 1_000
"""Attempts of one task, or of one key of it, that a limit may let workers have at a time."""

RATE_MAX: Final = 100_000
"""Attempts that a limit may let begin in its time."""

RATE_S_MIN: Final = 0.001
RATE_S_MAX: Final = 31 * 24 * 3600
"""Seconds in which a rate is counted."""

PRIORITY_MAX: Final = 1_000
"""How high a priority may be; and, below zero, how low."""


def wrong_with_priority(priority: object) -> str:
    """What is wrong with the priority of a call; empty for one that may be."""
    if not isinstance(priority, int) or isinstance(priority, bool):
        return f"a priority is an int, and not {type(priority).__name__}"
    if abs(priority) > PRIORITY_MAX:
        return f"a priority is from -{PRIORITY_MAX} to {PRIORITY_MAX} (limit task-limit)"
    return ""


class TaskLimit(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """At most `concurrency` attempts are with workers at a time, and at most `rate` begin in any `per_s` seconds; None:
    there is no such limit. Where calls name a key, both count for each key."""

    concurrency: int | None = None
    rate: int | None = None
    per_s: float = 1.0


class TakenView(msgspec.Struct, frozen=True):
    """An attempt that has its permit `since` then."""

    run_id: str
    task_id: str
    since: str


class LimiterView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limiter as readers see it: who has a permit, how many attempts wait for one, and the runs of those that are
    next. `free_at` is when the rate lets another one begin, if it is that for which they wait."""

    task: str
    limit: TaskLimit
    seq: int
    key: str = ""
    taken: tuple[TakenView, ...] = ()
    waiting: int = 0
    next: tuple[str, ...] = ()
    free_at: str = ""
    shard: int = 0
