"""Messages of EVENTS, checked and taken apart for a bulk insert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dressage.brokers.interface import Delivery
from dressage.protocol.events import KINDS, decode_data, decode_event

SEPARATOR: Final = b"\x1e"
"""Stands between the `data` of two events on their way into DuckDB. JSON text cannot contain it unescaped."""

REJECT_PAYLOAD_BYTES_MAX: Final = 64 * 1024


# Structs rather than dataclasses: there is one for each event, and these cost a tenth to make.
class Row(msgspec.Struct, frozen=True, gc=False):
    """A message that is an output event. `data` is that part of its payload, character by character."""

    message: Delivery
    shard: int
    index: int
    data: bytes


class Reject(msgspec.Struct, frozen=True, gc=False):
    """A message that is none, and why."""

    message: Delivery
    reason: str


@dataclass(slots=True)
class Batch:
    """Consecutive messages in stream order; `last_seq` is the sequence that is reached with them."""

    last_seq: int
    rows: list[Row] = field(default_factory=list[Row])
    rejects: list[Reject] = field(default_factory=list[Reject])

    def halves(self) -> tuple[Batch, Batch]:
        """The same messages in two batches, for a batch of two rows or more."""
        middle = len(self.rows) // 2
        left_seq = self.rows[middle - 1].message.stream_seq
        left = Batch(
            left_seq, self.rows[:middle], [r for r in self.rejects if r.message.stream_seq <= left_seq]
        )
        right = Batch(
            self.last_seq, self.rows[middle:], [r for r in self.rejects if r.message.stream_seq > left_seq]
        )
        return left, right

    def without_rows(self, reason: str) -> Batch:
        """The same messages, all of them rejected."""
        refused = [Reject(row.message, reason) for row in self.rows]
        return Batch(
            self.last_seq, [], sorted(self.rejects + refused, key=lambda one: one.message.stream_seq)
        )


def decode(messages: Sequence[Delivery], subject_prefix: str) -> Batch:
    """Sorts messages into events and rejects; `messages` is not empty.

    `subject_prefix` is what stands before the shard in the subject of an event. A kind that this release does
    not know is an event like any other; a known kind whose data does not decode is none.
    """
    batch = Batch(last_seq=messages[-1].stream_seq)
    for message in messages:
        try:
            batch.rows.append(_row(message, subject_prefix))
        except (msgspec.MsgspecError, ValueError) as error:
            batch.rejects.append(Reject(message, f"{type(error).__name__}: {error}"))
    return batch


def _row(message: Delivery, subject_prefix: str) -> Row:
    event = decode_event(message.data)
    if event.kind in KINDS:
        decode_data(event)
    data = bytes(event.data)
    if SEPARATOR in data:
        raise ValueError("a control character stands unescaped in the JSON of `data`")
    shard = message.subject.removeprefix(subject_prefix).partition(".")[0]
    # Also refuses text that is not UTF-8, which the decoder passes over inside of `data`.
    message.data.decode()
    return Row(message, int(shard), event.index, data)
