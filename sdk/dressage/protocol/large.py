"""Large values on the wire: a small one as it is, a larger one as a reference to an object that its creator has stored.

A reference names no run. Who reads it looks among the objects of the run that it came with (of its root, which child
runs share), so nobody can be made to fetch what is another run's.

::

    {"$large": {"sha256": "9f86d0...", "size": 20971520, "encoding": "json"}}

Where a value may be large, JSON of at most `REFERENCE_BYTES_MAX` with the key `$large` is a reference, or malformed. A
value that could be taken for one is stored whatever its size.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from dressage.protocol.errors import BadValue

INLINE_BYTES_MAX: Final = 16 * 1024
"""JSON of a value of up to so many bytes travels as it is."""

LARGE_VALUE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of JSON of one large value. Who makes or takes one has all of it in memory, about three times for a moment."""

REFERENCE_BYTES_MAX: Final = 1024
KEY: Final = "$large"
JSON: Final = "json"
"""The only encoding so far: the object is the JSON of the value."""


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a large value is known by: the SHA-256 of its bytes in hexadecimal, and how many they are.

    `encoding` says what the bytes are, for who decodes them.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, msgspec.Meta(ge=0, le=LARGE_VALUE_BYTES_MAX)]
    encoding: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.+-]{0,62}\Z")] = JSON


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_references = msgspec.json.Decoder(Reference)


def mentions_large(raw: bytes) -> bool:
    """Whether a reference may be in JSON, which is sure to have none if not."""
    return b'"$large"' in raw or b"\\u0024" in raw


def reference_of(raw: bytes) -> Reference | None:
    """The reference that wire JSON of a large place is; None for a value. Raises `BadValue` for a malformed one."""
    if len(raw) > REFERENCE_BYTES_MAX or not mentions_large(raw):
        return None
    try:
        members = _members.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # No object; what is wrong with it is for the decoder to say.
    if KEY not in members:
        return None
    if len(members) > 1:
        raise BadValue(f"a reference to a large value has the key {KEY} and no other")
    try:
        return _references.decode(members[KEY])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadValue(f"a reference to a large value is malformed: {error}") from error


def reference_json(reference: Reference) -> bytes:
    """A reference as wire JSON."""
    return msgspec.json.encode({KEY: reference})
