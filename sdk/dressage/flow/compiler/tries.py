"""`try` with its `except`, `else` and `finally`, and `raise`."""

from __future__ import annotations

import ast
from typing import Any

from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Clause, Context, Final, record_of
from dressage.flow.compiler.graph import HandlerDraft, Label
from dressage.flow.compiler.hoisting import hoist_arguments
from dressage.flow.compiler.leaving import check_final, final_body
from dressage.flow.compiler.names import MISSING
from dressage.flow.failures import CATCHABLE, WorkflowFailure
from dressage.protocol.expressions import (
    Binary,
    Call,
    Compare,
    Comparison,
    Conditional,
    Index,
    ListOfExpr,
    Name,
)
from dressage.protocol.spec import ANY_ERROR, GROUP_ERROR, LEAVING_ERRORS, BranchNode, RaiseNode

OF_FAILURES = frozenset({"name", "message", "details"})
"""What every business failure has."""


def compile_try(context: Context, node: ast.Try | ast.TryStar) -> None:
    """The body in a scope of its own, then each clause outside of it; all go on at the same place.

    Around them all is the scope of `finally`, which takes whatever is raised, and raises it again behind its body.
    """
    if not node.finalbody:
        _handled(context, node)
        return
    check_final(context, node.finalbody)
    graph, end = context.graph, Label()
    final = Final(node.finalbody, graph.scope, context.clauses, list(context.scope.caught))
    scope = graph.scopes[graph.open_scope()]
    failed = HandlerDraft(LEAVING_ERRORS, Label(), context.temporary(), node.finalbody[0], passing=True)
    scope.handlers.append(failed)
    context.frames.append(final)
    _handled(context, node)
    context.frames.pop()
    graph.close_scope()
    if graph.live:
        final_body(context, final)
    graph.jump(end)
    failed.label.used = True
    graph.mark(failed.label)
    final_body(context, final)
    if graph.live:
        graph.emit(RaiseNode, node.finalbody[-1], {}, reraise=failed.bind)
    graph.mark(end)


def _handled(context: Context, node: ast.Try | ast.TryStar) -> None:
    """A `try` without its `finally`."""
    if not node.handlers:
        context.block(context, node.body)
        return
    if isinstance(node, ast.TryStar):
        _handled_in_parts(context, node)
        return
    graph, end = context.graph, Label()
    scope = graph.scopes[graph.open_scope()]
    scope.handlers.extend(_handler(context, each) for each in node.handlers)
    context.block(context, node.body)
    graph.close_scope()
    if node.orelse:
        context.block(context, node.orelse)
    graph.jump(end)
    for clause, handler in zip(node.handlers, scope.handlers, strict=True):
        # Whether anything in the body can lead here is checked when all nodes are known.
        handler.label.used = True
        graph.mark(handler.label)
        _clause(context, clause, handler)
        graph.jump(end)
    graph.mark(end)


def _handled_in_parts(context: Context, node: ast.TryStar) -> None:
    """`except*`: each clause takes what it names of the group, and what all of them leave, or raise, is raised."""
    graph, end, done = context.graph, Label(), Label()
    scope = graph.scopes[graph.open_scope()]
    left, raised = context.temporary(), context.temporary()
    failed = HandlerDraft((ANY_ERROR,), Label(), left, node, passing=True)
    scope.handlers.append(failed)
    context.block(context, node.body)
    graph.close_scope()
    context.block(context, node.orelse)
    graph.jump(end)
    failed.label.used = True
    graph.mark(failed.label)
    context.set(node, raised, ListOfExpr(()))
    for clause in node.handlers:
        _part(context, clause, left, raised)
    _raise_rest(context, node, left, raised, done)
    graph.mark(done)
    graph.jump(end)
    graph.mark(end)


def _part(context: Context, clause: ast.ExceptHandler, left: str, raised: str) -> None:
    graph, taken, after = context.graph, Label(), Label()
    assert clause.type is not None
    names = list(dict.fromkeys(_caught_names(context, clause.type)))
    if GROUP_ERROR in names:
        raise context.refusal(clause.type, "except* takes what is in a group, no group", "write `except`")
    _check_part(context, clause.body)
    pair = context.temporary()
    split = Call("split_failures", (Name(left), *(constant(name) for name in names)))
    context.set(clause, pair, split)
    test = Compare(Index(Name(pair), constant(0)), (Comparison("is not", constant(None)),))
    graph.emit(BranchNode, clause, {"then": taken, "otherwise": after}, test=test)
    graph.mark(taken)
    context.set(clause, left, Index(Name(pair), constant(1)))
    scope = graph.scopes[graph.open_scope()]
    failed = HandlerDraft((ANY_ERROR,), Label(), context.temporary(), clause, passing=True)
    scope.handlers.append(failed)
    caught = context.scope.caught
    if clause.name:
        context.set(clause, context.variable(clause.name), Index(Name(pair), constant(0)))
        context.scope.caught = [*caught, clause.name]
    context.block(context, clause.body)
    context.scope.caught = caught
    graph.close_scope()
    graph.jump(after)
    failed.label.used = True
    graph.mark(failed.label)
    context.set(clause, raised, Binary("+", Name(raised), ListOfExpr((Name(failed.bind or ""),))))
    graph.mark(after)


def _check_part(context: Context, body: list[ast.stmt]) -> None:
    """Python itself refuses `return`, `break` and `continue` here."""
    if _raises_again(body):
        raise context.refusal(
            body[0],
            "a bare `raise` in except* joins what it took with what is left",
            "raise a failure of your own",
        )


def _raise_rest(context: Context, node: ast.TryStar, left: str, raised: str, done: Label) -> None:
    graph, new, old, rest = context.graph, Label(), Label(), Label()
    graph.emit(BranchNode, node, {"then": new, "otherwise": old}, test=Name(raised))
    graph.mark(new)
    kept = Compare(Name(left), (Comparison("is", constant(None)),))
    others = Conditional(kept, ListOfExpr(()), ListOfExpr((Name(left),)))
    context.set(node, raised, Binary("+", Name(raised), others))
    several, single = Label(), Label()
    more = Compare(Call("len", (Name(raised),)), (Comparison(">", constant(1)),))
    graph.emit(BranchNode, node, {"then": several, "otherwise": single}, test=more)
    graph.mark(several)
    graph.emit(RaiseNode, node, {}, message=constant(""), group=Name(raised))
    graph.mark(single)
    # Python makes no group of one.
    context.set(node, left, Index(Name(raised), constant(0)))
    graph.emit(RaiseNode, node, {}, reraise=left)
    graph.mark(old)
    graph.emit(BranchNode, node, {"then": done, "otherwise": rest}, test=kept)
    graph.mark(rest)
    graph.emit(RaiseNode, node, {}, reraise=left)


def _handler(context: Context, clause: ast.ExceptHandler) -> HandlerDraft:
    if clause.type is None:
        advice = "write `except Exception:` for whatever can be caught"
        raise context.refusal(clause, "an except clause names what it catches", advice)
    names = list(dict.fromkeys(_caught_names(context, clause.type)))
    bind = context.variable(clause.name) if clause.name else None
    if bind is None and _raises_again(clause.body):
        bind = context.temporary()
    return HandlerDraft(tuple(names), Label(), bind, clause)


def _caught_names(context: Context, node: ast.expr) -> list[str]:
    """What the handler of an `except` is told to take: wire names of failures, Python's classes of errors."""
    if isinstance(node, ast.Tuple):
        return [name for each in node.elts for name in _caught_names(context, each)]
    found = context.names.object(node)
    if isinstance(found, tuple) and found and all(isinstance(each, type) for each in found):
        return [_caught_name(context, node, each) for each in found]
    return [_caught_name(context, node, found)]


def _caught_name(context: Context, node: ast.expr, kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, WorkflowFailure):
        if kind is not WorkflowFailure:
            context.use_failure(node, kind)
        return kind.name
    if isinstance(kind, type) and kind in CATCHABLE:
        return kind.__name__
    raise calls.no_failure(node, kind, context.scope)


def _raises_again(body: list[ast.stmt]) -> bool:
    """Whether a bare `raise` in these statements means this clause's failure: not one of an inner clause."""
    for statement in body:
        if isinstance(statement, ast.Raise) and statement.exc is None:
            return True
        inner = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
        inner += [case.body for case in getattr(statement, "cases", [])]
        if any(_raises_again(each) for each in inner):
            return True
    return False


def _clause(context: Context, clause: ast.ExceptHandler, handler: HandlerDraft) -> None:
    if clause.name and clause.name in context.scope.caught:
        raise context.refusal(
            clause, f"{clause.name} already names the failure of the clause around", "use another name"
        )
    clauses, caught = context.clauses, context.scope.caught
    context.clauses = [*clauses, Clause(handler.bind)]
    if clause.name:
        _check_attributes(context, clause, handler)
        kinds = [context.failures[name] for name in handler.names if name in context.failures]
        records = [record for kind in kinds if (record := record_of(kind))]
        context.caught[handler.bind or ""] = [*context.caught.get(handler.bind or "", []), *records]
        context.scope.caught = [*caught, clause.name]
    context.block(context, clause.body)
    context.clauses, context.scope.caught = clauses, caught


def _check_attributes(context: Context, clause: ast.ExceptHandler, handler: HandlerDraft) -> None:
    """Refuses what Python would not find on a caught failure: only business failures have fields."""
    technical = any(name[:1].isupper() for name in handler.names)
    for node in (each for statement in clause.body for each in ast.walk(statement)):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.value.id != clause.name or (node.attr == "exceptions" and handler.names == (GROUP_ERROR,)):
            continue
        having = [name for name in handler.names if node.attr in _attributes(context, name)]
        if not having and not (technical and node.attr in OF_FAILURES):
            what = f"a failure has name, message, details and the fields that it declares, but no {node.attr}"
            raise context.refusal(node, what, f"write `str({clause.name})`")
        if len(having) < len(handler.names):
            advice = f"write `str({clause.name})`, or catch business failures in a clause of their own"
            raise context.refusal(node, f"not all that is caught here has a {node.attr}", advice)


def _attributes(context: Context, name: str) -> frozenset[str]:
    """What can be read of a caught failure, by its wire name, or of an error of Python's: nothing."""
    if name[:1].isupper():
        return frozenset()
    kind = context.failures.get(name)
    declared = kind.declared() if kind is not None else None
    return OF_FAILURES.union(field.name for field in (declared.fields if declared is not None else ()))


def compile_raise(context: Context, node: ast.Raise) -> None:
    """`raise`, `raise error`, `raise Failure`, `raise Failure(message, field=...)`, each `from` what it likes."""
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
        context.graph.emit(RaiseNode, node, {}, reraise=context.variable(node.exc.id))
    else:
        _raise_new(context, node, node.exc)


def _raise_new(context: Context, node: ast.Raise, raised: ast.expr) -> None:
    call = raised if isinstance(raised, ast.Call) else None
    name = call.func if call else raised
    if context.names.object(name) is MISSING:
        raise context.refusal(
            name, f"{text_of(name)} is no failure class", "raise a subclass of WorkflowFailure"
        )
    kind = calls.failure_class(name, context.scope)
    if kind is not WorkflowFailure:
        context.use_failure(name, kind)
    given = call or ast.copy_location(ast.Call(raised, [], []), raised)
    message, details = calls.failure_fields(hoist_arguments(context, given), kind, context.scope)
    context.graph.emit(RaiseNode, node, {}, failure=kind.name, message=message, details=details)


def _check_cause(context: Context, cause: ast.expr | None) -> None:
    if cause is None or (isinstance(cause, ast.Constant) and cause.value is None):
        return
    if isinstance(cause, ast.Name) and cause.id in context.scope.caught:
        return
    raise context.refusal(cause, "a cause is None or the caught failure", "write `from None` or `from error`")
