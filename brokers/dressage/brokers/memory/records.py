"""What is published, and what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dressage.brokers.interface import Message
from dressage.brokers.jetstream.wire import LazyHeaders, header_block


class Publish(msgspec.Struct, gc=False):
    """A message as it arrives: what its fields ask for, and the header block that says the same on the wire.

    `expect_seq` -1 asks for nothing; `expect_subject` is never empty when something is asked for.
    """

    subject: str
    data: bytes = b""
    block: bytes = b""
    expect_seq: int = -1
    expect_subject: str = ""
    rollup: bool = False
    schedule_at: str | None = None
    schedule_target: str = ""
    cancels: str = ""
    msg_id: str = ""
    never_expires: bool = False
    expires_s: int = 0


def arriving(message: Message, batch: str = "") -> Publish:
    """A copy, because the sender may go on to change its own. `batch` is what `wire.batch_lines` made.

    Raises `BadInput` for a header that would end its line early.
    """
    block = header_block(message, batch)
    if not block:
        return Publish(message.subject, message.data)
    expect, schedule = message.expect, message.schedule
    return Publish(
        message.subject,
        message.data,
        block,
        -1 if expect is None else expect.seq,
        "" if expect is None else expect.subject or message.subject,
        message.rollup,
        None if schedule is None else schedule.at,
        "" if schedule is None else schedule.target,
        message.cancels or "",
        message.msg_id or "",
        message.never_expires,
        message.expires_s,
    )


class Record:
    """A message that was stored. `writer` is whatever the writing connection passed; None for a timer that fired.

    `due_ns` is not 0 for a timer: when it is due, `target` gets its data.
    """

    __slots__ = (
        "block",
        "data",
        "due_ns",
        "headers",
        "never_expires",
        "seq",
        "stream",
        "subject",
        "target",
        "time_ns",
        "writer",
    )

    def __init__(
        self,
        stream: str,
        seq: int,
        publish: Publish,
        block: bytes,
        time_ns: int,
        writer: object,
        due_ns: int = 0,
    ) -> None:
        """`block` is the header block as it is stored."""
        self.stream = stream
        self.seq = seq
        self.subject = publish.subject
        self.data = publish.data
        self.block = block
        self.headers: Mapping[str, str] | None = LazyHeaders(block) if block else None
        self.time_ns = time_ns
        self.writer = writer
        self.never_expires = publish.never_expires
        self.target = publish.schedule_target
        self.due_ns = due_ns

    def __repr__(self) -> str:
        return f"Record({self.stream}, {self.seq}, {self.subject!r}, {self.data!r})"
