"""The short form of `make soak`: the same program for less than a minute, and how it judges slopes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from tests.faults.sampling import Point  # pyright: ignore[reportMissingImports]
from tests.faults.verdicts import Rule, judge, table  # pyright: ignore[reportMissingImports]

REPOSITORY: Final = Path(__file__).resolve().parents[2]


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_nothing_is_lost_or_doubled_in_a_short_soak(tmp_path: Path) -> None:
    report = tmp_path / "build" / "soak.json"
    given = ["--minutes", "0.7", "--rate", "40", "--seed", "1", "--json", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", *given],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["violations"] == []
    assert found["duckdb_equals_streams"]
    assert found["runs"] > 0
    assert len(found["faults"]) > 1
    names = {verdict["name"] for verdict in found["verdicts"]}
    assert {"server memory MB", "orchestrator-1 memory MB", "streams", "consumers", "EVENTS MB"} <= names
    assert "PASSED" in done.stdout


def line(start: float, rise: float, count: int = 100) -> list[Point]:
    """A value each 10 s, in which ten runs end."""
    return [Point(10.0 * number, 10 * number, start + rise * number) for number in range(count)]


def test_what_rises_steadily_grows() -> None:
    verdict = judge("memory MB", line(100, 0.5), Rule(growth=8))
    assert verdict.flat is False
    assert verdict.per_hour == pytest.approx(180)
    assert "GROWS" in table([verdict])


def test_what_swings_is_flat() -> None:
    points = [Point(10.0 * number, number, 100 + 20 * (number % 2)) for number in range(100)]
    assert judge("memory MB", points, Rule(growth=8)).flat is True


def test_the_warm_up_is_not_judged() -> None:
    points = [Point(10.0 * number, number, min(200.0, 10.0 * number)) for number in range(100)]
    assert judge("memory MB", points, Rule(growth=8)).flat is True


def test_what_grows_with_the_runs_may_do_so_and_no_faster() -> None:
    by_design = Rule(growth=1, per_run=0.1, why="a key for each run")
    assert judge("bucket MB", line(0, 0.9), by_design).flat is True
    assert judge("bucket MB", line(0, 1.5), by_design).flat is False


def test_the_allowance_for_runs_ends_with_what_is_kept_of_them() -> None:
    kept = Rule(growth=8, per_run=0.1, runs_max=400)
    assert judge("memory MB", line(100, 0.9), kept).flat is False


def test_a_short_series_is_not_judged() -> None:
    assert judge("memory MB", line(100, 50, count=8), Rule(growth=8)).flat is None
