"""CloudEvents in both content modes of their NATS binding: what is said of an event, and its data.

*Structured*: the content type is `application/cloudevents+json`, and the payload holds attributes and data. *Binary*:
each attribute is a header `ce-<name>` with a value in percent-encoding, and the payload is the data.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from dressage.protocol.errors import BadInput

STRUCTURED: Final = "application/cloudevents"
PREFIX: Final = "ce-"

EVENT_NOT_JSON: Final = "EVENT_NOT_JSON"
CLOUD_EVENT_INVALID: Final = "CLOUD_EVENT_INVALID"

_REQUIRED: Final = ("specversion", "id", "source", "type")
_decode = msgspec.json.Decoder().decode


def read_event(data: bytes, headers: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    """The decoded data of an event, and its attributes if it is a CloudEvent. Raises `BadInput` (EVENT_NOT_JSON,
    CLOUD_EVENT_INVALID)."""
    content_type = _header(headers, "content-type")
    if content_type.startswith(STRUCTURED):
        return _structured(data, content_type)
    attributes: dict[str, Any] = {
        name.lower().removeprefix(PREFIX): unquote(value)
        for name, value in headers.items()
        if name.lower().startswith(PREFIX)
    }
    if "specversion" not in attributes:
        return _json(data), {}
    _check(attributes)
    return _data(data, attributes.get("datacontenttype") or content_type), attributes


def _structured(data: bytes, content_type: str) -> tuple[Any, dict[str, Any]]:
    kind = content_type.partition(";")[0].strip()
    if kind != f"{STRUCTURED}+json":
        raise BadInput(
            f"its content type {kind} is not understood: send {STRUCTURED}+json", code=CLOUD_EVENT_INVALID
        )
    attributes = _json(data)
    if not isinstance(attributes, dict):
        raise BadInput("a structured CloudEvent is a JSON object, and this is none", code=CLOUD_EVENT_INVALID)
    value, in_base64 = attributes.pop("data", None), attributes.pop("data_base64", None)
    _check(attributes)
    if in_base64 is None:
        return value, attributes
    try:
        raw = b64decode(in_base64, validate=True)
    except (ValueError, TypeError) as error:
        raise BadInput(f"data_base64 is no base64: {error}", code=CLOUD_EVENT_INVALID) from error
    return _data(raw, str(attributes.get("datacontenttype", ""))), attributes


def _data(data: bytes, content_type: str) -> Any:
    """Text is text; everything else is JSON, which it has to be. No data at all is None."""
    if not data:
        return None
    if content_type.startswith("text/"):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"the data is no UTF-8: {error.reason}", code=CLOUD_EVENT_INVALID) from error
    return _json(data)


def _check(attributes: Mapping[str, Any]) -> None:
    missing = [
        name for name in _REQUIRED if not isinstance(attributes.get(name), str) or not attributes[name]
    ]
    if missing:
        raise BadInput(f"a CloudEvent has {', '.join(missing)}, and this one not", code=CLOUD_EVENT_INVALID)


def _json(data: bytes) -> Any:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) if data else "it is empty"
        raise BadInput(f"the payload is no JSON: {reason}", code=EVENT_NOT_JSON) from error


def _header(headers: Mapping[str, str], wanted: str) -> str:
    """Names of headers are the same in capitals."""
    return next((value.strip().lower() for name, value in headers.items() if name.lower() == wanted), "")
