"""A trigger against a real server and a real engine."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client
from dressage.protocol.errors import ServerUnreachable
from tests.connectors.conftest import CONFIG, ONLY_TEXT, QUICK, eventually, order, workflow

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger


# -- what an event becomes -------------------------------------------------------------------------
async def test_an_event_starts_the_run_that_it_names(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    trigger()
    await shop.publish(order(7))
    await shop.done()
    run = await client.get("order-7")
    assert (run.workflow, run.status, run.input, run.actor) == (
        *("take-order", "completed"),
        *({"order": order(7)}, "trigger/orders"),
    )


async def test_each_event_has_exactly_one_run(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    await shop.publish_orders(300)
    process = trigger()
    await shop.done()
    assert await shop.starts() == {f"order-{number}": 1 for number in range(300)}
    assert process.metric("started_total") == 300


async def test_runs_of_all_shards_are_started(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow(), shards=3):
        await shop.publish_orders(60)
        trigger()
        await shop.done()
        assert len(await shop.starts()) == 60


async def test_the_same_event_twice_is_one_run(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    process = trigger()
    await shop.publish(order(1))
    await shop.publish(order(1))
    await shop.done()
    assert await shop.starts() == {"order-1": 1}
    assert (process.metric("started_total"), process.metric("existing_total")) == (1, 1)


async def test_an_event_that_when_leaves_out_starts_nothing(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    process = trigger()
    await shop.publish(order(1, total=-5))
    await shop.done()
    assert process.metric("skipped_total") == 1
    assert not await shop.starts()


async def test_a_pinned_version_is_the_one_that_runs(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow(), workflow(parameter=ONLY_TEXT)) as client:
        trigger(CONFIG.replace('workflow = "take-order"', 'workflow = "take-order"\nversion = 1'))
        await shop.publish(order(1))
        await shop.done()
        assert (await client.get("order-1")).version == 1


async def test_several_triggers_of_a_file_run_side_by_side(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    other = CONFIG.replace('name = "orders"', 'name = "audit"').replace("'order-'", "'audit-'")
    trigger(CONFIG + other)
    await shop.publish(order(1))

    async def both() -> bool:
        return await shop.starts() == {"order-1": 1, "audit-1": 1}

    await eventually(both, "both triggers have started a run")


async def test_a_subject_alone_finds_its_stream(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    trigger(CONFIG.replace('stream = "ORDERS", ', ""))
    await shop.publish(order(1))
    await shop.done()
    assert await shop.starts() == {"order-1": 1}


# -- where a trigger begins ------------------------------------------------------------------------
async def test_a_new_trigger_begins_with_the_first_event(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    await shop.publish(order(1))
    trigger()
    await shop.done()
    assert await shop.starts() == {"order-1": 1}


async def test_new_leaves_out_what_was_there_before(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    await shop.publish(order(1))
    trigger('start = "new"\n'.join(CONFIG.split("\n[trigger.input]")[:1]) + 'start = "new"\n')
    await eventually(shop.is_done, "the consumer is there")
    await shop.publish(order(2))
    await shop.done()
    assert (await shop.consumer())["delivered"]["stream_seq"] == 2
