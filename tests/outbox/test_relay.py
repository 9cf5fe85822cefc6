"""What was committed becomes one run or one event; what was rolled back becomes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import psycopg
import pytest
from tests.outbox.conftest import (  # pyright: ignore[reportMissingImports]
    QUICK,
    Shop,
    await_payment,
    collect,
    engine,
    eventually,
    greet,
    noted,
    paid,
)

from dressage import outbox
from dressage.brokers.embedded import EmbeddedServer
from dressage.flow import workflow
from dressage.outbox.messages import Start, encode_message
from dressage.outbox.relay import RelayOptions
from dressage.outbox.relay.dsn import store_of
from dressage.outbox.relay.faults import SchemaMissing
from dressage.outbox.relay.relay import Relay
from dressage.outbox.relay.store import Outcome, Row, Verdict
from dressage.protocol.errors import OutcomeUnknown

if TYPE_CHECKING:
    from tests.outbox.conftest import StartRelay  # pyright: ignore[reportMissingImports]


def states(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        return dict(
            connection.execute("SELECT state, count(*) FROM dressage_outbox GROUP BY state").fetchall()
        )


async def all_settled(dsn: str) -> None:
    async def settled() -> bool:
        return "pending" not in await asyncio.to_thread(states, dsn)

    await eventually(settled, "nothing is pending")


async def test_what_is_committed_is_started_and_what_is_rolled_back_is_not(
    shop: Shop, dsn: str, relay: StartRelay
) -> None:
    with psycopg.connect(dsn) as connection:
        outbox.start(connection, greet, {"name": "Ada"}, run_id="ada")
        connection.commit()
        outbox.start(connection, greet, {"name": "nobody"}, run_id="nobody")
        connection.rollback()
        sent = outbox.start(connection, "greet", {"name": "Bob"})
    relay(dsn)
    await shop.has_started("ada", sent.run_id)
    assert await shop.result("ada") == "Ada"
    await all_settled(dsn)
    assert states(dsn) == {"sent": 2}


async def test_events_reach_a_run_and_a_key_in_order(shop: Shop, dsn: str, relay: StartRelay) -> None:
    with psycopg.connect(dsn) as connection:
        outbox.start(connection, collect, {"count": 30}, run_id="c")
        outbox.start(connection, await_payment, {"order": "o-1"}, run_id="p")
        for number in range(30):
            outbox.post(connection, noted, number, run_id="c")
        outbox.post(connection, paid, "in full", key="o-1")
    relay(dsn)
    assert await shop.result("c") == list(range(30))
    assert await shop.result("p") == "in full"


async def test_a_row_that_was_accepted_and_not_marked_is_no_second_run(
    shop: Shop, dsn: str, relay: StartRelay
) -> None:
    with psycopg.connect(dsn) as connection:
        sent = outbox.start(connection, greet, {"name": "Ada"}, run_id="ada")
    await shop.client.start(greet, {"name": "Ada"}, run_id="ada", command_id=sent.id)
    relay(dsn)
    await all_settled(dsn)
    assert states(dsn) == {"sent": 1}
    await shop.has_started("ada")


async def test_a_repeat_is_the_same_run_though_another_version_came_meanwhile(
    shop: Shop, dsn: str, relay: StartRelay
) -> None:
    with psycopg.connect(dsn) as connection:
        sent = outbox.start(connection, "greet", {"name": "Ada"}, run_id="ada")
    await shop.client.start(greet, {"name": "Ada"}, run_id="ada", command_id=sent.id)

    @workflow(name="greet")
    async def greet_loudly(name: str, excited: bool = True) -> str:
        return name

    await shop.client.register(greet_loudly)
    relay(dsn)
    await all_settled(dsn)
    assert states(dsn) == {"sent": 1}


async def test_a_refused_row_is_dead_and_holds_nobody_up(shop: Shop, dsn: str, relay: StartRelay) -> None:
    await shop.client.start(greet, {"name": "Ada"}, run_id="ada")
    with psycopg.connect(dsn) as connection:
        outbox.start(connection, greet, {"name": "Eve"}, run_id="ada")
        outbox.start(connection, greet, {"name": "Ada"}, run_id="ada")
        outbox.start(connection, "greet", {"nom": "Bob"}, run_id="bob")
        connection.execute("INSERT INTO dressage_outbox (id, ordering_key, message) VALUES ('x', 'x', '{}')")
    running = relay(dsn)
    await all_settled(dsn)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT code, reason FROM dressage_outbox WHERE state = 'dead' ORDER BY seq"
        )
        codes = [code for code, reason in found if reason]
    assert codes == ["RUN_ID_CONFLICT", "INPUT_INVALID", "OUTBOX_MESSAGE_MALFORMED"]
    assert states(dsn) == {"sent": 1, "dead": 3}
    await running.reaches("dead", 3)
    await running.reaches("dead_letters_total", 1, code="INPUT_INVALID")


async def test_a_start_waits_for_its_workflow_and_holds_up_its_key_alone(
    shop: Shop, dsn: str, relay: StartRelay
) -> None:
    @workflow(name="later")
    async def later(n: int) -> int:
        value = await noted.wait()
        return value + n

    with psycopg.connect(dsn) as connection:
        outbox.start(connection, later, {"n": 1}, run_id="waits")
        outbox.post(connection, noted, 41, run_id="waits")
        outbox.start(connection, greet, {"name": "Ada"}, run_id="ada")
    running = relay(dsn)
    await shop.has_started("ada")
    await running.reaches("pending", 2)
    await running.reaches("retries_total", 1, code="WORKFLOW_UNKNOWN")
    await shop.client.register(later)
    assert await shop.result("waits") == 42


async def test_rows_wait_for_an_engine(nats: EmbeddedServer, dsn: str, relay: StartRelay) -> None:
    with psycopg.connect(dsn) as connection:
        outbox.start(connection, greet, {"name": "Ada"}, run_id="ada")
    running = relay(dsn)
    async with engine(nats, greet) as client:
        assert await Shop(nats, client).result("ada") == "Ada"
        await all_settled(dsn)
    await running.stop()


async def test_sent_rows_are_removed_after_their_time(shop: Shop, dsn: str, relay: StartRelay) -> None:
    with psycopg.connect(dsn) as connection:
        for number in range(50):
            outbox.start(connection, greet, {"name": "Ada"}, run_id=f"ada-{number}")
    relay(dsn, RelayOptions(look_every_s=0.1, keep_sent_s=0.5))

    async def gone() -> bool:
        return await asyncio.to_thread(states, dsn) == {}

    await eventually(gone, "no rows are left")
    assert len(await shop.starts()) == 50


async def test_a_missing_table_is_told_at_once(shop: Shop, empty_dsn: str) -> None:
    relay = Relay(shop.nats.url, store_of(empty_dsn), QUICK)
    with pytest.raises(SchemaMissing, match="dressage outbox schema"):
        await asyncio.wait_for(relay.run(), 20)


# -- who may take what -----------------------------------------------------------------------------
async def fill(dsn: str, *keys: str) -> None:
    with psycopg.connect(dsn) as connection:
        for number, key in enumerate(keys, 1):
            text = encode_message(Start(f"m{number}", "greet", key, msgspec.Raw(b"{}")))
            connection.execute(
                "INSERT INTO dressage_outbox (id, ordering_key, message) VALUES (%s, %s, %s)",
                (f"m{number}", key, text),
            )


async def test_of_a_key_only_who_has_the_oldest_row_has_any(dsn: str) -> None:
    await fill(dsn, "a", "a", "b", "a", "c")
    store = await store_of(dsn)()
    first, second = await store.taker(), await store.taker()
    try:
        one = await first.take(1)
        two = await second.take(10)
        assert [row.id for row in one.rows] == ["m1"]
        assert [row.id for row in two.rows] == ["m3", "m5"]
        await one.settle(Outcome(sent=list(one.rows)))
        await two.close()
        three = await first.take(10)
        assert [row.id for row in three.rows] == ["m2", "m3", "m4", "m5"]
        await three.close()
    finally:
        for each in (first, second):
            await each.close()
        await store.close()


async def test_a_row_that_is_put_off_holds_up_those_behind_it(dsn: str) -> None:
    await fill(dsn, "a", "a", "b")
    store = await store_of(dsn)()
    taker = await store.taker()
    try:
        batch = await taker.take(1)
        await batch.settle(Outcome(later=[(batch.rows[0], Verdict("WORKFLOW_UNKNOWN", "none", 60_000))]))
        assert [row.id for row in (await taker.take(10)).rows] == ["m3"]
    finally:
        await taker.close()
        await store.close()


async def test_a_row_behind_one_of_unknown_outcome_is_not_sent(dsn: str) -> None:
    class Breaks:
        async def send(self, row: Row) -> Verdict | None:
            if row.id == "m2":
                raise OutcomeUnknown("no reply")
            return None

    await fill(dsn, "a", "a", "a", "b")
    store = await store_of(dsn)()
    taker = await store.taker()
    try:
        batch = await taker.take(10)
        outcome = await Relay("nats://nobody", store_of(dsn)).deal(batch.rows, Breaks())
        assert sorted(row.id for row in outcome.sent) == ["m1", "m4"]
        await batch.settle(outcome)
        assert [row.id for row in (await taker.take(10)).rows] == ["m2", "m3"]
    finally:
        await taker.close()
        await store.close()


async def test_large_messages_come_in_smaller_batches(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dressage.outbox.relay.sql.BATCH_BYTES_MAX", 100_000)
    with psycopg.connect(dsn) as connection:
        for number in range(4):
            outbox.start(connection, "greet", {"name": "x" * 60_000}, run_id=f"r{number}")
    store = await store_of(dsn)()
    taker = await store.taker()
    try:
        batch = await taker.take(10)
        assert [len(row.message) > 60_000 for row in batch.rows] == [True]
    finally:
        await taker.close()
        await store.close()


async def test_hundreds_of_rows_that_have_to_wait_hold_up_no_other_key(dsn: str) -> None:
    await fill(dsn, *["a"] * 60, *["b"] * 60, "c", "d")
    store = await store_of(dsn)()
    taker = await store.taker()
    try:
        batch = await taker.take(1)
        await batch.settle(Outcome(later=[(batch.rows[0], Verdict("WORKFLOW_UNKNOWN", "none", 60_000))]))
        held = await taker.take(5)
        assert {row.ordering_key for row in held.rows} == {"b"}
        # Somebody else has the first rows of b, too: what comes first belongs to keys that have to wait.
        assert [row.ordering_key for row in await store_rows(dsn, 10)] == ["c", "d"]
    finally:
        await taker.close()
        await store.close()


async def store_rows(dsn: str, limit: int) -> list[Row]:
    """What a third one would take."""
    store = await store_of(dsn)()
    taker = await store.taker()
    batch = await taker.take(limit)
    rows = list(batch.rows)
    await taker.close()
    await store.close()
    return rows


async def test_a_batch_has_some_rows_of_a_key_and_not_all(dsn: str) -> None:
    await fill(dsn, *["a"] * 120, "b")
    rows = await store_rows(dsn, 500)
    assert [row.id for row in rows] == [*(f"m{number}" for number in range(1, 51)), "m121"]
