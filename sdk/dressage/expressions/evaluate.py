"""From an expression tree to a function: `compile_expression`.

Each node of the tree becomes a closure over those of its parts; nothing is ever given to `eval` or `exec`.
The meaning is Python's, for the same operator on the same types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, cast

import msgspec

from dressage.expressions import displays
from dressage.expressions.builtins import BUILTINS
from dressage.expressions.callables import Builtin, method_of, takes_keyword
from dressage.expressions.compilation import UNSET, Compiler, Evaluate, Part, Whole
from dressage.expressions.comprehensions import comprehension, function
from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.formatting import formatter, repr_of, text_of
from dressage.expressions.frame import SMALL_TEXT, WORK_MAX, Frame
from dressage.expressions.limits import (
    EXPRESSION_MAX_DEPTH,
    limit_text,
    weigh,
)
from dressage.expressions.operators import BINARY, COMPARE, UNARY, check_hashable
from dressage.expressions.time_methods import FIELDS
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Record, Value, decode_stored, limit_stored_depth, type_name
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadSpec, BadValue, DressageError
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    Bind,
    Call,
    Compare,
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
    Make,
    Name,
    Placeholder,
    SetOfExpr,
    Slice,
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
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _compile(expr: Expr, table: TypeTable) -> tuple[Evaluate, int]:
    """The function, and the units of work of evaluating every part of it once."""
    whole = Whole(table, _COMPILERS)
    return Part(whole, EXPRESSION_MAX_DEPTH, {})(expr), whole.work


def _const(expr: Const, part: Part, table: TypeTable) -> Evaluate:
    try:
        limit_stored_depth(bytes(expr.value))
        value = decode_stored(expr.value, table)
        weigh(value)
    except (BadValue, LimitExceeded) as error:
        raise BadSpec(f"a constant of the spec is not valid: {error.message}") from error
    return lambda frame: value


def _name(expr: Name, part: Part, table: TypeTable) -> Evaluate:
    name = expr.name
    if name in part.locals:
        return _local(name, part.locals[name])

    def evaluate(frame: Frame) -> Value:
        try:
            return frame[name]
        except KeyError:
            raise ExpressionFailed(f"NameError: variable {name} has no value") from None

    return evaluate


def _local(name: str, slot: int) -> Evaluate:
    def evaluate(frame: Frame) -> Value:
        value = frame.locals[slot]
        if value is UNSET:
            raise UnboundLocalError(
                f"cannot access local variable '{name}' where it is not associated with a value"
            )
        return value

    return evaluate


def _bind(expr: Bind, part: Part, table: TypeTable) -> Evaluate:
    if part.locals:
        raise BadSpec(f"variable {expr.name} is set inside a comprehension or lambda: set it outside")
    name, value = expr.name, part(expr.value)

    def evaluate(frame: Frame) -> Value:
        result = value(frame)
        frame.bind(name, result)
        return result

    return evaluate


def _attribute(expr: Attribute, part: Part, table: TypeTable) -> Evaluate:
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
            return _of_failure(frame, value, name, table)
        elif name in FIELDS.get(type(value), ()) or (
            isinstance(value, tuple) and name in getattr(value, "_fields", ())
        ):
            return getattr(value, name)
        raise AttributeError(f"'{type_name(value)}' object has no attribute '{name}'")

    return evaluate


def _of_failure(frame: Frame, failure: FailureInfo, name: str, table: TypeTable) -> Value:
    if name == "name":
        return failure.name
    if name == "message":
        return failure.message
    if name == "exceptions" and failure.kind == "group":
        return failure.causes
    details = bytes(failure.details) if isinstance(failure.details, msgspec.Raw) else b"{}"
    frame.spend(2 * len(details))
    if name == "details":
        return msgspec.json.decode(details)
    codec = table.details_of(failure)
    record = codec.decode(details) if codec is not None else None
    if isinstance(record, Record) and name in record.__struct_fields__:
        return getattr(record, name)
    raise AttributeError(f"failure '{failure.name}' has no field '{name}'")


def _index(expr: Index, part: Part, table: TypeTable) -> Evaluate:
    owner, index = part.consumed(expr.value), part(expr.index)

    def evaluate(frame: Frame) -> Value:
        value = owner(frame)
        key = index(frame)
        if isinstance(value, dict):
            check_hashable(key)
            frame.spend_on(key)
        return cast("Any", value)[key]

    return evaluate


def _slice(expr: Slice, part: Part, table: TypeTable) -> Evaluate:
    owner = part(expr.value)
    bounds = [None if each is None else part(each) for each in (expr.start, expr.stop, expr.step)]

    def evaluate(frame: Frame) -> Value:
        value = owner(frame)
        cut = slice(*[None if bound is None else bound(frame) for bound in bounds])
        if isinstance(value, str | bytes):
            frame.spend(len(value) >> 3)
        elif isinstance(value, list | tuple):
            frame.spend(len(value))
        return cast("Any", value)[cut]

    return evaluate


def _binary(expr: Binary, part: Part, table: TypeTable) -> Evaluate:
    operator, left, right = BINARY[expr.operator], part(expr.left), part(expr.right)
    return lambda frame: operator(frame, left(frame), right(frame))


def _unary(expr: Unary, part: Part, table: TypeTable) -> Evaluate:
    operator, value = UNARY[expr.operator], part(expr.value)
    return lambda frame: operator(value(frame))


def _compare(expr: Compare, part: Part, table: TypeTable) -> Evaluate:
    first = part(expr.left)
    chain = [(COMPARE[link.operator], _right_side(link, part)) for link in expr.chain]
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


def _right_side(link: Comparison, part: Part) -> Evaluate:
    return part.consumed(link.right) if link.operator in ("in", "not in") else part(link.right)


def _logical(expr: Logical, part: Part, table: TypeTable) -> Evaluate:
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


def _conditional(expr: Conditional, part: Part, table: TypeTable) -> Evaluate:
    test, then, otherwise = part(expr.test), part(expr.then), part(expr.otherwise)
    return lambda frame: then(frame) if test(frame) else otherwise(frame)


def _format(expr: Format, part: Part, table: TypeTable) -> Evaluate:
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


def _piece(piece: str | Placeholder, part: Part) -> str | Callable[[Frame], str]:
    if isinstance(piece, str):
        return piece
    value, convert = part(piece.value), _CONVERSIONS[piece.conversion]
    if not isinstance(piece.spec, str):
        return _formatted_as(value, convert, part(piece.spec))
    try:
        formatted = formatter(piece.spec)
    except LimitExceeded as error:
        raise BadSpec(error.message) from error
    if convert is None:
        return lambda frame: formatted(frame, value(frame))
    return lambda frame: formatted(frame, convert(frame, value(frame)))


_CONVERSIONS: dict[str | None, Callable[[Frame, Value], str] | None] = {
    None: None,
    "r": repr_of,
    "s": text_of,
}


def _formatted_as(
    value: Evaluate, convert: Callable[[Frame, Value], str] | None, spec: Evaluate
) -> Callable[[Frame], str]:
    """For a spec that is only known when the run gets there."""

    def evaluate(frame: Frame) -> str:
        given, text = value(frame), spec(frame)
        if convert is not None:
            given = convert(frame, given)
        return formatter(text)(frame, given)

    return evaluate


def _make(expr: Make, part: Part, table: TypeTable) -> Evaluate:
    record = table.record(expr.type)
    for name in expr.fields:
        if name not in record.fields:
            raise BadSpec(f"record {expr.type} has no field {name}")
    for name in record.required:
        if name not in expr.fields:
            raise BadSpec(f"record {expr.type} needs its field {name}")
    fields = [(name, part(value)) for name, value in expr.fields.items()]
    return lambda frame: record.make({name: value(frame) for name, value in fields}, frame)


def _call(expr: Call, part: Part, table: TypeTable) -> Evaluate:
    builtin = BUILTINS.get(expr.function)
    if builtin is None:
        raise BadSpec(f"there is no function {expr.function}")
    if not builtin.args_min <= len(expr.args) <= builtin.args_max:
        raise BadSpec(f"{expr.function}() does not take {len(expr.args)} arguments")
    for name in expr.keywords:
        if not takes_keyword(builtin, name):
            raise BadSpec(f"{expr.function}() has no parameter {name}")
    args = [_argument(place, arg, builtin, part) for place, arg in enumerate(expr.args)]
    keywords = [(name, _argument(name, value, builtin, part)) for name, value in expr.keywords.items()]
    if builtin.receivers is not None:
        return _method(expr.function[1:], builtin.receivers, args, keywords)
    call = builtin.function
    if not keywords:
        if len(args) == 1:
            only = args[0]
            return lambda frame: call(frame, only(frame))
        return lambda frame: call(frame, *[arg(frame) for arg in args])
    return lambda frame: call(
        frame, *[arg(frame) for arg in args], **{name: value(frame) for name, value in keywords}
    )


def _argument(place: int | str, arg: Expr | Lambda, builtin: Builtin, part: Part) -> Evaluate:
    if isinstance(arg, Lambda):
        if place != "key" or not builtin.takes_key:
            raise BadSpec("a lambda is for `key=` of min, max and sorted")
        return function(arg, part)
    if place == "key" and builtin.takes_key and bytes(getattr(arg, "value", b"")) != b"null":
        raise BadSpec("`key=` takes a lambda")
    return part.consumed(arg) if place in builtin.consumes else part(arg)


def _method(
    name: str,
    receivers: Mapping[type, Callable[..., Value]],
    args: list[Evaluate],
    keywords: list[tuple[str, Evaluate]],
) -> Evaluate:
    receiver, *others = args

    def evaluate(frame: Frame) -> Value:
        owner = receiver(frame)
        # Looked up before the arguments are evaluated, as Python does.
        call = receivers.get(type(owner)) or method_of(owner, name, receivers)
        if keywords:
            given = [arg(frame) for arg in others]
            return call(frame, owner, *given, **{word: value(frame) for word, value in keywords})
        return call(frame, owner, *[arg(frame) for arg in others])

    return evaluate


_COMPILERS: dict[type, Compiler] = {
    Const: _const,
    Name: _name,
    Attribute: _attribute,
    Index: _index,
    Slice: _slice,
    Binary: _binary,
    Unary: _unary,
    Compare: _compare,
    Logical: _logical,
    Conditional: _conditional,
    Format: _format,
    ListOfExpr: displays.list_of_items,
    TupleOfExpr: displays.tuple_of_items,
    SetOfExpr: displays.set_of_items,
    DictOfExpr: displays.dict_of_items,
    Comprehension: comprehension,
    Bind: _bind,
    Make: _make,
    Call: _call,
}
