"""What comes from outside is held to the evaluator's limits before it is decoded, or at once behind that.

JSON of a few kilobytes can nest until a decoder gives up, hold a number that takes a second to multiply, or keys made
to share their hashes, which take seconds to put into one dict. Each check begins with something that is nearly free
and settles the matter for all common values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.limits import (
    COLLISIONS_MAX,
    DIGITS_MAX,
    VALUE_MAX_DEPTH,
    limit_collisions,
    limit_digits,
    parts_of_value,
)
from dressage.protocol.errors import BadValue
from dressage.protocol.nesting import nests_deeper
from dressage.protocol.types import (
    DictOf,
    Field,
    LargeOf,
    ListOf,
    LiteralOf,
    MaskedOf,
    Named,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeDef,
    TypeRef,
    UnionOf,
)

_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY: Final = b"0" * (DIGITS_MAX + 1)
_UNORDERED_BYTES: Final = 2 * COLLISIONS_MAX
"""Fewer bytes cannot hold so many keys."""

HARMLESS_BYTES: Final = VALUE_MAX_DEPTH
"""JSON of so many bytes passes no limit: there is no need to ask."""

PythonType = Callable[[TypeRef], Any]
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True, frozen=True)
class Traits:
    """What in a type calls for a closer look."""

    decimals: bool = False
    hashed: bool = False
    """It holds sets, or dicts with keys that are no texts."""

    def __or__(self, other: Traits) -> Traits:
        return Traits(self.decimals or other.decimals, self.hashed or other.hashed)


_STR: Final = Scalar("str")


class Admissions:
    """Makes the admissions of one table of types."""

    def __init__(self, definitions: Mapping[str, TypeDef], python_type: PythonType) -> None:
        self.definitions = definitions
        self.python_type = python_type
        self._traits: dict[str, Traits] = {}

    def of(self, ref: TypeRef) -> Admission:
        """The admission of a type whose records do not contain themselves."""
        return Admission(self, (ref,), self._traits_of(ref))

    def of_fields(self, fields: Collection[Field]) -> Admission:
        """The admission of parameters: a JSON object of values by name."""
        traits = self._all([field.type for field in fields])
        return Admission(self, tuple(fields), traits)

    def _traits_of(self, ref: TypeRef) -> Traits:
        match ref:
            case Scalar(name):
                return Traits(decimals=name == "decimal")
            case LiteralOf() | LargeOf():
                return Traits()  # What is large is decoded by itself.
            case ListOf(item) | MaskedOf(item):
                return self._traits_of(item)
            case SetOf(item):
                return Traits(hashed=True) | self._traits_of(item)
            case DictOf(key, value):
                return Traits(hashed=key != _STR) | self._traits_of(key) | self._traits_of(value)
            case TupleOf(parts) | UnionOf(parts):
                return self._all(parts)
            case Named(name):
                # Records may be parts of many others, so each is looked at once.
                if name not in self._traits:
                    definition = self.definitions.get(name)
                    fields = definition.fields if isinstance(definition, RecordType) else ()
                    self._traits[name] = self._all([field.type for field in fields])
                return self._traits[name]

    def _all(self, parts: Iterable[TypeRef]) -> Traits:
        found = Traits()
        for part in parts:
            found |= self._traits_of(part)
        return found


class Admission:
    """Checks the wire JSON of one type. Made once for each, by its codec."""

    def __init__(self, types: Admissions, shape: tuple[TypeRef | Field, ...], traits: Traits) -> None:
        self._types = types
        self._shape = shape
        self._traits = traits
        self.guards_hashes = traits.hashed

    def before(self, data: bytes) -> None:
        """Raises `BadValue`, which names the limit, for JSON that must not be decoded."""
        try:
            limit_depth(data)
            if self._traits.hashed and len(data) > _UNORDERED_BYTES:
                self._limit_collisions(data)
        except LimitExceeded as error:
            raise BadValue(error.message) from error

    def behind(self, data: bytes, value: Any) -> None:
        """Raises `BadValue` for a decoded value of more than `DIGITS_MAX` bytes that is not admitted."""
        if self._traits.decimals and _TOO_MANY in data.translate(_DIGITS):
            try:
                for number in _decimals_in(value):
                    limit_digits(len(number.as_tuple().digits))
            except LimitExceeded as error:
                raise BadValue(error.message) from error

    def _limit_collisions(self, data: bytes) -> None:
        """Reads the JSON with texts as keys, whose hashes are secret, to look at what the keys would become."""
        try:
            plain = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # The decoding itself will say what is wrong.
        for item, keys in self._keys(plain):
            if len(keys) > COLLISIONS_MAX:
                kind: Any = list[self._types.python_type(item)]  # type: ignore[misc]
                try:
                    typed = msgspec.convert(keys, kind, strict=False)
                except (msgspec.MsgspecError, ValueError, ArithmeticError):
                    continue
                limit_collisions(typed)

    def _keys(self, plain: Any) -> Iterator[tuple[TypeRef, list[Any]]]:
        for part in self._shape:
            if not isinstance(part, Field):
                yield from self._keys_in(part, plain)
            elif isinstance(plain, dict):
                yield from self._keys_in(part.type, plain.get(part.name))

    def _keys_in(self, ref: TypeRef, value: Any) -> Iterator[tuple[TypeRef, list[Any]]]:
        """The items of each set and the keys of each dict inside `value`, with their type."""
        match ref:
            case SetOf(item) if isinstance(value, list):
                yield item, value
            case DictOf(key, item) if isinstance(value, dict):
                if key != _STR:
                    yield key, list(value)
                for each in value.values():
                    yield from self._keys_in(item, each)
            case ListOf(item) if isinstance(value, list):
                for each in value:
                    yield from self._keys_in(item, each)
            case TupleOf(items) if isinstance(value, list):
                for item, each in zip(items, value, strict=False):
                    yield from self._keys_in(item, each)
            case UnionOf(options):
                for option in options:
                    yield from self._keys_in(option, value)
            case MaskedOf(item):
                yield from self._keys_in(item, value)
            case Named(name):
                definition = self._types.definitions.get(name)
                if isinstance(definition, RecordType):
                    for field, each in _by_field(definition, value):
                        yield from self._keys_in(field.type, each)
            case _:
                return


def _by_field(definition: RecordType, plain: Any) -> Iterator[tuple[Field, Any]]:
    """The fields of a record with what plain JSON gives for them; nothing for JSON of another shape."""
    if definition.form == "tuple" and isinstance(plain, list):
        yield from zip(definition.fields, plain, strict=False)
    elif definition.form != "tuple" and isinstance(plain, dict):
        for field in definition.fields:
            yield field, plain.get(field.name)


def limit_depth(data: bytes) -> None:
    """Refuses JSON that nests deeper than a value may. Raises `LimitExceeded`."""
    if nests_deeper(data, VALUE_MAX_DEPTH):
        raise LimitExceeded(
            "value-depth", f"it nests too deep: at most {VALUE_MAX_DEPTH} levels are allowed; make it flatter"
        )


def _decimals_in(value: Any) -> Iterator[Decimal]:
    if isinstance(value, Decimal):
        yield value
    else:
        for part in parts_of_value(value):
            yield from _decimals_in(part)
