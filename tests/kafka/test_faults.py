"""Connectors, Kafka and NATS are killed under load: every record has one run, every event is in the topic once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.connecting import eventually, workflow  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import SINK, SOURCE, needs_eviction  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka  # pyright: ignore[reportMissingImports]

LONG = os.environ.get("FAULTS_LONG") == "1"
ROUNDS = 12 if LONG else 1
RECORDS = 1_500 * ROUNDS
KEYS = 40
PARTITIONS = 4


class Processes:
    """Processes of `dressage`, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self.kills: Counter[str] = Counter()

    async def start(self, name: str, *arguments: str) -> None:
        program = (sys.executable, "-m", "dressage.cli.main", *arguments)
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(*program, stdout=log, stderr=log)

    async def kill(self, name: str) -> None:
        process = self._running.pop(name)
        assert process.returncode is None, f"{name} has ended by itself: {self.log(name)}"
        process.kill()
        await process.wait()
        self.kills[name.partition("-")[0]] += 1

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-2_000:]

    async def end(self) -> None:
        for process in self._running.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    running = Processes(tmp_path)
    yield running
    await running.end()


async def produced(kafka: Kafka, topic: str) -> None:
    """Every record is in Kafka once, whatever becomes of the broker: the client is idempotent, and patient."""
    for first in range(0, RECORDS, 50):
        for number in range(first, first + 50):
            kafka.hand_over(topic, {"id": number}, str(number % KEYS))
        await kafka.flushed()
        await asyncio.sleep(0.05)


@pytest.mark.faults
@pytest.mark.timeout(1_800 if LONG else 240)
async def test_kills_of_everything_lose_and_double_nothing(
    kafka: Kafka, place: Place, server: EmbeddedServer, processes: Processes, tmp_path: Path
) -> None:
    broker = kafka.broker
    needs_eviction(kafka)
    chance = random.Random(11)
    orders, out = await kafka.topic(PARTITIONS), await kafka.topic(PARTITIONS)
    source, sink = tmp_path / "source.toml", tmp_path / "sink.toml"
    source.write_text(SOURCE.format(name="orders", topic=orders, **kafka.client))
    sink.write_text(SINK.format(name="out", topic=out, **kafka.client))
    async with place.engine(workflow()):
        pass
    await processes.start("orchestrator", "orchestrator", "--server", server.url)
    runs = {"source-1": source, "source-2": source, "sink-1": sink, "sink-2": sink}

    async def start(name: str) -> None:
        await processes.start(name, "connect", "run", str(runs[name]), "--server", server.url)

    for name in runs:
        await start(name)
    producing = asyncio.create_task(produced(kafka, orders))
    group = "dressage.default.orders"

    async def reached(count: int) -> None:
        async def so_far() -> bool:
            return await kafka.committed(group, orders, PARTITIONS) >= count

        await eventually(so_far, f"{count} records are committed")

    for number in range(ROUNDS):
        await reached(number * RECORDS // (ROUNDS + 1) + RECORDS // 10)
        for name in chance.sample(list(runs), len(runs)):
            await asyncio.sleep(chance.random() * 0.5)
            await processes.kill(name)
            await start(name)
        if broker.can_restart:
            how = broker.kill if number % 2 == 0 else broker.stop
            await asyncio.to_thread(how)
            await asyncio.to_thread(broker.start)
            processes.kills["kafka"] += 1
        await asyncio.sleep(chance.random())
        await server.stop()
        await server.start()
        processes.kills["nats"] += 1
        await asyncio.sleep(chance.random())
        await processes.kill("orchestrator")
        await processes.start("orchestrator", "orchestrator", "--server", server.url)
    await producing
    await reached(RECORDS)
    print(f"killed under load: {dict(processes.kills)}; {RECORDS} records")

    wanted = [
        f"orders/{each.topic()}/{each.partition()}/{each.offset()}" for each in await kafka.read(orders)
    ]
    assert len(wanted) == RECORDS
    await place.has_started(*wanted)
    events = await place.events(RECORDS)
    await in_topic(kafka, out, len(events))
    found = await kafka.read(out)
    assert Counter(each.value() for each in found) == Counter(each.data for each in events)
    by_run: dict[str, list[int]] = defaultdict(list)
    for each in found:
        by_run[each.key().decode()].append(msgspec.json.decode(each.value())["index"])
    assert all(indexes == sorted(indexes) for indexes in by_run.values())
    assert await keys_in_order(place, kafka, orders)


async def in_topic(kafka: Kafka, topic: str, count: int) -> None:
    async def all_there() -> bool:
        return len(await kafka.read(topic)) >= count

    await eventually(all_there, f"{count} events are in the topic")


async def keys_in_order(place: Place, kafka: Kafka, topic: str) -> bool:
    """Whether the runs of each key were started in the order of their records."""
    keys = {
        f"orders/{topic}/{each.partition()}/{each.offset()}": each.key() for each in await kafka.read(topic)
    }
    started: dict[bytes, list[int]] = defaultdict(list)
    for run_id in await place.started_in_order():
        started[keys[run_id]].append(int(run_id.rpartition("/")[2]))
    return len(started) == KEYS and all(offsets == sorted(offsets) for offsets in started.values())
