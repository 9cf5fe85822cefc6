"""MariaDB, and so MySQL: rows are locked as in PostgreSQL, and looked for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pymysql
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tests.outbox.conftest import QUICK, Shop, collect, eventually, greet, noted  # pyright: ignore[reportMissingImports]
from tests.outbox.databases import mariadb, mariadb_binaries  # pyright: ignore[reportMissingImports]

from dressage import outbox
from dressage.outbox import inbox, schema
from dressage.outbox.relay.dsn import open_db, store_of
from dressage.outbox.relay.faults import SchemaMissing
from dressage.outbox.relay.relay import Relay
from dressage.outbox.relay.sql import Table
from dressage.outbox.relay.store import Outcome
from dressage.protocol.errors import BadInput

if TYPE_CHECKING:
    from tests.outbox.conftest import StartProcess, StartRelay  # pyright: ignore[reportMissingImports]

RUNS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if mariadb_binaries() is None:
        pytest.skip("MariaDB is not installed: there is no mariadbd (apt-get install mariadb-server)")
    with mariadb() as dsn:
        yield dsn


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    with closing(connect(server)) as connection, connection.cursor() as cursor:
        for statement in schema.statements("mysql"):
            cursor.execute(statement)
        connection.commit()
    yield server
    with closing(connect(server)) as connection, connection.cursor() as cursor:
        for statement in schema.drop_statements("mysql"):
            cursor.execute(statement)


def connect(dsn: str, *, autocommit: bool = False) -> Any:
    parts = urlsplit(dsn)
    return pymysql.connect(
        host="127.0.0.1",
        port=parts.port or 0,
        user="root",
        database="shop",
        charset="utf8mb4",
        autocommit=autocommit,
    )


def states(dsn: str) -> dict[str, int]:
    with closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT state, count(*) FROM dressage_outbox GROUP BY state")
        return dict(cursor.fetchall())


async def all_settled(dsn: str) -> None:
    async def settled() -> bool:
        return "pending" not in await asyncio.to_thread(states, dsn)

    await eventually(settled, "nothing is pending")


def write(dsn: str, run_id: str) -> None:
    """A start and two events, in transactions of their own, and one that is rolled back."""
    with closing(connect(dsn)) as connection:
        outbox.start(connection, collect, {"count": 2}, run_id=run_id)
        connection.commit()
        for number in range(2):
            outbox.post(connection, noted, number, run_id=run_id)
            connection.commit()
        outbox.start(connection, greet, {"name": "x"}, run_id=f"ghost-{run_id}")
        connection.rollback()


async def test_what_is_committed_is_started_and_what_is_refused_is_dead(
    shop: Shop, dsn: str, relay: StartRelay
) -> None:
    with closing(connect(dsn)) as connection:
        outbox.start(connection, greet, {"name": "Ädä 🐎"}, run_id="ada %?")
        outbox.start(connection, "greet", {"nom": "x"}, run_id="bob")
        connection.commit()
    await asyncio.to_thread(write, dsn, "r0")
    running = relay(dsn)
    assert await shop.result("ada %?") == "Ädä 🐎"
    assert await shop.result("r0") == [0, 1]
    await all_settled(dsn)
    assert states(dsn) == {"sent": 4, "dead": 1}
    await running.reaches("dead", 1)
    db = await open_db(dsn)
    table = Table("mysql")
    ((code, message_id),) = [(each.code, each.id) for each in await table.dead(db, 10)]
    assert code == "INPUT_INVALID"
    assert await table.retry(db, [message_id]) == 1
    await db.commit()
    await db.close()
    await all_settled(dsn)
    await shop.has_started("ada %?", "r0")


async def test_of_a_key_only_who_has_the_oldest_row_has_any(dsn: str) -> None:
    with closing(connect(dsn)) as connection:
        for number, key in enumerate(["a", "a", "b", "A"]):
            outbox.start(connection, "greet", {"name": str(number)}, run_id=key)
        connection.commit()
    store = await store_of(dsn)()
    first, second = await store.taker(), await store.taker()
    one = await first.take(1)
    two = await second.take(10)
    assert [row.ordering_key for row in one.rows] == ["a"]
    assert [row.ordering_key for row in two.rows] == ["b", "A"]
    await one.settle(Outcome(sent=list(one.rows)))
    await two.close()
    assert len((await first.take(10)).rows) == 3
    for each in (first, second):
        await each.close()
    await store.close()


@pytest.mark.faults
@pytest.mark.slow
async def test_relays_are_killed_under_load(shop: Shop, dsn: str, process: StartProcess) -> None:
    chance = random.Random(3)

    async def load() -> None:
        for number in range(RUNS):
            await asyncio.to_thread(write, dsn, f"r{number}")
            await asyncio.sleep(chance.random() * 0.2)

    writing = asyncio.create_task(load())
    kills = 0
    while not writing.done():
        first, second = await process(dsn), await process(dsn)
        before = states(dsn).get("sent", 0)

        async def more_sent(before: int = before) -> bool:
            return await asyncio.to_thread(states, dsn) != {"sent": before} or writing.done()

        await eventually(more_sent, "something is sent")
        await asyncio.sleep(chance.random() * 0.5)
        for each in (first, second):
            await each.kill()
        kills += 1
    await writing
    assert kills > 1
    await process(dsn)
    await all_settled(dsn)
    for number in range(RUNS):
        assert await shop.result(f"r{number}") == [0, 1]
    await shop.has_started(*(f"r{number}" for number in range(RUNS)))


def test_an_effect_happens_once(dsn: str) -> None:
    with closing(connect(dsn)) as connection:
        assert inbox.once(connection, "m1")
        connection.rollback()
        once = inbox.once(connection, "m1")
        assert once
        once.keep("kept")
        connection.commit()
        assert not inbox.once(connection, "m1")
        assert inbox.once(connection, "M1")
        connection.commit()
    with closing(connect(dsn, autocommit=True)) as connection:
        with pytest.raises(BadInput, match="begin"):
            inbox.once(connection, "m2")
        connection.begin()
        assert inbox.once(connection, "m1").result == "kept"


async def test_two_that_come_at_once_are_one_effect(dsn: str) -> None:
    def book() -> bool:
        with closing(connect(dsn)) as connection:
            once = bool(inbox.once(connection, "m1"))
            connection.commit()
            return once

    assert sorted(await asyncio.gather(*(asyncio.to_thread(book) for _ in range(4)))) == [False] * 3 + [True]


def test_a_session_of_sqlalchemy(dsn: str) -> None:
    engine = create_engine(dsn.replace("mysql://", "mysql+pymysql://"))
    with Session(engine) as session, session.begin():
        outbox.start(session, greet, {"name": "Ada"})
        assert inbox.once(session, "m1")
    with Session(engine) as session, session.begin():
        assert not inbox.once(session, "m1")
    engine.dispose()
    assert states(dsn) == {"pending": 1}


async def test_a_missing_table_is_told(shop: Shop, server: str) -> None:
    relay = Relay(shop.nats.url, store_of(server), QUICK)
    with pytest.raises(SchemaMissing, match="dialect mysql"):
        await asyncio.wait_for(relay.run(), 20)
