"""Relays and the database are killed at random points under load, and still each committed row has exactly one run."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from tests.outbox.conftest import (  # pyright: ignore[reportMissingImports]
    Shop,
    collect,
    eventually,
    make_tables,
    noted,
)

from dressage import outbox
from dressage.cli.bench.postgres import Postgres, postgres, postgres_binaries
from dressage.outbox import Outbox

if TYPE_CHECKING:
    from tests.outbox.conftest import StartProcess  # pyright: ignore[reportMissingImports]

LONG: Final = bool(os.environ.get("FAULTS_LONG"))
KILLS: Final = 50 if LONG else 8
EVENTS_OF_A_RUN: Final = 4


@dataclass
class Load:
    """What services write, in threads of their own, until they are told to stop."""

    dsn: str
    box: Outbox
    committed: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    """The database went away at the commit: it may have happened."""

    started: set[str] = field(default_factory=set)
    rolled_back: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, writers: int = 2) -> None:
        for writer in range(writers):
            thread = threading.Thread(target=self._write, args=(writer,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _write(self, writer: int) -> None:
        chance = random.Random(writer)
        number = 0
        while not self._stop.is_set():
            number += 1
            self._one(f"run-{writer}-{number}", chance)
            self._stop.wait(chance.random() * 0.02)

    def _one(self, run_id: str, chance: random.Random) -> None:
        """A start and its events, in transactions of their own; some are rolled back and written again."""
        steps: list[Any] = [None, *range(EVENTS_OF_A_RUN)]
        for step in steps:
            while not self._try(run_id, step, chance):
                if self._stop.wait(0.2):
                    return
                if run_id in self.doubtful:
                    return

    def _try(self, run_id: str, step: int | None, chance: random.Random) -> bool:
        committing = False
        try:
            with psycopg.connect(self.dsn, connect_timeout=2) as connection:
                if chance.random() < 0.15:
                    ghost = f"ghost-{run_id}-{step}"
                    self.box.start(connection, collect, {"count": 0}, run_id=ghost)
                    self.box.post(connection, noted, -1, run_id=run_id)
                    connection.rollback()
                    self.rolled_back.add(ghost)
                if step is None:
                    self.box.start(connection, collect, {"count": EVENTS_OF_A_RUN}, run_id=run_id)
                else:
                    self.box.post(connection, noted, step, run_id=run_id)
                committing = True
                connection.commit()
        except psycopg.Error:
            if committing:
                self.doubtful.add(run_id)
                self.committed.discard(run_id)
            return False
        if step == EVENTS_OF_A_RUN - 1:
            self.committed.add(run_id)
        elif step is None:
            self.started.add(run_id)
        return True

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def pending(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM dressage_outbox WHERE state = 'pending'")
    return int(count)


async def check(shop: Shop, load: Load) -> None:
    """Each committed row is one run with all of its events in order, and nothing else is there."""
    for run_id in sorted(load.committed):
        assert await shop.result(run_id) == list(range(EVENTS_OF_A_RUN)), run_id
    starts = await shop.starts()
    wanted = load.started | load.doubtful
    assert {run_id: count for run_id, count in starts.items() if count != 1} == {}
    assert load.started - set(starts) == set()
    assert set(starts) - wanted == set()
    assert load.rolled_back, "some transactions are rolled back"
    assert load.committed, "some runs have all of their events"


async def kill_relays(
    dsn: str, process: StartProcess, sent: Callable[[], int], kills: int, *more: str
) -> None:
    """One of two relays at a time, a moment after something was sent."""
    chance = random.Random(11)
    running = [await process(dsn, *more) for _ in range(2)]
    for number in range(kills):
        before = await asyncio.to_thread(sent)

        async def more_sent(before: int = before) -> bool:
            return await asyncio.to_thread(sent) > before + 10

        await eventually(more_sent, "something is sent")
        await asyncio.sleep(chance.random() * 0.2)
        victim = chance.randrange(2)
        await running[victim].kill()
        print(f"kill {number + 1}: {await asyncio.to_thread(sent)} are sent")
        running[victim] = await process(dsn, *more)


def settled(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM dressage_outbox WHERE state = 'sent'")
    return int(count)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900 if LONG else 180)
async def test_relays_are_killed_under_load(shop: Shop, dsn: str, process: StartProcess) -> None:
    load = Load(dsn, outbox.table)
    load.start()
    try:
        await kill_relays(dsn, process, partial(settled, dsn), KILLS)
    finally:
        await asyncio.to_thread(load.stop)

    async def done() -> bool:
        return await asyncio.to_thread(pending, dsn) == 0

    await eventually(done, "nothing is pending")
    await check(shop, load)


@pytest.fixture
def durable() -> Iterator[Postgres]:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb (apt-get install postgresql)")
    with postgres(fsync=True) as server:
        yield server


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900 if LONG else 180)
async def test_the_database_is_killed_under_load(
    shop: Shop, durable: Postgres, process: StartProcess
) -> None:
    dsn = durable.create_database("shop")
    make_tables(dsn)
    await process(dsn)
    load = Load(dsn, outbox.table)
    load.start()
    chance = random.Random(5)
    try:
        for _ in range(10 if LONG else 3):
            await asyncio.sleep(1.0 + chance.random())
            await asyncio.to_thread(durable.kill)
            await asyncio.to_thread(durable.start)
        await asyncio.sleep(1.0)
    finally:
        await asyncio.to_thread(load.stop)

    async def done() -> bool:
        return await asyncio.to_thread(pending, dsn) == 0

    await eventually(done, "nothing is pending")
    await check(shop, load)
