"""`while` and `for`, with their `else`.

A `for` is a `while` over places: what it goes through is a value, which nothing changes, so that its items can be
taken one by one, by their place, whenever the loop gets to them. `range`, `enumerate`, `zip` and `reversed` are
never made into lists for this.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dressage.expressions.parse import constant
from dressage.flow.compiler.assignments import emit_parts
from dressage.flow.compiler.context import Context, Loop
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.leaving import leave
from dressage.protocol.expressions import Binary, Call, Compare, Comparison, Const, Expr, Index, Name
from dressage.protocol.spec import BranchNode

_ONE = constant(1)

Item = Callable[[Expr], "Expr | tuple[Any, ...]"]
"""The item at a place: an expression, or the parts of a tuple."""


@dataclass
class Walk:
    """How a loop goes through its items: how many there are, and each by its place.

    `check` is evaluated when all have been gone through.
    """

    length: Expr
    item: Item
    check: list[Expr] = field(default_factory=list[Expr])


def compile_while(context: Context, node: ast.While) -> None:
    graph, loop, done = context.graph, Loop(again=Label(), out=Label()), Label()
    graph.mark(loop.again)
    endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
    if not endless:
        body = Label()
        graph.emit(
            BranchNode, node.test, {"then": body, "otherwise": done}, test=context.translate(node.test)
        )
        graph.mark(body)
    _body(context, loop, node.body)
    if loop.again.is_circular():
        raise context.refusal(node, "this loop does nothing, for ever", "sleep in the loop, or remove it")
    graph.mark(done)
    if node.orelse:
        context.block(context, node.orelse)
    graph.mark(loop.out)


def compile_for(context: Context, node: ast.For) -> None:
    graph, loop, body, done = context.graph, Loop(again=Label(), out=Label()), Label(), Label()
    walk = _walk(context, node.iter)
    place = context.temporary()
    if not isinstance(walk.length, Const | Name):
        walk.length = _held(context, node.iter, walk.length)
    context.set(node, place, constant(0))
    graph.mark(loop.again)
    test = Compare(Name(place), (Comparison("<", walk.length),))
    graph.emit(BranchNode, node.iter, {"then": body, "otherwise": done}, test=test)
    graph.mark(body)
    emit_parts(context, node.target, walk.item(Name(place)))
    context.set(node, place, Binary("+", Name(place), _ONE))
    _body(context, loop, node.body)
    graph.mark(done)
    for check in walk.check:
        context.set(node.iter, context.temporary(), check)
    if node.orelse:
        context.block(context, node.orelse)
    graph.mark(loop.out)


def compile_break(context: Context, node: ast.Break) -> None:
    loop = _innermost(context)
    leave(context, loop)
    context.graph.jump(loop.out)


def compile_continue(context: Context, node: ast.Continue) -> None:
    loop = _innermost(context)
    leave(context, loop)
    context.graph.jump(loop.again)


def _innermost(context: Context) -> Loop:
    return next(frame for frame in reversed(context.frames) if isinstance(frame, Loop))


def _body(context: Context, loop: Loop, body: list[ast.stmt]) -> None:
    context.frames.append(loop)
    context.block(context, body)
    context.frames.pop()
    context.graph.jump(loop.again)


# -- what a `for` goes through ---------------------------------------------------------------------
def _walk(context: Context, node: ast.expr) -> Walk:
    """Evaluates what has to be evaluated before the loop, in Python's order, and says how to go through it."""
    name = context.scope.builtin(node.func) if isinstance(node, ast.Call) else None
    if isinstance(node, ast.Call) and not any(isinstance(each, ast.Starred) for each in node.args):
        if name == "range" and node.args and not node.keywords:
            return _range(context, node)
        if name == "enumerate" and node.args:
            return _enumerate(context, node)
        if name == "zip" and node.args:
            return _zip(context, node)
        if name == "reversed" and len(node.args) == 1:
            return _reversed(context, node)
    return _sequence(context, node)


def _sequence(context: Context, node: ast.expr) -> Walk:
    """Any other value: its items as a list. One that is a list already is the same list."""
    items = _held(context, node, Call("list", (context.translate(node, consumed=True),)))
    return Walk(Call("len", (items,)), lambda place: Index(items, place))


def _range(context: Context, node: ast.Call) -> Walk:
    args = [context.translate(each) for each in node.args]
    ends = Call("range", tuple(_held(context, node, each) for each in args))
    return Walk(Call("len", (ends,)), lambda place: Index(ends, place))


def _enumerate(context: Context, node: ast.Call) -> Walk:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if len(node.args) > 2 or given.keys() - {"start"} or (given and len(node.args) == 2):
        raise context.refusal(
            node, "enumerate() takes an iterable and a start", "write `enumerate(items, start=1)`"
        )
    inner = _walk(context, node.args[0])
    start = given.get("start") or (node.args[1] if len(node.args) == 2 else None)
    if start is None:
        return Walk(inner.length, lambda place: (place, inner.item(place)), inner.check)
    # An int or nothing: `+ 0` would take other numbers, where Python asks for an index.
    first = Index(Call("range", (_held(context, start, context.translate(start)), _FAR)), constant(0))
    held = _held(context, start, first)
    return Walk(inner.length, lambda place: (Binary("+", held, place), inner.item(place)), inner.check)


_FAR = constant(1 << 62)


def _zip(context: Context, node: ast.Call) -> Walk:
    strict = [keyword.value for keyword in node.keywords if keyword.arg == "strict"]
    fixed = [each.value for each in strict if isinstance(each, ast.Constant)]
    if len(strict) != len(node.keywords) or len(fixed) != len(strict):
        raise context.refusal(
            node, "zip() takes iterables and a fixed `strict`", "write `strict=True` or `strict=False`"
        )
    walks = [_walk(context, each) for each in node.args]
    lengths = [_held(context, node, walk.length) for walk in walks]
    check = [each for walk in walks for each in walk.check]
    if any(fixed) and len(walks) > 1:
        lists = tuple(Call("range", (length,)) for length in lengths)
        check.append(Call("list", (Call("zip", lists, {"strict": constant(True)}),)))
    shortest = lengths[0] if len(lengths) == 1 else Call("min", tuple(lengths))
    return Walk(shortest, lambda place: tuple(walk.item(place) for walk in walks), check)


def _reversed(context: Context, node: ast.Call) -> Walk:
    inner = node.args[0]
    name = context.scope.builtin(inner.func) if isinstance(inner, ast.Call) else None
    if name in ("enumerate", "zip"):
        raise context.refusal(node, f"'{name}' object is not reversible", "reverse the list itself")
    walk = _walk(context, inner)
    length = _held(context, node, walk.length)
    return Walk(length, lambda place: walk.item(Binary("-", Binary("-", length, _ONE), place)), walk.check)


def _held(context: Context, node: ast.AST, value: Expr) -> Expr:
    """`value` evaluated here and now: in a variable of the compiler's, unless it is a constant."""
    if isinstance(value, Const) or (isinstance(value, Name) and value.name.startswith("$")):
        return value
    name = context.temporary()
    context.set(node, name, value)
    return Name(name)
