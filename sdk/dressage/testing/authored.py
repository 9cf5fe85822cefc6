"""From the engine's values to the author's: records and enums become instances of the classes of the source."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from dressage.expressions.values import Record


def authored(value: Any, classes: Mapping[str, type]) -> Any:
    """`value` with the author's classes, by their names, in place of those that the engine makes of a spec."""
    kind = type(value)
    if isinstance(value, Record):
        fields = {name: authored(getattr(value, name), classes) for name in value.__struct_fields__}
        return classes[kind.__name__](**fields)
    if isinstance(value, Enum):
        return getattr(classes[kind.__name__], value.name)
    if kind in (list, tuple, set):
        return kind(authored(item, classes) for item in value)
    if kind is dict:
        return {authored(key, classes): authored(item, classes) for key, item in value.items()}
    return value
