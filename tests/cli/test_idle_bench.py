"""`dressage bench --idle`: runs that wait for a year, as the documentation says to measure them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text()


@pytest.mark.slow
def test_idle_runs_are_measured(start: Start) -> None:
    assert "dressage bench --idle 1000000" in PAGE
    program = start("bench", "--idle", "30", "--json")
    code = program.ended()
    figures = json.loads(program.said.splitlines()[-1])
    assert code == (0 if figures["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    small = figures["orchestrator_peak_mib"] <= figures["goal_mib"]
    assert figures["met"] == (small and figures["wake_ms"]["p99"] <= figures["goal_ms"])
    assert 0 < figures["wake_ms"]["p50"] <= figures["wake_ms"]["p99"] <= figures["wake_ms"]["max"]
    assert figures["orchestrator_peak_mib"] >= figures["orchestrator_mib"] > 0
    assert figures["server_mib"] > 0
