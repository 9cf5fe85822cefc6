"""Values of DuckDB as JSON, without losing anything.

================================  =================================================================
type                              in JSON
================================  =================================================================
BOOLEAN, numbers up to 64 bits    as they are; NaN and the infinities as text
HUGEINT, DECIMAL                  text, as no number of JSON's holds them safely (HUGEINT: above 64 bits)
TIMESTAMPTZ                       RFC 3339 in UTC with microseconds
TIMESTAMP                         the same without a zone
DATE, TIME, INTERVAL, UUID, ...   text, as DuckDB writes them
BLOB                              base64
LIST, STRUCT, MAP, UNION          arrays and objects, their members as DuckDB writes them in JSON
JSON                              the document itself
================================  =================================================================
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec

_PLAIN: Final = frozenset(
    {
        "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
        "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "VARCHAR", "JSON",
    }
)  # fmt: skip
_NESTED: Final = ("STRUCT(", "MAP(", "UNION(", "VARIANT")


def is_json(type_name: str) -> bool:
    """Whether `expression` turns a value of this type into JSON text."""
    return type_name == "JSON" or type_name.endswith("]") or type_name.startswith(_NESTED)


def expression(column: str, type_name: str) -> str:
    """SQL that turns `column` into what `wire_value` takes."""
    if type_name in _PLAIN:
        return column
    if is_json(type_name):
        return f"to_json({column})"
    if type_name == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({column} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
    if type_name.startswith("TIMESTAMP"):
        return f"strftime({column}::TIMESTAMP, '%Y-%m-%dT%H:%M:%S.%f')"
    if type_name == "BLOB":
        return f"base64({column})"
    return f"{column}::VARCHAR"


def wire_value(value: Any, *, json_text: bool) -> Any:
    """A value that msgspec encodes as valid JSON; `json_text` says that it is JSON text already."""
    if json_text and isinstance(value, str):
        return _document(value)
    return _safe(value)


def _document(text: str) -> Any:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        # DuckDB admits NaN and Infinity in JSON, which no other reader does.
        return _safe(json.loads(text))
    return msgspec.Raw(text.encode())


def _safe(value: Any) -> Any:
    match value:
        case bool() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case list():
            return [_safe(item) for item in value]
        case dict():
            return {str(key): _safe(item) for key, item in value.items()}
        case _:
            return str(value)
