"""Purges, as the engine removes what is done with, and what they do to consumers (decision 0009)."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    Place,
    eventually,
    eventually_is,
)

from dressage.protocol.errors import BrokerError

pytestmark = pytest.mark.anyio


async def fill(place: Place, *tails: str) -> None:
    await place.batch(*(place.message(tail, tail.encode()) for tail in tails))


async def purge(place: Place, tail: str, below: int) -> None:
    await place.connection.purge(place.stream, place.at(tail), below)


async def test_a_purge_removes_below_a_sequence_on_matching_subjects(place: Place) -> None:
    await fill(place, "cmd.a", "task.q", "cmd.b", "cmd.a", "task.q")
    await purge(place, "cmd.*", 4)
    assert await place.tails() == ["task.q", "cmd.a", "task.q"]
    await purge(place, "task.q", 3)
    assert await place.tails() == ["cmd.a", "task.q"]


async def test_a_purge_below_the_first_sequence_removes_nothing(place: Place) -> None:
    """2.12.1 itself would remove everything."""
    await fill(place, "cmd.a", "cmd.b")
    await purge(place, "cmd.*", 1)
    await purge(place, "cmd.*", 0)
    assert await place.tails() == ["cmd.a", "cmd.b"]


async def test_a_purge_of_everything_keeps_counting(place: Place) -> None:
    await fill(place, "cmd.a", "cmd.b")
    await purge(place, "cmd.*", 3)
    assert await place.contents() == []
    state = await place.connection.stream_state(place.stream)
    assert state is not None
    assert (state.first_seq, state.last_seq, state.messages) == (3, 2, 0)
    assert await place.put("cmd.a") == 3


async def test_a_purge_of_no_stream_is_an_error(place: Place) -> None:
    with pytest.raises(BrokerError):
        await place.connection.purge("no-such-stream", "x", 2)


async def test_what_was_purged_before_it_was_delivered_never_comes(place: Place) -> None:
    consumer = await place.consumer("c")
    await fill(place, "cmd.a", "cmd.b", "cmd.c")
    await purge(place, "cmd.*", 3)
    taken = await place.pull(consumer)
    (delivery,) = await taken.count(1)
    assert (delivery.stream_seq, delivery.consumer_seq) == (3, 1)


async def test_what_was_purged_while_it_was_out_does_not_come_again(place: Place) -> None:
    taken = await place.pull(await place.consumer("c", ack_wait_s=0.5))
    await fill(place, "cmd.a", "cmd.b", "cmd.c")
    await taken.count(3)
    await purge(place, "cmd.*", 3)
    await eventually(lambda: len(taken.deliveries) >= 5)
    assert {each.data for each in taken.deliveries[3:]} == {b"cmd.c"}


async def test_a_purge_moves_the_floor_of_the_consumer(place: Place) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    await fill(place, "cmd.a", "cmd.b", "cmd.c", "cmd.d")
    await taken.count(4)
    await purge(place, "cmd.*", 3)
    await eventually_is(lambda: place.ack_floor(consumer), 2)
    await taken.ack(2)
    await eventually_is(lambda: place.ack_floor(consumer), 3)


async def test_a_purge_of_all_that_is_out_closes_it(place: Place) -> None:
    consumer = await place.consumer("c", max_ack_pending=2)
    taken = await place.pull(consumer)
    await fill(place, "cmd.a", "cmd.b")
    await taken.count(2)
    await purge(place, "cmd.*", 3)
    assert await place.ack_floor(consumer) >= 2
    await fill(place, "cmd.c", "cmd.d")
    deliveries = await taken.count(4)
    assert [each.consumer_seq for each in deliveries] == [1, 2, 3, 4]


async def test_consumer_sequences_are_contiguous_over_a_purge(place: Place) -> None:
    """What the owner takes for a lost delivery must not come from a purge."""
    taken = await place.pull(await place.consumer("c"))
    for round_ in range(5):
        await fill(place, *(f"cmd.{n}" for n in range(10)))
        await taken.count(10 * (round_ + 1))
        await purge(place, "cmd.*", 10 * round_ + 5)
    assert [each.consumer_seq for each in taken.deliveries] == list(range(1, 51))


async def test_a_purge_of_other_subjects_leaves_a_consumer_alone(place: Place) -> None:
    consumer = await place.consumer("c", "task.q", ack_wait_s=0.5)
    taken = await place.pull(consumer)
    await fill(place, "task.q", "cmd.a", "task.q", "cmd.b")
    await taken.count(2)
    await purge(place, "cmd.*", 5)
    await asyncio.sleep(0.1)
    assert await place.ack_floor(consumer) == 0
    await eventually(lambda: len(taken.deliveries) >= 4)
    assert [each.stream_seq for each in taken.deliveries[2:4]] == [1, 3]


async def test_a_late_ack_of_what_was_purged_is_harmless(place: Place) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    await fill(place, "cmd.a", "cmd.b")
    await taken.count(2)
    await purge(place, "cmd.*", 2)
    await taken.ack(0)
    await taken.ack(1)
    await eventually_is(lambda: place.ack_floor(consumer), 2)


async def test_tasks_are_purged_up_to_their_queues_floor(place: Place) -> None:
    """As the owner does every second: what workers have acknowledged leaves the stream."""
    consumer = await place.consumer("task_q", "task.q")
    taken = await place.pull(consumer)
    await fill(place, "task.q", "task.other", "task.q", "task.q")
    await taken.count(3)
    await taken.ack(0, 1)
    await eventually_is(lambda: place.ack_floor(consumer), 3)
    await purge(place, "task.q", await place.ack_floor(consumer) + 1)
    assert await place.contents() == [(2, "task.other", b"task.other"), (4, "task.q", b"task.q")]
    await taken.ack(2)
    await eventually_is(lambda: place.ack_floor(consumer), 4)
    await purge(place, "task.q", 5)
    assert await place.tails() == ["task.other"]


# -- single messages ---------------------------------------------------------------------------------
async def test_one_message_is_deleted_by_its_sequence_and_no_other(place: Place) -> None:
    await fill(place, "cmd.a", "cmd.b", "cmd.a")
    await place.connection.delete_message(place.stream, 1)
    assert await place.tails() == ["cmd.b", "cmd.a"]
    found = await place.connection.next_message(place.stream, 1, place.at("cmd.a"))
    assert found is not None
    assert found.seq == 3


async def test_a_message_that_is_not_there_is_deleted_in_vain(place: Place) -> None:
    await fill(place, "cmd.a", "cmd.b", "cmd.c", "cmd.d")
    for seq in (3, 1):
        for _ in range(2):
            await place.connection.delete_message(place.stream, seq)
    await place.connection.delete_message(place.stream, 77)
    assert await place.tails() == ["cmd.b", "cmd.d"]
    with pytest.raises(BrokerError):
        await place.connection.delete_message("no-such-stream", 1)


async def test_what_was_deleted_before_it_was_delivered_never_comes(place: Place) -> None:
    consumer = await place.consumer("c")
    await fill(place, "cmd.a", "cmd.b", "cmd.c")
    await place.connection.delete_message(place.stream, 2)
    taken = await place.pull(consumer)
    assert [each.stream_seq for each in await taken.count(2)] == [1, 3]


async def test_messages_behind_a_sequence_are_counted_whatever_was_purged_or_acknowledged(
    place: Place,
) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    await fill(place, "cmd.a", "cmd.b", "cmd.a", "cmd.a", "cmd.b", "cmd.a")
    await taken.count(6)
    await taken.ack(3)
    await purge(place, "cmd.b", 6)
    first = taken.deliveries[0].stream_seq
    subject = taken.deliveries[0].subject
    counts = [
        await place.connection.count_behind(place.stream, subject, seq)
        for seq in (0, first, first + 2, first + 3, first + 5, first + 50)
    ]
    assert counts == [4, 3, 2, 1, 0, 0]
    assert await place.connection.count_behind(place.stream, subject.replace("cmd.a", "cmd.none"), 0) == 0
    state = await place.connection.consumer_state(place.stream, consumer)
    assert state.delivered == taken.deliveries[-1].stream_seq
    assert await place.connection.consumers(place.stream) == [consumer]
