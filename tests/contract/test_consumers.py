"""Pull consumers: what they deliver, acknowledgements, redelivery, and the floor that purges go by."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    QUIET_S,
    Place,
    Taken,
    eventually,
    eventually_is,
    refusal,
)

from dressage.brokers.interface import CONSUMER_DELETED, Connection, ConsumerConfig
from dressage.protocol.errors import BrokerError, PublishRefused

pytestmark = pytest.mark.anyio

SHORT_S = 0.4
"""An ack wait that a test can sit out."""


async def fill(place: Place, count: int, tail: str = "cmd.a") -> None:
    await place.batch(*(place.message(tail, b"%d" % n) for n in range(1, count + 1)))


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(1, count + 1)]


# -- delivering ------------------------------------------------------------------------------------------------
async def test_what_was_there_before_and_what_comes_after_is_delivered_in_order(place: Place) -> None:
    await fill(place, 5)
    taken = await place.pull(await place.consumer("c"))
    await taken.count(5)
    await fill(place, 3, "cmd.b")
    deliveries = await taken.count(8)
    assert taken.data == numbers(5) + numbers(3)
    assert [each.consumer_seq for each in deliveries] == list(range(1, 9))
    assert {each.attempts for each in deliveries} == {1}


async def test_a_consumer_sees_its_own_subjects_only(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", "task.q"))
    for tail in ("cmd.a", "task.q", "task.other", "task.q"):
        await place.put(tail)
    deliveries = await taken.count(2)
    assert [each.stream_seq for each in deliveries] == [2, 4]
    assert [each.consumer_seq for each in deliveries] == [1, 2]
    await taken.no_more_than(2)


async def test_a_consumer_may_have_several_subjects(place: Place) -> None:
    await place.connection.create_consumer(
        place.stream, ConsumerConfig("c", [place.at("cmd.*"), place.at("send.1.*")])
    )
    for tail in ("cmd.a", "send.1.a", "send.2.a", "cmd.b"):
        await place.put(tail)
    deliveries = await (await place.pull("c")).count(3)
    assert [each.stream_seq for each in deliveries] == [1, 2, 4]


async def test_a_consumer_without_filters_sees_everything(place: Place) -> None:
    await place.connection.create_consumer(place.stream, ConsumerConfig("c", []))
    for tail in ("cmd.a", "task.q", "cursor"):
        await place.put(tail)
    await (await place.pull("c")).count(3)


async def test_a_consumer_begins_where_it_is_told_to(place: Place) -> None:
    await fill(place, 6)
    taken = await place.pull(await place.consumer("c", start_seq=4))
    assert [each.stream_seq for each in await taken.count(3)] == [4, 5, 6]
    assert [each.consumer_seq for each in taken.deliveries] == [1, 2, 3]


async def test_a_consumer_that_begins_in_the_future_waits_for_it(place: Place) -> None:
    await fill(place, 2)
    taken = await place.pull(await place.consumer("c", start_seq=4))
    await fill(place, 3)
    assert [each.stream_seq for each in await taken.count(2)] == [4, 5]


async def test_a_consumer_that_begins_at_what_is_gone_begins_at_what_is_left(place: Place) -> None:
    await fill(place, 6)
    await place.connection.purge(place.stream, place.at(">"), 5)
    taken = await place.pull(await place.consumer("c", start_seq=2))
    assert [each.stream_seq for each in await taken.count(2)] == [5, 6]


async def test_a_consumer_begins_at_a_time(place: Place) -> None:
    """With what was stored then or later, by the clock of the stream's leader."""
    await fill(place, 3)
    await asyncio.sleep(0.05)
    await fill(place, 3)
    everything = await (await place.pull(await place.consumer("all"))).count(6)
    earlier, later = (each.time_ns for each in everything[2:4])
    for name, time_ns in (("between", (earlier + later) // 2), ("exactly", later)):
        taken = await place.pull(await place.consumer(name, start_time=rfc3339(time_ns)))
        assert [each.stream_seq for each in await taken.count(3)] == [4, 5, 6]
        assert [each.consumer_seq for each in taken.deliveries] == [1, 2, 3]


async def test_a_consumer_that_begins_at_a_time_of_which_nothing_is_left(place: Place) -> None:
    await fill(place, 6)
    (first,) = await (await place.pull(await place.consumer("all"), window=1)).count(1)
    await place.connection.purge(place.stream, place.at(">"), 5)
    taken = await place.pull(await place.consumer("c", start_time=rfc3339(first.time_ns)))
    assert [each.stream_seq for each in await taken.count(2)] == [5, 6]


async def test_a_consumer_that_begins_later_takes_what_comes_then(place: Place) -> None:
    await fill(place, 2)
    deliveries = await (await place.pull(await place.consumer("all"))).count(2)
    after = rfc3339(deliveries[-1].time_ns + 1)
    taken = await place.pull(await place.consumer("c", start_time=after))
    await fill(place, 2)
    assert [each.stream_seq for each in await taken.count(2)] == [3, 4]


def rfc3339(time_ns: int) -> str:
    whole = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % 1_000_000_000:09d}Z"


async def test_no_more_comes_than_the_window_allows(place: Place) -> None:
    await fill(place, 20)
    taken = await place.pull(await place.consumer("c"), window=4)
    await taken.count(4)
    await taken.no_more_than(4)
    assert taken.pull is not None
    await taken.pull.taken(4)
    await eventually(lambda: len(taken.deliveries) == 8)
    await taken.no_more_than(8)


async def test_acknowledging_alone_makes_no_room_in_the_window(place: Place) -> None:
    await fill(place, 4)
    taken = await place.pull(await place.consumer("c"), window=2)
    await taken.count(2)
    await taken.ack(0, 1)
    await taken.no_more_than(2)


async def test_two_pulls_share_the_messages(place: Place, other: Connection) -> None:
    consumer = await place.consumer("c")
    mine, theirs = await place.pull(consumer, window=50), await place.pull(consumer, 50, other)
    await other.stream_state(place.stream)  # By then what it asked for has arrived.
    await fill(place, 40)
    await eventually(lambda: len(mine.deliveries) + len(theirs.deliveries) >= 40)
    seqs = sorted(each.stream_seq for each in [*mine.deliveries, *theirs.deliveries])
    assert seqs == list(range(1, 41))
    assert mine.deliveries
    assert theirs.deliveries


async def test_a_closed_pull_gets_nothing_more(place: Place) -> None:
    consumer = await place.consumer("c")
    closed = await place.pull(consumer)
    await closed.close()
    open_ = await place.pull(consumer)
    await fill(place, 10)
    await open_.count(10)
    assert closed.deliveries == []
    assert closed.ends == []


async def test_a_delivery_tells_when_its_message_was_stored(place: Place) -> None:
    await place.put("cmd.a")
    (first,) = await (await place.pull(await place.consumer("c"))).count(1)
    (second,) = await (await place.pull(await place.consumer("d"))).count(1)
    assert first.time_ns == second.time_ns
    assert (first.headers, first.subject) == (None, place.at("cmd.a"))


async def test_a_consumer_that_wants_no_acks_gets_everything_once(place: Place) -> None:
    await fill(place, 5)
    consumer = await place.consumer("c", explicit_ack=False, durable=False, memory=True, inactive_s=30.0)
    taken = await place.pull(consumer)
    await taken.count(5)
    assert await place.ack_floor(consumer) == 5
    await taken.close()
    again = await place.pull(consumer)
    await again.no_more_than(0)


# -- acknowledging ---------------------------------------------------------------------------------------------
async def test_what_is_acknowledged_does_not_come_again(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", ack_wait_s=SHORT_S))
    await fill(place, 3)
    await taken.count(3)
    await taken.ack(0, 1, 2)
    await asyncio.sleep(2 * SHORT_S)
    await taken.no_more_than(3)


async def test_what_is_not_acknowledged_comes_again(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", ack_wait_s=SHORT_S))
    await fill(place, 3)
    await taken.count(3)
    await taken.ack(1)
    await eventually(lambda: len(taken.deliveries) >= 5)
    again = taken.deliveries[3:5]
    assert [each.stream_seq for each in again] == [1, 3]
    assert [each.consumer_seq for each in again] == [4, 5]
    assert [each.attempts for each in again] == [2, 2]


async def test_attempts_are_counted_up(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", ack_wait_s=SHORT_S))
    await fill(place, 1)
    await eventually(lambda: len(taken.deliveries) >= 3)
    assert [each.attempts for each in taken.deliveries[:3]] == [1, 2, 3]


async def test_a_redelivery_goes_to_whoever_pulls_by_then(place: Place, other: Connection) -> None:
    """A dead worker's tasks go to another one."""
    consumer = await place.consumer("c", ack_wait_s=SHORT_S)
    dead = await place.pull(consumer)
    await fill(place, 3)
    await dead.count(3)
    await dead.close()
    alive = await place.pull(consumer, connection=other)
    await eventually(lambda: len(alive.deliveries) >= 3)
    assert [each.data for each in alive.deliveries[:3]] == numbers(3)
    await alive.ack(0, 1, 2)


async def test_a_sign_of_life_puts_the_redelivery_off(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", ack_wait_s=2 * SHORT_S))
    await fill(place, 1)
    (delivery,) = await taken.count(1)
    for _ in range(8):
        await asyncio.sleep(SHORT_S / 2)
        await place.connection.in_progress(delivery)
    assert len(taken.deliveries) == 1
    await eventually(lambda: len(taken.deliveries) == 2)


async def test_what_is_put_back_comes_again_at_once(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"))
    await fill(place, 2)
    await taken.count(2)
    await place.connection.nak(taken.deliveries[0])
    deliveries = await taken.count(3)
    assert (deliveries[2].stream_seq, deliveries[2].attempts) == (1, 2)


async def test_what_is_put_back_with_a_delay_comes_no_earlier(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"))
    await fill(place, 1)
    await taken.count(1)
    loop = asyncio.get_running_loop()
    before = loop.time()
    await place.connection.nak(taken.deliveries[0], SHORT_S)
    await taken.count(2)
    assert loop.time() - before >= SHORT_S


async def test_what_is_put_back_goes_before_what_is_new(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"), window=1)
    await fill(place, 3)
    await taken.count(1)
    await place.connection.nak(taken.deliveries[0])
    assert taken.pull is not None
    await asyncio.sleep(QUIET_S)
    await taken.pull.taken()
    await taken.count(2)
    assert taken.data == [b"1", b"1"]


async def test_a_second_ack_of_a_redelivered_message_is_as_good_as_the_first(place: Place) -> None:
    consumer = await place.consumer("c", ack_wait_s=SHORT_S)
    taken = await place.pull(consumer)
    await fill(place, 1)
    await eventually(lambda: len(taken.deliveries) == 2)
    await taken.ack(0)
    await eventually_is(lambda: place.ack_floor(consumer), 1)
    count = len(taken.deliveries)
    await asyncio.sleep(2 * SHORT_S)
    await taken.no_more_than(count)


# -- the floor -------------------------------------------------------------------------------------------------
async def test_the_floor_is_below_the_first_that_is_open(place: Place) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    assert await place.ack_floor(consumer) == 0
    await fill(place, 6)
    await taken.count(6)
    await taken.ack(1, 2)
    await taken.no_more_than(6)
    assert await place.ack_floor(consumer) == 0
    await taken.ack(0)
    await eventually_is(lambda: place.ack_floor(consumer), 3)
    await taken.ack(3, 5)
    await eventually_is(lambda: place.ack_floor(consumer), 4)
    await taken.ack(4)
    await eventually_is(lambda: place.ack_floor(consumer), 6)


async def test_the_floor_is_of_the_stream_and_passes_other_subjects(place: Place) -> None:
    consumer = await place.consumer("c", "task.q")
    taken = await place.pull(consumer)
    for tail in ("cmd.a", "task.q", "cmd.a", "task.q", "cmd.a"):
        await place.put(tail)
    await taken.count(2)
    await taken.ack(0)
    await eventually_is(lambda: place.ack_floor(consumer), 3)
    await taken.ack(1)
    await eventually_is(lambda: place.ack_floor(consumer), 4)


async def test_acknowledging_the_second_delivery_moves_the_floor_too(place: Place) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    await fill(place, 2)
    await taken.count(2)
    await place.connection.nak(taken.deliveries[0])
    await taken.count(3)
    await taken.ack(2)
    await eventually_is(lambda: place.ack_floor(consumer), 1)


async def test_the_floor_of_no_consumer_is_an_error(place: Place) -> None:
    with pytest.raises(BrokerError):
        await place.ack_floor("nobody")


# -- back-pressure ---------------------------------------------------------------------------------------------
async def test_so_many_unacknowledged_messages_are_out_and_no_more(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", max_ack_pending=3))
    await fill(place, 6)
    await taken.count(3)
    await taken.no_more_than(3)
    await taken.ack(1)
    await taken.count(4)
    await taken.ack(0, 2)
    await taken.count(6)


async def test_at_the_limit_redeliveries_still_come(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", max_ack_pending=1))
    await fill(place, 2)
    await taken.count(1)
    await place.connection.nak(taken.deliveries[0])
    await taken.count(2)
    assert taken.data == [b"1", b"1"]


# -- making and removing ---------------------------------------------------------------------------------------
async def test_creating_a_consumer_again_keeps_its_state(place: Place) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    await fill(place, 2)
    await taken.count(2)
    await taken.ack(0, 1)
    await eventually_is(lambda: place.ack_floor(consumer), 2)
    await place.consumer("c")
    await fill(place, 1)
    await taken.count(3)
    assert taken.ends == []


async def test_a_consumers_limits_can_be_changed(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", max_ack_pending=1))
    await fill(place, 3)
    await taken.count(1)
    await place.consumer("c", max_ack_pending=2)
    await taken.count(2)


async def test_where_a_consumer_begins_cannot_be_changed(place: Place) -> None:
    await fill(place, 3)
    await place.consumer("c")
    with pytest.raises(PublishRefused):
        await place.consumer("c", start_seq=2)
    with pytest.raises(PublishRefused):
        await place.consumer("c", start_time=rfc3339(0))


async def test_consumers_are_listed_by_name(place: Place) -> None:
    assert await place.connection.consumers(place.stream) == []
    for name in ("b", "a", "c"):
        await place.consumer(name)
    assert sorted(await place.connection.consumers(place.stream)) == ["a", "b", "c"]
    with pytest.raises(BrokerError):
        await place.connection.consumers("no-such-stream")


async def test_deleting_what_is_not_there_is_harmless(place: Place) -> None:
    await place.connection.delete_consumer(place.stream, "nobody")
    with pytest.raises(BrokerError):
        await place.connection.delete_consumer("no-such-stream", "nobody")


async def test_a_consumer_of_no_stream_is_refused(place: Place) -> None:
    config = ConsumerConfig("c", ["x"])
    assert await refusal(place.connection.create_consumer("no-such-stream", config)) == 10059


async def test_a_consumer_of_foreign_subjects_gets_nothing(place: Place) -> None:
    await place.connection.create_consumer(place.stream, ConsumerConfig("c", ["elsewhere.*"]))
    await fill(place, 2)
    await (await place.pull("c")).no_more_than(0)


async def test_subjects_of_one_consumer_that_overlap_are_refused(place: Place) -> None:
    config = ConsumerConfig("c", [place.at("cmd.*"), place.at("cmd.a")])
    assert await refusal(place.connection.create_consumer(place.stream, config)) == 10138


async def test_a_pull_from_no_consumer_ends(place: Place) -> None:
    taken = await place.pull("nobody")
    await eventually(lambda: taken.ends)
    assert "no responders" in taken.ends[0]


async def test_a_consumer_that_nobody_uses_goes_away(place: Place) -> None:
    consumer = await place.consumer("c", durable=False, explicit_ack=False, memory=True, inactive_s=SHORT_S)
    kept = await place.consumer("d")
    taken = await place.pull(consumer)
    await asyncio.sleep(3 * SHORT_S)
    assert consumer in await place.connection.consumers(place.stream)
    await taken.close()
    await eventually_is(lambda: place.connection.consumers(place.stream), [kept])


# -- take-over -------------------------------------------------------------------------------------------------
async def test_a_new_consumer_gets_everything_again_in_order(place: Place) -> None:
    old = await place.pull(await place.consumer("orch_1"))
    await fill(place, 6)
    await old.count(6)
    await old.ack(1, 4)
    await place.connection.delete_consumer(place.stream, "orch_1")
    new = await place.pull(await place.consumer("orch_2"))
    assert [each.data for each in await new.count(6)] == numbers(6)
    assert [each.consumer_seq for each in new.deliveries] == [1, 2, 3, 4, 5, 6]
    assert {each.attempts for each in new.deliveries} == {1}


async def test_the_pull_of_a_deleted_consumer_ends_and_says_why(place: Place, other: Connection) -> None:
    taken = await place.pull(await place.consumer("orch_1"))
    await fill(place, 1)
    await taken.count(1)
    await other.delete_consumer(place.stream, "orch_1")
    await eventually(lambda: taken.ends)
    assert taken.ends == [CONSUMER_DELETED]


async def test_a_full_pull_learns_of_the_deletion_when_it_asks_for_more(place: Place) -> None:
    taken = await place.pull(await place.consumer("orch_1"), window=2)
    await fill(place, 4)
    await taken.count(2)
    await place.connection.delete_consumer(place.stream, "orch_1")
    await asyncio.sleep(QUIET_S)
    assert taken.ends == []
    assert taken.pull is not None
    await taken.pull.taken(2)
    await eventually(lambda: taken.ends)


async def test_an_old_owner_takes_nothing_from_the_new_consumer(place: Place, other: Connection) -> None:
    old = await place.pull(await place.consumer("orch_1"), connection=other)
    await fill(place, 3)
    await old.count(3)
    await place.connection.delete_consumer(place.stream, "orch_1")
    new = await place.pull(await place.consumer("orch_2"))
    await new.count(3)
    assert old.pull is not None
    await old.pull.taken(3)
    await fill(place, 3, "cmd.b")
    await new.count(6)
    assert len(old.deliveries) == 3


async def test_old_acknowledgements_mean_nothing_to_the_new_consumer(place: Place) -> None:
    old = await place.pull(await place.consumer("orch_1"))
    await fill(place, 3)
    await old.count(3)
    await place.connection.delete_consumer(place.stream, "orch_1")
    consumer = await place.consumer("orch_2", ack_wait_s=SHORT_S)
    new = await place.pull(consumer)
    await new.count(3)
    await old.ack(0, 1, 2)
    await eventually(lambda: len(new.deliveries) >= 6)
    assert await place.ack_floor(consumer) == 0


async def test_two_consumers_of_the_same_subjects_do_not_disturb_each_other(place: Place) -> None:
    one, two = await place.pull(await place.consumer("a")), await place.pull(await place.consumer("b"))
    await fill(place, 4)
    await one.count(4)
    await two.count(4)
    await one.ack(0, 1, 2, 3)
    await eventually_is(lambda: place.ack_floor("a"), 4)
    assert await place.ack_floor("b") == 0


async def test_a_pull_given_a_coroutine_awaits_it_beside_the_next(place: Place) -> None:
    seen: list[str] = []
    gate = asyncio.Event()

    async def on_delivery(delivery: object) -> None:
        seen.append("begun")
        await gate.wait()
        seen.append("done")

    await place.connection.pull(place.stream, await place.consumer("c"), 10, on_delivery, seen.append)
    await fill(place, 3)
    await eventually(lambda: seen == ["begun"] * 3)
    gate.set()
    await eventually(lambda: seen == ["begun"] * 3 + ["done"] * 3)


async def test_a_callback_may_ask_for_more(place: Place) -> None:
    """With a window of one, each delivery makes room for the next."""
    taken = Taken(place.connection)

    async def on_delivery(delivery: object) -> None:
        taken.deliveries.append(delivery)  # type: ignore[arg-type]
        assert taken.pull is not None
        await taken.pull.taken()

    await fill(place, 20)
    taken.pull = await place.connection.pull(
        place.stream, await place.consumer("c"), 1, on_delivery, taken.ends.append
    )
    await taken.count(20)
    assert taken.data == numbers(20)
