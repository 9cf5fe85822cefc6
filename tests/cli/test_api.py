"""`dressage api`: the operations, their schemas, and the same as a page."""

from __future__ import annotations

import json

from click.testing import CliRunner

from dressage.cli.main import main
from dressage.orchestrator.operations import OPERATIONS


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["api", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_operations_are_listed_with_their_subjects() -> None:
    listed = json.loads(call("list", "--json", "--namespace", "shop"))
    assert [each["operation"] for each in listed] == list(OPERATIONS)
    assert listed[0] == {
        "operation": "start",
        "subject": "dressage.shop.api.start",
        "about": "Start a run",
    }
    shown = call("list")
    assert [name for name in OPERATIONS if f"dressage.default.api.{name}" not in shown] == []


def test_schemas_are_printed_of_all_operations_or_of_one() -> None:
    whole = json.loads(call("schema"))
    assert list(whole["operations"]) == list(OPERATIONS)
    alone = json.loads(call("schema", "count"))
    assert {name: alone[name] for name in ("subject", "request", "answer")} == {
        name: whole["operations"]["count"][name] for name in ("subject", "request", "answer")
    }
    assert set(alone["$defs"]) == {"CountRequest", "CountAnswer", "Counted", "Failed"}
    assert alone["$defs"].items() <= whole["$defs"].items()
    assert alone["$defs"]["CountRequest"]["additionalProperties"] is False


def test_an_operation_that_is_not_there_is_refused_with_where_to_look() -> None:
    assert "dressage api list" in call("schema", "dance", code=2)
