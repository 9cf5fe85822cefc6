"""The examples of docs/analytics.md run as written, and what it lists is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from dressage.analytics.query import Budget, run_query

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
    for view in ("runs", "task_attempts"):
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{view}` |")]
        names = [row[0] for row in process.rows(f"DESCRIBE {view}")]
        assert [name for name in names if f"`{name}`" not in line] == []
