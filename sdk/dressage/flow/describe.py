"""From Python's annotations and constants to the type descriptions and stored values of a spec."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import Annotated, Any, Final, Literal, NewType, TypeAlias, TypeVar, Union, cast
from uuid import UUID

import msgspec

from dressage.expressions.types import TypeTable
from dressage.expressions.values import Record, Value, encode_stored
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumMember,
    EnumType,
    Field,
    ListOf,
    LiteralOf,
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
"""Marks a field of the view dataclass by which runs can be searched."""


class Unsupported(Exception):
    """A type or constant that a spec cannot hold: what it is, and what to write instead."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice


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
_FACTORIES: Final = (list, dict, set, tuple, str, int, float, bool)
_TYPES_ADVICE: Final = (
    "use bool, int, float, Decimal, str, bytes, datetime, date, timedelta, UUID, list[...], dict[str, ...], "
    "set[...], tuple[...], Literal, an Enum, a dataclass, or a union with None"
)

_HARMLESS: Final = """
    __init__ __post_init__ __new__ __repr__ __str__ __format__ __hash__ __init_subclass__ __class_getitem__
    __replace__ __rich_repr__ __reduce__ __reduce_ex__ __copy__ __deepcopy__ __getstate__ __setstate__
    __getnewargs__ __annotate__ __annotate_func__ __set_name__ __sizeof__ __dir__
"""
_HARMLESS_METHODS: Final = frozenset(_HARMLESS.split())
"""Special methods that change nothing of what an expression computes with a record: all others are refused."""


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
            return self._ref(args[0])
        if origin is Union or origin is types.UnionType:
            return UnionOf(tuple(self._ref(arg) for arg in args))
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
                raise Unsupported(f"{_shown(annotation)} has no fixed length", "use list[...]")
            return TupleOf(tuple(self._ref(arg) for arg in args))
        raise self._refusal(annotation)

    def _refusal(self, annotation: Any) -> Unsupported:
        return Unsupported(f"type {_shown(annotation)} is not supported", _TYPES_ADVICE)

    def _class(self, kind: type) -> TypeRef:
        name = kind.__name__
        if name in self.classes:
            self._claim(name, kind)
            return Named(name)
        if issubclass(kind, Enum):
            definition: TypeDef = _enum(kind)
        elif dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct):
            _check_methods(kind)
            self._claim(name, kind)
            definition = RecordType(name, self._fields(kind))
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
        described = [self._field(kind, name, hints[name], default) for name, default in _members(kind)]
        return tuple(described)

    def _field(self, kind: type, name: str, annotation: Any, default: _Default) -> Field:
        where = f"field {kind.__name__}.{name}"
        try:
            ref = self._ref(annotation)
            stored = msgspec.UNSET if default.required else msgspec.Raw(self.frozen(default.value()))
        except Unsupported as error:
            raise Unsupported(f"{where}: {error.what}", error.advice) from error
        searchable = SEARCHABLE in getattr(annotation, "__metadata__", ())
        return Field(name, ref, required=default.required, default=stored, searchable=searchable)

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
        if dataclasses.is_dataclass(value) or isinstance(value, msgspec.Struct):
            return self._record(kind, value)
        raise Unsupported(
            f"a {kind.__name__} is no constant that a workflow can hold", "pass it to a task instead"
        )

    def _record(self, kind: type, value: Any) -> Record:
        self._class(kind)
        table = self.table()
        try:
            return table.read_record(kind.__name__, msgspec.json.encode(value))
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise Unsupported(
                f"this {kind.__name__} cannot be frozen: {error}", "check its fields"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Default:
    """The default of a field: a value, what makes one, or neither."""

    plain: Any = dataclasses.MISSING
    factory: Any = dataclasses.MISSING

    @property
    def required(self) -> bool:
        return self.plain is dataclasses.MISSING and self.factory is dataclasses.MISSING

    def value(self) -> Any:
        if self.plain is not dataclasses.MISSING:
            return self.plain
        # What a factory gives is frozen into the definition, so it must be one that always gives the same.
        known = self.factory in _FACTORIES or dataclasses.is_dataclass(self.factory)
        if not known:
            raise Unsupported(
                f"its default comes from {_shown(self.factory)}(), which may give another value each time",
                "use list, dict, set or a dataclass as default_factory, or make the field required",
            )
        return cast("Any", self.factory)()


def _members(kind: Any) -> list[tuple[str, _Default]]:
    """The fields of a dataclass or Struct, in order, with their defaults."""
    if issubclass(kind, msgspec.Struct):
        return _struct_members(kind)
    members: list[tuple[str, _Default]] = []
    for field in dataclasses.fields(kind):
        if not field.init:
            raise Unsupported(
                f"field {kind.__name__}.{field.name} has init=False",
                "let every field be given at construction",
            )
        members.append((field.name, _Default(field.default, field.default_factory)))
    return members


def _struct_members(kind: type[msgspec.Struct]) -> list[tuple[str, _Default]]:
    config = kind.__struct_config__
    if config.tag is not None or config.array_like:
        raise Unsupported(f"{kind.__name__} has a tag or is array-like", "use a plain Struct or a dataclass")
    members: list[tuple[str, _Default]] = []
    for field in msgspec.structs.fields(kind):
        if field.encode_name != field.name:
            raise Unsupported(f"{kind.__name__} renames its fields", "name them as the wire does")
        plain = dataclasses.MISSING if field.default is msgspec.NODEFAULT else field.default
        factory = dataclasses.MISSING if field.default_factory is msgspec.NODEFAULT else field.default_factory
        members.append((field.name, _Default(plain, factory)))
    return members


def _check_methods(kind: type) -> None:
    """Refuses a class whose own special methods would give operators another meaning than the evaluator's."""
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is not None and (parameters.order or not parameters.eq):
        raise Unsupported(f"{kind.__name__} has order=True or eq=False", "compare its fields instead")
    for owner in kind.__mro__:
        if owner is object or owner.__module__ in ("msgspec", "msgspec._core", "enum", "typing"):
            continue
        for name, member in vars(owner).items():
            generated = getattr(getattr(member, "__code__", None), "co_filename", "") == "<string>"
            special = name.startswith("__") and name.endswith("__") and isinstance(member, types.FunctionType)
            if special and not generated and name not in _HARMLESS_METHODS:
                raise Unsupported(
                    f"{kind.__name__} has its own {name}(), which no run would call",
                    "use a dataclass without it, and compare or compute with its fields",
                )


def _enum(kind: type[Enum]) -> EnumType:
    _check_methods(kind)
    if issubclass(kind, Flag):
        raise Unsupported(f"{kind.__name__} is a Flag", "use a set of enum members")
    mixin: Literal["", "str", "int"] = ""
    if issubclass(kind, str):
        mixin = "str"
    elif issubclass(kind, int):
        mixin = "int"
    members: list[EnumMember] = []
    for member in kind:
        value = member.value
        if type(value) not in (str, int):
            raise Unsupported(
                f"{kind.__name__}.{member.name} is neither str nor int", "use str or int members"
            )
        members.append(EnumMember(member.name, value))
    if len({type(member.value) for member in members}) != 1:
        raise Unsupported(
            f"{kind.__name__} has no members, or both str and int ones", "use one type of values"
        )
    return EnumType(kind.__name__, tuple(members), mixin)


def _shown(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(getattr(annotation, "__qualname__", annotation)).replace("typing.", "")
