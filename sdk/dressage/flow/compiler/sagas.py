"""`async with Saga() as saga:` and `saga.undo(task, ...)`."""

from __future__ import annotations

import ast

from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context, Steps, Undo
from dressage.flow.compiler.graph import HandlerDraft, Label
from dressage.flow.compiler.hoisting import hoist_arguments
from dressage.flow.compiler.language import LANGUAGE
from dressage.flow.sagas import Saga
from dressage.protocol.expressions import (
    Binary,
    Compare,
    Comparison,
    Expr,
    Index,
    ListOfExpr,
    Name,
    Slice,
    TupleOfExpr,
)
from dressage.protocol.spec import ANY_ERROR, LEAVING_ERRORS, SAGA_TEXT, BranchNode, RaiseNode, TaskNode

_ONE = constant(1)


def compile_with(context: Context, node: ast.AsyncWith) -> None:
    """The block in a scope of its own; behind it, for a failure alone, the registered steps, the last one first."""
    name = _saga_of(context, node)
    graph, end, steps = context.graph, Label(), Steps(context.temporary())
    context.set(node, steps.variable, ListOfExpr(()))
    scope = graph.scopes[graph.open_scope()]
    failed = HandlerDraft(LEAVING_ERRORS, Label(), context.temporary(), node, passing=True)
    scope.handlers.append(failed)
    around = context.sagas
    context.sagas = {**around, name: steps}
    context.block(context, node.body)
    context.sagas = around
    graph.close_scope()
    graph.jump(end)
    failed.label.used = True
    graph.mark(failed.label)
    _undo(context, node, steps, failed.bind or "")
    graph.mark(end)


def _saga_of(context: Context, node: ast.AsyncWith) -> str:
    item = node.items[0]
    call = item.context_expr
    if (
        len(node.items) > 1
        or not isinstance(call, ast.Call)
        or context.names.object(call.func) is not Saga
        or call.args
        or call.keywords
    ):
        entry = LANGUAGE["With"]
        raise context.refusal(node, "`async with` has no durable meaning, but for a Saga", entry.advice)
    if not isinstance(item.optional_vars, ast.Name):
        raise context.refusal(node, "a Saga needs a name", "write `async with Saga() as saga:`")
    return item.optional_vars.id


def is_undo(context: Context, node: ast.expr) -> bool:
    """Whether this registers a step: it can stand as a statement only."""
    function = node.func if isinstance(node, ast.Call) else None
    owner = function.value if isinstance(function, ast.Attribute) and function.attr == "undo" else None
    return isinstance(owner, ast.Name) and owner.id in context.sagas


def register(context: Context, node: ast.Call) -> None:
    """`saga.undo(task, ...)`: which step it is, and what it is given, goes to the end of the list."""
    assert isinstance(node.func, ast.Attribute)
    assert isinstance(node.func.value, ast.Name)
    steps = context.sagas[node.func.value.id]
    if not node.args:
        raise context.refusal(
            node, "undo() takes a task and its arguments", "write `saga.undo(cancel, order)`"
        )
    called = ast.copy_location(ast.Call(node.args[0], node.args[1:], node.keywords), node)
    called = hoist_arguments(context, called)
    task = calls.task_of(called, context.scope)
    if task is None:
        name = text_of(node.args[0])
        raise context.refusal(node.args[0], f"{name} is no task", "a step is undone by a task")
    given = calls.task_args(called, task, context.scope)
    context.use_task(node, task)
    entry = TupleOfExpr((constant(len(steps.undos)), *given.values()))
    steps.undos.append(Undo(task, tuple(given), node))
    held = Name(steps.variable)
    context.set(node, steps.variable, Binary("+", held, ListOfExpr((entry,))))


def _undo(context: Context, node: ast.AsyncWith, steps: Steps, failure: str) -> None:
    graph, again, out = context.graph, Label(), Label()
    if not steps.undos:
        graph.emit(RaiseNode, node, {}, reraise=failure)
        return
    entry, failures = context.temporary(), context.temporary()
    left: Expr = Name(steps.variable)
    context.set(node, failures, ListOfExpr(()))
    graph.mark(again)
    body = Label()
    graph.emit(BranchNode, node, {"then": body, "otherwise": out}, test=left)
    graph.mark(body)
    context.set(node, entry, Index(left, constant(-1)))
    context.set(node, steps.variable, Slice(left, None, constant(-1)))
    for number, undo in enumerate(steps.undos):
        other = Label()
        if number < len(steps.undos) - 1:
            then = Label()
            test = Compare(Index(Name(entry), constant(0)), (Comparison("==", constant(number)),))
            graph.emit(BranchNode, undo.place, {"then": then, "otherwise": other}, test=test)
            graph.mark(then)
        _call(context, undo, entry, failures)
        graph.jump(again)
        graph.mark(other)
    graph.mark(out)
    _raise(context, node, failure, failures)


def _call(context: Context, undo: Undo, entry: str, failures: str) -> None:
    """One undo, in a scope of its own: what it fails with is kept for the end."""
    graph, after = context.graph, Label()
    scope = graph.scopes[graph.open_scope()]
    caught = HandlerDraft((ANY_ERROR,), Label(), context.temporary(), undo.place)
    scope.handlers.append(caught)
    args = {name: Index(Name(entry), constant(place + 1)) for place, name in enumerate(undo.names)}
    graph.emit(
        TaskNode,
        undo.place,
        target=None,
        undoes=True,
        **calls.task_fields(undo.task, args),
    )
    graph.close_scope()
    graph.jump(after)
    caught.label.used = True
    graph.mark(caught.label)
    added = ListOfExpr((Name(caught.bind or ""),))
    context.set(undo.place, failures, Binary("+", Name(failures), added))
    graph.mark(after)


def _raise(context: Context, node: ast.AsyncWith, failure: str, failures: str) -> None:
    graph, several, one = context.graph, Label(), Label()
    graph.emit(BranchNode, node, {"then": several, "otherwise": one}, test=Name(failures))
    graph.mark(several)
    group = Binary("+", ListOfExpr((Name(failure),)), Name(failures))
    graph.emit(RaiseNode, node, {}, message=constant(SAGA_TEXT), group=group, undone=True)
    graph.mark(one)
    graph.emit(RaiseNode, node, {}, reraise=failure, undone=True)
