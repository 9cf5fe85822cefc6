"""How far connectors are: what Kafka has committed of a source, and where a sink is in the stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from dressage.brokers.interface import Connection
from dressage.connectors.kafka.clients import admin_config, group_of, ignore, position_topic, reader_config
from dressage.connectors.kafka.config import Connector, SinkConnector, SourceConnector
from dressage.connectors.kafka.position import read_position
from dressage.connectors.secrets import scrubbed, settings_revealed
from dressage.protocol.errors import BrokerError
from dressage.protocol.names import Names

ASK_S: Final = 10.0


@dataclass(slots=True, frozen=True)
class Reached:
    """`where` is a partition as `orders/0`, or the stream; `offset` is None before anything was committed."""

    connector: str
    where: str
    offset: int | None
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - (self.offset or 0))


def source_offsets(config: SourceConnector, names: Names) -> list[Reached]:
    """Of each partition, the offset behind the last record that is dealt with. Raises `BrokerError`."""
    settings = settings_revealed(config.kafka)
    reader = {**reader_config(settings, names, config.name, ignore), "group.id": group_of(names, config.name)}
    consumer = Consumer(reader)
    try:
        places = _places(consumer, config)
        found: list[Reached] = []
        for each in consumer.committed(places, timeout=ASK_S) if places else []:
            low, high = consumer.get_watermark_offsets(each, timeout=ASK_S)
            where = f"{each.topic}/{each.partition}"
            found.append(Reached(config.name, where, each.offset if each.offset >= low else None, high))
        return found
    except KafkaException as error:
        text = scrubbed(str(error.args[0].str()), settings)
        raise BrokerError(f"connector {config.name!r}: Kafka does not tell its offsets: {text}") from error
    finally:
        consumer.close()


def _places(consumer: Consumer, config: SourceConnector) -> list[TopicPartition]:
    topics = consumer.list_topics(timeout=ASK_S).topics
    pattern = re.compile(config.topics[0]) if config.topics[0].startswith("^") else None
    wanted = [name for name in topics if (pattern.match(name) if pattern else name in config.topics)]
    return [
        TopicPartition(name, partition)
        for name in sorted(wanted)
        for partition in sorted(topics[name].partitions)
    ]


async def sink_offset(config: SinkConnector, names: Names, connection: Connection) -> Reached:
    """The sequence in the stream up to which all is written. Raises `BrokerError`."""
    settings = settings_revealed(config.kafka)
    # The stream also holds positions of shards, which are no events.
    last = await connection.last_message(names.events_stream, names.all_events())
    topic = position_topic(names, config.name)
    try:
        there = topic in AdminClient(admin_config(settings)).list_topics(timeout=ASK_S).topics
        found = read_position(reader_config(settings, names, config.name, ignore), topic) if there else None
    except KafkaException as error:
        text = scrubbed(str(error.args[0].str()), settings)
        raise BrokerError(f"connector {config.name!r}: Kafka does not tell its position: {text}") from error
    return Reached(config.name, names.events_stream, found.seq if found else None, last.seq if last else 0)


async def offsets_of(config: Connector, names: Names, connection: Connection) -> list[Reached]:
    """How far one connector is. Raises `BrokerError`."""
    if isinstance(config, SourceConnector):
        return source_offsets(config, names)
    return [await sink_offset(config, names, connection)]
