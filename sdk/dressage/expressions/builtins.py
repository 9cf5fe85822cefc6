"""The pure functions and methods that expressions may call. Nothing else can be called.

==========================================================  =================================================
`len(x)`, `bool(x)`, `str(x)`, `abs(x)`                     as in Python
`int(x)`, `int(text, base)`, `float(x)`, `Decimal(x)`       of a number or a text
`round(x)`, `round(x, digits)`                              banker's rounding, as in Python
`min(...)`, `max(...)`, with `default=`                     of several arguments or of one collection
`sum(items)`, `sum(items, start)`                           of numbers or timedeltas
`timedelta(days=, hours=, minutes=, seconds=, ...)`         all of Python's parameters
`.lower() .upper() .strip(chars) .startswith(p) .endswith(s)`  of a str
`.get(key, default)`                                        of a dict
==========================================================  =================================================

`str()` of a record, an enum member, a set or bytes is refused: its text would be another in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.formatting import text_of
from dressage.expressions.limits import DIGITS_MAX, limit_bits, limit_decimal, limit_text
from dressage.expressions.operators import check_hashable


class Builtin(NamedTuple):
    """A callable of expressions: its function, how many arguments by place it takes, and which by name."""

    function: Callable[..., Any]
    args_min: int
    args_max: int
    keywords: frozenset[str] = frozenset()


def _no_long_number(text: Any) -> None:
    if isinstance(text, str | bytes) and len(text) > DIGITS_MAX:
        raise LimitExceeded(
            f"a number of {len(text)} characters is too long: at most {DIGITS_MAX} are allowed"
        )


def _int(value: Any = 0, *base: Any) -> int:
    _no_long_number(value)
    if isinstance(value, Decimal):
        limit_decimal(value)
    number = int(value, *base)
    limit_bits(number.bit_length())
    return number


def _float(value: Any = 0.0) -> float:
    _no_long_number(value)
    return float(value)


def _decimal(value: Any = "0") -> Decimal:
    _no_long_number(value)
    if not isinstance(value, str | int | float | Decimal):
        raise TypeError(f"conversion from {type(value).__name__} to Decimal is not supported")
    return Decimal(value)


def _str(value: Any = "") -> str:
    return text_of(value)


def _round(number: Any, ndigits: Any = None) -> Any:
    if isinstance(number, Decimal):
        limit_decimal(number)
    if ndigits is None:
        return round(number)
    if isinstance(ndigits, int) and isinstance(number, int) and not isinstance(number, bool):
        # Rounding an int to -n digits computes 10**n.
        limit_bits(max(0, -ndigits) * 4)
    return round(number, ndigits)


def _collection(value: Any) -> Iterable[Any]:
    if not isinstance(value, list | tuple | dict | str | set):
        raise TypeError(f"'{type(value).__name__}' object is not iterable")
    return value


def _sum(items: Any, start: Any = 0) -> Any:
    if isinstance(items, set):
        raise TypeError("a set has no order to add its items in: sum a list")
    if isinstance(start, str | bytes | list | tuple):
        raise TypeError(f"sum() cannot start with a {type(start).__name__}: it adds numbers")
    for item in _collection(items):
        if isinstance(item, str | bytes | list | tuple):
            raise TypeError(f"unsupported operand type(s) for +: 'int' and '{type(item).__name__}'")
    total = sum(items, start)
    if type(total) is int:
        limit_bits(total.bit_length())
    return total


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def pick(*args: Any, **keywords: Any) -> Any:
        if len(args) == 1:
            return function(_collection(args[0]), **keywords)
        return function(*args, **keywords)

    return pick


def _method(owner: type, name: str) -> Callable[..., Any]:
    method = getattr(owner, name)

    def call(receiver: Any, *args: Any) -> Any:
        if not isinstance(receiver, owner):
            raise AttributeError(f"'{type(receiver).__name__}' object has no attribute '{name}'")
        if owner is dict:
            check_hashable(args[0])
        result = method(receiver, *args)
        if isinstance(result, str):
            # Some letters become three in the other case.
            limit_text(len(result))
        return result

    return call


_TIMEDELTA = frozenset({"days", "seconds", "microseconds", "milliseconds", "minutes", "hours", "weeks"})

BUILTINS: dict[str, Builtin] = {
    "len": Builtin(len, 1, 1),
    "bool": Builtin(bool, 0, 1),
    "str": Builtin(_str, 0, 1),
    "abs": Builtin(abs, 1, 1),
    "int": Builtin(_int, 0, 2),
    "float": Builtin(_float, 0, 1),
    "Decimal": Builtin(_decimal, 0, 1),
    "round": Builtin(_round, 1, 2, frozenset({"ndigits"})),
    "min": Builtin(_extreme(min), 1, 255, frozenset({"default"})),
    "max": Builtin(_extreme(max), 1, 255, frozenset({"default"})),
    "sum": Builtin(_sum, 1, 2, frozenset({"start"})),
    "timedelta": Builtin(timedelta, 0, 7, _TIMEDELTA),
    ".lower": Builtin(_method(str, "lower"), 1, 1),
    ".upper": Builtin(_method(str, "upper"), 1, 1),
    ".strip": Builtin(_method(str, "strip"), 1, 2),
    ".startswith": Builtin(_method(str, "startswith"), 2, 4),
    ".endswith": Builtin(_method(str, "endswith"), 2, 4),
    ".get": Builtin(_method(dict, "get"), 2, 3),
}
"""By the name in `Call.function`; the receiver of a method is its first argument."""
