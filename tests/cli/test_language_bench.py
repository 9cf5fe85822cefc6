"""`dressage bench --language`: what it says, and what of it does not depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text()
DIGITS = 48
"""Bytes by which counters and ids grow."""


@pytest.mark.slow
def test_a_run_stays_as_small_and_as_cheap_as_it_was(start: Start) -> None:
    assert "dressage bench --language" in PAGE
    program = start("bench", "--language", "--json")
    code = program.ended()
    told = json.loads(program.said.splitlines()[-1])
    assert code == (0 if told["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    for name, each in told["fold"].items():
        assert each["nodes_passed"] >= 10_000, name
        assert 0 < each["old_state_bytes"] - each["fresh_state_bytes"] <= DIGITS, name
        # Both are measured in turns; twice the goal leaves room for whatever else the machine does.
        assert 0 < each["ratio"] < 2 * told["ratio_goal"], name
    assert told["ratio"] == max(each["ratio"] for each in told["fold"].values())
    parts = told["registration"]
    assert 450 <= parts["nodes"] <= 550
    assert min(parts[part] for part in ("compile_ms", "register_ms", "load_ms")) > 0
    reached = told["ratio"] <= told["ratio_goal"] and parts["total_ms"] <= told["register_goal_ms"]
    assert told["met"] == reached
