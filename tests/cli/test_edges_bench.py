"""`dressage bench edges`: what it says, and what of it does not depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dressage.cli.bench.postgres import postgres_binaries
from dressage.cli.bench.triggers import WAYS

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_both_ways_of_the_outbox_and_all_of_triggers_are_measured(start: Start) -> None:
    assert "dressage bench edges" in PAGE
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb (apt-get install postgresql)")
    program = start("bench", "edges", "--messages", "100", "--latency-messages", "10", "--json")
    code = program.process.wait(150)
    told = json.loads(program.said.splitlines()[-1])
    assert code == (0 if told["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    ways = [told["table"], told["log"]]
    assert all(0 < way["ms"]["p50"] <= way["ms"]["p95"] <= way["ms"]["p99"] for way in ways)
    assert all(way["per_s"] > 0 for way in ways)
    goals = [way["per_s"] >= told["goal_per_s"] and way["ms"]["p50"] <= told["goal_ms"] for way in ways]
    assert told["met"] == all(goals)
    assert len(told["triggers"]) == len(WAYS)
    assert all(per_s > 0 for per_s in told["triggers"].values())
