"""Going through expression trees and nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from dressage.protocol import spec_sizes
from dressage.protocol.expressions import (
    Bind,
    Call,
    Compare,
    Comprehension,
    Conditional,
    Const,
    Expr,
    Lambda,
    Logical,
    Name,
    Unary,
    expressions_in,
    parts_of,
    variables_in,
)
from dressage.protocol.spec import (
    AssignNode,
    ChildNode,
    EventNode,
    GatherNode,
    Node,
    RaiseNode,
    ReturnNode,
    TaskNode,
    UserTaskNode,
)


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


def bindings_in(node: Node) -> list[Bind]:
    """The `:=` of a node's expressions."""
    inside = (each for expr in expressions_of(node) for each in expressions_in(expr))
    return [each for each in inside if isinstance(each, Bind)]


def targets_of(node: Node) -> list[str]:
    """The variables that a node may set."""
    target = (
        node.target
        if isinstance(node, TaskNode | EventNode | UserTaskNode | ChildNode | AssignNode | GatherNode)
        else None
    )
    given: list[str] = []
    if isinstance(node, GatherNode):
        given = [name for branch in node.branches for name in branch.args]
        given += [] if node.each is None else node.each.names
    return [*given, *(each.name for each in bindings_in(node)), *([target] if target else [])]


def set_when(test: Expr, outcome: bool) -> frozenset[str]:
    """The variables that have been set when a test came out true, or false: behind `and`, all of its parts were."""
    match test:
        case Unary("not", value):
            return set_when(value, not outcome)
        case Logical(operator, values) if outcome is (operator == "and"):
            return frozenset[str]().union(*(set_when(value, outcome) for value in values))
        case _:
            return Flow.of(test)


class Flow:
    """Evaluates a node's expressions in their order, for what is assigned: from variables that have a value to those
    that have one behind it."""

    def __init__(self, node: Node, known: frozenset[str]) -> None:
        self.missing: set[str] = set()
        """The variables that are read where they may have no value."""
        self.known = known
        for expr in expressions_of(node):
            self.known = self._after(expr, self.known)
        """The variables that have a value when all expressions do."""
        if isinstance(node, AssignNode) and node.attribute is not None:
            self._read(node.target)
        if isinstance(node, RaiseNode) and node.reraise is not None:
            self._read(node.reraise)

    @staticmethod
    def of(expr: Expr) -> frozenset[str]:
        """The variables that an expression sets whenever it has a value."""
        return Flow(ReturnNode(expr), frozenset()).known

    def _read(self, name: str) -> None:
        if name not in self.known:
            self.missing.add(name)

    def _after(self, expr: Expr, known: frozenset[str]) -> frozenset[str]:
        match expr:
            case Bind(name, value):
                return self._after(value, known) | {name}
            case Logical(_, (first, *others)):
                return self._maybe(others, self._after(first, known))
            case Compare(left, (first, *others)):
                known = self._after(first.right, self._after(left, known))
                return self._maybe([link.right for link in others], known)
            case Conditional(test, then, otherwise):
                known = self._after(test, known)
                return self._after(then, known) & self._after(otherwise, known)
            case Name(name):
                if name not in known:
                    self.missing.add(name)
                return known
            case Comprehension(clauses=(first, *_)):
                known = self._after(first.iterable, known)
                # Nothing is set inside of comprehensions and lambdas.
                self.missing |= variables_in(expr) - variables_in(first.iterable) - known
                return known
            case Call():
                for part in _arguments(expr):
                    known = self._after(part, known)
                for each in expr.keywords.values():
                    if isinstance(each, Lambda):
                        self.missing |= variables_in(each.body) - {each.param} - known
                return known
            case _:
                for part in parts_of(expr):
                    known = self._after(part, known)
                return known

    def _maybe(self, exprs: Sequence[Expr], known: frozenset[str]) -> frozenset[str]:
        """Evaluates what Python may leave out, each part only behind the one before."""
        inner = known
        for expr in exprs:
            inner = self._after(expr, inner)
        return known


def _arguments(call: Call) -> list[Expr]:
    """What a call evaluates before it begins."""
    return [each for each in (*call.args, *call.keywords.values()) if not isinstance(each, Lambda)]
