"""Dates, times and Decimals: constructors, fields and methods. What asks the machine is missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dressage.expressions.callables import Builtin, Function, method, plain
from dressage.expressions.frame import Frame
from dressage.expressions.limits import limit_digits

_DATE: Final = ("year", "month", "day")
_TIME: Final = ("hour", "minute", "second", "microsecond")
FIELDS: Final[dict[type, frozenset[str]]] = {
    datetime: frozenset({*_DATE, *_TIME}),
    date: frozenset(_DATE),
    timedelta: frozenset({"days", "seconds", "microseconds"}),
    UUID: frozenset({"hex", "int", "version"}),
}
"""The attributes of values that are no records."""

UTC_NAME: Final = "timezone.utc"
"""The one time zone that can be named."""

_TZ: Final = frozenset[int | str]({"tzinfo"})
_TIMEDELTA: Final = frozenset(
    {"days", "seconds", "microseconds", "milliseconds", "minutes", "hours", "weeks"}
)


# -- constructors ----------------------------------------------------------------------------------
def _checked_text(function: Callable[[str], Any]) -> Function:
    def call(frame: Frame, text: Any) -> Any:
        frame.spend_on(text)
        return function(text)

    return call


def _uuid(frame: Frame, text: Any) -> UUID:
    frame.spend_on(text)
    return UUID(text)


TIME_FUNCTIONS: dict[str, Builtin] = {
    "timedelta": Builtin(plain(timedelta), 0, 7, _TIMEDELTA),
    "datetime": Builtin(plain(datetime), 0, 8, frozenset({*_DATE, *_TIME, "tzinfo", "fold"}), _TZ | {7}),
    "datetime.fromisoformat": Builtin(_checked_text(datetime.fromisoformat), 1, 1),
    "date": Builtin(plain(date), 0, 3, frozenset(_DATE)),
    "date.fromisoformat": Builtin(_checked_text(date.fromisoformat), 1, 1),
    "UUID": Builtin(_uuid, 1, 1),
    UTC_NAME: Builtin(plain(lambda: UTC), 0, 0, transient=True),
}


# -- methods ---------------------------------------------------------------------------------------
REPLACE_DATE: Final[dict[type, Function]] = {date: plain(date.replace), datetime: plain(datetime.replace)}


def _of_aware(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(datetime, name)

    def call(frame: Frame, receiver: datetime, *args: Any) -> Any:
        if receiver.utcoffset() is None:
            raise ValueError(
                f"{name}() of a datetime without a time zone depends on the machine: give it one"
            )
        return call_method(receiver, *args)

    return call


def _on_decimal(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(Decimal, name)

    def call(frame: Frame, receiver: Decimal, *args: Any, **keywords: Any) -> Any:
        for number in (receiver, *args):
            frame.spend_on(number)
            if isinstance(number, Decimal) and number.is_finite():
                limit_digits(len(number.as_tuple().digits))
        return call_method(receiver, *args, **keywords)

    return call


def _both(name: str) -> dict[type, Function]:
    return {datetime: plain(getattr(datetime, name)), date: plain(getattr(date, name))}


_DECIMAL_TESTS = "is_finite is_infinite is_nan is_signed is_zero copy_abs copy_negate normalize"

TIME_METHODS: dict[str, Builtin] = {
    **{f".{name}": method(_both(name)) for name in ("weekday", "isoweekday", "toordinal")},
    ".isoformat": method(_both("isoformat"), 0, 2, frozenset({"sep", "timespec"})),
    ".date": method({datetime: plain(datetime.date)}),
    ".timestamp": method({datetime: _of_aware("timestamp")}),
    ".astimezone": method({datetime: _of_aware("astimezone")}, 1, 1, consumes=frozenset({1})),
    ".utcoffset": method({datetime: plain(datetime.utcoffset)}),
    ".total_seconds": method({timedelta: plain(timedelta.total_seconds)}),
    **{f".{name}": method({Decimal: _on_decimal(name)}) for name in _DECIMAL_TESTS.split()},
    ".quantize": method({Decimal: _on_decimal("quantize")}, 1, 2, frozenset({"rounding"})),
    ".to_integral_value": method({Decimal: _on_decimal("to_integral_value")}, 0, 1, frozenset({"rounding"})),
}
