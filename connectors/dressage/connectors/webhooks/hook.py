"""One webhook: from a request to what is answered, once that is true.

Its sender repeats a request until it is answered with 2xx, so that says: the engine has it, or it is kept. The event
alone decides the id of the run, or of what is posted: so a request counts once, however often it comes, whatever dies
in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

from dressage.brokers.interface import Delivery
from dressage.client import Client
from dressage.connectors.cloud_events import CLOUD_EVENT_INVALID, EVENT_NOT_JSON
from dressage.connectors.engine import Engine, engine_of
from dressage.connectors.gate import Faults
from dressage.connectors.http.exchange import Answer, Headers, Request, failed
from dressage.connectors.http.link import Link
from dressage.connectors.mapping import EventMapping, Post, Start, Unmappable
from dressage.connectors.webhooks.config import WebhookConfig
from dressage.connectors.webhooks.letters import is_whole, webhook_letter
from dressage.connectors.webhooks.metrics import WebhookMetrics
from dressage.protocol.errors import BadInput, DressageError, NoAnswer, Refused

_log = logging.getLogger("dressage.connectors")

RETRY_AFTER_S: Final = 5
"""What a sender is told to wait for, where it listens to that."""

CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
"""Headers that are no part of any event: neither an expression nor a dead letter has them."""

_NO_EVENT: Final = (EVENT_NOT_JSON, CLOUD_EVENT_INVALID)
"""Codes of what no change of the webhook makes an event of."""


class Hook:
    """One webhook of an app."""

    def __init__(
        self, config: WebhookConfig, link: Link, metrics: WebhookMetrics, *, answer_s: float
    ) -> None:
        """Raises `SecretMissing` or `SecretInvalid` for secrets that cannot be had."""
        self.metrics: Final = metrics
        self._config = config
        self._verifier = config.signature.verifier()
        self._mapping = EventMapping(config)
        self._link = link
        self._answer_s = answer_s
        self._engine: Engine | None = None
        self._faults = Faults(config.name, metrics.faulty, "webhook")
        self._trying = False
        self._told: set[str] = set()
        """Codes of dead letters: the first of each is a warning, the others are counted."""

    def is_signed(self, request: Request) -> bool:
        return self._verifier.accepts(request.headers, request.body, time.time())

    async def answer(self, request: Request) -> Answer:
        """To a request that is signed. While a fault lasts one request at a time is tried, and the others are told."""
        if self._trying:
            return _again(self._faults["engine"])
        self._trying = bool(self._faults["engine"])
        try:
            async with asyncio.timeout(self._answer_s):
                answer = await self._answered(request)
        except DressageError as error:
            self._faults.begin("engine", error.code, error.message)
            return _again(error.code)
        except TimeoutError:
            self._faults.begin("engine", NoAnswer.code, f"no answer within {self._answer_s:g} s")
            return _again(NoAnswer.code)
        finally:
            self._trying = False
        return answer

    async def _answered(self, request: Request) -> Answer:
        """Raises a `DressageError`, or takes too long, where the sender has to try again."""
        event = _event(request, self._verifier.proof)
        if not _is_json(event.headers or {}):
            return failed(415, "CONTENT_TYPE_UNSUPPORTED", "send JSON, as application/json")
        event_id = f"sha256-{sha256(request.body).hexdigest()}"
        try:
            asked = self._mapping.asked_by(event, event_id)
        except Unmappable as error:
            if error.code in _NO_EVENT:
                return failed(400, error.code, error.message)
            return await self._refused(event, event_id, error)
        if asked is None:
            self.metrics.skipped.inc()
            return Answer(200, {"status": "skipped"})
        engine = await self._opened()
        try:
            existing = await engine.ask(asked)
        except (BadInput, Refused) as error:
            self._faults.end("engine")
            return await self._refused(event, event_id, error)
        self._faults.end("engine")
        self.metrics.accepted(asked, existing=existing)
        return Answer(202, {"status": "accepted", **_accepted(asked)})

    async def _opened(self) -> Engine:
        client = await self._link.client()
        if self._engine is None:
            actor = f"webhook/{self._config.name}"
            self._engine = engine_of(self._config.target, client, actor=actor, answer_s=self._answer_s)
        return self._engine

    async def _refused(self, event: Delivery, event_id: str, error: DressageError) -> Answer:
        """The engine will never accept it: kept for whoever can mend the webhook, or told to who can mend the event."""
        if self._config.refused == "keep" and await self._bury(
            await self._link.client(), event, event_id, error
        ):
            return Answer(202, {"status": "dead-letter", "code": error.code, "message": error.message})
        return failed(409 if error.code == "RUN_ID_CONFLICT" else 422, error.code, error.message)

    async def _bury(self, client: Client, event: Delivery, event_id: str, error: DressageError) -> bool:
        """Whether it is kept whole. Raises a `DressageError` if it cannot be stored now."""
        letter = webhook_letter(
            client.names,
            self._config.name,
            event,
            event_id,
            error,
            payload_bytes_max=client.connection.payload_bytes_max,
        )
        if not is_whole(letter):
            return False
        await client.connection.publish(letter)
        self.metrics.dead_letter(error.code)
        level = logging.INFO if error.code in self._told else logging.WARNING
        self._told.add(error.code)
        _log.log(level, "webhook %r: an event is a dead letter: %s", self._config.name, error)
        return True


def _accepted(asked: Start | Post) -> dict[str, str]:
    """What the engine has accepted, in words that are the same whenever the request comes."""
    if isinstance(asked, Start):
        return {"run_id": asked.run_id}
    whose = {"run_id": asked.run_id} if asked.run_id else {"key": asked.key}
    return {"event": asked.event, "event_id": asked.event_id, **whose}


def _again(code: str) -> Answer:
    """What keeps it from the engine is not for the sender, but for the log."""
    message = "it is not accepted, for a reason that passes: send it again"
    return failed(503, code or NoAnswer.code, message, retry_after=str(RETRY_AFTER_S))


def _event(request: Request, proof: frozenset[str]) -> Delivery:
    """The request as an event: its path is the subject."""
    headers = dict(_joined(request.headers, CREDENTIALS | proof))
    return Delivery(request.path, request.body, headers, 0, 0, 1, time.time_ns(), "")


def _joined(headers: Headers, without: frozenset[str]) -> Iterable[tuple[str, str]]:
    """Headers as texts; values of one that is repeated stand behind each other, with commas between."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return ((name, ", ".join(values)) for name, values in found.items() if name not in without)


def _is_json(headers: Mapping[str, str]) -> bool:
    """By its content type, unless there is none; the data of a CloudEvent in binary mode may be text as well."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") and "ce-specversion" in headers:
        return True
    return kind in ("", "application/json", "text/json") or kind.endswith("+json")
