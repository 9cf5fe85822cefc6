"""`dressage bench read`: finding and reading among many runs, as the documentation says to measure it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_finding_and_reading_are_measured(start: Start) -> None:
    assert "dressage bench read" in PAGE
    program = start("bench", "read", "--runs", "2000", "--gets", "50", "--json")
    code = program.process.wait(150)
    figures = json.loads(program.said.splitlines()[-1])
    assert code == (0 if figures["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    assert figures["met"] == (
        figures["ingested_per_s"] >= figures["goal_per_s"]
        and figures["analytics_mib"] <= figures["goal_mib"]
        and figures["search_ms"]["p95"] <= figures["goal_ms"]
        and figures["get_ms"]["p99"] <= figures["goal_get_ms"]
    )
    assert 9_000 < figures["events"] <= 10_000
    for each in ("search_ms", "by_status_ms", "by_range_of_numbers_ms", "get_ms"):
        assert 0 < figures[each]["p50"] <= figures[each]["p95"] <= figures[each]["max"]
