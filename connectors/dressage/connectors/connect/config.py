"""The file that declares connectors: TOML with one `[[connector]]` table for each.

The keys are those that users of Kafka Connect know, and a dotted key may also be a table: `tasks.max = 2` and
`tasks = { max = 2 }` say the same. Everything that is wrong with a file is told at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dressage.connectors.asked.config import QuerySource, read_query_source
from dressage.connectors.connect.reading import ConnectorTable, flat
from dressage.connectors.events_out.config import TABLES as EVENTS_OUT_TABLES
from dressage.connectors.events_out.config import (
    SubjectSink,
    WebhookSink,
    read_subject_sink,
    read_webhook_sink,
)
from dressage.connectors.kafka.config import TABLES as KAFKA_TABLES
from dressage.connectors.kafka.config import SinkConnector, SourceConnector, read_sink, read_source
from dressage.connectors.tables import ConfigInvalid, Problem, Table, read_text, read_toml

Connector = SourceConnector | QuerySource | SinkConnector | SubjectSink | WebhookSink

_TABLES: Final = (*KAFKA_TABLES, *EVENTS_OUT_TABLES)


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
        Table(self.file, self.problems, document, "the file").allow(["connector"])
        tables = document.get("connector")
        if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
            self.problems.append(
                Problem(self.file, "connector", "KEY_MISSING", "declare each one in a table [[connector]]")
            )
            return
        for number, table in enumerate(tables, 1):
            name = table.get("name")
            where = f'connector "{name}"' if isinstance(name, str) else f"connector number {number}"
            yield self._connector(ConnectorTable(self.file, self.problems, flat(table, _TABLES), where))

    def _connector(self, table: ConnectorTable) -> Connector:
        kind = table.choice("type", ("source", "sink"), required=True)
        name = table.name("name", "connector")
        if name and name in self._names:
            table.problem("name", "NAME_TAKEN", "another connector of this file has this name")
        self._names.add(name)
        return self._sink(table, name) if kind == "sink" else self._source(table, name)

    def _source(self, table: ConnectorTable, name: str) -> Connector:
        return read_query_source(table, name) if "query" in table.values else read_source(table, name)

    def _sink(self, table: ConnectorTable, name: str) -> Connector:
        """What it writes to says of which kind it is."""
        if "subject" in table.values:
            return read_subject_sink(table, name)
        return read_webhook_sink(table, name) if "url" in table.values else read_sink(table, name)
