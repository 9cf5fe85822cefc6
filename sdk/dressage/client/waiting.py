"""What waiting for something in a run is made of: what fits, how long, and what it is called when nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from dressage.protocol.commands import RunView
from dressage.protocol.errors import BadInput, DressageError, NoAnswer
from dressage.protocol.events import KINDS, ReceivedEvent

Wanted = str | Callable[[ReceivedEvent], bool]
"""An event of this kind, or the first of which this holds."""


class RunEnded(DressageError):
    """The run has ended, and what was waited for did not come and will not. `run` is how it stands."""

    code = "RUN_ENDED"

    def __init__(self, run: RunView, what: str) -> None:
        super().__init__(f"run {run.run_id!r} has ended ({run.status}) without {what}")
        self.run = run


def fits(wanted: Wanted) -> Callable[[ReceivedEvent], bool]:
    """Whether an event is wanted. Raises `BadInput` for a kind that does not exist: it would never come."""
    if not isinstance(wanted, str):
        return wanted
    if wanted not in KINDS:
        raise BadInput(
            f"there is no event of kind {wanted!r}: use one of {', '.join(sorted(KINDS))}",
            code="KIND_UNKNOWN",
        )
    return lambda event: event.kind == wanted


@contextlib.asynccontextmanager
async def in_time(timeout_s: float | None, what: Callable[[], str]) -> AsyncIterator[None]:
    """Raises `NoAnswer`, saying `what`, if the block takes longer; None is any time."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise  # Of the caller's own.
        raise NoAnswer(what()) from None
