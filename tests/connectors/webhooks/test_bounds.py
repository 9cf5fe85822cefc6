"""Who sends much, or slowly, or too often at a time, holds up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from tests.connectors.conftest import eventually, order, workflow  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import CONFIG, QUICK, signed  # pyright: ignore[reportMissingImports]

from dressage.connectors.http.exchange import BODY_BYTES_MAX
from dressage.connectors.webhooks import WebhookApp, WebhookOptions, parse_webhooks
from dressage.connectors.webhooks.asgi import READING_MAX

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]
    from tests.connectors.webhooks.conftest import Hooks, Serve  # pyright: ignore[reportMissingImports]

SKIPS = {"id": 1, "total": -1}


def of_size(size: int) -> bytes:
    """A body that the webhook skips, of so many bytes."""
    body = msgspec.json.encode(SKIPS)
    return body + b" " * (size - len(body))


async def is_too_large(hooks: Hooks, content: bytes | AsyncIterator[bytes]) -> None:
    """The sender is told, or finds its connection closed, for the rest is not read."""
    before = hooks.metric("refused_total", code="BODY_TOO_LARGE")
    with contextlib.suppress(httpx.TransportError):
        response = await hooks.http.post(hooks.url + "/orders", content=content)
        assert (response.status_code, response.json()["code"]) == (413, "BODY_TOO_LARGE")
        assert "(limit webhook-body-size)" in response.json()["message"]
    assert hooks.metric("refused_total", code="BODY_TOO_LARGE") == before + 1


@pytest.mark.limit("connectors.http.exchange.BODY_BYTES_MAX")
async def test_the_size_of_a_body(hooks: Hooks) -> None:
    assert (await hooks.says(of_size(BODY_BYTES_MAX)))[0] == 200
    await is_too_large(hooks, of_size(BODY_BYTES_MAX + 1))
    assert (await hooks.says(SKIPS))[0] == 200


async def test_a_body_without_a_length_is_bounded_as_well(hooks: Hooks) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 1024 + 1):
            yield b" " * 1024

    await is_too_large(hooks, parts())


class Asked:
    """A request to the app without a server between: what is read of it shows, and what is answered."""

    def __init__(self, *parts: bytes, stays: bool = False, **headers: str) -> None:
        """`stays`: there is more to come, which never comes."""
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/orders",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self._parts = list(parts)
        self._stays = stays
        self.status = 0
        self.code = ""

    @property
    def parts_left(self) -> int:
        return len(self._parts)

    async def receive(self) -> dict[str, Any]:
        if not self._parts:
            await asyncio.Event().wait()
        part = self._parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts) or self._stays}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)
        if "body" in message:
            self.code = msgspec.json.decode(message["body"]).get("code", "")

    async def of(self, app: WebhookApp) -> tuple[int, str]:
        await app(self.scope, self.receive, self.send)
        return self.status, self.code


def unserved(options: WebhookOptions = QUICK) -> WebhookApp:
    return WebhookApp(parse_webhooks(CONFIG), "nats://127.0.0.1:1", options=options)


async def test_no_more_is_read_than_the_bound() -> None:
    told = Asked(b"x", b"y", content_length=str(BODY_BYTES_MAX + 1))
    assert await told.of(unserved()) == (413, "BODY_TOO_LARGE")
    assert told.parts_left == 2
    untold = Asked(b" " * BODY_BYTES_MAX, b" ", b"never read")
    assert await untold.of(unserved()) == (413, "BODY_TOO_LARGE")
    assert untold.parts_left == 1


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    slow = Asked(b'{"id"', stays=True)
    assert await slow.of(unserved(WebhookOptions(body_s=0.1))) == (408, "BODY_TOO_SLOW")


async def test_who_goes_away_is_not_answered() -> None:
    gone = Asked()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    await unserved()(gone.scope, receive, gone.send)
    assert gone.status == 0


@pytest.mark.limit("connectors.webhooks.asgi.READING_MAX")
async def test_who_sends_slowly_makes_room_for_who_does_not() -> None:
    app = unserved(WebhookOptions(body_s=60))
    slow = [Asked(b"{", stays=True) for _ in range(READING_MAX - 1)]
    running = [asyncio.create_task(each.of(app)) for each in slow]

    async def all_read() -> bool:
        return not any(each.parts_left for each in slow)

    await eventually(all_read, "all are being read")
    assert await Asked(b"{}").of(app) == (401, "SIGNATURE_INVALID")
    assert not any(each.done() for each in running)
    last = asyncio.create_task(Asked(b"{", stays=True).of(app))
    await asyncio.sleep(0)
    assert await Asked(b"{}").of(app) == (401, "SIGNATURE_INVALID")
    assert await running[0] == (408, "BODY_TOO_SLOW")
    assert not any(each.done() for each in running[1:])
    for each in (*running[1:], last):
        each.cancel()
    await asyncio.gather(*running, last, return_exceptions=True)


async def test_slow_connections_leave_the_others_alone(hooks: Hooks) -> None:
    """Two hundred that send half a request and wait."""
    host, port = hooks.url.removeprefix("http://").split(":")
    half = b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
    for _, writer in connections:
        writer.write(half)
        await writer.drain()
    assert (await hooks.says(order(1)))[0] == 202
    for _, writer in connections:
        writer.close()


async def test_so_many_wait_for_the_engine_and_no_more(shop: Shop, serve: Serve) -> None:
    async with shop.engine(workflow()):
        pass
    hooks = await serve(CONFIG, WebhookOptions(in_flight=2, answer_s=4.0))
    waiting = [asyncio.create_task(hooks.says(order(number))) for number in range(2)]

    async def both_wait() -> bool:
        return hooks.metric("requests_total") == 2

    await eventually(both_wait, "both are under way")
    response = await hooks.post(order(3))
    assert (response.status_code, response.json()["code"]) == (503, "TOO_BUSY")
    assert response.headers["retry-after"] == "5"
    assert (await hooks.says(order(3), headers={}))[0] == 401
    assert [status for status, _ in await asyncio.gather(*waiting)] == [503, 503]
    # They count no more.
    assert (await hooks.says(SKIPS))[0] == 200


async def test_what_breaks_is_our_fault_and_tells_nothing(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("hidden")

    monkeypatch.setattr("dressage.connectors.webhooks.hook.EventMapping.asked_by", broken)
    response = await hooks.post(order(1))
    assert (response.status_code, response.json()["code"]) == (500, "INTERNAL")
    assert "hidden" not in response.text
    assert "webhook /orders fails on a request" in caplog.text


async def test_logs_have_neither_secrets_nor_bodies(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "dressage")
    body = msgspec.json.encode({"total": 1, "card": "4111-hidden"})
    headers = signed(body) | {"authorization": "Bearer hidden"}
    assert (await hooks.says(body, headers=headers))[0] == 202
    assert (await hooks.says(body, headers=headers | {"webhook-id": "x"}))[0] == 401
    assert "is a dead letter" in caplog.text
    assert "hidden" not in caplog.text
    assert headers["webhook-signature"] not in caplog.text


async def test_a_web_socket_is_refused() -> None:
    asked = Asked()
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await unserved()({**asked.scope, "type": "websocket"}, asked.receive, send)
    assert [each["type"] for each in sent] == ["websocket.close"]
