"""The examples of docs/analytics.md run as written, and what it lists is there."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner

from dressage.analytics.query import Budget, run_query
from dressage.analytics.service import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.brokers.provision import provision
from dressage.cli.main import main
from dressage.client import Client
from dressage.protocol.names import Names

if TYPE_CHECKING:
    from tests.analytics.conftest import EventsStream, Start  # pyright: ignore[reportMissingImports]

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "analytics.md").read_text()
EXAMPLES: Final = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("sql", EXAMPLES)
async def test_an_example_runs(events: EventsStream, start: Start, sql: str) -> None:
    process = start()
    await process.until(await events.publish_orders(20))
    cursor = process.store.cursor()
    result = run_query(cursor, sql, None, Budget(rows=100, bytes_max=1_000_000, seconds=10))
    cursor.close()
    assert bool(result.rows) is ("index_breaks" not in sql)


async def test_every_table_and_view_is_described(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish_orders(1))
    missing = [name for (name,) in process.rows("SHOW TABLES") if f"`{name}`" not in PAGE]
    assert missing == []


async def test_every_column_of_the_main_views_is_described(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish_orders(1))
    for view in ("runs", "task_attempts", "threads", "nodes", "external_events", "child_runs"):
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{view}` |")]
        names = [row[0] for row in process.rows(f"DESCRIBE {view}")]
        assert [name for name in names if f"`{name}`" not in line] == []


# -- finding runs --------------------------------------------------------------------------------------------------
SECTION: Final = PAGE.partition("## Finding runs")[2].partition("\n## ")[0]
COMMANDS: Final = [
    shlex.split(line)[1:] for line in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)[0].splitlines()
]


@pytest.fixture
async def orders(events: EventsStream, server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[None]:
    """An analytics process that has read twenty orders."""
    await events.publish_orders(20)
    async with AnalyticsService(server.url, events.names.namespace, tmp_path / "found.duckdb"):
        yield


@pytest.mark.usefixtures("orders")
async def test_the_commands_that_find_runs_find_some(server: EmbeddedServer) -> None:
    said: list[str] = []
    for command in COMMANDS:
        arguments = [*command, "--server", server.url, "--namespace", "shop"]
        result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert result.exit_code == 0, result.output
        said.append(result.output)
    assert said[1].count("DECLINED") == 4
    assert json.loads(said[2]) == {"runs": [], "next": ""}
    assert said[4] == "0\n"


@pytest.mark.usefixtures("orders")
async def test_the_python_that_finds_runs_finds_them(
    connection: JetStreamConnection, names: Names, server: EmbeddedServer
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    place: dict[str, Any] = {}
    exec(code, place)
    await provision(connection, names, shards=1, replicas=1)
    async with Client(server.url, namespace=names.namespace) as client:
        assert await place["declined"](client) == [
            f"order-{number} of 4: not covered" for number in (15, 10, 5, 0)
        ]
