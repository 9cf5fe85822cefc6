"""Specs as the JSON that somebody may send, by hand: from them the tests of what is refused and what is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

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


def stored(text: bytes) -> bytes:
    """A version as the bucket would hold it, had nobody looked at the spec."""
    return b'{"spec":%b,"version":1,"digest":"d"}' % text
