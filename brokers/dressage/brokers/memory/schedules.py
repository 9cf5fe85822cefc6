"""Timers: messages that wait on a subject of their own until the server publishes their data to a target."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from dressage.brokers.jetstream.wire import parse_headers
from dressage.brokers.memory.records import Publish, Record
from dressage.brokers.memory.refusals import SCHEDULE_PATTERN, Refusal

if TYPE_CHECKING:
    from dressage.brokers.memory.stream import Stream

_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DROPPED: Final = ("Nats-Schedule", "Nats-Expected-", "Nats-Msg-Id", "Nats-TTL", "Nats-Rollup")
"""Headers of a timer that its fired message does not carry. "Nats-Schedule" is the beginning of several."""


def instant_ns(at: str) -> int:
    """Raises `Refusal` for what is no RFC 3339 time."""
    found = _RFC3339.fullmatch(at)
    if found is None:
        raise Refusal(SCHEDULE_PATTERN)
    whole, fraction, zone = found.groups()
    return _seconds(whole, zone) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


@lru_cache(maxsize=64)
def _seconds(whole: str, zone: str) -> int:
    offset = UTC if zone == "Z" else timezone(_offset(zone))
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=offset)
    except ValueError:
        raise Refusal(SCHEDULE_PATTERN) from None
    return (moment - _EPOCH) // timedelta(seconds=1)


def _offset(zone: str) -> timedelta:
    sign = -1 if zone[0] == "-" else 1
    return sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))


class Timetable:
    """The timers of one stream in the order of their time. Those that were cancelled or replaced are passed over."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._heap: list[tuple[int, int]] = []

    def add(self, record: Record) -> None:
        heappush(self._heap, (record.due_ns, record.seq))
        if len(self._heap) > 2 * len(self._stream.messages) + 1000:
            self._heap = [entry for entry in self._heap if entry[1] in self._stream.messages]
            heapify(self._heap)

    def next_due_ns(self) -> int | None:
        heap, messages = self._heap, self._stream.messages
        while heap and heap[0][1] not in messages:
            heappop(heap)
        return heap[0][0] if heap else None

    def take_due(self, now_ns: int) -> list[Record]:
        """What is due, in the order of the stream, as the real server fires what is due at once."""
        due: list[Record] = []
        while (first := self.next_due_ns()) is not None and first <= now_ns:
            due.append(self._stream.messages[heappop(self._heap)[1]])
        return sorted(due, key=lambda record: record.seq)


def with_rollup(block: bytes) -> bytes:
    """A timer replaces the one on its subject: the server itself gives it the header that says so."""
    return block[:-2] + b"Nats-Rollup: sub\r\n\r\n"


def fired(record: Record) -> Publish:
    """What a timer's target gets. It removes the timer by the headers it carries."""
    lines = "".join(
        f"{name}: {value}\r\n"
        for name, value in (parse_headers(record.block) or {}).items()
        if not name.startswith(_DROPPED)
    )
    block = f"NATS/1.0\r\n{lines}Nats-Scheduler: {record.subject}\r\nNats-Schedule-Next: purge\r\n\r\n"
    return Publish(record.target, record.data, block.encode(), cancels=record.subject)
