"""The expression tree of a spec: what a workflow computes between its tasks, as data.

Meaning is Python's for the same operator on the same types (see `dressage.expressions.evaluate`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

BinaryOperator = Literal["+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^"]
UnaryOperator = Literal["-", "+", "~", "not"]
CompareOperator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is", "is not"]


class Const(msgspec.Struct, tag="const", tag_field="op", frozen=True):
    """A value in its stored form (see `dressage.expressions.values`)."""

    value: msgspec.Raw


class Name(msgspec.Struct, tag="name", tag_field="op", frozen=True):
    """A variable of the run."""

    name: str


class Attribute(msgspec.Struct, tag="attribute", tag_field="op", frozen=True):
    """A field of a record, `name` and `value` of an enum member, or `name`, `message` and `details` of a caught
    failure."""

    value: Expr
    name: str


class Index(msgspec.Struct, tag="index", tag_field="op", frozen=True):
    value: Expr
    index: Expr


class Binary(msgspec.Struct, tag="binary", tag_field="op", frozen=True):
    operator: BinaryOperator
    left: Expr
    right: Expr


class Unary(msgspec.Struct, tag="unary", tag_field="op", frozen=True):
    operator: UnaryOperator
    value: Expr


class Comparison(msgspec.Struct, frozen=True):
    operator: CompareOperator
    right: Expr


class Compare(msgspec.Struct, tag="compare", tag_field="op", frozen=True):
    """A chain, as in `a < b <= c`: each operand is evaluated once, and evaluation stops at the first false."""

    left: Expr
    chain: tuple[Comparison, ...]


class Logical(msgspec.Struct, tag="logical", tag_field="op", frozen=True):
    """`and` or `or` with Python's short circuit; the result is an operand, not a bool."""

    operator: Literal["and", "or"]
    values: tuple[Expr, ...]


class Conditional(msgspec.Struct, tag="conditional", tag_field="op", frozen=True):
    test: Expr
    then: Expr
    otherwise: Expr


class Placeholder(msgspec.Struct, frozen=True, omit_defaults=True):
    """One `{value!conversion:spec}` of an f-string."""

    value: Expr
    conversion: Literal["s", "r"] | None = None
    spec: str = ""


class Format(msgspec.Struct, tag="format", tag_field="op", frozen=True):
    parts: tuple[str | Placeholder, ...]


class ListOfExpr(msgspec.Struct, tag="list", tag_field="op", frozen=True):
    items: tuple[Expr, ...]


class TupleOfExpr(msgspec.Struct, tag="tuple", tag_field="op", frozen=True):
    items: tuple[Expr, ...]


class DictOfExpr(msgspec.Struct, tag="dict", tag_field="op", frozen=True):
    keys: tuple[Expr, ...]
    values: tuple[Expr, ...]


class Make(msgspec.Struct, tag="make", tag_field="op", frozen=True):
    """Builds a record of the named type; fields that are not given take their defaults."""

    type: str
    fields: dict[str, Expr]


class Call(msgspec.Struct, tag="call", tag_field="op", frozen=True):
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
