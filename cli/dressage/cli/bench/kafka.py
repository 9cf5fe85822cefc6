"""Records of Kafka that become runs, and their output events that become records: how many in a second of each."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import click
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import idle
from dressage.cli.children import Child, dressage

GOAL_PER_S: Final = 8_000
RECORDS: Final = 30_000
PARTITIONS: Final = 4
PATIENCE_S: Final = 300.0

_SOURCE: Final = """
[[connector]]
name = "{name}"
type = "source"
topics = ["{topic}"]
workflow = "{workflow}"
kafka = {{ "bootstrap.servers" = "{bootstrap}" }}
"""
_SINK: Final = """
[[connector]]
name = "{name}"
type = "sink"
topics = ["{topic}"]
kafka = {{ "bootstrap.servers" = "{bootstrap}" }}
"""


async def measure_kafka(bootstrap: str) -> dict[str, Any]:
    """Both ways through the Kafka of this address, in topics of its own, which are removed in the end."""
    name = f"bench-{time.time_ns() // 1_000_000}"
    topics, position = (f"{name}-in", f"{name}-out"), f"dressage.default.{name}-out.position"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    made = admin.create_topics([NewTopic(each, PARTITIONS, 1) for each in topics])
    for each in made.values():
        await asyncio.wrap_future(each)
    try:
        await asyncio.to_thread(_produce, bootstrap, topics[0])
        async with started_engine() as (url, _, client, _):
            await client.register(idle)
            text = _SOURCE.format(name=f"{name}-in", topic=topics[0], workflow=idle.name, bootstrap=bootstrap)
            async with _connector(text, url):
                source = await _rate(
                    lambda: _committed(bootstrap, f"dressage.default.{name}-in", topics[0]), RECORDS
                )
            text = _SINK.format(name=f"{name}-out", topic=topics[1], bootstrap=bootstrap)
            async with _connector(text, url):
                sink = await _rate(lambda: _stored(bootstrap, topics[1]), RECORDS)
    finally:
        for each in admin.delete_topics([*topics, position]).values():
            with contextlib.suppress(Exception):
                await asyncio.wrap_future(each)
    return {
        "records": RECORDS,
        "source_per_s": source,
        "sink_per_s": sink,
        "goal_per_s": GOAL_PER_S,
        "met": min(source, sink) >= GOAL_PER_S,
    }


def show_kafka(report: dict[str, Any]) -> None:
    click.echo("\n".join(f"{name}: {figure}" for name, figure in report.items()))


@asynccontextmanager
async def _connector(config: str, url: str) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        file = Path(folder) / "connectors.toml"
        file.write_text(config)
        command = dressage("connect", "run", str(file), "--server", url)
        async with Child("connector", command, Path(folder), Path(folder)):
            yield


async def _rate(reached: Callable[[], int], wanted: int) -> int:
    """Per second, from the first that is seen to be done, so that no start is measured, to the last one wanted."""
    deadline = time.monotonic() + PATIENCE_S
    first, began = 0, 0.0
    while time.monotonic() < deadline:
        count, now = await asyncio.to_thread(reached), time.monotonic()
        if count and not first:
            first, began = count, now
        if count >= wanted:
            return round((count - first) / (now - began)) if now > began else 0
        await asyncio.sleep(0.05)
    raise click.ClickException(f"not done within {PATIENCE_S:g} s")


def _produce(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    for number in range(RECORDS):
        producer.produce(topic, b'{"number": %d}' % number, str(number))
        if number % 1_000 == 0:
            producer.poll(0)
    producer.flush(60)


def _committed(bootstrap: str, group: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        found = consumer.committed([TopicPartition(topic, each) for each in range(PARTITIONS)], timeout=30)
        return sum(max(0, each.offset) for each in found)
    finally:
        consumer.close()


def _stored(bootstrap: str, topic: str) -> int:
    """What is committed of a topic, a few markers of transactions among it."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "bench", "isolation.level": "read_committed"}
    )
    try:
        places = [TopicPartition(topic, each) for each in range(PARTITIONS)]
        return sum(consumer.get_watermark_offsets(each, timeout=30)[1] for each in places)
    finally:
        consumer.close()
