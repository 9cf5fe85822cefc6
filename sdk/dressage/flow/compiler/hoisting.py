"""`await` inside an expression: it becomes a node of its own, before the one that holds the expression.

What Python would have evaluated before the await, and could fail or show another value afterwards, is evaluated before
it here, too. `and`, `or` and conditional expressions become branches, so that only what Python awaits is awaited.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

from dressage.flow.compiler.choices import Lookup, looked_up, pick
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.scope import Held
from dressage.protocol.expressions import Expr, Name
from dressage.protocol.spec import BranchNode

_CLOSED = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""What evaluates its parts any number of times: an await in it stays, and is refused there."""


def hoist(context: Context, node: ast.expr) -> ast.expr:
    """The expression without awaits; those that it had are compiled here, where control now is."""
    if not _awaits(node):
        return node
    match node:
        case ast.Await():
            return _held(context, node, lambda name: context.wait(context, node, name))
        case ast.IfExp():
            return _held(context, node, lambda name: _choose(context, node, name))
        case ast.BoolOp():
            return _held(context, node, lambda name: _decide(context, node, name))
        case ast.Compare() if any(_awaits(each) for each in node.comparators[1:]):
            advice = "give the awaited result a name in a statement of its own: `result = await task(...)`"
            raise context.refusal(
                node, "Python may leave this await out, behind the first comparison", advice
            )
        case Lookup():
            return pick(context, node)
        case _:
            return _parts_hoisted(context, node)


def hoist_arguments(context: Context, call: ast.Call) -> ast.Call:
    """A call without awaits in its arguments."""
    return cast("ast.Call", _parts_hoisted(context, call)) if _awaits(call) else call


def _awaits(node: ast.AST) -> bool:
    if isinstance(node, ast.Await):
        return True
    return not isinstance(node, _CLOSED) and any(_awaits(each) for each in ast.iter_child_nodes(node))


def _held(context: Context, node: ast.expr, compile_into: Callable[[str], None]) -> ast.expr:
    name = context.temporary()
    compile_into(name)
    return Held.at(node, Name(name))


def _set(context: Context, node: ast.expr, name: str) -> None:
    if isinstance(node, ast.Await):
        context.wait(context, node, name)
    else:
        context.set(node, name, context.translate(node))


def _choose(context: Context, node: ast.IfExp, name: str) -> None:
    graph, then, otherwise, end = context.graph, Label(), Label(), Label()
    test = context.translate(node.test)
    graph.emit(BranchNode, node.test, {"then": then, "otherwise": otherwise}, test=test)
    graph.mark(then)
    _set(context, node.body, name)
    graph.jump(end)
    graph.mark(otherwise)
    _set(context, node.orelse, name)
    graph.mark(end)


def _decide(context: Context, node: ast.BoolOp, name: str) -> None:
    graph, end = context.graph, Label()
    for place, value in enumerate(node.values):
        _set(context, value, name)
        if place < len(node.values) - 1:
            onward = Label()
            ways = (onward, end) if isinstance(node.op, ast.And) else (end, onward)
            graph.emit(BranchNode, value, {"then": ways[0], "otherwise": ways[1]}, test=Name(name))
            graph.mark(onward)
    graph.mark(end)


def _parts_hoisted(context: Context, node: ast.expr) -> ast.expr:
    """A copy of the node whose parts have no awaits. What stands before an await is evaluated before it."""
    made = copy.copy(node)
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            setattr(made, field, list[Any](value))
    parts = list(_parts(context, made))
    if not any(_awaits(part) for _, part in parts):
        raise context.refusal(node, "an await cannot stand here", "await it in a statement of its own before")
    last = max(place for place, (_, part) in enumerate(parts) if _awaits(part))
    for place, (put, part) in enumerate(parts):
        if _awaits(part):
            put(hoist(context, part))
        elif place < last:
            following = [later for _, later in parts[place + 1 : last + 1]]
            put(_before(context, part, _rebound(following)))
    return made


def _rebound(nodes: list[ast.expr]) -> set[str]:
    """The variables that `:=` sets in these."""
    inside = (each for node in nodes for each in ast.walk(node))
    return {each.target.id for each in inside if isinstance(each, ast.NamedExpr)}


def _before(context: Context, node: ast.expr, rebound: set[str]) -> ast.expr:
    """What is evaluated before an await: in a variable, unless it is the same afterwards."""
    if isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id not in rebound):
        return node
    if isinstance(node, ast.Starred | ast.FormattedValue):
        made = copy.copy(node)
        made.value = _before(context, node.value, rebound)
        return made
    if isinstance(node, Lookup):
        return pick(context, node)
    if isinstance(node, ast.Lambda | ast.GeneratorExp) or context.scope.is_object(node):
        return node
    value: Expr = context.translate(node)
    return _held(context, node, lambda name: context.set(node, name, value))


def _parts(context: Context, node: ast.expr) -> Iterator[tuple[Callable[[ast.expr], None], ast.expr]]:
    """The parts of a node in the order of their evaluation, each with what puts another in its place."""
    match node:
        case ast.Dict():
            for place in range(len(node.values)):
                key = node.keys[place]
                if key is not None:
                    yield _item(node.keys, place), key
                yield _item(node.values, place), node.values[place]
        case ast.Call():
            options = _with_options(node)
            if (lookup := looked_up(context, node)) is not None:
                yield lookup
            if options is not None:
                for keyword in options.keywords:
                    if keyword.arg in ("run_id", "key", "priority"):
                        yield _member(keyword, "value"), keyword.value
            elif isinstance(node.func, ast.Attribute) and lookup is None:
                node.func = copy.copy(node.func)
                yield _member(node.func, "value"), node.func.value
            for place, each in enumerate(node.args):
                yield _item(node.args, place), each
            node.keywords = [copy.copy(keyword) for keyword in node.keywords]
            for keyword in node.keywords:
                yield _member(keyword, "value"), keyword.value
        case _:
            for field, value in ast.iter_fields(node):
                if isinstance(value, ast.expr):
                    yield _member(node, field), value
                elif isinstance(value, list):
                    items: list[Any] = value
                    for place, each in enumerate(items):
                        if isinstance(each, ast.expr):
                            yield _item(items, place), each


def _with_options(node: ast.Call) -> ast.Call | None:
    """The `.options(...)` of a call, or of the `.start` behind it, as copies that can be changed; None without them."""
    function = node.func
    owner = function.value if isinstance(function, ast.Attribute) else function
    if not (isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute)):
        return None
    if owner.func.attr != "options":
        return None
    options = copy.copy(owner)
    options.keywords = [copy.copy(keyword) for keyword in owner.keywords]
    if isinstance(function, ast.Attribute):
        node.func = copy.copy(function)
        node.func.value = options
    else:
        node.func = options
    return options


def _item(items: list[Any], place: int) -> Callable[[ast.expr], None]:
    return lambda node: items.__setitem__(place, node)


def _member(owner: ast.AST, field: str) -> Callable[[ast.expr], None]:
    return lambda node: setattr(owner, field, node)
