"""`await CARRIERS[order.carrier](order)`: which workflow or task it is, is looked up in a dict of the module.

The dict is frozen, as every constant of a module is. So each workflow in it is known when this one is compiled, and
what is compiled is the lookup, which fails as Python's does, and a call of each, one of which control gets to.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import msgspec

from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.names import callables_in, chosen
from dressage.flow.members import Unsupported
from dressage.flow.runnable import Runnable
from dressage.flow.tasks import Task
from dressage.protocol.expressions import Compare, Comparison, Const, Expr, Index, Name
from dressage.protocol.spec import BranchNode


class Lookup(ast.Subscript):
    """`CARRIERS[order.carrier]` as a part of a call, which Python looks at before the arguments."""


class Picked(ast.Name):
    """Stands in the syntax for `CARRIERS[order.carrier]` where that has been looked up before what is awaited."""

    which: Expr
    found: dict[Any, Any]


class Choice(NamedTuple):
    """A call of one of several: `which` gives the name of the one, and under each name is its call."""

    which: Expr
    calls: dict[str, ast.Call]


def choice_of(context: Context, call: ast.Call) -> Choice | None:
    """None if this calls nothing that is looked up. Refuses a lookup that no call of a run can be made of."""
    base = _base_of(context, call)
    if not isinstance(base, Picked | ast.Subscript):
        return None
    if isinstance(base, Picked):
        found, which = base.found, base.which
    else:
        found = _dict_of(context, base)
        which = _lookup(context, base, found)
    calls = {
        name: cast("ast.Call", _with_base(call, chosen(base, each))) for name, each in _named(found).items()
    }
    return Choice(which, calls)


def looked_up(context: Context, call: ast.Call) -> tuple[Callable[[ast.expr], None], Lookup] | None:
    """What `call` looks up first of all, and what puts something else in its place; the call is changed then."""
    base = _base_of(context, call)
    if not isinstance(base, ast.Subscript):
        return None

    def put(node: ast.expr) -> None:
        made = _with_base(call, node)
        assert isinstance(made, ast.Call)
        call.func = made.func

    return put, ast.copy_location(Lookup(base.value, base.slice, base.ctx), base)


def pick(context: Context, node: Lookup) -> Picked:
    """Looks it up here and now."""
    picked = ast.copy_location(Picked("$", ast.Load()), node)
    picked.found = _dict_of(context, node)
    picked.which = Name(context.temporary())
    context.set(node, picked.which.name, _lookup(context, node, picked.found))
    return picked


def _is_lookup(context: Context, node: ast.expr) -> bool:
    return isinstance(node, ast.Subscript) and callables_in(context.names.object(node.value)) is not None


def ways(context: Context, place: ast.AST, which: Name, choice: Choice) -> Iterator[tuple[str, ast.Call]]:
    """The call that is to be compiled next, where control gets to if it is the one; behind the last, all go on."""
    graph, end = context.graph, Label()
    *others, last = choice.calls.items()
    for name, call in others:
        then, otherwise = Label(), Label()
        test = Compare(which, (Comparison("==", constant(name)),))
        graph.emit(BranchNode, place, {"then": then, "otherwise": otherwise}, test=test)
        graph.mark(then)
        yield name, call
        graph.jump(end)
        graph.mark(otherwise)
    yield last
    graph.mark(end)


def _base_of(context: Context, call: ast.Call) -> ast.expr | None:
    """What is looked up in front of `.options(...)` and `.start`."""
    node = call.func
    while True:
        if isinstance(node, Picked) or _is_lookup(context, node):
            return node
        if callables_in(context.names.object(node)) is not None:
            name = text_of(node)
            raise context.refusal(
                call, f"{name} holds what can be called, and this calls none of it", _advice(name)
            )
        if isinstance(node, ast.Attribute):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None


def _with_base(node: ast.expr, base: ast.expr) -> ast.expr:
    """A copy of a call with something else in front of `.options(...)` and `.start`."""
    made = copy.copy(node)
    if isinstance(made, ast.Call):
        made.func = _with_base(made.func, base)
    elif isinstance(made, ast.Attribute):
        made.value = _with_base(made.value, base)
    else:
        return base
    return made


def _dict_of(context: Context, node: ast.Subscript) -> dict[Any, Any]:
    found, name = context.names.object(node.value), text_of(node.value)
    if not isinstance(found, dict):
        what = f"{name} is a {type(found).__name__}: what is chosen at run time is looked up in a dict"
        raise context.refusal(node, what, 'write `{"dhl": ship_dhl, "ups": ship_ups}` at module level')
    known: dict[Any, Any] = found
    for key, each in known.items():
        if not isinstance(each, Runnable | Task):
            what = f"{name}[{key!r}] is neither a workflow nor a task"
            raise context.refusal(
                node, what, "let it be one, or write `match` and await what is called in each case"
            )
    return known


def _lookup(context: Context, node: ast.Subscript, found: dict[Any, Any]) -> Expr:
    """The name of what is called, from the key; no other key is an error as in Python."""
    names = {id(each): name for name, each in _named(found).items()}
    try:
        frozen = context.scope.book.frozen({key: names[id(each)] for key, each in found.items()})
    except Unsupported as error:
        raise context.refusal(node, f"{text_of(node.value)}: {error.what}", error.advice) from error
    return Index(Const(msgspec.Raw(frozen)), context.translate(node.slice))


def _named(found: dict[Any, Any]) -> dict[str, Any]:
    """What can be called, each once, by names of which no two are the same."""
    named: dict[str, Any] = {}
    for each in {id(each): each for each in found.values()}.values():
        name, number = each.name, 1
        while name in named:
            number += 1
            name = f"{each.name} {number}"
        named[name] = each
    return named


def _advice(name: str) -> str:
    return f"look it up and call it at once: `await {name}[key](...)`"
