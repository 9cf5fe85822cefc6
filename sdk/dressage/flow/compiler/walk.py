"""Going through expression trees and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from dressage.protocol.expressions import Const, Expr, Name
from dressage.protocol.spec import AssignNode, BranchNode, Node, RaiseNode, ReturnNode, SleepNode, TaskNode


def expressions_of(node: Node) -> list[Expr]:
    """The expressions that a node evaluates, in their order."""
    match node:
        case TaskNode():
            return list(node.args.values())
        case AssignNode():
            return [node.value]
        case BranchNode():
            return [node.test]
        case SleepNode():
            return [node.duration]
        case RaiseNode():
            return [each for each in (node.message, node.details) if each is not None]
        case ReturnNode():
            return [] if node.value is None else [node.value]


def subexpressions(expr: Expr) -> Iterator[Any]:
    """An expression and all that it consists of, the helper structs of chains and f-strings included."""
    yield expr
    if isinstance(expr, Const):
        return
    for name in expr.__struct_fields__:
        yield from _below(getattr(expr, name))


def _below(value: Any) -> Iterator[Any]:
    if isinstance(value, msgspec.Struct):
        yield from subexpressions(cast("Expr", value))
    elif isinstance(value, tuple):
        for each in list[Any](value):
            yield from _below(each)
    elif isinstance(value, dict):
        for each in cast("dict[str, Any]", value).values():
            yield from _below(each)


def variables_in(expr: Expr) -> set[str]:
    """The variables that an expression may read."""
    return {each.name for each in subexpressions(expr) if isinstance(each, Name)}


def variables_of(node: Node) -> set[str]:
    """The variables that a node may read."""
    names = {name for expr in expressions_of(node) for name in variables_in(expr)}
    if isinstance(node, AssignNode) and node.attribute is not None:
        names.add(node.target)
    if isinstance(node, RaiseNode) and node.reraise is not None:
        names.add(node.reraise)
    return names
