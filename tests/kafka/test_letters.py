"""A dead letter gives its record back exactly as it was, or says that it cannot."""

from __future__ import annotations

import msgspec
import pytest

from dressage.brokers.interface import Message
from dressage.brokers.jetstream.wire import header_block, parse_headers
from dressage.connectors.dead_letter import HEADERS_BYTES_MAX
from dressage.connectors.kafka.records import RECORD_HEADER, Record, dead_record, record_of
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

MIB = 1024 * 1024
PLAIN = Record("orders", 3, 17, b"k", b'{"id": 7}', (("shop", b"berlin"),), 1_700_000_000_123)


def letter_of(record: Record, payload_bytes_max: int = MIB) -> Message:
    return dead_record(Names(), "orders", record, "EVENT_NOT_JSON", "why", payload_bytes_max)


def given_back(letter: Message) -> Record:
    """As it comes from the server."""
    return record_of(parse_headers(header_block(letter)) or {}, letter.data)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"key": None},
        {"key": b""},
        {"key": b"\x00\x01\xff"},
        {"key": b" two\r\nlines "},
        {"key": b"k" * 2_000},
        {"value": None},
        {"value": b""},
        {"value": b"\xff\xfe"},
        {"headers": ()},
        {"headers": (("shop", b"berlin"), ("shop", b"ulm"), ("Shop", b"bonn"))},
        {"headers": (("trace", b"\x00\xff"), ("none", None), ("empty", b""), ("space", b" x "))},
        {"headers": (("ein Kopf: \u00fc\r\n\u2028", "gr\u00fc\u00dfe\r\n".encode()), ("", b"no name"))},
        {"timestamp_ms": -1},
        {"timestamp_ms": 0},
    ],
)
def test_whatever_a_record_is_its_letter_gives_it_back(change: dict[str, object]) -> None:
    record = msgspec.structs.replace(PLAIN, **change)
    assert given_back(letter_of(record)) == record


def test_a_key_that_is_too_large_is_told() -> None:
    letter = letter_of(msgspec.structs.replace(PLAIN, key=b"k" * HEADERS_BYTES_MAX))
    with pytest.raises(BadInput, match="produce the record again") as caught:
        given_back(letter)
    assert caught.value.code == "LETTER_UNUSABLE"


def test_the_whole_payload_matters_more_than_the_record_beside_it() -> None:
    value = b"x" * (MIB - 1_200)
    record = msgspec.structs.replace(PLAIN, value=value, headers=(("large", b"y" * 500),))
    letter = letter_of(record)
    assert letter.data == value
    assert RECORD_HEADER not in (letter.headers or {})
    assert len(header_block(letter)) + len(letter.data) <= MIB


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "no record of Kafka"),
        ({"Dressage-Topic": "orders", RECORD_HEADER: "{}"}, "none of ours"),
        ({"Dressage-Topic": "orders", RECORD_HEADER: "no json"}, "none of ours"),
    ],
)
def test_what_somebody_else_has_written_is_no_record(headers: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        record_of(headers, b"{}")
