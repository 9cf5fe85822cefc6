"""The run threads of one fold in progress: shared with the state before until one of them is changed."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import attrgetter
from typing import Final

from dressage.orchestrator.fold.limits import thread_bytes
from dressage.orchestrator.fold.outcome import ThreadChange
from dressage.orchestrator.fold.state import RunState, RunThread, RunThreads

FEW: Final = 16
"""So many run threads are counted whenever their bytes are asked for; of more it is only what changes."""

_ID: Final = attrgetter("id")


class Threads:
    """A run may have hundreds, of which a command changes two: only these are copied, counted and checked."""

    def __init__(self, state: RunState) -> None:
        """`state` is the copy being changed."""
        self._all = state.threads if isinstance(state.threads, RunThreads) else RunThreads(state.threads)
        state.threads = self._all
        self.changed: dict[int, ThreadChange] = {}
        """By their ids: as they were in the state before, and as they are."""

        self._held = self._all.held
        self._counted: dict[int, tuple[int, int]] = {}
        self._uncounted: set[int] = set()

    def find(self, number: int) -> RunThread | None:
        """The thread with this id, to look at."""
        place = self._place(number)
        return self._all[place] if place < len(self._all) and self._all[place].id == number else None

    def of_step(self, step_id: str) -> RunThread | None:
        """The thread that this attempt or timer would be of, to look at: its id is the first part of both."""
        try:
            return self.find(int(step_id.partition("-")[0]))
        except ValueError:
            return None

    def own(self, thread: RunThread) -> RunThread:
        """The thread as this fold may change it."""
        number = thread.id
        self._uncounted.add(number)
        change = self.changed.get(number)
        if change is not None:
            return change[1] or thread  # It may have ended meanwhile.
        mine = self._all[self._place(number)] = thread.copy()
        self.changed[number] = (thread, mine)
        return mine

    def add(self, thread: RunThread) -> None:
        """A new one, whose id is above all others."""
        self._all.append(thread)
        self._uncounted.add(thread.id)
        self.changed[thread.id] = (None, thread)

    def remove(self, thread: RunThread) -> None:
        """One that has ended, and that this fold owns."""
        del self._all[self._place(thread.id)]
        self._uncounted.add(thread.id)
        self.changed[thread.id] = (self.changed[thread.id][0], None)

    def held(self, moving: RunThread | None) -> tuple[int, int]:
        """What the variables of all threads take in the state, and what else there is of them.

        `moving` is the one that goes on changing without being asked for again.
        """
        if self._held is not None:
            variables, rest = self._held
            for number in self._uncounted:
                was, now = self.changed[number]
                before = self._counted.get(number) or _bytes(was)
                after = self._counted[number] = _bytes(now)
                variables += after[0] - before[0]
                rest += after[1] - before[1]
        else:
            each = [thread_bytes(thread) for thread in self._all]
            variables, rest = sum(pair[0] for pair in each), sum(pair[1] for pair in each)
            if len(each) <= FEW:
                return variables, rest
            self._counted = {number: _bytes(now) for number, (_, now) in self.changed.items()}
        self._held = variables, rest
        self._uncounted = set() if moving is None else {moving.id}
        return variables, rest

    def settle(self) -> None:
        """Nothing changes any more: the next fold is told what many threads take, and need not count them all."""
        self._all.held = self.held(None) if len(self._all) > FEW else None

    def _place(self, number: int) -> int:
        return bisect_left(self._all, number, key=_ID)


class Ready:
    """The run threads that can go on, in their order, each of them once."""

    def __init__(self) -> None:
        self._threads = deque[RunThread]()
        self._ids: set[int] = set()

    def add(self, thread: RunThread) -> None:
        if thread.id not in self._ids:
            self._ids.add(thread.id)
            self._threads.append(thread)

    def take(self) -> RunThread | None:
        """The next one."""
        if not self._threads:
            return None
        thread = self._threads.popleft()
        self._ids.discard(thread.id)
        return thread

    def discard(self, thread: RunThread) -> None:
        if thread.id in self._ids:
            self._ids.discard(thread.id)
            self._threads = deque(each for each in self._threads if each.id != thread.id)

    def clear(self) -> None:
        self._threads.clear()
        self._ids.clear()


def _bytes(thread: RunThread | None) -> tuple[int, int]:
    return (0, 0) if thread is None else thread_bytes(thread)
