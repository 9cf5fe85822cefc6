"""What docs/reliability.md tells a doubter to run exists, explains itself, and is part of what CI runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "reliability.md").read_text()
CODE: Final = re.findall(r"`([^`\n]+)`", PAGE)
TARGETS: Final = sorted({each for each in CODE if each.startswith("make ")})
COMMANDS: Final = sorted({each for each in CODE if each.startswith("dressage ")})
FOLDERS: Final = ("tests/", "simulation/", "docs/", "sdk/", "orchestrator/")
PROGRAMS: Final = {
    "availability": ["-m", "tests.faults.availability"],
    "fuzz": ["tests/fuzz/guided.py"],
    "soak": ["-m", "tests.faults.soak"],
}
"""What the targets of `make` run in Python; the others run `pytest` and `dressage`."""


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("target", ["faults", "fuzz", "simulate", "availability", "soak", "sleeping"])
def test_every_proof_is_on_the_page(target: str) -> None:
    assert any(each.split()[1] == target for each in TARGETS)


@pytest.mark.parametrize("command", TARGETS)
def test_a_target_of_the_page_exists_and_is_listed(command: str) -> None:
    make = shutil.which("make")
    assert make is not None
    # Only printed: nothing is run. `-o` keeps the environment from being thought of as old.
    done = ran(make, "-n", "-o", ".venv/.installed", *command.split()[1:])
    assert done.returncode == 0, done.stderr
    assert f"\n{command.split()[1]} " in "\n" + ran(make, "help").stdout
    for name, value in (word.split("=") for word in command.split()[2:]):
        assert value in done.stdout, f"{name} has no effect"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_exists_with_its_options(command: str) -> None:
    words = command.split()[1:]
    done = ran(sys.executable, "-m", "dressage.cli.main", words[0], "--help")
    assert done.returncode == 0
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))


@pytest.mark.parametrize("target", PROGRAMS)
def test_what_a_target_runs_explains_itself(target: str) -> None:
    done = ran(sys.executable, *PROGRAMS[target], "--help")
    assert done.returncode == 0, done.stderr
    printed = re.search(rf"^{target}:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert printed is not None
    assert PROGRAMS[target][-1] in printed[1]
    used = set(re.findall(r"--[a-z-]+", printed[1]))
    assert used <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_every_file_that_the_page_names_is_there() -> None:
    named = [each.removeprefix("pytest ") for each in CODE]
    paths = [each for each in named if each.startswith(FOLDERS)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_of_the_contract_is_put_to_all_three_brokers() -> None:
    done = ran(sys.executable, "-m", "pytest", "tests/contract", "--collect-only", "-q")
    assert done.returncode == 0, done.stdout
    asked: dict[str, set[str]] = {}
    for test, broker in re.findall(
        r"^(\S+)\[(memory|newest|oldest)(?:-[^\]]*)?\]$", done.stdout, re.MULTILINE
    ):
        asked.setdefault(test, set()).add(broker)
    assert len(asked) > 1
    assert {test for test, brokers in asked.items() if brokers != {"memory", "newest", "oldest"}} == set()
