"""The expression tree of a spec: what a workflow computes between its tasks, as data.

Meaning is Python's for the same operator on the same types (see `dressage.expressions.evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
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


class Slice(
    msgspec.Struct, tag="slice", tag_field="op", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """`value[start:stop:step]` of a str, bytes, list or tuple."""

    value: Expr
    start: Expr | None = None
    stop: Expr | None = None
    step: Expr | None = None


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
    """One `{value!conversion:spec}` of an f-string; a spec that is computed is a `Format` of its own."""

    value: Expr
    conversion: Literal["s", "r"] | None = None
    spec: str | Format = ""


class Format(msgspec.Struct, tag="format", tag_field="op", frozen=True, forbid_unknown_fields=True):
    parts: tuple[str | Placeholder, ...]


class Spread(msgspec.Struct, tag="spread", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """`*value` among the items of a list, tuple or set."""

    value: Expr


class ListOfExpr(msgspec.Struct, tag="list", tag_field="op", frozen=True, forbid_unknown_fields=True):
    items: tuple[Expr | Spread, ...]


class TupleOfExpr(msgspec.Struct, tag="tuple", tag_field="op", frozen=True, forbid_unknown_fields=True):
    items: tuple[Expr | Spread, ...]


class SetOfExpr(msgspec.Struct, tag="set", tag_field="op", frozen=True, forbid_unknown_fields=True):
    items: tuple[Expr | Spread, ...]


class DictOfExpr(msgspec.Struct, tag="dict", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A key that is None stands for `**value`."""

    keys: tuple[Expr | None, ...]
    values: tuple[Expr, ...]


class Target(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a comprehension gives each item to: a variable of its own, or several of them, one of which may be
    starred."""

    name: str = ""
    items: tuple[Target, ...] = ()
    star: bool = False


class Clause(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`for target in iterable if condition if ...`."""

    target: Target
    iterable: Expr
    conditions: tuple[Expr, ...] = ()


class Comprehension(
    msgspec.Struct,
    tag="comprehension",
    tag_field="op",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """A comprehension of any kind. Its variables hide those of the run, and are gone behind it.

    `key` is that of a dict. A generator is no value: it stands only where it is consumed at once.
    """

    kind: Literal["list", "set", "dict", "generator"]
    element: Expr
    clauses: tuple[Clause, ...]
    key: Expr | None = None


class Lambda(msgspec.Struct, tag="lambda", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """A function of one parameter, as the `key=` of a builtin."""

    param: str
    body: Expr


class Bind(msgspec.Struct, tag="bind", tag_field="op", frozen=True, forbid_unknown_fields=True):
    """`(name := value)`: sets a variable of the run while the expression is evaluated."""

    name: str
    value: Expr


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
    keywords: dict[str, Expr | Lambda] = {}


Expr = (
    Const
    | Name
    | Attribute
    | Index
    | Slice
    | Binary
    | Unary
    | Compare
    | Logical
    | Conditional
    | Format
    | ListOfExpr
    | TupleOfExpr
    | SetOfExpr
    | DictOfExpr
    | Comprehension
    | Bind
    | Make
    | Call
)


def parts_of(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside an expression, in the order of their evaluation."""
    match expr:
        case Const() | Name():
            return ()
        case Attribute(value=value) | Unary(value=value) | Bind(value=value):
            return (value,)
        case Index():
            return (expr.value, expr.index)
        case Slice():
            return (expr.value, *_given(expr.start, expr.stop, expr.step))
        case Binary():
            return (expr.left, expr.right)
        case Compare():
            return (expr.left, *(link.right for link in expr.chain))
        case Logical():
            return expr.values
        case Conditional():
            return (expr.test, expr.then, expr.otherwise)
        case Format():
            return tuple(part for piece in expr.parts for part in _parts_of_piece(piece))
        case ListOfExpr() | TupleOfExpr() | SetOfExpr():
            return tuple(item.value if isinstance(item, Spread) else item for item in expr.items)
        case DictOfExpr():
            # A spec from elsewhere may have more of the one than of the other; each of them counts.
            pairs = zip_longest(expr.keys, expr.values)
            return tuple(part for pair in pairs for part in _given(*pair))
        case Comprehension():
            clauses = (part for each in expr.clauses for part in (each.iterable, *each.conditions))
            return (*clauses, *_given(expr.key), expr.element)
        case Make():
            return tuple(expr.fields.values())
        case Call():
            keywords = (each.body if isinstance(each, Lambda) else each for each in expr.keywords.values())
            return (*expr.args, *keywords)


def expressions_in(expr: Expr) -> Iterator[Expr]:
    """An expression and all expressions inside it, each in front of those that it consists of, in their order."""
    waiting = [expr]
    while waiting:
        each = waiting.pop()
        yield each
        waiting.extend(reversed(parts_of(each)))


def variables_in(expr: Expr) -> set[str]:
    """The variables of the run that an expression may read."""
    return set(_names(expr, frozenset()))


def _names(expr: Expr, own: frozenset[str]) -> Iterator[str]:
    """The names outside of `own`, which are variables of comprehensions and lambdas around this place."""
    if isinstance(expr, Name):
        if expr.name not in own:
            yield expr.name
        return
    if isinstance(expr, Comprehension):
        first, *others = parts_of(expr)
        yield from _names(first, own)
        own |= locals_of(expr)
    else:
        others = list(parts_of(expr))
    if isinstance(expr, Call) and (key := expr.keywords.get("key")) and isinstance(key, Lambda):
        yield from _names(key.body, own | {key.param})
        others.remove(key.body)
    for part in others:
        yield from _names(part, own)


def _given(*parts: Expr | None) -> tuple[Expr, ...]:
    return tuple(part for part in parts if part is not None)


def _parts_of_piece(piece: str | Placeholder) -> tuple[Expr, ...]:
    if isinstance(piece, str):
        return ()
    return (piece.value,) if isinstance(piece.spec, str) else (piece.value, piece.spec)


def targets_in(target: Target) -> tuple[Target, ...]:
    """A comprehension's target with all that is inside it."""
    found = [target]
    for each in found:
        found.extend(each.items)
    return tuple(found)


def locals_of(expr: Comprehension) -> frozenset[str]:
    """The variables of a comprehension's own."""
    return frozenset(each.name for clause in expr.clauses for each in targets_in(clause.target) if each.name)
