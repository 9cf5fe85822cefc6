"""`dressage bench --branches` and `--sleepers`: what they say, and what of it does not depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[2]
PAGE, MAKEFILE = (ROOT / "docs" / "benchmark.md").read_text(), (ROOT / "Makefile").read_text()


def figures(start: Start, option: str, number: int) -> dict[str, Any]:
    program = start("bench", option, str(number), "--json")
    code = program.ended()
    told: dict[str, Any] = json.loads(program.said.splitlines()[-1])
    assert code == (0 if told["met"] else 1), (
        "a goal that is missed fails the command, whatever the figures are"
    )
    return told


@pytest.mark.slow
def test_a_wide_run_is_measured_beside_as_many_runs(start: Start) -> None:
    assert "dressage bench --branches 10000" in PAGE
    assert "BRANCHES ?= 10000" in MAKEFILE
    told = figures(start, "--branches", 1000)
    assert told["branches"] == 1000
    # Both are measured one after the other; half the goal leaves room for whatever else the machine does.
    assert told["ratio"] > told["ratio_goal"] / 2
    assert told["ratio"] == pytest.approx(told["tasks_per_s_branches"] / told["tasks_per_s_runs"], rel=0.05)
    assert 0 < told["state_bytes"] < told["state_goal_bytes"] / 10
    assert told["cpu_us_per_task_branches"].keys() == {"orchestrator", "worker", "server", "client"}
    assert told["met"] == (told["ratio"] >= told["ratio_goal"])


@pytest.mark.slow
def test_a_run_that_is_over_before_its_state_is_written_has_a_size_too(start: Start) -> None:
    assert figures(start, "--branches", 50)["state_bytes"] > 0


@pytest.mark.slow
def test_every_run_is_woken_by_the_event_of_its_key(start: Start) -> None:
    assert "dressage bench --wakes 10000" in PAGE
    assert "WAKES ?= 10000" in MAKEFILE
    told = figures(start, "--wakes", 300)
    assert told["wakes"] == 300
    # To the millisecond that the seconds are told in: few runs are woken within some of them.
    assert told["seconds"] == pytest.approx(300 / told["wakes_per_s"], abs=0.001)
    assert told["met"] == (told["wakes_per_s"] >= told["goal_per_s"])


@pytest.mark.slow
def test_no_sleep_of_many_is_too_short(start: Start) -> None:
    assert "dressage bench --sleepers 5000" in PAGE
    assert "SLEEPERS ?= 5000" in MAKEFILE
    told = figures(start, "--sleepers", 200)
    assert told["sleepers"] == 200
    assert told["early"] == 0
    assert 0 < told["latest_s"] <= told["seconds"] - told["sleep_s"] + 0.01
    assert told["met"] == (told["seconds"] <= told["goal_s"])
