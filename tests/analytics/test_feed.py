"""The feed hands on what it got in order, and nothing after a message that is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from dressage.brokers.event_feed import BatchLimits, EventFeed, FeedLost
from dressage.brokers.interface import Delivery
from dressage.brokers.jetstream.connection import JetStreamConnection

if TYPE_CHECKING:
    from tests.analytics.conftest import EventsStream  # pyright: ignore[reportMissingImports]


@pytest.fixture
async def feed(connection: JetStreamConnection, events: EventsStream) -> AsyncIterator[EventFeed]:
    feed = await EventFeed.open(
        connection,
        events.names.events_stream,
        [events.names.all_events()],
        1,
        BatchLimits(events_max=10, idle_s=0.1),
        "test",
    )
    yield feed
    await feed.close()


def delivery(consumer_seq: int) -> Delivery:
    return Delivery("subject", b"{}", None, consumer_seq, consumer_seq, 1, 0, "")


async def test_nothing_comes_of_an_empty_stream(feed: EventFeed) -> None:
    assert await feed.take(0.0) == []


async def test_a_missing_message_ends_the_feed(feed: EventFeed) -> None:
    feed._on_delivery(delivery(1))
    feed._on_delivery(delivery(3))
    with pytest.raises(FeedLost, match="message 2 of the consumer is missing"):
        await feed.take(0.0)


async def test_a_batch_that_is_half_full_does_not_wait(feed: EventFeed, events: EventsStream) -> None:
    await events.publish(events.order("order-1"))
    async with asyncio.timeout(5):
        taken = await feed.take(asyncio.get_running_loop().time() + 60)
    assert len(taken) >= 5


async def test_a_small_batch_waits_for_more(feed: EventFeed) -> None:
    feed._on_delivery(delivery(1))
    taking = asyncio.create_task(feed.take(asyncio.get_running_loop().time() + 0.3))
    await asyncio.sleep(0)
    feed._on_delivery(delivery(2))
    assert [message.stream_seq for message in await taking] == [1, 2]


async def test_a_batch_is_never_larger_than_its_limit(feed: EventFeed, events: EventsStream) -> None:
    await events.publish_orders(10)
    sizes: list[int] = []
    async with asyncio.timeout(5):
        while sum(sizes) < 80:
            sizes.append(len(await feed.take(0.0)))
    assert max(sizes) <= 10
