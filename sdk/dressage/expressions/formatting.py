"""Text of values: `str()`, `repr()` and f-strings, with Python's result or a refusal, never another text."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from dressage.expressions.errors import LimitExceeded, text_of_failure
from dressage.expressions.frame import Frame
from dressage.expressions.limits import (
    FORMAT_SPEC_CHARS_MAX,
    FORMAT_WIDTH_MAX,
    limit_decimal,
    weigh,
    weigh_int,
)
from dressage.protocol.commands import FailureInfo

_LEAVES: tuple[type, ...] = (str, bool, int, float, Decimal, type(None), UUID, datetime, date, timedelta)
_SMALL = frozenset({bool, float, type(None), UUID, datetime, date, timedelta})
_NUMBERS = re.compile(r"[0-9]+")
_DATE_DIRECTIVES = re.compile(r"%(.?)", re.DOTALL)
_DATE_ALLOWED = frozenset("YmdHMSfjyIpABabGVuwUWz%")


def text_of(frame: Frame, value: Any) -> str:
    """`str(value)`. Raises `TypeError` for what has no text of its own, `LimitExceeded` for what is too large."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value
    if isinstance(value, FailureInfo):
        return text_of_failure(value)
    _check_printable(frame, value)
    return str(value)


def repr_of(frame: Frame, value: Any) -> str:
    """`repr(value)`. Raises as `text_of` does."""
    if isinstance(value, FailureInfo):
        raise TypeError("a failure has no repr() here: format its name or its message")
    _check_printable(frame, value)
    return repr(value)


def _check_printable(frame: Frame, value: Any) -> None:
    kind = type(value)
    if kind in _SMALL:
        return
    if kind is int:
        frame.spend(weigh_int(value))
        return
    # Some characters take ten in a repr().
    frame.spend(4 * weigh(value))
    _check_parts(value)


def _check_parts(value: Any) -> None:
    kind = type(value)
    if kind in _LEAVES:
        return
    if kind is list or kind is tuple:
        for item in value:
            _check_parts(item)
    elif kind is dict:
        for key, item in value.items():
            _check_parts(key)
            _check_parts(item)
    elif isinstance(value, Enum):
        raise TypeError(f"enum {kind.__name__} has no text here: format its .value or .name")
    else:
        raise TypeError(f"{kind.__name__} has no text here: format its fields one by one")


def check_spec(spec: str) -> None:
    """Refuses a width or precision above `FORMAT_WIDTH_MAX`, wherever it stands in the spec, and an endless spec."""
    if len(spec) > FORMAT_SPEC_CHARS_MAX:
        raise LimitExceeded(
            "format-width",
            f"a format of {len(spec)} characters is too long: at most {FORMAT_SPEC_CHARS_MAX} are allowed; "
            "use a shorter one",
        )
    for number in _NUMBERS.findall(spec):
        if len(number) > 9 or int(number) > FORMAT_WIDTH_MAX:
            raise LimitExceeded(
                "format-width",
                f"width {number[:20]} in a format is above {FORMAT_WIDTH_MAX}: use a smaller one",
            )


def formatter(spec: str) -> Callable[[Frame, Any], str]:
    """A function that gives `format(value, spec)`. Raises `LimitExceeded` for a spec that is too wide."""
    check_spec(spec)
    if not spec:
        return text_of
    local = spec.endswith("n")

    def formatted(frame: Frame, value: Any) -> str:
        kind = type(value)
        frame.spend_on(value)
        if kind is date or kind is datetime:
            _check_date_spec(spec)
        elif kind not in (str, int, float, bool, Decimal):
            if isinstance(value, FailureInfo):
                return format(value.message, spec)
            raise TypeError(f"unsupported format string passed to {kind.__name__}.__format__")
        elif local and kind is not str:
            raise ValueError("format 'n' depends on the machine's locale: use ','")
        elif kind is Decimal:
            limit_decimal(value)
        return format(value, spec)

    return formatted


def _check_date_spec(spec: str) -> None:
    for directive in _DATE_DIRECTIVES.findall(spec):
        if directive not in _DATE_ALLOWED:
            raise ValueError(
                f"%{directive} in a date's format depends on the machine: use {''.join(_DATE_ALLOWED)}"
            )
