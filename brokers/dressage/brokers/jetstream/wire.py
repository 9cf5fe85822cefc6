"""What JetStream's API says on the wire: headers (ADR-50, ADR-51), acknowledgements, stored messages."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.brokers.interface import Delivery, Message

BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_ROLLUP: Final = "Nats-Rollup"
_MSG_ID: Final = "Nats-Msg-Id"
_SCHEDULE: Final = "Nats-Schedule"
_SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
_SCHEDULE_NEXT: Final = "Nats-Schedule-Next"
_SCHEDULER: Final = "Nats-Scheduler"


class ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class RawMessage(msgspec.Struct):
    subject: str
    seq: int
    data: bytes = b""
    hdrs: bytes = b""


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


class ConsumerNamesReply(msgspec.Struct):
    consumers: list[str] | None = None
    total: int = 0
    error: ApiError | None = None


class PlainReply(msgspec.Struct):
    error: ApiError | None = None


pub_ack = msgspec.json.Decoder(PubAck)
message_reply = msgspec.json.Decoder(MessageReply)
stream_reply = msgspec.json.Decoder(StreamReply)
consumer_names_reply = msgspec.json.Decoder(ConsumerNamesReply)
plain_reply = msgspec.json.Decoder(PlainReply)


def headers_of(message: Message) -> dict[str, str] | None:
    """The headers that say what the message's fields ask for; None when it needs none."""
    headers = dict(message.headers) if message.headers else {}
    if message.msg_id is not None:
        headers[_MSG_ID] = message.msg_id
    if message.expect is not None:
        headers[_EXPECTED] = str(message.expect.seq)
        if message.expect.subject is not None:
            headers[_EXPECTED_SUBJECT] = message.expect.subject
    if message.rollup:
        headers[_ROLLUP] = "sub"
    if message.schedule is not None:
        headers[_SCHEDULE] = f"@at {message.schedule.at}"
        headers[_SCHEDULE_TARGET] = message.schedule.target
    if message.cancels is not None:
        headers[_SCHEDULE_NEXT] = "purge"
        headers[_SCHEDULER] = message.cancels
    return headers or None


def delivery_of(subject: str, data: bytes, headers: dict[str, str] | None, reply: str) -> Delivery:
    """Reads the acknowledgement subject, in its short form or the one with domain and account (ADR-15)."""
    parts = reply.split(".")
    base = 4 if len(parts) == 9 else 6
    return Delivery(
        subject=subject,
        data=data,
        headers=headers,
        attempts=int(parts[base]),
        stream_seq=int(parts[base + 1]),
        consumer_seq=int(parts[base + 2]),
        time_ns=int(parts[base + 3]),
        reply=reply,
    )


def parse_headers(raw: bytes) -> dict[str, str] | None:
    """Headers of a message that was read back through the API, where they come as one block."""
    if not raw:
        return None
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode()] = value.strip().decode("utf-8", "replace")
    return headers
