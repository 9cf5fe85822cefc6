"""A trigger on a subject without a stream, against a real server and a real engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.connectors.conftest import (  # pyright: ignore[reportMissingImports]
    Trigger,
    eventually,
    order,
    orders,
    workflow,
)
from tests.connectors.test_posting import Payment, await_payments, has_got, paid  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client
from dressage.connectors import core, parse_triggers
from dressage.connectors.definitions import Definitions
from dressage.connectors.deployed import in_force
from dressage.connectors.metrics import Metrics
from dressage.connectors.replay import by_mapping, dead_letters, replay
from dressage.connectors.setting import Setting, TriggerOptions
from dressage.protocol.errors import NoAnswer
from dressage.telemetry import NoMeters

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

CORE = """
[[trigger]]
name = "orders"
source = { subject = "asked.*", core = true }
workflow = "take-order"
when = 'event["total"] >= 0'
run_id = "'order-' + str(event['id'])"

[trigger.input]
order = "event"
"""
POSTS = """
[[trigger]]
name = "orders"
source = { subject = "asked.*", core = true }
event = "paid"
when = '"order" in event'
run_id = "event['order']"
"""
HASTY = TriggerOptions(answer_s=1.0, drain_s=0.2)


async def asked(shop: Shop, event: object, timeout_s: float = 20.0) -> dict[str, Any]:
    """What a service is told that waits for an answer."""
    data = event if isinstance(event, bytes) else msgspec.json.encode(event)
    found: dict[str, Any] = msgspec.json.decode(await shop.connection.request("asked.new", data, timeout_s))
    return found


async def listens(shop: Shop, *processes: Trigger) -> None:
    """A trigger listens once it has answered; the message that asks is one that `when` leaves out."""
    for process in processes:
        before = process.metric("skipped_total")
        while process.metric("skipped_total") == before:
            try:
                await asked(shop, order(0, -1), 5)
            except NoAnswer:
                await asyncio.sleep(0.05)


async def test_a_message_starts_a_run_and_who_waits_is_told_its_id(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    process = trigger(CORE)
    await listens(shop, process)
    await shop.connection.tell("asked.new", msgspec.json.encode(order(0)))
    assert await asked(shop, order(1)) == {"ok": True, "run_id": "order-1"}
    assert await asked(shop, order(1)) == {"ok": True, "run_id": "order-1", "existing": True}
    assert await asked(shop, order(2, -1)) == {"ok": True, "skipped": True}
    await shop.has_started(*orders(2))
    assert (process.metric("started_total"), process.metric("existing_total")) == (2, 1)


async def test_each_message_is_heard_by_one_process(shop: Shop, trigger: StartTrigger) -> None:
    """One that was heard twice would be two events, as nothing gives it an id."""
    async with shop.engine() as client:
        await client.register(await_payments)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        processes = [trigger(POSTS), trigger(POSTS)]
        await listens(shop, *processes)
        for cents in (1, 10, 100):
            told = await asked(shop, {"order": "o", "cents": cents})
            assert told == {"ok": True, "run_id": "o", "event_id": told["event_id"]}
        assert await run.result(20) == 111
        await eventually(lambda: has_got(shop, {"o": 3}), "the run has got three events")
        assert sum(process.metric("posted_total") for process in processes) == 3


async def test_what_asks_for_nothing_that_there_is_is_a_dead_letter_that_can_be_replayed(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    process = trigger(CORE)
    await listens(shop, process)
    told = await asked(shop, b"no JSON")
    assert (told["ok"], told["code"], told.get("retryable", False)) == (False, "EVENT_NOT_JSON", False)
    assert (await asked(shop, {"id": 7}))["code"] == "EXPRESSION_FAILED"
    assert [(letter.headers or {})["Dressage-Code"] for letter in await shop.dead_letters()] == [
        "EVENT_NOT_JSON",
        "EXPRESSION_FAILED",
    ]
    setting = Setting(shop.connection, client, TriggerOptions(), Metrics(NoMeters()))
    rule = setting.rule("orders")(parse_triggers(CORE.replace('event["total"] >= 0', "True"))[0])
    letters = [
        each async for each in dead_letters(shop.connection, shop.names, shop.names.dead_trigger("orders"))
    ]
    again = by_mapping(rule.mapping, rule.engine)
    outcomes = [await replay(shop.connection, shop.names, each, again) for each in letters]
    assert [each.outcome for each in outcomes] == ["kept", "accepted"]
    await shop.has_started("order-7")


async def test_a_message_waits_for_the_engine_and_asked_again_it_is_one_run(
    shop: Shop, trigger: StartTrigger
) -> None:
    async with shop.engine(workflow()):
        process = trigger(CORE, HASTY)
        await listens(shop, process)
    await shop.connection.tell("asked.new", msgspec.json.encode(order(0)))
    with pytest.raises(NoAnswer):
        await asked(shop, order(1), 0.5)
    await process.reaches("faulty", 1)
    async with shop.engine():
        assert (await asked(shop, order(1)))["run_id"] == "order-1"
        await shop.has_started(*orders(2))
        await process.reaches("faulty", 0)


async def test_what_a_stop_leaves_is_a_dead_letter_unless_somebody_waits(
    shop: Shop, trigger: StartTrigger
) -> None:
    async with shop.engine(workflow()):
        process = trigger(CORE, HASTY)
        await listens(shop, process)
    await shop.connection.tell("asked.new", msgspec.json.encode(order(0)))
    # Nothing may be sent where this one wants its answer: so nobody waits for it.
    await shop.connection.nats.publish("asked.new", msgspec.json.encode(order(2)), reply="$JS.nobody")
    waiting = asyncio.create_task(asked(shop, order(1)))
    await process.reaches("lag", 3)
    await process.stop()
    told = await waiting
    assert (told["ok"], told["code"], told["retryable"]) == (False, "TRIGGER_STOPPED", True)
    letters = await shop.dead_letters()
    assert {(letter.headers or {})["Dressage-Code"] for letter in letters} == {"TRIGGER_STOPPED"}
    assert sorted(msgspec.json.decode(letter.data)["id"] for letter in letters) == [0, 2]


async def test_it_listens_again_after_the_server_was_killed(
    shop: Shop, client: Client, trigger: StartTrigger, server: EmbeddedServer
) -> None:
    process = trigger(CORE)
    await listens(shop, process)
    server.kill()
    await server.wait()
    await server.start()

    async def is_answered() -> bool:
        try:
            return bool((await asked(shop, order(1), 5))["run_id"] == "order-1")
        except NoAnswer:
            return False

    await eventually(is_answered, "it is answered")
    await shop.has_started("order-1")


@pytest.mark.limit("connectors.core.CORE_HELD_MAX")
@pytest.mark.limit("connectors.core.CORE_HELD_BYTES_MAX")
@pytest.mark.parametrize(
    ("constant", "limit"), [("CORE_HELD_MAX", "core-held"), ("CORE_HELD_BYTES_MAX", "core-held-bytes")]
)
async def test_beyond_what_it_may_hold_it_refuses(
    shop: Shop, trigger: StartTrigger, monkeypatch: pytest.MonkeyPatch, constant: str, limit: str
) -> None:
    async with shop.engine(workflow()):
        process = trigger(CORE, HASTY)
        await listens(shop, process)
    data = msgspec.json.encode(order(0))
    monkeypatch.setattr(core, constant, 1 if constant == "CORE_HELD_MAX" else len(data))
    await shop.connection.tell("asked.new", data)
    await process.reaches("lag", 1)
    told = await asked(shop, order(1))
    assert (told["code"], told["retryable"]) == ("TRIGGER_BUSY", True)
    assert told["message"].endswith(f"(limit {limit})")
    await process.reaches("refused_total", 1)
    async with shop.engine():
        await process.reaches("lag", 0)
        assert (await asked(shop, order(1)))["ok"]


async def test_a_subject_that_a_stream_stores_is_left_to_it(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    """Who publishes to the stream waits for its answer, and must not get another one."""
    await shop.create_stream("ASKED", ["asked.new"])
    process = trigger(CORE)
    await process.reaches("faulty", 1)
    await shop.publish(order(0), subject="asked.new")
    await shop.delete_stream("ASKED")
    await process.reaches("faulty", 0)
    assert (await asked(shop, order(1)))["run_id"] == "order-1"
    await shop.has_started("order-1")


async def test_a_deployed_one_is_changed_and_paused_under_way(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    definitions = Definitions(shop.connection, shop.names)
    setting = Setting(shop.connection, client, TriggerOptions(), Metrics(NoMeters()))

    async def deploy(text: str) -> None:
        await definitions.deploy(parse_triggers(text)[0], "ann")
        await in_force(
            definitions, "orders", lambda entry: setting.source(entry.versions[-1].config, entry.incarnation)
        )

    await deploy(CORE)
    process = trigger(None)
    await listens(shop, process)
    assert (await asked(shop, order(1)))["run_id"] == "order-1"
    await deploy(CORE.replace("'order-'", "'o-'"))
    assert (await asked(shop, order(2)))["run_id"] == "o-2"
    await definitions.pause("orders", "ann")

    async def nobody_listens() -> bool:
        try:
            await asked(shop, order(3), 5)
        except NoAnswer as error:
            return "nobody listens" in error.message
        return False

    await eventually(nobody_listens, "nobody listens")
    await definitions.resume("orders", "ann")
    await listens(shop, process)
    assert (await asked(shop, order(4)))["run_id"] == "o-4"
    await definitions.remove("orders", "ann")
    await eventually(nobody_listens, "nobody listens")


async def test_an_event_of_another_type_is_told_to_who_waits(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        process = trigger(POSTS)
        await listens(shop, process)
        assert (await asked(shop, {"order": "o", "cents": "many"}))["code"] == "EVENT_INVALID"
        for _ in range(3):
            await run.post(paid, Payment("o", 1))
        assert await run.result(20) == 3
