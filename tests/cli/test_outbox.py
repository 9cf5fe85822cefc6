"""`dressage outbox`: what its commands say and do, on SQLite; the relay itself is in tests/outbox."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dressage import outbox
from dressage.cli.main import main
from dressage.outbox import schema


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    """A database with a message that waits, and one that is dead."""
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.executescript(schema.schema_sql("sqlite"))
    outbox.start(connection, "greet", {"name": "Ada"}, run_id="ada")
    outbox.start(connection, "greet", {"nom": "Bob"}, run_id="bob")
    connection.execute(
        "UPDATE dressage_outbox SET state = 'dead', code = 'INPUT_INVALID', reason = 'no nom' WHERE seq = 2"
    )
    connection.commit()
    connection.close()
    return f"sqlite:///{tmp_path / 'shop.db'}"


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["outbox", *words])


@pytest.mark.parametrize("dialect", schema.DIALECTS)
def test_the_schema_is_printed(dialect: str) -> None:
    said = call("schema", "--dialect", dialect).output
    assert said.count("CREATE TABLE") == 2
    assert "dressage_outbox" in said
    assert "dressage_inbox" in said


def test_what_waits_and_what_is_dead_is_told(dsn: str) -> None:
    assert "1 waiting" in call("status", "--dsn", dsn).output
    assert json.loads(call("status", "--dsn", dsn, "--json").output)["dead"] == 1


def test_the_dead_are_listed_and_sent_again(dsn: str) -> None:
    assert "INPUT_INVALID: no nom" in call("dead", "--dsn", dsn).output
    told = json.loads(call("dead", "--dsn", dsn, "--json").output)
    assert told["message"]["run_id"] == "bob"
    assert call("retry", "--dsn", dsn, "unknown").output == "0 will be sent again\n"
    assert call("retry", "--dsn", dsn, told["id"]).output == "1 will be sent again\n"
    assert call("dead", "--dsn", dsn).output == ""
    assert "2 waiting" in call("status", "--dsn", dsn).output


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["retry"], "OUTBOX_RETRY_WHICH"),
        (["retry", "--all", "x"], "OUTBOX_RETRY_WHICH"),
        (["relay", "--log"], "OUTBOX_DIALECT_UNKNOWN"),
        (["slot", "create"], "OUTBOX_DIALECT_UNKNOWN"),
    ],
)
def test_what_cannot_be_done_is_refused(dsn: str, words: list[str], code: str) -> None:
    found = call(*words, "--dsn", dsn)
    assert found.exit_code == 1
    assert found.output.startswith(code)


def test_a_database_without_tables_is_told(tmp_path: Path) -> None:
    found = call("status", "--dsn", f"sqlite:///{tmp_path / 'empty.db'}")
    assert found.exit_code == 1
    assert "OUTBOX_SCHEMA_MISSING" in found.output
