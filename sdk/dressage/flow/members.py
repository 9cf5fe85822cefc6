"""What a class of an author's says: its fields with their defaults, its members, and what it must not have."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum, Flag
from typing import Any, Final, Literal

import msgspec

from dressage.protocol.types import EnumMember, EnumType


class Unsupported(Exception):
    """A type or constant that a spec cannot hold: what it is, and what to write instead."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice


_FACTORIES: Final = (list, dict, set, tuple, str, int, float, bool)
_HARMLESS: Final = """
    __init__ __post_init__ __new__ __repr__ __str__ __format__ __hash__ __init_subclass__ __class_getitem__
    __replace__ __rich_repr__ __reduce__ __reduce_ex__ __copy__ __deepcopy__ __getstate__ __setstate__
    __getnewargs__ __annotate__ __annotate_func__ __set_name__ __sizeof__ __dir__
"""
_HARMLESS_METHODS: Final = frozenset(_HARMLESS.split())
"""Special methods that change nothing of what an expression computes with a record: all others are refused."""


@dataclasses.dataclass(frozen=True)
class Default:
    """The default of a field: a value, what makes one, or neither."""

    # To a dataclass MISSING itself means that a field has no default.
    plain: Any = dataclasses.field(default_factory=lambda: dataclasses.MISSING)
    factory: Any = dataclasses.field(default_factory=lambda: dataclasses.MISSING)

    @property
    def required(self) -> bool:
        return self.plain is dataclasses.MISSING and self.factory is dataclasses.MISSING

    def value(self) -> Any:
        if self.plain is not dataclasses.MISSING:
            return self.plain
        # What a factory gives is frozen into the definition, so it must be one that always gives the same.
        origin = typing.get_origin(self.factory) or self.factory
        known = origin in _FACTORIES or dataclasses.is_dataclass(origin)
        if not known:
            raise Unsupported(
                f"its default comes from {shown(self.factory)}(), which may give another value each time",
                "use list, dict, set or a dataclass as default_factory, or make the field required",
            )
        return self.factory()


Form = Literal["object", "tuple", "dict"]


def is_typed_dict(kind: Any) -> bool:
    """Whether `kind` is a TypedDict, that of `typing_extensions` included, which `typing` does not know."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def record_form(kind: Any) -> Form | None:
    """What the values of a class with fields are; None for a class that has none."""
    if not isinstance(kind, type):
        return None
    if is_typed_dict(kind):
        return "dict"
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return "tuple"
    return "object" if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) else None


def members_of(kind: Any) -> list[tuple[str, Default]]:
    """The fields of a dataclass, Struct, NamedTuple or TypedDict, in order, with their defaults."""
    if is_typed_dict(kind):
        return [(name, Default()) for name in kind.__annotations__]
    if issubclass(kind, tuple):
        return _places(kind)
    if issubclass(kind, msgspec.Struct):
        return _struct_members(kind)
    if hasattr(kind, "__pydantic_validator__"):
        raise Unsupported(
            f"{kind.__name__} is a dataclass of pydantic, which changes what it is given",
            "use a pydantic model, or a dataclass of the standard library",
        )
    members: list[tuple[str, Default]] = []
    for field in dataclasses.fields(kind):
        if not field.init:
            raise Unsupported(
                f"field {kind.__name__}.{field.name} has init=False",
                "let every field be given at construction",
            )
        members.append((field.name, Default(field.default, field.default_factory)))
    return members


def _places(kind: Any) -> list[tuple[str, Default]]:
    untyped = [name for name in kind._fields if name not in kind.__annotations__]
    if untyped:
        raise Unsupported(f"{kind.__name__}.{untyped[0]} has no type", "derive it from typing.NamedTuple")
    return [(name, Default(kind._field_defaults.get(name, dataclasses.MISSING))) for name in kind._fields]


def is_required_key(kind: Any, name: str, annotation: Any) -> bool:
    """Whether a TypedDict must have a key. Text annotations hide `NotRequired` from Python's own list."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return name in kind.__required_keys__


def _struct_members(kind: type[msgspec.Struct]) -> list[tuple[str, Default]]:
    config = kind.__struct_config__
    if config.tag is not None or config.array_like:
        raise Unsupported(f"{kind.__name__} has a tag or is array-like", "use a plain Struct or a dataclass")
    members: list[tuple[str, Default]] = []
    for field in msgspec.structs.fields(kind):
        if field.encode_name != field.name:
            raise Unsupported(f"{kind.__name__} renames its fields", "name them as the wire does")
        plain = dataclasses.MISSING if field.default is msgspec.NODEFAULT else field.default
        factory = dataclasses.MISSING if field.default_factory is msgspec.NODEFAULT else field.default_factory
        members.append((field.name, Default(plain, factory)))
    return members


_LIBRARIES: Final = ("msgspec", "msgspec._core", "enum", "typing", "pydantic.main")


def check_methods(kind: type) -> None:
    """Refuses a class whose own special methods would give operators another meaning than the evaluator's."""
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is not None and (parameters.order or not parameters.eq):
        raise Unsupported(f"{kind.__name__} has order=True or eq=False", "compare its fields instead")
    for owner in kind.__mro__:
        if owner is object or owner.__module__ in _LIBRARIES:
            continue
        for name, member in vars(owner).items():
            generated = getattr(getattr(member, "__code__", None), "co_filename", "") == "<string>"
            special = name.startswith("__") and name.endswith("__") and isinstance(member, types.FunctionType)
            if special and not generated and name not in _HARMLESS_METHODS:
                raise Unsupported(
                    f"{kind.__name__} has its own {name}(), which no run would call",
                    "use a dataclass without it, and compare or compute with its fields",
                )


def enum_type(kind: type[Enum]) -> EnumType:
    check_methods(kind)
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


def shown(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(getattr(annotation, "__qualname__", annotation)).replace("typing.", "")
