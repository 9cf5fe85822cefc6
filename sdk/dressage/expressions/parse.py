"""From Python's syntax to the expression tree.

What a name means is the `Scope`'s to say: a variable of a run, a constant, a record to build, a builtin. What the
expression language lacks is refused with what to write instead; nothing is passed over.
"""

from __future__ import annotations

import ast
from typing import Any, Protocol

import msgspec

from dressage.expressions.advice import ADVICE, MUTATIONS
from dressage.expressions.builtins import BUILTINS
from dressage.expressions.errors import LimitExceeded
from dressage.expressions.formatting import check_spec
from dressage.expressions.limits import EXPRESSION_MAX_DEPTH, INT_BITS_MAX
from dressage.expressions.values import Value, encode_stored
from dressage.protocol.errors import BadValue, DefinitionError
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    BinaryOperator,
    Call,
    Compare,
    CompareOperator,
    Comparison,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    Format,
    Index,
    ListOfExpr,
    Logical,
    Placeholder,
    TupleOfExpr,
    Unary,
    UnaryOperator,
)

BINARY_OPERATORS: dict[type[ast.operator], BinaryOperator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
}
UNARY_OPERATORS: dict[type[ast.unaryop], UnaryOperator] = {
    ast.USub: "-",
    ast.UAdd: "+",
    ast.Invert: "~",
    ast.Not: "not",
}
COMPARE_OPERATORS: dict[type[ast.cmpop], CompareOperator] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}


class Scope(Protocol):
    """What names mean at one place of the source."""

    def variable(self, node: ast.Name) -> Expr:
        """The expression for a bare name: a variable or a constant. Refuses what is neither."""
        ...

    def constant(self, node: ast.Attribute) -> Expr | None:
        """The constant that a dotted name of a module or an enum stands for; None for an attribute of a value."""
        ...

    def builtin(self, node: ast.expr) -> str | None:
        """The name in `BUILTINS` of the function that is called here; None if it is another."""
        ...

    def is_object(self, node: ast.expr) -> bool:
        """Whether a name stands for a module, class or function of the source rather than for a value."""
        ...

    def call(self, node: ast.Call) -> Expr:
        """The expression for a call of what is no builtin, as of a dataclass. Refuses what cannot be called."""
        ...

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        """The error that refuses this place of the source: what was written, and what to write instead."""
        ...


def constant(value: Value) -> Const:
    """`value` as a constant of the spec. Raises `BadValue` for what is no value."""
    return Const(msgspec.Raw(encode_stored(value)))


def translate(node: ast.expr, scope: Scope, depth: int = EXPRESSION_MAX_DEPTH) -> Expr:
    """The expression tree for Python's syntax. Raises `DefinitionError`, through `scope`, for what it cannot say."""
    if depth <= 0:
        raise scope.refusal(
            node,
            f"this expression nests deeper than {EXPRESSION_MAX_DEPTH} levels (limit expression-depth)",
            "give its parts names in statements before this one",
        )
    return _Translation(scope, depth - 1).translate(node)


class _Translation:
    """The translation of one node; its parts nest one level deeper."""

    def __init__(self, scope: Scope, depth: int) -> None:
        self.scope = scope
        self.depth = depth

    def part(self, node: ast.expr) -> Expr:
        return translate(node, self.scope, self.depth)

    def parts(self, nodes: list[ast.expr]) -> tuple[Expr, ...]:
        return tuple(self.part(node) for node in nodes)

    def translate(self, node: ast.expr) -> Expr:
        match node:
            case ast.Constant():
                return self.constant(node)
            case ast.Name():
                return self.scope.variable(node)
            case ast.Attribute():
                return self.scope.constant(node) or Attribute(self.part(node.value), node.attr)
            case ast.Subscript():
                return Index(self.part(node.value), self.part(node.slice))
            case ast.BinOp():
                return self.binary(node)
            case ast.UnaryOp():
                return Unary(UNARY_OPERATORS[type(node.op)], self.part(node.operand))
            case ast.BoolOp():
                return Logical("and" if isinstance(node.op, ast.And) else "or", self.parts(node.values))
            case ast.Compare():
                return self.compare(node)
            case ast.IfExp():
                return Conditional(self.part(node.test), self.part(node.body), self.part(node.orelse))
            case ast.JoinedStr():
                return Format(tuple(self.piece(piece) for piece in node.values))
            case ast.List():
                return ListOfExpr(self.parts(node.elts))
            case ast.Tuple():
                return TupleOfExpr(self.parts(node.elts))
            case ast.Dict():
                return self.dict(node)
            case ast.Call():
                return self.call(node)
            case _:
                advice = ADVICE.get(type(node), "compute this in a task")
                what = f"{type(node).__name__} is not part of the expression language"
                raise self.scope.refusal(node, what, advice)

    def constant(self, node: ast.Constant) -> Expr:
        if isinstance(node.value, complex) or node.value is ...:
            raise self.scope.refusal(
                node, f"{type(node.value).__name__} is no value of a workflow", "use another type"
            )
        if isinstance(node.value, int) and node.value.bit_length() > INT_BITS_MAX:
            raise self.scope.refusal(
                node, "this int is too large", f"at most {INT_BITS_MAX} bits are allowed"
            )
        try:
            return constant(node.value)
        except BadValue as error:
            raise self.scope.refusal(node, error.message, "remove the lone surrogates") from error

    def binary(self, node: ast.BinOp) -> Expr:
        operator = BINARY_OPERATORS.get(type(node.op))
        if operator is None:
            raise self.scope.refusal(
                node, "matrix multiplication is not part of the language", "compute this in a task"
            )
        if operator == "%" and _is_text(node.left):
            raise self.scope.refusal(node, "% does not format text here", 'use an f-string: f"{value:>10}"')
        return Binary(operator, self.part(node.left), self.part(node.right))

    def compare(self, node: ast.Compare) -> Expr:
        operands = [node.left, *node.comparators]
        for place, operator in enumerate(node.ops):
            if isinstance(operator, ast.Is | ast.IsNot):
                if not any(self.is_singleton(operand) for operand in operands[place : place + 2]):
                    raise self.scope.refusal(
                        operands[place + 1],
                        "`is` asks whether two values are one object, which has no meaning in a stored run",
                        "use == (`is` is for None, True, False and members of an enum)",
                    )
        chain = zip(node.ops, node.comparators, strict=True)
        links = tuple(Comparison(COMPARE_OPERATORS[type(op)], self.part(right)) for op, right in chain)
        return Compare(self.part(node.left), links)

    def is_singleton(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return node.value is None or isinstance(node.value, bool)
        found = self.scope.constant(node) if isinstance(node, ast.Attribute) else None
        return isinstance(found, Const) and bytes(found.value).startswith(b'{"$enum"')

    def piece(self, node: ast.expr) -> str | Placeholder:
        if isinstance(node, ast.Constant):
            return str(node.value)
        assert isinstance(node, ast.FormattedValue)
        if node.conversion not in (-1, ord("s"), ord("r")):
            raise self.scope.refusal(node, "!a is not part of the language", "use !r")
        spec = self.format_spec(node.format_spec)
        return Placeholder(self.part(node.value), _CONVERSIONS[node.conversion], spec)

    def format_spec(self, node: ast.expr | None) -> str:
        if node is None:
            return ""
        values = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts: list[str] = []
        for value in values:
            if not isinstance(value, ast.Constant):
                raise self.scope.refusal(
                    value, "a format spec must be fixed", "write the width into the f-string"
                )
            texts.append(str(value.value))
        spec = "".join(texts)
        try:
            check_spec(spec)
        except LimitExceeded as error:
            raise self.scope.refusal(node, error.message, "use a smaller width") from error
        return spec

    def dict(self, node: ast.Dict) -> Expr:
        keys: list[Expr] = []
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise self.scope.refusal(
                    value, "** is not part of the expression language", "join two dicts with `|`"
                )
            keys.append(self.part(key))
        return DictOfExpr(tuple(keys), self.parts(node.values))

    def call(self, node: ast.Call) -> Expr:
        name = self.scope.builtin(node.func)
        if name is not None:
            return self.builtin(node, name, self.parts(node.args))
        if isinstance(node.func, ast.Attribute) and not self.scope.is_object(node.func.value):
            return self.method(node, node.func)
        return self.scope.call(node)

    def method(self, node: ast.Call, function: ast.Attribute) -> Expr:
        name = f".{function.attr}"
        if name not in BUILTINS:
            known = ", ".join(sorted(each[1:] for each in BUILTINS if each.startswith(".")))
            advice = MUTATIONS.get(function.attr, f"call it in a task (the methods here are {known})")
            raise self.scope.refusal(
                name_of(function), f"method {function.attr}() is not part of the language", advice
            )
        return self.builtin(node, name, (self.part(function.value), *self.parts(node.args)))

    def builtin(self, node: ast.Call, name: str, args: tuple[Expr, ...]) -> Expr:
        builtin = BUILTINS[name]
        keywords: dict[str, Expr] = {}
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg not in builtin.keywords:
                known = ", ".join(sorted(builtin.keywords)) or "none"
                shown = f"{name}() has no parameter {keyword.arg}" if keyword.arg else "** is not supported"
                raise self.scope.refusal(keyword.value, shown, f"parameters by name here: {known}")
            keywords[keyword.arg] = self.part(keyword.value)
        if not builtin.args_min <= len(args) <= builtin.args_max:
            raise self.scope.refusal(
                node, f"{name}() does not take {len(node.args)} arguments", "see docs/language.md"
            )
        return Call(name, args, keywords)


_CONVERSIONS: dict[int, Any] = {-1: None, ord("s"): "s", ord("r"): "r"}


def name_of(node: ast.Attribute) -> ast.AST:
    """A node that stands at the attribute's own name, so that the caret does."""
    end = node.end_col_offset or node.col_offset
    place = ast.Name(node.attr, ast.Load())
    place.lineno, place.col_offset = node.end_lineno or node.lineno, end - len(node.attr.encode())
    place.end_lineno, place.end_col_offset = node.end_lineno, end
    return place


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )
