"""Single publishes: fences, ids, rollup, and what the server will not take."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.contract.world import Place, World, new_place, refusal  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import (
    BATCH_MESSAGES_MAX,
    WRONG_LAST_SEQUENCE,
    Connection,
    Message,
    StreamConfig,
    all_of,
)
from dressage.protocol.errors import BadInput, BrokerError, OutcomeUnknown, Unheard

pytestmark = pytest.mark.anyio


async def test_sequences_count_up_over_all_subjects(place: Place) -> None:
    assert [await place.put("cmd.a"), await place.put("task.q"), await place.put("cmd.a")] == [1, 2, 3]


async def test_what_is_sent_without_waiting_keeps_its_order(place: Place) -> None:
    waiting = [place.connection.send(place.message("cmd.a", b"%d" % n)) for n in range(50)]
    assert [stored.seq for stored in await all_of(waiting)] == list(range(1, 51))
    assert [data for _, _, data in await place.contents()] == [b"%d" % n for n in range(50)]


async def test_headers_come_back(place: Place) -> None:
    await place.connection.publish(Message(place.at("cmd.a"), b"x", {"One": "1"}, lines="Two: 2\r\n"))
    found = await place.connection.last_message(place.stream, place.at("cmd.a"))
    assert found is not None
    assert found.headers == {"One": "1", "Two": "2"}


async def test_a_message_without_headers_has_none(place: Place) -> None:
    await place.put("cmd.a", b"x")
    found = await place.connection.last_message(place.stream, place.at("cmd.a"))
    assert found is not None
    assert found.headers is None


# -- fences ----------------------------------------------------------------------------------------------------
async def test_expecting_nothing_creates_once(place: Place) -> None:
    assert await refusal(place.put("cursor", expect=0)) == 0
    assert await refusal(place.put("cursor", expect=0)) == WRONG_LAST_SEQUENCE


async def test_a_stale_fence_on_the_own_subject_is_refused(place: Place) -> None:
    first = await place.put("cursor", b"1")
    second = await place.put("cursor", b"2", expect=first)
    assert await refusal(place.put("cursor", b"stale", expect=first)) == WRONG_LAST_SEQUENCE
    assert await place.last("cursor") == b"2"
    assert second == first + 1


async def test_a_stale_fence_on_another_subject_is_refused(place: Place) -> None:
    fence = await place.put("cursor")
    assert await refusal(place.put("task.q", expect=(fence, "cursor"))) == 0
    await place.put("cursor")
    assert await refusal(place.put("task.q", expect=(fence, "cursor"))) == WRONG_LAST_SEQUENCE
    assert await place.tails("task.*") == ["task.q"]


async def test_what_one_fence_admits_may_be_in_flight_together(place: Place) -> None:
    fence = await place.put("cursor")
    waiting = [place.connection.send(place.message(f"task.{n}", expect=(fence, "cursor"))) for n in range(8)]
    assert [stored.seq for stored in await all_of(waiting)] == list(range(2, 10))


async def test_behind_a_new_fence_nothing_of_the_old_one_is_stored(place: Place, other: Connection) -> None:
    fence = await place.put("cursor")
    waiting = [other.send(place.message(f"task.{n}", expect=(fence, "cursor"))) for n in range(50)]
    new = await place.put("cursor", b"new", expect=fence)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [seq for seq, _, _ in await place.contents("task.*") if seq > new] == []


# -- ids -------------------------------------------------------------------------------------------------------
async def test_a_known_id_gives_the_first_place_and_says_so(place: Place) -> None:
    first = await place.connection.publish(place.message("cmd.a", b"1", msg_id="m"))
    again = await place.connection.publish(place.message("cmd.b", b"2", msg_id="m"))
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.seq == first.seq
    assert await place.tails() == ["cmd.a"]


async def test_the_id_of_a_refused_publish_is_not_remembered(place: Place) -> None:
    await place.put("cursor")
    assert await refusal(place.put("task.q", msg_id="m", expect=(0, "cursor"))) == WRONG_LAST_SEQUENCE
    assert not (await place.connection.publish(place.message("task.q", msg_id="m"))).duplicate


async def test_an_id_is_remembered_after_its_message_is_gone(place: Place) -> None:
    await place.put("cmd.a", msg_id="m")
    await place.connection.purge(place.stream, place.at("cmd.*"), 2)
    assert (await place.connection.publish(place.message("cmd.a", msg_id="m"))).duplicate


async def test_the_fence_of_a_single_is_checked_before_its_id(place: Place) -> None:
    """So a replaced owner is told that it is one, and not that its message was stored before (PROTOCOL.md, F6)."""
    fence = await place.put("cursor")
    await place.put("task.q", msg_id="m", expect=(fence, "cursor"))
    await place.put("cursor")
    assert await refusal(place.put("task.q", msg_id="m", expect=(fence, "cursor"))) == WRONG_LAST_SEQUENCE


async def test_ids_are_forgotten_after_the_duplicate_window(world: World, connection: Connection) -> None:
    """The window is never longer than the age limit of the stream."""
    place = await new_place(world, connection, max_age_s=0.5)
    message = place.message("cmd.a", msg_id="m", never_expires=True)
    assert not (await connection.publish(message)).duplicate
    assert (await connection.publish(message)).duplicate
    await asyncio.sleep(0.7)
    assert not (await connection.publish(message)).duplicate


async def test_the_duplicate_window_can_be_short_and_is_told(world: World, connection: Connection) -> None:
    place = await new_place(world, connection, duplicate_window_s=0.5)
    info = json.loads(await connection.request(f"$JS.API.STREAM.INFO.{place.stream}", b"", 5.0))
    assert info["config"]["duplicate_window"] == 500_000_000
    message = place.message("cmd.a", msg_id="m")
    assert not (await connection.publish(message)).duplicate
    assert (await connection.publish(message)).duplicate
    await asyncio.sleep(0.7)
    assert not (await connection.publish(message)).duplicate


# -- into a stream of somebody else's --------------------------------------------------------------------------
async def test_a_publish_elsewhere_is_stored_once(place: Place) -> None:
    message = place.message("cmd.a", b"1", msg_id="m")
    first, again = [await place.connection.publish_elsewhere(message) for _ in range(2)]
    assert (first.seq, first.duplicate) == (1, False)
    assert (again.seq, again.duplicate) == (1, True)


async def test_a_publish_elsewhere_that_is_refused_says_so(place: Place) -> None:
    await place.put("cursor")
    refused = place.connection.publish_elsewhere(place.message("task.q", expect=(7, "cursor")))
    assert await refusal(refused) == WRONG_LAST_SEQUENCE


async def test_a_publish_elsewhere_where_nothing_is_is_unheard(place: Place) -> None:
    with pytest.raises(Unheard):
        await place.connection.publish_elsewhere(place.message("nowhere.at.all"))


# -- rollup ----------------------------------------------------------------------------------------------------
async def test_rollup_keeps_the_last_message_of_its_subject_only(place: Place) -> None:
    await place.put("cmd.a", b"stays")
    for data in (b"1", b"2", b"3"):
        await place.put("cursor", data, rollup=True)
    assert await place.contents() == [(1, "cmd.a", b"stays"), (4, "cursor", b"3")]


async def test_a_refused_rollup_removes_nothing(place: Place) -> None:
    await place.put("cursor", b"1")
    assert await refusal(place.put("cursor", b"2", rollup=True, expect=7)) == WRONG_LAST_SEQUENCE
    assert await place.contents() == [(1, "cursor", b"1")]


# -- what is not taken -----------------------------------------------------------------------------------------
async def test_a_subject_of_no_stream_has_no_outcome(place: Place) -> None:
    with pytest.raises(OutcomeUnknown, match="nobody listens"):
        await place.put("nowhere.at.all")


@pytest.mark.limit("orchestrator.service.PAYLOAD_BYTES_MIN")
async def test_a_message_over_the_limit_is_refused_before_it_is_sent(place: Place) -> None:
    most = place.connection.payload_bytes_max
    assert await place.put("cmd.a", b"x" * most) == 1
    with pytest.raises(BadInput) as refused:
        await place.put("cmd.a", b"x" * (most + 1))
    assert refused.value.code == "PAYLOAD_TOO_LARGE"
    with pytest.raises(BadInput):
        await place.connection.publish(Message(place.at("cmd.a"), b"x" * most, {"A": "b"}))
    assert await place.put("cmd.a", b"goes on") == 2


@pytest.mark.parametrize("subject", ["cmd.a b", "cmd.a\r\nPUB x 0", "cmd.\t"])
async def test_a_subject_that_would_end_its_line_is_refused(place: Place, subject: str) -> None:
    with pytest.raises(BadInput):
        await place.put(subject)
    assert await place.contents() == []


async def test_a_header_that_would_end_its_line_is_refused(place: Place) -> None:
    with pytest.raises(BadInput):
        await place.connection.publish(Message(place.at("cmd.a"), b"", {"A": "b\r\nNats-Rollup: all"}))


async def test_an_exemption_from_expiry_needs_a_stream_that_allows_it(
    world: World, connection: Connection
) -> None:
    place = await new_place(world, connection, message_ttl=False)
    assert await refusal(place.put("cmd.a", never_expires=True)) == 10166


# -- reading ---------------------------------------------------------------------------------------------------
async def test_the_next_message_of_a_family_is_found_from_any_place(place: Place) -> None:
    for tail in ("cmd.a", "task.q", "cmd.b", "task.q"):
        await place.put(tail)
    connection, stream = place.connection, place.stream
    found = [await connection.next_message(stream, seq, place.at("cmd.*")) for seq in (0, 1, 2, 3, 4)]
    assert [message.seq if message else None for message in found] == [1, 1, 3, 3, None]
    exact = await connection.next_message(stream, 3, place.at("task.q"))
    assert exact is not None
    assert exact.seq == 4


async def test_reading_what_is_not_there_gives_nothing(place: Place) -> None:
    assert await place.last("cursor") is None
    with pytest.raises(BrokerError):
        await place.connection.last_message("no-such-stream", "x")


async def test_a_state_tells_first_last_and_counts(place: Place) -> None:
    connection, stream = place.connection, place.stream
    empty = await connection.stream_state(stream)
    assert empty is not None
    assert (empty.first_seq, empty.last_seq, empty.messages, empty.replicas) == (0, 0, 0, 1)
    for tail in ("cmd.a", "cmd.a", "task.q", "cmd.b"):
        await place.put(tail)
    await connection.purge(stream, place.at("cmd.a"), 2)
    state = await connection.stream_state(stream, subjects=place.at("cmd.*"))
    assert state is not None
    assert (state.first_seq, state.last_seq, state.messages) == (2, 4, 3)
    assert state.subjects == {place.at("cmd.a"): 1, place.at("cmd.b"): 1}
    assert await connection.stream_state("no-such-stream") is None


async def test_a_state_and_a_message_tell_the_time_of_the_server(place: Place) -> None:
    await place.put("cmd.a")
    before = await place.connection.stream_state(place.stream)
    message = await place.connection.last_message(place.stream, place.at("cmd.a"))
    after = await place.connection.stream_state(place.stream)
    assert before is not None
    assert message is not None
    assert after is not None
    assert 0 < message.time_ns <= before.time_ns <= after.time_ns < message.time_ns + 60_000_000_000


@pytest.mark.slow
async def test_a_state_tells_all_subjects_however_many(place: Place) -> None:
    """A server says 100,000 of them at a time."""
    subjects = [place.at(f"cmd.{number * 7919 % 101_000}") for number in range(101_000)]
    for first in range(0, len(subjects), BATCH_MESSAGES_MAX):
        some = subjects[first : first + BATCH_MESSAGES_MAX]
        await place.connection.publish_batch([Message(each, b"") for each in some])
    state = await place.connection.stream_state(place.stream, place.at("cmd.*"))
    assert state is not None
    assert set(state.subjects) == set(subjects)


# -- streams ---------------------------------------------------------------------------------------------------
async def test_ensuring_a_stream_again_changes_nothing(place: Place) -> None:
    await place.put("cmd.a")
    families = ["cmd.*", "task.*", "timer.*.*", "send.*.*", "cursor"]
    config = StreamConfig(
        place.stream, [place.at(family) for family in families], schedules=True, message_ttl=True
    )
    await place.connection.ensure_stream(config)
    assert await place.tails() == ["cmd.a"]


async def test_a_stream_is_brought_to_its_configuration(place: Place) -> None:
    await place.put("cmd.a")
    subjects = [place.at("cmd.*"), place.at("more.*")]
    await place.connection.ensure_stream(
        StreamConfig(place.stream, subjects, schedules=True, message_ttl=True, description="more")
    )
    assert await place.put("more.b") == 2
    with pytest.raises(OutcomeUnknown):
        await place.put("task.q")


async def test_two_streams_cannot_have_the_same_subject(place: Place) -> None:
    with pytest.raises(BrokerError) as refused:
        await place.connection.ensure_stream(StreamConfig(f"{place.stream}x", [place.at("cmd.a")]))
    assert refused.value.code == "STREAM_UNSUITABLE"


async def test_a_stream_with_timers_cannot_limit_its_subjects(place: Place) -> None:
    """Buckets refuse new messages rather than drop old ones, which newer servers do not combine with timers."""
    config = StreamConfig(f"{place.stream}x", [f"{place.stream}x.*"], schedules=True, per_subject_max=1)
    if place.world.kind == "oldest":
        await place.connection.ensure_stream(config)
        return
    with pytest.raises(BrokerError) as refused:
        await place.connection.ensure_stream(config)
    assert refused.value.code == "STREAM_UNSUITABLE"
