"""One function for each kind of statement, and a table of them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from dressage.expressions.parse import constant
from dressage.flow.compiler import assignments, functions, loops, matches, sagas, tries
from dressage.flow.compiler.awaits import emit_await
from dressage.flow.compiler.context import Context, Inlined
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.language import LANGUAGE
from dressage.flow.compiler.leaving import leave, passes_final
from dressage.protocol.expressions import Const, Expr, Name
from dressage.protocol.spec import BranchNode, ReturnNode
from dressage.protocol.types import NONE


def block(context: Context, statements: list[ast.stmt]) -> None:
    """Compiles statements in their order. Refuses one that control can never get to."""
    for statement in statements:
        if not context.graph.live:
            raise context.refusal(statement, "control never gets here", "remove what cannot run")
        compile_statement = SUPPORTED_STATEMENTS.get(type(statement))
        if compile_statement is None:
            entry = LANGUAGE[type(statement).__name__]
            raise context.refusal(statement, entry.what, entry.advice)
        compile_statement(context, statement)


def _expression(context: Context, node: ast.Expr) -> None:
    if isinstance(node.value, ast.Await):
        emit_await(context, node.value, None)
        return
    if isinstance(node.value, ast.Call) and sagas.is_undo(context, node.value):
        sagas.register(context, node.value)
        return
    if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return  # a docstring, or a text in place of a comment
    if not isinstance(node.value, ast.Constant):
        # Most often a method that changes its object, or a task without await: the translation knows the advice.
        context.translate(node.value)
    raise context.refusal(node, "this statement has no effect", "assign its value, or remove it")


def _if(context: Context, node: ast.If) -> None:
    graph, end = context.graph, Label()
    while True:
        then, otherwise = Label(), Label()
        graph.emit(
            BranchNode, node.test, {"then": then, "otherwise": otherwise}, test=context.translate(node.test)
        )
        graph.mark(then)
        block(context, node.body)
        graph.jump(end)
        graph.mark(otherwise)
        # A chain of elif nests as deep as it is long: follow it without nesting.
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
            node = node.orelse[0]
            continue
        block(context, node.orelse)
        graph.jump(end)
        graph.mark(end)
        return


def _while(context: Context, node: ast.While) -> None:
    loops.compile_while(context, node)


def _for(context: Context, node: ast.For) -> None:
    loops.compile_for(context, node)


def _break(context: Context, node: ast.Break) -> None:
    loops.compile_break(context, node)


def _continue(context: Context, node: ast.Continue) -> None:
    loops.compile_continue(context, node)


def _try(context: Context, node: ast.Try | ast.TryStar) -> None:
    tries.compile_try(context, node)


def _return(context: Context, node: ast.Return) -> None:
    if context.inlined is not None:
        _return_here(context, node, context.inlined)
        return
    value: Expr | None = None
    if node.value is None:
        if context.signature.output != NONE and not admits_none(context):
            raise context.refusal(node, "this returns nothing", "return a value of the declared type")
    elif isinstance(node.value, ast.Await):
        value = Name(context.temporary())
        emit_await(context, node.value, value.name)
    else:
        value = context.translate(node.value)
        if passes_final(context) and not isinstance(value, Const):
            # Python computes the value first, and then runs `finally`.
            held = context.temporary()
            context.set(node, held, value)
            value = Name(held)
    leave(context, None)
    if context.graph.live:
        context.graph.emit(ReturnNode, node, {}, value=value)


def _return_here(context: Context, node: ast.Return, inlined: Inlined) -> None:
    """The end of a function that is compiled where it is called.

    Its result is the caller's only when no `finally` is left that could fail.
    """
    target = inlined.target
    held = context.temporary() if target is not None and passes_final(context) else target
    if isinstance(node.value, ast.Await):
        emit_await(context, node.value, held)
    elif node.value is not None:
        context.set(node, held or context.temporary(), context.translate(node.value))
    elif held is not None:
        context.set(node, held, constant(None))
    leave(context, None)
    if context.graph.live and target is not None and held is not None and held != target:
        context.set(node, target, Name(held))
    context.graph.jump(inlined.end)


def _function(context: Context, node: ast.AsyncFunctionDef | ast.FunctionDef) -> None:
    functions.define(context, node)


def admits_none(context: Context) -> bool:
    """Whether the workflow's return type admits None, which is what a function without `return` gives."""
    return context.scope.book.table().codec(context.signature.output).mismatch(None) is None


def _pass(context: Context, node: ast.Pass) -> None:
    """Nothing, in Python as here."""


SUPPORTED_STATEMENTS: dict[type[ast.stmt], Callable[[Context, Any], None]] = {
    ast.Expr: _expression,
    ast.Assign: assignments.assign,
    ast.AnnAssign: assignments.annotated,
    ast.AugAssign: assignments.augmented,
    ast.If: _if,
    ast.While: _while,
    ast.For: _for,
    ast.Break: _break,
    ast.Continue: _continue,
    ast.Try: _try,
    ast.TryStar: _try,
    ast.Raise: tries.compile_raise,
    ast.Return: _return,
    ast.Pass: _pass,
    ast.AsyncFunctionDef: _function,
    ast.FunctionDef: _function,
    ast.AsyncWith: sagas.compile_with,
    ast.Match: matches.compile_match,
}
