"""A Kafka broker, an engine and connectors between them; all of them real."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.connecting import DEADLINE_S, QUICK, Place, Running, workflow  # pyright: ignore[reportMissingImports]
from tests.kafka.broker import Broker, quiet, start_broker  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client
from dressage.connectors.connect.options import ConnectorOptions

CLIENT = """
[connector.kafka]
"bootstrap.servers" = "{bootstrap}"
"session.timeout.ms" = {session_ms}
"heartbeat.interval.ms" = 300
"""

SOURCE = (
    """
[[connector]]
name = "{name}"
type = "source"
topics = ["{topic}"]
errors.tolerance = "all"
workflow = "take-order"

[connector.input]
order = "value"
"""
    + CLIENT
)

SINK = (
    """
[[connector]]
name = "{name}"
type = "sink"
topics = ["{topic}"]
"""
    + CLIENT
)

_numbers = itertools.count()


class Kafka:
    """What a test sees of Kafka, from outside."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._producer: Producer | None = None

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap

    @property
    def client(self) -> dict[str, Any]:
        """What the settings of a connector's client are made of."""
        return {"bootstrap": self.bootstrap, "session_ms": self.broker.session_ms}

    async def topic(self, partitions: int = 1, **config: str) -> str:
        """A new topic of this test's own."""
        name = f"t{next(_numbers)}-{time.time_ns() % 10**9}"
        await self.create(name, partitions, **config)
        return name

    async def create(self, name: str, partitions: int = 1, **config: str) -> None:
        await asyncio.to_thread(self._create, name, partitions, config)

    def _create(self, name: str, partitions: int, config: dict[str, str]) -> None:
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin = self.admin()  # as long as it is waited for
        made = admin.create_topics([NewTopic(name, partitions, 1, config=settings)])
        made[name].result(30)

    def admin(self) -> AdminClient:
        return AdminClient(quiet(self.bootstrap))

    async def produce(self, topic: str, *records: Any, key: str | None = None, **more: Any) -> None:
        """Records are JSON, unless they are bytes; returns when Kafka has them."""
        await asyncio.to_thread(self._produce, topic, records, key, more)

    def _produce(self, topic: str, records: Iterable[Any], key: str | None, more: Mapping[str, Any]) -> None:
        for record in records:
            value = record if isinstance(record, bytes) or record is None else msgspec.json.encode(record)
            self.hand_over(topic, value, key, **more)
        self._flush()

    def hand_over(self, topic: str, value: Any, key: str | None = None, **more: Any) -> None:
        """Gives one record to the client, which sends it behind those before, once, however often it has to try."""
        if self._producer is None:
            settings = {"enable.idempotence": True, "linger.ms": 2, "message.timeout.ms": 300_000}
            self._producer = Producer(quiet(self.bootstrap, **settings))
        data = value if isinstance(value, bytes) or value is None else msgspec.json.encode(value)
        self._producer.produce(topic, data, key, **more)

    async def flushed(self) -> None:
        await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        assert self._producer is not None
        assert self._producer.flush(120) == 0

    async def read(self, topic: str) -> list[Any]:
        """Every committed message of a topic, those of each partition in their order."""
        return await asyncio.to_thread(self._read, topic)

    def _read(self, topic: str) -> list[Any]:
        config = quiet(self.bootstrap, **{"group.id": "test-reader", "enable.partition.eof": True})
        consumer = Consumer({**config, "isolation.level": "read_committed", "auto.offset.reset": "earliest"})
        found: list[Any] = []
        try:
            partitions = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, each, 0) for each in partitions])
            ended = 0
            deadline = time.monotonic() + DEADLINE_S
            while ended < len(partitions):
                assert time.monotonic() < deadline, f"topic {topic} is not read to its end"
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended += 1
        finally:
            consumer.close()
        return found

    async def committed(self, group: str, topic: str, partitions: int = 1) -> int:
        """The sum of the offsets that a group has committed."""
        return await asyncio.to_thread(self._committed, group, topic, partitions)

    def _committed(self, group: str, topic: str, partitions: int) -> int:
        consumer = Consumer(quiet(self.bootstrap, **{"group.id": group}))
        try:
            found = consumer.committed(
                [TopicPartition(topic, each) for each in range(partitions)], timeout=30
            )
        finally:
            consumer.close()
        return sum(max(0, each.offset) for each in found)

    async def members(self, group: str) -> int:
        """How many consumers are in a group."""
        return await asyncio.to_thread(self._members, group)

    def _members(self, group: str) -> int:
        admin = self.admin()
        return len(admin.describe_consumer_groups([group])[group].result(30).members)

    async def forget(self, group: str, topic: str, partitions: int = 1) -> None:
        """Sets the offsets of a group, in which there is nobody, back to the beginning."""
        await asyncio.to_thread(self._forget, group, topic, partitions)

    def _forget(self, group: str, topic: str, partitions: int) -> None:
        admin = self.admin()
        offsets = ConsumerGroupTopicPartitions(
            group, [TopicPartition(topic, each, 0) for each in range(partitions)]
        )
        for changed in admin.alter_consumer_group_offsets([offsets]).values():
            changed.result(30)


StartConnector = Callable[..., Running]


def needs_eviction(kafka: Kafka) -> None:
    """Skips a test in which members of a group end together, or are killed, where the broker keeps them for ever."""
    if not kafka.broker.evicts:
        pytest.skip(
            f"{kafka.broker.described}: it keeps members that are gone, and gives nobody their partitions"
        )


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One for the whole session."""
    found = start_broker(tmp_path_factory.mktemp("kafka"))
    if isinstance(found, str):
        pytest.skip(f"there is no Kafka: {found}")
    print(f"\nKafka tests run on {found.described}")
    yield found
    found.stop()


@pytest.fixture
def kafka(broker: Broker) -> Kafka:
    return Kafka(broker)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        yield server


@pytest.fixture
async def place(server: EmbeddedServer) -> Place:
    return Place(server)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    """The engine, with the workflow that the usual source starts."""
    async with place.engine(workflow()) as client:
        yield client


@pytest.fixture
async def connector(server: EmbeddedServer) -> AsyncIterator[StartConnector]:
    """Starts processes of connectors, which are stopped at the end."""
    running: list[Running] = []

    def start(config: str, options: ConnectorOptions = QUICK) -> Running:
        running.append(Running(server.url, config, options))
        return running[-1]

    yield start
    for each in running:
        each.runner.stop()
    await asyncio.gather(*(each.task for each in running), return_exceptions=True)
