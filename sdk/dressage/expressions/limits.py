"""The limits of the evaluator, checked before the operation that would pass them.

A workflow's author may write `"x" * 10**9`; the orchestrator that evaluates it is everybody's, so what is too
large ends that run with a named error and costs nobody else memory or time.
"""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from typing import Any

from dressage.expressions.errors import LimitExceeded

INT_BITS_MAX = 14_000
"""Bits of an int: some 4,200 digits, below the 4,300 up to which Python itself turns ints into text."""

DIGITS_MAX = 4_200
"""Digits of a Decimal, in a text that becomes a number, and in a number that becomes a text."""

TEXT_MAX_CHARS = 1_048_576
"""Length of a str or bytes."""

VALUE_MAX_WEIGHT = 1_048_576
"""Size of a value with all that it holds: about its bytes in JSON (see `weigh`)."""

VALUE_MAX_DEPTH = 64
"""How deep lists, dicts and records may nest."""

FORMAT_WIDTH_MAX = 10_000
"""Width and precision in a format spec."""

EXPRESSION_MAX_DEPTH = 100
"""How deep an expression may nest."""

ITEM_WEIGHT = 8
"""What any value weighs beside its characters, so that many empty ones do not come for nothing."""


def limit_text(size: int) -> None:
    """Refuses a text of `size` characters if that is too long."""
    if size > TEXT_MAX_CHARS:
        raise LimitExceeded(f"a text of {size} characters is too long: at most {TEXT_MAX_CHARS} are allowed")


def limit_bits(bits: int) -> None:
    """Refuses an int of about `bits` bits if that is too large."""
    if bits > INT_BITS_MAX:
        raise LimitExceeded(f"an int of about {bits} bits is too large: at most {INT_BITS_MAX} are allowed")


def limit_decimal(value: Decimal) -> None:
    """Refuses a Decimal that has too many digits when written out without exponent."""
    if value.is_finite() and abs(value.adjusted()) > DIGITS_MAX:
        raise LimitExceeded(f"a Decimal has more than {DIGITS_MAX} digits when written out")


def weigh(value: Any, *, beside: int = 0) -> int:
    """The size of `value` with all that it holds: characters and a constant for each value, shared ones each time.

    Raises `LimitExceeded` above `VALUE_MAX_WEIGHT - beside` or below `VALUE_MAX_DEPTH`, as soon as that is known.
    """
    budget = VALUE_MAX_WEIGHT - beside
    left = _spend(value, budget, VALUE_MAX_DEPTH)
    return budget - left


def _spend(value: Any, budget: int, depth: int) -> int:
    """What is left of `budget` after `value`."""
    if depth < 0:
        raise LimitExceeded(f"a value nests too deep: at most {VALUE_MAX_DEPTH} levels are allowed")
    kind = type(value)
    if kind is str or kind is bytes:
        budget -= ITEM_WEIGHT + len(value)
    else:
        budget -= ITEM_WEIGHT
        for part in _parts(value):
            part_kind = type(part)
            if part_kind is str:
                budget -= ITEM_WEIGHT + len(part)
            elif part_kind is int or part_kind is float or part_kind is bool or part is None:
                budget -= ITEM_WEIGHT
            else:
                budget = _spend(part, budget, depth - 1)
            if budget < 0:
                break
    if budget < 0:
        raise LimitExceeded(f"a value is too large: at most a weight of {VALUE_MAX_WEIGHT} is allowed")
    return budget


def _parts(value: Any) -> Any:
    if isinstance(value, list | tuple | set):
        return value
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, Enum):
        return ()
    names = getattr(value, "__struct_fields__", None)
    return [getattr(value, name) for name in names] if names else ()
