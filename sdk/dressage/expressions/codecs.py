"""Reading and writing wire JSON: values of one type, and parameters by name, with errors that say where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dressage.expressions import checks
from dressage.expressions.admission import HARMLESS_BYTES
from dressage.expressions.limits import DIGITS_MAX
from dressage.expressions.masked import encode_hidden, encode_revealed, without_values
from dressage.expressions.values import Value
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.types import Field, TypeRef

if TYPE_CHECKING:
    from dressage.expressions.types import TypeTable

_WHERE = re.compile(r"(?s)(.*) - at `\$(.*)`")
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError, RecursionError)


class Codec:
    """Reads, writes and checks the values of one type. Made by `TypeTable.codec`."""

    def __init__(self, table: TypeTable, ref: TypeRef) -> None:
        self.type = ref
        self._decoder = decoder_of(table.python_type(ref), ref)
        self._admission = table.admissions.of(ref)
        self.mask = table.masker(ref)
        """Makes masked or large what of a value the type says is; None if nothing is."""
        self._fix = _both(checks.float_fixer(ref, table.classes), self.mask)
        self.mismatch = checks.checker(ref, table.classes)
        self._holds = checks.checker(ref, table.classes, wire=False)

    def decode(self, raw: bytes | msgspec.Raw) -> Value:
        """The value of wire JSON. Raises `BadValue` with path, expected and got, or with the limit that it passes."""
        if len(raw) > HARMLESS_BYTES:
            return self._decode_admitted(bytes(raw))
        try:
            value = self._decoder.decode(raw)
            return self._fix(value) if self._fix else value
        except _UNREADABLE as error:
            raise BadValue(_explained(error, "value", self.mask is not None)) from error

    def _decode_admitted(self, data: bytes) -> Value:
        self._admission.before(data)
        try:
            value = self._decoder.decode(data)
            value = self._fix(value) if self._fix else value
        except _UNREADABLE as error:
            raise BadValue(_explained(error, "value", self.mask is not None)) from error
        if len(data) > DIGITS_MAX:
            self._admission.behind(data, value)
        return value

    def encode(self, value: Value) -> bytes:
        """The wire JSON of `value`. Raises `BadValue` if it is not of the type."""
        self.check(value)
        return _written(value)

    def shown(self, raw: bytes, value: Value) -> bytes:
        """The wire JSON for readers: `raw`, which `value` was decoded from or encoded to, with masked parts hidden."""
        return raw if self.mask is None else encode_hidden(self.mask(value))

    def admit(self, value: Value, where: str) -> Value:
        """The value as a variable of this type holds it: masked parts masked. Raises as `check` does."""
        wrong = self._holds(value)
        if wrong is not None:
            raise BadValue(f"{where}{wrong}")
        return self.mask(value) if self.mask else value

    def check(self, value: Value, where: str = "value") -> None:
        """Raises `BadValue`, which begins with `where` and the path inside, if `value` is not of the type."""
        wrong = self.mismatch(value)
        if wrong is not None:
            raise BadValue(f"{where}{wrong}")


class ParamsCodec:
    """Reads and writes parameters: a JSON object of values by name.

    An unknown name is refused. A missing parameter takes its default, and so does null where the type does not
    admit none; without a default either is refused.
    """

    def __init__(self, fields: Iterable[Field], table: TypeTable) -> None:
        self.fields = {field.name: field for field in fields}
        self._codecs = {name: table.codec(field.type) for name, field in self.fields.items()}
        self._admission = table.admissions.of_fields(self.fields.values())
        self._defaults = {
            name: table.default(field, f"parameter {name}")
            for name, field in self.fields.items()
            if not field.required
        }
        self._fixes = {
            name: fix
            for name, field in self.fields.items()
            if (fix := _both(checks.float_fixer(field.type, table.classes), self._codecs[name].mask))
        }
        self._masks = any(codec.mask for codec in self._codecs.values())
        struct = msgspec.defstruct(
            "Parameters",
            [self._member(table, field) for field in self.fields.values()],
            forbid_unknown_fields=True,
            kw_only=True,
        )
        self._decoder = msgspec.json.Decoder(struct)

    def _member(self, table: TypeTable, field: Field) -> tuple[str, Any, Any]:
        python_type = table.python_type(field.type)
        if field.required:
            return field.name, python_type, msgspec.NODEFAULT
        # Null is let through here so that `decode` can put the default in its place.
        kind = python_type if python_type is msgspec.Raw else checks.union([python_type, None], field.type)
        return field.name, kind, msgspec.UNSET

    def decode(self, raw: bytes | msgspec.Raw) -> dict[str, Value]:
        """The parameters in wire JSON, in their declared order. Raises `BadValue`, which names the parameter."""
        if len(raw) > HARMLESS_BYTES:
            self._admission.before(bytes(raw))
        try:
            given = self._decoder.decode(raw)
            values = {name: self._given(name, getattr(given, name)) for name in self.fields}
        except _UNREADABLE as error:
            raise BadValue(_explained(error, "", self._masks)) from error
        if len(raw) > DIGITS_MAX:
            self._admission.behind(bytes(raw), list(values.values()))
        return values

    def _given(self, name: str, value: Value) -> Value:
        if type(value) is msgspec.Raw and bytes(value).strip() == b"null" and name in self._defaults:
            value = None
        if name in self._defaults and (value is msgspec.UNSET or (value is None and self._lacks_none(name))):
            return self._defaults[name]
        fix = self._fixes.get(name)
        try:
            return fix(value) if fix else value
        except BadValue as error:
            raise BadValue(f"parameter {name}: {error.message.removeprefix('value: ')}") from error

    def _lacks_none(self, name: str) -> bool:
        return self._codecs[name].mismatch(None) is not None

    def encode(self, values: Mapping[str, Value]) -> bytes:
        """The wire JSON of parameters by name. Raises `BadValue`, which names the parameter."""
        for name, value in values.items():
            codec = self._codecs.get(name)
            if codec is None:
                raise BadValue(f"there is no parameter {name}")
            codec.check(value, f"parameter {name}")
        for name, field in self.fields.items():
            if field.required and name not in values:
                raise BadValue(f"parameter {name} is missing")
        return _written(values)

    def shown(self, raw: bytes) -> bytes:
        """Parameters for readers: wire JSON that `encode` wrote, with masked parts hidden."""
        return encode_hidden(self.decode(raw)) if self._masks else raw


def _both(first: checks.Fix | None, second: checks.Fix | None) -> checks.Fix | None:
    if first is None or second is None:
        return first or second
    return lambda value: second(first(value))


def decoder_of(python_type: Any, ref: TypeRef) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(python_type)
    except TypeError as error:
        raise BadSpec(
            f"type {checks.shown(ref)} cannot be read from JSON without guessing ({error}): "
            "use one of the alternatives, or a record that has a field for each"
        ) from error


def _written(value: Any) -> bytes:
    try:
        return encode_revealed(value)
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError) as error:
        raise BadValue(f"the value cannot be written as JSON: {error}") from error


def _explained(error: Exception, where: str, masked: bool) -> str:
    """Puts the place before what msgspec says, as in `order.lines[0].qty: Expected int, got str`.

    The one thing in which msgspec repeats a value is left out where a type has masked parts.
    """
    text = str(error).replace("`", "") if not isinstance(error, msgspec.ValidationError) else str(error)
    if masked:
        text = without_values(text)
    found = _WHERE.fullmatch(text)
    if not found:
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
        missing = re.fullmatch(r"Object missing required field `(.*)`", text)
        if not where and unknown:
            return f"there is no parameter {unknown[1]}"
        if not where and missing:
            return f"parameter {missing[1]} is missing"
        return f"{where}: {text}".replace("`", "").removeprefix(": ")
    said, path = found[1], found[2]
    place = f"{where}{path}" if where else f"parameter {path.removeprefix('.')}"
    return f"{place}: {said}".replace("`", "")
