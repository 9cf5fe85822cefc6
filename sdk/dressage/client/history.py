"""A run's history: its output events, read from the stream by the bucket that its id falls into."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery
from dressage.protocol.errors import NoAnswer
from dressage.protocol.events import RUN_HEADER, ReceivedEvent, decode_event
from dressage.protocol.names import Names, run_token, shard_of

SILENCE_S: Final = 10.0
WINDOW: Final = 500


async def read_history(
    connection: Connection, names: Names, shards: int, run_id: str
) -> AsyncIterator[ReceivedEvent]:
    """Yields the events that are stored now, in order. Raises `NoAnswer` when the server stops delivering."""
    subject = names.events_of_run(shard_of(run_id, shards), run_id)
    token = run_token(run_id)
    state = await connection.stream_state(names.events_stream, subjects=subject)
    left = sum(state.subjects.values()) if state else 0
    if not left:
        return
    queue: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = f"history_{uuid.uuid4().hex}"
    await connection.create_consumer(
        names.events_stream,
        ConsumerConfig(consumer, [subject], durable=False, explicit_ack=False, memory=True, inactive_s=30.0),
    )
    pull = await connection.pull(names.events_stream, consumer, WINDOW, queue.put_nowait, lambda _: None)
    try:
        for _ in range(left):
            try:
                delivery = await asyncio.wait_for(queue.get(), SILENCE_S)
            except TimeoutError as error:
                raise NoAnswer(f"reading the history of run {run_id!r} stalled") from error
            await pull.taken()
            if delivery.headers and delivery.headers.get(RUN_HEADER) == token:
                yield decode_event(delivery.data)
    finally:
        await pull.close()
        await connection.delete_consumer(names.events_stream, consumer)
