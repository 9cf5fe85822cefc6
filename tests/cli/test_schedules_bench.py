"""`dressage bench --schedules`: many schedules, as the documentation says to measure them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text()


@pytest.mark.slow
def test_schedules_are_measured(start: Start) -> None:
    assert "dressage bench --schedules 50000" in PAGE
    program = start("bench", "--schedules", "100", "--json")
    code = program.ended()
    figures = json.loads(program.said.splitlines()[-1])
    assert code == (0 if figures["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    late_s = figures["late_s"]
    assert late_s["p50"] <= late_s["p99"] <= late_s["max"]
    reached = figures["made_per_s"] >= figures["goal_per_s"] and late_s["p99"] <= figures["goal_s"]
    if not figures["met"]:
        assert not reached or figures["early"] or not figures["in_time"]
    assert (figures["schedules"], figures["due_together"], figures["early"]) == (100, 10, 0)
