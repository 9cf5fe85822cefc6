"""What of a run's view can be searched for: fields that are marked, of the view itself and of records inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dressage.expressions.checks import shown
from dressage.protocol.errors import BadSpec
from dressage.protocol.types import (
    NONE,
    DictOf,
    EnumType,
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


def check_searchable(ref: TypeRef, definitions: Mapping[str, TypeDef], where: str) -> None:
    """Raises `BadSpec` for a type that cannot be searched: only scalars, enums, lists of them, and unions of these."""
    if not _is_searchable(ref, definitions):
        raise BadSpec(f"{where} is searchable, but {shown(ref)} is no scalar, enum or list of them")


def _is_searchable(ref: TypeRef, definitions: Mapping[str, TypeDef], in_list: bool = False) -> bool:
    match ref:
        case Scalar(name):
            return name != "any"
        case LiteralOf():
            return True
        case Named(name):
            return isinstance(definitions.get(name), EnumType)
        case UnionOf(options):
            return all(_is_searchable(option, definitions, in_list) for option in options)
        case ListOf(item) | SetOf(item):
            return not in_list and _is_searchable(item, definitions, in_list=True)
        case _:
            return False


def searchable_paths(definitions: Mapping[str, TypeDef], view: str) -> dict[str, tuple[str, ...]]:
    """The paths that can be searched for, as `status` and `customer.address.city`, by the view's field they begin with.

    Raises `BadSpec` for a mark that no path leads to.
    """
    found: dict[str, tuple[str, ...]] = {}
    record = definitions.get(view)
    if isinstance(record, RecordType):
        for field in record.fields:
            paths = tuple(_paths(field.name, field.type, definitions, field.searchable))
            if paths:
                found[field.name] = paths
    return found


def _paths(path: str, ref: TypeRef, definitions: Mapping[str, TypeDef], marked: bool) -> Iterator[str]:
    if marked:
        check_searchable(ref, definitions, path)
        yield path
        return
    if isinstance(ref, UnionOf) and len(ref.options) == 1 + (NONE in ref.options):
        ref = next(option for option in ref.options if option != NONE)
    record = definitions.get(ref.name) if isinstance(ref, Named) else None
    if isinstance(record, RecordType) and record.form != "tuple":
        for field in record.fields:
            yield from _paths(f"{path}.{field.name}", field.type, definitions, field.searchable)
    elif any(_marks(ref, definitions)):
        raise BadSpec(f"{path} is {shown(ref)}, inside of which nothing can be searched for")


def _marks(ref: TypeRef, definitions: Mapping[str, TypeDef]) -> Iterator[bool]:
    """Whether there are searchable fields somewhere inside a type."""
    match ref:
        case ListOf(item) | SetOf(item) | DictOf(_, item) | MaskedOf(item) | LargeOf(item):
            yield from _marks(item, definitions)
        case TupleOf(parts) | UnionOf(parts):
            for part in parts:
                yield from _marks(part, definitions)
        case Named(name):
            record = definitions.get(name)
            for field in record.fields if isinstance(record, RecordType) else ():
                yield field.searchable
                yield from _marks(field.type, definitions)
        case _:
            return
