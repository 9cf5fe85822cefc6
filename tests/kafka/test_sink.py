"""Output events of a real engine become records of a real Kafka, each once for who reads what is committed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.connecting import CARD, eventually, paying, run_orders  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import SINK  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors.connect.options import ConnectorFailed

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka, StartConnector  # pyright: ignore[reportMissingImports]


async def test_every_event_is_a_record_keyed_by_its_run(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic(3)
    await run_orders(client, 5)
    events = await place.events(5)
    running = connector(SINK.format(name="out", topic=topic, **kafka.client))
    await running.reaches("records_total", len(events))
    await running.stop()
    found = await kafka.read(topic)
    assert sorted(each.value() for each in found) == sorted(each.data for each in events)
    assert {each.key() for each in found} == {f"run-{number}".encode() for number in range(5)}
    assert dict(found[0].headers())["content-type"] == b"application/cloudevents+json; charset=UTF-8"


async def test_a_sink_that_is_started_again_goes_on_where_it_was(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    config = SINK.format(name="again", topic=topic, **kafka.client)
    await run_orders(client, 3)
    first = connector(config)
    await first.reaches("records_total", len(await place.events(3)))
    await first.stop()
    await run_orders(client, 3, first=3)
    events = await place.events(6)
    second = connector(config)
    await second.reaches("active", 1)

    await second.reaches("records_total", len(events) // 2)
    await second.stop()
    found = Counter(each.value() for each in await kafka.read(topic))
    assert found == Counter(each.data for each in events)


async def test_of_two_sinks_one_writes_and_the_other_takes_over(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    config = SINK.format(name="two", topic=topic, **kafka.client)
    first = connector(config)
    await first.reaches("active", 1)
    second = connector(config)
    await run_orders(client, 3)
    await first.reaches("records_total", len(await place.events(3)))
    assert second.metric("active") == 0
    await first.stop()
    await second.reaches("active", 1)
    await run_orders(client, 3, first=3)
    events = await place.events(6)
    await second.reaches("records_total", len(events) // 2)
    found = Counter(each.value() for each in await kafka.read(topic))
    assert found == Counter(each.data for each in events)


async def test_cloudevents_in_binary_mode_have_their_attributes_in_headers(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await run_orders(client, 1)
    config = SINK.format(name="binary", topic=topic, **kafka.client)
    running = connector(config.replace("topics =", 'value.format = "cloudevents-binary"\ntopics ='))
    await running.reaches("records_total", len(await place.events(1)))
    found = {dict(each.headers())["ce_type"]: each for each in await kafka.read(topic)}
    started = found[b"dressage.run-started"]
    headers = dict(started.headers())
    assert msgspec.json.decode(started.value()) == {"input": {"order": {"id": 0}}}
    assert (headers["ce_subject"], headers["ce_id"], headers["content-type"]) == (
        *(b"run-0", b"run-0/0"),
        b"application/json",
    )


async def test_plain_json_is_filtered_and_mapped_and_an_expression_gives_the_topic(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await run_orders(client, 2)
    config = SINK.format(name="plain", topic=topic, **kafka.client)
    config = config.replace(f'topics = ["{topic}"]', f"""value.format = "json"\ntopic = '"{topic}"'""")
    steps = """
[[connector.transforms]]
name = "ends"
type = "filter"
condition = 'kind == "run-completed"'
[[connector.transforms]]
name = "few"
type = "select"
fields = ["run_id", "data"]
[[connector.transforms]]
name = "output"
type = "expression"
field = "data"
expression = 'value["data"]["output"]'
"""
    running = connector(config + steps)
    await running.reaches("records_total", 2)
    found = [msgspec.json.decode(each.value()) for each in await kafka.read(topic)]
    assert found == [{"run_id": "run-0", "data": 0}, {"run_id": "run-1", "data": 1}]
    assert running.metric("skipped_total") == len(await place.events(2)) - 2


async def test_a_transform_that_fails_stops_the_sink_before_the_event(
    kafka: Kafka, client: Client, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    await run_orders(client, 1)
    step = """
[[connector.transforms]]
name = "wrong"
type = "filter"
condition = 'value["nothing"] == 1'
"""
    running = connector(SINK.format(name="wrong", topic=topic, **kafka.client) + step)
    with pytest.raises(ConnectorFailed, match="transform wrong"):
        await running.task
    assert await kafka.read(topic) == []


async def test_the_state_of_each_run_stands_in_a_topic_that_keeps_the_last(
    kafka: Kafka, client: Client, connector: StartConnector
) -> None:
    topic, states = await kafka.topic(), await kafka.topic(cleanup_policy="compact")
    config = SINK.format(name="states", topic=topic, **kafka.client)
    running = connector(config.replace("topics =", f'state.topic = "{states}"\ntopics ='))
    await running.reaches("active", 1)
    await run_orders(client, 2)
    kept = {}

    async def known() -> bool:
        kept.update({each.key(): each.value() for each in await kafka.read(states)})
        return all(
            run in kept and msgspec.json.decode(kept[run])["status"] == "completed"
            for run in (b"run-0", b"run-1")
        )

    await eventually(known, "both runs stand as completed")
    await client.delete("run-0")

    async def gone() -> bool:
        kept.update({each.key(): each.value() for each in await kafka.read(states)})
        return kept[b"run-0"] is None

    await eventually(gone, "the deleted run has a tombstone")
    assert kept[b"run-1"] is not None


async def test_what_is_masked_is_in_no_record(kafka: Kafka, place: Place, connector: StartConnector) -> None:
    topic, states = await kafka.topic(), await kafka.topic(cleanup_policy="compact")
    async with place.engine(paying()) as client:
        run = await client.start("pay", {"card": CARD, "item": "plain-item"}, run_id="p-1")
        assert await run.result() == CARD
        config = SINK.format(name="masked", topic=topic, **kafka.client)
        running = connector(config.replace("topics =", f'state.topic = "{states}"\ntopics ='))
        await running.reaches("records_total", len(await place.events(1)))
        found = [*await kafka.read(topic), *await kafka.read(states)]
    whole = b"".join(each.value() for each in found)
    assert b"plain-item" in whole
    assert b"***" in whole
    assert CARD.encode() not in whole
