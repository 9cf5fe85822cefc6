"""`dressage bench --sleeping`: the take-over beside sleeping runs, as the documentation says to measure it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "limits.md").read_text()


@pytest.mark.slow
def test_a_take_over_beside_sleeping_runs_is_measured(start: Start) -> None:
    assert "dressage bench --sleeping 100000" in PAGE
    program = start("bench", "--sleeping", "40", "--json")
    code = program.ended()
    figures = json.loads(program.said.splitlines()[-1])
    assert code == (0 if figures["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    slowest_s, goal_s = max(figures["take_over_s"]), figures["goal_s"]
    assert figures["met"] == (slowest_s <= goal_s)
    assert figures["share_of_goal"] == pytest.approx(slowest_s / goal_s, abs=0.002)
    assert f"the goal of {goal_s:g} s" in " ".join(PAGE.split())
    assert figures["sleeping"] == 40
    assert len(figures["take_over_s"]) == len(figures["answered_s"]) > 0
    assert all(
        0 < took < answered
        for took, answered in zip(figures["take_over_s"], figures["answered_s"], strict=True)
    )
