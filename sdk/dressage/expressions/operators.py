"""The operators, each with Python's meaning, and with its limits checked before it begins."""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum
from typing import Any

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.limits import INT_BITS_MAX, VALUE_MAX_WEIGHT, limit_bits, limit_text, weigh
from dressage.expressions.values import Record

Operator = Callable[[Any, Any], Any]

_plus: Operator = operator.add
_TEXTS = (str, bytes)
_SEQUENCES = (list, tuple)


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        return _limited_int(left + right)
    if isinstance(left, _TEXTS) and isinstance(right, _TEXTS):
        limit_text(len(left) + len(right))
    elif isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        weigh(right, beside=weigh(left))
    return _plus(left, right)


def _subtract(left: Any, right: Any) -> Any:
    result = left - right
    return _limited_int(result) if type(result) is int else result


def _multiply(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        limit_bits(left.bit_length() + right.bit_length())
    elif isinstance(left, int):
        _limit_repeat(right, left)
    elif isinstance(right, int):
        _limit_repeat(left, right)
    return left * right


def _limit_repeat(value: Any, times: int) -> None:
    if isinstance(value, _TEXTS):
        limit_text(len(value) * max(times, 0))
    elif isinstance(value, _SEQUENCES) and times > 1 and weigh(value) * times > VALUE_MAX_WEIGHT:
        raise LimitExceeded(
            f"a {type(value).__name__} of {len(value)} items cannot be repeated {times} times"
        )


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, _TEXTS):
        raise TypeError("% does not format text here: use an f-string")
    return left % right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        if abs(left) > 1:
            limit_bits(left.bit_length() * right)
    result = left**right
    if isinstance(result, complex):
        raise ValueError("a negative number to a fractional power is complex, which is no value here")
    return result


def _shift_left(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left and right > 0:
        limit_bits(left.bit_length() + right)
    return left << right


def _or(left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        weigh(right, beside=weigh(left))
    return left | right


def _limited_int(value: int) -> int:
    if value.bit_length() > INT_BITS_MAX:
        limit_bits(value.bit_length())
    return value


def _in(left: Any, right: Any) -> bool:
    if isinstance(right, dict | set):
        check_hashable(left)
    return left in right


BINARY: dict[str, Operator] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": _remainder,
    "**": _power,
    "<<": _shift_left,
    ">>": operator.rshift,
    "&": operator.and_,
    "|": _or,
    "^": operator.xor,
}

COMPARE: dict[str, Operator] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": _in,
    "not in": lambda left, right: not _in(left, right),
    "is": operator.is_,
    "is not": operator.is_not,
}

UNARY: dict[str, Callable[[Any], Any]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
    "not": operator.not_,
}


def check_hashable(value: Any) -> None:
    """Raises `TypeError` for what Python cannot look up in a dict or set: lists, dicts, sets and plain dataclasses."""
    if isinstance(value, Record | list | dict | set):
        raise TypeError(f"unhashable type: '{type(value).__name__}'")
    if isinstance(value, tuple) and not isinstance(value, Enum):
        for item in value:
            check_hashable(item)
