"""Going through expression trees and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from dressage.protocol import spec_sizes
from dressage.protocol.expressions import Const, Expr, Name
from dressage.protocol.spec import AssignNode, Node, RaiseNode


def expressions_of(node: Node) -> list[Expr]:
    """The expressions that a node evaluates, in their order."""
    return list(spec_sizes.expressions_of(node).values())


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
