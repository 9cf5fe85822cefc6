"""SQLite in WAL mode: one relay has the file at a time, and it keeps nobody from writing."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.outbox.conftest import QUICK, Shop, collect, engine, eventually, greet, noted  # pyright: ignore[reportMissingImports]

from dressage import outbox
from dressage.brokers.embedded import EmbeddedServer
from dressage.outbox import schema
from dressage.outbox.relay.dsn import open_db, store_of
from dressage.outbox.relay.faults import DsnInvalid, SchemaMissing, StoreFault
from dressage.outbox.relay.relay import Relay

if TYPE_CHECKING:
    from tests.outbox.conftest import StartProcess, StartRelay  # pyright: ignore[reportMissingImports]

RUNS = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "shop.db"
    connection = sqlite3.connect(made)
    for statement in schema.statements("sqlite"):
        connection.execute(statement)
    connection.commit()
    connection.close()
    return made


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def states(path: Path) -> dict[str, int]:
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT state, count(*) FROM dressage_outbox GROUP BY state").fetchall())
    connection.close()
    return found


async def all_settled(path: Path) -> None:
    async def settled() -> bool:
        return "pending" not in states(path)

    await eventually(settled, "nothing is pending")


def write(path: Path, run_id: str) -> None:
    """A start and two events, in transactions of their own, and one that is rolled back."""
    connection = sqlite3.connect(path, timeout=30)
    with connection:
        outbox.start(connection, collect, {"count": 2}, run_id=run_id)
    for number in range(2):
        with connection:
            outbox.post(connection, noted, number, run_id=run_id)
    outbox.start(connection, greet, {"name": "x"}, run_id=f"ghost-{run_id}")
    connection.rollback()
    connection.close()


async def test_what_is_committed_is_started_and_what_is_rolled_back_is_not(
    shop: Shop, path: Path, relay: StartRelay
) -> None:
    running = relay(url(path))
    for number in range(5):
        await asyncio.to_thread(write, path, f"r{number}")
    for number in range(5):
        assert await shop.result(f"r{number}") == [0, 1]
    await all_settled(path)
    assert states(path) == {"sent": 15}
    await running.reaches("pending", 0)
    await shop.has_started(*(f"r{number}" for number in range(5)))


async def test_an_idle_relay_is_ready_as_long_as_it_could_send(
    nats: EmbeddedServer, tmp_path: Path, relay: StartRelay
) -> None:
    """Also when what it has waited for is over, and nobody has written anything since."""
    made = tmp_path / "shop.db"
    running = relay(url(made))

    async def is_ready() -> bool:
        return not running.relay.unready()

    async def is_not() -> bool:
        return bool(running.relay.unready())

    await asyncio.sleep(0.3)
    assert "waits for" in running.relay.unready(), "there is no namespace yet"
    connection = sqlite3.connect(made)
    for statement in schema.statements("sqlite"):
        connection.execute(statement)
    connection.commit()
    connection.close()
    async with engine(nats, greet):
        await eventually(is_ready, "it is ready, and nothing was sent")
        await nats.stop()
        await eventually(is_not, "it is not, as the server is away")
        await nats.start()
        await eventually(is_ready, "it is again")
    await running.stop()
    assert running.relay.unready() == "it is ending"


@pytest.mark.faults
@pytest.mark.slow
async def test_relays_are_killed_under_load(shop: Shop, path: Path, process: StartProcess) -> None:
    chance = random.Random(3)

    async def load() -> None:
        for number in range(RUNS):
            await asyncio.to_thread(write, path, f"r{number}")
            await asyncio.sleep(chance.random() * 0.2)

    writing = asyncio.create_task(load())
    kills = 0
    while not writing.done():
        first, second = await process(url(path)), await process(url(path))
        before = states(path).get("sent", 0)

        async def more_sent(before: int = before) -> bool:
            return states(path).get("sent", 0) > before or writing.done()

        await eventually(more_sent, "something is sent")
        await asyncio.sleep(chance.random() * 0.1)
        for each in (first, second):
            await each.kill()
        kills += 1
    await writing
    assert kills > 1
    await process(url(path))
    await all_settled(path)
    for number in range(RUNS):
        assert await shop.result(f"r{number}") == [0, 1]
    await shop.has_started(*(f"r{number}" for number in range(RUNS)))


async def test_one_relay_has_the_file_at_a_time(path: Path) -> None:
    first = await store_of(url(path))()
    with pytest.raises(StoreFault, match="another relay"):
        await store_of(url(path))()
    await first.close()
    second = await store_of(url(path))()
    await second.close()


async def test_a_missing_table_is_told(shop: Shop, tmp_path: Path) -> None:
    relay = Relay(shop.nats.url, store_of(url(tmp_path / "empty.db")), QUICK)
    with pytest.raises(SchemaMissing, match="dialect sqlite"):
        await asyncio.wait_for(relay.run(), 20)


@pytest.mark.parametrize(
    "dsn", ["sqlite://", "sqlite://host/x.db", "sqlite:///:memory:", "oracle://x/y", "x"]
)
async def test_addresses_that_name_no_database(dsn: str) -> None:
    with pytest.raises(DsnInvalid):
        await open_db(dsn)
