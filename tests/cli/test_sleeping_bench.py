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
    assert program.ended() == 0
    figures = json.loads(program.said.splitlines()[-1])
    assert figures["sleeping"] == 40
    assert len(figures["take_over_s"]) == len(figures["answered_s"]) > 0
    assert all(
        0 < took < answered
        for took, answered in zip(figures["take_over_s"], figures["answered_s"], strict=True)
    )
