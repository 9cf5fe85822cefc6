"""The file that declares webhooks: TOML with one `[[webhook]]` table for each, read as that of triggers is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from dressage.connectors.config import EVENT_NAMES, PostTarget, StartTarget, read_target, target_keys
from dressage.connectors.secrets import SECRET, revealed
from dressage.connectors.tables import (
    ConfigInvalid,
    Expression,
    Problem,
    Table,
    declared,
    read_text,
    read_toml,
    shown,
)
from dressage.connectors.webhooks.verify import Encoding, HmacSha256, Standard, Stripe, Unsigned, Verifier

Scheme = Literal["standard", "hmac-sha256", "stripe", "none"]
Refusal = Literal["keep", "answer"]

_KEYS: Final = ("name", "path", "signature", "secret", "header", "prefix", "encoding", "when", "refused")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_PREFIX: Final = re.compile(r"[!-~]{0,100}")

_ID_OF: Final[Mapping[Scheme, str]] = {"standard": "headers['webhook-id']", "stripe": "event['id']"}
"""What tells one event from another where the scheme says so: signed, and the same whenever it is sent. Of the others
it is a CloudEvent's own id, or the body's hash."""

_T = TypeVar("_T", bound=str)


@dataclass(slots=True, frozen=True)
class Signature:
    """How requests are signed. `secrets` are where they are found, as `${env:NAME}`: a request may be signed with any
    of them."""

    scheme: Scheme
    secrets: tuple[str, ...] = ()
    header: str = ""
    prefix: str = ""
    encoding: Encoding = "hex"

    def verifier(self) -> Verifier:
        """With the secrets, looked up now. Raises `SecretMissing`, `SecretInvalid`."""
        secrets = [revealed(each) for each in self.secrets]
        match self.scheme:
            case "none":
                return Unsigned()
            case "standard":
                return Standard(secrets)
            case "stripe":
                return Stripe(secrets)
            case "hmac-sha256":
                return HmacSha256(secrets, self.header, self.prefix, self.encoding)


@dataclass(slots=True, frozen=True)
class WebhookConfig:
    """One webhook, with nothing left to check but what only the engine knows, and the secrets.

    `refused` says what becomes of an event that the engine will never accept: it is kept as a dead letter, and that is
    success to its sender ("keep"), or the sender is told ("answer").
    """

    name: str
    path: str
    signature: Signature
    target: StartTarget | PostTarget
    when: Expression | None = None
    refused: Refusal = "keep"


def load_webhooks(path: Path) -> list[WebhookConfig]:
    """The webhooks that a file declares. Raises `ConfigInvalid` with everything that is wrong with it."""
    return parse_webhooks(read_text(path), path.name)


def parse_webhooks(text: str, file: str = "webhooks.toml") -> list[WebhookConfig]:
    """The webhooks that `text` declares; `file` is its name in errors. Raises `ConfigInvalid`."""
    problems: list[Problem] = []
    webhooks = list(_webhooks(read_toml(text, file), file, problems))
    if problems:
        raise ConfigInvalid(problems)
    return webhooks


def _webhooks(document: Mapping[str, Any], file: str, problems: list[Problem]) -> Iterator[WebhookConfig]:
    paths = set[str]()
    for table in declared(file, problems, document, "webhook"):
        webhook = _webhook(table)
        if webhook.path and webhook.path in paths:
            table.problem("path", "NAME_TAKEN", "another webhook of this file has this path")
        paths.add(webhook.path)
        yield webhook


def _webhook(table: Table) -> WebhookConfig:
    table.allow([*_KEYS, *target_keys(table)])
    signature = _signature(table)
    return WebhookConfig(
        name=table.name("name", "webhook"),
        path=_path(table),
        signature=signature,
        target=_target(table, signature.scheme),
        when=table.expression("when", EVENT_NAMES),
        refused=_choice(table, "refused", get_args(Refusal), "keep"),
    )


def _path(table: Table) -> str:
    if not table.require("path", 'say where requests come, as in path = "/payments"'):
        return ""
    path = table.value("path", str, 'a path, as "/payments"') or ""
    if not _PATH.fullmatch(path):
        table.problem("path", "VALUE_INVALID", f"must be a path as /payments, not {shown(path)}")
    return path


def _target(table: Table, scheme: Scheme) -> StartTarget | PostTarget:
    target = read_target(table, "webhook")
    own = _ID_OF.get(scheme)
    if isinstance(target, StartTarget) or target.event_id is not None or own is None:
        return target
    return replace(target, event_id=table.parsed("event_id", own, EVENT_NAMES))


def _signature(table: Table) -> Signature:
    schemes = get_args(Scheme)
    if not table.require("signature", f"say how requests are signed: {', '.join(schemes)}"):
        return Signature("none")
    scheme = _choice(table, "signature", schemes, "standard")
    by_header = scheme == "hmac-sha256"
    if not by_header:
        for key in ("header", "prefix", "encoding"):
            if key in table.values:
                table.problem(key, "KEY_UNKNOWN", 'is for signature = "hmac-sha256" only')
    return Signature(
        scheme,
        _secrets(table, scheme),
        _header(table) if by_header else "",
        _matching(table, "prefix", _PREFIX, "what stands before the signature, as sha256="),
        _choice(table, "encoding", get_args(Encoding), "hex"),
    )


def _header(table: Table) -> str:
    if not table.require(
        "header", 'say which header has the signature, as in header = "X-Hub-Signature-256"'
    ):
        return ""
    return _matching(table, "header", _HEADER, "the name of a header")


def _matching(table: Table, key: str, pattern: re.Pattern[str], what: str) -> str:
    text = table.value(key, str, what) or ""
    if key in table.values and not pattern.fullmatch(text):
        table.problem(key, "VALUE_INVALID", f"must be {what}")
    return text


def _secrets(table: Table, scheme: Scheme) -> tuple[str, ...]:
    if scheme == "none":
        if "secret" in table.values:
            table.problem("secret", "KEY_UNKNOWN", 'is of no use with signature = "none"')
        return ()
    if not table.require("secret", 'say where the secret is, as in secret = "${env:PAYMENTS_SECRET}"'):
        return ()
    given = table.values["secret"]
    secrets = given if isinstance(given, list) else [given]
    if not secrets or not all(isinstance(each, str) and SECRET.fullmatch(each) for each in secrets):
        # What stands there may be the secret itself, and is not repeated.
        table.problem(
            "secret",
            "VALUE_INVALID",
            "must be ${env:NAME} or ${file:/path}, or a list of these: the secret itself has no place in this file",
        )
        return ()
    return tuple(secrets)


def _choice(table: Table, key: str, allowed: tuple[_T, ...], default: _T) -> _T:
    value = table.values.get(key, default)
    for each in allowed:
        if value == each:
            return each
    table.problem(key, "VALUE_INVALID", f"must be one of {', '.join(allowed)}, not {shown(value)}")
    return default
