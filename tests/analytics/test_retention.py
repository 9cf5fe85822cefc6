"""What the stream drops before it is read is an alarm, and what it never held is none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from dressage.analytics.metrics import NoMetrics

if TYPE_CHECKING:
    from tests.analytics.conftest import (  # pyright: ignore[reportMissingImports]
        EventsStream,
        MakeStream,
        Start,
    )


class Lost(NoMetrics):
    def __init__(self) -> None:
        self.ranges: list[int] = []

    def lost(self, sequences: int) -> None:
        self.ranges.append(sequences)


GAPS = "SELECT first_seq, last_seq FROM gaps ORDER BY first_seq"


async def test_messages_dropped_behind_the_position_are_a_recorded_alarm(
    events: EventsStream, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    process = start()
    read = await events.publish_orders(2)
    await process.until(read)
    await process.stop()
    last = await events.publish_orders(4, 2)
    await events.purge(keep=20)
    metrics = Lost()
    process = start(metrics=metrics)
    with caplog.at_level(logging.ERROR, "dressage.analytics"):
        await process.until(last)
    assert process.rows(GAPS) == [(read + 1, last - 20)]
    assert metrics.ranges == [last - 20 - read]
    assert (
        f"EVENTS_LOST: stream dressage_shop_events dropped sequences {read + 1} to {last - 20}" in caplog.text
    )


async def test_an_alarm_does_not_stop_ingestion(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish_orders(2))
    await process.stop()
    last = await events.publish_orders(4, 2)
    await events.purge(keep=20)
    process = start()
    await process.until(last)
    held = [(seq,) for seq, *_ in await events.in_stream()]
    assert process.rows("SELECT stream_seq FROM events ORDER BY 1")[-len(held) :] == held


async def test_a_stream_emptied_behind_the_position_is_an_alarm(events: EventsStream, start: Start) -> None:
    process = start()
    read = await events.publish_orders(2)
    await process.until(read)
    await process.stop()
    last = await events.publish_orders(2, 2)
    await events.purge(keep=0)
    process = start()
    await process.until(last)
    assert process.rows(GAPS) == [(read + 1, last)]


async def test_a_new_file_misses_what_a_limited_stream_has_dropped(
    make_stream: MakeStream, start: Start
) -> None:
    stream = await make_stream(max_msgs=30)
    last = await stream.publish_orders(10)
    process = start()
    await process.until(last)
    first_held = (await stream.in_stream())[0][0]
    assert process.rows(GAPS)[0] == (1, first_held - 1)


async def test_a_stream_that_begins_in_the_middle_of_a_run_has_lost_events(
    events: EventsStream, start: Start
) -> None:
    last = await events.publish_orders(1)
    await events.purge(keep=4)
    process = start()
    await process.until(last)
    assert process.rows(GAPS) == [(1, last - 4)]


async def test_positions_replaced_before_the_first_event_are_no_alarm(
    make_stream: MakeStream, start: Start
) -> None:
    stream = await make_stream(max_age=3_600_000_000_000)
    for shard in range(stream.shards):
        await stream.connection.publish(stream.position(shard))
    process = start()
    await process.until(await stream.publish_orders(100))
    assert process.rows(GAPS) == []


async def test_retention_behind_the_position_is_no_alarm(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish_orders(5))
    await events.purge(keep=1)
    await process.until(await events.publish_orders(5, 5))
    assert process.rows(GAPS) == []
