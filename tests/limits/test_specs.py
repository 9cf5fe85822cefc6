"""A spec that contradicts itself, holds too much or could be read in two ways is refused, by whoever reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from dressage.orchestrator.turn.definitions import load_definition
from dressage.protocol.errors import BadInput, BadSpec
from dressage.protocol.nesting import SPEC_DEPTH_MAX, nests_deeper
from dressage.protocol.spec import LIMITS_MAX, Limits, RegisteredWorkflow, WorkflowSpec
from dressage.protocol.spec_reading import check_spec_size, read_registered, read_spec
from dressage.protocol.spec_sizes import (
    EXPRESSION_PARTS_MAX,
    FIELDS_MAX,
    FIELDS_TOTAL_MAX,
    HANDLERS_MAX,
    IDENTIFIER_CHARS_MAX,
    MEMBERS_MAX,
    NODES_MAX,
    OPTIONS_MAX,
    SCOPE_DEPTH_MAX,
    SCOPES_MAX,
    SPEC_BYTES_MAX,
    TASKS_MAX,
    TYPE_DEPTH_MAX,
    TYPES_MAX,
)

Tree = dict[str, Any]
ANY: Final = {"kind": "scalar", "name": "any"}
INT: Final = {"kind": "scalar", "name": "int"}
RETURN: Final[Tree] = {"kind": "return"}
ONE: Final = {"op": "const", "value": 1}


def spec(**parts: Any) -> Tree:
    return {"format": 1, "name": "w", "params": [], "output": ANY, "nodes": [RETURN]} | parts


def assign(value: Any, following: Any = 1, **parts: Any) -> Tree:
    return {"kind": "assign", "target": "a", "value": value, "next": following} | parts


def task(**parts: Any) -> Tree:
    return {"name": "t", "params": [], "output": ANY} | parts


def call(**parts: Any) -> Tree:
    return {"kind": "task", "task": "t", "args": {}, "next": 1} | parts


def fields(count: int, **parts: Any) -> list[Tree]:
    return [{"name": f"f{number}", "type": INT} | parts for number in range(count)]


def deep(levels: int, leaf: Any, around: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        leaf = around(leaf)
    return leaf


def nested_scopes(levels: int) -> list[Tree]:
    return [{"handlers": []}] + [{"handlers": [], "parent": number} for number in range(levels - 1)]


def nested_records(levels: int) -> list[Tree]:
    """Each record holds the next one, so the first is made only when all are."""
    last = {"kind": "record", "name": f"R{levels}", "fields": fields(1)}
    around = [
        {
            "kind": "record",
            "name": f"R{number}",
            "fields": [{"name": "f", "type": {"kind": "named", "name": f"R{number + 1}"}}],
        }
        for number in range(1, levels)
    ]
    return [*around, last]


def records(count: int, each: int) -> list[Tree]:
    return [{"kind": "record", "name": f"R{number}", "fields": fields(each)} for number in range(count)]


def wide(parts: int) -> Tree:
    """An expression of so many parts."""
    return {"op": "list", "items": [ONE] * (parts - 1)}


def list_of(item: Tree) -> Tree:
    return {"kind": "list", "item": item}


def negated(value: Tree) -> Tree:
    return {"op": "unary", "operator": "-", "value": value}


WRONG: Final[dict[str, Tree]] = {
    # -- leads nowhere -----------------------------------------------------------------------------
    "no nodes": spec(nodes=[]),
    "next is out of range": spec(nodes=[assign(ONE, 9), RETURN]),
    "next is negative": spec(nodes=[assign(ONE, -1), RETURN]),
    "next is far out": spec(nodes=[assign(ONE, 10**40), RETURN]),
    "next is a fraction": spec(nodes=[assign(ONE, 0.5), RETURN]),
    "next is a text": spec(nodes=[assign(ONE, "1"), RETURN]),
    "next is null": spec(nodes=[assign(ONE, None), RETURN]),
    "then is out of range": spec(nodes=[{"kind": "branch", "test": ONE, "then": 2, "otherwise": 1}, RETURN]),
    "entry is out of range": spec(entry=1),
    "entry is negative": spec(entry=-1),
    "no such scope": spec(nodes=[{"kind": "return", "scope": 0}]),
    "a negative scope": spec(nodes=[{"kind": "return", "scope": -1}], scopes=[{"handlers": []}]),
    "a scope that is its own parent": spec(scopes=[{"handlers": [], "parent": 0}]),
    "scopes in a circle": spec(scopes=[{"handlers": [], "parent": 1}, {"handlers": [], "parent": 0}]),
    "a handler that leads nowhere": spec(scopes=[{"handlers": [{"names": ["f"], "node": 5}]}]),
    "an unknown task": spec(nodes=[call(), RETURN]),
    "an unknown argument": spec(nodes=[call(args={"x": ONE}), RETURN], tasks=[task()]),
    "a missing argument": spec(nodes=[call(), RETURN], tasks=[task(params=fields(1))]),
    "a view that is no record": spec(variables=[{"name": "v", "view": True}]),
    "a view of a type that is not there": spec(
        variables=[{"name": "v", "view": True, "type": {"kind": "named", "name": "R"}}]
    ),
    "a record that holds itself": spec(
        types=[
            {
                "kind": "record",
                "name": "R",
                "fields": [{"name": "f", "type": {"kind": "named", "name": "R"}}],
            }
        ]
    ),
    "an unknown type": spec(output={"kind": "named", "name": "R"}),
    "a function that is not there": spec(
        nodes=[assign({"op": "call", "function": "eval", "args": [ONE]}), RETURN]
    ),
    "a default of another type": spec(params=[{"name": "p", "type": INT, "required": False, "default": "x"}]),
    # -- wrong words -------------------------------------------------------------------------------
    "an unknown kind of node": spec(nodes=[{"kind": "goto", "next": 0}]),
    "a node without a kind": spec(nodes=[{"next": 0}]),
    "an unknown operation": spec(nodes=[assign({"op": "eval", "text": "1"}), RETURN]),
    "an unknown operator": spec(
        nodes=[assign({"op": "binary", "operator": "@", "left": ONE, "right": ONE}), RETURN]
    ),
    "an unknown type of type": spec(output={"kind": "frozenset", "item": INT}),
    "an unknown scalar": spec(output={"kind": "scalar", "name": "complex"}),
    "an unknown member": spec(timeout=5),
    "an unknown member of a node": spec(nodes=[{"kind": "return", "scop": 0}]),
    "an unknown member of an expression": spec(nodes=[assign(ONE | {"type": "int"}), RETURN]),
    "an unknown member of a type": spec(output=INT | {"max": 5}),
    "an unknown member of limits": spec(limits={"steps": 5}),
    "an unknown tag in a constant": spec(nodes=[assign({"op": "const", "value": {"$code": "1"}}), RETURN]),
    "another format": spec(format=2),
    "no format": {key: value for key, value in spec().items() if key != "format"},
    # -- names -------------------------------------------------------------------------------------
    "a name of a megabyte": spec(name="a" * 1_000_000),
    "a name with a wildcard": spec(name="a.*"),
    "a task's name with a dot": spec(tasks=[task(name="a.b")]),
    "a queue with a wildcard": spec(tasks=[task(queue=">")]),
    "a failure's name with a space": spec(failures=[{"name": "a b"}]),
    "a family that is none": spec(failures=[{"name": "a", "family": ["A B"]}]),
    "a raised failure that is no name": spec(nodes=[{"kind": "raise", "failure": "A.*"}]),
    "a handler for what is no name": spec(scopes=[{"handlers": [{"names": ["*"], "node": 0}]}]),
    "a variable that is no name": spec(nodes=[assign(ONE, target="a b"), RETURN]),
    "a variable of a megabyte": spec(nodes=[assign(ONE, target="a" * 800_000), RETURN]),
    "a parameter that is no name": spec(params=[{"name": "a-b", "type": INT}]),
    "a field that is no name": spec(
        types=[{"kind": "record", "name": "R", "fields": [{"name": "a b", "type": INT}]}]
    ),
    "a field of Python's own": spec(
        types=[{"kind": "record", "name": "R", "fields": [{"name": "__class__", "type": INT}]}]
    ),
    "a type that is no name": spec(types=[{"kind": "record", "name": "R\r\n", "fields": []}]),
    # -- twice -------------------------------------------------------------------------------------
    "a task twice": spec(tasks=[task(), task()]),
    "a parameter twice": spec(params=fields(1) * 2),
    "a parameter of a task twice": spec(tasks=[task(params=fields(1) * 2)]),
    "a failure twice": spec(failures=[{"name": "a"}, {"name": "a"}]),
    "a type twice": spec(types=nested_records(1) * 2),
    "a field twice": spec(types=[{"kind": "record", "name": "R", "fields": fields(1) * 2}]),
    "a member twice": spec(types=[{"kind": "enum", "name": "E", "members": [{"name": "A", "value": 1}] * 2}]),
    # -- figures -----------------------------------------------------------------------------------
    "retries without end": spec(retry={"retries": 10**9}),
    "retries below 0": spec(retry={"retries": -1}),
    "a backoff without end": spec(retry={"backoff": {"limit_s": 1e308}}),
    "a backoff below 0": spec(retry={"backoff": {"base_s": -1.0}}),
    "a line that no file has": spec(nodes=[{"kind": "return", "line": 10**30}]),
    "a line below 0": spec(first_line=-1),
    "limits above the engine's": spec(limits={"value_bytes": LIMITS_MAX.value_bytes + 1}),
    "limits of 0": spec(limits={"history_events": 0}),
    # -- too much ----------------------------------------------------------------------------------
    "too many nodes": spec(nodes=[RETURN] * (NODES_MAX + 1)),
    "too many scopes": spec(scopes=[{"handlers": []}] * (SCOPES_MAX + 1)),
    "scopes too deep": spec(scopes=nested_scopes(SCOPE_DEPTH_MAX + 1)),
    "too many handlers": spec(scopes=[{"handlers": [{"names": ["f"], "node": 0}] * (HANDLERS_MAX + 1)}]),
    "too many names": spec(scopes=[{"handlers": [{"names": ["f"] * (HANDLERS_MAX + 1), "node": 0}]}]),
    "too many tasks": spec(tasks=[task(name=f"t{number}") for number in range(TASKS_MAX + 1)]),
    "too many types": spec(types=records(TYPES_MAX + 1, 1)),
    "too many fields": spec(types=records(1, FIELDS_MAX + 1)),
    "too many fields together": spec(types=records(FIELDS_TOTAL_MAX // 100 + 1, 100)),
    "too many parameters": spec(params=fields(FIELDS_MAX + 1)),
    "too many members": spec(
        types=[
            {
                "kind": "enum",
                "name": "E",
                "members": [{"name": f"M{n}", "value": n} for n in range(MEMBERS_MAX + 1)],
            }
        ]
    ),
    "too many values": spec(output={"kind": "literal", "values": list(range(MEMBERS_MAX + 1))}),
    "too many options": spec(output={"kind": "union", "options": [INT] * (OPTIONS_MAX + 1)}),
    "a type too deep": spec(output=deep(TYPE_DEPTH_MAX, INT, list_of)),
    "records too deep": spec(types=nested_records(TYPE_DEPTH_MAX + 1)),
    "an expression too deep": spec(nodes=[assign(deep(100, ONE, negated)), RETURN]),
    "expressions of too many parts": spec(
        nodes=[
            assign(wide(EXPRESSION_PARTS_MAX // 2)),
            assign(wide(EXPRESSION_PARTS_MAX // 2 + 1), 2),
            RETURN,
        ]
    ),
    "a name that is too long": spec(variables=[{"name": "a" * (IDENTIFIER_CHARS_MAX + 1)}]),
    "a constant too deep": spec(
        nodes=[assign({"op": "const", "value": deep(190, 1, lambda v: [v])}), RETURN]
    ),
}

NOT_JSON: Final[dict[str, bytes]] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "half": msgspec.json.encode(spec())[:-3],
    "no UTF-8": b'{"format":1,"name":"\xff"}',
    "a lone surrogate": msgspec.json.encode(spec(description="x")).replace(b'"x"', b'"\\ud800"'),
    "NaN": msgspec.json.encode(spec(first_line=77)).replace(b"77", b"NaN"),
    "Infinity": msgspec.json.encode(spec(first_line=77)).replace(b"77", b"Infinity"),
    "a number beyond all": msgspec.json.encode(spec(first_line=77)).replace(b"77", b"1e999"),
    "a number of 10,000 digits": msgspec.json.encode(spec(entry=77)).replace(b"77", b"7" * 10_000),
    "a member twice": msgspec.json.encode(spec())[:-1] + b',"name":"other"}',
    "a member of a node twice": msgspec.json.encode(spec(nodes=[{"kind": "return", "line": 3}])).replace(
        b'"line":3', b'"line":3,"line":4'
    ),
    "an argument twice": msgspec.json.encode(spec(nodes=[call(args={"x": ONE}), RETURN])).replace(
        b'"args":{', b'"args":{"x":{"op":"const","value":2},'
    ),
    "deep": b'{"format":' * 10_000,
    "deep and whole": msgspec.json.encode(spec(description="x")).replace(
        b'"x"', b"[" * 50_000 + b"]" * 50_000
    ),
    "as deep as the stack": msgspec.json.encode(spec(description="x")).replace(
        b'"x"', b"[" * (SPEC_DEPTH_MAX + 1) + b"]" * (SPEC_DEPTH_MAX + 1)
    ),
    "too large": msgspec.json.encode(spec(description="x" * (SPEC_BYTES_MAX + 5_000))),
}


def stored(text: bytes) -> bytes:
    """A version as the bucket would hold it, had nobody looked at the spec."""
    return b'{"spec":%b,"version":1,"digest":"d"}' % text


def refused_by_all(text: bytes) -> BadInput:
    """An owner says that the version cannot be used, whatever is wrong with it; who registers may be told of a name."""
    with pytest.raises(BadSpec) as owner:
        load_definition("w", 1, stored(text))
    assert owner.value.message
    assert len(owner.value.message) < 500
    return owner.value


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_spec_is_refused(case: str) -> None:
    text = msgspec.json.encode(WRONG[case])
    refused_by_all(text)


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_spec_is_refused(case: str) -> None:
    with pytest.raises(BadInput):
        read_spec(NOT_JSON[case])
    with pytest.raises(BadInput):
        read_registered(stored(NOT_JSON[case]))
    refused_by_all(NOT_JSON[case])


def test_a_version_under_another_name_is_refused() -> None:
    text = stored(msgspec.json.encode(spec()))
    assert load_definition("w", 1, text).version == 1
    for name, version in [("x", 1), ("w", 2)]:
        with pytest.raises(BadSpec, match="is 'w' version 1"):
            load_definition(name, version, text)


FITS: Final[dict[str, Tree]] = {
    "nodes": spec(nodes=[RETURN] * NODES_MAX),
    "scopes": spec(scopes=[{"handlers": []}] * SCOPES_MAX),
    "nested scopes": spec(scopes=nested_scopes(SCOPE_DEPTH_MAX)),
    "handlers": spec(scopes=[{"handlers": [{"names": ["f"] * HANDLERS_MAX, "node": 0}] * HANDLERS_MAX}]),
    "tasks": spec(tasks=[task(name=f"t{number}") for number in range(TASKS_MAX)]),
    "types": spec(types=records(TYPES_MAX, 1)),
    "fields": spec(types=records(1, FIELDS_MAX)),
    "fields together": spec(types=records(FIELDS_TOTAL_MAX // 100, 100)),
    "parameters": spec(params=fields(FIELDS_MAX)),
    "members": spec(
        types=[
            {
                "kind": "enum",
                "name": "E",
                "members": [{"name": f"M{n}", "value": n} for n in range(MEMBERS_MAX)],
            }
        ]
    ),
    "values": spec(output={"kind": "literal", "values": list(range(MEMBERS_MAX))}),
    "a deep type": spec(output=deep(TYPE_DEPTH_MAX - 1, INT, list_of)),
    "deep records": spec(types=nested_records(TYPE_DEPTH_MAX)),
    "a deep expression": spec(nodes=[assign(deep(99, ONE, negated)), RETURN]),
    "parts": spec(
        nodes=[assign(wide(EXPRESSION_PARTS_MAX // 2)), assign(wide(EXPRESSION_PARTS_MAX // 2), 2), RETURN]
    ),
    "a long name": spec(variables=[{"name": "a" * IDENTIFIER_CHARS_MAX}]),
    "limits": spec(limits=msgspec.to_builtins(LIMITS_MAX)),
}


@pytest.mark.parametrize("case", FITS)
def test_a_spec_at_the_limit_is_taken(case: str) -> None:
    definition = load_definition("w", 1, stored(msgspec.json.encode(FITS[case])))
    assert definition.spec.name == "w"


def test_a_spec_of_exactly_the_size_is_taken() -> None:
    room = SPEC_BYTES_MAX - len(read_spec(msgspec.json.encode(spec(description="x"))).encode()) + 1
    fits = msgspec.convert(spec(description="x" * room), WorkflowSpec)
    assert len(fits.encode()) == SPEC_BYTES_MAX
    check_spec_size(fits)
    larger = msgspec.structs.replace(fits, description=fits.description + "x")
    with pytest.raises(BadSpec, match="limit spec-size"):
        check_spec_size(larger)


def test_what_is_read_is_what_was_written() -> None:
    text = msgspec.json.encode(spec(limits={"history_events": 7}))
    read = read_spec(text)
    assert read.limits == Limits(history_events=7)
    assert json.loads(read.encode()) == json.loads(text)
    registered = RegisteredWorkflow(read, 1, read.digest())
    assert read_registered(msgspec.json.encode(registered)) == registered


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (b"[]", 1),
        (b'{"a":[1,{"b":2}]}', 3),
        (b'["[[[", "\\"[", "\\\\", []]', 2),
        (b'{"{{{":"}}}","\\\\\\"[":[]}', 2),
        (b"[" * 500 + b"]" * 500, 500),
        (b"[" + b"[],[[]]," * 300 + b"1]", 3),
    ],
)
def test_how_deep_json_nests(text: bytes, levels: int) -> None:
    assert nests_deeper(text, levels - 1)
    assert not nests_deeper(text, levels)
