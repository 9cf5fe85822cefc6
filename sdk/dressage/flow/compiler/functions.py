"""Async functions that a workflow awaits: nested ones and those of a module, compiled where they are called.

Each call has the function's statements in the graph once more; its variables are the run's, with the function's name
in front of theirs (`pack.item`). A nested function reads the variables around it, as in Python.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dressage.expressions.parse import constant
from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context, Inlined
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.names import Names
from dressage.flow.compiler.scope import FlowScope
from dressage.flow.source import Source, source_of
from dressage.protocol.expressions import Const, Expr
from dressage.protocol.spec_sizes import NODES_MAX
from dressage.protocol.types import ANY, Field


@dataclass
class Callee:
    """A function that can be compiled where it is called; a nested one has the context that it is nested in."""

    name: str
    node: ast.AsyncFunctionDef
    source: Source
    function: Callable[..., Any]
    outer: Context | None


def define(context: Context, node: ast.AsyncFunctionDef) -> None:
    """A nested function, from here on."""
    if context.inlined is None and node not in context.source.node.body:
        raise context.refusal(
            node, "a function is defined here on some ways only", "define it at the top of the workflow"
        )
    if node.decorator_list:
        raise context.refusal(
            node.decorator_list[0], "a nested function has no decorator", "define a task at module level"
        )
    context.functions[node.name] = node


def callee_of(context: Context, node: ast.expr) -> Callee | None:
    """The function that is called by this name, if it is one to be compiled."""
    around: Context | None = context
    while around is not None and isinstance(node, ast.Name):
        if node.id in around.functions:
            return Callee(node.id, around.functions[node.id], around.source, around.function, around)
        if node.id in around.names.locals:
            return None
        around = around.outer
    found = context.names.object(node)
    if not inspect.iscoroutinefunction(found) or not inspect.isfunction(found):
        return None
    if found.__module__.partition(".")[0] in sys.stdlib_module_names:
        return None
    source = source_of(found)
    if not isinstance(source.node, ast.AsyncFunctionDef):
        return None
    if source.node.decorator_list:
        raise context.refusal(
            node, f"{ast.unparse(node)}() has a decorator, which no run would call", "call it without one"
        )
    return Callee(found.__name__, source.node, source, found, None)


def arguments(context: Context, call: ast.Call, callee: Callee) -> dict[str, Expr]:
    """The arguments of a call by name, in the order of their evaluation, defaults last."""
    params = callee.node.args
    if params.vararg or params.kwarg:
        what = "a function with * parameters cannot be called by a workflow"
        raise callee.source.refusal(callee.node, what, "name every parameter")
    places = [each.arg for each in [*params.posonlyargs, *params.args]]
    defaults: dict[str, ast.expr] = dict(
        zip(places[len(places) - len(params.defaults) :], params.defaults, strict=True)
    )
    for each, default in zip(params.kwonlyargs, params.kw_defaults, strict=True):
        if default is not None:
            defaults[each.arg] = default
    names = [*places, *(each.arg for each in params.kwonlyargs)]
    fields = [Field(name, ANY, required=name not in defaults) for name in names]
    given = calls.bound(call, callee.name, fields, places, context.scope)
    for name in names:
        if name not in given:
            given[name] = _default(context, callee, defaults[name])
    return given


def _default(context: Context, callee: Callee, node: ast.expr) -> Expr:
    value = _scope(context, callee).translate(node)
    if not isinstance(value, Const):
        what = "a default is computed once, when Python defines the function"
        raise callee.source.refusal(node, what, "write a constant, or pass the value")
    return value


def enter(context: Context, call: ast.Call, callee: Callee, target: str | None) -> Context:
    """The context in which the statements of a call are compiled."""
    around = context.inlined.around if context.inlined else (context.source.node,)
    if callee.node in around:
        raise context.refusal(call, f"{callee.name}() calls itself: how often is not known", "write a loop")
    if len(context.graph.drafts) > NODES_MAX:
        raise context.refusal(
            call, f"the workflow has more than {NODES_MAX} nodes (limit spec-size)", "split it"
        )
    scope = _scope(context, callee)
    context.awaited.append((callee.node, callee.source))
    return Context(
        callee.source,
        context.signature,
        scope.names,
        scope,
        callee.function,
        context.block,
        context.hoist,
        context.wait,
        graph=context.graph,
        tasks=context.tasks,
        failures=context.failures,
        declared=context.declared,
        augmented=context.augmented,
        awaited=context.awaited,
        outer=callee.outer,
        inlined=Inlined(target, Label(), (*around, callee.node)),
    )


def _scope(context: Context, callee: Callee) -> FlowScope:
    outer = callee.outer
    names = Names(callee.function, callee.node, outer.names if outer else None)
    return FlowScope(
        callee.source, names, context.scope.book, outer.scope if outer else None, f"{callee.name}."
    )


def give(inner: Context, place: ast.AST, given: dict[str, Expr]) -> None:
    """Sets the parameters."""
    for name, value in given.items():
        inner.set(place, inner.variable(name), value)


def body(inner: Context, callee: Callee) -> None:
    """The statements of a call, up to where it has its result."""
    inlined, graph = inner.inlined, inner.graph
    assert inlined is not None
    inner.block(inner, callee.node.body)
    if graph.live and inlined.target is not None:
        inner.set(callee.node.body[-1], inlined.target, constant(None))
    graph.jump(inlined.end)
    graph.mark(inlined.end)
