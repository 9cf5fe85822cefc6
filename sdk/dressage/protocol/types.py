"""Type descriptions of inputs, outputs and variables: data, so that any language can write and read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

ScalarName = Literal[
    "any", "none", "bool", "int", "float", "str", "bytes", "decimal", "datetime", "date", "timedelta", "uuid"
]


class Scalar(msgspec.Struct, tag="scalar", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A plain type by name; `any` admits every JSON value."""

    name: ScalarName


class ListOf(msgspec.Struct, tag="list", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    item: TypeRef


class TupleOf(msgspec.Struct, tag="tuple", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A tuple of fixed length; `items` are the types of its places."""

    items: tuple[TypeRef, ...]


class SetOf(msgspec.Struct, tag="set", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    item: TypeRef


class DictOf(msgspec.Struct, tag="dict", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    key: TypeRef
    value: TypeRef


class UnionOf(msgspec.Struct, tag="union", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """One of several types; `Optional[T]` is the union of T and none."""

    options: tuple[TypeRef, ...]


class LiteralOf(msgspec.Struct, tag="literal", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    values: tuple[str | int | bool | None, ...]


class Named(msgspec.Struct, tag="named", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A record or an enum of the spec's `types`, by its name."""

    name: str


class MaskedOf(msgspec.Struct, tag="masked", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A value that expressions pass on unseen, and that readers see as `***`. None is not hidden."""

    item: TypeRef


class LargeOf(msgspec.Struct, tag="large", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A value that expressions pass on unseen, because it may be stored elsewhere: see `dressage.protocol.large`."""

    item: TypeRef


TypeRef = Scalar | ListOf | TupleOf | SetOf | DictOf | UnionOf | LiteralOf | Named | MaskedOf | LargeOf


class Field(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A field of a record or a parameter of a workflow or task.

    `default` is a value in its stored form (see `dressage.expressions.values`); it is absent when the field
    is required.
    """

    name: str
    type: TypeRef
    required: bool = True
    default: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    searchable: bool = False


class RecordType(
    msgspec.Struct,
    tag="record",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Named fields in order.

    `form` is what values are: an object (dataclass, Struct, pydantic model), a tuple whose places have names
    (`NamedTuple`, in JSON an array), or a dict with known keys (`TypedDict`, whose fields have no defaults: one that
    is not required may be absent).
    """

    name: str
    fields: tuple[Field, ...]
    form: Literal["object", "tuple", "dict"] = "object"


class EnumMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str | int


class EnumType(
    msgspec.Struct, tag="enum", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """An enumeration. With `mixin` its members also are values of that type, so that they equal plain ones."""

    name: str
    members: tuple[EnumMember, ...]
    mixin: Literal["", "str", "int"] = ""


TypeDef = RecordType | EnumType


def within(ref: TypeRef, definitions: Mapping[str, TypeDef]) -> Iterator[TypeRef]:
    """A type and all that it is made of; what a record is made of once."""
    found, ahead = set[str](), [ref]
    while ahead:
        part = ahead.pop()
        yield part
        match part:
            case ListOf(item) | SetOf(item) | MaskedOf(item) | LargeOf(item):
                ahead.append(item)
            case DictOf(key, value):
                ahead += [key, value]
            case TupleOf(parts) | UnionOf(parts):
                ahead += parts
            case Named(name) if name not in found:
                found.add(name)
                definition = definitions.get(name)
                if isinstance(definition, RecordType):
                    ahead += [field.type for field in definition.fields]
            case _:
                continue


def needed(ref: TypeRef, definitions: Iterable[TypeDef]) -> tuple[TypeDef, ...]:
    """The records and enums that a type is made of, in the order in which they are defined."""
    known = {each.name: each for each in definitions}
    found = {part.name for part in within(ref, known) if isinstance(part, Named)}
    return tuple(each for each in known.values() if each.name in found)


ANY = Scalar("any")
NONE = Scalar("none")
