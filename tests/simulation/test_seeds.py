"""The simulation as CI runs it: seeds for a minute, and the same seed twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dressage.simulation.faults import FAULTS
from dressage.simulation.running import run_apart
from dressage.simulation.seed import plan
from dressage.simulation.workloads import RESERVE, RESERVE_COMMANDS, WORKLOADS

SEEDS_TELLING = 100
"""Of so many seeds every fault and every workload has its share; a shorter budget has fewer."""

BUDGET_S = float(os.environ.get("SIMULATE_SECONDS", "60"))


def simulate(*arguments: str) -> tuple[int, str, str]:
    command = [str(Path(sys.executable).with_name("dressage")), "simulate", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUDGET_S + 240)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.timeout(BUDGET_S + 300)
def test_no_seed_breaks_a_rule() -> None:
    code, out, err = simulate("--seeds", "1..", "--budget", str(BUDGET_S), "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    print(found)
    assert found["failures"] == 0
    assert found["seeds"] > 0
    if found["seeds"] >= SEEDS_TELLING:
        assert set(found["seeds_with_fault"]) == set(FAULTS)
        assert set(found["seeds_with_workload"]) == set(WORKLOADS)
    least = found["least_in_a_seed"]
    assert least["runs"] >= 20
    assert least["commands"] >= 200
    assert least["faults"] >= 3


def test_the_same_seed_is_the_same_run_to_the_last_message() -> None:
    one, other = run_apart(11), run_apart(11)
    assert one.fingerprint == other.fingerprint
    assert one.trace == other.trace
    assert run_apart(12).fingerprint != one.fingerprint


def test_every_kind_of_fault_strikes() -> None:
    seen = {fault.name for seed in range(1, 60) for fault in plan(seed).faults}
    assert seen == set(FAULTS)


def test_a_seed_of_small_runs_has_the_more_of_them_in_reserve() -> None:
    reserves = (plan(seed).script.reserve for seed in range(17_300, 17_330))
    reserve = next(each for each in reserves if len(each) > RESERVE)
    assert sum(run.ending.commands for run, _ in reserve) >= RESERVE_COMMANDS


def test_a_seed_that_fails_says_what_it_needs_and_how_to_see_it_again() -> None:
    code, out, _ = simulate("--seeds", "3..3", "--without", "0")
    assert code == 0
    assert "fingerprint" in out


@pytest.mark.parametrize("seeds", ["a..b", "1...3", "-1"])
def test_what_are_no_seeds_is_refused(seeds: str) -> None:
    code, _, err = simulate(f"--seeds={seeds}")
    assert code == 1
    assert "SEEDS_INVALID" in err
