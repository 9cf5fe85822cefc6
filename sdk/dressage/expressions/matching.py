"""What patterns ask of a value: `isinstance`, and the shapes of `match`."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.frame import Frame
from dressage.expressions.limits import weigh
from dressage.expressions.operators import check_hashable

KINDS: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        bool,
        int,
        float,
        str,
        bytes,
        list,
        tuple,
        dict,
        set,
        Decimal,
        datetime,
        date,
        timedelta,
        UUID,
    )
}
"""The types of values that have no definition in a spec, by Python's names."""


def is_instance(frame: Frame, value: Any, *names: Any) -> bool:
    """Whether a value is of one of these types: one of `KINDS` with `$` in front, or one of the spec by its name."""
    for name in names:
        if not isinstance(name, str):
            raise ExpressionFailed("TypeError: isinstance() takes the names of types here")
        if name.startswith("$"):
            if name[1:] in KINDS and isinstance(value, KINDS[name[1:]]):
                return True
        elif type(value).__name__ == name and name not in KINDS:
            return True
    return False


def is_sequence(frame: Frame, value: Any) -> bool:
    """Whether a sequence pattern may match: a text is none, as in Python."""
    return isinstance(value, list | tuple)


def is_mapping(frame: Frame, value: Any) -> bool:
    return isinstance(value, dict)


def without(frame: Frame, value: dict[Any, Any], *keys: Any) -> dict[Any, Any]:
    """The dict without these keys, which a mapping pattern has matched."""
    frame.spend(weigh(value))
    for key in keys:
        check_hashable(key)
    return {key: item for key, item in value.items() if key not in keys}
