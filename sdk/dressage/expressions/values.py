"""The values of the evaluator, and their stored form.

Values are None, bool, int, float, Decimal, str, bytes, datetime, date, timedelta, UUID, tuple, list, dict, set,
members of a `TypeTable`'s enums, its records (instances of `Record`, or named tuples), masked and large values, and
caught failures (`FailureInfo`).
Nothing changes a value once it exists, lists and dicts included: every operation makes a new one.

The stored form is JSON that describes itself. What JSON has is written as it is; everything else is an object
with one key that begins with `$`:

====================================  ==========================================================
`{"$decimal": "1.50"}`                Decimal
`{"$datetime": "..."}`, `$date`       RFC 3339
`{"$timedelta": "P1DT2S"}`            ISO 8601
`{"$uuid": "..."}`                    UUID
`{"$bytes": "..."}`                   bytes in base64
`{"$float": "nan"}`                   what JSON's numbers lack: nan, inf, -inf
`{"$tuple": [...]}`, `{"$set": [...]}`
`{"$dict": [[key, value], ...]}`      a dict with a key that is no str or begins with `$`
`{"$enum": ["Color", "RED"]}`         type and member by name
`{"$record": ["Order", {...}]}`       type by name, fields in wire JSON (the type gives their decoding)
`{"$masked": ...}`                    a masked value: the stored form of what is inside
`{"$large": ...}`                     a large value: its wire JSON, which may be a reference
`{"$failure": {...}}`                 a `FailureInfo`
====================================  ==========================================================
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.large import LargeValue
from dressage.expressions.limits import VALUE_MAX_DEPTH, limit_collisions
from dressage.expressions.masked import MaskedValue, encode_revealed, mask
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadValue
from dressage.protocol.large import reference_of
from dressage.protocol.nesting import nests_deeper

if TYPE_CHECKING:
    from dressage.expressions.types import TypeTable

Value = Any
"""One of the values that the module's docstring lists."""


class Record(msgspec.Struct, frozen=True):
    """Base of the classes that a `TypeTable` makes for the spec's record types."""

    stored_prefix: ClassVar[bytes] = b""
    """What comes before the fields in the stored form."""

    float_fixes: ClassVar[dict[str, Callable[[Any], Any]]] = {}
    """For each field that holds floats: what turns the ints of wire JSON into them."""

    mask_fixes: ClassVar[dict[str, Callable[[Any], Any]]] = {}
    """For each field that holds masked or large values: what makes them so."""


def type_name(value: Value) -> str:
    """The name that Python gives a value's type in its errors: with its module for types that are written in C."""
    kind = type(value)
    return _QUALIFIED.get(kind, kind.__name__)


_QUALIFIED: dict[type, str] = {
    Decimal: "decimal.Decimal",
    **{kind: f"datetime.{kind.__name__}" for kind in (datetime, date, timedelta)},
}

_to_json = msgspec.json.Encoder().encode
_NONE = type(None)
_STR = frozenset({str})
_JSON_SCALARS = frozenset({str, int, bool, _NONE})


# -- to the stored form ----------------------------------------------------------------------------
def encode_stored(value: Value) -> bytes:
    """The stored form of `value`. Raises `BadValue` for what is no value, `LimitExceeded` if it nests too deep."""
    try:
        return _encode(value)
    except RecursionError as error:
        raise LimitExceeded("value-depth", "a value nests too deep to be stored") from error
    except UnicodeEncodeError as error:
        raise BadValue(f"a text cannot be stored: {error}") from error


def _encode(value: Value) -> bytes:
    kind = type(value)
    if kind in _JSON_SCALARS:
        return _to_json(value)
    encode = _ENCODERS.get(kind)
    if encode is not None:
        return encode(value)
    prefix = getattr(kind, "stored_prefix", None)
    if prefix is not None:
        return b"%b%b]}" % (prefix, encode_revealed(value))
    if isinstance(value, Enum):
        return _tagged("$enum", [kind.__name__, value.name])
    raise BadValue(f"a {kind.__name__} is no value that a run can hold")


def _tagged(tag: str, content: object) -> bytes:
    return _to_json({tag: content})


def _encode_float(value: float) -> bytes:
    return _to_json(value) if isfinite(value) else _tagged("$float", str(value))


def _encode_list(value: list[Value]) -> bytes:
    plain = _plain_json(value)
    if plain is not None:
        return plain
    return b"[%b]" % b",".join(map(_encode, value))


def _encode_tuple(value: tuple[Value, ...]) -> bytes:
    return b'{"$tuple":%b}' % _encode_list(list(value))


def _encode_set(value: set[Value]) -> bytes:
    # Python orders a set by hashes that differ between processes; the stored form must not.
    return b'{"$set":[%b]}' % b",".join(sorted(map(_encode, value)))


def _encode_dict(value: dict[Value, Value]) -> bytes:
    plain = _plain_json(value)
    if plain is not None:
        return plain
    if all(type(key) is str and key[:1] != "$" for key in value):
        members = (b"%b:%b" % (_to_json(key), _encode(item)) for key, item in value.items())
        return b"{%b}" % b",".join(members)
    pairs = (b"[%b,%b]" % (_encode(key), _encode(item)) for key, item in value.items())
    return b'{"$dict":[%b]}' % b",".join(pairs)


def _plain_json(value: Value) -> bytes | None:
    """The JSON of a value that JSON alone can say, written in C in one go; None for any other."""
    if not _is_plain(value):
        return None
    raw = _to_json(value)
    # Only a text that begins with `$` gives these two bytes; as a key it needs the escaped form.
    return None if b'"$' in raw else raw


def _is_plain(value: Value) -> bool:
    """Whether `value` consists of what JSON has, keys that begin with `$` apart."""
    kind = type(value)
    if kind in _JSON_SCALARS:
        return True
    if kind is float:
        return isfinite(value)
    if kind is list:
        return _JSON_SCALARS.issuperset(map(type, value)) or all(map(_is_plain, value))
    if kind is dict:
        items = value.values()
        return _STR.issuperset(map(type, value)) and (
            _JSON_SCALARS.issuperset(map(type, items)) or all(map(_is_plain, items))
        )
    return False


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    float: _encode_float,
    list: _encode_list,
    dict: _encode_dict,
    tuple: _encode_tuple,
    set: _encode_set,
    Decimal: lambda value: _tagged("$decimal", str(value)),
    datetime: lambda value: _tagged("$datetime", value),
    date: lambda value: _tagged("$date", value),
    timedelta: lambda value: _tagged("$timedelta", value),
    UUID: lambda value: _tagged("$uuid", value),
    bytes: lambda value: _tagged("$bytes", b64encode(value).decode()),
    FailureInfo: lambda value: _tagged("$failure", value),
    MaskedValue: lambda value: b'{"$masked":%b}' % _encode(value.inside),
    LargeValue: lambda value: b'{"$large":%b}' % value.inside,
}


# -- from the stored form --------------------------------------------------------------------------
_STORED_DEPTH_MAX = 3 * VALUE_MAX_DEPTH
"""Levels of JSON: a dict with keys that are no texts takes three for its one."""

_RECORD_START = b'{"$record":["'
_from_json = msgspec.json.Decoder().decode
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raw_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw_pairs = msgspec.json.Decoder(list[tuple[msgspec.Raw, msgspec.Raw]]).decode
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_raw_record = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode


def decode_stored(raw: bytes | msgspec.Raw, types: TypeTable) -> Value:
    """The value of a stored form; its records and enums are those of `types`. Raises `BadValue`, `LimitExceeded`."""
    data = raw if type(raw) is bytes else bytes(raw)
    try:
        return _decode(data, types)
    except (BadValue, LimitExceeded):
        raise
    except RecursionError as error:
        raise LimitExceeded("value-depth", "a stored value nests too deep") from error
    except (msgspec.MsgspecError, ValueError, ArithmeticError, TypeError) as error:
        raise BadValue(f"a stored value cannot be read: {error}") from error


def limit_stored_depth(data: bytes) -> None:
    """Refuses what nests too deep in a spec, where no evaluation made it. Raises `LimitExceeded`."""
    if nests_deeper(data, _STORED_DEPTH_MAX):
        raise LimitExceeded(
            "value-depth", f"it nests too deep: at most {VALUE_MAX_DEPTH} levels are allowed; make it flatter"
        )


def _decode(data: bytes, types: TypeTable) -> Value:
    # A `$` may also be written as an escape, by other encoders than ours.
    if b'"$' not in data and b"\\u0024" not in data:
        return _from_json(data)
    if data.startswith(b'{"$') and data.endswith(b"}"):
        try:
            return _decode_as_written(data, types)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, KeyError):
            pass  # spaced in another way than ours, or wrong: read it step by step
    return _decode_by_steps(data.lstrip(), types)


def _decode_as_written(data: bytes, types: TypeTable) -> Value:
    """Reads what `_encode` wrote, by slicing. For other JSON it raises `msgspec.DecodeError` or `KeyError`."""
    if data.startswith(_RECORD_START):
        name_end = data.find(b'"', len(_RECORD_START))
        name = data[len(_RECORD_START) : name_end].decode()
        return types.read_record(name, data[name_end + 2 : -2])
    tag_end = data.find(b'":', 3)
    return _DECODERS[data[2:tag_end]](data[tag_end + 2 : -1], types)


def _decode_by_steps(data: bytes, types: TypeTable) -> Value:
    first = data[:1]
    if first == b"[":
        return [_decode(bytes(item), types) for item in _raw_items(data)]
    if first != b"{":
        return _from_json(data)
    members = _raw_members(data)
    if any(name[:1] == "$" for name in members):
        if len(members) != 1:
            raise BadValue(f"a stored object mixes `$` with other keys: {', '.join(members)}")
        ((tag, content),) = members.items()
        decode = _DECODERS.get(tag.encode())
        if decode is None:
            raise BadValue(f"a stored value has the unknown tag {tag}")
        return decode(bytes(content), types)
    return {name: _decode(bytes(member), types) for name, member in members.items()}


def _typed(kind: type) -> Callable[[bytes, TypeTable], Value]:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    return lambda data, types: decoder.decode(data)


def _decode_float(data: bytes, types: TypeTable) -> Value:
    text = _from_json(data)
    if text not in ("nan", "inf", "-inf"):
        raise BadValue(f"{text!r} is no float")
    return float(text)


def _decode_items(data: bytes, types: TypeTable) -> list[Value]:
    items = _decode(data, types)
    if not isinstance(items, list):
        raise BadValue("a stored tuple or set must hold a list")
    return items


def _decode_dict(data: bytes, types: TypeTable) -> Value:
    pairs = _raw_pairs(data)
    keys = [_decode(bytes(key), types) for key, _ in pairs]
    limit_collisions(keys)
    return {key: _decode(bytes(item), types) for key, (_, item) in zip(keys, pairs, strict=True)}


def _decode_set(data: bytes, types: TypeTable) -> Value:
    items = _decode_items(data, types)
    limit_collisions(items)
    return set(items)


def _decode_large(data: bytes) -> LargeValue:
    value = LargeValue(bytes(_raw(data)))
    reference_of(value.inside)  # It is none, or a proper one.
    return value


def _decode_enum(data: bytes, types: TypeTable) -> Value:
    name, member = msgspec.json.decode(data, type=tuple[str, str])
    return types.member(name, member)


def _decode_record(data: bytes, types: TypeTable) -> Value:
    name, fields = _raw_record(data)
    return types.read_record(name, bytes(fields))


_DECODERS: dict[bytes, Callable[[bytes, TypeTable], Value]] = {
    b"$decimal": _typed(Decimal),
    b"$datetime": _typed(datetime),
    b"$date": _typed(date),
    b"$timedelta": _typed(timedelta),
    b"$uuid": _typed(UUID),
    b"$bytes": _typed(bytes),
    b"$failure": _typed(FailureInfo),
    b"$float": _decode_float,
    b"$tuple": lambda data, types: tuple(_decode_items(data, types)),
    b"$set": _decode_set,
    b"$dict": _decode_dict,
    b"$enum": _decode_enum,
    b"$record": _decode_record,
    b"$masked": lambda data, types: mask(_decode(data, types)),
    b"$large": lambda data, types: _decode_large(data),
}
