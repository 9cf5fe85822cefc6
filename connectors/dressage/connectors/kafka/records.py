"""Records as they come from Kafka, and what is kept of those that nothing can be made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import msgspec

from dressage.brokers.interface import Message
from dressage.connectors.dead_letter import REASON_CHARS_MAX, fitted, has_room, rfc3339, safe_value
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

Place = tuple[str, int]
"""A topic and the number of one of its partitions."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record. `timestamp_ms` is -1 where there is none; headers may repeat their names."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int

    @property
    def place(self) -> Place:
        return self.topic, self.partition

    @property
    def id(self) -> str:
        """No other record of the cluster has it. A topic's name has no `/`."""
        return f"{self.topic}/{self.partition}/{self.offset}"


KEY_HEADER: Final = "Dressage-Key"
TOPIC_HEADER: Final = "Dressage-Topic"

RECORD_HEADER: Final = "Dressage-Record"
"""The record as JSON without what its value holds; `null` as its value is that of a tombstone. The other headers are
for people to read: they cannot hold every key, nor every header of a record."""

_decode = msgspec.json.Decoder(Record).decode


def explained(connector: str, record: Record, code: str, reason: str) -> dict[str, str]:
    """The headers of a dead letter that say whose it is, where it stands, and why it is one."""
    return {
        "Dressage-Code": safe_value(code, 100),
        "Dressage-Reason": safe_value(reason, REASON_CHARS_MAX),
        "Dressage-Connector": connector,
        TOPIC_HEADER: record.topic,
        "Dressage-Partition": str(record.partition),
        "Dressage-Offset": str(record.offset),
        "Dressage-Time": rfc3339(max(0, record.timestamp_ms) * 1_000_000),
    }


def dead_record(
    names: Names, connector: str, record: Record, code: str, reason: str, payload_bytes_max: int
) -> Message:
    """The message for the namespace's dead-letter stream. Its id is the same whenever this record is buried."""
    headers = explained(connector, record, code, reason)
    if record.key is not None:
        headers[KEY_HEADER] = safe_value(record.key.decode("utf-8", "replace"), REASON_CHARS_MAX)
    msg_id = f"connector-{connector}-{record.id}-{record.timestamp_ms}"
    letter = Message(names.dead_connector(connector), record.value or b"", headers, msg_id=msg_id)
    exact = {RECORD_HEADER: _without_value(record)}
    if has_room(letter, exact, payload_bytes_max):
        letter = Message(letter.subject, letter.data, headers | exact, msg_id=msg_id)
    originals = [(name, (value or b"").decode("utf-8", "replace")) for name, value in record.headers]
    return fitted(letter, originals, payload_bytes_max)


def record_of(headers: Mapping[str, str], payload: bytes) -> Record:
    """The record that a dead letter is of, as it was. Raises `BadInput` for a letter that does not tell."""
    if TOPIC_HEADER not in headers:
        raise BadInput("it is no record of Kafka", code="LETTER_UNUSABLE")
    if RECORD_HEADER not in headers:
        raise BadInput(
            "its key and its headers are not kept as they were, as they are too large, or an earlier release "
            "has kept it: produce the record again",
            code="LETTER_UNUSABLE",
        )
    try:
        record = _decode(headers[RECORD_HEADER])
    except msgspec.MsgspecError as error:
        raise BadInput(f"{RECORD_HEADER} is none of ours: {error}", code="LETTER_UNUSABLE") from error
    return record if record.value is None else msgspec.structs.replace(record, value=payload)


def _without_value(record: Record) -> str:
    """In ASCII, as a header is one line."""
    bare = record if record.value is None else msgspec.structs.replace(record, value=b"")
    return json.dumps(msgspec.to_builtins(bare), separators=(",", ":"))
