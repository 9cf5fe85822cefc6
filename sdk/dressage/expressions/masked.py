"""Masked values: what a workflow passes on without looking, and readers see as `***`.

Which of the two encoders here to take is a decision at each place where a value leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

import msgspec

from dressage.expressions.large import LargeValue
from dressage.expressions.opaque import OpaqueValue

HIDDEN: Final = "***"
"""What readers, events and logs get in place of a masked value."""

_REPEATED: Final = re.compile(r"(?s)Invalid enum value .*?(?= - at|$)")


class MaskedValue(OpaqueValue):
    """A value of type `Masked[T]`, which is never None: None is not hidden."""

    __slots__ = ()

    said: ClassVar[str] = "a masked value"

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


def opaque_in(value: Any, parts_of: Callable[[Any], Iterable[Any]]) -> OpaqueValue | None:
    """The first masked or large value somewhere in `value`."""
    if isinstance(value, OpaqueValue):
        return value
    return next((found for part in parts_of(value) if (found := opaque_in(part, parts_of)) is not None), None)


def _reveal(value: Any) -> Any:
    if type(value) is MaskedValue:
        return value.inside
    return _written(value)


def _hide(value: Any) -> Any:
    if type(value) is MaskedValue:
        return HIDDEN
    return _written(value)


def _written(value: Any) -> msgspec.Raw:
    if type(value) is LargeValue:
        return msgspec.Raw(value.inside)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _reveal_in_order(value: Any) -> Any:
    return msgspec.json.decode(value.inside) if type(value) is LargeValue else _reveal(value)


encode_revealed = msgspec.json.Encoder(enc_hook=_reveal).encode
"""JSON with masked values in clear: for workers, for the run's state, and for who awaits the result."""

_encode_in_order = msgspec.json.Encoder(enc_hook=_reveal_in_order, order="sorted").encode


def encode_sorted(value: Any) -> bytes:
    """The same with keys in the order of the alphabet and sets in one order, so that equal values give equal bytes."""
    try:
        return _encode_in_order(value)
    except TypeError:
        # Keys that are no texts, or items that Python has no order for.
        return _encode_in_order(_orderly(value))


def _orderly(value: Any) -> Any:
    """A value as plain JSON values whose order is what they are written as."""
    if isinstance(value, OpaqueValue):
        return _orderly(_reveal_in_order(value))
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
