"""Virtual time: what is to happen when. Time goes on only to the next of these moments."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Agenda(Generic[T]):
    """What is to happen, by time; of one moment, in the order in which it was entered."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self._entries: list[tuple[int, int]] = []
        self._what: dict[int, T] = {}
        self._named: dict[str, int] = {}
        self._entered = 0

    def enter(self, due_ms: int, what: T, name: str = "") -> None:
        """Enters something for `due_ms`, or for now if that is past; by its `name` it can be taken back."""
        self._entered += 1
        heapq.heappush(self._entries, (max(due_ms, self.now_ms), self._entered))
        self._what[self._entered] = what
        if name:
            self._named[name] = self._entered

    def cancel(self, name: str) -> None:
        """Takes back what has this name. Harmless when it has happened, or never was."""
        self._what.pop(self._named.pop(name, 0), None)

    @property
    def due_ms(self) -> int | None:
        """When the next of all is due; None when there is nothing left."""
        while self._entries and self._entries[0][1] not in self._what:
            heapq.heappop(self._entries)
        return self._entries[0][0] if self._entries else None

    def take(self) -> T:
        """The next of all; it is now that time. Ask `due_ms` before whether there is one."""
        due_ms, number = heapq.heappop(self._entries)
        self.now_ms = due_ms
        return self._what.pop(number)
