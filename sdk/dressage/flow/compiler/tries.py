"""`try` with its `except` clauses, and `raise`."""

from __future__ import annotations

import ast
from typing import Any

from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Clause, Context
from dressage.flow.compiler.graph import HandlerDraft, Label
from dressage.flow.compiler.names import MISSING
from dressage.flow.failures import WorkflowFailure
from dressage.protocol.spec import RaiseNode


def compile_try(context: Context, node: ast.Try, block: Any) -> None:
    """The body in a scope of its own, then each clause outside of it; all go on at the same place."""
    for part, name, advice in [
        (node.orelse, "else", "write these statements at the end of the try body, or after the whole"),
        (node.finalbody, "finally", "write these statements in each except clause and after the whole"),
    ]:
        if part:
            raise context.refusal(part[0], f"`{name}` of a try is not supported yet", advice)
    graph, end = context.graph, Label()
    number = graph.open_scope()
    scope = graph.scopes[number]
    scope.handlers.extend(_handler(context, each) for each in node.handlers)
    block(context, node.body)
    graph.close_scope()
    graph.jump(end)
    for clause, handler in zip(node.handlers, scope.handlers, strict=True):
        # Whether anything in the body can lead here is checked when all nodes are known.
        handler.label.used = True
        graph.mark(handler.label)
        _clause(context, clause, handler, block)
        graph.jump(end)
    graph.mark(end)


def _handler(context: Context, clause: ast.ExceptHandler) -> HandlerDraft:
    if clause.type is None:
        advice = "write `except WorkflowFailure:` for every business failure"
        raise context.refusal(clause, "an except clause names what it catches", advice)
    names: list[str] = []
    for kind in _classes(context, clause.type):
        if kind is not WorkflowFailure:
            context.use_failure(clause.type, kind)
        names.append(kind.name)
    bind = clause.name
    if bind is None and _raises_again(clause.body):
        bind = context.temporary()
    return HandlerDraft(tuple(names), Label(), bind, clause)


def _classes(context: Context, node: ast.expr) -> list[type[WorkflowFailure]]:
    if isinstance(node, ast.Tuple):
        return [kind for each in node.elts for kind in _classes(context, each)]
    found = context.names.object(node)
    if isinstance(found, tuple) and found and all(_is_failure(each) for each in found):
        return list(found)
    return [calls.failure_class(node, context.scope)]


def _is_failure(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, WorkflowFailure)


def _raises_again(body: list[ast.stmt]) -> bool:
    """Whether a bare `raise` in these statements means this clause's failure: not one of an inner clause."""
    for statement in body:
        if isinstance(statement, ast.Raise) and statement.exc is None:
            return True
        inner = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
        if any(_raises_again(each) for each in inner):
            return True
    return False


def _clause(context: Context, clause: ast.ExceptHandler, handler: HandlerDraft, block: Any) -> None:
    if clause.name and clause.name in context.scope.caught:
        raise context.refusal(
            clause, f"{clause.name} already names the failure of the clause around", "use another name"
        )
    context.clauses.append(Clause(handler.bind))
    if clause.name:
        context.scope.caught.append(clause.name)
    block(context, clause.body)
    if clause.name:
        context.scope.caught.pop()
    context.clauses.pop()


def compile_raise(context: Context, node: ast.Raise) -> None:
    """`raise`, `raise error`, `raise Failure`, `raise Failure(message, **details)`, each `from` what it likes."""
    _check_cause(context, node.cause)
    if node.exc is None:
        if not context.clauses:
            raise context.refusal(
                node, "there is no failure to raise again here", "name one: `raise Failure(...)`"
            )
        context.graph.emit(RaiseNode, node, {}, reraise=context.clauses[-1].bind)
    elif isinstance(node.exc, ast.Name) and node.exc.id in context.names.locals:
        if node.exc.id not in context.scope.caught:
            raise context.refusal(
                node.exc, f"{node.exc.id} is no failure that was caught here", "name a failure"
            )
        context.graph.emit(RaiseNode, node, {}, reraise=node.exc.id)
    else:
        _raise_new(context, node, node.exc)


def _raise_new(context: Context, node: ast.Raise, raised: ast.expr) -> None:
    call = raised if isinstance(raised, ast.Call) else None
    name = call.func if call else raised
    if context.names.object(name) is MISSING:
        raise context.refusal(
            name, f"{ast.unparse(name)} is no failure class", "raise a subclass of WorkflowFailure"
        )
    kind = calls.failure_class(name, context.scope)
    if kind is not WorkflowFailure:
        context.use_failure(name, kind)
    message, details = calls.failure_fields(call, kind, context.scope) if call else (None, None)
    context.graph.emit(RaiseNode, node, {}, failure=kind.name, message=message, details=details)


def _check_cause(context: Context, cause: ast.expr | None) -> None:
    if cause is None or (isinstance(cause, ast.Constant) and cause.value is None):
        return
    if isinstance(cause, ast.Name) and cause.id in context.scope.caught:
        return
    raise context.refusal(cause, "a cause is None or the caught failure", "write `from None` or `from error`")
