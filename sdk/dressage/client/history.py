"""A run's history: its output events, read from the stream by the bucket that its id falls into."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery
from dressage.protocol.events import RUN_HEADER, ReceivedEvent, decode_event
from dressage.protocol.names import Names, run_token

SILENCE_S: Final = 5.0
"""How long the next event of a run may take to appear in the stream; also how long one that is gone is looked for."""

WINDOW: Final = 500


async def read_history(
    connection: Connection, names: Names, shard: int, run_id: str, count: int
) -> AsyncIterator[ReceivedEvent]:
    """Yields the run's first `count` events in order, or fewer where the stream has already dropped them.

    Raises `OutcomeUnknown` when the server cannot be asked.
    """
    subject, token = names.events_of_run(shard, run_id), run_token(run_id)
    queue: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = f"history_{uuid.uuid4().hex}"
    await connection.create_consumer(
        names.events_stream,
        ConsumerConfig(consumer, [subject], durable=False, explicit_ack=False, memory=True, inactive_s=30.0),
    )
    pull = await connection.pull(names.events_stream, consumer, WINDOW, queue.put_nowait, lambda _: None)
    try:
        index = -1
        while index < count - 1:
            try:
                async with asyncio.timeout(SILENCE_S):
                    delivery = await queue.get()
            except TimeoutError:
                # Either the server is gone, which this tells, or the rest was dropped by the stream's age limit.
                await connection.stream_state(names.events_stream)
                return
            await pull.taken()
            if delivery.headers and delivery.headers.get(RUN_HEADER) == token:
                try:
                    event = decode_event(delivery.data)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue  # Nothing that an engine has written.
                index = event.index
                yield event
    finally:
        await pull.close()
        await connection.delete_consumer(names.events_stream, consumer)
