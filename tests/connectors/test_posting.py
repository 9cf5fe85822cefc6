"""A trigger that posts external events, against a real server and a real engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from tests.connectors.conftest import eventually  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors.source import event_id
from dressage.flow import Event, workflow
from dressage.protocol.events import KIND, RUN_HEADER, EventPosted
from dressage.protocol.names import run_id_of

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]


@dataclass
class Payment:
    order: str
    cents: int


paid = Event("paid", of=Payment)


@workflow(name="await-payments")
async def await_payments(order: str) -> int:
    """Waits for three payments, so that one too many would show."""
    total = 0
    for _ in range(3):
        payment = await paid.wait()
        total += payment.cents
    return total


@workflow(name="await-key")
async def await_key(order: str) -> int:
    payment = await paid.wait(key=order)
    return payment.cents


BY_RUN = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>" }
event = "paid"
run_id = "event['order']"
"""
BY_KEY = BY_RUN.replace("run_id", "key")


async def has_ended(client: Client, run_id: str) -> None:
    async def ended() -> bool:
        return (await client.get(run_id)).status == "completed"

    await eventually(ended, f"run {run_id} has ended")


async def posted(shop: Shop) -> Counter[str]:
    """How many external events each run has got, by its output events."""
    subject = f"{shop.names.root}.events.*.*.{KIND[EventPosted]}.*"
    found = await shop.stored(shop.names.events_stream, subject)
    return Counter(run_id_of((message.headers or {})[RUN_HEADER]) for message in found)


async def has_got(shop: Shop, wanted: dict[str, int]) -> bool:
    return await posted(shop) == wanted


async def test_an_event_is_posted_to_the_run_that_it_names(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        process = trigger(BY_RUN)
        for cents in (1, 10, 100):
            await shop.publish({"order": "o", "cents": cents})
        assert await run.result(20) == 111
        await process.reaches("posted_total", 3)


async def test_an_event_is_posted_to_a_correlation_key(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(await_key)
        trigger(BY_KEY)
        await shop.publish({"order": "k 7", "cents": 5})
        run = await client.start(await_key, {"order": "k 7"}, run_id="r")
        assert await run.result(20) == 5


async def test_an_event_that_is_delivered_again_counts_once(shop: Shop, trigger: StartTrigger) -> None:
    """What the first delivery has posted, with its acknowledgement lost."""
    async with shop.engine() as client:
        await client.register(await_payments)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        seq = await shop.publish({"order": "o", "cents": 1})
        (message,) = await shop.stored("ORDERS", "orders.>")
        known = event_id("ORDERS", seq, message.time_ns)
        await client.post("o", paid, Payment("o", 1), event_id=known)
        process = trigger(BY_RUN)
        await process.reaches("existing_total", 1)
        for cents in (10, 100):
            await shop.publish({"order": "o", "cents": cents})
        assert await run.result(20) == 111
        await eventually(lambda: has_got(shop, {"o": 3}), "the run has got three events")


async def test_an_event_for_a_run_that_is_over_is_a_dead_letter(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        for cents in range(3):
            await run.post(paid, Payment("o", cents))
        await has_ended(client, "o")
        trigger(BY_RUN)
        await shop.publish({"order": "o", "cents": 1})
        await shop.done()
        (letter,) = await shop.dead_letters()
        assert (letter.headers or {})["Dressage-Code"] == "RUN_FINISHED"


async def test_a_payload_of_another_type_is_a_dead_letter(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(await_key)
        trigger(BY_KEY)
        await shop.publish({"order": "o", "cents": "many"})
        await shop.done()
        (letter,) = await shop.dead_letters()
        assert (letter.headers or {})["Dressage-Code"] == "EVENT_INVALID"


async def test_an_event_that_no_workflow_waits_for_yet_waits(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        process = trigger(BY_KEY)
        await shop.publish({"order": "o", "cents": 5})
        await process.reaches("faulty", 1)
        await client.register(await_key)
        run = await client.start(await_key, {"order": "o"}, run_id="r")
        assert await run.result(20) == 5


async def test_cloud_events_of_both_modes_are_data_and_attributes(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(await_payments)
        run = await client.start(await_payments, {"order": "o"}, run_id="o")
        trigger(BY_RUN.replace("event['order']", "ce['subject']"))
        attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "paid", "subject": "o"}
        data = {"order": "o", "cents": 1}
        structured = {"content-type": "application/cloudevents+json; charset=utf-8"}
        binary = {f"ce-{name}": value for name, value in attributes.items()} | {"ce-id": "2"}
        await shop.publish({**attributes, "data": data}, headers=structured)
        await shop.publish({"order": "o", "cents": 10}, headers=binary)
        # The same CloudEvent, published again: its own id tells.
        await shop.publish({"order": "o", "cents": 10}, headers=binary)
        await shop.publish(msgspec.json.encode({"order": "o", "cents": 100}), headers=binary | {"ce-id": "3"})
        assert await run.result(20) == 111
