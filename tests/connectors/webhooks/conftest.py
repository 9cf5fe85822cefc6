"""A sender of webhooks, and the app that takes them: uvicorn on loopback, a real server and a real engine behind it."""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import httpx
import msgspec
import prometheus_client
import pytest
import uvicorn
from tests.connectors.conftest import eventually  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors.webhooks import WebhookApp, WebhookOptions, parse_webhooks
from dressage.protocol.names import Names
from dressage.telemetry import PrometheusMeters

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = b"1\xf2\x90\xf6\xbf\x06)\x8a\xabO\x08\xd4<?\x08,\xf6H\xa3b\xda-\xa4\xb0"

CONFIG = """
[[webhook]]
name = "orders"
path = "/orders"
signature = "standard"
secret = "${env:ORDERS_SECRET}"
workflow = "take-order"
when = 'event["total"] >= 0'
run_id = "'order-' + str(event['id'])"

[webhook.input]
order = "event"
"""

Answered = tuple[int, dict[str, str]]


def signed(
    body: bytes, event_id: str = "msg_1", *, at_s: float | None = None, key: bytes = KEY
) -> dict[str, str]:
    """The headers of Standard Webhooks, made independently of what is tested."""
    moment = str(int(time.time() if at_s is None else at_s))
    digest = hmac.new(key, f"{event_id}.{moment}.".encode() + body, "sha256").digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": moment,
        "webhook-signature": "v1," + b64encode(digest).decode(),
        "content-type": "application/json",
    }


class Hooks:
    """The app as it is served, seen by a sender."""

    def __init__(self, url: str, http: httpx.AsyncClient, meters: PrometheusMeters) -> None:
        self.url = url
        self.http = http
        self._meters = meters

    async def post(
        self, event: object, path: str = "/orders", headers: Mapping[str, str] | None = None, **how: Any
    ) -> httpx.Response:
        """`event` is the body if it is bytes, else becomes JSON; signed, unless `headers` are given."""
        body = event if isinstance(event, bytes) else msgspec.json.encode(event)
        given = signed(body, **how) if headers is None else headers
        return await self.http.post(self.url + path, content=body, headers=dict(given))

    async def says(self, event: object, path: str = "/orders", **how: Any) -> Answered:
        response = await self.post(event, path, **how)
        return response.status_code, response.json()

    def metric(self, name: str, webhook: str = "orders", **labels: str) -> float:
        registry: prometheus_client.CollectorRegistry = self._meters.registry
        return registry.get_sample_value(f"dressage_webhook_{name}", {"webhook": webhook, **labels}) or 0.0


Serve = Callable[..., Awaitable[Hooks]]
QUICK = WebhookOptions(answer_s=1.5)


@asynccontextmanager
async def served(app: Any, *, lifespan: Literal["on", "off"] = "on") -> AsyncIterator[str]:
    """An ASGI app behind uvicorn, on a free port; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan=lifespan,
            log_config=None,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))

        async def started() -> bool:
            if running.done():
                running.result()
            return server.started

        await eventually(started, "uvicorn serves")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_SECRET", SECRET)


@pytest.fixture
async def serve(shop: Shop) -> AsyncIterator[Serve]:
    """Serves webhooks, which are stopped at the end."""
    ends: list[Callable[[], Awaitable[None]]] = []

    async def start(config: str = CONFIG, options: WebhookOptions = QUICK, url: str = "") -> Hooks:
        meters = PrometheusMeters()
        app = WebhookApp(parse_webhooks(config), url or shop.server.url, options=options, meters=meters)
        running = served(app)
        hooks = Hooks(await running.__aenter__(), httpx.AsyncClient(timeout=30), meters)

        async def end() -> None:
            await hooks.http.aclose()
            await running.__aexit__(None, None, None)

        ends.append(end)
        return hooks

    yield start
    for each in reversed(ends):
        await each()


@pytest.fixture
async def hooks(client: Client, serve: Serve) -> Hooks:
    """The usual webhook, with the engine behind it."""
    return await serve()


async def letters(shop: Shop, webhook: str = "orders") -> list[Any]:
    return await shop.stored(shop.names.dead_stream, Names().dead_webhook(webhook))
