"""Masked values: what a workflow passes on without looking, and readers see as `***`.

A `MaskedValue` is no struct, so an encoder that was not told what to do with one raises instead of showing it: which
of the two encoders here to take is a decision at each place where a value leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

HIDDEN: Final = "***"
"""What readers, events and logs get in place of a masked value."""

_REPEATED: Final = re.compile(r"(?s)Invalid enum value .*?(?= - at|$)")
_OPAQUE: Final = "a masked value is passed on unseen: it can only be compared with None"


class MaskedValue:
    """A value of type `Masked[T]`, which is never None: None is not hidden."""

    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __eq__(self, other: object) -> bool:
        if other is None:
            return False
        raise TypeError(_OPAQUE)

    def __hash__(self) -> int:
        raise TypeError(_OPAQUE)

    def __bool__(self) -> bool:
        raise TypeError(_OPAQUE)

    def __repr__(self) -> str:
        return HIDDEN


def mask(value: Any) -> Any:
    """`value` as a masked one; None, and what is masked already, stays as it is."""
    return value if value is None or type(value) is MaskedValue else MaskedValue(value)


def without_values(text: str) -> str:
    """What msgspec says is wrong, without the one thing in which it repeats a value."""
    return _REPEATED.sub("Invalid enum value", text)


def has_masked(value: Any, parts_of: Callable[[Any], Iterable[Any]]) -> bool:
    """Whether there is a masked value somewhere in `value`."""
    return type(value) is MaskedValue or any(has_masked(part, parts_of) for part in parts_of(value))


def _reveal(value: Any) -> Any:
    if type(value) is MaskedValue:
        return value.inside
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _hide(value: Any) -> Any:
    if type(value) is MaskedValue:
        return HIDDEN
    raise TypeError(f"a {type(value).__name__} is no JSON")


encode_revealed = msgspec.json.Encoder(enc_hook=_reveal).encode
"""JSON with masked values in clear: for workers, for the run's state, and for who awaits the result."""

_encode_in_order = msgspec.json.Encoder(enc_hook=_reveal, order="sorted").encode


def encode_sorted(value: Any) -> bytes:
    """The same with keys in the order of the alphabet and sets in one order, so that equal values give equal bytes."""
    try:
        return _encode_in_order(value)
    except TypeError:
        # Keys that are no texts, or items that Python has no order for.
        return _encode_in_order(_orderly(value))


def _orderly(value: Any) -> Any:
    """A value as plain JSON values whose order is what they are written as."""
    if type(value) is MaskedValue:
        return _orderly(value.inside)
    if isinstance(value, dict):
        pairs: dict[Any, Any] = value
        return {_text_of_key(key): _orderly(item) for key, item in pairs.items()}
    if isinstance(value, set):
        items: set[Any] = value
        return sorted(map(_orderly, items), key=_encode_in_order)
    if isinstance(value, list | tuple):
        several: Iterable[Any] = value
        return [_orderly(item) for item in several]
    if isinstance(value, msgspec.Struct):
        return {name: _orderly(getattr(value, name)) for name in value.__struct_fields__}
    return value


def _text_of_key(key: Any) -> str:
    (text,) = msgspec.json.decode(encode_revealed({key: None}), type=dict[str, None])
    return text


encode_hidden = msgspec.json.Encoder(enc_hook=_hide).encode
"""JSON with `***` for masked values: for everybody else."""
