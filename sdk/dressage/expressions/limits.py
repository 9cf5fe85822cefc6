"""The limits of the evaluator, checked before the operation that would pass them.

A workflow's author may write `"x" * 10**9`; the orchestrator that evaluates it is everybody's, so what is too
large ends that run with a named error and costs nobody else memory or time. What is small but done often is bounded
by the frame's work (see `dressage.expressions.frame`). The names in the errors are those of docs/limits.md.
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.opaque import OpaqueValue

INT_BITS_MAX = 14_000
"""Bits of an int: some 4,200 digits, below the 4,300 up to which Python itself turns ints into text."""

DIGITS_MAX = 4_200
"""Digits of a Decimal, in a text that becomes a number, and in a number that becomes a text."""

POWER_DIGITS_MAX = 200
"""Digits of a Decimal that is raised to a power: with 4,200 of them that took more than a second."""

TEXT_MAX_CHARS = 1_048_576
"""Length of a str or bytes."""

VALUE_MAX_WEIGHT = 1_048_576
"""Size of a value with all that it holds: about its bytes in JSON (see `weigh`)."""

VALUE_MAX_DEPTH = 64
"""How deep lists, dicts and records may nest."""

COLLISIONS_MAX = 256
"""Keys of a dict or items of a set whose hash another one has, too."""

FORMAT_WIDTH_MAX = 10_000
"""Width and precision in a format spec."""

FORMAT_SPEC_CHARS_MAX = 1_000
"""Length of a format spec."""

EXPRESSION_MAX_DEPTH = 100
"""How deep an expression may nest."""

ITEM_WEIGHT = 8
"""What any value weighs beside its characters, so that many empty ones do not come for nothing."""

SMALL_BITS = 128
"""An int of so many bits costs no more than any other value."""

_BIG = 1 << SMALL_BITS
_TEXTS = frozenset({str})
_COLLECTIONS = frozenset({list, tuple, set})
_NESTING = _COLLECTIONS | {dict}
SMALL_DECIMAL_BYTES = Decimal(10**75).__sizeof__()
"""What the decimal module needs for any Decimal of up to 76 digits."""


def limit_text(size: int) -> None:
    """Refuses a text of `size` characters if that is too long."""
    if size > TEXT_MAX_CHARS:
        raise LimitExceeded(
            "text-size",
            f"a text of {size} characters is too long: at most {TEXT_MAX_CHARS} are allowed; pass a reference to it",
        )


def limit_bits(bits: int) -> None:
    """Refuses an int of about `bits` bits if that is too large."""
    if bits > INT_BITS_MAX:
        raise LimitExceeded(
            "int-size",
            f"an int of about {bits} bits is too large: at most {INT_BITS_MAX} are allowed; compute it in a task",
        )


def limit_digits(digits: int, most: int = DIGITS_MAX) -> None:
    """Refuses a number that has, or would have, so many digits."""
    if digits > most:
        raise LimitExceeded(
            "number-digits",
            f"a number of {digits} digits is too long: at most {most} are allowed here; compute it in a task",
        )


def limit_decimal(value: Decimal) -> None:
    """Refuses a Decimal that has too many digits when written out without exponent."""
    if value.is_finite():
        limit_digits(abs(value.adjusted()))


def limit_collisions(keys: Collection[Any]) -> None:
    """Refuses keys that were made to share their hashes: a dict of n such keys costs n * n comparisons.

    The hashes of texts are secret; those of numbers and UUIDs are not.
    """
    if len(keys) <= COLLISIONS_MAX or _TEXTS.issuperset(map(type, keys)):
        return
    shared = len(keys) - len(set(map(hash, keys)))
    # Keys that are equal share their hash as well, and do no harm. Texts tell them apart at no risk.
    if shared > COLLISIONS_MAX and shared > COLLISIONS_MAX + len(keys) - len(set(map(repr, keys))):
        raise LimitExceeded(
            "hash-collisions",
            f"{shared} keys or items of one dict or set share their hash with others: at most {COLLISIONS_MAX} may",
        )


def weigh(value: Any, *, beside: int = 0) -> int:
    """The size of `value` with all that it holds: characters and a constant for each value, shared ones each time.

    A number of more than 38 digits weighs by the square of its length, as the work that it makes does. Raises
    `LimitExceeded` above `VALUE_MAX_WEIGHT - beside` or below `VALUE_MAX_DEPTH`, as soon as that is known.
    """
    budget = VALUE_MAX_WEIGHT - beside
    left = _spend(value, budget, VALUE_MAX_DEPTH)
    return budget - left


def weigh_int(value: int) -> int:
    """What an int weighs beyond `ITEM_WEIGHT`."""
    bits = value.bit_length()
    return bits * bits >> 13 if bits > SMALL_BITS else 0


def weigh_decimal(value: Decimal) -> int:
    """What a Decimal weighs beyond `ITEM_WEIGHT`."""
    if value.__sizeof__() <= SMALL_DECIMAL_BYTES:
        return 0
    digits = len(value.as_tuple().digits)
    return digits * digits >> 9


def _spend(value: Any, budget: int, depth: int) -> int:
    """What is left of `budget` after `value`."""
    kind = type(value)
    if kind is str or kind is bytes:
        budget -= ITEM_WEIGHT + len(value)
    elif kind is Decimal:
        budget -= ITEM_WEIGHT + weigh_decimal(value)
    elif kind is int:
        budget -= ITEM_WEIGHT + weigh_int(value)
    else:
        budget -= ITEM_WEIGHT
        parts = parts_of_value(value)
        if depth <= 0 and (parts or kind in _NESTING):
            raise LimitExceeded(
                "value-depth",
                f"a value nests too deep: at most {VALUE_MAX_DEPTH} levels are allowed; make it flatter",
            )
        for part in parts:
            part_kind = type(part)
            if part_kind is str:
                budget -= ITEM_WEIGHT + len(part)
            elif (
                (part_kind is int and -_BIG < part < _BIG)
                or part_kind is float
                or part_kind is bool
                or part is None
            ):
                budget -= ITEM_WEIGHT
            else:
                budget = _spend(part, budget, depth - 1)
            if budget < 0:
                break
    if budget < 0:
        raise LimitExceeded(
            "value-size",
            f"a value is too large: at most a weight of {VALUE_MAX_WEIGHT} is allowed; pass a reference to it",
        )
    return budget


def parts_of_value(value: Any) -> Any:
    """The values directly inside a value: items, keys, fields, what is masked, the JSON of what is large."""
    kind = type(value)
    if kind in _COLLECTIONS:
        return value
    if kind is dict:
        return [*value, *value.values()]
    names = getattr(kind, "__struct_fields__", None)
    if names:
        return [getattr(value, name) for name in names]
    if isinstance(value, OpaqueValue):
        return (value.inside,)
    return value if isinstance(value, tuple) else ()
