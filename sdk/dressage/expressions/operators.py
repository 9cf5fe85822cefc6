"""The operators, each with Python's meaning, and with its limits checked before it begins."""

from __future__ import annotations

import operator
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from decimal import Decimal
from enum import Enum
from typing import Any

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.frame import Frame
from dressage.expressions.limits import (
    ITEM_WEIGHT,
    POWER_DIGITS_MAX,
    SMALL_BITS,
    SMALL_DECIMAL_BYTES,
    VALUE_MAX_WEIGHT,
    limit_bits,
    limit_collisions,
    limit_digits,
    limit_text,
    weigh,
)
from dressage.expressions.values import Record

Operator = Callable[[Frame, Any, Any], Any]
"""Spends from the frame what grows with the size of its operands."""

_plus: Callable[[Any, Any], Any] = operator.add
_either: Callable[[Any, Any], Any] = operator.or_
_contains: Callable[[Any, Any], bool] = operator.contains
_TEXTS = (str, bytes)
_SEQUENCES = (list, tuple)
VIEWS = (KeysView, ValuesView, ItemsView)
_UNHASHABLE = (Record, list, dict, set)
_SMALL = frozenset({int, float, bool, type(None)})


def _add(frame: Frame, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        return _limited_int(frame, left + right)
    if isinstance(left, _TEXTS) and isinstance(right, _TEXTS):
        limit_text(len(left) + len(right))
        frame.spend(len(left) + len(right))
    elif isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        weight = weigh(left)
        frame.spend(weight + weigh(right, beside=weight))
    else:
        _spend_on_operands(frame, left, right)
    return _plus(left, right)


def _subtract(frame: Frame, left: Any, right: Any) -> Any:
    _spend_on_operands(frame, left, right)
    result = left - right
    return _limited_int(frame, result) if type(result) is int else result


def _multiply(frame: Frame, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        limit_bits(left.bit_length() + right.bit_length())
    elif isinstance(left, int):
        _limit_repeat(frame, right, left)
    elif isinstance(right, int):
        _limit_repeat(frame, left, right)
    _spend_on_operands(frame, left, right)
    return left * right


def _limit_repeat(frame: Frame, value: Any, times: int) -> None:
    if isinstance(value, _TEXTS):
        limit_text(len(value) * max(times, 0))
        frame.spend(len(value) * max(times, 0))
    elif isinstance(value, _SEQUENCES):
        weight = weigh(value) * max(times, 1)
        if weight > VALUE_MAX_WEIGHT:
            raise LimitExceeded(
                "value-size",
                f"a {type(value).__name__} of {len(value)} items cannot be repeated {times} times: "
                f"at most a weight of {VALUE_MAX_WEIGHT} is allowed",
            )
        frame.spend(weight)


def _remainder(frame: Frame, left: Any, right: Any) -> Any:
    if isinstance(left, _TEXTS):
        raise TypeError("% does not format text here: use an f-string")
    _spend_on_operands(frame, left, right)
    return left % right


def _power(frame: Frame, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        if abs(left) > 1:
            limit_bits(left.bit_length() * right)
            frame.spend(left.bit_length() * right >> 3)
        frame.spend_on(right)
    elif isinstance(left, Decimal) or isinstance(right, Decimal):
        frame.spend(_POWER_WORK)
        for number in (left, right):
            if isinstance(number, Decimal):
                limit_digits(len(number.as_tuple().digits), POWER_DIGITS_MAX)
            elif isinstance(number, int):
                limit_digits(number.bit_length() * 3 // 10, POWER_DIGITS_MAX)
    result = left**right
    if isinstance(result, complex):
        raise ValueError("a negative number to a fractional power is complex, which is no value here")
    return result


_POWER_WORK = 50_000
"""Units of a power of Decimals, which may take half a millisecond."""


def _shift_left(frame: Frame, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left and right > 0:
        limit_bits(left.bit_length() + right)
    _spend_on_operands(frame, left, right)
    return left << right


def _or(frame: Frame, left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        weight = weigh(left)
        # Twice, because keys are hashed and put into a new dict.
        frame.spend(2 * (weight + weigh(right, beside=weight)))
        limit_collisions([*left, *right])
    elif isinstance(left, set) and isinstance(right, set):
        frame.spend(2 * (weigh(left) + weigh(right)))
        limit_collisions([*left, *right])
    return _either(left, right)


def _plain(operate: Callable[[Any, Any], Any]) -> Operator:
    def operated(frame: Frame, left: Any, right: Any) -> Any:
        _spend_on_operands(frame, left, right)
        return operate(left, right)

    return operated


def _limited_int(frame: Frame, value: int) -> int:
    bits = value.bit_length()
    if bits > SMALL_BITS:
        limit_bits(bits)
        frame.spend(bits)
    return value


def _spend_on_operands(frame: Frame, left: Any, right: Any) -> None:
    """What arithmetic costs beyond one operation: nothing, unless a number is long, or for sets."""
    for operand in (left, right):
        kind = type(operand)
        if kind is int:
            if operand.bit_length() > SMALL_BITS:
                frame.spend_on(operand)
        elif kind is Decimal:
            if operand.__sizeof__() > SMALL_DECIMAL_BYTES:
                frame.spend_on(operand)
        elif kind is set:
            frame.spend_on(operand)


def _in(frame: Frame, left: Any, right: Any) -> bool:
    if isinstance(right, dict | set):
        if isinstance(left, set) and isinstance(right, set):
            # Python looks for a frozenset of the same items, which is no value here.
            return False
        check_hashable(left)
        frame.spend_on(left)
    elif isinstance(right, (range, Iterator, *VIEWS)):
        return _in_lazy(frame, left, right)
    elif isinstance(right, _TEXTS):
        wanted = len(left) if isinstance(left, _TEXTS) else 1
        frame.spend(len(right) + (len(right) * min(wanted, 100) >> 5))
    else:
        # Twice, because each item is weighed and compared.
        frame.spend(2 * weigh(right))
    return _contains(right, left)


def _in_lazy(frame: Frame, left: Any, right: Any) -> bool:
    if isinstance(right, range):
        if type(left) is not int and type(left) is not bool:
            # Python compares with one number after the other.
            frame.spend(ITEM_WEIGHT * max(1, abs(right.stop - right.start) // abs(right.step)))
    elif isinstance(right, Iterator):
        return _contains(_weighed(frame, right), left)
    else:
        looked_up = left if isinstance(right, KeysView) else left[:1] if isinstance(left, tuple) else None
        if not isinstance(right, ValuesView):
            check_hashable(looked_up)
        frame.spend_on(left)
        frame.spend(2 * weigh(list(right)))
    return _contains(right, left)


def _weighed(frame: Frame, items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        frame.spend_on(item)
        yield item


def _not_in(frame: Frame, left: Any, right: Any) -> bool:
    return not _in(frame, left, right)


def _compared(compare: Callable[[Any, Any], Any]) -> Operator:
    def compared(frame: Frame, left: Any, right: Any) -> Any:
        if type(left) not in _SMALL or type(right) not in _SMALL:
            frame.spend_on(left)
            frame.spend_on(right)
        return compare(left, right)

    return compared


BINARY: dict[str, Operator] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _plain(operator.truediv),
    "//": _plain(operator.floordiv),
    "%": _remainder,
    "**": _power,
    "<<": _shift_left,
    ">>": _plain(operator.rshift),
    "&": _plain(operator.and_),
    "|": _or,
    "^": _plain(operator.xor),
}

COMPARE: dict[str, Operator] = {
    "==": _compared(operator.eq),
    "!=": _compared(operator.ne),
    "<": _compared(operator.lt),
    "<=": _compared(operator.le),
    ">": _compared(operator.gt),
    ">=": _compared(operator.ge),
    "in": _in,
    "not in": _not_in,
    "is": lambda frame, left, right: left is right,
    "is not": lambda frame, left, right: left is not right,
}

UNARY: dict[str, Callable[[Any], Any]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
    "not": operator.not_,
}


def check_hashable(value: Any) -> None:
    """Raises `TypeError` for what Python cannot look up in a dict or set: lists, dicts, sets and plain dataclasses."""
    if isinstance(value, _UNHASHABLE):
        raise TypeError(f"unhashable type: '{type(value).__name__}'")
    if isinstance(value, tuple) and not isinstance(value, Enum):
        for item in value:
            check_hashable(item)
