"""A trigger against a real server and a real engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.connectors.conftest import CONFIG, CONSUMER, ONLY_TEXT, QUICK, eventually, order, orders, workflow  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import StoredMessage
from dressage.client import Client
from dressage.connectors import TriggerRunner, parse_triggers
from dressage.connectors.source import Source
from dressage.protocol.errors import ServerUnreachable

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger, Trigger  # pyright: ignore[reportMissingImports]

FEW = replace(QUICK, in_flight=20)


def starting_at(place: str) -> str:
    return CONFIG.replace("when =", f"start = {place}\nwhen =")


# -- what an event becomes -------------------------------------------------------------------------
async def test_an_event_starts_the_run_that_it_names(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
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
    await shop.has_started(*orders(300))
    assert process.metric("started_total") == 300


async def test_runs_of_all_shards_are_started(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow(), shards=3):
        await shop.publish_orders(60)
        trigger()
        await shop.done()
        await shop.has_started(*orders(60))


async def test_the_same_event_twice_is_one_run(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    process = trigger()
    await shop.publish(order(1))
    await shop.publish(order(1))
    await shop.done()
    await shop.has_started("order-1")
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

    await shop.has_started("order-1", "audit-1")


async def test_a_subject_alone_finds_its_stream(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    trigger(CONFIG.replace('stream = "ORDERS", ', ""))
    await shop.publish(order(1))
    await shop.done()
    await shop.has_started("order-1")


# -- where a trigger begins ------------------------------------------------------------------------
async def test_a_new_trigger_begins_with_the_first_event(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    await shop.publish(order(1))
    trigger()
    await shop.done()
    await shop.has_started("order-1")


async def test_new_leaves_out_what_was_there_before(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    await shop.publish(order(1))
    trigger(starting_at('"new"'))
    await eventually(shop.is_done, "the consumer is there, and nothing waits for it")
    await shop.publish(order(2))
    await shop.has_started("order-2")


async def test_a_sequence_is_where_a_trigger_begins(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    await shop.publish_orders(5)
    trigger(starting_at("4"))
    await shop.has_started("order-3", "order-4")


async def test_new_means_all_of_a_stream_that_comes_after_the_trigger(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    await shop.delete_stream()
    process = trigger(starting_at('"new"'))
    await process.reaches("faulty", 1)
    await shop.create_stream()
    await shop.publish(order(1))
    await shop.has_started("order-1")


async def test_a_trigger_goes_on_where_it_stopped(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    first = trigger()
    await shop.publish(order(1))
    await shop.done()
    await first.stop()
    await shop.publish(order(2))
    second = trigger()
    await shop.has_started("order-1", "order-2")
    assert second.metric("events_total") == 1


async def test_a_lost_consumer_is_made_anew(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    process = trigger()
    await shop.publish_orders(10)
    await process.reaches("started_total", 10)
    await shop.connection.delete_consumer("ORDERS", CONSUMER)
    await shop.publish(order(10))
    await shop.has_started(*orders(11))


async def test_a_lost_consumer_goes_on_where_it_was(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    await shop.publish_orders(10)
    trigger_of_before = trigger()
    await eventually(shop.is_done, "all events are dealt with")
    await trigger_of_before.stop()
    (config,) = parse_triggers(CONFIG)
    source = Source(shop.connection, shop.names, config, ack_wait_s=QUICK.ack_wait_s, pending_max=100)
    await source.open()
    await shop.connection.delete_consumer("ORDERS", CONSUMER)
    await source.open()
    assert (await shop.consumer())["config"]["opt_start_seq"] == 11


async def test_a_changed_filter_is_taken_over(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    await trigger().stop()
    trigger(CONFIG.replace("orders.>", "orders.*.paid"))
    await shop.publish(order(1), subject="orders.new")
    await shop.publish(order(2), subject="orders.2.paid")
    await shop.has_started("order-2")


# -- what can start no run -------------------------------------------------------------------------
async def buried(shop: Shop) -> tuple[StoredMessage, Mapping[str, str]]:
    """The only dead letter, and its headers."""
    await shop.done()
    (letter,) = await shop.dead_letters()
    return letter, letter.headers or {}


async def test_an_event_that_cannot_be_mapped_is_kept_with_the_reason(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    trigger()
    seq = await shop.publish(b"no json", headers={"Shop": "Ulm"})
    letter, headers = await buried(shop)
    assert letter.data == b"no json"
    assert (headers["Dressage-Code"], headers["Dressage-Sequence"], headers["Dressage-Original-Shop"]) == (
        *("EVENT_NOT_JSON", str(seq)),
        "Ulm",
    )


async def test_an_event_that_cannot_be_mapped_is_counted(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    process = trigger()
    await shop.publish(b"no json")
    await process.reaches("dead_letters_total", 1, code="EVENT_NOT_JSON")


async def test_a_trigger_goes_on_behind_a_dead_letter(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    trigger()
    await shop.publish({"total": 5})
    await shop.publish(order(1))
    await shop.done()
    await shop.has_started("order-1")


async def test_an_input_that_the_workflow_refuses_is_a_dead_letter(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow(parameter=ONLY_TEXT)):
        trigger()
        await shop.publish(order(1))
        _, headers = await buried(shop)
        assert headers["Dressage-Code"] == "INPUT_INVALID"


async def test_an_event_for_a_run_with_another_input_is_a_dead_letter(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    trigger()
    await shop.publish(order(1, total=5))
    await shop.has_started("order-1")
    await shop.publish(order(1, total=6))
    _, headers = await buried(shop)
    assert headers["Dressage-Code"] == "RUN_ID_CONFLICT"


async def test_an_event_too_large_for_a_command_is_a_dead_letter(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    trigger()
    largest = shop.connection.payload_bytes_max
    event = order(1, text="x" * (largest - 100))
    await shop.publish(event)
    letter, headers = await buried(shop)
    assert headers["Dressage-Code"] == "PAYLOAD_TOO_LARGE"
    assert int(headers["Dressage-Payload-Bytes"]) > len(letter.data)


# -- what passes -----------------------------------------------------------------------------------
async def test_a_workflow_may_be_registered_after_its_events_came(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        process = trigger()
        await shop.publish_orders(20)
        await process.reaches("faulty", 1)
        await client.register(workflow())
        await shop.done()
        await shop.has_started(*orders(20))


async def test_a_passing_fault_makes_no_dead_letter(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        process = trigger()
        await shop.publish(order(1))
        await eventually(lambda: retried(process), "the event is put back")
        await client.register(workflow())
        await shop.done()
        assert not await shop.dead_letters()


async def retried(process: Trigger) -> bool:
    return process.metric("retries_total", code="WORKFLOW_UNKNOWN") > 0


async def test_a_passing_fault_is_logged_once(
    shop: Shop, trigger: StartTrigger, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop.engine() as client:
        process = trigger()
        await shop.publish_orders(20)
        await eventually(lambda: retried(process), "events are put back")
        await client.register(workflow())
        await shop.done()
    assert sum("WORKFLOW_UNKNOWN" in record.message for record in caplog.records if record.levelno >= 30) == 1


async def test_events_wait_for_an_engine(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow()):
        pass
    process = trigger()
    await shop.publish_orders(20)
    await process.reaches("faulty", 1)
    async with shop.engine():
        await shop.done()
        await shop.has_started(*orders(20))


async def test_without_an_engine_only_one_event_at_a_time_is_tried(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow()):
        pass
    process = trigger()
    await shop.publish_orders(5)
    await process.reaches("faulty", 1)
    await shop.publish_orders(95, first=5)
    await process.reaches("lag", 100)
    commands = await shop.connection.stream_state(shop.names.shard_stream(0))
    assert commands is not None
    assert commands.messages < 30


async def test_a_namespace_that_is_not_there_yet_is_waited_for(shop: Shop, trigger: StartTrigger) -> None:
    trigger()
    await shop.publish(order(1))
    async with shop.engine(workflow()):
        await shop.has_started("order-1")


async def test_a_stream_that_is_not_there_is_named_and_waited_for(
    shop: Shop, client: Client, trigger: StartTrigger, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.delete_stream()
    process = trigger()
    await process.reaches("faulty", 1)
    assert "SOURCE_MISSING: there is no stream ORDERS for subject orders.>" in caplog.text
    await shop.create_stream()
    await process.reaches("faulty", 0)


async def test_a_stream_that_vanishes_is_waited_for(
    shop: Shop, client: Client, trigger: StartTrigger
) -> None:
    process = trigger()
    await shop.publish(order(1))
    await process.reaches("started_total", 1)
    await shop.delete_stream()
    await process.reaches("faulty", 1)
    await shop.create_stream()
    await shop.publish(order(2))
    await shop.has_started("order-1", "order-2")


async def test_a_stream_of_the_engine_itself_feeds_no_trigger(
    shop: Shop, client: Client, trigger: StartTrigger, caplog: pytest.LogCaptureFixture
) -> None:
    process = trigger(CONFIG.replace('"ORDERS", subject = "orders.>"', f'"{shop.names.shard_stream(0)}"'))
    await process.reaches("faulty", 1)
    assert "SOURCE_REFUSED" in caplog.text


@pytest.mark.faults
async def test_the_server_may_be_killed_under_load(
    shop: Shop, client: Client, trigger: StartTrigger, server: EmbeddedServer
) -> None:
    process = trigger()
    await shop.publish_orders(1000)
    await eventually(lambda: begun(process), "some events are dealt with, not all")
    server.kill()
    await server.wait()
    await server.start()
    await shop.done()
    await shop.has_started(*orders(1000))


async def begun(process: Trigger) -> bool:
    return 0 < process.metric("started_total") < 1000


# -- its life --------------------------------------------------------------------------------------
async def test_two_processes_share_the_events(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    both = [trigger(options=FEW), trigger(options=FEW)]
    await eventually(shop.is_done, "both are there")
    await shop.publish_orders(500)
    await shop.done()
    await shop.has_started(*orders(500))
    assert all(process.metric("started_total") > 0 for process in both)


async def test_a_stop_puts_back_what_is_not_done(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine(workflow()):
        pass
    patient = trigger(options=replace(QUICK, ack_wait_s=60.0, drain_s=0.1))
    await shop.publish_orders(20)
    await patient.reaches("events_total", 20)
    await patient.stop()
    trigger()
    async with shop.engine():
        # Sooner than the minute after which the source would give up on the first process.
        await shop.done()


async def test_without_a_server_there_is_a_clear_error(trigger: StartTrigger, server: EmbeddedServer) -> None:
    await server.stop()
    runner = TriggerRunner(server.url, parse_triggers(CONFIG))
    with pytest.raises(ServerUnreachable):
        await runner.run()
