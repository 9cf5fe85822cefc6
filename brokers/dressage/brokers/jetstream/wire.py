"""What JetStream's API says on the wire: headers (ADR-50, ADR-51), acknowledgements, stored messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from dressage.brokers.interface import Delivery, Message
from dressage.protocol.errors import BadInput

_BATCH_ID: Final = "Nats-Batch-Id"
_BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
_BATCH_COMMIT: Final = "Nats-Batch-Commit"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_ROLLUP: Final = "Nats-Rollup"
_MSG_ID: Final = "Nats-Msg-Id"
_TTL: Final = "Nats-TTL"
_SCHEDULE: Final = "Nats-Schedule"
_SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
_SCHEDULE_NEXT: Final = "Nats-Schedule-Next"
_SCHEDULER: Final = "Nats-Scheduler"
_BREAKS: Final = re.compile("[\r\n]")

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

ERR_CODES_FROM: Final = 10_000
"""JetStream's own error numbers begin here."""


class ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class _NamedAck(msgspec.Struct):
    """What an acknowledgement has, and hardly anything else: stream and sequence, or an error of JetStream's."""

    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


class RawMessage(msgspec.Struct):
    subject: str
    seq: int
    data: bytes = b""
    hdrs: bytes = b""
    time: datetime | None = None


class MessageReply(msgspec.Struct):
    message: RawMessage | None = None
    error: ApiError | None = None


class StreamConfigReply(msgspec.Struct):
    num_replicas: int = 1


class StreamStateReply(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    subjects: dict[str, int] | None = None


class StreamReply(msgspec.Struct):
    state: StreamStateReply | None = None
    config: StreamConfigReply | None = None
    error: ApiError | None = None
    ts: datetime | None = None
    total: int = 0
    """How many subjects there are: one answer holds a part of them."""


class ConsumerNamesReply(msgspec.Struct):
    consumers: list[str] | None = None
    total: int = 0
    error: ApiError | None = None


class SequenceReply(msgspec.Struct):
    stream_seq: int = 0


class ConsumerReply(msgspec.Struct):
    ack_floor: SequenceReply = msgspec.field(default_factory=SequenceReply)
    delivered: SequenceReply = msgspec.field(default_factory=SequenceReply)
    num_ack_pending: int = 0
    num_pending: int = 0
    error: ApiError | None = None


class PlainReply(msgspec.Struct):
    error: ApiError | None = None


pub_ack = msgspec.json.Decoder(PubAck)
message_reply = msgspec.json.Decoder(MessageReply)
stream_reply = msgspec.json.Decoder(StreamReply)
consumer_names_reply = msgspec.json.Decoder(ConsumerNamesReply)
consumer_reply = msgspec.json.Decoder(ConsumerReply)
plain_reply = msgspec.json.Decoder(PlainReply)


def nanoseconds(time: datetime | None) -> int:
    """Since the epoch, to the microsecond; 0 where the server does not tell."""
    return 0 if time is None else (time - _EPOCH) // _MICROSECOND * 1000


_named_ack = msgspec.json.Decoder(_NamedAck)


def is_pub_ack(data: bytes) -> bool:
    """Whether this is a stream's answer to a publish, and not that of whoever else listens on the subject."""
    try:
        ack = _named_ack.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if ack.error is not None:
        return ack.error.err_code >= ERR_CODES_FROM
    return ack.stream != "" and ack.seq > 0


def header_block(message: Message, batch: str = "") -> bytes:
    """The headers that say what the message's fields ask for, as they go over the wire; empty when it needs none.

    `batch` is what `batch_lines` made. Raises `BadInput` for a header that would end its line early.
    """
    lines = batch + message.lines
    if message.headers:
        for name, value in message.headers.items():
            if _BREAKS.search(name) or _BREAKS.search(value):
                raise BadInput(f"header {name!r} holds a line break")
            lines += f"{name}: {value}\r\n"
    if message.msg_id is not None:
        lines += f"{_MSG_ID}: {message.msg_id}\r\n"
    if message.expect is not None:
        lines += f"{_EXPECTED}: {message.expect.seq}\r\n"
        if message.expect.subject is not None:
            lines += f"{_EXPECTED_SUBJECT}: {message.expect.subject}\r\n"
    if message.rollup:
        lines += f"{_ROLLUP}: sub\r\n"
    if message.never_expires:
        lines += f"{_TTL}: never\r\n"
    if message.expires_s:
        lines += f"{_TTL}: {message.expires_s}s\r\n"
    if message.schedule is not None:
        lines += (
            f"{_SCHEDULE}: @at {message.schedule.at}\r\n{_SCHEDULE_TARGET}: {message.schedule.target}\r\n"
        )
    if message.cancels is not None:
        lines += f"{_SCHEDULE_NEXT}: purge\r\n{_SCHEDULER}: {message.cancels}\r\n"
    return f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b""


def batch_lines(batch_id: str, number: int, *, commit: bool) -> str:
    """The header lines of one message of an atomic batch (ADR-50)."""
    lines = f"{_BATCH_ID}: {batch_id}\r\n{_BATCH_SEQUENCE}: {number}\r\n"
    return f"{lines}{_BATCH_COMMIT}: 1\r\n" if commit else lines


def delivery_of(subject: str, data: bytes, headers: bytes, reply: str) -> Delivery:
    """Reads the acknowledgement subject, in its short form or the one with domain and account (ADR-15)."""
    parts = reply.split(".")
    base = 4 if len(parts) == 9 else 6
    return Delivery(
        subject=subject,
        data=data,
        headers=LazyHeaders(headers) if headers else None,
        attempts=int(parts[base]),
        stream_seq=int(parts[base + 1]),
        consumer_seq=int(parts[base + 2]),
        time_ns=int(parts[base + 3]),
        reply=reply,
    )


class LazyHeaders(Mapping[str, str]):
    """The headers of a delivery, parsed when somebody looks: most deliveries are never asked for theirs."""

    __slots__ = ("_block", "_parsed")

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            self._parsed = parse_headers(self._block) or {}
        return self._parsed

    def __getitem__(self, name: str) -> str:
        if self._parsed is None and name.encode() not in self._block:
            raise KeyError(name)
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        """That there is a block at all: to ask it need not be parsed."""
        return True


def status_of(headers: bytes) -> tuple[str, str]:
    """Status code and text of a control message, such as `NATS/1.0 409 Consumer Deleted`."""
    first = headers.split(b"\r\n", 1)[0].decode("utf-8", "replace")
    _, _, rest = first.partition(" ")
    code, _, text = rest.strip().partition(" ")
    return code, text


def parse_headers(raw: bytes) -> dict[str, str] | None:
    """A header block as a dict; the status line before the headers is left out."""
    if not raw:
        return None
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return headers
