"""What a workflow calls: tasks with their options, constructors of records and of failures."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from dressage.flow.compiler.names import MISSING
from dressage.flow.failures import WorkflowFailure
from dressage.flow.members import Unsupported
from dressage.flow.retries import Exponential
from dressage.flow.tasks import Task
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Const, DictOfExpr, Expr, Make
from dressage.protocol.types import Field

if TYPE_CHECKING:
    from dressage.flow.compiler.scope import FlowScope

_ADVICE = {
    "datetime.now": "let a task return the time: a run has no clock of its own",
    "datetime.utcnow": "let a task return the time: a run has no clock of its own",
    "date.today": "let a task return the date: a run has no clock of its own",
    "uuid4": "let a task return a new id, or take it as a parameter",
    "isinstance": "compare a field that tells the kinds apart",
    "datetime.fromtimestamp": "let a task return the datetime, or add a timedelta to a constant",
    "datetime.combine": "write `datetime(day.year, day.month, day.day, hour)`",
    "frozenset": "use a set: no value is ever changed",
    "map": "write a comprehension",
    "filter": "write a comprehension with `if`",
    "format": 'use an f-string: f"{value:>10}"',
    "print": "put what should be seen into the view, or let a task log it",
}


# -- records ---------------------------------------------------------------------------------------
def record(node: ast.Call, scope: FlowScope) -> Expr:
    """The expression for a call of what is no builtin: a dataclass. Refuses everything else with its advice."""
    kind = scope.names.object(node.func)
    name = ast.unparse(node.func)
    if isinstance(kind, Task):
        raise scope.refusal(node, f"task {name} is called inside an expression", _task_advice(name))
    if isinstance(kind, type) and issubclass(kind, WorkflowFailure):
        raise scope.refusal(node, f"failure {name} is no value", f"raise it: `raise {name}(...)`")
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct)):
        advice = next((text for end, text in _ADVICE.items() if name.endswith(end)), None)
        raise scope.refusal(
            node,
            f"{name}() cannot be called in a workflow",
            advice or "make it a task, or write the expression itself",
        )
    _check_constructor(node, kind, scope)
    try:
        scope.book.ref(kind)
    except Unsupported as error:
        raise scope.refusal(node, error.what, error.advice) from error
    fields = scope.book.table().record(kind.__name__).fields.values()
    places = _places(kind)
    return Make(kind.__name__, bound(node, name, list(fields), places, scope))


def _task_advice(name: str) -> str:
    return f"await it in a statement of its own: `result = await {name}(...)`"


def _check_constructor(node: ast.Call, kind: type, scope: FlowScope) -> None:
    """Refuses a class whose construction runs code of its own, which no run would execute."""
    for method in ("__post_init__", "__init__", "__new__"):
        found = inspect.getattr_static(kind, method, None)
        own = inspect.isfunction(found) and found.__code__.co_filename != "<string>"
        if own:
            raise scope.refusal(
                node,
                f"{kind.__name__} has its own {method}(), which no run would call",
                "let a task build it, or use a dataclass without it",
            )


def _places(kind: type) -> list[str]:
    """The fields that may be given by place."""
    return [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]


def bound(
    node: ast.Call, name: str, fields: Sequence[Field], places: Sequence[str], scope: FlowScope
) -> dict[str, Expr]:
    """The arguments of a call by name, in the order in which they are written and so evaluated."""
    names = [field.name for field in fields]
    given: dict[str, Expr] = {}
    for place, argument in enumerate(node.args):
        if isinstance(argument, ast.Starred):
            raise scope.refusal(
                argument, "* in a call hides what is passed", "write the arguments one by one"
            )
        if place >= len(places):
            raise scope.refusal(
                argument, f"{name}() takes {len(places)} arguments by place", _takes(name, names)
            )
        given[places[place]] = scope.translate(argument)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise scope.refusal(
                keyword.value, "** in a call hides what is passed", "write the arguments by name"
            )
        if keyword.arg not in names:
            raise scope.refusal(keyword, f"{name}() has no parameter {keyword.arg}", _takes(name, names))
        if keyword.arg in given:
            raise scope.refusal(keyword, f"{name}() gets {keyword.arg} twice", "give it once")
        given[keyword.arg] = scope.translate(keyword.value)
    missing = [field.name for field in fields if field.required and field.name not in given]
    if missing:
        raise scope.refusal(node, f"{name}() misses {', '.join(missing)}", _takes(name, names))
    return given


def _takes(name: str, names: Sequence[str]) -> str:
    return f"it is {name}({', '.join(names)})"


# -- tasks -----------------------------------------------------------------------------------------
def task_of(node: ast.Call, scope: FlowScope) -> Task[..., Any] | None:
    """The task that is called, with the options written at the call; None if it is no task."""
    function = node.func
    if isinstance(function, ast.Call) and isinstance(function.func, ast.Attribute):
        owner = scope.names.object(function.func.value)
        if isinstance(owner, Task) and function.func.attr == "options":
            return _with_options(owner, function, scope)
    found = scope.names.object(function)
    return found if isinstance(found, Task) else None


def _with_options(task: Task[..., Any], node: ast.Call, scope: FlowScope) -> Task[..., Any]:
    if node.args:
        raise scope.refusal(node.args[0], "options are given by name", "write `.options(retries=3)`")
    options: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg not in ("retries", "backoff"):
            raise scope.refusal(
                keyword, f"there is no option {keyword.arg}", "the options are retries and backoff"
            )
        options[keyword.arg] = _fixed(keyword.value, scope)
    try:
        return task.options(**options)
    except (DefinitionError, TypeError, AttributeError) as error:
        raise scope.refusal(node, f"these options are not valid: {error}", "see Task.options") from error


def _fixed(node: ast.expr, scope: FlowScope) -> Any:
    """The value of an option, which must be known when the workflow is defined."""
    if isinstance(node, ast.Constant):
        return node.value
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
    ):
        return -node.operand.value if isinstance(node.operand.value, int | float) else None
    found = scope.names.object(node)
    if found is not MISSING:
        return found
    if isinstance(node, ast.Call):
        kind = scope.names.object(node.func)
        if kind is Exponential or kind is timedelta:
            args = [_fixed(each, scope) for each in node.args]
            keywords = {each.arg: _fixed(each.value, scope) for each in node.keywords if each.arg}
            try:
                return kind(*args, **keywords)
            except (DefinitionError, TypeError, OverflowError) as error:
                raise scope.refusal(
                    node, f"this option is not valid: {error}", "see its documentation"
                ) from error
    raise scope.refusal(
        node, "an option must be known when the workflow is defined", "use a literal or a module constant"
    )


def task_args(node: ast.Call, task: Task[..., Any], scope: FlowScope) -> dict[str, Expr]:
    """The arguments of a task's call by name. Refuses what does not fit its parameters."""
    parameters = inspect.signature(task.function).parameters
    places = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    name = getattr(task, "__name__", task.name)
    return bound(node, name, task.definition.params, places, scope)


# -- failures --------------------------------------------------------------------------------------
def failure_class(node: ast.expr, scope: FlowScope) -> type[WorkflowFailure]:
    """The failure that a name stands for. Refuses every other exception."""
    found = scope.names.object(node)
    if isinstance(found, type) and issubclass(found, WorkflowFailure):
        return found
    name = ast.unparse(node)
    if isinstance(found, type) and issubclass(found, BaseException):
        advice = (
            "technical errors are retried and then end the run; catch WorkflowFailure or a subclass of it"
        )
        if found in (Exception, BaseException):
            advice = "write `except WorkflowFailure` for every business failure"
        raise scope.refusal(node, f"{name} is no WorkflowFailure", advice)
    raise scope.refusal(node, f"{name} is no failure class", "name a subclass of WorkflowFailure")


def failure_fields(
    node: ast.Call, kind: type[WorkflowFailure], scope: FlowScope
) -> tuple[Expr | None, Expr | None]:
    """Message and details of `Failure(message, **details)`."""
    if kind.__init__ is not WorkflowFailure.__init__:
        raise scope.refusal(
            node,
            f"{kind.__name__} has its own __init__(), which no run would call",
            "let it take (message, **details) as WorkflowFailure does",
        )
    if len(node.args) > 1 or any(isinstance(each, ast.Starred) for each in node.args):
        raise scope.refusal(node.args[-1], "a failure takes one message", "give details by name")
    message = scope.translate(node.args[0]) if node.args else None
    details: dict[str, Expr] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise scope.refusal(
                keyword.value, "** in a call hides what is passed", "write the details by name"
            )
        if keyword.arg == "message":
            if message is not None:
                raise scope.refusal(keyword, "a failure takes one message", "give it once")
            message = scope.translate(keyword.value)
        else:
            details[keyword.arg] = scope.translate(keyword.value)
    if not details:
        return message, None
    keys = tuple(Const(msgspec.Raw(msgspec.json.encode(name))) for name in details)
    return message, DictOfExpr(keys, tuple(details.values()))
