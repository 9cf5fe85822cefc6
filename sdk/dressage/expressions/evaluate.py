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
from dressage.expressions.frame import OPERATION_WORK, SMALL_TEXT, WORK_MAX, Frame
from dressage.expressions.limits import (
    COLLISIONS_MAX,
    EXPRESSION_MAX_DEPTH,
    limit_collisions,
    limit_text,
    weigh,
)
from dressage.expressions.operators import BINARY, COMPARE, UNARY, check_hashable
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Record, Value, decode_stored, limit_stored_depth
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
Evaluate = Callable[[Frame], Value]


def compile_expression(expr: Expr, table: TypeTable) -> Evaluator:
    """A function from variables to the value of `expr`; types and constants are those of `table`.

    Raises `BadSpec` here for an expression that cannot mean anything: an unknown function, type or field. The
    function raises `ExpressionFailed` (with Python's name of the error), or `LimitExceeded`, or `BadValue` for a
    record's field that is given a value of another type.
    """
    evaluate, work = compile_for_frames(expr, table)
    return lambda variables: evaluate(Frame(variables, WORK_MAX - work))


def compile_for_frames(expr: Expr, table: TypeTable) -> tuple[Evaluate, int]:
    """Like `compile_expression`, for who evaluates several expressions within one budget.

    The number is the work of evaluating every part once, which the caller takes from the frame beforehand; the
    function takes what comes on top.
    """
    evaluate, work = _compile(expr, table)

    def evaluated(frame: Frame) -> Value:
        try:
            return evaluate(frame)
        except DressageError:
            raise
        except (RecursionError, MemoryError) as error:
            raise LimitExceeded(
                "work-per-command", f"an expression needs too much: {type(error).__name__}"
            ) from error
        except Exception as error:
            raise ExpressionFailed(_named(error)) from error

    return evaluated, work


def _named(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ArithmeticError) and text.startswith("["):
        # Decimal's own errors say nothing but the name of their class.
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _compile(expr: Expr, table: TypeTable) -> tuple[Evaluate, int]:
    """The function, and the units of work of evaluating every part of it once."""
    work = 0

    def part_at(part: Expr, depth: int) -> Evaluate:
        nonlocal work
        if depth <= 0:
            raise BadSpec(
                f"an expression nests too deep: at most {EXPRESSION_MAX_DEPTH} levels; use a variable "
                "(limit expression-depth)"
            )
        work += OPERATION_WORK
        return _COMPILERS[type(part)](part, lambda inner: part_at(inner, depth - 1), table)

    return part_at(expr, EXPRESSION_MAX_DEPTH), work


Compile = Callable[[Expr], Evaluate]


def _const(expr: Const, part: Compile, table: TypeTable) -> Evaluate:
    try:
        limit_stored_depth(bytes(expr.value))
        value = decode_stored(expr.value, table)
        weigh(value)
    except (BadValue, LimitExceeded) as error:
        raise BadSpec(f"a constant of the spec is not valid: {error.message}") from error
    return lambda frame: value


def _name(expr: Name, part: Compile, table: TypeTable) -> Evaluate:
    name = expr.name

    def evaluate(frame: Frame) -> Value:
        try:
            return frame[name]
        except KeyError:
            raise ExpressionFailed(f"NameError: variable {name} has no value") from None

    return evaluate


def _attribute(expr: Attribute, part: Compile, table: TypeTable) -> Evaluate:
    owner, name = part(expr.value), expr.name

    def evaluate(frame: Frame) -> Value:
        value = owner(frame)
        if isinstance(value, Record):
            if name in value.__struct_fields__:
                return getattr(value, name)
        elif isinstance(value, Enum):
            if name in ("name", "value"):
                return getattr(value, name)
        elif isinstance(value, FailureInfo):
            return _of_failure(frame, value, name)
        elif isinstance(value, tuple) and name in getattr(value, "_fields", ()):
            return getattr(value, name)
        raise AttributeError(f"'{type(value).__name__}' object has no attribute '{name}'")

    return evaluate


def _of_failure(frame: Frame, failure: FailureInfo, name: str) -> Value:
    if name == "name":
        return failure.name
    if name == "message":
        return failure.message
    if name == "details":
        if not isinstance(failure.details, msgspec.Raw):
            return {}
        details = bytes(failure.details)
        frame.spend(2 * len(details))
        return msgspec.json.decode(details)
    raise AttributeError(f"a failure has name, message and details, but no attribute '{name}'")


def _index(expr: Index, part: Compile, table: TypeTable) -> Evaluate:
    owner, index = part(expr.value), part(expr.index)

    def evaluate(frame: Frame) -> Value:
        value = owner(frame)
        key = index(frame)
        if isinstance(value, dict):
            check_hashable(key)
            frame.spend_on(key)
        return cast("Any", value)[key]

    return evaluate


def _binary(expr: Binary, part: Compile, table: TypeTable) -> Evaluate:
    operator, left, right = BINARY[expr.operator], part(expr.left), part(expr.right)
    return lambda frame: operator(frame, left(frame), right(frame))


def _unary(expr: Unary, part: Compile, table: TypeTable) -> Evaluate:
    operator, value = UNARY[expr.operator], part(expr.value)
    return lambda frame: operator(value(frame))


def _compare(expr: Compare, part: Compile, table: TypeTable) -> Evaluate:
    first = part(expr.left)
    chain = [(COMPARE[link.operator], part(link.right)) for link in expr.chain]
    if not chain:
        raise BadSpec("a comparison needs something to compare with")
    if len(chain) == 1:
        ((operator, second),) = chain
        return lambda frame: operator(frame, first(frame), second(frame))

    def evaluate(frame: Frame) -> Value:
        left = first(frame)
        result: Value = True
        for compare, operand in chain:
            right = operand(frame)
            result = compare(frame, left, right)
            if not result:
                break
            left = right
        return result

    return evaluate


def _logical(expr: Logical, part: Compile, table: TypeTable) -> Evaluate:
    if not expr.values:
        raise BadSpec(f"`{expr.operator}` needs operands")
    values = [part(value) for value in expr.values]
    stops_at = expr.operator == "or"

    def evaluate(frame: Frame) -> Value:
        result: Value = None
        for value in values:
            result = value(frame)
            if bool(result) is stops_at:
                break
        return result

    return evaluate


def _conditional(expr: Conditional, part: Compile, table: TypeTable) -> Evaluate:
    test, then, otherwise = part(expr.test), part(expr.then), part(expr.otherwise)
    return lambda frame: then(frame) if test(frame) else otherwise(frame)


def _format(expr: Format, part: Compile, table: TypeTable) -> Evaluate:
    parts = [_piece(piece, part) for piece in expr.parts]

    def evaluate(frame: Frame) -> Value:
        texts: list[str] = []
        size = 0
        for piece in parts:
            text = piece if isinstance(piece, str) else piece(frame)
            size += len(text)
            limit_text(size)
            texts.append(text)
        if size > SMALL_TEXT:
            frame.spend(size)
        return "".join(texts)

    return evaluate


def _piece(piece: str | Placeholder, part: Compile) -> str | Callable[[Frame], str]:
    if isinstance(piece, str):
        return piece
    value = part(piece.value)
    try:
        formatted = formatter(piece.spec)
    except LimitExceeded as error:
        raise BadSpec(error.message) from error
    if piece.conversion is None:
        return lambda frame: formatted(frame, value(frame))
    convert = repr_of if piece.conversion == "r" else text_of
    return lambda frame: formatted(frame, convert(frame, value(frame)))


def _list(expr: ListOfExpr, part: Compile, table: TypeTable) -> Evaluate:
    items = [part(item) for item in expr.items]

    def evaluate(frame: Frame) -> Value:
        value = [item(frame) for item in items]
        frame.spend(weigh(value))
        return value

    return evaluate


def _tuple(expr: TupleOfExpr, part: Compile, table: TypeTable) -> Evaluate:
    items = [part(item) for item in expr.items]

    def evaluate(frame: Frame) -> Value:
        value = tuple([item(frame) for item in items])
        frame.spend(weigh(value))
        return value

    return evaluate


def _dict(expr: DictOfExpr, part: Compile, table: TypeTable) -> Evaluate:
    if len(expr.keys) != len(expr.values):
        raise BadSpec("a dict needs a value for each key")
    pairs = [(part(key), part(value)) for key, value in zip(expr.keys, expr.values, strict=True)]

    def evaluate(frame: Frame) -> Value:
        items: list[tuple[Value, Value]] = []
        for key, item in pairs:
            name, member = key(frame), item(frame)
            check_hashable(name)
            items.append((name, member))
        if len(items) > COLLISIONS_MAX:
            limit_collisions([name for name, _ in items])
        value = dict(items)
        frame.spend(weigh(value))
        return value

    return evaluate


def _make(expr: Make, part: Compile, table: TypeTable) -> Evaluate:
    record = table.record(expr.type)
    for name in expr.fields:
        if name not in record.fields:
            raise BadSpec(f"record {expr.type} has no field {name}")
    for name in record.required:
        if name not in expr.fields:
            raise BadSpec(f"record {expr.type} needs its field {name}")
    fields = [(name, part(value)) for name, value in expr.fields.items()]
    return lambda frame: record.make({name: value(frame) for name, value in fields}, frame)


def _call(expr: Call, part: Compile, table: TypeTable) -> Evaluate:
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
            return lambda frame: function(frame, only(frame))
        return lambda frame: function(frame, *[arg(frame) for arg in args])
    keywords = [(name, part(value)) for name, value in expr.keywords.items()]
    return lambda frame: function(
        frame, *[arg(frame) for arg in args], **{name: value(frame) for name, value in keywords}
    )


_COMPILERS: dict[type, Callable[[Any, Compile, TypeTable], Evaluate]] = {
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
