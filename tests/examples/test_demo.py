"""`dressage demo` from end to end, with a few of the orders."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import Program, Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.slow

Eventually = Callable[[Callable[[], bool], str], None]
ROLES = {"orchestrator", "worker", "analytics", "trigger"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "data"


@pytest.fixture(scope="module")
def shown(folder: Path) -> subprocess.CompletedProcess[str]:
    """A demo with sixty orders on three shards."""
    arguments = ["--invoices", "60", "--shards", "3", "--data", str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "dressage.cli.main", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_it_exits_with_0(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_it_accounts_for_every_event(shown: subprocess.CompletedProcess[str]) -> None:
    assert "accounted for: 65 events = 60 orders + 1 repeats + 4 dead letters" in shown.stdout


def test_it_shows_progress_in_plain_lines(shown: subprocess.CompletedProcess[str]) -> None:
    assert "events published 65/65, runs started 60/60, runs ended 60/60, dead letters 4/4" in shown.stdout


@pytest.mark.parametrize(
    "words",
    [
        "How long does the workflow take?",
        "How long does an attempt of each task take, and what share of them fails?",
        "What became of the orders?",
        "Which events could not be mapped?",
    ],
)
def test_it_answers(shown: subprocess.CompletedProcess[str], words: str) -> None:
    assert words in shown.stdout


def test_it_keeps_the_data_that_it_was_told_to_keep(
    shown: subprocess.CompletedProcess[str], folder: Path
) -> None:
    assert (folder / "demo.duckdb").exists()


def test_it_leaves_no_process_behind(shown: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert processes_of(folder) == []


def test_it_refuses_a_folder_with_data(start: Start, tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    program = start("demo", "--data", str(tmp_path))
    assert program.ended() == 1
    assert program.said.startswith("DATA_NOT_EMPTY: ")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that was told of the folder, or works for the broker in it."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def running(start: Start, tmp_path: Path) -> Iterator[tuple[Program, list[psutil.Process]]]:
    """A demo in full swing, and all of its processes."""
    program = start("demo", "--invoices", "400", "--rate", "20", "--data", str(tmp_path / "data"))
    program.says("runs ended")
    processes = psutil.Process(program.pid).children(recursive=True)
    commands = [" ".join(process.cmdline()) for process in processes]
    assert {role for role in ROLES if any(f"main {role}" in command for command in commands)} == ROLES
    yield program, processes
    for process in processes:
        if process.is_running():
            process.kill()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_every_process_of_it(
    running: tuple[Program, list[psutil.Process]], number: signal.Signals
) -> None:
    program, processes = running
    program.process.send_signal(number)
    assert program.ended() == 1
    assert gone(processes)


def test_a_kill_leaves_no_process_behind(
    running: tuple[Program, list[psutil.Process]], eventually: Eventually
) -> None:
    program, processes = running
    program.process.kill()
    program.ended()
    eventually(lambda: gone(processes), "every process is gone")


def test_a_role_that_dies_is_named(running: tuple[Program, list[psutil.Process]]) -> None:
    program, processes = running
    next(each for each in processes if "online_retail.worker:app" in each.cmdline()).kill()
    assert program.ended() == 1
    assert "CHILD_ENDED: worker ended with status -9" in program.said
    assert gone(processes)
