"""From Python's syntax to the expression tree.

What a name means is the `Scope`'s to say: a variable of a run, a constant, a record to build, a builtin. What the
expression language lacks is refused with what to write instead; nothing is passed over.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from typing import Any, Protocol

import msgspec

from dressage.expressions.advice import ADVICE, METHODS, MUTATIONS
from dressage.expressions.builtins import BUILTINS
from dressage.expressions.callables import ANY_KEYWORD, Builtin, takes_keyword
from dressage.expressions.compilation import is_transient
from dressage.expressions.errors import LimitExceeded
from dressage.expressions.formatting import check_spec
from dressage.expressions.limits import EXPRESSION_MAX_DEPTH, INT_BITS_MAX
from dressage.expressions.spelling import text_of
from dressage.expressions.values import Value, encode_stored
from dressage.protocol.errors import BadValue, DefinitionError
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    BinaryOperator,
    Bind,
    Call,
    Clause,
    Compare,
    CompareOperator,
    Comparison,
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
    Name,
    Placeholder,
    SetOfExpr,
    Slice,
    Spread,
    Target,
    TupleOfExpr,
    Unary,
    UnaryOperator,
    targets_in,
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

    def bound(self, node: ast.NamedExpr) -> str:
        """The variable that `:=` sets. Refuses it where none can be set."""
        ...

    def locally(self, names: Collection[str]) -> Scope:
        """The scope inside of a comprehension or lambda that has variables of these names."""
        ...

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        """The error that refuses this place of the source: what was written, and what to write instead."""
        ...


def constant(value: Value) -> Const:
    """`value` as a constant of the spec. Raises `BadValue` for what is no value."""
    return Const(msgspec.Raw(encode_stored(value)))


def translate(
    node: ast.expr, scope: Scope, depth: int = EXPRESSION_MAX_DEPTH, *, consumed: bool = False
) -> Expr:
    """The expression tree for Python's syntax. Raises `DefinitionError`, through `scope`, for what it cannot say.

    What is `consumed` at once may be no value: a generator, a range, a view of a dict.
    """
    if depth <= 0:
        raise scope.refusal(
            node,
            f"this expression nests deeper than {EXPRESSION_MAX_DEPTH} levels (limit expression-depth)",
            "give its parts names in statements before this one",
        )
    found = _Translation(scope, depth - 1).translate(node)
    if not consumed and is_transient(found):
        text = text_of(node)
        raise scope.refusal(
            node,
            "this is no value, but what makes values when it is asked",
            f"write `list({text})`" if isinstance(node, ast.Call) else f"write `[{text.strip('()')}]`",
        )
    return found


def translate_each(
    node: ast.ListComp | ast.GeneratorExp, scope: Scope, value: Callable[[Scope], Expr]
) -> Comprehension:
    """A comprehension as a list of what `value` makes in the scope inside of it, whatever it says itself."""
    return _Translation(scope, EXPRESSION_MAX_DEPTH - 1).each(node, value)


class _Translation:
    """The translation of one node; its parts nest one level deeper."""

    def __init__(self, scope: Scope, depth: int) -> None:
        self.scope = scope
        self.depth = depth

    def part(self, node: ast.expr, *, consumed: bool = False) -> Expr:
        return translate(node, self.scope, self.depth, consumed=consumed)

    def parts(self, nodes: list[ast.expr]) -> tuple[Expr, ...]:
        return tuple(self.part(node) for node in nodes)

    def items(self, nodes: list[ast.expr]) -> tuple[Expr | Spread, ...]:
        return tuple(
            Spread(self.part(node.value, consumed=True)) if isinstance(node, ast.Starred) else self.part(node)
            for node in nodes
        )

    def translate(self, node: ast.expr) -> Expr:
        match node:
            case ast.Constant():
                return self.constant(node)
            case ast.Name():
                return self.scope.variable(node)
            case ast.Attribute():
                return self.scope.constant(node) or Attribute(self.part(node.value), node.attr)
            case ast.Subscript():
                return self.subscript(node)
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
                return ListOfExpr(self.items(node.elts))
            case ast.Tuple():
                return TupleOfExpr(self.items(node.elts))
            case ast.Set():
                return SetOfExpr(self.items(node.elts))
            case ast.Dict():
                return self.dict(node)
            case ast.NamedExpr():
                return Bind(self.scope.bound(node), self.part(node.value))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node)
            case ast.Call():
                return self.call(node)
            case _:
                raise self.refusal_of(node)

    def refusal_of(self, node: ast.expr) -> DefinitionError:
        what = f"{type(node).__name__} is not part of the expression language"
        if isinstance(node, ast.Lambda):
            what = "a function is no value"
            advice = (
                "write `def name(...): return ...`; a lambda can only be the `key=` of min, max or sorted"
            )
        elif isinstance(node, ast.Starred):
            what, advice = "* has no meaning here", "it can only stand in a list, tuple or set"
        elif isinstance(node, ast.Slice):
            what, advice = "a slice is no value", "cut with one slice: `items[1:3]`"
        else:
            advice = ADVICE.get(type(node), "compute this in a task")
        return self.scope.refusal(node, what, advice)

    def subscript(self, node: ast.Subscript) -> Expr:
        if not isinstance(node.slice, ast.Slice):
            return Index(
                self.part(node.value, consumed=_is_range(node.value, self.scope)), self.part(node.slice)
            )
        cut = node.slice
        if _is_range(node.value, self.scope):
            advice = "write its start, stop and step: `range(0, 10, 3)`"
            raise self.scope.refusal(node, "a slice of a range is no value", advice)
        bounds = [None if each is None else self.part(each) for each in (cut.lower, cut.upper, cut.step)]
        return Slice(self.part(node.value), *bounds)

    # -- what has variables of its own -------------------------------------------------------------
    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Expr:
        clauses, inner = self._clauses(node)
        if isinstance(node, ast.DictComp):
            return Comprehension("dict", inner.part(node.value), clauses, inner.part(node.key))
        return Comprehension(_KINDS[type(node)], inner.part(node.elt), clauses)

    def each(self, node: ast.ListComp | ast.GeneratorExp, value: Callable[[Scope], Expr]) -> Comprehension:
        clauses, inner = self._clauses(node)
        return Comprehension("list", value(inner.scope), clauses)

    def _clauses(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> tuple[tuple[Clause, ...], _Translation]:
        """What it goes through, and the translation of what stands inside."""
        # The first iterable is evaluated outside.
        iterables = [self.part(node.generators[0].iter, consumed=True)]
        targets = [self.target(each.target) for each in node.generators]
        names = {each.name for target in targets for each in targets_in(target) if each.name}
        inner = _Translation(self.scope.locally(names), self.depth - 1)
        iterables += [inner.part(each.iter, consumed=True) for each in node.generators[1:]]
        for each in node.generators:
            if each.is_async:
                raise self.scope.refusal(
                    each.target, "`async for` has no durable meaning", "let a task read the items as a list"
                )
        clauses = tuple(
            Clause(target, iterable, inner.parts(each.ifs))
            for target, iterable, each in zip(targets, iterables, node.generators, strict=True)
        )
        return clauses, inner

    def target(self, node: ast.expr, *, star: bool = False) -> Target:
        if isinstance(node, ast.Name):
            return Target(node.id, star=star)
        if isinstance(node, ast.Starred):
            return self.target(node.value, star=True)
        if isinstance(node, ast.Tuple | ast.List) and node.elts and not star:
            return Target(items=tuple(self.target(each) for each in node.elts))
        raise self.scope.refusal(
            node,
            "a comprehension sets variables of its own alone",
            "name a variable, or several as in `key, value`",
        )

    def key(self, node: ast.expr) -> Expr | Lambda:
        """What orders the items of sorted(), min() or max()."""
        if isinstance(node, ast.Lambda):
            return self.function(node)
        if isinstance(node, ast.Constant) and node.value is None:
            return self.part(node)
        name = self.scope.builtin(node)
        if name is None or not _takes_one_value(BUILTINS[name]):
            text = text_of(node)
            advice = "write `key=lambda item: ...`"
            if isinstance(node, ast.Attribute):
                advice = f"write `key=lambda item: item.{node.attr}()`"
            raise self.scope.refusal(node, f"{text} cannot be called for each item", advice)
        return Lambda("item", Call(name, (Name("item"),)))

    def function(self, node: ast.Lambda) -> Lambda:
        given = node.args
        others = [*given.posonlyargs, *given.kwonlyargs, *given.defaults, given.vararg, given.kwarg]
        if len(given.args) != 1 or any(others):
            raise self.scope.refusal(node, "a key takes one item", "write `key=lambda item: ...`")
        name = given.args[0].arg
        inner = _Translation(self.scope.locally({name}), self.depth - 1)
        return Lambda(name, inner.part(node.body))

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
        left = self.part(node.left)
        links = tuple(
            Comparison(
                COMPARE_OPERATORS[type(op)], self.part(right, consumed=isinstance(op, ast.In | ast.NotIn))
            )
            for op, right in zip(node.ops, node.comparators, strict=True)
        )
        return Compare(left, links)

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

    def format_spec(self, node: ast.expr | None) -> str | Format:
        if node is None:
            return ""
        values = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [str(value.value) for value in values if isinstance(value, ast.Constant)]
        if len(texts) < len(values):
            return Format(tuple(self.piece(value) for value in values))
        spec = "".join(texts)
        try:
            check_spec(spec)
        except LimitExceeded as error:
            raise self.scope.refusal(node, error.message, "use a smaller width") from error
        return spec

    def dict(self, node: ast.Dict) -> Expr:
        keys = tuple(None if key is None else self.part(key) for key in node.keys)
        return DictOfExpr(keys, self.parts(node.values))

    def call(self, node: ast.Call) -> Expr:
        name = self.scope.builtin(node.func)
        if name is not None:
            return self.builtin(node, name, [])
        if isinstance(node.func, ast.Attribute) and not self.scope.is_object(node.func.value):
            return self.method(node, node.func)
        return self.scope.call(node)

    def method(self, node: ast.Call, function: ast.Attribute) -> Expr:
        name = f".{function.attr}"
        if name not in BUILTINS:
            advice = MUTATIONS.get(function.attr) or METHODS.get(function.attr)
            if advice is None:
                known = ", ".join(sorted(each[1:] for each in BUILTINS if each.startswith(".")))
                advice = f"call it in a task (the methods here are {known})"
            raise self.scope.refusal(
                name_of(function), f"method {function.attr}() is not part of the language", advice
            )
        return self.builtin(node, name, [function.value])

    def builtin(self, node: ast.Call, name: str, receiver: list[ast.expr]) -> Expr:
        builtin = BUILTINS[name]
        for each in node.args:
            if isinstance(each, ast.Starred):
                raise self.scope.refusal(
                    each, "* in a call hides what is passed", "write the arguments one by one"
                )
        args = tuple(
            self.part(arg, consumed=place in builtin.consumes)
            for place, arg in enumerate([*receiver, *node.args])
        )
        keywords: dict[str, Expr | Lambda] = {}
        for keyword in node.keywords:
            if keyword.arg is None or not takes_keyword(builtin, keyword.arg):
                known = ", ".join(sorted(builtin.keywords - ANY_KEYWORD)) or "none"
                shown = f"{name}() has no parameter {keyword.arg}" if keyword.arg else "** is not supported"
                raise self.scope.refusal(keyword.value, shown, f"parameters by name here: {known}")
            if keyword.arg == "key" and builtin.takes_key:
                keywords[keyword.arg] = self.key(keyword.value)
            else:
                consumed = keyword.arg in builtin.consumes
                keywords[keyword.arg] = self.part(keyword.value, consumed=consumed)
        if not builtin.args_min <= len(args) <= builtin.args_max:
            raise self.scope.refusal(
                node, f"{name}() does not take {len(node.args)} arguments", "see docs/language.md"
            )
        return Call(name, args, keywords)


_KINDS: dict[type[ast.expr], Any] = {ast.ListComp: "list", ast.SetComp: "set", ast.GeneratorExp: "generator"}
_CONVERSIONS: dict[int, Any] = {-1: None, ord("s"): "s", ord("r"): "r"}


def name_of(node: ast.Attribute) -> ast.AST:
    """A node that stands at the attribute's own name, so that the caret does."""
    end = node.end_col_offset or node.col_offset
    place = ast.Name(node.attr, ast.Load())
    place.lineno, place.col_offset = node.end_lineno or node.lineno, end - len(node.attr.encode())
    place.end_lineno, place.end_col_offset = node.end_lineno, end
    return place


def _is_range(node: ast.expr, scope: Scope) -> bool:
    return isinstance(node, ast.Call) and scope.builtin(node.func) == "range"


def _takes_one_value(builtin: Builtin) -> bool:
    return builtin.args_min <= 1 <= builtin.args_max and not builtin.transient and builtin.receivers is None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )
