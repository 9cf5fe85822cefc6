"""The stored form: whatever a run can hold comes back as it was, of the same type."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dressage.expressions import LimitExceeded, TypeTable, decode_stored, encode_stored
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadValue
from dressage.protocol.types import EnumMember, EnumType, Field, ListOf, Named, RecordType, Scalar, UnionOf

TABLE = TypeTable(
    [
        RecordType(
            "Line",
            (
                Field("sku", Scalar("str")),
                Field("price", Scalar("decimal")),
                Field("weight", UnionOf((Scalar("float"), Scalar("none")))),
                Field("due", Scalar("datetime")),
            ),
        ),
        RecordType("Order", (Field("lines", ListOf(Named("Line"))), Field("color", Named("Color")))),
        EnumType("Color", (EnumMember("RED", "red"), EnumMember("BLUE", "blue"))),
        EnumType("Level", (EnumMember("LOW", 1), EnumMember("HIGH", 2)), "int"),
        EnumType("Word", (EnumMember("YES", "yes"), EnumMember("NO", "no")), "str"),
    ]
)

zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-5, minutes=-30))])
# `fold` tells two readings of one local hour apart; JSON cannot, and zones of a fixed offset have no such hour.
datetimes = st.datetimes(timezones=zones).map(lambda value: value.replace(fold=0))
texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**100), 10**100),
    st.floats(),
    texts,
    texts.map(lambda text: "$" + text),
    st.binary(),
    st.decimals(),
    datetimes,
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([*TABLE.classes["Color"], *TABLE.classes["Level"], *TABLE.classes["Word"]]),  # type: ignore[misc]
)
lines = st.builds(
    TABLE.classes["Line"],
    sku=texts,
    price=st.decimals(allow_nan=False),
    weight=st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    due=datetimes,
)
records = lines | st.builds(
    TABLE.classes["Order"],
    lines=st.lists(lines),
    color=st.sampled_from(list(TABLE.classes["Color"])),  # type: ignore[call-overload]
)
hashable = st.one_of(st.booleans(), st.integers(), texts, st.uuids(), st.tuples(st.integers(), texts))
values = st.recursive(
    scalars | records,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.sets(hashable),
        st.dictionaries(hashable | texts.map(lambda text: "$" + text), inner),
        st.dictionaries(texts, inner),
    ),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """The value with all its types, so that 1, 1.0 and True differ, and nan equals nan."""
    if isinstance(value, list | tuple):
        return type(value).__name__, [shape(item) for item in value]
    if isinstance(value, dict):
        return "dict", [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, set):
        return "set", sorted(repr(shape(item)) for item in value)
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, [shape(getattr(value, name)) for name in value.__struct_fields__]
    offset = value.utcoffset() if isinstance(value, datetime) else None
    return type(value), repr(value.replace(tzinfo=None)) if offset is not None else repr(value), offset


@given(values)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    raw = encode_stored(value)
    assert shape(decode_stored(raw, TABLE)) == shape(value)
    # The stored form is JSON for everybody, and survives being written by another encoder.
    again = msgspec.json.format(raw, indent=2)
    assert shape(decode_stored(again, TABLE)) == shape(value)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, '{"a":[1,2.5,null,true,"x"]}'),
        (Decimal("1.50"), '{"$decimal":"1.50"}'),
        (float("inf"), '{"$float":"inf"}'),
        (2**70, "1180591620717411303424"),
        (b"abc", '{"$bytes":"YWJj"}'),
        (date(2024, 2, 29), '{"$date":"2024-02-29"}'),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), '{"$datetime":"2024-02-29T12:00:00Z"}'),
        (timedelta(days=1, seconds=2), '{"$timedelta":"P1DT2S"}'),
        (UUID(int=1), '{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
        ((1, "a"), '{"$tuple":[1,"a"]}'),
        ({"b", "a", "c"}, '{"$set":["a","b","c"]}'),
        ({1: "a"}, '{"$dict":[[1,"a"]]}'),
        ({"$set": [1]}, '{"$dict":[["$set",[1]]]}'),
        (TABLE.member("Color", "RED"), '{"$enum":["Color","RED"]}'),
        ([TABLE.member("Level", "LOW")], '[{"$enum":["Level","LOW"]}]'),
        (FailureInfo("declined", "no"), '{"$failure":{"name":"declined","message":"no"}}'),
    ],
)
def test_the_stored_form(value: Any, stored: str) -> None:
    assert encode_stored(value).decode() == stored
    assert decode_stored(stored.encode(), TABLE) == value


def test_a_record_names_its_type_and_holds_wire_json() -> None:
    line = TABLE.record("Line").make(
        {"sku": "s", "price": Decimal("1.50"), "weight": 2, "due": datetime(2024, 1, 1, tzinfo=UTC)}
    )
    raw = encode_stored(line)
    assert raw == (b'{"$record":["Line",{"sku":"s","price":"1.50","weight":2,"due":"2024-01-01T00:00:00Z"}]}')
    assert decode_stored(raw, TABLE) == line


def test_an_escaped_dollar_is_a_dollar() -> None:
    assert decode_stored(b'{"\\u0024decimal": "1"}', TABLE) == Decimal(1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nan",
        b'{"$unknown": 1}',
        b'{"$decimal": "x"}',
        b'{"$decimal": "1", "other": 2}',
        b'{"$float": "1"}',
        b'{"$tuple": {"a": 1}}',
        b'{"$set": [[1]]}',
        b'{"$enum": ["Color", "GREEN"]}',
        b'{"$enum": ["Line", "sku"]}',
        b'{"$record": ["Nothing", {}]}',
        b'{"$record": ["Line", {"sku": 1}]}',
        b'{"$record":["Line",{"sku":1}]}',
        b'{"$dict": [[[1], 2]]}',
        b'"\xff"',
    ],
)
def test_what_is_no_stored_form_is_refused(raw: bytes) -> None:
    with pytest.raises(BadValue):
        decode_stored(raw, TABLE)


@pytest.mark.parametrize("value", [object(), 1j, [object()], {"a": {1, object()}}, "\ud800", ["\ud800"]])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(BadValue):
        encode_stored(value)


def test_what_nests_too_deep_is_refused() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(LimitExceeded):
        encode_stored(value)
    with pytest.raises(LimitExceeded):
        decode_stored(b"[" * 5000 + b'"$"' + b"]" * 5000, TABLE)


def test_a_float_keeps_its_sign_and_its_type() -> None:
    minus_zero = decode_stored(encode_stored(-0.0), TABLE)
    assert math.copysign(1, minus_zero) == -1
    assert type(decode_stored(encode_stored(5.0), TABLE)) is float
