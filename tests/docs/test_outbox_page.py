"""The examples of docs/outbox.md run, and its commands, metrics and codes are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, cast

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.outbox import schema
from dressage.outbox.relay.metrics import RelayMetrics
from dressage.telemetry import PrometheusMeters
from dressage.worker.context import TaskContext, _current

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "outbox.md").read_text()
BLOCKS: Final = re.findall(r"(?s)```python\n(.*?)```", PAGE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the blocks of the page define, in a folder with a database."""
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "page.py"
    module.write_text("\n\n".join(block for block in BLOCKS if "alembic" not in block))
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(module.read_text(), str(module), "exec", dont_inherit=True), names)
    with names["engine"].begin() as connection:
        names["Base"].metadata.create_all(connection)
        for statement in schema.statements("sqlite"):
            connection.execute(text(statement))
    return names


def test_the_examples_send(page: dict[str, Any]) -> None:
    with Session(page["engine"]) as session, session.begin():
        run_id = page["sign_up"](session, "ada@example.org")
        page["confirm"](session, run_id)
    with create_engine("sqlite:///shop.db").connect() as connection:
        rows = connection.execute(
            text("SELECT ordering_key, message FROM dressage_outbox ORDER BY seq")
        ).fetchall()
    assert [row[0] for row in rows] == ["welcome-1", "welcome-1"]
    assert ["ada@example.org" in row[1] for row in rows] == [True, False]
    page["engine"].dispose()


def test_the_example_of_the_inbox_books_once(page: dict[str, Any]) -> None:
    token = _current.set(TaskContext("r", "w", 1, "book", 1, "t", "c"))
    try:
        first, again = (page["book"].function("ada@example.org") for _ in range(2))
    finally:
        _current.reset(token)
    assert first == again
    with page["engine"].connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM customers")).scalar() == 1
    page["engine"].dispose()


def test_the_migration_of_the_page_compiles() -> None:
    (block,) = [block for block in BLOCKS if "alembic" in block]
    compile(block, "page", "exec")


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_the_commands_are_there(line: str) -> None:
    check_command(line)


def test_the_metrics_are_those_of_the_code() -> None:
    meters = PrometheusMeters()
    RelayMetrics(meters)
    found = cast("Any", meters.registry).collect()
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in found}
    assert names == set(re.findall(r"(?m)^\| `(dressage_outbox_\w+)`", PAGE))
    api = (ROOT / "docs" / "api.md").read_text()
    assert {name for name in names if f"`{name}`" not in api} == set()


def test_every_code_of_the_outbox_is_on_a_page() -> None:
    pages = PAGE + (ROOT / "docs" / "limits.md").read_text()
    codes: set[str] = set()
    for path in (ROOT / "outbox").rglob("*.py"):
        codes.update(re.findall(r'"((?:OUTBOX|INBOX)_[A-Z_]+)"', path.read_text()))
    assert codes
    assert {code for code in codes if f"`{code}`" not in pages} == set()
