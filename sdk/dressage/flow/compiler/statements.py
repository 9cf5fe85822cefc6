"""One function for each kind of statement, and a table of them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from dressage.flow.compiler import assignments, tries
from dressage.flow.compiler.awaits import emit_await
from dressage.flow.compiler.context import Context, Loop
from dressage.flow.compiler.graph import Label
from dressage.flow.compiler.language import LANGUAGE
from dressage.protocol.expressions import Name
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
    if node.orelse:
        raise context.refusal(
            node.orelse[0],
            "`else` of a loop is not supported yet",
            "set a variable before `break` and test it after",
        )
    graph, loop = context.graph, Loop(again=Label(), out=Label())
    graph.mark(loop.again)
    if not (isinstance(node.test, ast.Constant) and node.test.value):
        body = Label()
        graph.emit(
            BranchNode, node.test, {"then": body, "otherwise": loop.out}, test=context.translate(node.test)
        )
        graph.mark(body)
    context.loops.append(loop)
    block(context, node.body)
    context.loops.pop()
    graph.jump(loop.again)
    if loop.again.is_circular():
        raise context.refusal(node, "this loop does nothing, for ever", "sleep in the loop, or remove it")
    graph.mark(loop.out)


def _break(context: Context, node: ast.Break) -> None:
    context.graph.jump(context.loops[-1].out)


def _continue(context: Context, node: ast.Continue) -> None:
    context.graph.jump(context.loops[-1].again)


def _try(context: Context, node: ast.Try) -> None:
    tries.compile_try(context, node, block)


def _return(context: Context, node: ast.Return) -> None:
    if node.value is None:
        if context.signature.output != NONE and not admits_none(context):
            raise context.refusal(node, "this returns nothing", "return a value of the declared type")
        context.graph.emit(ReturnNode, node, {})
    elif isinstance(node.value, ast.Await):
        result = context.temporary()
        emit_await(context, node.value, result)
        context.graph.emit(ReturnNode, node, {}, value=Name(result))
    else:
        context.graph.emit(ReturnNode, node, {}, value=context.translate(node.value))


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
    ast.Break: _break,
    ast.Continue: _continue,
    ast.Try: _try,
    ast.Raise: tries.compile_raise,
    ast.Return: _return,
    ast.Pass: _pass,
}
