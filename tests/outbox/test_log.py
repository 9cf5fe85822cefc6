"""The same by PostgreSQL's log: entries of what was committed, and no row."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.outbox.conftest import (  # pyright: ignore[reportMissingImports]
    QUICK,
    RunningRelay,
    Shop,
    collect,
    engine,
    eventually,
    greet,
    noted,
)
from tests.outbox.test_kills import KILLS, LONG, Load, check, kill_relays  # pyright: ignore[reportMissingImports]
from tests.outbox.test_relay import states  # pyright: ignore[reportMissingImports]

from dressage import outbox
from dressage.brokers.embedded import EmbeddedServer
from dressage.flow import workflow
from dressage.outbox import SlotMissing
from dressage.outbox.relay import slot as slots
from dressage.outbox.relay.dsn import open_db
from dressage.outbox.relay.log import Window
from dressage.protocol.errors import BadInput

if TYPE_CHECKING:
    from tests.outbox.conftest import StartProcess, StartRelay  # pyright: ignore[reportMissingImports]


@pytest.fixture
async def slot(dsn: str) -> str:
    """A database whose log is kept for a relay."""
    db = await open_db(dsn)
    assert await slots.create(db)
    assert not await slots.create(db)
    await db.close()
    return dsn


def unread(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        ((lag,),) = connection.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots "
            "WHERE database = current_database()"
        )
    return int(lag)


def log_relay(relay: StartRelay, dsn: str) -> RunningRelay:
    return relay(dsn, QUICK, log=True)


async def test_what_is_committed_is_started_and_what_is_rolled_back_is_not(
    shop: Shop, slot: str, relay: StartRelay
) -> None:
    log_relay(relay, slot)
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, collect, {"count": 20}, run_id="c")
        connection.commit()
        outbox.log.start(connection, greet, {"name": "nobody"}, run_id="nobody")
        connection.rollback()
        for number in range(20):
            outbox.log.post(connection, noted, number, run_id="c")
    assert await shop.result("c") == list(range(20))
    await shop.has_started("c")
    assert states(slot) == {}


async def test_entries_from_before_the_relay_are_sent_and_not_again_after_it(
    shop: Shop, slot: str, relay: StartRelay
) -> None:
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, greet, {"name": "Ada"}, run_id="ada")
    first = log_relay(relay, slot)
    assert await shop.result("ada") == "Ada"
    await first.stop()
    second = log_relay(relay, slot)
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, greet, {"name": "Bob"}, run_id="bob")
    assert await shop.result("bob") == "Bob"
    assert second.metric("sent_total") == 1


async def test_without_a_slot_nothing_is_written(dsn: str) -> None:
    with psycopg.connect(dsn) as connection, pytest.raises(SlotMissing, match="slot create"):
        outbox.log.start(connection, greet, {"name": "Ada"})


async def test_a_relay_without_a_slot_says_so(shop: Shop, dsn: str, relay: StartRelay) -> None:
    running = log_relay(relay, dsn)
    with pytest.raises(Exception, match="OUTBOX_SLOT_MISSING"):
        await asyncio.wait_for(asyncio.shield(running.task), 20)
    relay.forget(running)


async def test_what_is_refused_goes_to_the_table_and_the_log_goes_on(
    shop: Shop, slot: str, relay: StartRelay
) -> None:
    running = log_relay(relay, slot)
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, "greet", {"nom": "Ada"}, run_id="ada")
        connection.execute("SELECT pg_logical_emit_message(true, 'dressage-outbox', 'no json')")
        connection.execute("SELECT pg_logical_emit_message(true, 'somebody-else', 'no json')")
        outbox.log.start(connection, greet, {"name": "Bob"}, run_id="bob")
    assert await shop.result("bob") == "Bob"
    await running.reaches("dead", 2)
    assert states(slot) == {"dead": 2}


async def test_what_waits_for_its_workflow_keeps_the_order_of_its_key_and_not_the_log(
    shop: Shop, slot: str, relay: StartRelay
) -> None:
    @workflow(name="later")
    async def later(count: int) -> list[int]:
        seen: list[int] = []
        while len(seen) < count:
            value = await noted.wait()
            seen = [*seen, value]
        return seen

    running = log_relay(relay, slot)
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, later, {"count": 5}, run_id="waits")
        for number in range(5):
            outbox.log.post(connection, noted, number, run_id="waits")
            connection.commit()
    await running.reaches("pending", 6)
    await running.stop()
    await shop.client.register(later)
    log_relay(relay, slot)
    assert await shop.result("waits") == [0, 1, 2, 3, 4]


async def test_entries_wait_for_an_engine(nats: EmbeddedServer, slot: str, relay: StartRelay) -> None:
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, greet, {"name": "Ada"}, run_id="ada")
    running = log_relay(relay, slot)
    async with engine(nats, greet) as client:
        assert await Shop(nats, client).result("ada") == "Ada"
    await running.stop()


async def test_a_relay_that_stands_by_takes_over(shop: Shop, slot: str, process: StartProcess) -> None:
    first, _ = await process(slot, "--log"), await process(slot, "--log")
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, greet, {"name": "Ada"}, run_id="ada")
    assert await shop.result("ada") == "Ada"
    await first.kill()
    with psycopg.connect(slot) as connection:
        outbox.log.start(connection, greet, {"name": "Bob"}, run_id="bob")
    assert await shop.result("bob") == "Bob"


async def test_to_stand_by_is_no_fault(
    shop: Shop, slot: str, relay: StartRelay, caplog: pytest.LogCaptureFixture
) -> None:
    """One with a fault pauses, and would take over as slowly."""
    caplog.set_level(logging.INFO, "dressage.outbox")
    first, second = log_relay(relay, slot), log_relay(relay, slot)

    async def one_stands_by() -> bool:
        return "another relay reads the log" in caplog.text

    await eventually(one_stands_by, "one stands by")
    for number in range(3):
        with psycopg.connect(slot) as connection:
            outbox.log.start(connection, collect, {"count": 0}, run_id=f"by-{number}")
    for number in range(3):
        assert await shop.result(f"by-{number}") == []
    faults = [each.metric("faults_total", code="OUTBOX_STORE_FAULT") for each in (first, second)]
    assert faults == [0.0, 0.0]


async def test_the_slot_lets_go_of_the_log_of_others(shop: Shop, slot: str, relay: StartRelay) -> None:
    log_relay(relay, slot)
    with psycopg.connect(slot) as connection:
        connection.execute("CREATE TABLE other AS SELECT generate_series(1, 20000) AS n")
    assert unread(slot) >= 0

    async def caught_up() -> bool:
        return await asyncio.to_thread(unread, slot) < 100_000

    await eventually(caught_up, "the slot has nothing to keep")


async def test_only_postgresql_has_a_log() -> None:
    import sqlite3

    connection = sqlite3.connect(":memory:")
    with pytest.raises(BadInput, match="only PostgreSQL"):
        outbox.log.start(connection, greet, {"name": "Ada"})
    connection.close()


def test_a_transaction_is_confirmed_when_it_and_all_before_it_are_settled() -> None:
    window = Window()
    first = window.add()
    window.add()
    window.committed(10)
    second = window.add()
    window.committed(20)
    window.nothing_before(25)
    window.settled(second)
    assert window.confirmed == 0
    window.settled(first)
    assert window.confirmed == 0
    window.settled(first)
    assert window.confirmed == 20
    third = window.add()
    window.nothing_before(30)
    assert window.confirmed == 20
    window.settled(third)
    window.committed(40)
    assert window.confirmed == 40


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900 if LONG else 180)
async def test_relays_of_the_log_are_killed_under_load(shop: Shop, slot: str, process: StartProcess) -> None:
    load = Load(slot, outbox.log)
    load.start()
    progress = asyncio.get_running_loop()
    try:
        await kill_relays(slot, process, partial(started, shop, progress), KILLS, "--log")
    finally:
        await asyncio.to_thread(load.stop)
    await check(shop, load)


def started(shop: Shop, loop: asyncio.AbstractEventLoop) -> int:
    return sum(asyncio.run_coroutine_threadsafe(shop.starts(), loop).result(30).values())
