"""Large values: what a workflow passes on without looking, because it may be stored elsewhere, and where they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from dressage.expressions.opaque import OpaqueValue
from dressage.protocol.large import KEY, Reference, reference_of
from dressage.protocol.types import (
    DictOf,
    Field,
    LargeOf,
    ListOf,
    Named,
    RecordType,
    TupleOf,
    TypeDef,
    TypeRef,
    within,
)

if TYPE_CHECKING:
    from dressage.expressions.codecs import Codec


class LargeValue(OpaqueValue):
    """A value of type `Large[T]`, which is never None. `inside` is its wire JSON: the value, or a reference to it."""

    __slots__ = ()

    said: ClassVar[str] = "a large value"
    inside: bytes

    @property
    def reference(self) -> Reference | None:
        """What it is known by, if it is stored elsewhere."""
        return reference_of(self.inside)

    def __repr__(self) -> str:
        return "<large value>"


def large(value: Any, codec: Codec) -> LargeValue | None:
    """A value as a large one: from wire JSON that was not decoded yet, or from a value of the type inside.

    None stays None. Raises `BadValue` for JSON that is neither a reference nor of the type.
    """
    if value is None or type(value) is LargeValue:
        return value
    if type(value) is not msgspec.Raw:
        return LargeValue(codec.encode(value))
    raw = bytes(value).strip()
    if reference_of(raw) is None and codec.decode(raw) is None:
        return None
    return LargeValue(raw)


def is_stored_elsewhere(value: Any, parts_of: Callable[[Any], Iterable[Any]]) -> bool:
    """Whether a value, or a part of it, is known by a reference only."""
    if type(value) is LargeValue:
        return value.reference is not None
    return any(is_stored_elsewhere(part, parts_of) for part in parts_of(value))


def looks_large(value: Any) -> bool:
    """Whether a value that a workflow has made would be taken for a reference."""
    return type(value) is dict and KEY in value


# -- where they are in wire JSON -------------------------------------------------------------------
Change = Callable[[bytes], Awaitable[bytes]]

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


class LargePlaces:
    """Finds the places in wire JSON where a type says that a value may be large; the rest is not decoded."""

    def __init__(self, definitions: Iterable[TypeDef]) -> None:
        self._definitions: Mapping[str, TypeDef] = {each.name: each for each in definitions}
        self._known: dict[TypeRef, bool] = {}

    def has(self, ref: TypeRef) -> bool:
        """Whether a value of this type may hold a large one."""
        known = self._known.get(ref)
        if known is None:
            parts = within(ref, self._definitions)
            known = self._known[ref] = any(isinstance(part, LargeOf) for part in parts)
        return known

    async def change(self, ref: TypeRef, raw: bytes, change: Change) -> bytes:
        """The JSON with each value of a large place, but null, as `change` gives it.

        What is not of the type stays as it is: whoever decodes it will say so.
        """
        try:
            return await self._changed(ref, raw, change)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return raw

    async def change_fields(self, fields: Iterable[Field], raw: bytes, change: Change) -> bytes:
        """The same of parameters, a JSON object of values by name."""
        try:
            return await self._members({each.name: each.type for each in fields}, raw, change)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return raw

    async def _changed(self, ref: TypeRef, raw: bytes, change: Change) -> bytes:
        if not self.has(ref) or raw == b"null":
            return raw
        match ref:
            case LargeOf():
                return await change(raw)
            case ListOf(item):
                items = _array(raw)
                return await self._items([item] * len(items), items, change)
            case TupleOf(parts):
                return await self._items(parts, _array(raw), change)
            case DictOf(_, item):
                members = _object(raw)
                return await self._members(dict.fromkeys(members, item), raw, change)
            case Named(name):
                definition = self._definitions[name]
                fields = definition.fields if isinstance(definition, RecordType) else ()
                if isinstance(definition, RecordType) and definition.form == "tuple":
                    return await self._items([each.type for each in fields], _array(raw), change)
                return await self._members({each.name: each.type for each in fields}, raw, change)
            case _:
                return await self._option(ref, raw, change)

    async def _option(self, ref: TypeRef, raw: bytes, change: Change) -> bytes:
        """Of a union, which JSON can tell apart by its shape, each option that it may be."""
        for option in getattr(ref, "options", ()):
            try:
                raw = await self._changed(option, raw, change)
            except msgspec.MsgspecError:
                continue
        return raw

    async def _items(self, refs: Iterable[TypeRef], items: list[msgspec.Raw], change: Change) -> bytes:
        changed = [
            msgspec.Raw(await self._changed(ref, bytes(item), change))
            for ref, item in zip(refs, items, strict=False)
        ]
        return msgspec.json.encode([*changed, *items[len(changed) :]])

    async def _members(self, types: Mapping[str, TypeRef], raw: bytes, change: Change) -> bytes:
        members = _object(raw)
        for name, item in members.items():
            ref = types.get(name)
            if ref is not None and self.has(ref):
                members[name] = msgspec.Raw(await self._changed(ref, bytes(item), change))
        return msgspec.json.encode(members)
