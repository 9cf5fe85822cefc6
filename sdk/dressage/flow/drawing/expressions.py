"""Expressions as Python text: one function for each kind, which gives back the syntax that it was written as."""

from __future__ import annotations

import ast
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import msgspec

from dressage.expressions.masked import HIDDEN
from dressage.expressions.time_methods import UTC_NAME
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    Bind,
    Call,
    Clause,
    Compare,
    Comprehension,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    Format,
    Index,
    Lambda,
    ListOfExpr,
    Logical,
    Make,
    Name,
    Placeholder,
    SetOfExpr,
    Slice,
    Spread,
    Target,
    TupleOfExpr,
    Unary,
)

_BINARY: Final[dict[str, type[ast.operator]]] = {
    "+": ast.Add,
    "-": ast.Sub,
    "*": ast.Mult,
    "/": ast.Div,
    "//": ast.FloorDiv,
    "%": ast.Mod,
    "**": ast.Pow,
    "<<": ast.LShift,
    ">>": ast.RShift,
    "&": ast.BitAnd,
    "|": ast.BitOr,
    "^": ast.BitXor,
}
_UNARY: Final[dict[str, type[ast.unaryop]]] = {"-": ast.USub, "+": ast.UAdd, "~": ast.Invert, "not": ast.Not}
_COMPARE: Final[dict[str, type[ast.cmpop]]] = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    "<": ast.Lt,
    "<=": ast.LtE,
    ">": ast.Gt,
    ">=": ast.GtE,
    "in": ast.In,
    "not in": ast.NotIn,
    "is": ast.Is,
    "is not": ast.IsNot,
}
_CONVERSIONS: Final = {None: -1, "s": ord("s"), "r": ord("r")}


def expression_text(expr: Expr) -> str:
    """The expression as Python writes it; a constant of the source stands there with its value."""
    return ast.unparse(syntax_of(expr))


def syntax_of(expr: Expr) -> ast.expr:
    return EXPRESSIONS[type(expr)](expr)


def _syntaxes(parts: tuple[Expr, ...]) -> list[ast.expr]:
    return [syntax_of(part) for part in parts]


def _given(part: Expr | None) -> ast.expr | None:
    return None if part is None else syntax_of(part)


def _items(items: tuple[Expr | Spread, ...]) -> list[ast.expr]:
    return [
        ast.Starred(syntax_of(item.value), ast.Load()) if isinstance(item, Spread) else syntax_of(item)
        for item in items
    ]


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _call(
    function: ast.expr | str, args: list[ast.expr], keywords: dict[str, ast.expr] | None = None
) -> ast.Call:
    named = [ast.keyword(name, value) for name, value in (keywords or {}).items()]
    return ast.Call(_name(function) if isinstance(function, str) else function, args, named)


def _compare(expr: Compare) -> ast.expr:
    operators = [_COMPARE[link.operator]() for link in expr.chain]
    return ast.Compare(syntax_of(expr.left), operators, [syntax_of(link.right) for link in expr.chain])


def _format(expr: Format) -> ast.expr:
    text = ast.JoinedStr([_piece(part) for part in expr.parts])
    try:
        ast.unparse(text)
    except ValueError:
        # Before Python 3.12 an f-string cannot hold every text; then the same is said in another way.
        pieces = [ast.Constant(p) if isinstance(p, str) else _formatted(p) for p in expr.parts]
        return _call(ast.Attribute(ast.Constant(""), "join", ast.Load()), [ast.List(pieces, ast.Load())])
    return text


def _piece(part: str | Placeholder) -> ast.expr:
    if isinstance(part, str):
        return ast.Constant(part)
    spec: ast.expr | None = None
    if isinstance(part.spec, Format):
        spec = ast.JoinedStr([_piece(piece) for piece in part.spec.parts])
    elif part.spec:
        spec = ast.JoinedStr([ast.Constant(part.spec)])
    return ast.FormattedValue(syntax_of(part.value), _CONVERSIONS[part.conversion], spec)


def _formatted(part: Placeholder) -> ast.expr:
    value = syntax_of(part.value)
    if part.conversion is not None:
        value = _call({"s": "str", "r": "repr"}[part.conversion], [value])
    spec = _format(part.spec) if isinstance(part.spec, Format) else ast.Constant(part.spec)
    return _call("format", [value, spec])


def _comprehension(expr: Comprehension) -> ast.expr:
    clauses = [_clause(each) for each in expr.clauses]
    element = syntax_of(expr.element)
    if expr.kind == "dict":
        # One that no compiler wrote may lack its key.
        return ast.DictComp(ast.Constant(...) if expr.key is None else syntax_of(expr.key), element, clauses)
    return _COMPREHENSIONS[expr.kind](element, clauses)


def _clause(clause: Clause) -> ast.comprehension:
    return ast.comprehension(
        _target(clause.target), syntax_of(clause.iterable), _syntaxes(clause.conditions), 0
    )


def _target(target: Target) -> ast.expr:
    inner: ast.expr = ast.Name(target.name, ast.Store())
    if target.items:
        inner = ast.Tuple([_target(each) for each in target.items], ast.Store())
    return ast.Starred(inner, ast.Store()) if target.star else inner


def _argument(value: Expr | Lambda) -> ast.expr:
    if not isinstance(value, Lambda):
        return syntax_of(value)
    takes = ast.arguments([], [ast.arg(value.param)], None, [], [], None, [])
    return ast.Lambda(takes, syntax_of(value.body))


def _of_call(expr: Call) -> ast.expr:
    if expr.function == UTC_NAME:
        return _name(UTC_NAME)
    keywords = {name: _argument(value) for name, value in expr.keywords.items()}
    if not expr.function.startswith("."):
        return _call(expr.function, _syntaxes(expr.args), keywords)
    receiver, *args = _syntaxes(expr.args)
    return _call(ast.Attribute(receiver, expr.function[1:], ast.Load()), args, keywords)


# -- constants -------------------------------------------------------------------------------------
def _const(expr: Const) -> ast.expr:
    return _stored(msgspec.json.decode(expr.value))


def _stored(value: Any) -> ast.expr:
    """The syntax of a value in its stored form."""
    if isinstance(value, list):
        return ast.List([_stored(item) for item in value], ast.Load())
    if isinstance(value, dict):
        tag, content = next(iter(value.items()), ("", None))
        if tag in _TAGS:
            return _TAGS[tag](content)
        return ast.Dict([ast.Constant(key) for key in value], [_stored(item) for item in value.values()])
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _from_iso(kind: str) -> Callable[[Any], ast.expr]:
    return lambda text: _call(ast.Attribute(_name(kind), "fromisoformat", ast.Load()), [ast.Constant(text)])


def _of_text(kind: str) -> Callable[[Any], ast.expr]:
    return lambda text: _call(kind, [ast.Constant(text)])


def _timedelta(text: Any) -> ast.expr:
    value = msgspec.convert(text, timedelta)
    given = {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}
    return _call("timedelta", [], {name: _stored(number) for name, number in given.items() if number})


def _set(items: Any) -> ast.expr:
    return ast.Set([_stored(item) for item in items]) if items else _call("set", [])


def _dict(pairs: Any) -> ast.expr:
    return ast.Dict([_stored(key) for key, _ in pairs], [_stored(item) for _, item in pairs])


def _record(content: Any) -> ast.expr:
    kind, fields = content
    return _call(kind, [], {name: _stored(value) for name, value in fields.items()})


_TAGS: Final[dict[str, Callable[[Any], ast.expr]]] = {
    "$decimal": _of_text("Decimal"),
    "$datetime": _from_iso("datetime"),
    "$date": _from_iso("date"),
    "$timedelta": _timedelta,
    "$uuid": _of_text("UUID"),
    "$bytes": lambda text: ast.Constant(b64decode(text)),
    "$float": _of_text("float"),
    "$tuple": lambda items: ast.Tuple([_stored(item) for item in items], ast.Load()),
    "$set": _set,
    "$dict": _dict,
    "$enum": lambda content: ast.Attribute(_name(content[0]), content[1], ast.Load()),
    "$record": _record,
    "$masked": lambda _: ast.Constant(HIDDEN),
    "$failure": lambda content: _call(content["name"], [ast.Constant(content.get("message", ""))]),
}

_COMPREHENSIONS: Final[dict[str, Callable[[ast.expr, list[ast.comprehension]], ast.expr]]] = {
    "list": ast.ListComp,
    "set": ast.SetComp,
    "generator": ast.GeneratorExp,
}

EXPRESSIONS: Final[dict[type[Expr], Callable[[Any], ast.expr]]] = {
    Const: _const,
    Name: lambda expr: _name(expr.name),
    Attribute: lambda expr: ast.Attribute(syntax_of(expr.value), expr.name, ast.Load()),
    Index: lambda expr: ast.Subscript(syntax_of(expr.value), syntax_of(expr.index), ast.Load()),
    Slice: lambda expr: ast.Subscript(
        syntax_of(expr.value),
        ast.Slice(_given(expr.start), _given(expr.stop), _given(expr.step)),
        ast.Load(),
    ),
    Binary: lambda expr: ast.BinOp(syntax_of(expr.left), _BINARY[expr.operator](), syntax_of(expr.right)),
    Unary: lambda expr: ast.UnaryOp(_UNARY[expr.operator](), syntax_of(expr.value)),
    Compare: _compare,
    Logical: lambda expr: ast.BoolOp(
        ast.And() if expr.operator == "and" else ast.Or(), _syntaxes(expr.values)
    ),
    Conditional: lambda expr: ast.IfExp(
        syntax_of(expr.test), syntax_of(expr.then), syntax_of(expr.otherwise)
    ),
    Format: _format,
    ListOfExpr: lambda expr: ast.List(_items(expr.items), ast.Load()),
    TupleOfExpr: lambda expr: ast.Tuple(_items(expr.items), ast.Load()),
    SetOfExpr: lambda expr: ast.Set(_items(expr.items)),
    DictOfExpr: lambda expr: ast.Dict([_given(key) for key in expr.keys], _syntaxes(expr.values)),
    Comprehension: _comprehension,
    Bind: lambda expr: ast.NamedExpr(ast.Name(expr.name, ast.Store()), syntax_of(expr.value)),
    Make: lambda expr: _call(expr.type, [], {name: syntax_of(value) for name, value in expr.fields.items()}),
    Call: _of_call,
}
"""Every kind of expression. A new one gets its entry here."""
