"""Values of one type of the author's, as JSON on the wire: a task's or workflow's result, an event's payload."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec

from dressage.expressions.masked import without_values
from dressage.flow import models
from dressage.protocol.errors import BadValue


class Wire:
    """Writes and reads values of `kind`. `what` they are stands in errors, which repeat no value if it is `masked`."""

    def __init__(self, kind: Any, what: str, *, masked: bool) -> None:
        self._kind = kind
        self._what = what
        self._masked = masked

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self._kind, dec_hook=models.from_plain)

    def encode(self, value: Any) -> bytes:
        """The value as JSON. Raises `BadValue` for what JSON cannot say or what is not of the type."""
        try:
            raw = msgspec.json.encode(value, enc_hook=models.to_plain)
        except Exception as error:
            raise self._wrong(error) from error
        self.decode(raw)
        return raw

    def decode(self, raw: bytes | msgspec.Raw) -> Any:
        """The value that JSON says. Raises `BadValue`."""
        try:
            return self._decoder.decode(raw)
        except Exception as error:  # A class of the author's may raise anything while one is made of it.
            raise self._wrong(error) from error

    def _wrong(self, error: Exception) -> BadValue:
        said = without_values(str(error)) if self._masked else str(error)
        return BadValue(f"{self._what} does not fit its type: {said}")
