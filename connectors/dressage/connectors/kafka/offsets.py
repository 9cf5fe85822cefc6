"""What Kafka has of how far connectors are: the offsets that a source has committed, and the position of a sink."""

from __future__ import annotations

import re
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from dressage.connectors.kafka.clients import admin_config, group_of, ignore, position_topic, reader_config
from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.kafka.position import read_position
from dressage.connectors.secrets import scrubbed, settings_revealed
from dressage.protocol.errors import BrokerError
from dressage.protocol.names import Names

ASK_S: Final = 10.0


def source_offsets(config: SourceConnector, names: Names) -> list[tuple[str, int | None, int]]:
    """Of each partition, as `orders/0`, the offset behind the last record that is dealt with, None before there is one,
    and its end. Raises `BrokerError`."""
    settings = settings_revealed(config.kafka)
    reader = {**reader_config(settings, names, config.name, ignore), "group.id": group_of(names, config.name)}
    consumer = Consumer(reader)
    try:
        places = _places(consumer, config)
        found: list[tuple[str, int | None, int]] = []
        for each in consumer.committed(places, timeout=ASK_S) if places else []:
            low, high = consumer.get_watermark_offsets(each, timeout=ASK_S)
            where = f"{each.topic}/{each.partition}"
            found.append((where, each.offset if each.offset >= low else None, high))
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


def sink_seq(config: SinkConnector, names: Names) -> int | None:
    """The sequence in the stream up to which all is written; None before anything is. Raises `BrokerError`."""
    settings = settings_revealed(config.kafka)
    topic = position_topic(names, config.name)
    try:
        there = topic in AdminClient(admin_config(settings)).list_topics(timeout=ASK_S).topics
        found = read_position(reader_config(settings, names, config.name, ignore), topic) if there else None
    except KafkaException as error:
        text = scrubbed(str(error.args[0].str()), settings)
        raise BrokerError(f"connector {config.name!r}: Kafka does not tell its position: {text}") from error
    return found.seq if found else None
