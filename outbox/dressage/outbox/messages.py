"""What a row of the outbox says: a start or an external event, with the identity that it keeps on its whole way."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.protocol.errors import BadInput
from dressage.protocol.names import key_token, run_token
from dressage.protocol.versions import VersionRef

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""Bytes of JSON of one message: it is read by a relay, with hundreds of others."""


class Start(msgspec.Struct, tag="start", tag_field="type", frozen=True, omit_defaults=True):
    """Starts a run. `id` is the command's id, the same however often a relay sends it; `version` may be empty.
    `traceparent` is the W3C trace context of who has sent it, if there was one."""

    id: str
    workflow: str
    run_id: str
    input: msgspec.Raw
    version: VersionRef = ""
    actor: str = ""
    traceparent: str = ""

    @property
    def ordering_key(self) -> str:
        return run_token(self.run_id)


class Post(msgspec.Struct, tag="post", tag_field="type", frozen=True, omit_defaults=True):
    """Posts an external event to a run, or to a correlation key. `id` is the event's id."""

    id: str
    event: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    run_id: str = ""
    key: str = ""
    actor: str = ""

    @property
    def ordering_key(self) -> str:
        return run_token(self.run_id) if self.run_id else key_token(self.event, self.key)


Outgoing = Start | Post

_decode = msgspec.json.Decoder(Outgoing).decode
_encode = msgspec.json.Encoder().encode


def encode_message(message: Outgoing) -> str:
    """The message as a row has it. Raises `BadInput` (OUTBOX_MESSAGE_TOO_LARGE, TEXT_INVALID)."""
    try:
        raw = _encode(message)
    except UnicodeEncodeError as error:
        raise BadInput(f"a text cannot be encoded as UTF-8: {error}", code="TEXT_INVALID") from error
    if len(raw) > MESSAGE_BYTES_MAX:
        raise BadInput(
            f"the message takes {len(raw)} bytes of {MESSAGE_BYTES_MAX} allowed: keep what is large where you can "
            "name it, and send its name (limit outbox-message-size)",
            code="OUTBOX_MESSAGE_TOO_LARGE",
        )
    return raw.decode()


def decode_message(text: str | bytes) -> Outgoing:
    """Raises `BadInput` (OUTBOX_MESSAGE_MALFORMED) for what `encode_message` cannot have written."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadInput(
            f"this is no message of an outbox: {error}: it was written by something else, or by a newer release",
            code="OUTBOX_MESSAGE_MALFORMED",
        ) from error
