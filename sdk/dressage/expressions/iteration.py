"""Going through values in their order, and what Python makes lazily: ranges, enumerate, zip, views of dicts.

What is lazy is no value: no variable can hold it. It stands only where it is consumed at once, as the iterable of a
comprehension or the argument of `sum`, and whoever consumes it pays for each item when it takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.frame import OPERATION_WORK, Frame
from dressage.expressions.limits import ITEM_WEIGHT, VALUE_MAX_WEIGHT, limit_bits, weigh
from dressage.expressions.operators import VIEWS
from dressage.expressions.values import encode_stored, type_name

_STEP_WORK: Final = 3 * OPERATION_WORK
"""Units of taking one item from what is lazy."""

_SIZED = (list, tuple, str, bytes, dict, *VIEWS)

UNORDERED: Final = "a set has no order that a run could know: write sorted(...)"


def iterate(frame: Frame, value: Any) -> Iterator[Any]:
    """Python's `iter(value)`, paid for. Raises `TypeError` for what has no items, and for a set."""
    if isinstance(value, _SIZED):
        frame.spend(ITEM_WEIGHT * len(value))
        return iter(value)
    if isinstance(value, range):
        return metered(frame, value)
    if isinstance(value, Iterator):
        return value
    if isinstance(value, set):
        raise TypeError(UNORDERED)
    raise TypeError(f"'{type_name(value)}' object is not iterable")


def iterate_any(frame: Frame, value: Any) -> Iterator[Any]:
    """Like `iterate`, for who does not ask for the order: a set's items come in one that does not change."""
    if isinstance(value, set):
        frame.spend(2 * weigh(value))
        return iter(sorted(value, key=encode_stored))
    return iterate(frame, value)


def metered(frame: Frame, items: Iterable[Any]) -> Iterator[Any]:
    """The items, each paid for when it is taken."""
    for item in items:
        frame.spend(_STEP_WORK)
        yield item


def collected(frame: Frame, value: Any) -> list[Any]:
    """All items as a list. What is too long is not begun where that can be known. Raises `LimitExceeded`."""
    if isinstance(value, range):
        limit_items(value)
    items = list(iterate(frame, value))
    frame.spend(weigh(items))
    return items


def limit_items(items: range) -> None:
    """Refuses a range that no list could hold."""
    # Not len(), which fails for what has more than 2**63 items.
    if items and abs(items[-1] - items[0]) // abs(items.step) >= VALUE_MAX_WEIGHT // ITEM_WEIGHT:
        raise LimitExceeded(
            "value-size",
            f"a range is too long to be made a value: at most a weight of {VALUE_MAX_WEIGHT} is allowed, "
            f"{ITEM_WEIGHT} for each item",
        )


# -- unpacking -------------------------------------------------------------------------------------
def unpack(frame: Frame, value: Any, count: int, star: int | None = None) -> list[Any]:
    """The values for `count` targets; `star` is the place among them of the one that takes the rest, as a list.

    Raises Python's errors where the number differs.
    """
    if not isinstance(value, (*_SIZED, Iterator, range, set)):
        raise TypeError(f"cannot unpack non-iterable {type_name(value)} object")
    needed = count if star is None else count - 1
    source = iterate(frame, value)
    items: list[Any] = []
    for item in source:
        items.append(item)
        if star is None and len(items) > count:
            raise ValueError(f"too many values to unpack (expected {count})")
    if len(items) < needed:
        most = "" if star is None else "at least "
        raise ValueError(f"not enough values to unpack (expected {most}{needed}, got {len(items)})")
    if star is not None:
        behind = len(items) - (count - star - 1)
        items[star:behind] = [items[star:behind]]
    return items


def unpacked(frame: Frame, value: Any, count: int, star: int | None = None) -> tuple[Any, ...]:
    """`unpack` as the compiler asks for it: the values as one."""
    return tuple(unpack(frame, value, count, star))


# -- what is lazy ----------------------------------------------------------------------------------
def make_range(frame: Frame, *args: Any) -> range:
    for arg in args:
        if isinstance(arg, int):
            limit_bits(arg.bit_length())
    return range(*args)


def make_enumerate(frame: Frame, items: Any, start: Any = 0) -> Iterator[Any]:
    return metered(frame, enumerate(iterate(frame, items), start))


def make_zip(frame: Frame, *collections: Any, strict: Any = False) -> Iterator[Any]:
    return metered(frame, zip(*[iterate(frame, each) for each in collections], strict=bool(strict)))


def make_reversed(frame: Frame, items: Any) -> Iterator[Any]:
    if not isinstance(items, (*_SIZED, range)):
        raise TypeError(f"'{type_name(items)}' object is not reversible")
    return metered(frame, reversed(cast("Any", items)))


def view_of(name: str) -> Callable[[Frame, dict[Any, Any]], Any]:
    view: Callable[[dict[Any, Any]], Any] = getattr(dict, name)
    return lambda frame, receiver: view(receiver)
