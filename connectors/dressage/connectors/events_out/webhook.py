"""Delivers output events to the URL of a webhook, each as a signed request.

A receiver gets an event at least once: whoever takes over, and who gets no answer, sends it again, under the same
`webhook-id`. It is taken when the answer is 2xx; what passes is tried again, and what does not is a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Self

import httpx

from dressage.connectors.connect.event_mapping import Output, headers_of
from dressage.connectors.connect.options import ConnectorFailed
from dressage.connectors.events_out.config import WebhookSink, wrong_with_url, wrong_with_value
from dressage.connectors.events_out.outgoing import RECEIVER, NotDelivered, Outgoing, Sure, Undeliverable
from dressage.connectors.events_out.room import Room
from dressage.connectors.gate import Faults, Gate
from dressage.connectors.secrets import HIDDEN, SECRET, revealed
from dressage.connectors.signing import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, key_of, signature
from dressage.protocol.errors import BadInput

# It tells every URL that it asks, and a secret may be part of one.
logging.getLogger("httpx").setLevel(logging.WARNING)

GONE: Final = 410
PASSING: Final = frozenset({408, 425, 429})
"""What passes of the answers below 500; all others do."""

OVERLOADED: Final = frozenset({429, 502, 503, 504})
"""Answers that are about the receiver, and not about the event."""

ANSWER_BYTES: Final = 64 * 1024
"""So much of an answer is read, so that its connection can be used again; what is longer is cut off."""

EXCERPT_CHARS: Final = 300


@dataclass(slots=True, frozen=True)
class Target:
    """Where requests go, with every secret in its place."""

    url: str
    headers: Mapping[str, str]
    keys: tuple[bytes, ...]
    secrets: tuple[str, ...]

    def scrubbed(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def target_of(config: WebhookSink) -> Target:
    """Raises `BadInput` for a secret that is not there, or one with which nothing can be sent."""
    written = (config.url, *config.headers.values(), *config.secrets)
    secrets = {revealed(found[0]) for text in written for found in SECRET.finditer(text)}
    url, headers = revealed(config.url), {name: revealed(value) for name, value in config.headers.items()}
    wrong = wrong_with_url(url)
    if wrong:
        raise BadInput(f"connector {config.name!r}: url {wrong}", code="CONFIG_INVALID")
    for name, value in headers.items():
        if wrong_with_value(value):
            raise BadInput(
                f"connector {config.name!r}: headers.{name} is no header that can be sent",
                code="CONFIG_INVALID",
            )
    keys = tuple(key_of(revealed(each)) for each in config.secrets)
    return Target(url, headers, keys, tuple(sorted(secrets - {""}, key=len, reverse=True)))


class WebhookDelivery:
    """Posts, up to `requests.max` at a time."""

    def __init__(self, config: WebhookSink, faults: Faults) -> None:
        """Raises `BadInput` as `target_of` does."""
        self._config = config
        self._target = target_of(config)
        self._gate = Gate(faults, RECEIVER)
        self._faults = faults
        self._room = Room(config.requests)
        self._held_until = 0.0
        self._client: httpx.AsyncClient | None = None
        self.deadline_s: float | None = config.deadline_s

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            timeout=self._config.timeout_s,
            limits=httpx.Limits(
                max_connections=self._config.requests, max_keepalive_connections=self._config.requests
            ),
            follow_redirects=False,
            headers={"user-agent": "dressage"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._faults.end(RECEIVER)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def check(self, output: Output) -> None:
        """Whatever it is can be posted."""

    async def deliver(self, outgoing: Outgoing, sure: Sure) -> None:
        async with self._room.taken(outgoing.seq), self._gate.passage():
            # Not before there is room: the receiver may say so while this one waits for it.
            await self._held()
            await sure()
            answer = await self._post(outgoing)
        if 200 <= answer.status < 300:
            return
        text = f"the receiver answers {answer.status}{answer.excerpt}"
        if answer.status == GONE:
            raise ConnectorFailed(
                f"connector {self._config.name!r} stops at event {outgoing.event.id}: {text}. Nobody wants these "
                "events any more: delete the connector, or correct its url and deploy it again"
            )
        code = f"HTTP_{answer.status}"
        if answer.status in PASSING or answer.status >= 500:
            raise NotDelivered(text, code=code, after_s=answer.after_s)
        raise Undeliverable(text, code=code)

    async def _held(self) -> None:
        """Waits for as long as the receiver has asked everybody to."""
        loop = asyncio.get_running_loop()
        while (left_s := self._held_until - loop.time()) > 0:
            await asyncio.sleep(left_s)

    async def _post(self, outgoing: Outgoing) -> _Answer:
        """What the receiver answers. Raises `NotDelivered` if it does not."""
        assert self._client is not None
        told = outgoing.told
        answer: _Answer | None = None
        text = bytearray()
        try:
            async with (
                asyncio.timeout(self._config.timeout_s),
                self._client.stream(
                    "POST", self._target.url, content=told.value, headers=self._headers(outgoing.id, told)
                ) as response,
            ):
                answer = _Answer(response.status_code, self._after_s(response))
                async for chunk in response.aiter_raw():
                    text += chunk
                    if len(text) > ANSWER_BYTES:
                        break
        except (TimeoutError, httpx.TimeoutException) as error:
            # A receiver that has answered has taken it, or not, whatever becomes of the rest.
            if answer is None:
                raise self._away(
                    f"no answer within {self._config.timeout_s:g} s", "WEBHOOK_TIMEOUT"
                ) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            if answer is None:
                what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise self._away(what, "WEBHOOK_UNREACHABLE") from error
        assert answer is not None
        return self._noted(answer, bytes(text))

    def _noted(self, answer: _Answer, text: bytes) -> _Answer:
        excerpt = self._target.scrubbed(" ".join(text.decode("utf-8", "replace").split()))[:EXCERPT_CHARS]
        if answer.status in OVERLOADED:
            self._gate.fails(f"HTTP_{answer.status}", f"the receiver answers {answer.status}")
            self._held_until = max(self._held_until, asyncio.get_running_loop().time() + answer.after_s)
        else:
            self._gate.works()
        return _Answer(answer.status, answer.after_s, f": {excerpt}" if excerpt else "")

    def _away(self, what: str, code: str) -> NotDelivered:
        reason = f"the receiver cannot be asked: {self._target.scrubbed(what)}"
        self._gate.fails(code, reason)
        return NotDelivered(reason, code=code)

    def _headers(self, message_id: str, told: Output) -> dict[str, str]:
        """Those of one attempt: the signature is of its time."""
        now_s = int(time.time())
        headers = {
            **self._target.headers,
            **headers_of(told),
            ID_HEADER: message_id,
            TIMESTAMP_HEADER: str(now_s),
        }
        if self._target.keys:
            signed = [signature(key, message_id, now_s, told.value) for key in self._target.keys]
            headers[SIGNATURE_HEADER] = " ".join(signed)
        return headers

    def _after_s(self, response: httpx.Response) -> float:
        given = response.headers.get("retry-after", "").strip()
        if given.isascii() and given.isdigit():
            seconds = float(given[:10])
        else:
            try:
                seconds = parsedate_to_datetime(given).timestamp() - time.time()
            except (ValueError, OverflowError):
                return 0.0
        return min(max(0.0, seconds), self._config.deadline_s)


@dataclass(slots=True, frozen=True)
class _Answer:
    status: int
    after_s: float
    excerpt: str = ""
