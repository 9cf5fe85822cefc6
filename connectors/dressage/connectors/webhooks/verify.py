"""Whether a request comes from who knows the secret: pure, over the headers and the raw body, before anything of it is
decoded.

What is not exactly as its scheme has it is not accepted: a header that comes twice, a number with a sign, an id with a
dot. An id with a dot could move the border between what is signed, id and time, and what may be chosen by others.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol

from dressage.connectors.http.exchange import Headers
from dressage.protocol.errors import BadInput

TOLERANCE_S: Final = 300
"""How far a signed time may be from ours, in either direction."""

Encoding = Literal["hex", "base64"]

_ID: Final = re.compile(rb"[!-\-/-~]{1,256}")
"""Visible characters of ASCII, but no dot."""

_TIME: Final = re.compile(rb"[0-9]{1,12}")


class SecretInvalid(BadInput):
    """A secret that cannot be one; the message does not repeat it."""

    code = "SECRET_INVALID"


class Verifier(Protocol):
    """One way to sign requests."""

    proof: frozenset[str]
    """Headers that prove who sends, and are no part of the event: they differ whenever it is sent."""

    def accepts(self, headers: Headers, body: bytes, now_s: float) -> bool:
        """Whether the request is signed with one of the secrets, at about `now_s` (Unix time) if it says when."""
        ...


class Unsigned:
    """Everybody may send."""

    proof: frozenset[str] = frozenset()

    def accepts(self, headers: Headers, body: bytes, now_s: float) -> bool:
        return True


class Standard:
    """Standard Webhooks 1.0 with symmetric secrets: id, time and body are signed; the secret is base64, with `whsec_`
    before it or not. A request may have several signatures, while a secret is being changed."""

    proof = frozenset({"webhook-timestamp", "webhook-signature"})

    def __init__(self, secrets: Iterable[str]) -> None:
        self._keys = [_decoded(each) for each in secrets]

    def accepts(self, headers: Headers, body: bytes, now_s: float) -> bool:
        event_id, time, given = (
            _only(headers, name) for name in (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
        )
        if not _ID.fullmatch(event_id) or not _is_recent(time, now_s):
            return False
        signed = b"%b.%b.%b" % (event_id, time, body)
        wanted = [b"v1," + b64encode(_digest(key, signed)) for key in self._keys]
        return _any_equal(wanted, given.split(b" "))


class Stripe:
    """`Stripe-Signature: t=<time>,v1=<hex>`: time and body are signed. There may be several `v1`."""

    proof = frozenset({"stripe-signature"})

    def __init__(self, secrets: Iterable[str]) -> None:
        self._keys = [_as_bytes(each) for each in secrets]

    def accepts(self, headers: Headers, body: bytes, now_s: float) -> bool:
        parts = [part.partition(b"=") for part in _only(headers, b"stripe-signature").split(b",")]
        times = [value for name, _, value in parts if name == b"t"]
        given = [value for name, _, value in parts if name == b"v1"]
        if len(times) != 1 or not _is_recent(times[0], now_s):
            return False
        signed = b"%b.%b" % (times[0], body)
        wanted = [_digest(key, signed).hex().encode() for key in self._keys]
        return _any_equal(wanted, given)


class HmacSha256:
    """A header with the HMAC-SHA256 of the body, perhaps behind a prefix. Nothing else is signed, and no time."""

    def __init__(
        self, secrets: Iterable[str], header: str, prefix: str = "", encoding: Encoding = "hex"
    ) -> None:
        self._keys = [_as_bytes(each) for each in secrets]
        self._header = header.lower().encode()
        self._prefix = prefix.encode()
        self._in_hex = encoding == "hex"
        self.proof = frozenset({header.lower()})

    def accepts(self, headers: Headers, body: bytes, now_s: float) -> bool:
        given = _only(headers, self._header)
        digests = [_digest(key, body) for key in self._keys]
        if not self._in_hex:
            return _any_equal([self._prefix + b64encode(each) for each in digests], [given])
        # Digits of hex may be written large.
        end = len(self._prefix)
        given = given[:end] + given[end:].lower()
        return _any_equal([self._prefix + each.hex().encode() for each in digests], [given])


def _only(headers: Headers, wanted: bytes) -> bytes:
    """The value of a header that comes once; empty if it does not, or several times."""
    found = [value for name, value in headers if name.lower() == wanted]
    return found[0] if len(found) == 1 else b""


def _is_recent(time: bytes, now_s: float) -> bool:
    return _TIME.fullmatch(time) is not None and abs(now_s - int(time)) <= TOLERANCE_S


def _digest(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _any_equal(wanted: Sequence[bytes], given: Sequence[bytes]) -> bool:
    """Whether one of those is one of these, each pair compared in a time that does not tell how much of it is equal."""
    pairs = [hmac.compare_digest(left, right) for left in wanted for right in given]
    return any(pairs)


def _as_bytes(secret: str) -> bytes:
    if not secret:
        raise SecretInvalid("a secret is empty, so that everybody would know it: look where it comes from")
    return secret.encode()


def _decoded(secret: str) -> bytes:
    """The key in a secret of Standard Webhooks."""
    encoded = _as_bytes(secret.removeprefix("whsec_"))
    try:
        key = b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if not key:
        raise SecretInvalid(
            "a secret of Standard Webhooks is base64, as in whsec_..., and this one is not: look where it comes from"
        )
    return key
