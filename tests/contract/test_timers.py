"""Schedules (ADR-51): durable timers that fire once, never early, and that can be replaced and cancelled."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    Place,
    World,
    eventually_is,
    moment,
    new_place,
    refusal,
)

from dressage.brokers.interface import WRONG_LAST_SEQUENCE, Connection, Message, Schedule, StoredMessage

pytestmark = pytest.mark.anyio

SOON_S = 0.3
LATER_S = 60.0
FIRED_S = 1.0
"""After so long what was due after `SOON_S` would have fired. The server looks at its timers every 250 ms."""

PATTERN_INVALID = 10189
TARGET_INVALID = 10190
SCHEDULER_INVALID = 10212
SCHEDULES_DISABLED = 10188


async def fired(place: Place, tail: str = "cmd.a") -> StoredMessage:
    await eventually_is(lambda: place.tails(tail), [tail])
    found = await place.connection.last_message(place.stream, place.at(tail))
    assert found is not None
    return found


# -- firing ----------------------------------------------------------------------------------------------------
async def test_a_timer_becomes_a_message_on_its_target_and_is_gone(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", SOON_S, data=b"due"))
    assert await place.tails() == ["timer.r.1"]
    assert (await fired(place)).data == b"due"
    await eventually_is(place.tails, ["cmd.a"])


async def test_a_timer_is_never_early(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"))
    ats = [moment(SOON_S + n / 50) for n in range(10)]
    for n, at in enumerate(ats):
        await place.connection.publish(
            Message(place.at(f"timer.r.{n}"), at.encode(), schedule=Schedule(at, place.at("cmd.a")))
        )
    for delivery in await taken.count(10):
        due = datetime.fromisoformat(delivery.data.decode()).timestamp()
        assert delivery.time_ns / 1e9 >= due


async def test_a_timer_of_the_past_fires(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", -5.0))
    await fired(place)


async def test_a_timer_fires_once(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"))
    await place.connection.publish(place.timer("timer.r.1", 0.05))
    await taken.count(1)
    await asyncio.sleep(FIRED_S)
    await taken.no_more_than(1)


async def test_timers_that_are_due_at_once_fire_in_the_order_of_the_stream(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"))
    at = moment(SOON_S)
    for n in range(20):
        await place.connection.publish(
            Message(place.at(f"timer.r.{n}"), b"%d" % n, schedule=Schedule(at, place.at("cmd.a")))
        )
    await taken.count(20)
    assert taken.data == [b"%d" % n for n in range(20)]


async def test_a_timer_waits_for_its_time_to_the_fraction_of_a_second(place: Place) -> None:
    at = moment(SOON_S)
    await place.connection.publish(
        Message(place.at("timer.r.1"), b"", schedule=Schedule(at, place.at("cmd.a")))
    )
    taken = await place.pull(await place.consumer("c"))
    (delivery,) = await taken.count(1)
    assert delivery.time_ns / 1e9 >= datetime.fromisoformat(at).timestamp()


async def test_a_task_that_is_put_off_goes_to_the_workers_when_it_is_due(place: Place) -> None:
    taken = await place.pull(await place.consumer("workers", "task.*"))
    await place.connection.publish(place.timer("timer.r.1", SOON_S, target="task.q", data=b"work"))
    await place.put("task.q", b"other work")
    await taken.count(2)
    assert taken.data == [b"other work", b"work"]
    assert taken.deliveries[1].subject == place.at("task.q")


async def test_what_fired_carries_the_senders_headers_and_none_of_the_timers(place: Place) -> None:
    message = place.timer("timer.r.1", SOON_S)
    message.headers = {"Dressage-Kept": "yes"}
    message.msg_id = "m"
    await place.connection.publish(message)
    headers = (await fired(place)).headers
    assert headers == {
        "Dressage-Kept": "yes",
        "Nats-Scheduler": place.at("timer.r.1"),
        "Nats-Schedule-Next": "purge",
    }


async def test_a_waiting_timer_can_be_read(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", LATER_S, data=b"x"))
    found = await place.connection.last_message(place.stream, place.at("timer.r.1"))
    assert found is not None
    assert found.headers is not None
    assert found.headers["Nats-Schedule-Target"] == place.at("cmd.a")


# -- setting ---------------------------------------------------------------------------------------------------
async def test_a_timer_replaces_the_one_on_its_subject(place: Place) -> None:
    taken = await place.pull(await place.consumer("c"))
    await place.connection.publish(place.timer("timer.r.1", SOON_S, data=b"first"))
    await place.connection.publish(place.timer("timer.r.1", 2 * SOON_S, data=b"second"))
    assert len(await place.contents("timer.>")) == 1
    await taken.count(1)
    assert taken.data == [b"second"]
    await asyncio.sleep(FIRED_S)
    await taken.no_more_than(1)


async def test_timers_are_set_in_a_batch_with_the_cursor(place: Place) -> None:
    await place.batch(
        place.timer("timer.r.1", SOON_S, target="cmd.a"),
        place.timer("timer.r.2", SOON_S, target="cmd.b"),
        place.message("cursor", rollup=True, expect=0),
    )
    await fired(place, "cmd.a")
    await fired(place, "cmd.b")
    await eventually_is(lambda: place.tails("timer.>"), [])


async def test_a_timer_of_a_refused_batch_does_not_exist(place: Place) -> None:
    batch = place.batch(place.timer("timer.r.1", 0.0), place.message("cursor", expect=99))
    assert await refusal(batch) == WRONG_LAST_SEQUENCE
    await asyncio.sleep(FIRED_S)
    assert await place.contents() == []


async def test_a_timer_under_a_stale_fence_does_not_exist(place: Place) -> None:
    assert await refusal(place.connection.publish(place.timer("timer.r.1", 0.0, expect=(7, "cursor"))))
    assert await place.contents() == []


@pytest.mark.parametrize("at", ["tomorrow", "2026-01-01", "2026-13-01T00:00:00Z", ""])
async def test_a_time_that_is_none_is_refused(place: Place, at: str) -> None:
    message = Message(place.at("timer.r.1"), b"", schedule=Schedule(at, place.at("cmd.a")))
    assert await refusal(place.connection.publish(message)) == PATTERN_INVALID


@pytest.mark.parametrize("target", ["cmd.*", "timer.r.1", "elsewhere.a", "cmd.", ""])
async def test_a_target_that_cannot_be_is_refused(place: Place, target: str) -> None:
    message = Message(
        place.at("timer.r.1"), b"", schedule=Schedule(moment(LATER_S), place.at(target) if target else "")
    )
    assert await refusal(place.connection.publish(message)) == TARGET_INVALID


async def test_a_stream_without_timers_takes_none(world: World, connection: Connection) -> None:
    place = await new_place(world, connection, schedules=False)
    assert await refusal(connection.publish(place.timer("timer.r.1", LATER_S))) == SCHEDULES_DISABLED


# -- cancelling ------------------------------------------------------------------------------------------------
async def test_a_message_cancels_the_timer_that_it_names(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", SOON_S))
    await place.connection.publish(place.timer("timer.r.2", LATER_S))
    await place.put("task.q", cancels="timer.r.1")
    assert await place.tails() == ["timer.r.2", "task.q"]
    await asyncio.sleep(FIRED_S)
    assert await place.tails() == ["timer.r.2", "task.q"]


async def test_messages_of_a_batch_cancel_one_timer_each(place: Place) -> None:
    for n in range(3):
        await place.connection.publish(place.timer(f"timer.r.{n}", LATER_S))
    await place.batch(
        place.message("task.q", cancels="timer.r.0"),
        place.message("task.q"),
        place.message("cursor", cancels="timer.r.2", expect=0),
    )
    assert await place.tails("timer.>") == ["timer.r.1"]


async def test_copies_behind_a_rolled_up_cursor_cancel_any_number_of_timers(place: Place) -> None:
    """What a turn does that cancels more timers than it has messages."""
    await place.put("cursor", b"1")
    for n in range(3):
        await place.connection.publish(place.timer(f"timer.r.{n}", LATER_S))
    await place.batch(
        place.message("task.q", cancels="timer.r.0"),
        place.message("cursor", b"2", rollup=True, expect=1),
        place.message("cursor", b"2", cancels="timer.r.1"),
        place.message("cursor", b"2", cancels="timer.r.2"),
    )
    assert await place.tails() == ["task.q", "cursor", "cursor", "cursor"]
    assert await refusal(place.put("cursor", b"3", rollup=True, expect=6)) == WRONG_LAST_SEQUENCE
    await place.put("cursor", b"3", rollup=True, expect=8)
    assert await place.contents("cursor") == [(9, "cursor", b"3")]


async def test_a_message_that_rolls_up_may_not_cancel_everywhere(place: Place) -> None:
    """So the engine has other messages cancel (decision 0023)."""
    await place.put("cursor", b"1")
    await place.connection.publish(place.timer("timer.r.1", LATER_S))
    await place.put("cursor", b"2", rollup=True, expect=1, cancels="timer.r.1")
    left = ["timer.r.1", "cursor"] if place.world.kind == "oldest" else ["cursor"]
    assert await place.tails() == left


async def test_cancelling_what_is_not_there_is_harmless(place: Place) -> None:
    assert await place.put("task.q", cancels="timer.r.1") == 1
    assert (await place.batch(place.message("task.q", cancels="timer.r.1"), place.message("cursor"))).seq == 3


async def test_a_refused_single_cancels_nothing(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", LATER_S))
    assert (
        await refusal(place.put("task.q", cancels="timer.r.1", expect=(9, "cursor"))) == WRONG_LAST_SEQUENCE
    )
    assert await place.tails() == ["timer.r.1"]


async def test_a_refused_batch_cancels_nothing(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", LATER_S))
    batch = place.batch(place.message("task.q", cancels="timer.r.1"), place.message("cursor", expect=9))
    assert await refusal(batch) == WRONG_LAST_SEQUENCE
    assert await place.tails() == ["timer.r.1"]


async def test_a_duplicate_cancels_nothing(place: Place) -> None:
    await place.put("task.q", msg_id="m")
    await place.connection.publish(place.timer("timer.r.1", LATER_S))
    await place.put("task.q", msg_id="m", cancels="timer.r.1")
    assert await place.tails() == ["task.q", "timer.r.1"]


async def test_a_timer_set_and_cancelled_in_one_batch_is_not_there(place: Place) -> None:
    """A command may set a timer that a later command of the same turn makes needless."""
    await place.batch(
        place.timer("timer.r.1", SOON_S),
        place.message("task.q", cancels="timer.r.1"),
        place.message("cursor"),
    )
    assert await place.tails() == ["task.q", "cursor"]
    await asyncio.sleep(FIRED_S)
    assert await place.tails() == ["task.q", "cursor"]


async def test_a_timer_cancelled_and_set_again_in_one_batch_is_the_new_one(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", LATER_S, data=b"old"))
    await place.batch(
        place.message("task.q", cancels="timer.r.1"),
        place.timer("timer.r.1", LATER_S, data=b"new"),
        place.message("cursor"),
    )
    assert await place.last("timer.r.1") == b"new"
    assert await place.tails() == ["task.q", "timer.r.1", "cursor"]


async def test_a_cancelled_timer_can_be_set_again(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", SOON_S, data=b"old"))
    await place.put("task.q", cancels="timer.r.1")
    await place.connection.publish(place.timer("timer.r.1", SOON_S, data=b"new"))
    assert (await fired(place)).data == b"new"


async def test_what_is_no_timer_should_not_be_cancelled(place: Place) -> None:
    """Newer servers refuse it. The oldest takes whatever is on that subject for a timer."""
    await place.put("cmd.a", b"a command")
    refused = await refusal(place.put("task.q", cancels="cmd.a"))
    if place.world.kind == "oldest":
        assert (refused, await place.tails()) == (0, ["task.q"])
    else:
        assert (refused, await place.tails()) == (SCHEDULER_INVALID, ["cmd.a"])
        assert await refusal(place.put("cmd.a", cancels="cmd.a")) == SCHEDULER_INVALID


async def test_cancelling_a_timer_that_has_fired_leaves_its_message(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", 0.0))
    await fired(place)
    await eventually_is(lambda: place.tails("timer.>"), [])
    await place.put("task.q", cancels="timer.r.1")
    assert await place.tails() == ["cmd.a", "task.q"]


async def test_a_purge_removes_timers(place: Place) -> None:
    await place.connection.publish(place.timer("timer.r.1", SOON_S))
    await place.put("cmd.b")
    await place.connection.purge(place.stream, place.at("timer.>"), 2)
    await asyncio.sleep(FIRED_S)
    assert await place.tails() == ["cmd.b"]
