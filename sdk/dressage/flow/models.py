"""pydantic models as records, where an author uses them: pydantic itself is imported by the author alone.

What a model says in its fields goes into the spec. What it says in code of its own, or in constraints that a run would
not check, is refused: it would hold in a worker and not in the engine.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from dressage.flow.members import Default, Unsupported

_CONFIG: Final = frozenset(
    {
        "frozen",
        "title",
        "json_schema_extra",
        "from_attributes",
        "protected_namespaces",
        "use_attribute_docstrings",
    }
)
"""What a model's config may say: the rest changes which values it takes, or makes of them."""

_RENAMES: Final = ("alias", "validation_alias", "serialization_alias")
_CODE: Final = {
    "validators": "validator",
    "field_validators": "validator",
    "root_validators": "validator",
    "model_validators": "validator",
    "field_serializers": "serializer",
    "model_serializers": "serializer",
    "computed_fields": "computed field",
}
_ELSEWHERE: Final = "use a model without it, and check in a task or with `if` in the workflow"
_WORDS: Final = {"title", "description", "examples", "extra_json_schema", "extra"}


def is_model(kind: Any) -> bool:
    """Whether `kind` is a pydantic model."""
    pydantic: Any = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def check_model(kind: Any) -> None:
    """Refuses a model that does more than its fields say. Raises `Unsupported`."""
    name = kind.__name__
    pydantic: Any = sys.modules["pydantic"]
    if issubclass(kind, pydantic.RootModel) or kind.__pydantic_generic_metadata__["args"]:
        raise Unsupported(f"{name} is a root or generic model", "use a model with fields of plain types")
    for where, what in _CODE.items():
        for code in getattr(kind.__pydantic_decorators__, where):
            raise Unsupported(
                f"{name} has a {what} of its own, {code}(), which no run would call", _ELSEWHERE
            )
    if kind.__private_attributes__:
        raise Unsupported(f"{name} has private attributes, which no JSON carries", "make them fields")
    for method in ("__init__", "__new__", "model_post_init"):
        owner = next(each for each in kind.__mro__ if method in vars(each) or each is object)
        if owner is not object and not owner.__module__.startswith("pydantic."):
            raise Unsupported(f"{name} has its own {method}(), which no run would call", _ELSEWHERE)
    for option, value in kind.model_config.items():
        if option not in _CONFIG and not (option == "extra" and value in (None, "ignore")):
            raise Unsupported(
                f"{name} sets {option} in its model_config, which no run would know", "leave the option out"
            )


def model_members(kind: Any) -> list[tuple[str, Default]]:
    """The fields of a model, in order, with their defaults. Raises `Unsupported`."""
    return list(_members(kind))


def _members(kind: Any) -> Iterator[tuple[str, Default]]:
    for name, field in kind.model_fields.items():
        where = f"field {kind.__name__}.{name}"
        if any(getattr(field, each) is not None for each in _RENAMES):
            raise Unsupported(f"{where} has an alias", "name it as the wire does")
        try:
            for each in field.metadata:
                check_metadata(each)
        except Unsupported as error:
            raise Unsupported(f"{where}: {error.what}", error.advice) from error
        if field.exclude or field.discriminator is not None or field.validate_default:
            raise Unsupported(f"{where} sets exclude, discriminator or validate_default", "leave it out")
        factory = dataclasses.MISSING if field.default_factory is None else field.default_factory
        required = field.is_required() or factory is not dataclasses.MISSING
        yield name, Default(dataclasses.MISSING if required else field.default, factory)


def check_metadata(found: Any) -> None:
    """Refuses what an `Annotated` demands of a value and no run would check. Raises `Unsupported`."""
    kind = type(found)
    library = kind.__module__.partition(".")[0]
    if kind.__name__ == "FieldInfo" and library == "pydantic":
        for each in found.metadata:
            check_metadata(each)
        return
    if isinstance(found, msgspec.Meta):
        demands = any(getattr(found, name) is not None for name in _meta_names() - _WORDS)
    else:
        demands = library in ("pydantic", "pydantic_core", "annotated_types")
    if demands:
        raise Unsupported(f"a run would not check {found!r}", f"leave the constraint out: {_ELSEWHERE}")


@lru_cache(maxsize=1)
def _meta_names() -> frozenset[str]:
    return frozenset(name for name in dir(msgspec.Meta) if not name.startswith("_"))


# -- on the wire -------------------------------------------------------------------------------------
def to_plain(value: Any) -> dict[str, Any]:
    """The encoder's hook: a model as a dict of its fields. Raises `TypeError` for anything else."""
    if not is_model(type(value)):
        raise TypeError(f"a {type(value).__name__} is no value that JSON can carry")
    return {name: getattr(value, name) for name in type(value).model_fields}


def from_plain(kind: Any, plain: Any) -> Any:
    """The decoder's hook: a model of what JSON says, read as strictly as a dataclass. Raises `ValueError`."""
    if not is_model(kind):
        raise TypeError(f"a {kind.__name__} is no value that JSON can carry")
    given = msgspec.convert(plain, _reader(kind), dec_hook=from_plain, str_keys=True)
    values = {name: getattr(given, name) for name in kind.model_fields}
    validation_error: Any = sys.modules["pydantic"].ValidationError
    try:
        return kind(**{name: value for name, value in values.items() if value is not msgspec.UNSET})
    except validation_error as error:
        # Its own text repeats the values.
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ValueError(said) from None


_readers: dict[Any, Callable[..., Any]] = {}


def _reader(kind: Any) -> Any:
    """A Struct with the fields of a model, which reads JSON as everything else here is read."""
    if kind not in _readers:
        hints: Mapping[str, Any] = typing.get_type_hints(kind, include_extras=True)
        fields = [
            (name, hints.get(name, field.annotation), msgspec.NODEFAULT)
            if field.is_required()
            else (name, hints.get(name, field.annotation) | msgspec.UnsetType, msgspec.UNSET)
            for name, field in kind.model_fields.items()
        ]
        _readers[kind] = msgspec.defstruct(kind.__name__, fields, kw_only=True)
    return _readers[kind]
