"""The configurations of the Kafka clients: what a file says, with what the promises rest on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.secrets import scrubbed, settings_revealed
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

log: Final = logging.getLogger("dressage.connectors.kafka")

SESSION_MS: Final = 10_000
"""After so long without a sign of life another process has what a dead one had."""

METADATA_MS: Final = 10_000
"""How often it is looked whether there are new topics and partitions."""

OnError = Callable[[Any], None]


def group_of(names: Names, connector: str) -> str:
    """The consumer group of a connector: the processes of it that share the work, or stand by."""
    return f"dressage.{names.namespace}.{connector}"


def position_topic(names: Names, connector: str) -> str:
    """The compacted topic in which a sink keeps its place in the stream."""
    return f"dressage.{names.namespace}.{connector}.position"


def consumer_config(
    settings: Mapping[str, str], names: Names, source: SourceConnector, on_error: OnError
) -> dict[str, Any]:
    return {
        "session.timeout.ms": SESSION_MS,
        "topic.metadata.refresh.interval.ms": METADATA_MS,
        "client.id": f"dressage-{source.name}",
        **settings,
        **_quiet(on_error),
        "group.id": group_of(names, source.name),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "auto.offset.reset": "earliest" if source.start == "all" else "latest",
    }


def standby_config(
    settings: Mapping[str, str], names: Names, sink: SinkConnector, on_error: OnError
) -> dict[str, Any]:
    """The consumer whose one partition says which process of a sink is the active one."""
    return {
        "session.timeout.ms": SESSION_MS,
        "client.id": f"dressage-{sink.name}-standby",
        **settings,
        **_quiet(on_error),
        "group.id": group_of(names, sink.name),
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "auto.offset.reset": "latest",
    }


def reader_config(
    settings: Mapping[str, str], names: Names, connector: str, on_error: OnError
) -> dict[str, Any]:
    """A consumer that looks at a topic from its beginning, and is no member of a group that anybody else is in."""
    return {
        **{key: value for key, value in settings.items() if key != "group.instance.id"},
        **_quiet(on_error),
        "group.id": f"{group_of(names, connector)}.reader",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    }


def admin_config(settings: Mapping[str, str], on_error: OnError) -> dict[str, Any]:
    mine = {key: value for key, value in settings.items() if not _is_consumers(key)}
    return {**mine, "log_level": 0, "error_cb": on_error}


def producer_config(
    settings: Mapping[str, str], names: Names, connector: str, on_error: OnError, *, transactional: bool
) -> dict[str, Any]:
    """Without a transaction it is for dead letters."""
    mine = {key: value for key, value in settings.items() if not _is_consumers(key)}
    return {
        "client.id": f"dressage-{connector}",
        "compression.type": "lz4",
        "linger.ms": 5,
        **mine,
        **_quiet(on_error),
        "enable.idempotence": True,
        **({"transactional.id": group_of(names, connector)} if transactional else {}),
    }


_CONSUMERS: Final = ("group.", "session.", "max.poll.", "fetch.", "queued.", "heartbeat.", "check.crcs")


def _is_consumers(key: str) -> bool:
    return key.startswith(_CONSUMERS)


def _quiet(on_error: OnError) -> dict[str, Any]:
    """What the client thinks of broken connections goes to our log, not to the terminal."""
    return {"logger": log, "error_cb": on_error}


def check_client(connector: SourceConnector | SinkConnector) -> None:
    """Raises `BadInput` for settings that the client refuses, or a secret that is not there. Connects to nothing."""
    from confluent_kafka import Consumer, KafkaException, Producer

    settings = settings_revealed(connector.kafka)
    names = Names()
    try:
        if isinstance(connector, SourceConnector):
            Consumer(consumer_config(settings, names, connector, ignore)).close()
        else:
            Producer(producer_config(settings, names, connector.name, ignore, transactional=False))
    except (KafkaException, ValueError, TypeError) as error:
        text = scrubbed(str(error), settings)
        raise BadInput(
            f"connector {connector.name!r}: the Kafka client refuses its settings: {text}"
        ) from error


def ignore(_: object) -> None:
    """An `OnError` of a client that is asked once, and tells by its answer."""
    return
