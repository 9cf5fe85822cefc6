"""Writes EVENTS into the file, each event exactly once.

Rows and position are one transaction of DuckDB, and reading always begins behind the position: after a crash
at any instant the file holds a prefix of the stream, and goes on from its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import anyio.to_thread
import duckdb
import msgspec

from dressage.analytics.errors import EVENTS_LOST, AnalyticsError
from dressage.analytics.metrics import Metrics, NoMetrics
from dressage.analytics.store import Store
from dressage.brokers.event_feed import (
    BatchLimits,
    EventFeed,
    FeedLost,
    StreamInfo,
    StreamMissing,
    stream_info,
)
from dressage.brokers.interface import Connection, Delivery
from dressage.protocol.errors import BrokerError, NoAnswer
from dressage.protocol.events import decode_event
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.analytics")

RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 2.0

REWOUND_PATIENCE_S: Final = 10.0
"""A newly elected leader may need a moment until it shows all that is committed."""

STALLS_MAX: Final = 4
"""So many times in a row the stream has an event and the consumer does not deliver it: it gets replaced."""

NEARLY_FULL: Final = 0.9
"""A stream so close to its limit may have dropped messages, and given some room back since."""


class Ingest:
    """Follows the stream until `stop()`. The caller opens and closes connection and store."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        store: Store,
        *,
        limits: BatchLimits | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._connection = connection
        self._names = names
        self._store = store
        self._limits = limits or BatchLimits()
        self._metrics = metrics or NoMetrics()
        self._feed: EventFeed | None = None
        self._stopping = asyncio.Event()
        self._moved = asyncio.Event()
        self._next_write_at = 0.0
        self._stalls = 0

    @property
    def position(self) -> int:
        """Everything up to this stream sequence is in the file."""
        return self._store.position

    async def run(self) -> None:
        """Ingests until `stop()`, waiting for a stream that does not exist yet and through lost connections.

        Raises `AnalyticsError` when the file cannot go on with this stream, or when the database gave up.
        """
        wait_s, reported = RETRY_MIN_S, ""
        while not self._stopping.is_set():
            before = self.position
            try:
                await self._follow()
            except (BrokerError, NoAnswer, duckdb.OperationalError) as error:
                if self.position > before:
                    wait_s, reported = RETRY_MIN_S, ""
                if (text := str(error)) != reported:
                    _log.log(
                        logging.INFO if isinstance(error, StreamMissing) else logging.WARNING, "%s", text
                    )
                    reported = text
                await self._pause(wait_s)
                wait_s = min(2 * wait_s, RETRY_MAX_S)
            except duckdb.Error as error:
                raise AnalyticsError(
                    f"the database failed: {error}. What it has committed is safe: start again, and if this "
                    "comes back, move the file away."
                ) from error

    def stop(self) -> None:
        """Makes `run` return after the batch at hand."""
        self._stopping.set()
        if self._feed is not None:
            self._feed.wake()

    async def reached(self, position: int, timeout_s: float) -> bool:
        """True as soon as the file reflects `position`, False when that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < position:
                    await self._moved.wait()
        except TimeoutError:
            return self.position >= position
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    # -- one consumer's life -----------------------------------------------------------------------
    async def _follow(self) -> None:
        # Before the first message is read: a sequence means nothing in a stream that is not ours.
        await self._recognise()
        feed = await EventFeed.open(
            self._connection,
            self._names.events_stream,
            [self._names.all_events()],
            self._store.event_seq + 1,
            self._limits,
            "analytics",
        )
        self._feed, self._stalls = feed, 0
        try:
            while not self._stopping.is_set():
                messages = await feed.take(self._next_write_at)
                # Asked after the messages have come: what the stream holds now, it held when they were read.
                info = await self._info()
                if messages:
                    await self._write(messages, info)
                elif info.state.last_seq > self.position:
                    await self._advance(info)
                self._metrics.lag(max(0, info.state.last_seq - self.position))
        finally:
            self._feed = None
            await feed.close()

    async def _info(self) -> StreamInfo:
        info = await stream_info(self._connection, self._names.events_stream)
        await anyio.to_thread.run_sync(self._store.bind, info.created)
        return info

    async def _recognise(self) -> None:
        deadline = asyncio.get_running_loop().time() + REWOUND_PATIENCE_S
        while (info := await self._info()).state.last_seq < self._store.event_seq:
            if asyncio.get_running_loop().time() > deadline:
                raise AnalyticsError(
                    f"the stream {self._names.events_stream} ends at {info.state.last_seq}, and the file has "
                    f"read up to {self._store.event_seq}: the server has lost what it had acknowledged, or "
                    "was restored from a backup. Move the file away and start again: a new one is filled "
                    "from the beginning of the stream.",
                    code="STREAM_REWOUND",
                )
            await self._pause(RETRY_MAX_S / 4)
            if self._stopping.is_set():
                return

    async def _write(self, messages: Sequence[Delivery], info: StreamInfo) -> None:
        self._next_write_at = asyncio.get_running_loop().time() + self._limits.pause_s
        gaps = self._gaps([message.stream_seq for message in messages], info, messages[0])
        written = await anyio.to_thread.run_sync(self._store.write, messages, gaps)
        self._report(gaps)
        self._metrics.ingested(written.events)
        if written.rejects:
            _log.warning("%d messages on event subjects are no events: see table rejects", written.rejects)
            self._metrics.rejected(written.rejects)
        self._stalls = 0
        self._notify()

    async def _advance(self, info: StreamInfo) -> None:
        """Nothing came for a while: if the leader has no further event either, what is left are positions.

        Reading still goes on behind the last event, and not behind this position, so an answer of a leader
        that was out of date cannot make us skip anything.
        """
        waiting = await self._connection.next_message(
            self._names.events_stream, self._store.event_seq + 1, self._names.all_events()
        )
        if waiting is not None:
            self._stalls += 1
            if self._stalls >= STALLS_MAX:
                raise FeedLost(f"message {waiting.seq} is not delivered by the consumer")
            return
        gaps = self._gaps([info.state.first_seq], info, None)
        await anyio.to_thread.run_sync(self._store.advance, info.state.last_seq, gaps)
        self._report(gaps)
        self._notify()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    # -- retention ---------------------------------------------------------------------------------
    def _gaps(self, seqs: Iterable[int], info: StreamInfo, first: Delivery | None) -> list[tuple[int, int]]:
        """The ranges between the position and these messages that the stream no longer holds.

        A range below the stream's first sequence was dropped, before or just after it would have been read.
        Between messages that are still there, only position messages are missing: each replaces the one
        before it.
        """
        first_seq, previous = info.state.first_seq, self.position
        if first_seq <= previous + 1:
            return []
        gaps: list[tuple[int, int]] = []
        for seq in seqs:
            if previous + 1 >= first_seq:
                break
            if seq > previous + 1 and not (previous == 0 and _only_positions(info, first)):
                gaps.append((previous + 1, min(seq, first_seq) - 1))
            previous = max(previous, seq)
        return gaps

    def _report(self, gaps: Iterable[tuple[int, int]]) -> None:
        for first, last in gaps:
            self._metrics.lost(last - first + 1)
            _log.error(
                "%s: stream %s dropped sequences %d to %d before analytics had read them. They are listed in "
                "table gaps. Raise the stream's limits, or keep analytics running.",
                EVENTS_LOST,
                self._names.events_stream,
                first,
                last,
            )


def _only_positions(info: StreamInfo, first: Delivery | None) -> bool:
    """Whether a stream that does not begin at 1 may still hold all of its events.

    Its first messages are positions, written before the first event and replaced since. That is all that can
    be missing if no limit can have taken effect and the first event is the first of its run.
    """
    return not _limits_reached(info) and (first is None or _index(first) == 0)


def _index(message: Delivery) -> int:
    try:
        return decode_event(message.data).index
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0


def _limits_reached(info: StreamInfo) -> bool:
    limits, state = info.config, info.state
    if limits.max_msgs > 0 and state.messages >= NEARLY_FULL * limits.max_msgs:
        return True
    if limits.max_bytes > 0 and state.bytes >= NEARLY_FULL * limits.max_bytes:
        return True
    return limits.max_age > 0 and _age(info) > timedelta(microseconds=limits.max_age / 1000)


def _age(info: StreamInfo) -> timedelta:
    """How long ago the stream was created, by the server's clock."""
    try:
        now, created = (msgspec.convert(text, datetime) for text in (info.ts, info.created))
    except msgspec.ValidationError:
        return timedelta.max
    return now - created
