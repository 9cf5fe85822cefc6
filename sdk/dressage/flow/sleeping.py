"""Waiting inside a workflow, for a while or until a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from dressage.flow.watching import held


async def sleep(duration: timedelta | float) -> None:
    """Waits for `duration`, a timedelta or seconds. In a run the wait is durable, and costs nothing however long.

    Where the workflow's function is run as plain Python, it is `asyncio.sleep`.
    """
    await asyncio.sleep(seconds_of(duration))


async def sleep_until(when: datetime | Callable[[], datetime]) -> None:
    """Waits until a moment, a datetime with a time zone; one that has passed is not waited for. In a run the wait is
    durable, and costs nothing however long.

    With a lambda, as in `sleep_until(lambda: view.due)`, the moment is computed again whenever another branch has
    changed what it reads, and the newest one counts.

    Raises `ValueError` for a datetime without a time zone, `TypeError` for what is none. Where the workflow's function
    is run as plain Python, the clock is the machine's.
    """

    def moment() -> datetime:
        return _checked(when() if callable(when) else when)

    due = moment()
    while (left_s := (due - now()).total_seconds()) > 0:
        changed = await held(partial(_differs, moment, due), left_s)
        if not changed and due <= now():
            return  # It may have been held since.
        due = moment()


def _differs(moment: Callable[[], datetime], due: datetime) -> bool:
    return moment() != due


def seconds_of(duration: timedelta | float) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def now() -> datetime:
    """What time it is where a workflow's function is run as plain Python."""
    return datetime.now(UTC)


def _checked(moment: Any) -> datetime:
    if not isinstance(moment, datetime):
        raise TypeError(f"sleep_until takes a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ValueError("sleep_until of a datetime without a time zone depends on the machine: give it one")
    return moment
