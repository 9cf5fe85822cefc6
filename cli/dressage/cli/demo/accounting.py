"""Whether every event that was published is accounted for: each a finished run, or a dead letter.

What was published is read from the shop's stream, what became of it from DuckDB, and what should have become of
it from the CSV files, by a calculation that shares no code with the workflow.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dressage.brokers.interface import Connection
from dressage.client.finding import QueryResult
from dressage.protocol.names import Names


class Expected(Protocol):
    """What must come of one order; see examples/online_retail/expected.py."""

    @property
    def status(self) -> str: ...

    @property
    def failure(self) -> str | None: ...

    @property
    def attempts(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Published:
    """What stands in the shop's stream: the sequences of each invoice's events, and those of unreadable ones."""

    orders: Mapping[str, Sequence[int]]
    unreadable: frozenset[int]

    @property
    def events(self) -> int:
        return sum(map(len, self.orders.values())) + len(self.unreadable)


@dataclass(frozen=True)
class DeadLetter:
    """An event that could start no run: its sequence in the shop's stream, and why."""

    sequence: int
    code: str
    reason: str


End = tuple[str, str | None, str | None]
"""How a run ended: the engine's status, the order's own, and the failure if there was one."""


@dataclass
class Found:
    """What became of the events, by run id: the ends of its runs, and how many attempts each task took.

    `broken` are events of runs that do not follow one another, that were lost, or that could not be read.
    """

    runs: dict[str, list[End]] = field(default_factory=dict[str, list[End]])
    attempts: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    broken: int = 0


_RUNS: Final = "SELECT run_id, status, search->>'status', failure_name FROM runs"
_ATTEMPTS: Final = "SELECT run_id, task, count(*) FROM task_attempts GROUP BY ALL"
_BROKEN: Final = """SELECT (SELECT count(*) FROM index_breaks) + (SELECT count(*) FROM gaps)
       + (SELECT count(*) FROM rejects)"""


async def read_published(connection: Connection, stream: str, known: Iterable[str]) -> Published:
    """Reads the shop's stream, message by message. An event is an order if it says which, and says it readably."""
    invoices = set(known)
    orders: defaultdict[str, list[int]] = defaultdict(list)
    unreadable: set[int] = set()
    seq = 1
    while (message := await connection.next_message(stream, seq, ">")) is not None:
        invoice = _invoice(message.data)
        if invoice in invoices:
            orders[invoice].append(message.seq)
        else:
            unreadable.add(message.seq)
        seq = message.seq + 1
    return Published(orders, frozenset(unreadable))


def _invoice(data: bytes) -> str:
    try:
        event: Any = json.loads(data)
        return str(event["invoice"])
    except (ValueError, KeyError, TypeError):
        return ""


async def read_dead_letters(connection: Connection, names: Names, trigger: str) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    seq = 1
    subject = names.dead_trigger(trigger)
    while (message := await connection.next_message(names.dead_stream, seq, subject)) is not None:
        headers = message.headers or {}
        letters.append(
            DeadLetter(
                int(headers.get("Dressage-Sequence", 0)),
                headers.get("Dressage-Code", ""),
                headers.get("Dressage-Reason", ""),
            )
        )
        seq = message.seq + 1
    return letters


async def read_found(ask: Callable[[str], Awaitable[QueryResult]]) -> Found:
    """Asks DuckDB what became of the events."""
    found = Found()
    for run_id, status, outcome, failure in (await ask(_RUNS)).rows:
        found.runs.setdefault(run_id, []).append((status, outcome, failure))
    for run_id, task, count in (await ask(_ATTEMPTS)).rows:
        found.attempts.setdefault(run_id, {})[task] = count
    ((found.broken,),) = (await ask(_BROKEN)).rows
    return found


def differences(
    expected: Mapping[str, Expected],
    unreadable: int,
    published: Published,
    found: Found,
    letters: Sequence[DeadLetter],
    run_id_prefix: str,
) -> Iterator[str]:
    """Everything that is not as it must be, one sentence each; nothing at all is what the demo wants."""
    yield from _of_publishing(expected, unreadable, published)
    for invoice, wanted in expected.items():
        yield from _of_run(f"{run_id_prefix}{invoice}", wanted, found)
    for run_id in found.runs.keys() - {f"{run_id_prefix}{invoice}" for invoice in expected}:
        yield f"run {run_id} belongs to no invoice"
    if found.broken:
        yield f"{found.broken} output events do not follow one another, were lost, or could not be read"
    yield from _of_dead_letters(published, letters)


def _of_publishing(expected: Mapping[str, Expected], unreadable: int, published: Published) -> Iterator[str]:
    for invoice in expected.keys() - published.orders.keys():
        yield f"invoice {invoice} was not published"
    if len(published.unreadable) != unreadable:
        yield f"{unreadable} unreadable events were meant to be published, {len(published.unreadable)} were"


def _of_run(run_id: str, wanted: Expected, found: Found) -> Iterator[str]:
    runs = found.runs.get(run_id, [])
    if len(runs) != 1:
        yield f"{run_id} has {len(runs)} runs instead of one"
        return
    wanted_row = ("completed" if wanted.failure is None else "failed", wanted.status, wanted.failure)
    if runs[0] != wanted_row:
        yield f"{run_id} ended as {runs[0]} instead of {wanted_row}"
    attempts = found.attempts.get(run_id, {})
    if attempts != dict(wanted.attempts):
        yield f"{run_id} took the attempts {attempts} instead of {dict(wanted.attempts)}"


def _of_dead_letters(published: Published, letters: Sequence[DeadLetter]) -> Iterator[str]:
    buried = Counter(letter.sequence for letter in letters)
    for seq in published.unreadable - buried.keys():
        yield f"event {seq} of the shop cannot be mapped, and is no dead letter"
    for seq in buried.keys() - published.unreadable:
        yield f"event {seq} of the shop is an order, and is a dead letter"
    for seq, times in buried.items():
        if times > 1:
            yield f"event {seq} of the shop is {times} dead letters"
