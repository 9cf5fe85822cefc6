"""Async functions that a workflow awaits: nested ones and those of a module, compiled where they are called.

Each call has the function's statements in the graph once more; its variables are the run's, with the function's name
in front of theirs (`pack.item`). A nested function reads the variables around it, as in Python.
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass

from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler import helpers
from dressage.flow.compiler.context import Context, Inlined
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.helpers import Helper, Written
from dressage.flow.compiler.names import MISSING, Names
from dressage.flow.compiler.scope import FlowScope
from dressage.flow.source import Function, source_of
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Expr
from dressage.protocol.spec_sizes import NODES_MAX


@dataclass(frozen=True)
class Callee(Written):
    """A function that can be compiled where it is called; a nested one has the context that it is nested in."""

    outer: Context | None


def define(context: Context, node: Function) -> None:
    """A nested function, from here on."""
    around = context.inlined.around[-1] if context.inlined else context.source.node
    if node not in around.body:
        raise context.refusal(
            node, "a function is defined here on some ways only", "define it at the top of the workflow"
        )
    if node.decorator_list:
        raise context.refusal(
            node.decorator_list[0], "a nested function has no decorator", "define a task at module level"
        )
    if isinstance(node, ast.AsyncFunctionDef):
        context.functions[node.name] = node
        return
    helper = Helper(node.name, node, context.source, context.function, context.scope)
    context.scope.helpers[node.name] = helper
    helpers.check_helper(helper, node, context.scope)


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
    if helpers.is_decorated(found, source.node):
        raise context.refusal(
            node, f"{text_of(node)}() has a decorator, which no run would call", "call it without one"
        )
    return Callee(found.__name__, source.node, source, found, None)


def arguments(context: Context, call: ast.Call, callee: Callee) -> dict[str, Expr]:
    """The arguments of a call by name, in the order of their evaluation, defaults last."""
    return helpers.arguments(call, callee, context.scope, _scope(context, callee))


def is_itself(context: Context, func: ast.expr) -> bool:
    """Whether this names the workflow that is being compiled, which nothing knows yet."""
    workflow = context.inlined.around[0] if context.inlined else context.source.node
    return (
        isinstance(func, ast.Name)
        and func.id == workflow.name
        and context.names.object(func) is MISSING
        and func.id not in context.names.locals
    )


def refused_recursion(context: Context, call: ast.Call) -> DefinitionError:
    """A workflow awaits a run of itself."""
    return context.refusal(
        call,
        f"{text_of(call.func)}() is this workflow itself: how often it would run is not known",
        "write a loop, or put what is repeated into a workflow of its own, above this one",
    )


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
    _check_no_view(callee, scope.names)
    context.awaited.append((callee.node, callee.source))
    called_at = context.graph.called_at
    if called_at is None and callee.source.file != context.source.file:
        called_at = call.lineno
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
        events=context.events,
        user_tasks=context.user_tasks,
        children=context.children,
        caught=context.caught,
        declared=context.declared,
        augmented=context.augmented,
        awaited=context.awaited,
        outer=callee.outer,
        inlined=Inlined(target, Label(), (*around, callee.node), called_at),
    )


def _check_no_view(callee: Callee, names: Names) -> None:
    """Refuses a record that looks like a view, but would be seen by nobody: the run's view is the workflow's."""
    for name, kind in names.views.items():
        if kind is not None:
            stored = (
                each for each in ast.walk(callee.node) if isinstance(each, ast.Name) and each.id == name
            )
            raise callee.source.refusal(
                next(stored),
                f"{callee.name}() makes a {kind.__name__} whose fields change or can be searched: "
                "only the workflow itself makes the run's view",
                "make it in the workflow, where nested functions can set its fields, or return values to put into it",
            )


def _scope(context: Context, callee: Callee) -> FlowScope:
    outer = callee.outer
    names = context.names.of(callee.function, callee.node, outer.names if outer else None)
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
    outside, graph.called_at = graph.called_at, inlined.called_at
    inner.block(inner, callee.node.body)
    if graph.live and inlined.target is not None:
        inner.set(callee.node.body[-1], inlined.target, constant(None))
    graph.called_at = outside
    graph.jump(inlined.end)
    graph.mark(inlined.end)
