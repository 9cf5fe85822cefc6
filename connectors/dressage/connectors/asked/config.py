"""What a file says of a source that asks the analytics process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dressage.connectors.connect.reading import ASKING_KEYS, AskingConfig, ConnectorTable

ROW_NAMES: Final = ("value", "key")
"""What its expressions may use: the row, by the names of its columns, and its key, a text."""

EVERY_S_MAX: Final = 86_400.0

_KEYS: Final = ("name", "type", "transforms", "query", "key", "every", *ASKING_KEYS)


@dataclass(slots=True, frozen=True)
class QuerySource(AskingConfig):
    """From rows to runs, or to external events. `key` is the column that tells rows apart."""

    query: str = ""
    key: str = ""
    every_s: float = 30.0


def read_query_source(table: ConnectorTable, name: str) -> QuerySource:
    table.allow(_KEYS)
    table.require("key", "name the column that tells one row from another: each of its values counts once")
    if "workflow" in table.values and "run_id" in table.values:
        table.problem(
            "run_id", "KEY_UNKNOWN", "the run of a row is called by the connector's name and the row's key"
        )
    return QuerySource(
        name=name,
        transforms=table.transforms(ROW_NAMES),
        query=table.text("query"),
        key=table.text("key"),
        every_s=table.duration_s("every", 30.0, EVERY_S_MAX, "(limit query-every)"),
        **table.asking(ROW_NAMES),
    )
