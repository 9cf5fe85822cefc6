"""What a sender is answered, on a real server, a real engine and real HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.connectors.conftest import ONLY_TEXT, order, workflow  # pyright: ignore[reportMissingImports]
from tests.connectors.test_posting import await_key, await_payments  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import CONFIG, letters, signed  # pyright: ignore[reportMissingImports]

from dressage.client import Client

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]
    from tests.connectors.webhooks.conftest import Hooks, Serve  # pyright: ignore[reportMissingImports]

BY_KEY = """
[[webhook]]
name = "orders"
path = "/orders"
signature = "standard"
secret = "${env:ORDERS_SECRET}"
event = "paid"
key = "event['order']"
"""
BY_RUN = BY_KEY.replace("key =", "run_id =")
TOLD = CONFIG.replace("signature", 'refused = "answer"\nsignature', 1)


# -- accepted --------------------------------------------------------------------------------------
async def test_a_signed_request_starts_a_run(shop: Shop, client: Client, hooks: Hooks) -> None:
    assert await hooks.says(order(1)) == (202, {"status": "accepted", "run_id": "order-1"})
    assert (await client.get("order-1")).input == {"order": order(1)}
    assert hooks.metric("started_total") == 1
    await shop.has_started("order-1")


async def test_the_same_request_again_has_the_same_answer_and_starts_nothing(
    shop: Shop, hooks: Hooks
) -> None:
    first, second = await hooks.post(order(1)), await hooks.post(order(1))
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert (hooks.metric("started_total"), hooks.metric("existing_total")) == (1, 1)
    await shop.has_started("order-1")


async def test_the_same_request_many_times_at_once_is_one_run(shop: Shop, hooks: Hooks) -> None:
    answers = await asyncio.gather(*(hooks.says(order(1)) for _ in range(40)))
    assert answers == [(202, {"status": "accepted", "run_id": "order-1"})] * 40
    assert hooks.metric("started_total") == 1
    await shop.has_started("order-1")


async def test_an_event_for_a_key_has_the_id_of_the_request(shop: Shop, serve: Serve) -> None:
    async with shop.engine() as client:
        await client.register(await_key)
        hooks = await serve(BY_KEY)
        paid = {"order": "k 7", "cents": 5}
        accepted = {"status": "accepted", "event": "paid", "event_id": "msg_1", "key": "k 7"}
        for _ in range(2):
            assert await hooks.says(paid) == (202, accepted)
        assert await (await client.start(await_key, {"order": "k 7"}, run_id="r")).result(20) == 5
        assert (hooks.metric("posted_total"), hooks.metric("existing_total")) == (1, 1)


async def test_an_event_for_a_run_counts_once_for_each_id(shop: Shop, serve: Serve) -> None:
    """The same body under another id is another event, and the same id another time is the same."""
    async with shop.engine() as client:
        await client.register(await_payments)
        hooks = await serve(BY_RUN)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        for event_id in ("a", "a", "b", "b", "c"):
            assert (await hooks.says({"order": "o", "cents": 5}, event_id=event_id))[0] == 202
        assert await run.result(20) == 15


async def test_what_when_leaves_out_is_skipped(shop: Shop, hooks: Hooks) -> None:
    assert await hooks.says(order(1, total=-1)) == (200, {"status": "skipped"})
    assert hooks.metric("skipped_total") == 1
    assert not await shop.starts()


# -- refused ---------------------------------------------------------------------------------------
BODY = msgspec.json.encode(order(1))
UNSIGNED = {
    "nothing": {"content-type": "application/json"},
    "another key": signed(BODY, key=b"another"),
    "another body": signed(BODY + b" "),
    "another id": signed(BODY) | {"webhook-id": "msg_2"},
    "long ago": signed(BODY, at_s=1_700_000_000),
    "another time": signed(BODY) | {"webhook-timestamp": "1700000000"},
}


@pytest.mark.parametrize("headers", UNSIGNED.values(), ids=UNSIGNED)
async def test_what_is_not_signed_is_refused_without_a_hint(
    shop: Shop, hooks: Hooks, headers: dict[str, str]
) -> None:
    message = "it is not signed as this webhook wants it"
    assert await hooks.says(BODY, headers=headers) == (401, {"code": "SIGNATURE_INVALID", "message": message})
    assert hooks.metric("refused_total", code="SIGNATURE_INVALID") == 1
    assert not await shop.starts()


async def test_the_signature_is_looked_at_before_the_body_is(hooks: Hooks) -> None:
    """Who has no secret learns nothing of what a body should be."""
    broken = signed(b"no json", key=b"another") | {"content-type": "application/pdf"}
    assert (await hooks.says(b"no json", headers=broken))[0] == 401
    assert (await hooks.says(b"\xff" * 100, headers={}))[0] == 401


async def test_paths_and_methods_that_are_not_there(hooks: Hooks) -> None:
    status, said = await hooks.says(order(1), "/others")
    assert (status, said["code"]) == (404, "PATH_UNKNOWN")
    for path in ("/", "/orders/", "/orders/x", "//orders", "/Orders"):
        assert (await hooks.says(order(1), path))[0] == 404
    response = await hooks.http.get(hooks.url + "/orders")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["code"] == "METHOD_NOT_ALLOWED"


async def test_what_is_no_json(shop: Shop, hooks: Hooks) -> None:
    body = b"id=1&total=5"
    status, said = await hooks.says(
        body, headers=signed(body) | {"content-type": "application/x-www-form-urlencoded"}
    )
    assert (status, said["code"]) == (415, "CONTENT_TYPE_UNSUPPORTED")
    for body in (b"{", b"", b'{"id": 1', b"[" * 10_000):
        status, said = await hooks.says(body)
        assert (status, said["code"]) == (400, "EVENT_NOT_JSON")
    headers = signed(b"{}") | {"content-type": "application/cloudevents+json"}
    status, said = await hooks.says(b"{}", headers=headers)
    assert (status, said["code"]) == (400, "CLOUD_EVENT_INVALID")
    assert not await letters(shop)


async def test_what_the_webhook_cannot_map_is_kept_and_that_is_success(shop: Shop, hooks: Hooks) -> None:
    event = {"total": 1, "name": "without an id"}
    reason = "run_id: KeyError: 'id'"
    kept = {"status": "dead-letter", "code": "EXPRESSION_FAILED", "message": reason}
    for _ in range(2):
        assert await hooks.says(event) == (202, kept)
    (letter,) = await letters(shop)
    headers = letter.headers or {}
    assert letter.data == msgspec.json.encode(event)
    assert (headers["Dressage-Code"], headers["Dressage-Reason"]) == ("EXPRESSION_FAILED", reason)
    assert (headers["Dressage-Webhook"], headers["Dressage-Subject"]) == ("orders", "/orders")
    assert headers["Dressage-Original-webhook-id"] == "msg_1"
    assert hooks.metric("dead_letters_total", code="EXPRESSION_FAILED") == 2


async def test_a_dead_letter_has_neither_credentials_nor_the_signature(shop: Shop, hooks: Hooks) -> None:
    body = msgspec.json.encode({"total": 1})
    more = {"Authorization": "Bearer hidden", "Cookie": "hidden", "X-Shop": "Ulm"}
    assert (await hooks.says(body, headers=signed(body) | more))[0] == 202
    (letter,) = await letters(shop)
    names = {name.lower() for name in letter.headers or {}}
    assert "dressage-original-x-shop" in names
    assert not [
        name for name in names if name.endswith(("authorization", "cookie", "signature", "timestamp"))
    ]
    assert "hidden" not in str(letter.headers)


async def test_what_the_engine_refuses_is_kept(shop: Shop, serve: Serve) -> None:
    async with shop.engine(workflow(parameter=ONLY_TEXT)):
        hooks = await serve()
        status, said = await hooks.says(order(1))
        assert (status, said["status"], said["code"]) == (202, "dead-letter", "INPUT_INVALID")
        assert len(await letters(shop)) == 1


async def test_who_wants_to_be_told_is_told(shop: Shop, client: Client, serve: Serve) -> None:
    hooks = await serve(TOLD)
    status, said = await hooks.says({"total": 1})
    assert (status, said["code"]) == (422, "EXPRESSION_FAILED")
    assert (await hooks.says(order(1)))[0] == 202
    status, said = await hooks.says(order(1, total=5))
    assert (status, said["code"]) == (409, "RUN_ID_CONFLICT")
    assert not await letters(shop)
    assert hooks.metric("refused_total", code="RUN_ID_CONFLICT") == 1


# -- what passes -----------------------------------------------------------------------------------
async def test_without_an_orchestrator_the_sender_is_asked_to_try_again(shop: Shop, serve: Serve) -> None:
    """What was sent while nobody was there is started once, when it is sent again."""
    async with shop.engine(workflow()):
        pass
    hooks = await serve()
    response = await hooks.post(order(1))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["code"] == "NO_ANSWER"
    assert hooks.metric("faulty") == 1
    assert hooks.metric("retries_total", code="NO_ANSWER") == 1
    async with shop.engine():
        while (await hooks.says(order(1)))[0] == 503:
            pass
        assert hooks.metric("faulty") == 0
        await shop.has_started("order-1")


async def test_while_a_fault_lasts_one_request_at_a_time_is_tried(shop: Shop, serve: Serve) -> None:
    async with shop.engine(workflow()):
        pass
    hooks = await serve()
    assert (await hooks.says(order(1)))[0] == 503
    answers = await asyncio.gather(*(hooks.says(order(number)) for number in range(2, 22)))
    assert [status for status, _ in answers] == [503] * 20
    async with shop.engine():
        pass
    # Those that were refused at once never came to the engine, which has ended in good order.
    assert len(await shop.starts()) == 2


async def test_a_workflow_that_is_not_registered_yet_is_waited_for(shop: Shop, serve: Serve) -> None:
    async with shop.engine() as client:
        hooks = await serve()
        status, said = await hooks.says(order(1))
        assert (status, said["code"]) == (503, "WORKFLOW_UNKNOWN")
        await client.register(workflow())
        while (await hooks.says(order(1)))[0] == 503:
            pass
        await shop.has_started("order-1")
        assert not await letters(shop)


async def test_a_server_that_is_not_there_yet_is_waited_for(serve: Serve) -> None:
    hooks = await serve(url="nats://127.0.0.1:1")
    status, said = await hooks.says(order(1))
    assert (status, said["code"]) == (503, "NO_ANSWER")
    assert (await hooks.says(order(1), headers={}))[0] == 401
