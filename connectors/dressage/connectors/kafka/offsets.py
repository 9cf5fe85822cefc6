"""What Kafka has of how far connectors are: the offsets that a source has committed, and the position of a sink."""

from __future__ import annotations

import re
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from dressage.connectors.kafka.causes import Causes, KafkaAway, topics_of
from dressage.connectors.kafka.clients import admin_config, group_of, position_topic, reader_config
from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.kafka.position import read_position
from dressage.connectors.secrets import settings_revealed
from dressage.protocol.names import Names

ASK_S: Final = 10.0


def source_offsets(config: SourceConnector, names: Names) -> list[tuple[str, int | None, int]]:
    """Of each partition, as `orders/0`, the offset behind the last record that is dealt with, None before there is one,
    and its end. Raises `KafkaAway`."""
    settings = settings_revealed(config.kafka)
    causes = Causes(settings)
    reader = reader_config(settings, names, config.name, causes.note)
    try:
        consumer = Consumer({**reader, "group.id": group_of(names, config.name)})
    except KafkaException as error:  # as of a file of certificates that is not there
        raise _untold(config.name, causes.explained(error.args[0])) from error
    try:
        places = _places(consumer, config, causes)
        found: list[tuple[str, int | None, int]] = []
        for each in consumer.committed(places, timeout=ASK_S) if places else []:
            low, high = consumer.get_watermark_offsets(each, timeout=ASK_S)
            where = f"{each.topic}/{each.partition}"
            found.append((where, each.offset if each.offset >= low else None, high))
        return found
    except KafkaException as error:
        raise _untold(config.name, causes.explained(error.args[0])) from error
    finally:
        consumer.close()


def _places(consumer: Consumer, config: SourceConnector, causes: Causes) -> list[TopicPartition]:
    topics = topics_of(consumer, causes, ASK_S)
    pattern = re.compile(config.topics[0]) if config.topics[0].startswith("^") else None
    wanted = [name for name in topics if (pattern.match(name) if pattern else name in config.topics)]
    return [
        TopicPartition(name, partition)
        for name in sorted(wanted)
        for partition in sorted(topics[name].partitions)
    ]


def sink_seq(config: SinkConnector, names: Names) -> int | None:
    """The sequence in the stream up to which all is written; None before anything is. Raises `KafkaAway`."""
    settings = settings_revealed(config.kafka)
    causes = Causes(settings)
    topic = position_topic(names, config.name)
    try:
        there = topic in topics_of(AdminClient(admin_config(settings, causes.note)), causes, ASK_S)
        reader = reader_config(settings, names, config.name, causes.note)
        found = read_position(reader, topic) if there else None
    except KafkaException as error:
        raise _untold(config.name, causes.explained(error.args[0])) from error
    return found.seq if found else None


def _untold(connector: str, away: KafkaAway) -> KafkaAway:
    return KafkaAway(f"connector {connector!r}: {away.message}", code=away.code)
