"""What a relay needs of a database, and nothing more.

`SqlStore` asks PostgreSQL, MySQL, MariaDB and SQLite; a model in memory stands in for them in the simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True, frozen=True)
class Row:
    """A message that waits. `attempts` have come to nothing so far, for a passing reason."""

    seq: int
    id: str
    ordering_key: str
    message: str
    created_ms: int = 0
    attempts: int = 0


@dataclass(slots=True, frozen=True)
class Verdict:
    """Why a message is not sent: never, or not before `later_ms` from now."""

    code: str
    reason: str
    later_ms: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of a batch. A row that is in none of them is left as it was."""

    sent: list[Row] = field(default_factory=list)
    dead: list[tuple[Row, Verdict]] = field(default_factory=list)
    later: list[tuple[Row, Verdict]] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Depth:
    """How many messages wait, the age of the oldest of them, and how many are dead."""

    pending: int
    oldest_s: float
    dead: int


@dataclass(slots=True, frozen=True)
class Dead:
    """A message that was refused, for people."""

    id: str
    ordering_key: str
    code: str
    reason: str
    message: str
    settled_ms: int


class Batch(Protocol):
    """Rows that nobody else has as long as this is open: of each key the oldest that wait, in order."""

    @property
    def rows(self) -> Sequence[Row]: ...

    async def settle(self, outcome: Outcome) -> None:
        """Writes down what became of them, and lets go of all. Raises `StoreFault` if that may not have happened."""
        ...

    async def close(self) -> None:
        """Lets go of the rows, as they were, unless they are settled. Also when the process dies."""
        ...


class Taker(Protocol):
    """One connection by which rows are taken, one batch at a time."""

    async def take(self, limit: int) -> Batch:
        """Raises `StoreFault`."""
        ...

    async def close(self) -> None: ...


class Store(Protocol):
    """The table of one database."""

    async def taker(self) -> Taker:
        """Raises `StoreFault`."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Returns when there may be new rows, or after `timeout_s`; at once if there were some meanwhile. Raises
        `StoreFault`."""
        ...

    async def depth(self) -> Depth: ...

    async def clean(self, kept_s: float, limit: int) -> int:
        """Removes up to `limit` rows that were sent more than `kept_s` ago; how many."""
        ...

    async def clean_inbox(self, kept_s: float, limit: int) -> int:
        """Removes up to `limit` message ids that came more than `kept_s` ago; how many."""
        ...

    async def close(self) -> None: ...
