"""Dead letters of a source ask the engine once more, under the ids that their records have: each record counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.connecting import QUICK, put_back  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import CLIENT, SOURCE  # pyright: ignore[reportMissingImports]
from tests.kafka.test_source import await_two, paid  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli.main import main
from dressage.client import Client
from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.metrics import ConnectorMetrics, Metrics
from dressage.connectors.connect.options import Setting
from dressage.connectors.connect.replay import letters_again
from dressage.connectors.kafka.records import Record, dead_record
from dressage.connectors.replay import Replayed, dead_letters, replay
from dressage.telemetry import NoMeters

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka, StartConnector  # pyright: ignore[reportMissingImports]

ALL_OF_IT = """{"id": value["id"], "key": key, "headers": headers, "at": timestamp}"""
HEADERS = [("shop", b"berlin"), ("shop", b" two\r\nlines "), ("trace", b"\x00\xff"), ("none", None)]


def by(config: str, order: str) -> str:
    """The source with this expression for its input."""
    return config.replace('order = "value"', f"order = '''{order}'''")


async def replayed(
    place: Place, client: Client, config: str, name: str, seqs: Collection[int] = ()
) -> list[Replayed]:
    (connector,) = parse_connectors(config)
    own = ConnectorMetrics(Metrics(NoMeters()), name)
    setting = Setting(client, JetStreamBroker(place.server.url), QUICK, own)
    connection, names = client.connection, client.names
    async with letters_again(connector, setting) as again:
        letters = dead_letters(connection, names, names.dead_connector(name), seqs)
        return [await replay(connection, names, each, again) async for each in letters]


async def test_a_letter_asks_for_the_run_that_its_record_asks_for(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector
) -> None:
    """Whatever its key and its headers are: or the record would be refused, as its run has another input."""
    topic = await kafka.topic()
    await kafka.produce(topic, {"id": 7}, key="k\r\n ü ", headers=HEADERS)
    config = SOURCE.format(name=topic, topic=topic, **kafka.client)
    wrong = connector(by(config, 'value["nothing"]'))
    await wrong.reaches("dead_letters_total", 1, code="EXPRESSION_FAILED")
    await wrong.stop()
    (letter,) = await place.dead_letters(topic)
    good = by(config, ALL_OF_IT)
    assert [each.outcome for each in await replayed(place, client, good, topic)] == ["accepted"]
    assert await place.dead_letters(topic) == []
    given = (await client.get(f"{topic}/{topic}/0/0")).input["order"]
    assert (given["key"], given["headers"]) == ("k\r\n ü ", {"shop": " two\r\nlines ", "none": ""})
    await put_back(client, letter)
    assert [each.outcome for each in await replayed(place, client, good, topic)] == ["existing"]
    assert await place.dead_letters(topic) == []
    # And so asks the record itself, if its offset is lost.
    await kafka.forget(f"dressage.default.{topic}", topic)
    again = connector(good)
    await again.reaches("existing_total", 1)
    await place.has_started(f"{topic}/{topic}/0/0")


async def test_an_event_of_a_letter_counts_once(
    kafka: Kafka, place: Place, connector: StartConnector
) -> None:
    topic = await kafka.topic()
    config = f"""
[[connector]]
name = "{topic}"
type = "source"
topics = ["{topic}"]
errors.tolerance = "all"
event = "order-paid"
run_id = "key"
payload = "value"
{CLIENT.format(**kafka.client)}"""
    async with place.engine() as client:
        await client.register(await_two.spec)
        run = await client.start(await_two, {}, run_id="r")
        await kafka.produce(topic, 1, key="r")
        wrong = connector(config.replace('payload = "value"', "payload = 'value[\"nothing\"]'"))
        await wrong.reaches("dead_letters_total", 1, code="EXPRESSION_FAILED")
        await wrong.stop()
        (letter,) = await place.dead_letters(topic)
        for outcome in ("accepted", "existing"):
            assert [each.outcome for each in await replayed(place, client, config, topic)] == [outcome]
            await put_back(client, letter)
        await kafka.forget(f"dressage.default.{topic}", topic)
        again = connector(config)
        await again.reaches("existing_total", 1)
        await run.post(paid, 2)
        assert await run.result(20) == [1, 2]


async def test_replays_beside_each_other_start_nothing_twice(place: Place, client: Client) -> None:
    """And beside the source itself it would be the same: the record alone says the id."""
    config = SOURCE.format(name="orders", topic="orders", bootstrap="127.0.0.1:1", session_ms=6_000)
    await client.connection.publish(Message(place.names.dead_connector("another"), b""))
    for offset in range(50):
        await client.connection.publish(letter_of(place, offset, b'{"id": %d}' % offset))
    both = await asyncio.gather(*(replayed(place, client, config, "orders") for _ in range(2)))
    outcomes = [each.outcome for one in both for each in one]
    assert set(outcomes) <= {"accepted", "existing"}
    assert len(outcomes) >= 50
    assert await place.dead_letters("orders") == []
    await place.has_started(*(f"orders/orders/0/{offset}" for offset in range(50)))


def letter_of(place: Place, offset: int, value: bytes) -> Message:
    record = Record("orders", 0, offset, b"k", value, (), 1_700_000_000_000)
    return dead_record(place.names, "orders", record, "EXPRESSION_FAILED", "KeyError: 'nothing'", 1_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "connectors.toml"
    found.write_text(SOURCE.format(name="orders", topic="orders", bootstrap="127.0.0.1:1", session_ms=6_000))
    return found


async def connect(place: Place, *words: str) -> tuple[int, str]:
    command = ["connect", *words, "--server", place.server.url]
    done = await asyncio.to_thread(CliRunner().invoke, main, command)
    return done.exit_code, done.output


async def test_letters_are_shown_and_replayed_by_what_is_deployed(
    place: Place, client: Client, file: Path
) -> None:
    good, bad = [
        (await client.connection.publish(letter_of(place, offset, value))).seq
        for offset, value in ((17, b'{"id": 1}'), (21, b"no json"))
    ]
    assert (await connect(place, "deploy", str(file)))[0] == 0
    code, shown = await connect(place, "dead", "orders")
    first = shown.splitlines()[1]
    assert (code, first.split()[:3]) == (0, [str(good), "EXPRESSION_FAILED", "orders/0/17"])
    assert first.endswith("KeyError: 'nothing'")
    code, said = await connect(place, "replay", "orders", "--all")
    taken, stays = said.splitlines()
    assert (code, taken) == (1, f"{good}: accepted")
    assert stays.startswith(f"{bad}: stays: EVENT_NOT_JSON: the record is no JSON")
    code, shown = await connect(place, "dead", "orders", "--json")
    assert (code, '"record":"orders/0/21"' in shown, "orders/0/17" in shown) == (0, True, False)
    await place.has_started("orders/orders/0/17")


def with_topic(file: Path) -> None:
    topic = 'errors.deadletterqueue.topic.name = "orders-dead"\nworkflow ='
    file.write_text(file.read_text().replace("workflow =", topic))


async def test_what_is_in_a_topic_is_told_of_and_not_replayed(
    place: Place, client: Client, file: Path
) -> None:
    with_topic(file)
    code, said = await connect(place, "replay", "orders", "--all", "--file", str(file))
    assert (code, said) == (0, "the dead letters in topic orders-dead of Kafka are not replayed\n")


async def test_a_source_takes_no_output_event(place: Place, client: Client, file: Path) -> None:
    subject = place.names.dead_connector("orders")
    seq = (await client.connection.publish(Message(subject, b"{}", {"Dressage-Event": "r/0"}))).seq
    code, said = await connect(place, "replay", "orders", "--all", "--file", str(file))
    assert (code, said) == (1, f"{seq}: stays: LETTER_UNUSABLE: it is no record of Kafka\n")
