"""Where a sink is in the stream of output events, kept in Kafka itself.

A sink's position is a record of a compacted topic with one partition, written in the same transaction as the events up
to it: whatever a reader of committed records sees of the events, it sees of the position. Offsets of a consumer group
would do the same, but are forgotten when nobody has committed for a week.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dressage.connectors.kafka.causes import Causes, topics_of

KEY: Final = b"position"
READ_S: Final = 30.0
SEGMENT_BYTES: Final = 4 * 1024 * 1024

_CONFIG: Final = {
    "cleanup.policy": "compact",
    "segment.bytes": str(SEGMENT_BYTES),
    "min.cleanable.dirty.ratio": "0.1",
}


class Position(msgspec.Struct, frozen=True):
    """`seq` is the sequence in the stream up to which everything is written; `created` tells the stream from another
    one of the same name."""

    stream: str
    created: str
    seq: int


_decode = msgspec.json.Decoder(Position).decode
encode = msgspec.json.Encoder().encode


def ensure_topic(admin: AdminClient, topic: str, causes: Causes) -> None:
    """Makes the topic, unless it is there. Raises `KafkaException`."""
    if topic in topics_of(admin, causes, READ_S):
        return
    made = admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=-1, config=_CONFIG)])
    try:
        made[topic].result(READ_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def read_position(config: dict[str, Any], topic: str) -> Position | None:
    """The last position that was committed; None if there is none. Raises `KafkaException`.

    Nothing of the sink may be in doubt: its transactional id has been taken over before.
    """
    consumer = Consumer(config)
    found: Position | None = None
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while True:
            message = consumer.poll(READ_S)
            if message is None:
                raise KafkaException(
                    KafkaError(KafkaError._TIMED_OUT, f"topic {topic} is not read to its end")
                )
            error = message.error()
            if error is None:
                value = message.value()
                if message.key() == KEY and value:
                    found = _decode(value)
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
            elif not error.retriable():
                raise KafkaException(error)
    finally:
        consumer.close()
