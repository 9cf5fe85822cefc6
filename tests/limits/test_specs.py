"""A spec that contradicts itself, holds too much or could be read in two ways is refused, by whoever reads it."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest
from tests.limits.trees import (  # pyright: ignore[reportMissingImports]
    INT,
    ONE,
    RETURN,
    Tree,
    assign,
    call,
    deep,
    fields,
    nested_records,
    spec,
    stored,
    task,
)

from dressage.orchestrator.turn.definitions import load_definition
from dressage.protocol.errors import BadInput, BadSpec
from dressage.protocol.nesting import SPEC_DEPTH_MAX, nests_deeper
from dressage.protocol.spec import LIMITS_MAX, Limits, RegisteredWorkflow
from dressage.protocol.spec_reading import REGISTERED_BYTES_BESIDE, read_registered, read_spec
from dressage.protocol.spec_sizes import SPEC_BYTES_MAX

ITEMS: Final = {"op": "list", "items": [ONE]}
CLAUSE: Final = {"target": {"name": "x"}, "iterable": ITEMS}


def comprehension(clauses: list[Any], **parts: Any) -> dict[str, Any]:
    return {"op": "comprehension", "kind": "list", "element": ONE, "clauses": clauses} | parts


def sorted_by(key: Any) -> dict[str, Any]:
    return {"op": "call", "function": "sorted", "args": [ITEMS], "keywords": {"key": key}}


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
    # -- comprehensions, lambdas and what is set on the way ----------------------------------------
    "a variable of a comprehension that is no name": spec(
        nodes=[assign(comprehension([{"target": {"name": "a b"}, "iterable": ITEMS}])), RETURN]
    ),
    "a comprehension without a variable": spec(
        nodes=[assign(comprehension([{"target": {}, "iterable": ITEMS}])), RETURN]
    ),
    "a target that is two things": spec(
        nodes=[
            assign(comprehension([{"target": {"name": "x", "items": [{"name": "y"}]}, "iterable": ITEMS}])),
            RETURN,
        ]
    ),
    "two stars": spec(
        nodes=[
            assign(
                comprehension(
                    [
                        {
                            "target": {"items": [{"name": "x", "star": True}, {"name": "y", "star": True}]},
                            "iterable": ITEMS,
                        }
                    ]
                )
            ),
            RETURN,
        ]
    ),
    "a target that nests without end": spec(
        nodes=[
            assign(
                comprehension(
                    [
                        {
                            "target": deep(120, {"name": "x"}, lambda each: {"items": [each]}),
                            "iterable": ITEMS,
                        }
                    ]
                )
            ),
            RETURN,
        ]
    ),
    "a comprehension over nothing": spec(nodes=[assign(comprehension([])), RETURN]),
    "a dict without keys": spec(nodes=[assign(comprehension([CLAUSE], kind="dict")), RETURN]),
    "a list with keys": spec(nodes=[assign(comprehension([CLAUSE], key=ONE)), RETURN]),
    "a kind that is none": spec(nodes=[assign(comprehension([CLAUSE], kind="deque")), RETURN]),
    "a generator as a value": spec(nodes=[assign(comprehension([CLAUSE], kind="generator")), RETURN]),
    "a range as a value": spec(nodes=[assign({"op": "call", "function": "range", "args": [ONE]}), RETURN]),
    "a range in a list": spec(
        nodes=[
            assign({"op": "list", "items": [{"op": "call", "function": "range", "args": [ONE]}]}),
            RETURN,
        ]
    ),
    "a time zone as a value": spec(nodes=[assign({"op": "call", "function": "timezone.utc"}), RETURN]),
    "set in a comprehension": spec(
        nodes=[
            assign(comprehension([CLAUSE], element={"op": "bind", "name": "y", "value": ONE})),
            RETURN,
        ]
    ),
    "set to no name": spec(nodes=[assign({"op": "bind", "name": "a b", "value": ONE}), RETURN]),
    "a lambda as a value": spec(nodes=[assign({"op": "lambda", "param": "x", "body": ONE}), RETURN]),
    "a lambda that is no key": spec(
        nodes=[
            assign(
                {
                    "op": "call",
                    "function": "round",
                    "args": [ONE],
                    "keywords": {"ndigits": {"op": "lambda", "param": "x", "body": ONE}},
                }
            ),
            RETURN,
        ]
    ),
    "a lambda without a name": spec(
        nodes=[assign(sorted_by({"op": "lambda", "param": "", "body": ONE})), RETURN]
    ),
    "a key that is no lambda": spec(nodes=[assign(sorted_by(ITEMS)), RETURN]),
    "a star in no list": spec(nodes=[assign({"op": "spread", "value": ITEMS}), RETURN]),
    "a dict with too few keys": spec(
        nodes=[assign({"op": "dict", "keys": [None], "values": [ONE, ONE]}), RETURN]
    ),
    # -- too much (each limit at its edge: test_spec_edges.py) ------------------------------------------
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
    "too large": msgspec.json.encode(
        spec(description="x" * (SPEC_BYTES_MAX + REGISTERED_BYTES_BESIDE + 5_000))
    ),
}


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
