"""What a file says of Kafka connectors: sources, from topics to runs, and sinks, from output events to topics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from dressage.connectors.connect.reading import (
    ASKING_KEYS,
    COMMON_KEYS,
    SINK_NAMES,
    AskingConfig,
    CommonConfig,
    ConnectorTable,
    SinkFormat,
)
from dressage.connectors.tables import Expression, shown

TASKS_MAX: Final = 64
"""Consumers that one process may have for a source."""

SOURCE_NAMES: Final = ("value", "key", "headers", "topic", "partition", "offset", "timestamp")

SourceFormat = Literal["json", "avro", "protobuf", "text"]

_SOURCE_KEYS: Final = (
    *COMMON_KEYS,
    *ASKING_KEYS,
    "topics",
    "kafka",
    "topics.regex",
    "errors.deadletterqueue.topic.name",
    "key.format",
    "value.descriptor",
    "value.message",
    "schema.registry",
)
_SINK_KEYS: Final = (*COMMON_KEYS, "topics", "kafka", "topic", "state.topic")

TABLES: Final = ("kafka", "schema.registry", "input", "transforms")
"""What stays a table, whatever is in it."""

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")

_OURS: Final[Mapping[str, str]] = {
    "group.id": "it is made of the namespace and the connector's name",
    "transactional.id": "it is made of the namespace and the connector's name",
    "enable.auto.commit": "an offset is committed when the engine has what it stands for",
    "enable.auto.offset.store": "an offset is committed when the engine has what it stands for",
    "enable.idempotence": "it is always on",
    "isolation.level": "what others have not committed is never read",
    "partition.assignment.strategy": "it is always cooperative-sticky",
    "auto.offset.reset": 'write start = "all" or start = "new" for the connector',
}
"""Settings of the client on which the promises rest, and why they are none of a file's."""


@dataclass(slots=True, frozen=True)
class SourceConnector(AskingConfig):
    """From topics to runs, or to external events."""

    kafka: Mapping[str, str] = field(default_factory=dict[str, str])
    """Settings of the client (librdkafka's), with secrets by name."""
    topics: tuple[str, ...] = ()
    """Names, or one pattern that begins with `^`."""
    tasks_max: int = 1
    dead_topic: str = ""
    value_format: SourceFormat = "json"
    key_format: SourceFormat = "text"
    descriptor: str = ""
    message: str = ""
    registry: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, frozen=True)
class SinkConnector(CommonConfig):
    """From output events to a topic."""

    kafka: Mapping[str, str] = field(default_factory=dict[str, str])
    """Settings of the client (librdkafka's), with secrets by name."""
    topic: str = ""
    topic_of: Expression | None = None
    """Gives each event its topic, instead of `topic`."""
    value_format: SinkFormat = "cloudevents"
    state_topic: str = ""


def read_source(table: ConnectorTable, name: str) -> SourceConnector:
    table.allow(_SOURCE_KEYS)
    asking = table.asking(SOURCE_NAMES)
    dead = _topic(table, "errors.deadletterqueue.topic.name")
    if dead and asking["tolerance"] == "none":
        table.problem(
            "errors.tolerance",
            "VALUE_INVALID",
            'must be "all" where bad records go to a topic of their own',
        )
    value_format = table.format("value.format", get_args(SourceFormat), "json")
    _formats(table, value_format)
    return SourceConnector(
        name=name,
        kafka=_client(table),
        transforms=table.transforms(SOURCE_NAMES),
        start=table.start(),
        topics=_topics(table),
        tasks_max=table.tasks(TASKS_MAX, "consumers of one process (limit connector-tasks)"),
        dead_topic=dead,
        value_format=value_format,
        key_format=table.format("key.format", get_args(SourceFormat), "text"),
        descriptor=table.text("value.descriptor"),
        message=table.text("value.message"),
        registry=_registry(table),
        **asking,
    )


def _formats(table: ConnectorTable, value_format: str) -> None:
    by_registry = "avro", "protobuf"
    if value_format in by_registry or table.values.get("key.format") in by_registry:
        if "schema.registry" not in table.values:
            table.problem(
                "schema.registry",
                "KEY_MISSING",
                'schemas are looked up in a registry: add [connector.schema.registry] with url = "http://..."',
            )
    if value_format == "protobuf":
        for key, what in (
            ("value.descriptor", "the file that protoc --descriptor_set_out --include_imports writes"),
            ("value.message", "the full name of the message, as shop.Order"),
        ):
            table.require(key, f"a record of protobuf is decoded by it: {what}")
    if table.values.get("key.format") == "protobuf":
        table.problem("key.format", "VALUE_INVALID", "keys can be text, json or avro")


def read_sink(table: ConnectorTable, name: str) -> SinkConnector:
    table.allow(_SINK_KEYS)
    topics = table.value("topics", list, 'a list of one topic, as in ["run-events"]') or []
    topic = topics[0] if topics and isinstance(topics[0], str) else ""
    if ("topics" in table.values) == ("topic" in table.values):
        table.problem("topics", "KEY_MISSING", "give topics with one name, or topic as an expression")
    elif "topics" in table.values and (len(topics) != 1 or not _TOPIC.fullmatch(topic)):
        table.problem("topics", "VALUE_INVALID", f"must be a list of one topic's name, not {shown(topics)}")
    table.one_task()
    value_format: SinkFormat = table.format("value.format", get_args(SinkFormat), "cloudevents")
    return SinkConnector(
        name=name,
        kafka=_client(table),
        transforms=table.transforms(SINK_NAMES),
        start=table.start(),
        topic=topic,
        topic_of=table.expression("topic", SINK_NAMES),
        value_format=value_format,
        state_topic=_topic(table, "state.topic"),
    )


def _topics(table: ConnectorTable) -> tuple[str, ...]:
    names = table.value("topics", list, 'a list of topics, as in ["orders"]')
    pattern = table.value("topics.regex", str, "a regular expression")
    if ("topics" in table.values) == ("topics.regex" in table.values):
        table.problem("topics", "KEY_MISSING", "give topics, or topics.regex, and not both")
    elif pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            table.problem("topics.regex", "VALUE_INVALID", f"is no regular expression: {error}")
        return (pattern if pattern.startswith("^") else f"^{pattern}",)
    elif names is not None:
        wrong = [each for each in names if not isinstance(each, str) or not _TOPIC.fullmatch(each)]
        if wrong or not names:
            table.problem("topics", "NAME_INVALID", f"must be names of topics, not {shown(wrong or names)}")
        else:
            return tuple(names)
    return ()


def _topic(table: ConnectorTable, key: str) -> str:
    topic = table.text(key)
    if topic and not _TOPIC.fullmatch(topic):
        table.problem(key, "NAME_INVALID", f"{shown(topic)} is no name of a topic")
    return topic


def _client(table: ConnectorTable) -> dict[str, str]:
    found = table.texts("kafka")
    for name in _OURS.keys() & found.keys():
        table.problem(f"kafka.{name}", "VALUE_INVALID", f"is not for a file to say: {_OURS[name]}")
    if table.require("kafka", 'add a table [connector.kafka] with "bootstrap.servers" = "host:9092"'):
        _where(table, "kafka", "bootstrap.servers", found)
    return found


def _registry(table: ConnectorTable) -> dict[str, str]:
    found = table.texts("schema.registry")
    if "schema.registry" in table.values:
        _where(table, "schema.registry", "url", found)
    return found


def _where(table: ConnectorTable, key: str, first: str, found: Mapping[str, str]) -> None:
    if first not in found:
        table.problem(f"{key}.{first}", "KEY_MISSING", "is missing: where is it?")
