"""Cancelling one branch from outside: it is given up alone, and what has started it is told that it has no result.

The thread takes the way of a branch that has lost a race (`Branches.raise_cancelled`). What is its own is that somebody
waits for its result: so how it ends is a failure there, `BranchCancelled`, which the author may take by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dressage.orchestrator.fold import pausing
from dressage.orchestrator.fold.outcome import RefuseCommand, check_reason
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.commands import CancelThread, FailureInfo
from dressage.protocol.events import BranchCancelling
from dressage.protocol.spec import ANY_ERROR, BRANCH_CANCELLED

if TYPE_CHECKING:
    from dressage.orchestrator.fold.advance import Advance

BRANCH_FAMILY: Final = (BRANCH_CANCELLED, ANY_ERROR)
"""By what it can be caught that somebody cancelled a branch."""


def cancel(advance: Advance, command: CancelThread) -> None:
    """Raises `CancelledError` where the thread waits, and in all that it has started, and lifts stops of these; one
    that is cancelled already goes on tidying up. Raises `RefuseCommand`, or `LimitExceeded`."""
    check_reason(command.reason)
    if command.thread == 0:
        raise RefuseCommand(
            "CANCEL_INVALID",
            f"run thread 0 is run {advance.state.run_id!r} itself: cancel the run, and name no thread",
        )
    thread = pausing.find(advance, command.thread)
    pausing.remember(advance.state, command)
    if not thread.cancel:
        thread = advance.threads.own(thread)
        thread.cancelled_for, advance.stored = command.reason, True
        pausing.check_room(advance)
        pausing.tell(advance, BranchCancelling(thread.gather, thread.branch, thread.id, command.reason))
    stopped = pausing.lift(advance, thread)
    advance.branches.cancel(thread)
    pausing.resume_children(advance, stopped)
    pausing.go_on(advance)


def given_up(thread: RunThread) -> FailureInfo:
    """What it is to those who wait for its result that a thread has ended as somebody cancelled it."""
    message = thread.cancelled_for or f"run thread {thread.id} was cancelled"
    return FailureInfo("branch-cancelled", message, "task-error", family=BRANCH_FAMILY)
