"""The stream that events come from. It belongs to somebody else: nothing of it is created or changed here.

What Dressage has on it is one durable consumer for each trigger, which all processes of that trigger share. The
consumer is where a trigger's progress is kept, but for those that take events in turn: they have an entry of their own.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig
from dressage.connectors.config import TriggerConfig
from dressage.connectors.place import Lease, read_place
from dressage.connectors.place import Place as PlaceInTurn
from dressage.protocol.errors import BrokerError, PublishRefused
from dressage.protocol.names import Names

REQUEST_TIMEOUT_S: Final = 5.0

_log = logging.getLogger("dressage.connectors")

_STREAM_NOT_FOUND: Final = 10059
_CONSUMER_NOT_FOUND: Final = 10014

_OWN: Final = re.compile(r"dressage_[a-z0-9-]+_(\d+|dead)")
"""A consumer on a shard's stream would take its commands, and dead letters that fail would feed on themselves."""


class SourceProblem(BrokerError):
    """The source cannot be read as things are; the codes are SOURCE_MISSING, SOURCE_AMBIGUOUS, SOURCE_REFUSED."""

    code = "SOURCE_MISSING"
    retryable = True


class _ApiError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _StreamConfig(msgspec.Struct):
    subjects: list[str] = []
    retention: str = "limits"


class _StreamState(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0


class _StreamInfo(msgspec.Struct):
    created: str = ""
    config: _StreamConfig = msgspec.field(default_factory=_StreamConfig)
    state: _StreamState = msgspec.field(default_factory=_StreamState)
    error: _ApiError | None = None


class _StreamNames(msgspec.Struct):
    streams: list[str] | None = None
    error: _ApiError | None = None


class _ConsumerConfig(msgspec.Struct):
    opt_start_seq: int | None = None
    opt_start_time: str | None = None
    filter_subject: str = ""
    filter_subjects: list[str] = []
    ack_wait: int = 0
    max_ack_pending: int = 0


class _Reached(msgspec.Struct):
    stream_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    config: _ConsumerConfig = msgspec.field(default_factory=_ConsumerConfig)
    ack_floor: _Reached = msgspec.field(default_factory=_Reached)
    num_pending: int = 0
    num_ack_pending: int = 0
    error: _ApiError | None = None


_stream_info = msgspec.json.Decoder(_StreamInfo)
_stream_names = msgspec.json.Decoder(_StreamNames)
_consumer_info = msgspec.json.Decoder(_ConsumerInfo)


@dataclass(slots=True, frozen=True)
class Place:
    """A stream, and how far a trigger has come in it. `created` tells it from another one of the same name."""

    stream: str
    created: str
    done_seq: int


@dataclass(slots=True, frozen=True)
class Begin:
    """Where a trigger that takes events in turn goes on: in a stream that was `created` then, behind `reached`; or, the
    first time, with what was stored at `time` (RFC 3339) or later."""

    stream: str
    created: str
    reached: int
    time: str = ""


class Source:
    """The source of one trigger."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        trigger: TriggerConfig,
        *,
        ack_wait_s: float,
        pending_max: int,
        incarnation: int = 0,
    ) -> None:
        self._connection = connection
        self._trigger = trigger
        self._ack_wait_s = ack_wait_s
        # One that is not acknowledged keeps the server from delivering the next, to whomever: also while it is put
        # back, or held by a process that is no more. Who comes late with it changes nothing: it counts once.
        self._pending_max = 1 if trigger.source.ordered else pending_max
        self._place: Place | None = None
        self._was_missing = False
        self._names = names
        self.consumer: Final = consumer_name(names.namespace, trigger.name, incarnation)
        self._place_key = names.trigger_place_key(trigger.name, incarnation)

    @property
    def stream(self) -> str:
        """The stream's name; empty before `open` has found it."""
        return self._place.stream if self._place else ""

    @property
    def created(self) -> str:
        """When the stream was made; empty before `open` has found it."""
        return self._place.created if self._place else ""

    async def edge(self) -> tuple[str, int, int]:
        """When the stream was made, its last sequence, and up to which one all events are dealt with; without a stream
        nothing and zeros. Raises a `DressageError` when that cannot be told."""
        if self._trigger.source.core:
            return "", 0, 0
        try:
            stream = await self._find_stream()
            info = await self._stream_info(stream)
        except SourceProblem as problem:
            if problem.code != SourceProblem.code:
                raise
            return "", 0, 0
        return info.created, info.state.last_seq, await self._done_seq(stream, info.created)

    async def _done_seq(self, stream: str, created: str) -> int:
        if self._trigger.in_turn:
            place, _ = await read_place(self._connection, self._names, self._place_key)
            return place.seq if place is not None and place.created == created else 0
        consumer = await self._consumer_info(stream)
        return consumer.ack_floor.stream_seq if consumer else 0

    def lease(self) -> Lease:
        """What says which process takes the events in turn."""
        return Lease(self._connection, self._names, self._place_key, f"trigger {self._trigger.name!r}")

    async def discard(self) -> None:
        """Removes the trigger's place in the stream: its entry, and its consumer. What is not there is no error.

        Whether it took its events in turn is not asked: who comes late knows only what bears its name now.
        """
        if self._trigger.source.core:
            return
        _, seq = await read_place(self._connection, self._names, self._place_key)
        if seq:
            await self._connection.delete_message(self._names.definitions_stream(), seq)
        try:
            stream = await self._find_stream()
            if await self._consumer_info(stream) is not None:
                await self._connection.delete_consumer(stream, self.consumer)
        except SourceProblem as problem:
            if problem.code != SourceProblem.code:
                raise

    async def open(self) -> None:
        """Finds the stream, and makes the consumer unless it is there already. May be repeated.

        Raises `SourceProblem`, or another `DressageError` when the server does not answer.
        """
        stream, info = await self._looked_at()
        found = await self._consumer_info(stream)
        first: int | str | None
        if found is None:
            first, done = self._first(stream, info), 0
            await self._create(stream, info, first)
        else:
            first, done = (
                found.config.opt_start_seq or found.config.opt_start_time,
                found.ack_floor.stream_seq,
            )
            if not self._as_wanted(found.config):
                await self._create(stream, info, first)
        self._place = Place(stream, info.created, max(done, first - 1 if isinstance(first, int) else 0))

    async def begin(self, found: PlaceInTurn) -> Begin:
        """Finds the stream, and where to go on in it. Raises as `open`."""
        stream, info = await self._looked_at()
        if info.config.retention != "limits":
            raise SourceProblem(
                f"stream {stream} removes what is acknowledged (retention {info.config.retention}), and order_by and "
                f"batch read without that{self._whose}: leave them out, or use source.ordered",
                code="SOURCE_REFUSED",
            )
        if found.created == info.created:
            if info.state.first_seq > found.seq + 1:
                _log.warning(
                    "trigger %r: events up to %d may be lost to it: stream %s begins with %d, and it had come to %d",
                    *(self._trigger.name, info.state.first_seq - 1, stream, info.state.first_seq, found.seq),
                )
            return Begin(stream, info.created, found.seq)
        if self._trigger.start == "new" and (found.created or self._was_missing):
            return Begin(stream, info.created, 0)
        first = self._configured(info)
        if isinstance(first, str):
            return Begin(stream, info.created, 0, first)
        return Begin(stream, info.created, first - 1 if first else 0)

    @property
    def filters(self) -> list[str]:
        """The subjects of its events; none means all of the stream."""
        return [self._trigger.source.subject] if self._trigger.source.subject else []

    async def _looked_at(self) -> tuple[str, _StreamInfo]:
        stream = await self._find_stream()
        if _OWN.fullmatch(stream):
            raise SourceProblem(
                f"stream {stream} is Dressage's own and feeds no trigger{self._whose}: take events from the stream "
                f"of a service, or from the namespace's output events",
                code="SOURCE_REFUSED",
            )
        return stream, await self._stream_info(stream)

    async def lag(self) -> int:
        """How many events are not dealt with yet. Raises a `DressageError` when that cannot be told."""
        place = self._place
        info = await self._consumer_info(place.stream) if place else None
        if place is None or info is None:
            raise SourceProblem(f"there is no consumer {self.consumer}{self._whose}")
        self._place = Place(place.stream, place.created, max(place.done_seq, info.ack_floor.stream_seq))
        return info.num_pending + info.num_ack_pending

    # -- where to begin ----------------------------------------------------------------------------
    def _first(self, stream: str, info: _StreamInfo) -> int | str | None:
        """The sequence or the time that a new consumer begins with; None for the first event."""
        place = self._place
        if place is not None and (place.stream, place.created) == (stream, info.created):
            # The consumer was lost while we used it: go on where it was, not where the trigger once began.
            return place.done_seq + 1
        if self._trigger.start == "new" and (place is not None or self._was_missing):
            # A stream that came only after the trigger holds nothing that is older than it.
            return None
        return self._configured(info)

    def _configured(self, info: _StreamInfo) -> int | str | None:
        match self._trigger.start:
            case "all":
                return None
            case "new":
                return info.state.last_seq + 1
            case int(seq):
                return seq
            case datetime() as time:
                return time.astimezone(UTC).isoformat().replace("+00:00", "Z")

    # -- the server's answers ----------------------------------------------------------------------
    @property
    def _whose(self) -> str:
        return f" (trigger {self._trigger.name!r})"

    async def _find_stream(self) -> str:
        source = self._trigger.source
        if source.stream is not None:
            return source.stream
        found = await streams_of(self._connection, source.subject or "")
        if not found:
            self._was_missing = True
            raise SourceProblem(
                f"no stream on this server stores subject {source.subject}{self._whose}: the service that publishes "
                "there has to create one. Waiting for it"
            )
        if len(found) > 1:
            raise SourceProblem(
                f"several streams store subject {source.subject}{self._whose}: {', '.join(found)}. "
                "Name one of them as source.stream",
                code="SOURCE_AMBIGUOUS",
            )
        return found[0]

    async def _stream_info(self, stream: str) -> _StreamInfo:
        answer = await self._connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", REQUEST_TIMEOUT_S)
        info = _stream_info.decode(answer)
        if info.error is None:
            return info
        if info.error.err_code != _STREAM_NOT_FOUND:
            raise SourceProblem(
                f"stream {stream}{self._whose}: {info.error.description}", code="SOURCE_REFUSED"
            )
        self._was_missing = True
        subject = self._trigger.source.subject
        raise SourceProblem(
            f"there is no stream {stream}{f' for subject {subject}' if subject else ''} on this server{self._whose}: "
            "the service that publishes the events has to create it. Waiting for it"
        )

    async def _consumer_info(self, stream: str) -> _ConsumerInfo | None:
        subject = f"$JS.API.CONSUMER.INFO.{stream}.{self.consumer}"
        info = _consumer_info.decode(await self._connection.request(subject, b"", REQUEST_TIMEOUT_S))
        if info.error is None:
            return info
        if info.error.err_code in (_CONSUMER_NOT_FOUND, _STREAM_NOT_FOUND):
            return None
        raise SourceProblem(
            f"consumer {self.consumer} of {stream}: {info.error.description}", code="SOURCE_REFUSED"
        )

    def _as_wanted(self, config: _ConsumerConfig) -> bool:
        filters = config.filter_subjects or ([config.filter_subject] if config.filter_subject else [])
        ack_wait_s = config.ack_wait / 1e9
        return (filters, ack_wait_s, config.max_ack_pending) == (
            self.filters,
            self._ack_wait_s,
            self._pending_max,
        )

    async def _create(self, stream: str, info: _StreamInfo, first: int | str | None) -> None:
        """Makes the consumer, or brings it to the configuration. Where it begins cannot be changed afterwards."""
        config = ConsumerConfig(
            name=self.consumer,
            filters=self.filters,
            ack_wait_s=self._ack_wait_s,
            max_ack_pending=self._pending_max,
            start_seq=first if isinstance(first, int) else None,
            start_time=first if isinstance(first, str) else None,
        )
        try:
            await self._connection.create_consumer(stream, config)
        except PublishRefused as error:
            # Another process of this trigger may have made it in between, with another place to begin.
            made = await self._consumer_info(stream)
            if made is not None and self._as_wanted(made.config):
                return
            stored = ", ".join(info.config.subjects) or "what other streams hold"
            raise SourceProblem(
                f"{error.message}{self._whose}. The stream stores {stored}", code="SOURCE_REFUSED"
            ) from error


async def streams_of(connection: Connection, subject: str) -> list[str]:
    """The streams that store it, or a part of what it stands for. Raises a `DressageError` when that cannot be told."""
    body = msgspec.json.encode({"subject": subject})
    answer = await connection.request("$JS.API.STREAM.NAMES", body, REQUEST_TIMEOUT_S)
    return sorted(_stream_names.decode(answer).streams or [])


def consumer_name(namespace: str, trigger: str, incarnation: int = 0) -> str:
    """The durable consumer of a trigger. Names have no underscore, so no two triggers share one.

    `incarnation` is that of a trigger that is deployed; one of a file has none.
    """
    return f"dressage_{namespace}_trigger_{trigger}{f'_{incarnation}' if incarnation else ''}"


def event_id(stream: str, seq: int, time_ns: int) -> str:
    """The id of an event that has none of its own: where it is stored. Its time, to the millisecond, is part of it
    because a stream that was made anew counts from one again."""
    return f"{stream}-{seq}-{time_ns // 1_000_000}"
