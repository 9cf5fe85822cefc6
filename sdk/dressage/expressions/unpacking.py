"""`a, *b, c = value`: a sequence taken apart, with Python's errors."""

from __future__ import annotations

from typing import Any

from dressage.expressions.frame import Frame
from dressage.expressions.limits import weigh


def unpack(frame: Frame, value: Any, before: int, after: int = -1) -> tuple[Any, ...]:
    """The items of `value`, as many as there are targets.

    Without a starred target there are `before` of them. With one there are `before` targets in front of it and
    `after` behind it, and its own item is the list of what is between.
    """
    if not isinstance(value, list | tuple | str | dict):
        kind = type(value).__name__
        if isinstance(value, set):
            raise TypeError("a set has no order to take its items in: unpack sorted(...) of it")
        raise TypeError(f"cannot unpack non-iterable {kind} object")
    frame.spend(weigh(value))
    items = list(value)
    if after < 0:
        if len(items) > before:
            raise ValueError(f"too many values to unpack (expected {before})")
        if len(items) < before:
            raise ValueError(f"not enough values to unpack (expected {before}, got {len(items)})")
        return tuple(items)
    if len(items) < before + after:
        raise ValueError(
            f"not enough values to unpack (expected at least {before + after}, got {len(items)})"
        )
    end = len(items) - after
    return (*items[:before], items[before:end], *items[end:])
