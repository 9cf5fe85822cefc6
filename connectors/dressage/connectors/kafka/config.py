"""The file that declares Kafka connectors: TOML with one `[[connector]]` table for each.

The keys are those that users of Kafka Connect know, and a dotted key may also be a table: `tasks.max = 2` and
`tasks = { max = 2 }` say the same. Everything that is wrong with a file is told at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from dressage.connectors.kafka.transforms import TransformConfig, TransformType
from dressage.connectors.secrets import SECRET, is_sensitive
from dressage.connectors.tables import ConfigInvalid, Expression, Problem, Table, read_text, read_toml, shown
from dressage.protocol.errors import BadInput
from dressage.protocol.versions import VersionRef, check_ref

TASKS_MAX: Final = 64
"""Consumers that one process may have for a source."""

SOURCE_NAMES: Final = ("value", "key", "headers", "topic", "partition", "offset", "timestamp")
SINK_NAMES: Final = ("value", "key", "kind", "workflow")

SourceFormat = Literal["json", "avro", "protobuf", "text"]
SinkFormat = Literal["cloudevents", "cloudevents-binary", "json"]
Tolerance = Literal["none", "all"]
Start = Literal["all", "new"]

_COMMON_KEYS: Final = ("name", "type", "topics", "tasks.max", "transforms", "kafka", "start", "value.format")
_SOURCE_KEYS: Final = (
    *_COMMON_KEYS,
    "topics.regex",
    "errors.tolerance",
    "errors.deadletterqueue.topic.name",
    "key.format",
    "value.descriptor",
    "value.message",
    "schema.registry",
    "workflow",
    "version",
    "run_id",
    "input",
    "event",
    "correlation_key",
    "payload",
)
_SINK_KEYS: Final = (*_COMMON_KEYS, "topic", "state.topic")
_TABLES: Final = ("kafka", "schema.registry", "input", "transforms")
"""What stays a table, whatever is in it."""

_TRANSFORM_KEYS: Final[Mapping[TransformType, tuple[str, ...]]] = {
    "filter": ("name", "type", "condition"),
    "select": ("name", "type", "fields"),
    "rename": ("name", "type", "fields"),
    "constant": ("name", "type", "field", "value"),
    "expression": ("name", "type", "field", "expression"),
}
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

_T = TypeVar("_T")


@dataclass(slots=True, frozen=True)
class _Common:
    name: str
    kafka: Mapping[str, str]
    """Settings of the client (librdkafka's), with secrets by name."""
    transforms: tuple[TransformConfig, ...] = ()
    start: Start = "all"
    """Where a new connector begins; asked once."""


@dataclass(slots=True, frozen=True)
class SourceConnector(_Common):
    """From topics to runs, or to external events: exactly one of `workflow` and `event` is there."""

    topics: tuple[str, ...] = ()
    """Names, or one pattern that begins with `^`."""
    tasks_max: int = 1
    tolerance: Tolerance = "none"
    dead_topic: str = ""
    value_format: SourceFormat = "json"
    key_format: SourceFormat = "text"
    descriptor: str = ""
    message: str = ""
    registry: Mapping[str, str] = field(default_factory=dict[str, str])
    workflow: str = ""
    version: VersionRef | None = None
    run_id: Expression | None = None
    input: Mapping[str, Expression] = field(default_factory=dict[str, Expression])
    event: str = ""
    correlation_key: Expression | None = None
    payload: Expression | None = None


@dataclass(slots=True, frozen=True)
class SinkConnector(_Common):
    """From output events to a topic."""

    topic: str = ""
    topic_of: Expression | None = None
    """Gives each event its topic, instead of `topic`."""
    value_format: SinkFormat = "cloudevents"
    state_topic: str = ""


Connector = SourceConnector | SinkConnector


def load_connectors(path: Path) -> list[Connector]:
    """The connectors that a file declares. Raises `ConfigInvalid` with everything that is wrong with it."""
    return parse_connectors(read_text(path), path.name)


def parse_connectors(text: str, file: str = "connectors.toml") -> list[Connector]:
    """The connectors that `text` declares; `file` is its name in errors. Raises `ConfigInvalid`."""
    document = read_toml(text, file)
    reading = _Reading(file)
    found = list(reading.connectors(document))
    if reading.problems:
        raise ConfigInvalid(reading.problems)
    return found


def connector_tables(text: str) -> dict[str, dict[str, Any]]:
    """The tables of a file that `parse_connectors` takes, by name, as they are written: no secret is in them."""
    return {table["name"]: table for table in tomllib.loads(text)["connector"]}


def connector_of(table: Mapping[str, Any], file: str) -> Connector:
    """The connector that one table declares. Raises `ConfigInvalid`."""
    reading = _Reading(file)
    found = list(reading.connectors({"connector": [dict(table)]}))
    if reading.problems:
        raise ConfigInvalid(reading.problems)
    return found[0]


class _Reading:
    """The reading of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._names: set[str] = set()

    def connectors(self, document: Mapping[str, Any]) -> Iterator[Connector]:
        """What can be read of them; only when there are no `problems` are they as the file says."""
        _Table(self, document, "the file").allow(["connector"])
        tables = document.get("connector")
        if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
            self.problems.append(
                Problem(self.file, "connector", "KEY_MISSING", "declare each one in a table [[connector]]")
            )
            return
        for number, table in enumerate(tables, 1):
            name = table.get("name")
            where = f'connector "{name}"' if isinstance(name, str) else f"connector number {number}"
            yield self._connector(_Table(self, _flat(table), where))

    def _connector(self, table: _Table) -> Connector:
        kind = table.choice("type", ("source", "sink"), required=True)
        table.allow(_SINK_KEYS if kind == "sink" else _SOURCE_KEYS)
        name = table.name("name", "connector")
        if name and name in self._names:
            table.problem("name", "NAME_TAKEN", "another connector of this file has this name")
        self._names.add(name)
        return self._sink(table, name) if kind == "sink" else self._source(table, name)

    def _source(self, table: _Table, name: str) -> SourceConnector:
        starts = "workflow" in table.values
        if starts == ("event" in table.values):
            table.problem(
                "workflow", "KEY_MISSING", "give a workflow to start, or an event to post, and not both"
            )
        if not starts and ("run_id" in table.values) == ("correlation_key" in table.values):
            table.problem(
                "run_id",
                "KEY_MISSING",
                "an event goes to a run_id, or to a correlation_key: give one of them",
            )
        for key in ("event", "payload", "correlation_key") if starts else ("workflow", "version", "input"):
            if key in table.values and key != "event":
                table.problem(key, "KEY_UNKNOWN", f"has no place beside {'workflow' if starts else 'event'}")
        dead = table.topic("errors.deadletterqueue.topic.name")
        tolerance: Tolerance = "all" if table.choice("errors.tolerance", ("none", "all")) == "all" else "none"
        if dead and tolerance == "none":
            table.problem(
                "errors.tolerance",
                "VALUE_INVALID",
                'must be "all" where bad records go to a topic of their own',
            )
        value_format = table.format("value.format", get_args(SourceFormat), "json")
        self._formats(table, value_format)
        return SourceConnector(
            name=name,
            kafka=table.settings("kafka"),
            transforms=self._transforms(table, SOURCE_NAMES),
            start=table.start(),
            topics=self._topics(table),
            tasks_max=table.tasks(TASKS_MAX, "consumers of one process (limit connector-tasks)"),
            tolerance=tolerance,
            dead_topic=dead,
            value_format=value_format,
            key_format=table.format("key.format", get_args(SourceFormat), "text"),
            descriptor=table.text("value.descriptor"),
            message=table.text("value.message"),
            registry=table.settings("schema.registry", needed=False),
            workflow=table.name("workflow", "workflow") if starts else "",
            version=table.version(),
            run_id=table.expression("run_id", SOURCE_NAMES),
            input=table.expressions("input", SOURCE_NAMES),
            event="" if starts or "event" not in table.values else table.name("event", "event"),
            correlation_key=table.expression("correlation_key", SOURCE_NAMES),
            payload=table.expression("payload", SOURCE_NAMES),
        )

    def _formats(self, table: _Table, value_format: str) -> None:
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

    def _sink(self, table: _Table, name: str) -> SinkConnector:
        topics = table.value("topics", list, 'a list of one topic, as in ["run-events"]') or []
        topic = topics[0] if topics and isinstance(topics[0], str) else ""
        if ("topics" in table.values) == ("topic" in table.values):
            table.problem("topics", "KEY_MISSING", "give topics with one name, or topic as an expression")
        elif "topics" in table.values and (len(topics) != 1 or not _TOPIC.fullmatch(topic)):
            table.problem(
                "topics", "VALUE_INVALID", f"must be a list of one topic's name, not {shown(topics)}"
            )
        table.tasks(1, "a sink is one task, as events keep their order: start more processes for stand-by")
        value_format: SinkFormat = table.format("value.format", get_args(SinkFormat), "cloudevents")
        return SinkConnector(
            name=name,
            kafka=table.settings("kafka"),
            transforms=self._transforms(table, SINK_NAMES),
            start=table.start(),
            topic=topic,
            topic_of=table.expression("topic", SINK_NAMES),
            value_format=value_format,
            state_topic=table.topic("state.topic"),
        )

    def _topics(self, table: _Table) -> tuple[str, ...]:
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
                table.problem(
                    "topics", "NAME_INVALID", f"must be names of topics, not {shown(wrong or names)}"
                )
            else:
                return tuple(names)
        return ()

    def _transforms(self, table: _Table, names: tuple[str, ...]) -> tuple[TransformConfig, ...]:
        steps = table.value("transforms", list, "a list of tables [[connector.transforms]]") or []
        found: list[TransformConfig] = []
        for number, values in enumerate(steps, 1):
            if not isinstance(values, dict):
                table.problem(
                    "transforms", "VALUE_INVALID", "declare each in a table [[connector.transforms]]"
                )
                continue
            name = values.get("name")
            which = f'transform "{name}"' if isinstance(name, str) else f"transform {number}"
            found.append(self._transform(_Table(self, values, f"{table.where}: {which}"), names))
        return tuple(found)

    def _transform(self, step: _Table, names: tuple[str, ...]) -> TransformConfig:
        name = step.name("name", "transform")
        kinds = get_args(TransformType)
        kind: TransformType = step.choice("type", kinds, required=True) or "filter"  # type: ignore[assignment]
        if step.values.get("type") in kinds:
            step.allow(_TRANSFORM_KEYS[kind])
            for key in _TRANSFORM_KEYS[kind]:
                if key != "field" or kind != "expression":
                    step.require(key, f"a transform of type {kind} needs it")
        text = "condition" if kind == "filter" else "expression"
        return TransformConfig(
            name=name,
            type=kind,
            expression=step.expression(text, names),
            field=step.text("field"),
            value=step.values.get("value"),
            fields=self._fields(step, kind),
        )

    def _fields(self, step: _Table, kind: TransformType) -> Mapping[str, str]:
        given = step.values.get("fields")
        if kind == "select" and isinstance(given, list) and all(isinstance(each, str) for each in given):
            return {each: each for each in given}
        if (
            kind == "rename"
            and isinstance(given, dict)
            and all(isinstance(each, str) for each in given.values())
        ):
            return given
        if kind in ("select", "rename") and given is not None:
            form = '["id", "total"]' if kind == "select" else '{ old = "new" }'
            step.problem("fields", "VALUE_INVALID", f"must be as in {form}, not {shown(given)}")
        return {}


class _Table(Table):
    """A table of this file."""

    def __init__(self, reading: _Reading, values: Mapping[str, Any], where: str) -> None:
        super().__init__(reading.file, reading.problems, values, where)

    def text(self, key: str) -> str:
        return self.value(key, str, "a text") or ""

    def choice(self, key: str, choices: tuple[str, ...], *, required: bool = False) -> str | None:
        if required and not self.require(key, f"write one of {', '.join(choices)}"):
            return None
        value = self.values.get(key)
        if value is None or value in choices:
            return value
        self.problem(key, "VALUE_INVALID", f"must be one of {', '.join(choices)}, not {shown(value)}")
        return None

    def format(self, key: str, choices: tuple[Any, ...], default: str) -> Any:
        return self.choice(key, choices) or default

    def start(self) -> Start:
        return "new" if self.choice("start", ("all", "new")) == "new" else "all"

    def tasks(self, most: int, what: str) -> int:
        count = self.value("tasks.max", int, "a number")
        if count is not None and not 1 <= count <= most:
            self.problem("tasks.max", "VALUE_INVALID", f"must be 1 to {most}, not {count}: {what}")
        return count or 1

    def topic(self, key: str) -> str:
        topic = self.text(key)
        if topic and not _TOPIC.fullmatch(topic):
            self.problem(key, "NAME_INVALID", f"{shown(topic)} is no name of a topic")
        return topic

    def version(self) -> VersionRef | None:
        version = self.values.get("version")
        if isinstance(version, int) and not isinstance(version, bool) and version >= 1:
            return version
        if isinstance(version, str):
            try:
                return check_ref(version)
            except BadInput as error:
                self.problem("version", "VALUE_INVALID", error.message)
        elif version is not None:
            what = "a version's number, its label as 2.x, or an alias"
            self.problem("version", "VALUE_INVALID", f"must be {what}, not {shown(version)}")
        return None

    def expressions(self, key: str, names: tuple[str, ...]) -> dict[str, Expression]:
        found: dict[str, Expression] = {}
        for parameter, text in (
            self.value(key, dict, "a table of parameters, each with an expression") or {}
        ).items():
            place = f"{key}.{parameter}"
            if not parameter.isidentifier():
                self.problem(place, "NAME_INVALID", "no workflow can have a parameter of this name")
            if not isinstance(text, str):
                self.problem(
                    place, "VALUE_INVALID", f"must be an expression, written as text, not {shown(text)}"
                )
                continue
            expression = self.parsed(place, text, names)
            if expression is not None:
                found[parameter] = expression
        return found

    def settings(self, key: str, *, needed: bool = True) -> dict[str, str]:
        """Settings of a client as texts, with dots in their names, and secrets by name only."""
        given = self.value(key, dict, "a table of settings")
        if given is None:
            if needed:
                self.require(key, 'add a table [connector.kafka] with "bootstrap.servers" = "host:9092"')
            return {}
        found: dict[str, str] = {}
        for name, value in _flat_all(given):
            place = f"{key}.{name}"
            if key == "kafka" and name in _OURS:
                self.problem(place, "VALUE_INVALID", f"is not for a file to say: {_OURS[name]}")
            elif isinstance(value, (str, int, float)):
                found[name] = str(value).lower() if isinstance(value, bool) else str(value)
                if is_sensitive(name) and not SECRET.search(found[name]) and not name.endswith(".location"):
                    self.problem(
                        place,
                        "VALUE_INVALID",
                        "is a secret: write ${env:NAME} or ${file:/path}, and never itself",
                    )
            else:
                self.problem(place, "VALUE_INVALID", "must be a text, a number or a truth value")
        first = "bootstrap.servers" if key == "kafka" else "url"
        if first not in found:
            self.problem(f"{key}.{first}", "KEY_MISSING", "is missing: where is it?")
        return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted keys, but for those that stay tables."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        path = prefix + key
        if isinstance(value, dict) and path not in _TABLES:
            found |= _flat(value, f"{path}.")
        else:
            found[path] = value
    return found


def _flat_all(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat_all(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
