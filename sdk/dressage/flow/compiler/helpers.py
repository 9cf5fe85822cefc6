"""Functions without `async`: one `return` each, computed inside the expression that calls them.

A call of `def area(width, height): return width * height` becomes a comprehension over one item, the first of whose
results is taken: `[area.width * area.height for area.width, area.height in [(2, 3)]][0]`. So each argument is computed
once, in Python's order, and has a name that no variable of the run has.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.evaluate import compile_expression
from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler import calls
from dressage.flow.compiler.walk import subexpressions
from dressage.flow.inheriting import INHERITED
from dressage.flow.members import Unsupported
from dressage.flow.source import Function, Source, source_of
from dressage.protocol.expressions import (
    Clause,
    Comprehension,
    Const,
    Expr,
    Index,
    ListOfExpr,
    Target,
    TupleOfExpr,
    variables_in,
)
from dressage.protocol.spec_sizes import EXPRESSION_PARTS_MAX
from dressage.protocol.types import ANY, Field

if TYPE_CHECKING:
    from dressage.flow.compiler.scope import FlowScope


@dataclass(frozen=True)
class Written:
    """A function as its file has it."""

    name: str
    node: Function
    source: Source
    function: Callable[..., Any]


@dataclass(frozen=True)
class Helper(Written):
    """A function that an expression may call; a nested one has the scope that it is nested in."""

    outer: FlowScope | None


def helper_of(node: ast.expr, scope: FlowScope) -> Helper | None:
    """The function that is called by this name, if it is one without `async`, nested or of a module."""
    if isinstance(node, ast.Name) and (nested := scope.helper(node.id)):
        return nested
    found = scope.names.object(node)
    if not inspect.isfunction(found) or inspect.iscoroutinefunction(found):
        return None
    if found.__module__.partition(".")[0] in {*sys.stdlib_module_names, "dressage"}:
        return None
    if found.__name__ == "<lambda>":
        name = text_of(node)
        raise scope.refusal(node, f"{name} is a lambda", f"define it by name: `def {name}(...): return ...`")
    source = source_of(found)
    if not isinstance(source.node, ast.FunctionDef):
        return None
    if is_decorated(found, source.node):
        raise scope.refusal(
            node, f"{text_of(node)}() has a decorator, which no run would call", "call it without one"
        )
    helper = Helper(found.__name__, source.node, source, found, None)
    check_helper(helper, node, scope)
    return helper


def is_decorated(function: Callable[..., Any], node: Function) -> bool:
    """Whether a call of a function runs other code than its own, as far as its source and `functools.wraps` show it."""
    return bool(node.decorator_list) or hasattr(function, "__wrapped__")


def check_helper(helper: Helper, place: ast.AST, scope: FlowScope) -> None:
    """Refuses a function that does more than to return one expression."""
    if _returned(helper) is None:
        raise scope.refusal(
            place,
            f"{helper.name}() is not async, and more than one `return` of a value",
            "write it as one expression, or as `async def` and await it; what talks to others is a task",
        )


def _returned(helper: Helper) -> ast.expr | None:
    statements = helper.node.body
    if ast.get_docstring(helper.node, clean=False) is not None:
        statements = statements[1:]
    return statements[0].value if len(statements) == 1 and isinstance(statements[0], ast.Return) else None


def called(node: ast.Call, helper: Helper, scope: FlowScope) -> Expr:
    """The expression for a call. Raises `DefinitionError`, with the file of the function for what is wrong in it."""
    if helper.node in scope.helping:
        raise scope.refusal(node, f"{helper.name}() calls itself: how often is not known", "write a loop")
    result = _returned(helper)
    assert result is not None
    inner = scope.of_helper(helper)
    given = arguments(node, helper, scope, inner)
    value = inner.translate(result)
    _check_hidden(node, helper, scope, value)
    if sum(1 for _ in subexpressions(value)) > EXPRESSION_PARTS_MAX:
        raise scope.refusal(
            node,
            f"{helper.name}() has more than {EXPRESSION_PARTS_MAX} parts with all that it calls (limit spec-size)",
            "compute some of it in a task",
        )
    if not given:
        return value
    targets = tuple(Target(inner.variable_name(name)) for name in given)
    target, item = Target(items=targets), TupleOfExpr(tuple(given.values()))
    clause = Clause(target, ListOfExpr((item,)))
    return Index(Comprehension("list", value, (clause,)), constant(0))


def _check_hidden(node: ast.Call, helper: Helper, scope: FlowScope, value: Expr) -> None:
    """Refuses a call inside of a comprehension that hides a variable which the function means."""
    for name in sorted(variables_in(value) & scope.comprehended):
        raise scope.refusal(
            node,
            f"{helper.name}() reads {name}, which is another variable in this comprehension",
            "give the comprehension's variable another name",
        )


def arguments(
    call: ast.Call,
    callee: Written,
    scope: FlowScope,
    inner: FlowScope,
) -> dict[str, Expr]:
    """The arguments of a call by name, in the order of their evaluation, defaults last; `inner` is the callee's."""
    params = callee.node.args
    if params.vararg or params.kwarg:
        what = "a function with * parameters cannot be called by a workflow"
        raise callee.source.refusal(callee.node, what, "name every parameter")
    places = [each.arg for each in [*params.posonlyargs, *params.args]]
    defaults: dict[str, ast.expr] = dict(
        zip(places[len(places) - len(params.defaults) :], params.defaults, strict=True)
    )
    for each, its_default in zip(params.kwonlyargs, params.kw_defaults, strict=True):
        if its_default is not None:
            defaults[each.arg] = its_default
    names = [*places, *(each.arg for each in params.kwonlyargs)]
    _check_by_place(call, callee.name, [each.arg for each in params.posonlyargs], scope)
    fields = [Field(name, ANY, required=name not in defaults) for name in names]
    given = calls.bound(call, callee.name, fields, places, scope)
    for name in names:
        if name not in given:
            given[name] = _default(callee, name, defaults[name], inner)
    return given


def _check_by_place(call: ast.Call, name: str, places: list[str], scope: FlowScope) -> None:
    for keyword in call.keywords:
        if keyword.arg in places:
            raise scope.refusal(keyword, f"{name}() takes {keyword.arg} by place", "leave its name out")


def _default(callee: Written, name: str, node: ast.expr, inner: FlowScope) -> Const:
    """The value of a default, which Python computes when it defines the function."""
    if inner.outer is None and inspect.signature(callee.function).parameters[name].default is INHERITED:
        raise callee.source.refusal(node, "only a workflow inherits", "give it at each call, or a default")
    try:
        if inner.outer is None:
            return Const(
                msgspec.Raw(inner.book.frozen(inspect.signature(callee.function).parameters[name].default))
            )
        value = inner.translate(node)
        if not variables_in(value):
            return constant(compile_expression(value, inner.book.table())({}))
    except Unsupported as error:
        raise callee.source.refusal(node, error.what, error.advice) from error
    except (ExpressionFailed, LimitExceeded) as error:
        raise callee.source.refusal(node, error.message, "write a constant, or pass the value") from error
    what = "a default is computed once, when Python defines the function"
    raise callee.source.refusal(node, what, "write a constant, or pass the value")
