"""Atomic batches (ADR-50): all or nothing, in one block, and what refuses the whole."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.world import Place, refusal  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import (
    BATCH_MESSAGES_MAX,
    FENCE_IN_PROCESS,
    WRONG_LAST_SEQUENCE,
    Connection,
)
from dressage.protocol.errors import BadInput, InvariantBroken, OutcomeUnknown

pytestmark = pytest.mark.anyio

DUPLICATE_IN_BATCH = 10201
ROLLUP_FAILED = 10111


async def test_a_batch_is_one_block_and_gives_the_place_of_its_last(place: Place) -> None:
    await place.put("cmd.z")
    stored = await place.batch(*(place.message(f"cmd.{n}") for n in range(5)))
    assert (stored.seq, stored.duplicate) == (6, False)
    assert [seq for seq, _, _ in await place.contents("cmd.*")] == [1, 2, 3, 4, 5, 6]


async def test_batches_of_two_writers_do_not_mix(place: Place, other: Connection) -> None:
    mine = [place.batch(*(place.message("cmd.mine") for _ in range(20))) for _ in range(5)]
    theirs = [other.publish_batch([place.message("cmd.theirs") for _ in range(20)]) for _ in range(5)]
    await asyncio.gather(*mine, *theirs)
    tails = await place.tails()
    blocks = [tails[start : start + 20] for start in range(0, 200, 20)]
    assert [len(set(block)) for block in blocks] == [1] * 10


async def test_the_largest_batch_is_stored(place: Place) -> None:
    stored = await place.batch(*(place.message("cmd.a") for _ in range(BATCH_MESSAGES_MAX)))
    assert stored.seq == BATCH_MESSAGES_MAX


@pytest.mark.parametrize("count", [0, BATCH_MESSAGES_MAX + 1])
async def test_a_batch_of_no_size_is_not_even_sent(place: Place, count: int) -> None:
    with pytest.raises(InvariantBroken):
        await place.batch(*(place.message("cmd.a") for _ in range(count)))
    assert await place.contents() == []


async def test_a_batch_of_one_is_a_publish(place: Place) -> None:
    assert (await place.batch(place.message("cmd.a", msg_id="m"))).seq == 1
    assert (await place.batch(place.message("cmd.a", msg_id="m"))).duplicate


async def test_a_batch_with_a_message_too_large_is_not_sent(place: Place) -> None:
    large = place.message("cmd.b", b"x" * place.connection.payload_bytes_max)
    with pytest.raises(BadInput):
        await place.batch(place.message("cmd.a"), large)
    assert await place.contents() == []
    assert await place.put("cmd.a") == 1


async def test_a_batch_for_no_stream_has_no_outcome(place: Place) -> None:
    with pytest.raises(OutcomeUnknown):
        await place.batch(place.message("no.where"), place.message("no.where"))


# -- fences ----------------------------------------------------------------------------------------------------
async def test_a_stale_fence_on_the_own_subject_refuses_the_whole(place: Place) -> None:
    fence = await place.put("cursor", b"1")
    good = await place.batch(place.message("task.q"), place.message("cursor", b"2", expect=fence))
    assert good.seq == fence + 2
    stale = place.batch(place.message("task.q"), place.message("cursor", b"3", expect=fence))
    assert await refusal(stale) == WRONG_LAST_SEQUENCE
    assert await place.contents() == [(1, "cursor", b"1"), (2, "task.q", b""), (3, "cursor", b"2")]


async def test_a_stale_fence_on_another_subject_refuses_the_whole(place: Place) -> None:
    fence = await place.put("cursor")
    first = place.message("task.q", expect=(fence, "cursor"))
    assert await refusal(place.batch(first, place.message("task.q"))) == 0
    await place.put("cursor")
    assert await refusal(place.batch(first, place.message("task.q"))) == WRONG_LAST_SEQUENCE
    assert len(await place.contents("task.*")) == 2


async def test_all_messages_may_carry_the_same_fence(place: Place) -> None:
    """As states do: each put is fenced on the key of the shard."""
    fence = await place.put("cursor")
    batch = [place.message(f"task.{n}", expect=(fence, "cursor")) for n in range(5)]
    assert (await place.batch(*batch)).seq == fence + 5
    await place.put("cursor")
    assert await refusal(place.batch(*batch)) == WRONG_LAST_SEQUENCE


async def test_a_fence_on_a_subject_that_the_batch_wrote_before_is_refused(place: Place) -> None:
    batch = place.batch(place.message("cursor"), place.message("task.q", expect=(0, "cursor")))
    assert await refusal(batch) == FENCE_IN_PROCESS
    assert await place.contents() == []


async def test_the_sequence_after_a_refused_batch_is_the_next(place: Place) -> None:
    """A refused batch leaves no gap, and the next one is not taken for its rest."""
    for _ in range(3):
        await refusal(place.batch(place.message("cmd.a"), place.message("cursor", expect=99)))
    assert (await place.batch(place.message("cmd.a"), place.message("cmd.b"))).seq == 2


# -- ids -------------------------------------------------------------------------------------------------------
async def test_a_known_id_refuses_the_whole(place: Place) -> None:
    await place.put("cmd.a", msg_id="m")
    batch = place.batch(place.message("cmd.b"), place.message("cmd.c", msg_id="m"))
    assert await refusal(batch) == DUPLICATE_IN_BATCH
    assert await place.tails() == ["cmd.a"]


async def test_an_id_twice_in_a_batch_refuses_the_whole(place: Place) -> None:
    batch = place.batch(place.message("cmd.a", msg_id="m"), place.message("cmd.b", msg_id="m"))
    assert await refusal(batch) == DUPLICATE_IN_BATCH
    assert await place.contents() == []


async def test_the_ids_of_a_refused_batch_are_not_remembered(place: Place) -> None:
    batch = place.batch(place.message("cmd.a", msg_id="m"), place.message("cursor", expect=99))
    assert await refusal(batch) == WRONG_LAST_SEQUENCE
    assert not (await place.connection.publish(place.message("cmd.a", msg_id="m"))).duplicate


async def test_the_ids_of_a_stored_batch_are_remembered(place: Place) -> None:
    await place.batch(place.message("cmd.a", msg_id="m"), place.message("cmd.b", msg_id="n"))
    again = await place.connection.publish(place.message("cmd.a", msg_id="m"))
    assert (again.seq, again.duplicate) == (1, True)


async def test_ids_in_a_batch_are_checked_before_its_fence(place: Place) -> None:
    await place.put("cmd.a", msg_id="m")
    batch = place.batch(place.message("cmd.b", msg_id="m", expect=(99, "cursor")), place.message("cmd.c"))
    assert await refusal(batch) == DUPLICATE_IN_BATCH


# -- rollup ----------------------------------------------------------------------------------------------------
async def test_a_cursor_rolls_up_inside_a_batch(place: Place) -> None:
    fence = 0
    for n in range(4):
        cursor = place.message("cursor", b"%d" % n, expect=fence, rollup=True)
        fence = (await place.batch(place.message("task.q"), cursor)).seq
    assert await place.contents("cursor") == [(8, "cursor", b"3")]
    assert len(await place.contents("task.*")) == 4


async def test_a_refused_batch_rolls_nothing_up(place: Place) -> None:
    await place.put("cursor", b"1")
    batch = place.batch(place.message("cursor", b"2", rollup=True), place.message("task.q", expect=99))
    assert await refusal(batch) == WRONG_LAST_SEQUENCE
    assert await place.contents() == [(1, "cursor", b"1")]


async def test_a_rollup_behind_another_message_of_its_subject_refuses_the_batch(place: Place) -> None:
    batch = place.batch(place.message("cursor"), place.message("cursor", rollup=True))
    assert await refusal(batch) == ROLLUP_FAILED
    assert await place.contents() == []


# -- readers ---------------------------------------------------------------------------------------------------
async def test_a_reader_sees_a_batch_whole_or_not_at_all(place: Place, other: Connection) -> None:
    """Readers of messages: counts, and the server's consumers, may be at its first before its last is stored."""
    writing = asyncio.ensure_future(_write_batches(place, batches=20, size=100))
    seen: set[int] = set()
    while not writing.done():
        last = await other.last_message(place.stream, place.at("cmd.a"))
        seen.add(last.seq % 100 if last is not None else 0)
    await writing
    assert seen == {0}


async def _write_batches(place: Place, batches: int, size: int) -> None:
    for _ in range(batches):
        await place.batch(*(place.message("cmd.a") for _ in range(size)))


async def test_a_consumer_gets_the_messages_of_a_batch_in_order(place: Place) -> None:
    consumer = await place.consumer("c")
    taken = await place.pull(consumer)
    await place.batch(*(place.message("cmd.a", b"%d" % n) for n in range(30)))
    deliveries = await taken.count(30)
    assert [each.data for each in deliveries] == [b"%d" % n for n in range(30)]
    assert [each.stream_seq for each in deliveries] == list(range(1, 31))
    assert [each.consumer_seq for each in deliveries] == list(range(1, 31))
