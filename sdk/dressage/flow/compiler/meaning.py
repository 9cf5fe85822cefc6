"""Checks that need types: what Python would do in place, has no text, or is no field."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from dressage.expressions.builtins import BUILTINS
from dressage.expressions.checks import shown
from dressage.expressions.functions import NO_SETS
from dressage.expressions.spelling import text_of
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.inference import DATETIME, STR, TIMEDELTA, Types, is_immutable, opaque_kind
from dressage.flow.compiler.masks import check_declared, check_masks
from dressage.flow.compiler.walk import expressions_of
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import (
    Attribute,
    Call,
    Comprehension,
    Expr,
    ListOfExpr,
    Placeholder,
    Spread,
    TupleOfExpr,
)
from dressage.protocol.spec import (
    USER_TASK_TEXTS,
    USER_TASK_TIMES,
    AssignNode,
    ConditionNode,
    EventNode,
    Node,
    PublishNode,
    RaiseNode,
    SleepNode,
    SleepUntilNode,
    UserTaskNode,
)
from dressage.protocol.types import (
    ANY,
    DictOf,
    EnumType,
    ListOf,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeRef,
    UnionOf,
)

_CLASSES: dict[Any, type] = {
    "str": str,
    "bytes": bytes,
    "decimal": Decimal,
    "datetime": datetime,
    "date": date,
    ListOf: list,
    TupleOf: tuple,
    SetOf: set,
    DictOf: dict,
}
"""The classes that have methods, by the name of a scalar or the kind of a collection."""


def check_meaning(context: Context, nodes: Sequence[Node], types: Types) -> None:
    """Refuses what a run would understand in another way than Python, as far as the derived types show it."""
    for augmented in context.augmented:
        if not is_immutable(types.of(augmented.target), types.definitions):
            raise _in_place(context, augmented.node, types.of(augmented.target) in (None, ANY))
    for node, draft in zip(nodes, context.graph.drafts, strict=True):
        _check_node(context, node, draft.place, types)
        check_masks(context, node, draft.place, types)
        check_declared(context, node, draft.place, types)
        for expr in expressions_of(node):
            for each, known in types.within(expr):
                if isinstance(each, Attribute):
                    _check_attribute(context, each, draft.place, known)
                elif isinstance(each, Placeholder):
                    _check_text(context, each, draft.place, known)
                elif isinstance(each, Call) and each.function in ("str", "repr") and each.args:
                    _check_text(context, Placeholder(each.args[0]), draft.place, known)
                if isinstance(each, Call) and each.function.startswith("."):
                    _check_method(context, each, draft.place, known)
                for source in ordered_in(each):
                    check_order(context, source, draft.place, known)


def ordered_in(expr: Any) -> list[Expr]:
    """The parts of an expression whose items are taken in their order."""
    match expr:
        case Comprehension(kind="set", clauses=(_, *others)) | Comprehension(clauses=others):
            return [clause.iterable for clause in others]
        case ListOfExpr(items) | TupleOfExpr(items):
            return [item.value for item in items if isinstance(item, Spread)]
        case Call(function) if function in NO_SETS or function == "unpack":
            return list(expr.args[1:] if function == ".join" else expr.args)
        case _:
            return []


def check_order(context: Context, source: Expr, place: ast.AST, types: Types) -> None:
    """Refuses to go through a set: Python's order of it is another in each process."""
    if isinstance(types.of(source), SetOf):
        raise context.refusal(
            place, "a set has no order that a run could know", "write `sorted(...)` around the set"
        )


def _in_place(context: Context, node: ast.AugAssign, unknown: bool) -> DefinitionError:
    target, value = text_of(node.target), text_of(node.value)
    operator = text_of(node).removeprefix(target).split("=")[0].strip()
    what = f"the type of {target} is not known, and Python might change it in place"
    if not unknown:
        what = f"{operator}= would change {target} in place, for every name that shows it"
    return context.refusal(node, what, f"write `{target} = {target} {operator} {value}`")


def _is_duration(kind: TypeRef | None) -> bool:
    if isinstance(kind, UnionOf):
        return any(_is_duration(option) for option in kind.options)
    return kind in (None, ANY, TIMEDELTA, Scalar("int"), Scalar("float"))


def _is_text(kind: TypeRef | None) -> bool:
    if isinstance(kind, UnionOf):
        return any(map(_is_text, kind.options))
    return kind in (None, ANY, STR)


def _is_moment(kind: TypeRef | None) -> bool:
    if isinstance(kind, UnionOf):
        return any(_is_moment(option) for option in kind.options)
    return kind in (None, ANY, DATETIME)


def _check_node(context: Context, node: Node, place: ast.AST, types: Types) -> None:
    if isinstance(node, RaiseNode) and node.message is not None and types.of(node.message) != STR:
        raise context.refusal(
            place, "a failure's message must be a str", 'write it as an f-string: f"{reason}"'
        )
    if isinstance(node, SleepNode) and not _is_duration(types.of(node.duration)):
        raise context.refusal(place, "sleep() takes a timedelta or seconds", "write `timedelta(hours=1)`")
    if isinstance(node, PublishNode) and not (opaque_kind(kind := types.of(node.subject)) or _is_text(kind)):
        raise context.refusal(
            place,
            "publish() takes a subject of type str",
            'write it as an f-string: f"orders.{region}.shipped"',
        )
    if isinstance(node, EventNode) and node.key is not None and not _is_text(types.of(node.key)):
        raise context.refusal(
            place, "a correlation key is a str", 'write `wait(key=order.number)`, or an f-string: f"{number}"'
        )
    if isinstance(node, UserTaskNode):
        _check_user_task(context, node, place, types)
    if isinstance(node, SleepUntilNode) and not _is_moment(types.of(node.moment)):
        advice = "give it a datetime, or write `sleep(...)` with how long"
        raise context.refusal(place, "sleep_until() takes a datetime", advice)
    if isinstance(node, EventNode | ConditionNode) and node.timeout is not None:
        if not _is_duration(types.of(node.timeout)):
            advice = "write `timeout=timedelta(hours=1)`"
            raise context.refusal(place, "a timeout is a timedelta or seconds", advice)
    if isinstance(node, AssignNode) and node.attribute is not None:
        _check_field(context, node, place, types)


def _check_user_task(context: Context, node: UserTaskNode, place: ast.AST, types: Types) -> None:
    for name, expr in node.args.items():
        kind = types.of(expr)
        if kind is None or opaque_kind(kind):
            continue  # It is not known, or is refused for what it is.
        if name in USER_TASK_TEXTS and not _is_text(kind):
            raise context.refusal(
                place, f"{name} of a user task is a str, and not {shown(kind)}", f'write `{name}=f"..."`'
            )
        if name in USER_TASK_TIMES and not (_is_duration(kind) or (name == "due" and _is_moment(kind))):
            advice = f"write `{name}=timedelta(days=2)`" + (", or a datetime" if name == "due" else "")
            raise context.refusal(
                place, f"{name} of a user task is a duration, and not {shown(kind)}", advice
            )


def _check_field(context: Context, node: AssignNode, place: ast.AST, types: Types) -> None:
    kind = context.view(node.target)
    definition = types.definitions.get(kind.__name__) if kind else None
    if isinstance(definition, RecordType) and node.attribute not in [each.name for each in definition.fields]:
        known = ", ".join(each.name for each in definition.fields)
        raise context.refusal(
            place, f"{definition.name} has no field {node.attribute}", f"its fields are {known}"
        )


def _check_attribute(context: Context, expr: Attribute, place: ast.AST, types: Types) -> None:
    definition = types.definition(expr.value)
    if isinstance(definition, RecordType) and definition.form == "dict":
        raise context.refusal(
            _attribute_place(expr.name, place),
            f"{definition.name} is a dict: it has no field {expr.name}",
            f'write ["{expr.name}"]; of its methods, get() is part of the language',
        )
    if isinstance(definition, RecordType):
        known = [field.name for field in definition.fields]
    elif isinstance(definition, EnumType):
        known = ["name", "value"]
    elif types.of(expr.value) is None or types.of(expr.value) == ANY:
        return
    else:
        _check_scalar_attribute(context, expr, place, types)
        return
    if expr.name not in known:
        raise context.refusal(
            _attribute_place(expr.name, place),
            f"{definition.name} has no field {expr.name}",
            f"its fields are {', '.join(known)}; methods and properties are not part of the language",
        )


def _check_scalar_attribute(context: Context, expr: Attribute, place: ast.AST, types: Types) -> None:
    kind = types.of(expr.value)
    if isinstance(kind, Scalar) and types.of(expr) is None:
        raise context.refusal(
            _attribute_place(expr.name, place),
            f"attribute {expr.name} of a {kind.name} is not part of the language",
            "only fields of records can be read; let a task compute this",
        )


def _check_method(context: Context, call: Call, place: ast.AST, types: Types) -> None:
    """Refuses a method that Python has, but not the language: what the type lacks is an error in both."""
    kind, name = types.of(call.args[0]), call.function[1:]
    owner = _CLASSES.get(kind.name if isinstance(kind, Scalar) else type(kind))
    receivers = BUILTINS[call.function].receivers or {}
    if owner is not None and owner not in receivers and hasattr(owner, name):
        known = sorted(each[1:] for each, found in BUILTINS.items() if owner in (found.receivers or {}))
        raise context.refusal(
            _attribute_place(name, place),
            f"method {name}() of a {owner.__name__} is not part of the language",
            f"call it in a task (those of a {owner.__name__} are {', '.join(known)})",
        )


def _check_text(context: Context, piece: Placeholder, place: ast.AST, types: Types) -> None:
    definition = types.definition(piece.value)
    kind = types.of(piece.value)
    if isinstance(definition, RecordType) and definition.form != "dict":
        advice = "format its fields one by one"
    elif isinstance(definition, EnumType):
        advice = "format its .value or its .name"
    elif isinstance(kind, SetOf) or kind == Scalar("bytes"):
        advice = "format what it holds"
    else:
        return
    raise context.refusal(place, "this has no text of its own in a run", advice)


def _attribute_place(name: str, place: ast.AST) -> ast.AST:
    for each in ast.walk(place):
        if isinstance(each, ast.Attribute) and each.attr == name:
            return each
    return place
