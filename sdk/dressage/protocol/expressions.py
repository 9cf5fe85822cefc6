"""The expression tree of a spec: what a workflow computes between its tasks, as data.

Meaning is Python's for the same operator on the same types (see `dressage.expressions.evaluate`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

BinaryOperator = Literal["+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^"]
UnaryOperator = Literal["-", "+", "~", "not"]
CompareOperator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is", "is not"]


class Const(msgspec.Struct, tag="const", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A value in its stored form (see `dressage.expressions.values`)."""

    value: msgspec.Raw


class Name(msgspec.Struct, tag="name", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A variable of the run."""

    name: str


class Attribute(msgspec.Struct, tag="attribute", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A field of a record, `name` and `value` of an enum member, or `name`, `message` and `details` of a caught
    failure."""

    value: Expr
    name: str


class Index(msgspec.Struct, tag="index", tag_field="op", frozen=True, forbid_unknown_fields=True):
    value: Expr
    index: Expr


class Binary(msgspec.Struct, tag="binary", tag_field="op", frozen=True, forbid_unknown_fields=True):
    operator: BinaryOperator
    left: Expr
    right: Expr


class Unary(msgspec.Struct, tag="unary", tag_field="op", frozen=True, forbid_unknown_fields=True):
    operator: UnaryOperator
    value: Expr


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operator: CompareOperator
    right: Expr


class Compare(msgspec.Struct, tag="compare", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A chain, as in `a < b <= c`: each operand is evaluated once, and evaluation stops at the first false."""

    left: Expr
    chain: tuple[Comparison, ...]


class Logical(msgspec.Struct, tag="logical", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """`and` or `or` with Python's short circuit; the result is an operand, not a bool."""

    operator: Literal["and", "or"]
    values: tuple[Expr, ...]


class Conditional(msgspec.Struct, tag="conditional", tag_field="op", frozen=True, forbid_unknown_fields=True):
    test: Expr
    then: Expr
    otherwise: Expr


class Placeholder(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One `{value!conversion:spec}` of an f-string."""

    value: Expr
    conversion: Literal["s", "r"] | None = None
    spec: str = ""


class Format(msgspec.Struct, tag="format", tag_field="op", frozen=True, forbid_unknown_fields=True):
    parts: tuple[str | Placeholder, ...]


class ListOfExpr(msgspec.Struct, tag="list", tag_field="op", frozen=True, forbid_unknown_fields=True):
    items: tuple[Expr, ...]


class TupleOfExpr(msgspec.Struct, tag="tuple", tag_field="op", frozen=True, forbid_unknown_fields=True):
    items: tuple[Expr, ...]


class DictOfExpr(msgspec.Struct, tag="dict", tag_field="op", frozen=True, forbid_unknown_fields=True):
    keys: tuple[Expr, ...]
    values: tuple[Expr, ...]


class Make(msgspec.Struct, tag="make", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """Builds a record of the named type; fields that are not given take their defaults."""

    type: str
    fields: dict[str, Expr]


class Call(msgspec.Struct, tag="call", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A pure builtin by name (the list is in `dressage.expressions.builtins`).

    A name that begins with a dot is a method, as in `.lower`; its receiver is the first of `args`.
    """

    function: str
    args: tuple[Expr, ...] = ()
    keywords: dict[str, Expr] = {}


Expr = (
    Const
    | Name
    | Attribute
    | Index
    | Binary
    | Unary
    | Compare
    | Logical
    | Conditional
    | Format
    | ListOfExpr
    | TupleOfExpr
    | DictOfExpr
    | Make
    | Call
)


def parts_of(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside an expression, in the order of their evaluation."""
    match expr:
        case Const() | Name():
            return ()
        case Attribute(value=value) | Unary(value=value):
            return (value,)
        case Index():
            return (expr.value, expr.index)
        case Binary():
            return (expr.left, expr.right)
        case Compare():
            return (expr.left, *(link.right for link in expr.chain))
        case Logical():
            return expr.values
        case Conditional():
            return (expr.test, expr.then, expr.otherwise)
        case Format():
            return tuple(part.value for part in expr.parts if isinstance(part, Placeholder))
        case ListOfExpr() | TupleOfExpr():
            return expr.items
        case DictOfExpr():
            return (*expr.keys, *expr.values)
        case Make():
            return tuple(expr.fields.values())
        case Call():
            return (*expr.args, *expr.keywords.values())
