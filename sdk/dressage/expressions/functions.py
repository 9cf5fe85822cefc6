"""The builtin functions of numbers and texts, and those that consume collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast

from dressage.expressions.formatting import repr_of, text_of
from dressage.expressions.frame import Frame
from dressage.expressions.iteration import collected, iterate, iterate_any
from dressage.expressions.limits import (
    limit_bits,
    limit_collisions,
    limit_decimal,
    limit_digits,
    weigh,
    weigh_int,
)
from dressage.expressions.operators import BINARY, check_hashable


# -- numbers and texts -----------------------------------------------------------------------------
def _number_from(frame: Frame, value: Any) -> None:
    """Before a value is turned into a number: a long text, or a long number, costs by the square of its length."""
    if isinstance(value, str | bytes):
        limit_digits(len(value))
        frame.spend(len(value) + (len(value) * len(value) >> 9))
    else:
        frame.spend_on(value)


def make_int(frame: Frame, value: Any = 0, *base: Any) -> int:
    _number_from(frame, value)
    if isinstance(value, Decimal):
        limit_decimal(value)
    number = int(value, *base)
    limit_bits(number.bit_length())
    return number


def make_float(frame: Frame, value: Any = 0.0) -> float:
    _number_from(frame, value)
    return float(value)


def make_decimal(frame: Frame, value: Any = "0") -> Decimal:
    _number_from(frame, value)
    if not isinstance(value, str | int | float | Decimal):
        raise TypeError(f"conversion from {type(value).__name__} to Decimal is not supported")
    return Decimal(value)


def make_str(frame: Frame, value: Any = "") -> str:
    return text_of(frame, value)


def make_repr(frame: Frame, value: Any) -> str:
    return repr_of(frame, value)


def round_number(frame: Frame, number: Any, ndigits: Any = None) -> Any:
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


def divide(frame: Frame, left: Any, right: Any) -> Any:
    frame.spend_on(left)
    frame.spend_on(right)
    return divmod(left, right)


def power(frame: Frame, base: Any, exp: Any, mod: Any = None) -> Any:
    if mod is None:
        return BINARY["**"](frame, base, exp)
    if isinstance(base, int) and isinstance(exp, int) and isinstance(mod, int):
        frame.spend_on(base)
        frame.spend((exp.bit_length() + 1) * (mod.bit_length() ** 2 + 64) >> 10)
    elif Decimal in (type(base), type(exp), type(mod)):
        raise TypeError("pow() with a modulus takes ints here")
    return pow(base, exp, mod)


# -- what consumes a collection --------------------------------------------------------------------
def count_items(frame: Frame, value: Any) -> int:
    return len(value)


def truth(function: Callable[[Iterator[Any]], bool]) -> Callable[..., bool]:
    """`any` or `all`, which stop where Python's do."""
    return lambda frame, items: function(iterate_any(frame, items))


def add_up(frame: Frame, items: Any, start: Any = 0) -> Any:
    if isinstance(items, set):
        raise TypeError("a set has no order to add its items in: sum a list")
    if isinstance(start, str | bytes | list | tuple):
        raise TypeError(f"sum() cannot start with a {type(start).__name__}: it adds numbers")
    if isinstance(items, list | tuple):
        frame.spend(weigh(items))
        total = sum(items, start)
    else:
        total = sum(_summands(frame, iterate(frame, items), start), start)
    if type(total) is int:
        limit_bits(total.bit_length())
    return total


def _summands(frame: Frame, items: Iterator[Any], start: Any) -> Iterator[Any]:
    """The items, each with what adding it costs; the sum so far is no longer than the longest of them, or `start`."""
    longest = weigh_int(start) if isinstance(start, int) else 0
    for item in items:
        frame.spend_on(item)
        if type(item) is int:
            longest = max(longest, weigh_int(item))
        if longest:
            frame.spend(longest >> 5)
        yield item


def extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    """`min` or `max`."""

    def pick(frame: Frame, first: Any, *others: Any, key: Any = None, **default: Any) -> Any:
        if others:
            for arg in (first, *others):
                frame.spend_on(arg)
            return function(first, *others, key=_paid_key(frame, key), **default)
        items = _ordered_by_value(first, key)
        if isinstance(items, list | tuple | dict | str | set) and key is None:
            frame.spend_on(items)
            return function(items, **default)
        return function(_paid(frame, iterate_any(frame, items)), key=_paid_key(frame, key), **default)

    return pick


def _paid(frame: Frame, items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        frame.spend_on(item)
        yield item


def _paid_key(frame: Frame, key: Any) -> Any:
    if key is None:
        return None

    def paid(item: Any) -> Any:
        value = key(item)
        frame.spend_on(value)
        return value

    return paid


def _ordered_by_value(items: Any, key: Any) -> Any:
    """Refuses a set from which something is picked by more than its values: what comes first of equal ones."""
    if isinstance(items, set):
        if key is not None:
            raise TypeError(
                "with a key, the order of a set's items would tell: sort it first, sorted(sorted(...))"
            )
        if any(item != item for item in items):
            raise TypeError("a set with nan has no order")
    return items


def sort(frame: Frame, items: Any, key: Any = None, reverse: Any = False) -> list[Any]:
    items = _ordered_by_value(items, key)
    values = list(iterate_any(frame, items)) if isinstance(items, set) else collected(frame, items)
    if key is None:
        _spend_on_sorting(frame, values)
        return sorted(values, reverse=reverse)
    keys = [key(value) for value in values]
    _spend_on_sorting(frame, keys)
    places = sorted(range(len(values)), key=keys.__getitem__, reverse=reverse)
    return [values[place] for place in places]


def _spend_on_sorting(frame: Frame, keys: list[Any]) -> None:
    # Each comparison looks at most at all of a key.
    times = len(keys).bit_length()
    for key in keys:
        frame.spend(weigh(key) * times)


# -- what makes a collection -----------------------------------------------------------------------
def make_list(frame: Frame, items: Any = ()) -> list[Any]:
    return collected(frame, items)


def make_tuple(frame: Frame, items: Any = ()) -> tuple[Any, ...]:
    return (
        items if isinstance(items, tuple) and not isinstance(items, Enum) else tuple(collected(frame, items))
    )


def make_set(frame: Frame, items: Any = ()) -> set[Any]:
    if isinstance(items, set):
        return items
    return set_of(frame, _hashable(iterate(frame, items)))


def _hashable(items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        check_hashable(item)
        yield item


def set_of(frame: Frame, items: Iterator[Any]) -> set[Any]:
    """A set of items that can be hashed. Raises `LimitExceeded`."""
    kept = list(items)
    frame.spend(2 * weigh(kept))
    limit_collisions(kept)
    return set(kept)


def make_dict(frame: Frame, items: Any = (), /, **more: Any) -> dict[Any, Any]:
    if isinstance(items, dict):
        pairs = list(items.items())
    else:
        pairs = [_pair(frame, place, item) for place, item in enumerate(iterate(frame, items))]
    return dict_of(frame, [*pairs, *more.items()])


def _pair(frame: Frame, place: int, item: Any) -> tuple[Any, Any]:
    if not isinstance(item, list | tuple | str | bytes | dict):
        if isinstance(item, set):
            iterate(frame, item)
        raise TypeError(f"cannot convert dictionary update sequence element #{place} to a sequence")
    if len(item) != 2:
        raise ValueError(f"dictionary update sequence element #{place} has length {len(item)}; 2 is required")
    key, value = cast("Any", item)
    check_hashable(key)
    return key, value


def dict_of(frame: Frame, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict of pairs whose keys can be hashed. Raises `LimitExceeded`."""
    limit_collisions([key for key, _ in pairs])
    value = dict(pairs)
    frame.spend(2 * weigh(value))
    return value


NO_SETS: Final = ["list", "tuple", "sum", "dict", "enumerate", "zip", ".join"]
"""The functions that would show the order of a set."""
