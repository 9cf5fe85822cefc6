"""What a declared type means for a value that already exists: is it of the type, and how is the type written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, Literal, Union, cast
from uuid import UUID

import msgspec

from dressage.expressions.large import LargeValue, looks_large
from dressage.expressions.masked import MaskedValue, mask
from dressage.expressions.opaque import OpaqueValue
from dressage.protocol.errors import BadSpec
from dressage.protocol.types import (
    NONE,
    DictOf,
    LargeOf,
    ListOf,
    LiteralOf,
    MaskedOf,
    Named,
    Scalar,
    SetOf,
    TupleOf,
    TypeRef,
    UnionOf,
)

Check = Callable[[Any], str | None]
"""Returns None for a value of the type, else the path to what is wrong and what it is: `[3]: expected int, got str`."""

Fix = Callable[[Any], Any]

PYTHON_TYPES: dict[str, Any] = {
    "any": Any,
    "none": None,
    "bool": bool,
    "int": int,
    # The stored form of a record must give back the int that Python lets stand where a float is declared.
    "float": int | float,
    "str": str,
    "bytes": bytes,
    "decimal": Decimal,
    "datetime": datetime,
    "date": date,
    "timedelta": timedelta,
    "uuid": UUID,
}
_TEXTS = frozenset({str})
_SCALARS = frozenset({str, int, bool, type(None)})
"""What JSON can say whatever its value; a float may be infinite."""

_SHOWN = {"any": "Any", "none": "None", "decimal": "Decimal", "uuid": "UUID"}


def shown(ref: TypeRef) -> str:
    """The type as Python writes it."""
    match ref:
        case Scalar(name):
            return _SHOWN.get(name, name)
        case ListOf(item):
            return f"list[{shown(item)}]"
        case SetOf(item):
            return f"set[{shown(item)}]"
        case TupleOf(items):
            return f"tuple[{', '.join(map(shown, items)) or '()'}]"
        case DictOf(key, value):
            return f"dict[{shown(key)}, {shown(value)}]"
        case UnionOf(options):
            return " | ".join(map(shown, options))
        case LiteralOf(values):
            return f"Literal[{', '.join(map(repr, values))}]"
        case Named(name):
            return name
        case MaskedOf(item):
            return f"Masked[{shown(item)}]"
        case LargeOf(item):
            return f"Large[{shown(item)}]"


def shown_value(value: Any) -> str:
    """The kind of a value, for messages; the value itself may be long, or secret."""
    if value is None:
        return "None"
    return value.said if isinstance(value, OpaqueValue) else type(value).__name__


def literal(values: tuple[str | int | bool | None, ...]) -> Any:
    """The `Literal` of these values. Raises `BadSpec` for bools, which JSON readers take for ints or not."""
    if not values or any(isinstance(value, bool) for value in values):
        raise BadSpec("a Literal holds str, int or None: use `bool` for True and False")
    return cast("Any", Literal)[values]


def union(options: list[Any], ref: TypeRef) -> Any:
    """The union of Python types. Raises `BadSpec` for a Decimal beside a float: a number in JSON could be either."""
    scalars = ref.options if isinstance(ref, UnionOf) else ()
    if Scalar("decimal") in scalars and Scalar("float") in scalars:
        raise BadSpec(
            f"type {shown(ref)} cannot be read from JSON without guessing: use Decimal or float alone"
        )
    if any(isinstance(option, MaskedOf) for option in scalars) and len(options) > 1 + (NONE in scalars):
        raise BadSpec(f"type {shown(ref)} is masked by halves: mask the whole union, as Masked[int | str]")
    if any(isinstance(option, LargeOf) for option in scalars):
        raise BadSpec(
            f"type {shown(ref)} is large by halves: make the whole union large, as Large[int | str]"
        )
    # `Union[...]` rather than `|`: an option may be a plain object such as None.
    return cast("Any", Union)[tuple(options)]


# -- is a value of the type? -----------------------------------------------------------------------
def checker(ref: TypeRef, classes: Mapping[str, type], *, wire: bool = True) -> Check:
    """A function that says what is wrong with a value. Types are exact: a bool is no int, a datetime no date.

    `wire` is for what must become JSON, where `Any` has to be; without it `Any` admits every value.
    """
    expected = shown(ref)
    match ref:
        case Scalar("any"):
            return not_json if wire else _everything
        case Scalar("float"):
            return _check_float if wire else _check_any_float
        case Scalar("none"):
            return lambda value: None if value is None else _wrong(expected, value)
        case Scalar(name):
            return _exact(PYTHON_TYPES[name], expected)
        case Named(name):
            keys: dict[str, Check] | None = getattr(classes[name], "key_checks", None)
            return (
                _exact(classes[name], expected)
                if keys is None
                else _known_keys(classes[name], keys, expected)
            )
        case MaskedOf(item):
            return _inside(checker(item, classes, wire=wire))
        case LargeOf(item):
            return _or_large(checker(item, classes), expected)
        case LiteralOf(values):
            return lambda value: _not_literal(value, values, expected)
        case UnionOf(options):
            return _any_of([checker(option, classes, wire=wire) for option in options], expected)
        case ListOf(item):
            return _all_in(list, checker(item, classes, wire=wire), expected)
        case SetOf(item):
            return _all_in(set, checker(item, classes, wire=wire), expected)
        case TupleOf(items):
            return _places([checker(item, classes, wire=wire) for item in items], expected)
        case DictOf(key, item):
            return _members(checker(key, classes, wire=wire), checker(item, classes, wire=wire), expected)


def _everything(value: Any) -> str | None:
    return None


def _wrong(expected: str, value: Any) -> str:
    return f": expected {expected}, got {shown_value(value)}"


def _exact(kind: type, expected: str) -> Check:
    def check(value: Any) -> str | None:
        return None if type(value) is kind else _wrong(expected, value)

    return check


def _check_float(value: Any) -> str | None:
    if type(value) is float:
        return None if isfinite(value) else f": expected a finite float, got {value}"
    return None if type(value) is int else _wrong("float", value)


def _check_any_float(value: Any) -> str | None:
    return None if type(value) is float or type(value) is int else _wrong("float", value)


def _not_literal(value: Any, values: tuple[Any, ...], expected: str) -> str | None:
    same = any(type(value) is type(each) and value == each for each in values)
    return None if same else f": expected {expected}, got another {shown_value(value)}"


def _any_of(options: list[Check], expected: str) -> Check:
    def check(value: Any) -> str | None:
        for option in options:
            if option(value) is None:
                return None
        return _wrong(expected, value)

    return check


def _all_in(kind: type, item_check: Check, expected: str) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is not kind:
            return _wrong(expected, value)
        items = cast("Iterable[Any]", value)
        for index, item in enumerate(items):
            wrong = item_check(item)
            if wrong is not None:
                return f"[{index}]{wrong}"
        return None

    return check


def _places(item_checks: list[Check], expected: str) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is not tuple or len(value) != len(item_checks):
            return _wrong(expected, value)
        for index, (item_check, item) in enumerate(zip(item_checks, value, strict=True)):
            wrong = item_check(item)
            if wrong is not None:
                return f"[{index}]{wrong}"
        return None

    return check


def _members(key_check: Check, item_check: Check, expected: str) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is not dict:
            return _wrong(expected, value)
        for key, item in value.items():
            wrong = key_check(key)
            if wrong is not None:
                return f" key{wrong}"
            wrong = item_check(item)
            if wrong is not None:
                return f"[...]{wrong}"
        return None

    return check


def _known_keys(kind: Any, checks: Mapping[str, Check], expected: str) -> Check:
    """For a dict whose keys a TypedDict names."""
    required: frozenset[str] = kind.__required_keys__

    def check(value: Any) -> str | None:
        if type(value) is not dict:
            return _wrong(expected, value)
        for name in required - value.keys():
            return f": expected {expected}, got a dict without {name}"
        for name, item in value.items():
            item_check = checks.get(name) if type(name) is str else None
            if item_check is None:
                return f": expected {expected}, got a dict with other keys"
            wrong = item_check(item)
            if wrong is not None:
                return f".{name}{wrong}"
        return None

    return check


def _inside(item_check: Check) -> Check:
    """For a masked type; a plain value is taken, too: where it is stored it is masked."""
    return lambda value: item_check(value.inside if type(value) is MaskedValue else value)


def _or_large(item_check: Check, expected: str) -> Check:
    """For a large type; a value of the type inside is taken, too, as long as nobody could take it for a reference."""

    def check(value: Any) -> str | None:
        if type(value) is LargeValue:
            return None
        if looks_large(value):
            return f": expected {expected}, got a dict with the key $large: let a task make it"
        return item_check(value)

    return check


def not_json(value: Any) -> str | None:
    """What in `value` JSON cannot say as it is; None if it is JSON throughout."""
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:
        return None
    if kind is float:
        return _check_float(value)
    if kind is list:
        if _SCALARS.issuperset(map(type, value)):
            return None
        return _first_wrong(not_json(item) for item in value)
    if kind is dict:
        if not _TEXTS.issuperset(map(type, value)):
            return ": expected JSON, got a dict with keys that are not str"
        if _SCALARS.issuperset(map(type, value.values())):
            return None
        return _first_wrong(not_json(item) for item in value.values())
    return f": expected JSON, got {shown_value(value)}"


def _first_wrong(found: Any) -> str | None:
    for wrong in found:
        if wrong is not None:
            return f"[...]{wrong}"
    return None


# -- what the decoder leaves to do: floats that JSON wrote as ints, and masks ------------------------
Leaf = Callable[[TypeRef], Fix | None]


def float_fixer(ref: TypeRef, classes: Mapping[str, type]) -> Fix | None:
    """A function that turns the ints of freshly decoded wire JSON into floats where a float is declared.

    None if the type holds no float. Where both are declared, the writer's choice stands.
    """
    return _Fixes(classes, "float_fixes", _float_leaf).of(ref)


def masker(ref: TypeRef, classes: Mapping[str, type], large: Callable[[TypeRef], Fix]) -> Fix | None:
    """A function that makes masked or large what of a value the type says is; None if nothing is.

    `large` gives what makes values of a type large.
    """
    return _Fixes(
        classes, "mask_fixes", lambda part: large(part.item) if isinstance(part, LargeOf) else None
    ).of(ref)


def _float_leaf(ref: TypeRef) -> Fix | None:
    return _to_float if ref == Scalar("float") else None


def _to_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


class _Fixes:
    """Puts a change of single values together to one of whatever holds them; `of_fields` is where records keep it."""

    def __init__(self, classes: Mapping[str, type], of_fields: str, leaf: Leaf) -> None:
        self.classes = classes
        self.of_fields = of_fields
        self.leaf = leaf

    def of(self, ref: TypeRef) -> Fix | None:
        match ref:
            case UnionOf(options):
                if Scalar("int") in options:
                    options = tuple(option for option in options if option != Scalar("float"))
                return _fix_option([fix for option in options if (fix := self.of(option))])
            case ListOf(item):
                return _fix_items(list, self.of(item))
            case SetOf(item):
                return _fix_items(set, self.of(item))
            case DictOf(key, item):
                return _fix_members(self.of(key), self.of(item))
            case TupleOf(items):
                return _fix_places([self.of(item) for item in items])
            case MaskedOf(item):
                return _fix_masked(self.of(item), masks=self.of_fields == "mask_fixes")
            case Named(name):
                return self._of_record(self.classes[name])
            case _:
                return self.leaf(ref)

    def _of_record(self, kind: Any) -> Fix | None:
        fixes: dict[str, Fix] = getattr(kind, self.of_fields, {})
        if not fixes:
            return None
        if issubclass(kind, msgspec.Struct):
            return _only(kind, lambda value: _fix_fields(value, fixes))
        if issubclass(kind, tuple):
            return _only(kind, lambda value: _fix_named_places(value, fixes))
        return _only(dict, lambda value: _fix_keys(value, fixes))


def _fix_fields(value: Any, fixes: Mapping[str, Fix]) -> Any:
    changes: dict[str, Any] = {}
    for name, fix in fixes.items():
        before = getattr(value, name)
        after = fix(before)
        if after is not before:
            changes[name] = after
    return msgspec.structs.replace(value, **changes) if changes else value


def _fix_named_places(value: Any, fixes: Mapping[str, Fix]) -> Any:
    return value._replace(**{name: fix(getattr(value, name)) for name, fix in fixes.items()})


def _fix_keys(value: dict[str, Any], fixes: Mapping[str, Fix]) -> dict[str, Any]:
    return value | {name: fix(value[name]) for name, fix in fixes.items() if name in value}


def _fix_masked(inside: Fix | None, *, masks: bool) -> Fix | None:
    if not masks:
        return inside
    return (lambda value: mask(inside(value))) if inside else mask


def _only(kind: type, fix: Fix) -> Fix:
    """Applies `fix` to values of `kind` alone: in a union the others pass."""
    return lambda value: fix(value) if type(value) is kind else value


def _fix_items(kind: type, item: Fix | None) -> Fix | None:
    return _only(kind, lambda value: kind(map(item, value))) if item else None


def _fix_option(fixes: list[Fix]) -> Fix | None:
    if not fixes:
        return None

    def fix_union(value: Any) -> Any:
        for fix in fixes:
            value = fix(value)
        return value

    return fix_union


def _fix_members(key: Fix | None, item: Fix | None) -> Fix | None:
    if key is None and item is None:
        return None
    fix_key, fix_item = key or _same, item or _same
    return _only(dict, lambda value: {fix_key(name): fix_item(each) for name, each in value.items()})


def _fix_places(fixes: list[Fix | None]) -> Fix | None:
    if not any(fixes):
        return None
    places = [fix or _same for fix in fixes]
    return _only(tuple, lambda value: tuple(fix(each) for fix, each in zip(places, value, strict=True)))


def _same(value: Any) -> Any:
    return value
