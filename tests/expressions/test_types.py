"""Declared types: what they decode, what they refuse and how they say so."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from dressage.expressions import LimitExceeded, ParamsCodec, Record, TypeTable, decode_stored, encode_stored
from dressage.expressions.masked import MaskedValue
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumMember,
    EnumType,
    Field,
    ListOf,
    LiteralOf,
    MaskedOf,
    Named,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeDef,
    TypeRef,
    UnionOf,
)

INT, STR, FLOAT, DECIMAL = Scalar("int"), Scalar("str"), Scalar("float"), Scalar("decimal")


def raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(value.encode())


DEFINITIONS: list[TypeDef] = [
    RecordType(
        "Order",
        (
            Field("id", STR),
            Field("lines", ListOf(Named("Line"))),
            Field("note", UnionOf((STR, NONE)), required=False, default=raw("null")),
        ),
    ),
    RecordType(
        "Line",
        (
            Field("sku", STR),
            Field("quantity", INT, required=False, default=raw("1")),
            Field("weight", FLOAT, required=False, default=raw("0.5")),
            Field("tags", ListOf(STR), required=False, default=raw('["new"]')),
        ),
    ),
    EnumType("Color", (EnumMember("RED", "red"), EnumMember("BLUE", "blue"))),
]
TABLE = TypeTable(DEFINITIONS)


# -- decoding --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ref", "text", "value"),
    [
        (FLOAT, "5", 5.0),
        (UnionOf((FLOAT, NONE)), "5", 5.0),
        (UnionOf((INT, FLOAT)), "5", 5),
        (ListOf(FLOAT), "[1, 2.5]", [1.0, 2.5]),
        (DictOf(STR, TupleOf((FLOAT, INT))), '{"a": [1, 1]}', {"a": (1.0, 1)}),
        (SetOf(FLOAT), "[1]", {1.0}),
        (DECIMAL, "10.50", Decimal("10.50")),
        (DECIMAL, '"10.50"', Decimal("10.50")),
        (Scalar("datetime"), '"2024-01-01T00:00:00Z"', datetime(2024, 1, 1, tzinfo=UTC)),
        (Scalar("bytes"), '"YWJj"', b"abc"),
        (DictOf(INT, STR), '{"1": "a"}', {1: "a"}),
        (LiteralOf(("a", 1, None)), "1", 1),
        (ANY, '{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        (INT, "123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_the_declared_type_gives_the_decoding(ref: TypeRef, text: str, value: Any) -> None:
    decoded = TABLE.codec(ref).decode(text.encode())
    assert repr(decoded) == repr(value)
    assert TABLE.codec(ref).decode(TABLE.codec(ref).encode(decoded)) == decoded


def test_a_record_decodes_with_its_defaults_and_its_floats() -> None:
    order: Any = TABLE.codec(Named("Order")).decode(
        b'{"id": "o", "lines": [{"sku": "s", "weight": 2, "unknown": 1}]}'
    )
    (line,) = order.lines
    assert issubclass(type(order), Record)
    assert (line.sku, line.quantity, repr(line.weight), line.tags, order.note) == (
        "s",
        1,
        "2.0",
        ["new"],
        None,
    )


@pytest.mark.parametrize(
    ("ref", "text", "message"),
    [
        (INT, '"a"', "value: Expected int, got str"),
        (INT, "1.0", "value: Expected int, got float"),
        (INT, "true", "value: Expected int, got bool"),
        (ListOf(INT), '[1, "a"]', "value[1]: Expected int, got str"),
        (Named("Order"), '{"id": "o", "lines": [{"sku": 1}]}', "value.lines[0].sku: Expected str, got int"),
        (Named("Order"), '{"id": "o"}', "value: Object missing required field lines"),
        (Named("Color"), '"green"', "value: Invalid enum value 'green'"),
        (DECIMAL, '"ten"', "value: Invalid decimal string"),
        (TupleOf((INT, INT)), "[1]", "value: Expected array of length 2"),
        (STR, '"', "value: Input data was truncated"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(ref: TypeRef, text: str, message: str) -> None:
    with pytest.raises(BadValue) as refused:
        TABLE.codec(ref).decode(text.encode())
    assert refused.value.message == message


def test_what_no_set_can_hold_is_refused() -> None:
    # msgspec 0.22 says "value: unhashable type: 'list'".
    with pytest.raises(BadValue, match=r"value(\[0\]: Expected a hashable value|: unhashable type)"):
        TABLE.codec(SetOf(ANY)).decode(b"[[1]]")


# -- checking what expressions made ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("ref", "value", "message"),
    [
        (INT, True, "value: expected int, got bool"),
        (FLOAT, float("nan"), "value: expected a finite float, got nan"),
        (ListOf(STR), ["a", 1], "value[1]: expected str, got int"),
        (ListOf(STR), ("a",), "value: expected list[str], got tuple"),
        (TupleOf((INT, STR)), (1, 2), "value[1]: expected str, got int"),
        (DictOf(STR, INT), {"a": "b"}, "value[...]: expected int, got str"),
        (UnionOf((INT, NONE)), "a", "value: expected int | None, got str"),
        (LiteralOf(("a", "b")), "c", "value: expected Literal['a', 'b'], got another str"),
        (ANY, {"a": [Decimal(1)]}, "value[...][...]: expected JSON, got Decimal"),
        (ANY, {1: 2}, "value: expected JSON, got a dict with keys that are not str"),
        (Named("Color"), "red", "value: expected Color, got str"),
    ],
)
def test_a_value_of_another_type_is_refused(ref: TypeRef, value: Any, message: str) -> None:
    with pytest.raises(BadValue) as refused:
        TABLE.codec(ref).encode(value)
    assert refused.value.message == message


def test_an_int_may_stand_where_a_float_is_declared_and_stays_an_int() -> None:
    line: Any = TABLE.record("Line").make({"sku": "s", "weight": 2})
    stored: Any = decode_stored(encode_stored(line), TABLE)
    assert repr(stored.weight) == "2"


def test_a_record_checks_its_fields() -> None:
    with pytest.raises(BadValue, match=r"Line\.quantity: expected int, got str"):
        TABLE.record("Line").make({"sku": "s", "quantity": "many"})


def test_a_field_of_a_record_can_be_replaced() -> None:
    line: Any = TABLE.record("Line").make({"sku": "s"})
    assert TABLE.with_field(line, "quantity", 5).quantity == 5  # type: ignore[attr-defined]
    assert line.quantity == 1
    with pytest.raises(BadValue, match="Line has no field color"):
        TABLE.with_field(line, "color", 5)
    with pytest.raises(BadValue, match="has no fields"):
        TABLE.with_field(5, "color", 5)
    with pytest.raises(LimitExceeded):
        TABLE.with_field(line, "tags", ["x" * 1000] * 2000)


# -- types that cannot be --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (UnionOf((STR, Scalar("datetime"))), "without guessing"),
        (UnionOf((Named("Order"), Named("Line"))), "without guessing"),
        (UnionOf((ListOf(INT), SetOf(INT))), "without guessing"),
        (UnionOf((DECIMAL, FLOAT)), "use Decimal or float alone"),
        (LiteralOf((True,)), "use `bool`"),
        (DictOf(Named("Order"), INT), "cannot have records as keys"),
        (DictOf(TupleOf((INT, INT)), INT), "JSON has text as keys"),
        (Named("Nothing"), "is not defined"),
    ],
)
def test_a_type_that_json_cannot_carry_is_refused(ref: TypeRef, message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        TABLE.codec(ref)


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ([RecordType("A", (Field("a", Named("A")),))], "contains itself"),
        (
            [RecordType("A", (Field("a", ListOf(Named("B"))),)), RecordType("B", (Field("b", Named("A")),))],
            "A -> B",
        ),
        ([RecordType("A", ()), RecordType("A", ())], "defined twice"),
        ([RecordType('A"', ())], "not valid"),
        ([RecordType("A", (Field("a b", INT),))], "field A.a b is not valid"),
        ([RecordType("A", (Field("a", INT), Field("a", INT)))], "once each"),
        ([RecordType("A", (Field("a", INT, required=False),))], "needs a default"),
        (
            [RecordType("A", (Field("a", INT, required=False, default=raw('"x"')),))],
            "default of A.a is not valid",
        ),
        ([EnumType("E", ())], "enum E"),
        ([EnumType("E", (EnumMember("A", 1), EnumMember("B", "b")))], "enum E"),
        ([EnumType("E", (EnumMember("mro", 1),))], "enum E"),
    ],
)
def test_definitions_that_contradict_themselves_are_refused(definitions: list[TypeDef], message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        TypeTable(definitions)


# -- parameters ------------------------------------------------------------------------------------
PARAMS = ParamsCodec(
    [
        Field("order", Named("Line")),
        Field("count", INT, required=False, default=raw("3")),
        Field("note", UnionOf((STR, NONE)), required=False, default=raw('"none given"')),
        Field("rate", FLOAT, required=False, default=raw("0.5")),
    ],
    TABLE,
)


@pytest.mark.parametrize(
    ("text", "count", "note", "rate"),
    [
        ('{"order": {"sku": "s"}}', 3, "none given", "0.5"),
        ('{"order": {"sku": "s"}, "count": null, "note": null, "rate": null}', 3, None, "0.5"),
        ('{"order": {"sku": "s"}, "count": 4, "note": "n", "rate": 2}', 4, "n", "2.0"),
    ],
)
def test_missing_or_null_takes_the_default(text: str, count: int, note: str | None, rate: str) -> None:
    given = PARAMS.decode(text.encode())
    assert list(given) == ["order", "count", "note", "rate"]
    assert (given["count"], given["note"], repr(given["rate"])) == (count, note, rate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "parameter order is missing"),
        ('{"order": null}', "parameter order: Expected object, got null"),
        ('{"order": {"sku": 1}}', "parameter order.sku: Expected str, got int"),
        ('{"order": {"sku": "s"}, "other": 1}', "there is no parameter other"),
        ("[]", "Expected object, got array"),
        ("", "Input data was truncated"),
    ],
)
def test_wrong_parameters_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(BadValue) as refused:
        PARAMS.decode(text.encode())
    assert refused.value.message == message


def test_arguments_are_written_by_name() -> None:
    line = TABLE.record("Line").make({"sku": "s"})
    assert PARAMS.encode({"order": line, "count": 2}) == (
        b'{"order":{"sku":"s","quantity":1,"weight":0.5,"tags":["new"]},"count":2}'
    )
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"count": 2}, "parameter order is missing"),
        ({"order": line, "count": "2"}, "parameter count: expected int, got str"),
        ({"order": line, "other": 2}, "there is no parameter other"),
    ]
    for wrong, message in mistakes:
        with pytest.raises(BadValue, match=message):
            PARAMS.encode(wrong)


# -- named tuples, dicts with known keys, masked values ----------------------------------------------
FORMS: list[TypeDef] = [
    RecordType("Point", (Field("x", FLOAT), Field("y", INT, required=False, default=raw("7"))), "tuple"),
    RecordType("Address", (Field("city", STR), Field("zip", INT, required=False)), "dict"),
    RecordType(
        "Card",
        (
            Field("number", MaskedOf(STR)),
            Field("limit", MaskedOf(UnionOf((DECIMAL, NONE))), required=False, default=raw("null")),
            Field("points", ListOf(MaskedOf(Named("Point"))), required=False, default=raw("[]")),
        ),
    ),
    RecordType("Keys", (Field("pin", MaskedOf(INT)),), "dict"),
    RecordType("Pair", (Field("open", INT), Field("shut", MaskedOf(INT))), "tuple"),
]
FORMED = TypeTable(FORMS)


def decoded(ref: TypeRef, wire: str) -> Any:
    return FORMED.codec(ref).decode(raw(wire))


def test_a_named_tuple_is_an_array_whose_places_have_names_and_defaults() -> None:
    point = decoded(Named("Point"), "[1]")
    assert (point.x, point[1], len(point)) == (1.0, 7, 2)
    assert type(point.x) is float
    assert point == (1.0, 7)
    assert FORMED.codec(Named("Point")).encode(point) == b"[1.0,7]"


def test_a_dict_with_known_keys_is_a_dict_that_may_lack_what_is_not_required() -> None:
    assert decoded(Named("Address"), '{"city":"Bonn","street":"x"}') == {"city": "Bonn"}
    codec = FORMED.codec(Named("Address"))
    assert codec.mismatch({"city": "Bonn", "zip": 1}) is None
    assert codec.mismatch({"zip": 1}) == ": expected Address, got a dict without city"
    assert codec.mismatch({"city": "Bonn", "zip": "1"}) == ".zip: expected int, got str"
    assert codec.mismatch({"city": "Bonn", "street": "x"}) == ": expected Address, got a dict with other keys"
    assert codec.mismatch({"city": "Bonn", 1: 2}) == ": expected Address, got a dict with other keys"


MASKED: list[tuple[TypeRef, str, str]] = [
    (MaskedOf(STR), '"secret"', '"***"'),
    (MaskedOf(UnionOf((STR, NONE))), "null", "null"),
    (UnionOf((MaskedOf(STR), NONE)), '"secret"', '"***"'),
    (Named("Card"), '{"number":"secret"}', '{"number":"***","limit":null,"points":[]}'),
    (
        Named("Card"),
        '{"number":"secret","limit":"1.50","points":[[1],[2.5,3]]}',
        '{"number":"***","limit":"***","points":["***","***"]}',
    ),
    (MaskedOf(Named("Card")), '{"number":"secret"}', '"***"'),
    (ListOf(Named("Keys")), '[{"pin":123456789}]', '[{"pin":"***"}]'),
    (DictOf(STR, Named("Pair")), '{"a":[1,123456789]}', '{"a":[1,"***"]}'),
    (TupleOf((INT, MaskedOf(Named("Point")))), "[1,[5]]", '[1,"***"]'),
]


@pytest.mark.parametrize(("ref", "wire", "shown"), MASKED)
def test_masked_parts_are_hidden_from_readers_and_in_clear_on_the_wire_and_in_the_state(
    ref: TypeRef, wire: str, shown: str
) -> None:
    codec = FORMED.codec(ref)
    value = codec.decode(raw(wire))
    clear = codec.encode(value)
    assert codec.shown(clear, value).decode() == shown
    assert codec.encode(codec.decode(clear)) == clear
    stored = encode_stored(value)
    again = decode_stored(stored, FORMED)
    assert encode_stored(again) == stored
    assert codec.encode(again) == clear
    assert "secret" not in repr(value)
    assert codec.mismatch(again) is None
    if "***" in shown:
        # Whoever encodes without having thought of it gets an error, not the secret.
        with pytest.raises(TypeError):
            msgspec.json.encode(value)


def test_what_is_masked_can_be_compared_with_none_alone() -> None:
    secret = decoded(MaskedOf(STR), '"secret"')
    assert (secret == None, secret != None, None in [secret]) == (False, True, False)  # noqa: E711
    attempts: list[Any] = [
        lambda: secret == "secret",
        lambda: secret == decoded(MaskedOf(STR), '"secret"'),
        lambda: bool(secret),
        lambda: {secret},
        lambda: secret < "t",
        lambda: secret + "t",
        lambda: len(secret),
        lambda: decoded(Named("Card"), '{"number":"a"}') == decoded(Named("Card"), '{"number":"a"}'),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError):
            attempt()


def test_a_plain_value_is_masked_where_its_field_is() -> None:
    card = FORMED.record("Card").make({"number": "secret"})
    assert FORMED.codec(Named("Card")).shown(b"", card) == b'{"number":"***","limit":null,"points":[]}'
    assert b"secret" not in FORMED.codec(MaskedOf(STR)).shown(b"", "secret")


def test_a_masked_value_is_none_of_a_plain_type() -> None:
    assert FORMED.codec(STR).mismatch(MaskedValue("secret")) == ": expected str, got a masked value"
    assert FORMED.codec(ANY).mismatch(MaskedValue("secret")) == ": expected JSON, got a masked value"


CONTRADICTIONS: dict[str, list[TypeDef]] = {
    "a default before what is required": [
        RecordType("P", (Field("x", INT, required=False, default=raw("1")), Field("y", INT)), "tuple")
    ],
    "a place that begins with _": [RecordType("P", (Field("_x", INT),), "tuple")],
    "a key with a default": [RecordType("D", (Field("x", INT, required=False, default=raw("1")),), "dict")],
    "masked by halves": [RecordType("R", (Field("x", UnionOf((MaskedOf(STR), INT))),))],
    "a set of masked values": [RecordType("R", (Field("x", SetOf(MaskedOf(STR))),))],
    "masked keys": [RecordType("R", (Field("x", DictOf(MaskedOf(STR), INT)),))],
    "a tuple in itself": [RecordType("P", (Field("x", ListOf(Named("P"))),), "tuple")],
    "a wrong default under a mask": [
        RecordType("R", (Field("x", MaskedOf(INT), required=False, default=raw('"a"')),))
    ],
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_foreign_spec_with_such_a_type_is_refused(name: str) -> None:
    with pytest.raises(BadSpec):
        TypeTable(CONTRADICTIONS[name])


def test_definitions_of_every_form_survive_their_json() -> None:
    written = msgspec.json.encode(FORMS)
    assert msgspec.json.encode(msgspec.json.decode(written, type=list[TypeDef])) == written
    # What was written before there were forms reads, and is written, as it was.
    plain = msgspec.json.encode(RecordType("R", (Field("x", INT),)))
    assert (
        plain == b'{"kind":"record","name":"R","fields":[{"name":"x","type":{"kind":"scalar","name":"int"}}]}'
    )
