"""Signatures of webhooks, as the Standard Webhooks convention has them (standardwebhooks.com).

What is signed is `<id>.<timestamp>.<body>`, by HMAC with SHA-256. A secret is `whsec_` and base64, or any other text.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Final

from dressage.protocol.errors import BadInput

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"

_PREFIX: Final = "whsec_"


def key_of(secret: str) -> bytes:
    """The key that a secret stands for. Raises `BadInput` (SECRET_INVALID), which does not tell the secret."""
    if not secret.startswith(_PREFIX):
        key = secret.encode()
    else:
        try:
            key = b64decode(secret.removeprefix(_PREFIX), validate=True)
        except ValueError as error:
            raise BadInput(
                f"a secret of a webhook that begins with {_PREFIX} goes on in base64, and this one does not",
                code="SECRET_INVALID",
            ) from error
    if not key:
        raise BadInput("a secret of a webhook is empty", code="SECRET_INVALID")
    return key


def signature(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """One signature as it stands in `webhook-signature`, where several are parted by spaces."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return f"v1,{b64encode(hmac.digest(key, signed, sha256)).decode()}"
