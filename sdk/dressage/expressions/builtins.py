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

from dressage.expressions.formatting import text_of
from dressage.expressions.frame import SMALL_TEXT, Frame
from dressage.expressions.limits import limit_bits, limit_decimal, limit_digits, limit_text, weigh
from dressage.expressions.operators import check_hashable
from dressage.expressions.unpacking import unpack


class Builtin(NamedTuple):
    """A callable of expressions: its function, how many arguments by place it takes, and which by name.

    The function gets the frame first, from which it spends what grows with the size of its arguments.
    """

    function: Callable[..., Any]
    args_min: int
    args_max: int
    keywords: frozenset[str] = frozenset()


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """For what costs the same whatever it is given."""
    return lambda frame, *args, **keywords: function(*args, **keywords)


def _number_from(frame: Frame, value: Any) -> None:
    """Before a value is turned into a number: a long text, or a long number, costs by the square of its length."""
    if isinstance(value, str | bytes):
        limit_digits(len(value))
        frame.spend(len(value) + (len(value) * len(value) >> 9))
    else:
        frame.spend_on(value)


def _int(frame: Frame, value: Any = 0, *base: Any) -> int:
    _number_from(frame, value)
    if isinstance(value, Decimal):
        limit_decimal(value)
    number = int(value, *base)
    limit_bits(number.bit_length())
    return number


def _float(frame: Frame, value: Any = 0.0) -> float:
    _number_from(frame, value)
    return float(value)


def _decimal(frame: Frame, value: Any = "0") -> Decimal:
    _number_from(frame, value)
    if not isinstance(value, str | int | float | Decimal):
        raise TypeError(f"conversion from {type(value).__name__} to Decimal is not supported")
    return Decimal(value)


def _str(frame: Frame, value: Any = "") -> str:
    return text_of(frame, value)


def _abs(frame: Frame, value: Any) -> Any:
    frame.spend_on(value)
    return abs(value)


def _round(frame: Frame, number: Any, ndigits: Any = None) -> Any:
    frame.spend_on(number)
    if isinstance(number, Decimal):
        limit_decimal(number)
    if ndigits is None:
        return round(number)
    if isinstance(ndigits, int) and isinstance(number, int) and not isinstance(number, bool):
        # Rounding an int to -n digits computes 10**n.
        limit_bits(max(0, -ndigits) * 4)
        frame.spend(max(0, -ndigits) ** 2 >> 9)
    return round(number, ndigits)


def _collection(value: Any) -> Iterable[Any]:
    if not isinstance(value, list | tuple | dict | str | set):
        raise TypeError(f"'{type(value).__name__}' object is not iterable")
    return value


def _sum(frame: Frame, items: Any, start: Any = 0) -> Any:
    if isinstance(items, set):
        raise TypeError("a set has no order to add its items in: sum a list")
    if isinstance(start, str | bytes | list | tuple):
        raise TypeError(f"sum() cannot start with a {type(start).__name__}: it adds numbers")
    frame.spend(weigh(items))
    for item in _collection(items):
        if isinstance(item, str | bytes | list | tuple):
            raise TypeError(f"unsupported operand type(s) for +: 'int' and '{type(item).__name__}'")
    total = sum(items, start)
    if type(total) is int:
        limit_bits(total.bit_length())
    return total


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def pick(frame: Frame, *args: Any, **keywords: Any) -> Any:
        for arg in args:
            frame.spend_on(arg)
        if len(args) == 1:
            return function(_collection(args[0]), **keywords)
        return function(*args, **keywords)

    return pick


def _of_text(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def call(frame: Frame, receiver: Any, *args: Any) -> Any:
        _require(receiver, str, name)
        if len(receiver) > SMALL_TEXT or args:
            # Each of the text's characters may be looked up in all of the argument, as strip() does.
            given = weigh(args[0]) if args else 0
            frame.spend(2 * len(receiver) + (given * (512 + len(receiver)) >> 9))
        result = method(receiver, *args)
        if isinstance(result, str):
            # Some letters become three in the other case.
            limit_text(len(result))
        return result

    return call


def _get(frame: Frame, receiver: Any, key: Any, default: Any = None) -> Any:
    _require(receiver, dict, "get")
    check_hashable(key)
    frame.spend_on(key)
    return receiver.get(key, default)


def _require(receiver: Any, owner: type, name: str) -> None:
    if not isinstance(receiver, owner):
        raise AttributeError(f"'{type(receiver).__name__}' object has no attribute '{name}'")


_TIMEDELTA = frozenset({"days", "seconds", "microseconds", "milliseconds", "minutes", "hours", "weeks"})

BUILTINS: dict[str, Builtin] = {
    "len": Builtin(_plain(len), 1, 1),
    "bool": Builtin(_plain(bool), 0, 1),
    "str": Builtin(_str, 0, 1),
    "abs": Builtin(_abs, 1, 1),
    "int": Builtin(_int, 0, 2),
    "float": Builtin(_float, 0, 1),
    "Decimal": Builtin(_decimal, 0, 1),
    "round": Builtin(_round, 1, 2, frozenset({"ndigits"})),
    "min": Builtin(_extreme(min), 1, 255, frozenset({"default"})),
    "max": Builtin(_extreme(max), 1, 255, frozenset({"default"})),
    "sum": Builtin(_sum, 1, 2, frozenset({"start"})),
    "timedelta": Builtin(_plain(timedelta), 0, 7, _TIMEDELTA),
    "unpack": Builtin(unpack, 2, 3),
    ".lower": Builtin(_of_text("lower"), 1, 1),
    ".upper": Builtin(_of_text("upper"), 1, 1),
    ".strip": Builtin(_of_text("strip"), 1, 2),
    ".startswith": Builtin(_of_text("startswith"), 2, 4),
    ".endswith": Builtin(_of_text("endswith"), 2, 4),
    ".get": Builtin(_get, 2, 3),
}
"""By the name in `Call.function`; the receiver of a method is its first argument."""
