"""The short form of `make soak`: the same program for less than a minute, which judges no slope and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from tests.faults.soak import RULES, rule_for  # pyright: ignore[reportMissingImports]

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
        timeout=280,  # Before the test's own, so that what it said is told.
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
    assert all(verdict["flat"] is None for verdict in found["verdicts"])
    assert "So short a soak judges no slope" in done.stdout
    assert "PASSED" in done.stdout


def test_streams_of_shards_are_not_judged_by_the_rule_for_their_number() -> None:
    assert rule_for("shard streams messages") is RULES["shard streams messages"]
    assert rule_for("streams") is RULES["streams"]


def test_a_series_that_nobody_thought_of_has_no_rule() -> None:
    with pytest.raises(LookupError):
        rule_for("another stream messages")
