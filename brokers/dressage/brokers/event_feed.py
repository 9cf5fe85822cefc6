"""Reads a stream of events in order, from a given sequence on, through a consumer that nobody else shares.

The consumer acknowledges nothing and lives in the server's memory: what has been read is known to who reads
alone, so a consumer is thrown away at the first doubt and a new one is made behind the last message dealt with.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery, Pull
from dressage.protocol.errors import BrokerError, DressageError

INACTIVE_S: Final = 60.0
"""After this time without a pull request the server forgets the consumer of a process that died."""

_REQUEST_TIMEOUT_S: Final = 2.0
_STREAM_NOT_FOUND: Final = 10059


class FeedLost(BrokerError):
    """The consumer is gone, or a message of it is missing: begin again behind what was dealt with."""

    code = "FEED_LOST"
    retryable = True


class StreamMissing(BrokerError):
    """There is no such stream yet."""

    code = "STREAM_MISSING"
    retryable = True


class _ApiError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Limits(msgspec.Struct):
    max_age: int = 0
    max_msgs: int = -1
    max_bytes: int = -1


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    bytes: int = 0


class StreamInfo(msgspec.Struct):
    """What the leader of the stream says of it. Ages are in nanoseconds, times RFC 3339."""

    created: str = ""
    ts: str = ""
    config: _Limits = msgspec.field(default_factory=_Limits)
    state: _State = msgspec.field(default_factory=_State)
    error: _ApiError | None = None


class _Delivered(msgspec.Struct):
    consumer_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    delivered: _Delivered = msgspec.field(default_factory=_Delivered)
    error: _ApiError | None = None


_consumer_decoder: Final = msgspec.json.Decoder(_ConsumerInfo)
_info_decoder: Final = msgspec.json.Decoder(StreamInfo)


async def stream_info(connection: Connection, stream: str) -> StreamInfo:
    """Raises `StreamMissing`, or another retryable error when there is no answer."""
    reply = await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", _REQUEST_TIMEOUT_S)
    info = _info_decoder.decode(reply)
    if info.error is None:
        return info
    if info.error.err_code == _STREAM_NOT_FOUND:
        raise StreamMissing(f"the stream {stream} does not exist yet: the first orchestrator creates it")
    raise BrokerError(f"the stream {stream} cannot be read: {info.error.description}", retryable=True)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is closed.

    A batch is written at once when nothing was written for `pause_s`, and otherwise when it is half full or
    that time has passed: every transaction costs some 5 ms beside its events, which under a trickle of events
    would keep a core busy.
    """

    events_max: int = 5_000
    bytes_max: int = 8 * 1024 * 1024
    pause_s: float = 0.2
    idle_s: float = 0.5
    """Without any message for so long, the position moves on behind messages that are no events."""


class EventFeed:
    """A standing pull on a consumer of one's own."""

    def __init__(self, connection: Connection, stream: str, limits: BatchLimits, reader: str) -> None:
        self._connection = connection
        self._stream = stream
        self._limits = limits
        self._name = f"{reader}_{uuid.uuid4().hex}"
        self._pull: Pull | None = None
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._consumer_seq = 0
        self._lost = ""
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()

    @classmethod
    async def open(
        cls,
        connection: Connection,
        stream: str,
        filters: Sequence[str],
        start: int | str,
        limits: BatchLimits,
        reader: str,
    ) -> Self:
        """Begins with a sequence, or with what was stored at a time (RFC 3339) or later. `reader` is how the consumer's
        name begins; `filters` are subjects of the stream, and none means all of it.

        Raises a retryable `BrokerError` when the stream or the server is not there."""
        feed = cls(connection, stream, limits, reader)
        await connection.create_consumer(
            feed._stream,
            ConsumerConfig(
                name=feed._name,
                filters=filters,
                durable=False,
                explicit_ack=False,
                start_seq=start if isinstance(start, int) else None,
                start_time=start if isinstance(start, str) else None,
                memory=True,
                inactive_s=INACTIVE_S,
            ),
        )
        feed._pull = await connection.pull(
            feed._stream, feed._name, 2 * limits.events_max, feed._on_delivery, feed._on_end
        )
        return feed

    async def close(self) -> None:
        self._on_end("closed")
        if self._pull is not None:
            await self._pull.close()
        # If this fails, the server forgets the consumer by itself.
        with contextlib.suppress(DressageError):
            await self._connection.delete_consumer(self._stream, self._name)

    async def take(self, not_before: float) -> list[Delivery]:
        """The next messages in stream order, at least one; none when nothing came for `idle_s`.

        `not_before` is the loop's time before which a batch that is not half full waits for more.
        Raises `FeedLost`, which also drops what waits here: all of it will come again.
        """
        if not self._waiting:
            await self._until(self._arrived, self._limits.idle_s)
        remaining = not_before - asyncio.get_running_loop().time()
        if self._waiting and not self._half_full and remaining > 0:
            await self._until(self._enough, remaining)
        taken = self._drain()
        if taken and self._pull is not None:
            # Only this lets the server send more, so no more than the pull's window ever waits here.
            await self._pull.taken(len(taken))
        return taken

    async def behind(self) -> int:
        """How many messages there are that `take` has not given. Raises a `BrokerError` when that cannot be told."""
        subject = f"$JS.API.CONSUMER.INFO.{self._stream}.{self._name}"
        reply = await self._connection.request(subject, b"", _REQUEST_TIMEOUT_S)
        info = _consumer_decoder.decode(reply)
        if info.error is not None:
            raise FeedLost(f"consumer {self._name} of {self._stream}: {info.error.description}")
        on_the_way = info.delivered.consumer_seq - self._consumer_seq
        return info.num_pending + max(0, on_the_way) + len(self._waiting)

    async def _until(self, event: asyncio.Event, timeout_s: float) -> None:
        self._check()
        event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()
        self._check()

    def wake(self) -> None:
        """Ends a wait in `take`, which then returns what there is."""
        self._arrived.set()
        self._enough.set()

    def _check(self) -> None:
        if self._lost:
            raise FeedLost(f"reading {self._stream} was interrupted: {self._lost}")

    @property
    def _half_full(self) -> bool:
        limits = self._limits
        return len(self._waiting) * 2 >= limits.events_max or self._waiting_bytes * 2 >= limits.bytes_max

    def _drain(self) -> list[Delivery]:
        taken: list[Delivery] = []
        size = 0
        while self._waiting and len(taken) < self._limits.events_max and size < self._limits.bytes_max:
            message = self._waiting.popleft()
            size += len(message.data)
            taken.append(message)
        self._waiting_bytes -= size
        return taken

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._lost:
            return
        if delivery.consumer_seq != self._consumer_seq + 1:
            self._on_end(f"message {self._consumer_seq + 1} of the consumer is missing")
            return
        self._consumer_seq = delivery.consumer_seq
        self._waiting.append(delivery)
        self._waiting_bytes += len(delivery.data)
        if len(self._waiting) == 1:
            self._arrived.set()
        if self._half_full:
            self._enough.set()

    def _on_end(self, reason: str) -> None:
        self._lost = self._lost or reason
        self._waiting.clear()
        self._waiting_bytes = 0
        self.wake()
