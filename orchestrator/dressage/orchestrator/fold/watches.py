"""Waits that look at variables: which of them are to look again, and in which order."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from dressage.expressions.frame import OPERATION_WORK
from dressage.orchestrator.fold.state import ConditionWait, RunThread, SleepWait, Wait

if TYPE_CHECKING:
    from dressage.orchestrator.fold.advance import Advance


class Watches:
    """The waits of one fold in progress that depend on variables.

    They look when all run threads wait, and only those that read what has been set since they last looked. The one that
    has waited longest looks first; where it goes on, the others look when all threads wait again.
    """

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.changed: set[str] = set()
        """The variables that were set, of those that some wait of the workflow reads."""

        self._threads: dict[int, int] | None = None
        """The ids of those that wait so, by when they began to; found when it first matters. Some may have gone on
        since."""

        self._due: list[int] = []
        """When those began to wait that are to look, the latest first."""

    def add(self, thread: RunThread) -> None:
        """A thread has begun to wait."""
        if self._threads is not None:
            self._threads[_begun(thread.wait)] = thread.id

    def look_again(self, paused: Collection[int]) -> None:
        """These threads were paused, and have not looked when variables changed: now they are to."""
        due = {begun for begun, number in self._found().items() if number in paused} if paused else set[int]()
        if due:
            self._due = sorted(due.union(self._due), reverse=True)

    def next(self) -> RunThread | None:
        """The next thread that is to look, while all of them wait. Raises `LimitExceeded`."""
        if self.changed:
            self._note()
        while self._due and not self.advance.state.finished:
            begun = self._due.pop()
            number = self._found().get(begun)
            thread = None if number is None else self._waiting(number, begun)
            if thread is not None and not self.advance.paused(thread):
                return self.advance.threads.own(thread)
        return None

    def _found(self) -> dict[int, int]:
        if self._threads is None:
            threads = self.advance.state.threads
            self._threads = {begun: thread.id for thread in threads if (begun := _begun(thread.wait))}
        return self._threads

    def _waiting(self, number: int, begun: int) -> RunThread | None:
        """The thread with this id, if it still waits as it did."""
        thread = self.advance.threads.find(number)
        return thread if thread is not None and _begun(thread.wait) == begun else None

    def _note(self) -> None:
        """Whoever reads what has changed is to look."""
        changed, self.changed = self.changed, set()
        found, reads = self._found(), self.advance.definition.watched
        self.advance.root.spend(OPERATION_WORK * len(found))
        waiting = {
            begun: thread for begun, number in found.items() if (thread := self._waiting(number, begun))
        }
        self._threads = {begun: thread.id for begun, thread in waiting.items()}
        due = {begun for begun, thread in waiting.items() if reads[thread.node] & changed}
        self._due = sorted(due.union(self._due), reverse=True)


def _begun(wait: Wait | None) -> int:
    """When a wait that looks at variables began; 0 for every other one."""
    return wait.begun if isinstance(wait, ConditionWait | SleepWait) else 0
