"""What makes two requests one event, for each way to sign."""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.connectors.test_posting import await_key, await_payments  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import letters  # pyright: ignore[reportMissingImports]

from dressage.connectors.engine import engine_of
from dressage.connectors.mapping import EventMapping
from dressage.connectors.replay import by_mapping, dead_letters, replay
from dressage.connectors.webhooks import parse_webhooks

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]
    from tests.connectors.webhooks.conftest import Serve  # pyright: ignore[reportMissingImports]

PLAIN = """
[[webhook]]
name = "orders"
path = "/orders"
signature = "hmac-sha256"
header = "X-Sign"
secret = "${env:ORDERS_SECRET}"
event = "paid"
run_id = "event['order']"
payload = '{"order": "o", "cents": event["cents"]}'
"""
STRIPE = PLAIN.replace('"hmac-sha256"\nheader = "X-Sign"', '"stripe"')
NONE = PLAIN.replace('"hmac-sha256"\nheader = "X-Sign"\nsecret = "${env:ORDERS_SECRET}"', '"none"')


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_SECRET", "k")


def plain(body: bytes) -> dict[str, str]:
    return {"x-sign": hmac.digest(b"k", body, "sha256").hex()}


def by_stripe(body: bytes) -> dict[str, str]:
    moment = int(time.time())
    return {"stripe-signature": f"t={moment},v1={hmac.digest(b'k', b'%d.' % moment + body, 'sha256').hex()}"}


def paid(cents: int, **more: Any) -> bytes:
    return msgspec.json.encode({"order": "o", "cents": cents, **more})


async def test_without_an_id_of_its_scheme_an_event_is_its_body(shop: Shop, serve: Serve) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        hooks = await serve(PLAIN)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        for cents in (1, 1, 10, 1, 100):
            assert (await hooks.says(paid(cents), headers=plain(paid(cents))))[0] == 202
        assert await run.result(20) == 111
        assert hooks.metric("existing_total") == 2


async def test_an_event_of_stripe_is_its_id_whatever_else_differs(shop: Shop, serve: Serve) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        hooks = await serve(STRIPE)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        for number, event_id in enumerate(("a", "a", "b", "c")):
            body = paid(1, id=event_id, pending_webhooks=number)
            assert (await hooks.says(body, headers=by_stripe(body)))[1]["event_id"] == event_id
        assert await run.result(20) == 3


async def test_a_cloud_event_is_its_source_and_id(shop: Shop, serve: Serve) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        hooks = await serve(NONE)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        attributes = {"specversion": "1.0", "source": "/shop", "type": "paid"}
        structured = {"content-type": "application/cloudevents+json"}
        for event_id in ("1", "1", "2"):
            event = {**attributes, "id": event_id, "data": {"order": "o", "cents": 1}, "sent": event_id}
            _, said = await hooks.says(event, headers=structured)
            assert said["event_id"] == f"/shop {event_id}"
        binary = {f"ce-{name}": value for name, value in attributes.items()} | {"ce-id": "3"}
        assert (await hooks.says(paid(1), headers=binary))[1]["event_id"] == "/shop 3"
        assert await run.result(20) == 3


async def test_a_replay_has_the_id_that_the_request_had(shop: Shop, serve: Serve) -> None:
    """The sender comes again after the replay, which must not count."""
    async with shop.engine() as client:
        await client.register(await_key)
        broken = PLAIN.replace("run_id = \"event['order']\"", "key = \"event['ordr']\"")
        mended = broken.replace("ordr", "order")
        hooks = await serve(broken)
        assert (await hooks.says(paid(5), headers=plain(paid(5))))[1]["status"] == "dead-letter"
        (config,) = parse_webhooks(mended)
        engine = engine_of(config.target, client, actor="webhook/orders", answer_s=5.0)
        subject = client.names.dead_webhook("orders")
        (letter,) = [each async for each in dead_letters(client.connection, client.names, subject)]
        mapped = by_mapping(EventMapping(config), engine)
        replayed = await replay(client.connection, client.names, letter, mapped)
        assert replayed.outcome == "accepted"
        assert not await letters(shop)
        again = await serve(mended)
        assert (await again.says(paid(5), headers=plain(paid(5))))[0] == 202
        assert again.metric("existing_total") == 1
        assert again.metric("posted_total") == 0
