"""Records of a real Kafka become runs, and external events, of a real engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.connecting import QUICK, eventually, workflow  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import CLIENT, SOURCE, needs_eviction  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors.connect.options import ConnectorFailed
from dressage.flow import Event
from dressage.flow import workflow as defined

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka, StartConnector  # pyright: ignore[reportMissingImports]

GROUP = "dressage.default.orders"
paid = Event("order-paid", of=int)


@defined(name="await-payment")
async def await_payment(order: str) -> int:
    return await paid.wait(key=order)


@defined(name="await-two")
async def await_two() -> list[int]:
    first = await paid.wait()
    second = await paid.wait()
    return [first, second]


async def test_a_record_starts_a_run_that_is_named_for_its_place(
    kafka: Kafka, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await kafka.produce(topic, {"id": 7})
    running = connector(SOURCE.format(name="orders", topic=topic, **kafka.client))
    await running.reaches("done_total", 1)
    run = await client.get(f"orders/{topic}/0/0")
    assert (run.workflow, run.input, run.actor) == ("take-order", {"order": {"id": 7}}, "connector/orders")
    await running.stop()
    assert await kafka.committed(GROUP, topic) == 1


async def test_a_run_may_be_named_by_key_headers_and_value(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await kafka.produce(topic, {"id": 1}, key="k", headers={"shop": b"berlin"})
    config = SOURCE.format(name="orders", topic=topic, **kafka.client)
    named = 'run_id = """f\'{headers["shop"]}-{key}-{value["id"]}\'"""\nworkflow ='
    running = connector(config.replace("workflow =", named))
    await running.reaches("done_total", 1)
    await place.has_started("berlin-k-1")


async def test_transforms_are_steps_in_their_order(
    kafka: Kafka, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await kafka.produce(topic, {"nr": 1, "total": 5, "secret": "x"}, {"nr": 2, "total": -1})
    steps = """
[[connector.transforms]]
name = "paid"
type = "filter"
condition = 'value["total"] > 0'
[[connector.transforms]]
name = "named"
type = "rename"
fields = { nr = "id" }
[[connector.transforms]]
name = "few"
type = "select"
fields = ["id", "total"]
[[connector.transforms]]
name = "shop"
type = "constant"
field = "shop"
value = "berlin"
[[connector.transforms]]
name = "twice"
type = "expression"
field = "twice"
expression = 'value["total"] * 2'
"""
    running = connector(SOURCE.format(name="orders", topic=topic, **kafka.client) + steps)
    await running.reaches("done_total", 1)
    await running.reaches("skipped_total", 1)
    run = await client.get(f"orders/{topic}/0/0")
    assert run.input == {"order": {"id": 1, "total": 5, "shop": "berlin", "twice": 10}}


async def test_topics_by_a_pattern_are_found_when_they_come(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    first = await kafka.topic()
    config = SOURCE.format(name="orders", topic=first, **kafka.client)
    config = config.replace(f'topics = ["{first}"]', f'topics.regex = "{first}.*"')
    running = connector(config + '"topic.metadata.refresh.interval.ms" = 200\n')
    await kafka.produce(first, {"id": 1})
    await running.reaches("done_total", 1)
    await kafka.create(f"{first}-later")
    await kafka.produce(f"{first}-later", {"id": 2})
    await running.reaches("done_total", 2)
    await place.has_started(f"orders/{first}/0/0", f"orders/{first}-later/0/0")


async def test_what_can_start_no_run_is_a_dead_letter_and_holds_up_nobody(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await kafka.produce(topic, b"no json", key="k", headers={"shop": b"berlin"})
    await kafka.produce(topic, {"id": 1})
    running = connector(SOURCE.format(name="orders", topic=topic, **kafka.client))
    await running.reaches("done_total", 1)
    await running.reaches("dead_letters_total", 1, code="EVENT_NOT_JSON")
    (letter,) = await place.dead_letters("orders")
    headers = letter.headers or {}
    assert letter.data == b"no json"
    assert (headers["Dressage-Code"], headers["Dressage-Topic"], headers["Dressage-Offset"]) == (
        *("EVENT_NOT_JSON", topic),
        "0",
    )
    assert (headers["Dressage-Key"], headers["Dressage-Original-shop"]) == ("k", "berlin")
    await running.stop()
    assert await kafka.committed(GROUP, topic) == 2


async def test_dead_letters_may_have_a_topic_of_their_own(
    kafka: Kafka, client: Client, connector: StartConnector
) -> None:
    topic, dead = await kafka.topic(), await kafka.topic()
    await kafka.produce(topic, b"no json", key="k", headers={"shop": b"berlin"})
    config = SOURCE.format(name="orders", topic=topic, **kafka.client)
    running = connector(
        config.replace("workflow =", f'errors.deadletterqueue.topic.name = "{dead}"\nworkflow =')
    )
    await running.reaches("dead_letters_total", 1, code="EVENT_NOT_JSON")
    (letter,) = await kafka.read(dead)
    headers = dict(letter.headers())
    assert (letter.key(), letter.value(), headers["shop"]) == (b"k", b"no json", b"berlin")
    assert (headers["Dressage-Code"], headers["Dressage-Offset"]) == (b"EVENT_NOT_JSON", b"0")


async def test_without_tolerance_a_bad_record_stops_the_connector_and_is_not_passed(
    kafka: Kafka, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await kafka.produce(topic, {"id": 1}, b"no json", {"id": 2})
    config = SOURCE.format(name="orders", topic=topic, **kafka.client)
    running = connector(config.replace('"all"', '"none"'))
    with pytest.raises(ConnectorFailed, match="EVENT_NOT_JSON"):
        await running.task
    assert running.metric("failed") == 1
    assert await kafka.committed(GROUP, topic) == 1


async def test_a_record_becomes_an_event_at_a_correlation_key(
    kafka: Kafka, place: Place, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    config = f"""
[[connector]]
name = "payments"
type = "source"
topics = ["{topic}"]
event = "order-paid"
correlation_key = "key"
payload = 'value["amount"]'
{CLIENT.format(**kafka.client)}"""
    async with place.engine() as client:
        await client.register(await_payment.spec)
        run = await client.start(await_payment, {"order": "o-1"}, run_id="r")
        await kafka.produce(topic, {"amount": 42}, key="o-1")
        connector(config)
        assert await run.result(timeout_s=30) == 42


async def test_events_for_a_run_keep_the_order_of_their_key(
    kafka: Kafka, place: Place, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    config = f"""
[[connector]]
name = "payments"
type = "source"
topics = ["{topic}"]
event = "order-paid"
run_id = "key"
{CLIENT.format(**kafka.client)}"""
    async with place.engine() as client:
        await client.register(await_two.spec)
        runs = [await client.start(await_two, {}, run_id=f"r{number}") for number in range(20)]
        for number in range(20):
            await kafka.produce(topic, 1, 2, key=f"r{number}")
        running = connector(config)
        assert [await run.result(timeout_s=30) for run in runs] == [[1, 2]] * 20
        await running.reaches("done_total", 40)


async def test_what_comes_twice_starts_nothing_twice(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await kafka.produce(topic, *({"id": number} for number in range(20)))
    config = SOURCE.format(name="orders", topic=topic, **kafka.client)
    first = connector(config)
    await first.reaches("done_total", 20)
    await first.stop()
    await kafka.forget(GROUP, topic)
    second = connector(config)
    await second.reaches("existing_total", 20)
    await place.has_started(*(f"orders/{topic}/0/{offset}" for offset in range(20)))


async def test_records_wait_for_the_engine_and_their_partitions_pause(
    kafka: Kafka, place: Place, connector: StartConnector
) -> None:
    topic = await kafka.topic(2)
    async with place.engine(workflow()):
        pass
    await kafka.produce(topic, *({"id": number} for number in range(300)))
    few = replace(QUICK, in_flight=20, answer_s=1.0)
    running = connector(SOURCE.format(name="orders", topic=topic, **kafka.client), few)
    await running.reaches("faulty", 1)
    await running.reaches("pauses_total", 1)
    taken = running.metric("records_total")
    assert taken < 300
    async with place.engine():
        await place.has_started(*await _places(kafka, topic))
        await running.stop()
    assert await kafka.committed(GROUP, topic, 2) == 300


async def test_partitions_move_between_processes_and_every_record_has_one_run(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    needs_eviction(kafka)
    topic = await kafka.topic(4)
    config = SOURCE.format(name="orders", topic=topic, **kafka.client)
    config = config.replace("workflow =", "tasks.max = 2\nworkflow =")
    producing = asyncio.create_task(_trickle(kafka, topic, 30, 20))
    first = connector(config)
    await first.reaches("done_total", 50)
    second = connector(config)
    await second.reaches("done_total", 20)
    await first.stop()
    await producing

    async def all_started() -> bool:
        return len(await place.starts()) == 600

    await eventually(all_started, "600 runs are started")
    assert set((await place.starts()).values()) == {1}
    await second.stop()
    assert await kafka.committed(GROUP, topic, 4) == 600


async def _places(kafka: Kafka, topic: str) -> list[str]:
    return [f"orders/{topic}/{each.partition()}/{each.offset()}" for each in await kafka.read(topic)]


async def _trickle(kafka: Kafka, topic: str, batches: int, each: int) -> None:
    for batch in range(batches):
        for number in range(each):
            await kafka.produce(topic, {"id": batch * each + number}, key=str(number % 16))
