"""The application of the kill tests for what waits: races of events and time, whose losers tidy up, conditions and a
moment that moves; each run tells others of every step. And events that find their run by a key, or before it exists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dressage.flow import (
    App,
    Event,
    first_completed,
    gather,
    publish,
    sleep,
    sleep_until,
    wait_until,
    workflow,
)

app = App("waiting")
approved = Event("approved", of=int)
refused = Event("refused", of=int)
never = Event("never")

FAR: Final = datetime(2090, 1, 1, tzinfo=UTC)
PASSED: Final = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Progress:
    rounds: int = 0
    over: bool = False
    due: datetime = FAR


@app.task(retries=5)
def tidy(n: int) -> int:
    return n


@workflow(name="waiting")
async def waiting(n: int) -> int:
    view = Progress()

    async def loser() -> None:
        try:
            await never.wait()
        finally:
            await tidy(n)

    async def answer() -> int:
        # To every third run nobody says a word.
        limit = timedelta(seconds=1) if n % 3 == 0 else timedelta(hours=1)
        total = 0
        await publish(f"waiting.{n % 5}", [n, 0])
        try:
            for weight in (1, 10):
                match await first_completed(loser(), approved.wait(), refused.wait(), sleep(limit)):
                    case 1, number:
                        total += weight * number
                    case 2, number:
                        total -= weight * number
                    case _:
                        await publish("waiting.late", [n, 1])
                        return -n
                await publish(f"waiting.{n % 5}", [n, weight])
                view.rounds += 1
                view.due = FAR + timedelta(days=view.rounds)
        finally:
            view.over = True
        return 1000 * n + total

    async def release() -> None:
        await wait_until(lambda: view.over)
        await tidy(n)
        view.due = PASSED

    async def rounds() -> int:
        await wait_until(lambda: view.over or view.rounds == 1, timeout=timedelta(hours=1))
        await sleep_until(lambda: view.due)
        return view.rounds

    result, _, counted = await gather(answer(), release(), rounds())
    return result if counted == (0 if n % 3 == 0 else 2) else -1_000_000 - counted


def posts(n: int) -> list[tuple[Event[int], int]]:
    """What is posted to the run with this input, in this order."""
    if n % 3 == 0:
        return []
    return [(approved, 1), (refused, 1)] if n % 3 == 1 else [(approved, 1), (approved, 1)]


def told(n: int) -> list[list[int]]:
    """What the run publishes, in this order."""
    return [[n, 0], [n, 1]] if n % 3 == 0 else [[n, 0], [n, 1], [n, 10]]


def expected(n: int) -> int:
    """What the run must give."""
    return -n if n % 3 == 0 else 1000 * n + (-9 if n % 3 == 1 else 11)


@workflow
async def correlated(n: int) -> int:
    total = 0
    for weight in (1, 10):
        total += weight * await approved.wait(key=f"order {n}")
    return 1000 * n + total + 100 * await refused.wait()


CORRELATED = ((1, 1), (2, 2))
"""The events of each key: their ids, and what they bring."""


def expected_correlated(n: int) -> int:
    return 1000 * n + 21 + 300
