"""Large values of the evaluator: read, kept, written, and looked at by nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dressage.expressions import TypeTable
from dressage.expressions.large import LargePlaces, LargeValue
from dressage.expressions.masked import encode_sorted
from dressage.expressions.values import decode_stored, encode_stored
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.large import REFERENCE_BYTES_MAX, Reference, reference_json, reference_of
from dressage.protocol.types import (
    NONE,
    DictOf,
    Field,
    LargeOf,
    ListOf,
    MaskedOf,
    Named,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeRef,
    UnionOf,
)

STR, INT = Scalar("str"), Scalar("int")
LARGE = LargeOf(STR)
REFERENCE = reference_json(Reference("a" * 64, 5))
TYPES = [
    RecordType("Page", (Field("text", LARGE), Field("number", INT))),
    RecordType("Pair", (Field("text", LARGE), Field("number", INT)), form="tuple"),
    RecordType("Card", (Field("number", MaskedOf(STR)),)),
]
PLACES: dict[str, tuple[TypeRef, str]] = {
    "alone": (LARGE, "%s"),
    "in a list": (ListOf(LARGE), "[%s,%s]"),
    "in a dict": (DictOf(STR, LARGE), '{"a":%s}'),
    "in a tuple": (TupleOf((INT, LARGE)), "[1,%s]"),
    "in a record": (Named("Page"), '{"text":%s,"number":1}'),
    "in a named tuple": (Named("Pair"), "[%s,1]"),
    "in records in a list": (ListOf(Named("Page")), '[{"text":%s,"number":1}]'),
    "in an option": (UnionOf((NONE, Named("Page"))), '{"text":%s,"number":1}'),
}


def filled(pattern: str, value: bytes) -> bytes:
    return pattern.replace("%s", value.decode()).encode()


@pytest.fixture(scope="module")
def table() -> TypeTable:
    return TypeTable(TYPES)


@pytest.mark.parametrize("value", [b'"text"', REFERENCE], ids=["value", "reference"])
@pytest.mark.parametrize("place", PLACES)
def test_it_is_read_kept_and_written_as_it_came(place: str, value: bytes, table: TypeTable) -> None:
    ref, pattern = PLACES[place]
    raw, codec = filled(pattern, value), table.codec(ref)
    found = codec.decode(raw)
    stored = encode_stored(found)
    again = decode_stored(stored, table)
    assert codec.encode(found) == codec.encode(again) == codec.shown(raw, found) == raw
    assert encode_stored(again) == stored


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "value", [b"5", b'{"$large":{}}', b'{"\\u0024large":1}', b'{"$large":{"sha256":"x"}}']
)
def test_what_is_neither_a_value_nor_a_reference_is_refused(
    place: str, value: bytes, table: TypeTable
) -> None:
    ref, pattern = PLACES[place]
    with pytest.raises(BadValue):
        table.codec(ref).decode(filled(pattern, value))


@pytest.mark.parametrize("place", PLACES)
async def test_its_places_are_found_and_nothing_else_is_touched(place: str, table: TypeTable) -> None:
    ref, pattern = PLACES[place]
    seen: list[bytes] = []

    async def change(raw: bytes) -> bytes:
        seen.append(raw)
        return REFERENCE

    places = LargePlaces(TYPES)
    assert places.has(ref)
    assert await places.change(ref, filled(pattern, b'"text"'), change) == filled(pattern, REFERENCE)
    assert seen == [b'"text"'] * pattern.count("%s")
    for other in (b"null", b"5", b"[", b'{"text":null,"number":1}'):
        seen.clear()
        if place not in ("alone", "in a dict"):
            assert await places.change(ref, other, change) == other
            assert seen == []


def test_nothing_looks_at_one() -> None:
    value = LargeValue(b'"text"')
    assert value != None and not value == None  # noqa: E711, SIM201, PT018
    looks: list[Any] = [
        lambda: value == "text",
        lambda: hash(value),
        lambda: bool(value),
        lambda: [value] == ["t"],
    ]
    for look in looks:
        with pytest.raises(TypeError, match="a large value is passed on unseen"):
            look()
    assert "text" not in repr(value)


def test_none_is_none(table: TypeTable) -> None:
    assert table.codec(LargeOf(UnionOf((STR, NONE)))).decode(b"null") is None
    with pytest.raises(BadValue):
        table.codec(LARGE).decode(b"null")


def test_a_value_that_a_workflow_makes_is_taken_unless_it_could_be_a_reference(table: TypeTable) -> None:
    codec = table.codec(LargeOf(DictOf(STR, INT)))
    assert codec.encode({"a": 1}) == b'{"a":1}'
    with pytest.raises(BadValue, match="let a task make it"):
        codec.encode({"$large": 1})
    with pytest.raises(BadValue, match="expected str, got a large value"):
        table.codec(STR).encode(LargeValue(b'"text"'))


@pytest.mark.parametrize(
    "ref",
    [
        SetOf(LARGE),
        DictOf(LARGE, STR),
        UnionOf((LARGE, INT)),
        UnionOf((LARGE, NONE)),
        LargeOf(Named("Page")),
        LargeOf(Named("Card")),
        LargeOf(MaskedOf(STR)),
        MaskedOf(LARGE),
        MaskedOf(ListOf(Named("Page"))),
    ],
)
def test_a_type_that_nobody_could_keep_is_refused(ref: TypeRef, table: TypeTable) -> None:
    with pytest.raises(BadSpec):
        table.codec(ref)


def test_equal_values_are_written_alike_whatever_their_order(table: TypeTable) -> None:
    codec = table.codec(LargeOf(DictOf(STR, INT)))
    one, other = codec.decode(b'{"a":1,"b":2}'), codec.decode(b' {"b": 2, "a": 1} ')
    assert encode_sorted({"x": one}) == encode_sorted({"x": other})


@pytest.mark.limit("protocol.large.REFERENCE_BYTES_MAX")
def test_json_that_is_too_long_for_a_reference_is_a_value() -> None:
    longest = REFERENCE[:-1] + b" " * (REFERENCE_BYTES_MAX - len(REFERENCE)) + b"}"
    assert reference_of(longest) == Reference("a" * 64, 5)
    assert reference_of(longest[:-1] + b" }") is None


def test_a_reference_comes_back_as_it_was() -> None:
    reference = Reference("0" * 64, 7, "json+zstd")
    assert reference_of(reference_json(reference)) == reference
    assert msgspec.json.decode(reference_json(reference)) == {
        "$large": {"sha256": "0" * 64, "size": 7, "encoding": "json+zstd"}
    }
