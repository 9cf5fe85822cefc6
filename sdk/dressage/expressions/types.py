"""From declared types to values: a `TypeTable` makes real msgspec types, so that decoding runs in C.

The declared type gives the decoding, never a guess: where a float is declared, the JSON number 5 becomes 5.0,
and where a Decimal is, 10.50 keeps its last zero.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import msgspec

from dressage.expressions import checks
from dressage.expressions.admission import Admissions
from dressage.expressions.codecs import Codec, ParamsCodec, decoder_of
from dressage.expressions.errors import LimitExceeded
from dressage.expressions.frame import SMALL_WEIGHT, Frame
from dressage.expressions.large import large
from dressage.expressions.limits import weigh
from dressage.expressions.values import Record, Value, decode_stored, limit_stored_depth
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.spec_sizes import TYPE_DEPTH_MAX
from dressage.protocol.types import (
    DictOf,
    EnumType,
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
    within,
)

_TYPE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class RecordCodec:
    """Builds the records of one type."""

    def __init__(self, table: TypeTable, definition: RecordType) -> None:
        self.name = definition.name
        self.fields = {field.name: field for field in definition.fields}
        self.required = tuple(field.name for field in definition.fields if field.required)
        self.struct = table.classes[definition.name]
        self._mask = table.masker(Named(definition.name))
        self._mismatches = {
            field.name: checks.checker(field.type, table.classes) for field in definition.fields
        }
        self._stored: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.struct)
        admission = table.admissions.of(Named(definition.name))
        self._guard = admission if admission.guards_hashes else None

    def read_stored(self, fields: bytes) -> Record:
        """The record with these fields in the stored form. Raises `msgspec.MsgspecError`, or `BadValue`."""
        if self._guard is not None:
            self._guard.before(fields)
        record = cast("Record", self._stored.decode(fields))
        return self._mask(record) if self._mask else record

    def make(self, values: dict[str, Value], frame: Frame | None = None) -> Record:
        """A new record; fields that are not given take their defaults. `frame` pays for the work.

        Raises `BadValue` for a value that is not of its field's type, `LimitExceeded` if the whole is too large.
        """
        for name, value in values.items():
            self._check(name, value)
        record = cast("Record", self.struct(**values))
        if self._mask:
            record = self._mask(record)
        weight = weigh(record)
        if weight > SMALL_WEIGHT and frame is not None:
            frame.spend(weight)
        return record

    def replace(self, record: Record, name: str, value: Value, frame: Frame | None = None) -> Record:
        """The record with another value of one field. Raises as `make` does."""
        self._check(name, value)
        changed = msgspec.structs.replace(record, **{name: value})
        if self._mask:
            changed = self._mask(changed)
        weight = weigh(changed)
        if weight > SMALL_WEIGHT and frame is not None:
            frame.spend(weight)
        return changed

    def _check(self, name: str, value: Value) -> None:
        wrong = self._mismatches[name](value)
        if wrong is not None:
            raise BadValue(f"{self.name}.{name}{wrong}")


class TypeTable:
    """The records and enums of one spec, and the codecs of whatever refers to them.

    `failures` are the records that the details of failures are, by the names of the failures.

    Raises `BadSpec`, here and in its methods, for types that contradict themselves or that JSON cannot tell apart.
    """

    def __init__(
        self, definitions: Iterable[TypeDef] = (), failures: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.definitions: dict[str, TypeDef] = {}
        self.failures = failures
        self.classes: dict[str, type] = {}
        self.admissions = Admissions(self.definitions, self.python_type)
        self._records: dict[str, RecordCodec] = {}
        self._codecs: dict[TypeRef, Codec] = {}
        self._under_way: list[str] = []
        for definition in definitions:
            if not _TYPE_NAME.fullmatch(definition.name):
                raise BadSpec(f"type name {definition.name!r} is not valid: use letters, digits, `_` and `.`")
            if definition.name in self.definitions:
                raise BadSpec(f"type {definition.name} is defined twice")
            self.definitions[definition.name] = definition
        for name in self.definitions:
            self._class(name)

    def codec(self, ref: TypeRef) -> Codec:
        """The codec of a type; made once for each."""
        codec = self._codecs.get(ref)
        if codec is None:
            codec = self._codecs[ref] = Codec(self, ref)
        return codec

    def record(self, name: str) -> RecordCodec:
        """The codec of a record type by its name."""
        try:
            return self._records[name]
        except KeyError:
            raise BadSpec(f"{name} is not a record type of this spec") from None

    def details_of(self, failure: FailureInfo) -> Codec | None:
        """How the details of a business failure are read: as those of its nearest ancestor that this spec knows."""
        if failure.kind != "failure":
            return None
        known = (self.failures[name] for name in (failure.name, *failure.family) if name in self.failures)
        record = next(known, None)
        return self.codec(Named(record)) if record is not None else None

    def read_record(self, name: str, fields: bytes) -> Record:
        """The record whose stored form has these fields. Raises `msgspec.MsgspecError`, or `BadValue`."""
        codec = self._records.get(name)
        if codec is None:
            raise BadValue(f"there is no record type {name}")
        return codec.read_stored(fields)

    def member(self, name: str, member: str) -> Enum:
        """A member of an enum, both by name. Raises `BadValue`."""
        kind = self.classes.get(name)
        if kind is None or not issubclass(kind, Enum) or member not in kind.__members__:
            raise BadValue(f"there is no enum member {name}.{member}")
        return kind[member]

    def with_field(self, record: Value, name: str, value: Value, frame: Frame | None = None) -> Record:
        """`record` with one field set to `value`, as an assignment to the run's view does. Raises `BadValue`."""
        if not isinstance(record, Record) or type(record).__name__ not in self._records:
            raise BadValue(f"a {type(record).__name__} has no fields that can be set")
        codec = self._records[type(record).__name__]
        if name not in codec.fields:
            raise BadValue(f"{codec.name} has no field {name}")
        return codec.replace(record, name, value, frame)

    # -- the Python types underneath ---------------------------------------------------------------
    def python_type(self, ref: TypeRef) -> Any:
        """The type that msgspec decodes for `ref`; a float also takes an int (`checks.float_fixer` turns it)."""
        match ref:
            case Scalar(name):
                return checks.PYTHON_TYPES[name]
            case ListOf(item):
                return list[self.python_type(item)]  # type: ignore[misc]
            case SetOf(item):
                if isinstance(item, MaskedOf | LargeOf):
                    what = "masked" if isinstance(item, MaskedOf) else "large"
                    raise BadSpec(
                        f"a set cannot hold {what} values, which it would have to compare: use a list"
                    )
                return set[self.python_type(item)]  # type: ignore[misc]
            case TupleOf(items):
                return tuple.__class_getitem__(tuple(self.python_type(item) for item in items))
            case DictOf(key, value):
                return dict[self._key_type(key), self.python_type(value)]  # type: ignore[misc]
            case LiteralOf(values):
                return checks.literal(values)
            case UnionOf(options):
                return checks.union([self.python_type(option) for option in options], ref)
            case Named(name):
                return self._class(name)
            case MaskedOf(item):
                kind = self.python_type(item)
                self._check_plain(ref, item, LargeOf)
                return kind
            case LargeOf(item):
                self.python_type(item)
                self._check_plain(ref, item, LargeOf | MaskedOf)
                return msgspec.Raw

    def _check_plain(self, ref: TypeRef, item: TypeRef, kinds: Any) -> None:
        """Refuses a masked or large value inside of another one: readers see a large one by its digest, or as it is."""
        for part in within(item, self.definitions):
            if isinstance(part, kinds):
                what = "masked" if isinstance(part, MaskedOf) else "large"
                raise BadSpec(
                    f"{checks.shown(ref)} has a {what} part, {checks.shown(part)}: give that a place of its own"
                )

    def masker(self, ref: TypeRef) -> checks.Fix | None:
        """A function that makes masked or large what of a value the type says is; None if nothing is."""
        return checks.masker(ref, self.classes, self._large)

    def _large(self, item: TypeRef) -> checks.Fix:
        codec = self.codec(item)
        return lambda value: large(value, codec)

    def _key_type(self, ref: TypeRef) -> Any:
        if isinstance(ref, Named) and isinstance(self.definitions.get(ref.name), RecordType):
            raise BadSpec(
                f"a dict cannot have records as keys ({ref.name}): use a field that identifies them"
            )
        if not isinstance(ref, Scalar | Named | LiteralOf) or ref in (Scalar("bool"), Scalar("none")):
            raise BadSpec(f"a dict cannot have keys of type {checks.shown(ref)}: JSON has text as keys only")
        return self.python_type(ref)

    def _class(self, name: str) -> type:
        if name in self.classes:
            return self.classes[name]
        definition = self.definitions.get(name)
        if definition is None:
            raise BadSpec(f"type {name} is not defined in this spec")
        if name in self._under_way:
            around = " -> ".join([*self._under_way, name])
            raise BadSpec(f"type {name} contains itself ({around}): give the inner one as an id or as `Any`")
        if len(self._under_way) >= TYPE_DEPTH_MAX:
            raise BadSpec(
                f"records nest too deep: at most {TYPE_DEPTH_MAX} levels are allowed (limit type-depth)"
            )
        self._under_way.append(name)
        try:
            made = self._enum(definition) if isinstance(definition, EnumType) else self._record(definition)
        finally:
            self._under_way.pop()
        return made

    def _enum(self, definition: EnumType) -> type:
        members = [(member.name, member.value) for member in definition.members]
        try:
            # The functional form of Enum makes classes from data; a type checker cannot follow it.
            functional = cast("Any", IntEnum if definition.mixin == "int" else Enum)
            kind: type = (
                functional(definition.name, members, type=str)
                if definition.mixin == "str"
                else functional(definition.name, members)
            )
            msgspec.json.Decoder(kind)
        except (TypeError, ValueError) as error:
            raise BadSpec(f"enum {definition.name} is not valid: {error}") from error
        self.classes[definition.name] = kind
        return kind

    def _record(self, definition: RecordType) -> type:
        names = [field.name for field in definition.fields]
        for name in names:
            if not name.isidentifier() or name.startswith("__") or names.count(name) > 1:
                raise BadSpec(
                    f"field {definition.name}.{name} is not valid: field names are Python's, once each"
                )
        make = {"object": self._struct, "tuple": self._named_tuple, "dict": self._typed_dict}[definition.form]
        try:
            kind = make(definition)
        except (TypeError, ValueError) as error:
            raise BadSpec(f"record {definition.name} is not valid: {error}") from error
        floats = {field.name: checks.float_fixer(field.type, self.classes) for field in definition.fields}
        masks = {field.name: self.masker(field.type) for field in definition.fields}
        for of_fields, fixes in (("float_fixes", floats), ("mask_fixes", masks)):
            setattr(kind, of_fields, {name: fix for name, fix in fixes.items() if fix})
        self.classes[definition.name] = kind
        decoder_of(kind, Named(definition.name))
        if definition.form != "dict":
            self._records[definition.name] = RecordCodec(self, definition)
        return kind

    def _struct(self, definition: RecordType) -> type:
        fields = [self._field(definition, field) for field in definition.fields]
        return msgspec.defstruct(
            definition.name,
            [(name, kind, _struct_default(default)) for name, kind, default in fields],
            bases=(Record,),
            namespace={"stored_prefix": _prefix(definition)},
            frozen=True,
            kw_only=True,
        )

    def _named_tuple(self, definition: RecordType) -> type:
        fields = [self._field(definition, field) for field in definition.fields]
        namespace: dict[str, Any] = {
            "__module__": __name__,
            "__annotations__": {name: kind for name, kind, _ in fields},
            **{name: default for name, _, default in fields if default is not msgspec.NODEFAULT},
        }
        made: Any = types.new_class(definition.name, (NamedTuple,), {}, lambda body: body.update(namespace))
        made.stored_prefix = _prefix(definition)
        return cast("type", made)

    def _typed_dict(self, definition: RecordType) -> type:
        keys: dict[str, Any] = {}
        for field in definition.fields:
            kind = self.python_type(field.type)
            decoder_of(kind, field.type)
            if isinstance(field.type, LargeOf):
                raise BadSpec(
                    f"{definition.name}.{field.name}: a TypedDict cannot hold large values itself: use a dataclass"
                )
            if field.default is not msgspec.UNSET:
                raise BadSpec(f"{definition.name}.{field.name}: a TypedDict has no defaults")
            keys[field.name] = kind if field.required else NotRequired[kind]
        made: Any = cast("Any", TypedDict)(definition.name, keys)
        made.key_checks = {
            field.name: checks.checker(field.type, self.classes) for field in definition.fields
        }
        return cast("type", made)

    def _field(self, definition: RecordType, field: Field) -> tuple[str, Any, Any]:
        """Name, Python's type, and the default or `msgspec.NODEFAULT`."""
        python_type = self.python_type(field.type)
        decoder_of(python_type, field.type)
        if field.required:
            return field.name, python_type, msgspec.NODEFAULT
        return field.name, python_type, self.default(field, f"{definition.name}.{field.name}")

    def default(self, field: Field, where: str) -> Value:
        """The value that `field` takes when it is not given."""
        if field.default is msgspec.UNSET:
            raise BadSpec(f"{where} is not required, so it needs a default")
        try:
            limit_stored_depth(bytes(field.default))
            value = decode_stored(field.default, self)
            weigh(value)
        except (BadValue, LimitExceeded) as error:
            raise BadSpec(f"the default of {where} is not valid: {error.message}") from error
        wrong = checks.checker(field.type, self.classes)(value)
        if wrong is not None:
            raise BadSpec(f"the default of {where} is not valid: {wrong.removeprefix(': ')}")
        masker = self.masker(field.type)
        return masker(value) if masker else value


def _struct_default(value: Value) -> Any:
    # One object may serve all records: values never change.
    return value if value is msgspec.NODEFAULT else msgspec.field(default_factory=lambda: value)


def _prefix(definition: RecordType) -> bytes:
    """What comes before the fields in the stored form."""
    return b'{"$record":["%b",' % definition.name.encode()


__all__ = ["Codec", "ParamsCodec", "RecordCodec", "TypeTable"]
