"""The ASGI app that webhooks come by: any ASGI server runs it, and a Starlette or FastAPI app mounts it.

Who sends slowly, or much, or has no secret, holds up nobody else: bodies are bounded in size and time, and so are those
that are read and those that are asked for at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dressage.brokers.interface import Broker
from dressage.connectors.http.exchange import (
    BODY_BYTES_MAX,
    Answer,
    BodyTooLarge,
    ClientGone,
    Receive,
    Request,
    Scope,
    Send,
    failed,
    path_of,
    read_body,
    write,
)
from dressage.connectors.http.linked import LinkedApp
from dressage.connectors.webhooks.config import WebhookConfig, load_webhooks
from dressage.connectors.webhooks.hook import RETRY_AFTER_S, Hook
from dressage.connectors.webhooks.metrics import Metrics, WebhookMetrics
from dressage.telemetry import Meters, NoMeters

_log = logging.getLogger("dressage.connectors")

READING_MAX: Final = 256
"""Bodies that are read at a time. One more takes the place of that which is read for longest: what is sent as usual has
come by then."""


@dataclass(slots=True, frozen=True)
class WebhookOptions:
    """How an app serves its webhooks.

    `in_flight` is how many signed requests wait for the engine at a time; one more is answered with 503. `answer_s` is
    how long a request waits for the engine, and `body_s` how long its body may take to come.
    """

    in_flight: int = 256
    answer_s: float = 4.0
    body_s: float = 10.0


class WebhookApp(LinkedApp):
    """Webhooks, each at its path."""

    def __init__(
        self,
        webhooks: Sequence[WebhookConfig],
        server: str | Broker,
        namespace: str = "default",
        options: WebhookOptions | None = None,
        meters: Meters | None = None,
    ) -> None:
        """Raises `SecretMissing` or `SecretInvalid` for secrets that cannot be had."""
        super().__init__(server, namespace, "webhooks")
        self._options = options or WebhookOptions()
        metrics = Metrics(meters or NoMeters())
        self._hooks = {
            each.path: Hook(
                each, self._link, WebhookMetrics(metrics, each.name), answer_s=self._options.answer_s
            )
            for each in webhooks
        }
        self._reading: dict[asyncio.Timeout, None] = {}
        self._in_flight = 0

    # -- requests ----------------------------------------------------------------------------------
    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        hook = self._hooks.get(path)
        if hook is None:
            await write(failed(404, "PATH_UNKNOWN", "no webhook has this path", connection="close"), send)
            return
        hook.metrics.requests.inc()
        try:
            answer = await self._answered(hook, path, scope, receive)
        except ClientGone:
            return
        if answer.status >= 400:
            hook.metrics.failed(answer.status, answer.code)
        await write(answer, send)

    async def _answered(self, hook: Hook, path: str, scope: Scope, receive: Receive) -> Answer:
        if scope["method"] != "POST":
            return failed(405, "METHOD_NOT_ALLOWED", "send it by POST", allow="POST", connection="close")
        try:
            request = Request(path, scope["headers"], await self._body(scope, receive))
        except BodyTooLarge:
            message = f"send at most {BODY_BYTES_MAX} bytes (limit webhook-body-size)"
            return failed(413, "BODY_TOO_LARGE", message, connection="close")
        except TimeoutError:
            return failed(
                408, "BODY_TOO_SLOW", "the body did not come in time: send it again", connection="close"
            )
        if not hook.is_signed(request):
            return failed(401, "SIGNATURE_INVALID", "it is not signed as this webhook wants it")
        if self._in_flight >= self._options.in_flight:
            message = "too many requests are under way: send it again"
            return failed(503, "TOO_BUSY", message, retry_after=str(RETRY_AFTER_S))
        self._in_flight += 1
        try:
            return await hook.answer(request)
        except Exception:
            _log.exception("webhook %s fails on a request", path)
            return failed(500, "INTERNAL", "it is not accepted, for a mistake of ours: send it again")
        finally:
            self._in_flight -= 1

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Raises `TimeoutError` for one that takes too long, or for longest of all while there are too many."""
        if len(self._reading) >= READING_MAX:
            oldest = next(iter(self._reading))
            del self._reading[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(self._options.body_s) as time_left:
            self._reading[time_left] = None
            try:
                return await read_body(scope["headers"], receive)
            finally:
                self._reading.pop(time_left, None)


def app(
    file: str | Path,
    server: str | Broker,
    namespace: str = "default",
    *,
    options: WebhookOptions | None = None,
    meters: Meters | None = None,
) -> WebhookApp:
    """The app of the webhooks that a file declares, for the engine behind a NATS server.

    Raises `ConfigInvalid` with everything that is wrong with the file; `SecretMissing` or `SecretInvalid` for secrets
    that cannot be had.
    """
    return WebhookApp(load_webhooks(Path(file)), server, namespace, options, meters)
