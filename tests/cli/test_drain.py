"""A worker that is told to stop finishes what runs, takes no more, and loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dressage.client import Client

if TYPE_CHECKING:
    from tests.conftest import Program, Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

Eventually = Callable[[Callable[[], bool], str], None]
RUNS = 40
CONCURRENCY = 8

SLOW = """
import asyncio
from pathlib import Path
from dressage.flow import App, workflow

app = App("slow")


def note(what: str, number: int) -> None:
    with Path("attempts.log").open("a") as file:
        file.write(f"{what} {number}\\n")


@app.task
async def work(number: int) -> int:
    note("began", number)
    await asyncio.sleep(0.5)
    note("ended", number)
    return number


@workflow
async def slow(number: int) -> int:
    return await work(number)
"""


class Attempts:
    """What the handlers wrote down."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "attempts.log"

    def of(self, what: str) -> Counter[str]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith(what))


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    (tmp_path / "slow.py").write_text(SLOW)
    return Attempts(tmp_path)


@pytest.fixture
async def drained(dev: str, start: Start, attempts: Attempts, eventually: Eventually) -> Program:
    """A worker that had all its slots full, and much more waiting, when it was told to stop."""
    assert start("deploy", "slow", "--server", dev).ended() == 0
    async with Client(dev) as client:
        for number in range(RUNS):
            await client.start("slow", {"number": number}, run_id=f"run-{number}")
    worker = start("worker", "slow:app", "--server", dev, "--concurrency", str(CONCURRENCY))
    eventually(lambda: len(attempts.of("began")) >= CONCURRENCY, "every slot is taken")
    worker.process.terminate()
    worker.ended()
    return worker


async def test_it_exits_with_0(drained: Program) -> None:
    assert drained.process.returncode == 0, drained.said


async def test_it_finishes_what_it_began(drained: Program, attempts: Attempts) -> None:
    assert attempts.of("began") == attempts.of("ended")


async def test_it_takes_no_more(drained: Program, attempts: Attempts) -> None:
    assert len(attempts.of("began")) < RUNS / 2


async def test_what_it_left_is_done_by_the_next_worker_and_nothing_twice(
    drained: Program, dev: str, start: Start, attempts: Attempts
) -> None:
    start("worker", "slow:app", "--server", dev)
    async with Client(dev) as client:
        for number in range(RUNS):
            assert await client.handle(f"run-{number}").result(timeout_s=30) == number
    assert attempts.of("began") == Counter(str(number) for number in range(RUNS))
