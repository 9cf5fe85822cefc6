"""Values of callers as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from dressage.flow import models
from dressage.protocol.errors import BadInput


def plain(output: bytes) -> Any:
    """An output as plain JSON values."""
    return msgspec.json.decode(output)


def as_raw(value: Any, code: str = "INPUT_INVALID") -> msgspec.Raw:
    """An input, or a payload, in wire form. Raises `BadInput` for what is no JSON."""
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=models.to_plain))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"the value cannot be written as JSON: {error}", code=code) from error
