"""From an expression tree to a function: `compile_expression`.

Each node of the tree becomes a closure over those of its parts; nothing is ever given to `eval` or `exec`.
The meaning is Python's, for the same operator on the same types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, cast

import msgspec

from dressage.expressions.builtins import BUILTINS
from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.formatting import formatter, repr_of, text_of
from dressage.expressions.limits import EXPRESSION_MAX_DEPTH, limit_text, weigh
from dressage.expressions.operators import BINARY, COMPARE, UNARY, check_hashable
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Record, Value, decode_stored
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadSpec, BadValue, DressageError
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    Call,
    Compare,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    Format,
    Index,
    ListOfExpr,
    Logical,
    Make,
    Name,
    Placeholder,
    TupleOfExpr,
    Unary,
)

Variables = Mapping[str, Value]
Evaluator = Callable[[Variables], Value]


def compile_expression(expr: Expr, table: TypeTable) -> Evaluator:
    """A function from variables to the value of `expr`; types and constants are those of `table`.

    Raises `BadSpec` here for an expression that cannot mean anything: an unknown function, type or field. The
    function raises `ExpressionFailed` (with Python's name of the error), or `LimitExceeded`, or `BadValue` for a
    record's field that is given a value of another type.
    """
    evaluate = _compile(expr, table, EXPRESSION_MAX_DEPTH)

    def evaluated(variables: Variables) -> Value:
        try:
            return evaluate(variables)
        except DressageError:
            raise
        except (RecursionError, MemoryError) as error:
            raise LimitExceeded(f"an expression needs too much: {type(error).__name__}") from error
        except Exception as error:
            raise ExpressionFailed(_named(error)) from error

    return evaluated


def _named(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ArithmeticError) and text.startswith("["):
        # Decimal's own errors say nothing but the name of their class.
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _compile(expr: Expr, table: TypeTable, depth: int) -> Evaluator:
    if depth <= 0:
        raise BadSpec(f"an expression nests too deep: at most {EXPRESSION_MAX_DEPTH} levels; use a variable")
    return _COMPILERS[type(expr)](expr, lambda part: _compile(part, table, depth - 1), table)


Compile = Callable[[Expr], Evaluator]


def _const(expr: Const, part: Compile, table: TypeTable) -> Evaluator:
    try:
        value = decode_stored(expr.value, table)
    except BadValue as error:
        raise BadSpec(f"a constant of the spec is not valid: {error.message}") from error
    return lambda variables: value


def _name(expr: Name, part: Compile, table: TypeTable) -> Evaluator:
    name = expr.name

    def evaluate(variables: Variables) -> Value:
        try:
            return variables[name]
        except KeyError:
            raise ExpressionFailed(f"NameError: variable {name} has no value") from None

    return evaluate


def _attribute(expr: Attribute, part: Compile, table: TypeTable) -> Evaluator:
    owner, name = part(expr.value), expr.name

    def evaluate(variables: Variables) -> Value:
        value = owner(variables)
        if isinstance(value, Record):
            if name in value.__struct_fields__:
                return getattr(value, name)
        elif isinstance(value, Enum):
            if name in ("name", "value"):
                return getattr(value, name)
        elif isinstance(value, FailureInfo):
            return _of_failure(value, name)
        raise AttributeError(f"'{type(value).__name__}' object has no attribute '{name}'")

    return evaluate


def _of_failure(failure: FailureInfo, name: str) -> Value:
    if name == "name":
        return failure.name
    if name == "message":
        return failure.message
    if name == "details":
        return msgspec.json.decode(failure.details) if isinstance(failure.details, msgspec.Raw) else {}
    raise AttributeError(f"a failure has name, message and details, but no attribute '{name}'")


def _index(expr: Index, part: Compile, table: TypeTable) -> Evaluator:
    owner, index = part(expr.value), part(expr.index)

    def evaluate(variables: Variables) -> Value:
        value = owner(variables)
        key = index(variables)
        if isinstance(value, dict):
            check_hashable(key)
        return cast("Any", value)[key]

    return evaluate


def _binary(expr: Binary, part: Compile, table: TypeTable) -> Evaluator:
    operator, left, right = BINARY[expr.operator], part(expr.left), part(expr.right)
    return lambda variables: operator(left(variables), right(variables))


def _unary(expr: Unary, part: Compile, table: TypeTable) -> Evaluator:
    operator, value = UNARY[expr.operator], part(expr.value)
    return lambda variables: operator(value(variables))


def _compare(expr: Compare, part: Compile, table: TypeTable) -> Evaluator:
    first = part(expr.left)
    chain = [(COMPARE[link.operator], part(link.right)) for link in expr.chain]
    if not chain:
        raise BadSpec("a comparison needs something to compare with")
    if len(chain) == 1:
        ((operator, second),) = chain
        return lambda variables: operator(first(variables), second(variables))

    def evaluate(variables: Variables) -> Value:
        left = first(variables)
        result: Value = True
        for compare, operand in chain:
            right = operand(variables)
            result = compare(left, right)
            if not result:
                break
            left = right
        return result

    return evaluate


def _logical(expr: Logical, part: Compile, table: TypeTable) -> Evaluator:
    if not expr.values:
        raise BadSpec(f"`{expr.operator}` needs operands")
    values = [part(value) for value in expr.values]
    stops_at = expr.operator == "or"

    def evaluate(variables: Variables) -> Value:
        result: Value = None
        for value in values:
            result = value(variables)
            if bool(result) is stops_at:
                break
        return result

    return evaluate


def _conditional(expr: Conditional, part: Compile, table: TypeTable) -> Evaluator:
    test, then, otherwise = part(expr.test), part(expr.then), part(expr.otherwise)
    return lambda variables: then(variables) if test(variables) else otherwise(variables)


def _format(expr: Format, part: Compile, table: TypeTable) -> Evaluator:
    parts = [_piece(piece, part) for piece in expr.parts]

    def evaluate(variables: Variables) -> Value:
        texts: list[str] = []
        size = 0
        for piece in parts:
            text = piece if isinstance(piece, str) else piece(variables)
            size += len(text)
            limit_text(size)
            texts.append(text)
        return "".join(texts)

    return evaluate


def _piece(piece: str | Placeholder, part: Compile) -> str | Callable[[Variables], str]:
    if isinstance(piece, str):
        return piece
    value = part(piece.value)
    try:
        formatted = formatter(piece.spec)
    except LimitExceeded as error:
        raise BadSpec(error.message) from error
    if piece.conversion is None:
        return lambda variables: formatted(value(variables))
    convert = repr_of if piece.conversion == "r" else text_of
    return lambda variables: formatted(convert(value(variables)))


def _list(expr: ListOfExpr, part: Compile, table: TypeTable) -> Evaluator:
    items = [part(item) for item in expr.items]

    def evaluate(variables: Variables) -> Value:
        value = [item(variables) for item in items]
        weigh(value)
        return value

    return evaluate


def _tuple(expr: TupleOfExpr, part: Compile, table: TypeTable) -> Evaluator:
    items = [part(item) for item in expr.items]

    def evaluate(variables: Variables) -> Value:
        value = tuple([item(variables) for item in items])
        weigh(value)
        return value

    return evaluate


def _dict(expr: DictOfExpr, part: Compile, table: TypeTable) -> Evaluator:
    if len(expr.keys) != len(expr.values):
        raise BadSpec("a dict needs a value for each key")
    pairs = [(part(key), part(value)) for key, value in zip(expr.keys, expr.values, strict=True)]

    def evaluate(variables: Variables) -> Value:
        value: dict[Value, Value] = {}
        for key, item in pairs:
            name = key(variables)
            member = item(variables)
            check_hashable(name)
            value[name] = member
        weigh(value)
        return value

    return evaluate


def _make(expr: Make, part: Compile, table: TypeTable) -> Evaluator:
    record = table.record(expr.type)
    for name in expr.fields:
        if name not in record.fields:
            raise BadSpec(f"record {expr.type} has no field {name}")
    for name in record.required:
        if name not in expr.fields:
            raise BadSpec(f"record {expr.type} needs its field {name}")
    fields = [(name, part(value)) for name, value in expr.fields.items()]
    return lambda variables: record.make({name: value(variables) for name, value in fields})


def _call(expr: Call, part: Compile, table: TypeTable) -> Evaluator:
    builtin = BUILTINS.get(expr.function)
    if builtin is None:
        raise BadSpec(f"there is no function {expr.function}")
    if not builtin.args_min <= len(expr.args) <= builtin.args_max:
        raise BadSpec(f"{expr.function}() does not take {len(expr.args)} arguments")
    for name in expr.keywords:
        if name not in builtin.keywords:
            raise BadSpec(f"{expr.function}() has no parameter {name}")
    function = builtin.function
    args = [part(arg) for arg in expr.args]
    if not expr.keywords:
        if len(args) == 1:
            only = args[0]
            return lambda variables: function(only(variables))
        return lambda variables: function(*[arg(variables) for arg in args])
    keywords = [(name, part(value)) for name, value in expr.keywords.items()]
    return lambda variables: function(
        *[arg(variables) for arg in args], **{name: value(variables) for name, value in keywords}
    )


_COMPILERS: dict[type, Callable[[Any, Compile, TypeTable], Evaluator]] = {
    Const: _const,
    Name: _name,
    Attribute: _attribute,
    Index: _index,
    Binary: _binary,
    Unary: _unary,
    Compare: _compare,
    Logical: _logical,
    Conditional: _conditional,
    Format: _format,
    ListOfExpr: _list,
    TupleOfExpr: _tuple,
    DictOfExpr: _dict,
    Make: _make,
    Call: _call,
}
