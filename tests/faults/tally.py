"""Counts every output event as it is stored, so that millions of them can be checked without being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import duckdb
import msgspec
from tests.faults.outside import TERMINAL  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Delivery
from dressage.protocol.events import decode_event

MASK: Final = (1 << 64) - 1
ROWS: Final = 50_000


class Digest:
    """A number of keys and a sum that any other set of keys hardly has. The order does not matter."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0

    def add(self, run: str, index: int, kind: str) -> None:
        self.count += 1
        self.sum = (self.sum + hash((run, index, kind))) & MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and (self.count, self.sum) == (other.count, other.sum)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.count} events, digest {self.sum:016x}"


class Tally:
    """What a stream of events says, run by run: the next index, and how it ended."""

    def __init__(self, expected: Callable[[int], object]) -> None:
        self._expected = expected
        self._next: dict[str, int] = {}
        self._ended: dict[str, object] = {}
        self.digest = Digest()
        self.wrong: list[str] = []

    @property
    def ended(self) -> int:
        return len(self._ended)

    def see(self, delivery: Delivery) -> None:
        event = decode_event(delivery.data)
        run, kind = event.subject, event.kind
        self.digest.add(run, event.index, kind)
        wanted = self._next.get(run, 0)
        if event.index != wanted:
            self.wrong.append(f"{run}: event {event.index} where {wanted} must follow")
        if run in self._ended:
            self.wrong.append(f"{run}: event {kind} behind its end")
        self._next[run] = event.index + 1
        if kind in TERMINAL:
            self._ended[run] = None if kind != "run-completed" else msgspec.json.decode(event.data)["output"]

    def violations(self, started: Mapping[str, int]) -> list[str]:
        """What is wrong, once every started run should have ended."""
        wrong = list(self.wrong)
        wrong += [f"{run}: nobody started it" for run in self._next.keys() - started.keys()]
        for run, n in started.items():
            if run not in self._ended:
                wrong.append(f"{run}: has not ended")
            elif self._ended[run] != self._expected(n):
                wrong.append(f"{run}: gave {self._ended[run]}, must be {self._expected(n)}")
        return wrong

    def open(self, started: Iterable[str]) -> int:
        return sum(run not in self._ended for run in started)


def digest_of(path: Path) -> Digest:
    """The same of what a DuckDB file holds. Nobody may be writing it."""
    digest = Digest()
    with duckdb.connect(str(path), read_only=True) as database:
        rows = database.execute("select run_id, idx, kind from events")
        while found := rows.fetchmany(ROWS):
            for run, index, kind in found:
                digest.add(run, index, kind)
    return digest
