"""A connector's process dies at one chosen instant, and the next one goes on without a loss or a repeat."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest
from tests.connecting import run_orders  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import SINK, SOURCE, needs_eviction  # pyright: ignore[reportMissingImports]

from dressage.client import Client

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka, StartConnector  # pyright: ignore[reportMissingImports]

PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
import confluent_kafka
from dressage.connectors.connect.config import load_connectors
from dressage.connectors.connect.runner import ConnectorRunner
from dressage.connectors.kafka import sink, source

def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def dying(kind, step, when):
    class Dying(kind):
        pass
    calls = []
    def act(self, *args, **more):
        calls.append(1)
        if when == "before":
            die()
        found = getattr(kind, step)(self, *args, **more)
        if when == "after" or when == "fourth" and len(calls) == 4:
            die()
        return found
    setattr(Dying, step, act)
    return Dying

step, when = sys.argv[3:5]
sink.Producer = dying(confluent_kafka.Producer, step, when)
source.Consumer = dying(confluent_kafka.Consumer, step, when) if step == "commit" else source.Consumer
asyncio.run(ConnectorRunner(sys.argv[1], load_connectors(Path(sys.argv[2]))).run())
"""
"""A program that runs connectors, and dies by SIGKILL at a step of the Kafka client's."""


async def died_at(place: Place, file: Path, step: str, when: str) -> None:
    program = (sys.executable, "-c", PROCESS, place.server.url, str(file), step, when)
    process = await asyncio.create_subprocess_exec(*program)
    async with asyncio.timeout(60):
        assert await process.wait() == -SIGKILL


@pytest.mark.parametrize(
    ("step", "when"),
    [
        ("begin_transaction", "after"),
        ("produce", "fourth"),
        ("commit_transaction", "before"),
        ("commit_transaction", "after"),
    ],
)
async def test_a_sink_that_dies_writes_every_event_once(
    kafka: Kafka,
    place: Place,
    client: Client,
    connector: StartConnector,
    tmp_path: Path,
    step: str,
    when: str,
) -> None:
    needs_eviction(kafka)
    topic = await kafka.topic()
    config = SINK.format(name=topic, topic=topic, **kafka.client)
    file = tmp_path / "sink.toml"
    file.write_text(config)
    await run_orders(client, 4)
    events = await place.events(4)
    await died_at(place, file, step, when)
    # Its first transaction may have had fewer events than there were: what was committed by then is not sent again.
    committed = len(await kafka.read(topic))
    assert committed < len(events) or (step, when) == ("commit_transaction", "after")
    running = connector(config)
    await running.reaches("active", 1)
    await run_orders(client, 1, first=4)
    events = await place.events(5)
    await running.reaches("records_total", len(events) - committed)
    assert Counter(each.value() for each in await kafka.read(topic)) == Counter(each.data for each in events)


async def test_a_source_that_dies_before_it_commits_starts_nothing_twice(
    kafka: Kafka, place: Place, client: Client, connector: StartConnector, tmp_path: Path
) -> None:
    needs_eviction(kafka)
    topic = await kafka.topic()
    config = SOURCE.format(name=topic, topic=topic, **kafka.client)
    file = tmp_path / "source.toml"
    file.write_text(config)
    await kafka.produce(topic, *({"id": number} for number in range(20)))
    await died_at(place, file, "commit", "before")
    assert await kafka.committed(f"dressage.default.{topic}", topic) == 0
    running = connector(config)

    await running.reaches("records_total", 20)
    await place.has_started(*(f"{topic}/{topic}/0/{offset}" for offset in range(20)))
    await running.stop()
    assert await kafka.committed(f"dressage.default.{topic}", topic) == 20
