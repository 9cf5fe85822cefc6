"""Buckets (ADR-8) and age limits: the store of run states, the definitions, and who is alive."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    Place,
    World,
    eventually_is,
    new_bucket,
    new_place,
    refusal,
)

from dressage.brokers.interface import WRONG_LAST_SEQUENCE, Connection, ConsumerConfig, all_of

pytestmark = pytest.mark.anyio

AGE_S = 0.5


async def test_a_key_has_its_last_value_only(bucket: Place) -> None:
    for data in (b"1", b"2", b"3"):
        await bucket.put("run.0.a", data)
    await bucket.put("run.0.b", b"x")
    assert await bucket.last("run.0.a") == b"3"
    assert await bucket.contents() == [(3, "run.0.a", b"3"), (4, "run.0.b", b"x")]


async def test_a_key_that_is_not_there_is_nothing(bucket: Place) -> None:
    assert await bucket.last("run.0.a") is None


async def test_many_keys_can_be_asked_for_at_once(bucket: Place) -> None:
    await bucket.batch(*(bucket.message(f"run.0.{n}", b"%d" % n) for n in range(50)))
    asked = [bucket.connection.request_last(bucket.stream, bucket.at(f"run.0.{n}")) for n in range(51)]
    found = await asyncio.gather(*asked)
    assert [message.data if message else None for message in found] == [b"%d" % n for n in range(50)] + [None]


async def test_keys_are_listed_by_family(bucket: Place) -> None:
    for tail in ("run.0.a", "run.0.b", "run.1.a", "fence.0"):
        await bucket.put(tail)
    state = await bucket.connection.stream_state(bucket.stream, subjects=bucket.at("run.0.*"))
    assert state is not None
    assert set(state.subjects) == {bucket.at("run.0.a"), bucket.at("run.0.b")}


async def test_a_key_is_created_once(bucket: Place) -> None:
    assert await refusal(bucket.put("workflow.w.1", expect=0)) == 0
    assert await refusal(bucket.put("workflow.w.1", expect=0)) == WRONG_LAST_SEQUENCE


async def test_a_key_is_changed_under_compare_and_set(bucket: Place) -> None:
    seq = await bucket.put("workflow.w", b"1")
    assert await refusal(bucket.put("workflow.w", b"2", expect=seq)) == 0
    assert await refusal(bucket.put("workflow.w", b"2 too", expect=seq)) == WRONG_LAST_SEQUENCE
    assert await bucket.last("workflow.w") == b"2"


async def test_puts_are_fenced_on_one_key(bucket: Place, other: Connection) -> None:
    """A replaced owner writes no state, not even of a key that does not exist (PROTOCOL.md, H4)."""
    fence = await bucket.put("fence.0", b"A")
    waiting = [
        bucket.connection.send(bucket.message(f"run.0.{n}", b"A", expect=(fence, "fence.0")))
        for n in range(8)
    ]
    await all_of(waiting)
    await other.publish(bucket.message("fence.0", b"B", expect=fence, rollup=True))
    assert await refusal(bucket.put("run.0.0", b"late", expect=(fence, "fence.0"))) == WRONG_LAST_SEQUENCE
    assert await refusal(bucket.put("run.0.new", b"late", expect=(fence, "fence.0"))) == WRONG_LAST_SEQUENCE
    assert await bucket.last("run.0.0") == b"A"
    assert await bucket.last("run.0.new") is None


async def test_a_batch_of_puts_is_fenced_as_one(bucket: Place) -> None:
    fence = await bucket.put("fence.0")
    batch = [bucket.message(f"run.0.{n}", b"1", expect=(fence, "fence.0")) for n in range(5)]
    await bucket.batch(*batch)
    await bucket.put("fence.0")
    for message in batch:
        message.data = b"late"
    assert await refusal(bucket.batch(*batch)) == WRONG_LAST_SEQUENCE
    assert {data for _, _, data in await bucket.contents("run.0.*")} == {b"1"}


async def test_a_key_twice_in_a_batch_keeps_its_last_value(bucket: Place) -> None:
    await bucket.batch(bucket.message("run.0.a", b"1"), bucket.message("run.0.a", b"2"))
    assert await bucket.contents() == [(2, "run.0.a", b"2")]


async def test_a_limit_per_subject_drops_the_oldest(world: World, connection: Connection) -> None:
    bucket = await new_bucket(world, connection, per_subject_max=3)
    for n in range(5):
        await bucket.put("k", b"%d" % n)
    assert [data for _, _, data in await bucket.contents()] == [b"2", b"3", b"4"]


async def test_a_replaced_value_that_was_out_is_closed(bucket: Place) -> None:
    """A limit of the stream takes the message away: it is as good as acknowledged."""
    await bucket.connection.create_consumer(bucket.stream, ConsumerConfig("c", [bucket.at("k")]))
    taken = await bucket.pull("c")
    await bucket.put("k", b"1")
    await taken.count(1)
    await bucket.put("k", b"2")
    await taken.count(2)
    await eventually_is(lambda: bucket.ack_floor("c"), 1)


async def test_what_is_too_old_goes(world: World, connection: Connection) -> None:
    """An orchestrator that does not renew its entry is dead."""
    bucket = await new_bucket(world, connection, max_age_s=AGE_S, message_ttl=False)
    await bucket.put("dead")
    await asyncio.sleep(0.6 * AGE_S)
    await bucket.put("alive")
    assert await bucket.tails() == ["dead", "alive"]
    await eventually_is(bucket.tails, ["alive"])
    assert await bucket.last("dead") is None
    await eventually_is(bucket.tails, [])
    assert await bucket.put("alive", expect=0) == 3


async def test_what_never_expires_stays(world: World, connection: Connection) -> None:
    """The position of the events must outlive the events."""
    place = await new_place(world, connection, max_age_s=AGE_S)
    await place.put("cmd.a")
    await place.batch(
        place.message("cmd.b"),
        place.message("cursor", b"position", never_expires=True, rollup=True, expect=0),
    )
    await place.put("cmd.c")
    await eventually_is(place.tails, ["cursor"])
    assert await place.last("cursor") == b"position"
    await place.put("cursor", b"next", never_expires=True, rollup=True, expect=3)
    assert await place.contents() == [(5, "cursor", b"next")]


async def test_what_expired_unread_is_not_delivered(world: World, connection: Connection) -> None:
    place = await new_place(world, connection, max_age_s=AGE_S)
    consumer = await place.consumer("c")
    await place.put("cmd.a", b"old")
    await eventually_is(place.tails, [])
    await place.put("cmd.a", b"new")
    taken = await place.pull(consumer)
    (delivery,) = await taken.count(1)
    assert (delivery.data, delivery.consumer_seq) == (b"new", 1)


async def test_what_expires_goes_by_itself_and_takes_nothing_that_was_put_behind_it(bucket: Place) -> None:
    """A key is emptied under the fence, and the empty message goes: what is written behind it stays."""
    fence = await bucket.put("fence.0")
    for key in ("a", "b"):
        await bucket.put(f"run.0.{key}", b"1")
    empty = [
        bucket.message(
            f"run.0.{key}",
            headers={"KV-Operation": "PURGE"},
            rollup=True,
            expires_s=1,
            expect=(fence, "fence.0"),
        )
        for key in ("a", "b")
    ]
    for message in empty:
        await bucket.connection.publish(message)
    assert await bucket.last("run.0.a") == b""
    await bucket.put("run.0.b", b"2")
    await eventually_is(bucket.tails, ["fence.0", "run.0.b"])
    assert await bucket.last("run.0.b") == b"2"
    await bucket.put("fence.0")
    assert await refusal(bucket.connection.publish(empty[0])) == WRONG_LAST_SEQUENCE
