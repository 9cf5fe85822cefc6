"""What a file says of sinks to subjects of users and to webhooks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from dressage.connectors.connect.reading import (
    COMMON_KEYS,
    SINK_NAMES,
    WRITTEN_OUT,
    CommonConfig,
    ConnectorTable,
    SinkFormat,
    Tolerance,
)
from dressage.connectors.mapping import compiled
from dressage.connectors.secrets import SECRET
from dressage.connectors.tables import Expression, shown
from dressage.protocol.errors import DressageError
from dressage.protocol.names import wrong_with_subject

REQUESTS_MAX: Final = 256
"""Requests that a webhook may have under way at a time."""

TIMEOUT_S_MAX: Final = 300.0
DEADLINE_S_MAX: Final = 86_400.0
"""For so long one event may be tried: until then its run's later events wait, and the connector's place stays."""

REQUESTS: Final = 20
TIMEOUT_S: Final = 10.0
DEADLINE_S: Final = 3_600.0

_KEYS: Final = (*COMMON_KEYS, "errors.tolerance")
_SUBJECT_KEYS: Final = (*_KEYS, "subject")
_WEBHOOK_KEYS: Final = (*_KEYS, "url", "secret", "headers", "timeout", "retry.deadline", "requests.max")

TABLES: Final = ("headers",)
"""What stays a table, whatever is in it."""

_HEADER: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_OURS: Final = ("content-", "webhook-", "ce-")
"""How headers begin that the sink sets itself."""

_CLIENTS: Final = frozenset(
    {"host", "connection", "keep-alive", "transfer-encoding", "upgrade", "expect", "te", "trailer"}
)

_SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token"}
)


@dataclass(slots=True, frozen=True)
class EventsOutConfig(CommonConfig):
    """What sinks to subjects and to webhooks have in common."""

    value_format: SinkFormat = "cloudevents"
    tolerance: Tolerance = "none"


@dataclass(slots=True, frozen=True)
class SubjectSink(EventsOutConfig):
    """From output events to subjects that streams of users capture."""

    subject: Expression | None = None
    """Gives each event its subject; there is always one in a file that is valid."""


@dataclass(slots=True, frozen=True)
class WebhookSink(EventsOutConfig):
    """From output events to a URL. Secrets stand in `url`, `secrets` and `headers` by name only."""

    url: str = ""
    secrets: tuple[str, ...] = ()
    """What requests are signed with, each of them: more than one while they are exchanged."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    timeout_s: float = TIMEOUT_S
    deadline_s: float = DEADLINE_S
    requests: int = REQUESTS


def read_subject_sink(table: ConnectorTable, name: str) -> SubjectSink:
    table.allow(_SUBJECT_KEYS)
    return SubjectSink(**_common(table, name), subject=_subject(table))


def read_webhook_sink(table: ConnectorTable, name: str) -> WebhookSink:
    table.allow(_WEBHOOK_KEYS)
    return WebhookSink(
        **_common(table, name),
        url=_url(table),
        secrets=_secrets(table),
        headers=_headers(table),
        timeout_s=table.duration_s("timeout", TIMEOUT_S, TIMEOUT_S_MAX, "(limit webhook-timeout)"),
        deadline_s=table.duration_s("retry.deadline", DEADLINE_S, DEADLINE_S_MAX, "(limit webhook-deadline)"),
        requests=table.whole("requests.max", REQUESTS, REQUESTS_MAX, "(limit webhook-requests)"),
    )


def _common(table: ConnectorTable, name: str) -> dict[str, Any]:
    table.one_task()
    return {
        "name": name,
        "transforms": table.transforms(SINK_NAMES),
        "start": table.start(),
        "value_format": table.format("value.format", get_args(SinkFormat), "cloudevents"),
        "tolerance": table.tolerance(),
    }


def _subject(table: ConnectorTable) -> Expression | None:
    expression = table.expression("subject", SINK_NAMES)
    if expression is None:
        return None
    try:
        always = compiled(expression)({})
    except (DressageError, KeyError):
        return expression  # it uses what an event has
    wrong = (
        wrong_with_subject(always) if isinstance(always, str) else f"it gives {shown(always)}, and no text"
    )
    if wrong:
        table.problem("subject", "VALUE_INVALID", wrong)
    return expression


def _url(table: ConnectorTable) -> str:
    url = table.text("url")
    if not SECRET.search(url):
        wrong = wrong_with_url(url) or (f"a password in it {WRITTEN_OUT}" if urlsplit(url).password else "")
        if wrong:
            table.problem("url", "VALUE_INVALID", wrong)
    return url


def wrong_with_url(url: str) -> str:
    """What is wrong with the URL of a webhook; empty if nothing is."""
    try:
        parts = urlsplit(url)
        there = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "is no URL: write it as https://host/path"
    if not there or _CONTROL.search(url) or " " in url:
        return "must be as https://host/path, or http://host/path"
    return ""


def _secrets(table: ConnectorTable) -> tuple[str, ...]:
    given = table.values.get("secret")
    found = [given] if isinstance(given, str) else given
    if found is None:
        return ()
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        table.problem("secret", "VALUE_INVALID", "must be ${env:NAME} or ${file:/path}, or a list of such")
        return ()
    if not all(SECRET.fullmatch(each) for each in found):
        table.problem("secret", "VALUE_INVALID", WRITTEN_OUT)
    return tuple(found)


def _headers(table: ConnectorTable) -> dict[str, str]:
    found = table.texts("headers", _SECRET_HEADERS)
    for name, value in found.items():
        if name.lower().startswith(_OURS) or name.lower() in _CLIENTS:
            table.problem(
                f"headers.{name}", "VALUE_INVALID", "is not for a file to say: it is set for each request"
            )
        elif not _HEADER.fullmatch(name) or wrong_with_value(value):
            table.problem(f"headers.{name}", "VALUE_INVALID", "is no header that can be sent")
    return found


def wrong_with_value(value: str) -> bool:
    """Whether a header cannot have it."""
    return _CONTROL.search(value) is not None or not value.isascii()
