"""`dressage simulate` as somebody runs it who doubts it: what it prints, what it refuses, and that it can fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WITHOUT_A_SAFEGUARD = """
import contextlib
from dressage.simulation.mutants import MUTANTS

kept = contextlib.ExitStack()
kept.enter_context(MUTANTS["removed_too_early"].patch())
"""
"""Python imports this at the start of every process, so each one of the simulation's has the mutant's engine."""

ONE_MUTANT_AND_A_HARMLESS_ONE = """
import contextlib
from dressage.simulation import catching
from dressage.simulation.mutants import MUTANTS, Mutant

real = MUTANTS["removed_too_early"]
harmless = Mutant("harmless", "nothing", real.rules, contextlib.nullcontext)
MUTANTS.clear()
MUTANTS.update({each.name: each for each in (real, harmless)})
catching.catch.__defaults__ = (1,)
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def found(self) -> dict[str, Any]:
        """What was printed, which must be one object of JSON and nothing beside it."""
        decoded: dict[str, Any] = json.loads(self.out)
        return decoded


def simulate(*arguments: str, env: Mapping[str, str] = {}) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "dressage.cli.main", "simulate", *arguments],
        env={**os.environ, "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def changed(folder: Path, code: str) -> dict[str, str]:
    """An environment in which every Python process runs `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


# -- what it prints --------------------------------------------------------------------------------
def test_one_object_with_what_was_run_and_how_it_went() -> None:
    ended = simulate("--seeds", "4..5", "--json")
    found = ended.found
    assert ended.code == 0
    assert (found["seeds"], found["failures"]) == (2, 0)
    assert found["seeds_per_min"] > 0
    assert not {"mutants", "mutants_caught"} & found.keys(), "nobody asked for mutants"
    for what, least in {"runs": 20, "commands": 200, "faults": 3}.items():
        assert found["least_in_a_seed"][what] >= least
        assert found[what] >= 2 * found["least_in_a_seed"][what]


def test_a_seed_has_the_same_sums_whatever_the_process_hashes_by() -> None:
    """Sets of text are iterated in another order in each Python process unless somebody sees to it."""
    each = [
        simulate("--seeds", "7", "--json", "--processes", count, env={"PYTHONHASHSEED": seed}).found
        for count, seed in (("1", "1"), ("2", "random"))
    ]
    for found in each:
        del found["seeds_per_min"], found["elapsed_s"]
    assert each[0] == each[1]


def test_a_seed_is_the_same_in_another_process_to_its_fingerprint() -> None:
    one, other = (
        simulate("--seeds", "8", "--without", "0", env={"PYTHONHASHSEED": seed}) for seed in ("1", "2")
    )
    assert "fingerprint" in one.out
    assert one == other


# -- that it can fail ------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_seed_that_fails_is_told_with_its_trace_and_fails_again_by_the_command_that_is_told(
    tmp_path: Path,
) -> None:
    env = changed(tmp_path, WITHOUT_A_SAFEGUARD)
    ended = simulate("--seeds", "1..1", "--json", env=env)
    assert ended.code == 1
    assert (ended.found["seeds"], ended.found["failures"]) == (1, 1)
    (failing,) = ended.found["failing"]
    assert failing["seed"] == 1
    assert failing["rules"][0] == "removed-only-when-covered"
    assert "what happened before:" in ended.err
    told = re.search(r"^seed 1 breaks a rule: .*$", ended.err, re.MULTILINE)
    again = re.search(r"^again, exactly: dressage simulate (.*)$", ended.err, re.MULTILINE)
    assert told is not None
    assert again is not None
    assert "--without" in again[1], "this safeguard's absence needs no fault, so some were left out"
    replayed = simulate(*again[1].split(), env=env)
    assert replayed.code == 1
    assert told[0] in replayed.out, "to the moment and the run that it names"
    mended = simulate(*again[1].split())
    assert mended.code == 0, "it is the engine that broke the rule, not the seed"


@pytest.mark.slow
def test_mutants_are_counted_and_one_that_is_not_caught_is_a_failure(tmp_path: Path) -> None:
    env = changed(tmp_path, ONE_MUTANT_AND_A_HARMLESS_ONE)
    ended = simulate("--seeds", "1", "--json", "--mutants", env=env)
    assert ended.code == 1
    assert (ended.found["failures"], ended.found["mutants"], ended.found["mutants_caught"]) == (0, 2, 1)
    assert ended.found["caught_by"]["removed_too_early"]["rule"] == "removed-only-when-covered"
    assert ended.found["caught_by"]["harmless"]["rule"] is None


# -- what it refuses -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "seeds", ["5..1", "", "1..2..3", "1.2", "0x1", "1..2\n", "\u0661", "9" * 5000, "1,2"]
)
def test_seeds_that_would_run_nothing_or_something_else_are_refused(seeds: str) -> None:
    ended = simulate(f"--seeds={seeds}", "--json")
    assert ended.code == 1
    assert ended.err.startswith("SEEDS_INVALID: ")
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("seeds", ["1..3", "1.."])
def test_faults_are_left_out_of_a_single_seed_only(seeds: str) -> None:
    ended = simulate("--seeds", seeds, "--without", "1")
    assert ended.code == 1
    assert ended.err.startswith("SEEDS_INVALID: ")


@pytest.mark.parametrize("option", ["--budget=0", "--budget=-1", "--budget=x", "--processes=0", "--seed=1"])
def test_options_that_mean_nothing_are_usage_errors(option: str) -> None:
    ended = simulate("--seeds", "1", option)
    assert ended.code == 2
    assert option.partition("=")[0] in ended.err
