"""Waiting for a condition on variables, which other branches change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from dressage.flow.sleeping import seconds_of
from dressage.flow.watching import held


async def wait_until(condition: Callable[[], object], *, timeout: timedelta | float | None = None) -> None:
    """Waits until a condition holds, as in `wait_until(lambda: view.approvals >= 2, timeout=timedelta(days=2))`; one
    that holds already is not waited for. In a run the wait is durable, and costs nothing however long.

    It is looked at again when all branches wait and one of them has changed what it reads; it holds when the branch
    goes on. What was true in between, and is not any more, nobody sees.

    Raises `TimeoutError` if it does not hold within `timeout`, a timedelta or seconds, and what the condition itself
    raises.
    """
    timeout_s = None if timeout is None else seconds_of(timeout)
    if not condition() and not await held(condition, timeout_s):
        raise TimeoutError(f"the condition did not hold within {timeout_s:g} s")
