"""From Python's annotations and constants to the type descriptions and stored values of a spec."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, Literal, NewType, TypeAlias, TypeVar, Union, cast
from uuid import UUID

import msgspec

from dressage.expressions.searching import check_searchable
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Record, Value, encode_stored
from dressage.flow import models
from dressage.flow.members import (
    Default,
    Unsupported,
    check_methods,
    enum_type,
    is_required_key,
    is_typed_dict,
    members_of,
    record_form,
    shown,
)
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.types import (
    ANY,
    NONE,
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

T = TypeVar("T")


class SearchableMark:
    """What `Searchable` puts into an annotation."""


SEARCHABLE: Final = SearchableMark()
Searchable: TypeAlias = Annotated[T, SEARCHABLE]
"""Marks a field of the view, or of a record inside it, by which runs can be searched."""


class MaskedMark:
    """What `Masked` puts into an annotation."""


MASKED: Final = MaskedMark()
Masked: TypeAlias = Annotated[T, MASKED]
"""A value that workflows pass on unseen, and that reads, events, logs and analytics show as `***`."""


class LargeMark:
    """What `Large` puts into an annotation."""


LARGE: Final = LargeMark()
Large: TypeAlias = Annotated[T, LARGE]
"""A value that workflows pass on unseen, and that travels beside the messages when it is large."""


_SCALARS: dict[Any, TypeRef] = {
    Any: ANY,
    None: NONE,
    type(None): NONE,
    bool: Scalar("bool"),
    int: Scalar("int"),
    float: Scalar("float"),
    str: Scalar("str"),
    bytes: Scalar("bytes"),
    Decimal: Scalar("decimal"),
    datetime: Scalar("datetime"),
    date: Scalar("date"),
    timedelta: Scalar("timedelta"),
    UUID: Scalar("uuid"),
    list: ListOf(ANY),
    dict: DictOf(Scalar("str"), ANY),
}
_FROZEN_AS_THEY_ARE: Final = (bool, int, float, str, bytes, Decimal, datetime, date, timedelta, UUID)
_TYPES_ADVICE: Final = (
    "use bool, int, float, Decimal, str, bytes, datetime, date, timedelta, UUID, list[...], dict[str, ...], "
    "set[...], tuple[...], Literal, an Enum, a dataclass, a NamedTuple, a TypedDict, or a union with None"
)


class TypeBook:
    """The records and enums that a definition refers to, collected while its annotations are read."""

    def __init__(self, namespace: Mapping[str, Any] | None = None) -> None:
        self.namespace = dict(namespace or {})
        self.definitions: dict[str, TypeDef] = {}
        self.classes: dict[str, type] = {}
        self._table: tuple[int, TypeTable] | None = None

    def table(self) -> TypeTable:
        """The type table of what was collected so far. Raises `BadSpec`."""
        if self._table is None or self._table[0] != len(self.definitions):
            self._table = len(self.definitions), TypeTable(self.definitions.values())
        return self._table[1]

    def merge(self, other: TypeBook) -> None:
        """Takes over what `other` collected. Raises `Unsupported` if one name means two classes."""
        for name, kind in other.classes.items():
            self._claim(name, kind)
            self.definitions.setdefault(name, other.definitions[name])

    def _claim(self, name: str, kind: type) -> None:
        known = self.classes.setdefault(name, kind)
        if known is not kind:
            raise Unsupported(
                f"two classes are named {name}, in {known.__module__} and in {kind.__module__}",
                "rename one: the wire knows a record by its name",
            )

    # -- annotations -------------------------------------------------------------------------------
    def ref(self, annotation: Any) -> TypeRef:
        """The description of an annotation. Raises `Unsupported` for what JSON cannot carry without guessing."""
        ref = self._ref(annotation)
        try:
            self.table().codec(ref)
        except BadSpec as error:
            raise Unsupported(error.message, _TYPES_ADVICE) from error
        return ref

    def _ref(self, annotation: Any) -> TypeRef:
        if isinstance(annotation, typing.Hashable) and annotation in _SCALARS:
            return _SCALARS[annotation]
        if isinstance(annotation, NewType):
            return self._ref(annotation.__supertype__)
        if type(annotation).__name__ == "TypeAliasType":
            return self._ref(cast("Any", annotation).__value__)
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation))
        if isinstance(annotation, type):
            return self._class(annotation)
        raise self._refusal(annotation)

    def _generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> TypeRef:
        if origin is Annotated:
            return self._annotated(args[0], args[1:])
        if origin is typing.Required or origin is typing.NotRequired:
            return self._ref(args[0])
        if origin is Union or origin is types.UnionType:
            return self._union(args)
        if origin is Literal:
            return LiteralOf(args)
        if origin is list:
            return ListOf(self._ref(args[0]))
        if origin is set:
            return SetOf(self._ref(args[0]))
        if origin is dict:
            return DictOf(self._ref(args[0]), self._ref(args[1]))
        if origin is tuple:
            if args[-1:] == (...,):
                raise Unsupported(f"{shown(annotation)} has no fixed length", "use list[...]")
            return TupleOf(tuple(self._ref(arg) for arg in args))
        raise self._refusal(annotation)

    def _annotated(self, annotation: Any, metadata: tuple[Any, ...]) -> TypeRef:
        for each in metadata:
            models.check_metadata(each)
        ref = self._ref(annotation)
        if LARGE in metadata:
            if MASKED in metadata or SEARCHABLE in metadata:
                other = "masked" if MASKED in metadata else "searched for"
                raise Unsupported(f"a large value cannot be {other}", "leave one of the two out")
            return ref if isinstance(ref, LargeOf) else LargeOf(ref)
        if MASKED not in metadata or isinstance(ref, MaskedOf):
            return ref
        if SEARCHABLE in metadata:
            raise Unsupported(
                "a masked value cannot be searched for", "leave one of Masked and Searchable out"
            )
        return MaskedOf(ref)

    def _union(self, options: tuple[Any, ...]) -> TypeRef:
        if any(map(models.is_model, options)) and len(options) > 1 + (type(None) in options):
            raise Unsupported(
                "a pydantic model in a union with more than None cannot be told apart",
                "use a dataclass, or a model that has a field for each",
            )
        refs = tuple(self._ref(option) for option in options)
        if len(refs) == 2 and NONE in refs and any(isinstance(ref, LargeOf) for ref in refs):
            return LargeOf(UnionOf(tuple(ref.item if isinstance(ref, LargeOf) else ref for ref in refs)))
        return UnionOf(refs)

    def _refusal(self, annotation: Any) -> Unsupported:
        return Unsupported(f"type {shown(annotation)} is not supported", _TYPES_ADVICE)

    def failure(self, kind: type[Exception]) -> str:
        """Describes the fields of a failure class as a record; gives its name. Raises `Unsupported`."""
        name = kind.__name__
        self._claim(name, kind)
        self.definitions[name] = RecordType(name, self._fields(kind))
        try:
            codec = self.table().codec(Named(name))
        except BadSpec as error:
            raise Unsupported(error.message, _TYPES_ADVICE) from error
        if codec.mask is not None:
            raise Unsupported(
                "it has a masked or large field", "leave it out: a failure is told to everybody"
            )
        return name

    def _class(self, kind: type) -> TypeRef:
        name = kind.__name__
        if issubclass(kind, BaseException):
            raise self._refusal(kind)
        if name in self.classes:
            self._claim(name, kind)
            return Named(name)
        if issubclass(kind, Enum):
            definition: TypeDef = enum_type(kind)
        elif models.is_model(kind) or record_form(kind) is not None:
            if models.is_model(kind):
                models.check_model(kind)
            check_methods(kind)
            config = getattr(kind, "__struct_config__", None)
            if config is not None and config.forbid_unknown_fields:
                raise Unsupported(
                    f"{name} forbids unknown fields, which later versions of it may have",
                    "leave the option out",
                )
            self._claim(name, kind)
            definition = RecordType(name, self._fields(kind), record_form(kind) or "object")
        else:
            raise self._refusal(kind)
        self._claim(name, kind)
        self.definitions[name] = definition
        return Named(name)

    def _fields(self, kind: type) -> tuple[Field, ...]:
        try:
            hints = typing.get_type_hints(kind, localns=self.namespace, include_extras=True)
        except NameError as error:
            raise Unsupported(
                f"{kind.__name__} has an annotation that cannot be resolved: {error}",
                "define what it refers to at module level",
            ) from error
        members = models.model_members(kind) if models.is_model(kind) else members_of(kind)
        return tuple(self._field(kind, name, hints[name], default) for name, default in members)

    def _field(self, kind: type, name: str, annotation: Any, default: Default) -> Field:
        where = f"field {kind.__name__}.{name}"
        try:
            ref = self._ref(annotation)
            stored = msgspec.UNSET if default.required else msgspec.Raw(self.frozen(default.value()))
            searchable = SEARCHABLE in getattr(annotation, "__metadata__", ())
            if searchable:
                check_searchable(ref, self.definitions, where)
        except Unsupported as error:
            raise Unsupported(f"{where}: {error.what}", error.advice) from error
        except BadSpec as error:
            raise Unsupported(error.message, "mark fields of it, or leave Searchable out") from error
        if is_typed_dict(kind):
            return Field(name, ref, required=is_required_key(kind, name, annotation), searchable=searchable)
        return Field(name, ref, required=default.required, default=stored, searchable=searchable)

    def places_of(self, ref: TypeRef) -> int | None:
        """How many values a tuple of this type has; None for what is no tuple."""
        if isinstance(ref, TupleOf):
            return len(ref.items)
        definition = self.definitions.get(ref.name) if isinstance(ref, Named) else None
        if isinstance(definition, RecordType) and definition.form == "tuple":
            return len(definition.fields)
        return None

    # -- constants ---------------------------------------------------------------------------------
    def frozen(self, value: Any) -> bytes:
        """The stored form of a constant of the source, taken now. Raises `Unsupported` for what is no value."""
        try:
            return encode_stored(self.value(value))
        except (BadValue, BadSpec) as error:
            raise Unsupported(error.message, "use a constant of a type that expressions know") from error

    def value(self, value: Any) -> Value:
        """A constant of the source as the evaluator's value."""
        kind = type(value)
        if value is None or kind in _FROZEN_AS_THEY_ARE:
            if isinstance(value, datetime) and not isinstance(value.tzinfo, timezone | None):
                raise Unsupported("a datetime in a named zone", "use a fixed offset, as `timezone.utc`")
            return value
        if kind is list or kind is tuple or kind is set:
            return kind(map(self.value, value))
        if kind is dict:
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, Enum):
            self._class(kind)
            return self.table().member(kind.__name__, value.name)
        if models.is_model(kind) or record_form(kind) is not None:
            return self._record(kind, value)
        raise Unsupported(
            f"a {kind.__name__} is no constant that a workflow can hold", "pass it to a task instead"
        )

    def _record(self, kind: type, value: Any) -> Record:
        self._class(kind)
        table = self.table()
        try:
            return table.read_record(kind.__name__, msgspec.json.encode(value, enc_hook=models.to_plain))
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise Unsupported(
                f"this {kind.__name__} cannot be frozen: {error}", "check its fields"
            ) from error
