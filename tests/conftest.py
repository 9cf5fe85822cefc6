"""What every test shares."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from hypothesis import settings
from tests.scheduling import FileScheduling  # pyright: ignore[reportMissingImports]

# An example that takes long on a busy machine is not wrong.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

PROGRAM_DEADLINE_S: Final = 40.0

LONG: Final = (
    "tests/faults/test_kills.py",
    "tests/faults/test_cluster.py",
    "tests/simulation/test_mutants.py",
    "tests/simulation/test_seeds.py",
    "tests/acceptance/test_processes.py",
    "tests/acceptance/test_races.py",
    "tests/faults/test_upgrade.py",
    "tests/faults/test_soak.py",
    "tests/faults/test_waiting_kills.py",
    "tests/flow/test_mutants.py",
    "tests/orchestrator/test_crash_points.py",
    "tests/flow/test_equal_to_python.py",
    "tests/acceptance/test_proof_simulate.py",
)
"""They come first: a process that begins a file of some minutes last leaves the other one idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return LONG.index(file) if file in LONG else len(LONG)

    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    return FileScheduling(config, log)


# -- what hangs --------------------------------------------------------------------------------------
_stderr = -1
"""That of the process, which a test's capturing does not take."""

_telling: threading.Timer | None = None


def pytest_configure() -> None:
    global _stderr
    _stderr = os.dup(2)


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Ends the process of a test that takes too long, with the stack of each thread, and a little before that those of
    all tasks that wait: then another process goes on, and the test is named as the one that it died in.

    pytest-timeout itself raises from a signal, which an event loop that is busy just then swallows, so that the run
    never ends; or exits from a thread, which one that keeps the interpreter's lock does not let run.
    """
    global _telling
    faulthandler.dump_traceback_later(settings.timeout, exit=True, file=_stderr)
    _telling = threading.Timer(settings.timeout * 0.95, _tell_tasks, [item.nodeid])
    _telling.daemon = True
    _telling.start()
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    faulthandler.cancel_dump_traceback_later()
    if _telling is not None:
        _telling.cancel()
    return True


def _tell_tasks(test: str) -> None:
    with os.fdopen(os.dup(_stderr), "w") as stderr:
        print(f"\n{test} has little time left; what waits in it:", file=stderr)
        for each in gc.get_objects():
            if isinstance(each, asyncio.Task) and not each.done():
                each.print_stack(file=stderr)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The NATS client speaks asyncio only, so async tests run on that, whatever else is installed."""
    return "asyncio"


class Program:
    """A `dressage` command, or another Python program, as a process of its own; its output goes to a file."""

    def __init__(self, command: list[str], folder: Path, log: Path, env: Mapping[str, str]) -> None:
        own = {"DRESSAGE_LIFELINE": "stdin", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        self._log = log
        # The pipe is the lifeline: a test that is killed leaves no process behind.
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **own, **env},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        """Everything it wrote so far, on either stream."""
        return self._log.read_text(errors="replace")

    def says(self, text: str) -> str:
        """Waits until it has written `text`; gives the line that has it."""
        deadline = time.monotonic() + PROGRAM_DEADLINE_S
        while text not in self.said:
            assert self.process.poll() is None, f"it ended without saying {text!r}: {self.said}"
            assert time.monotonic() < deadline, f"it did not say {text!r} in time: {self.said}"
            time.sleep(0.02)
        return next(line for line in self.said.splitlines() if text in line)

    def ended(self) -> int:
        """Waits for its end; gives the exit code."""
        try:
            return self.process.wait(PROGRAM_DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end: {self.said}")

    def drain(self) -> int:
        """Sends SIGTERM and waits; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Start(Protocol):
    """Starts `dressage ARGUMENTS`, or `python ARGUMENTS` if told so; see `Program`."""

    def __call__(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] = {}, python: bool = False
    ) -> Program: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Programs that end with the test, the last one first."""
    yield from starting(tmp_path)


def starting(folder: Path) -> Iterator[Start]:
    """A generator for fixtures of any scope: gives `Start`, then stops what was started."""
    programs: list[Program] = []

    def start(
        *arguments: str, cwd: Path | None = None, env: Mapping[str, str] = {}, python: bool = False
    ) -> Program:
        command = [sys.executable, *([] if python else ["-m", "dressage.cli.main"]), *arguments]
        log = folder / f"program-{len(programs)}.log"
        programs.append(Program(command, cwd or folder, log, env))
        return programs[-1]

    yield start
    for program in reversed(programs):
        program.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool], str], None]:
    """Waits for a fact, at most `PROGRAM_DEADLINE_S`."""

    def wait(fact: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PROGRAM_DEADLINE_S
        while not fact():
            assert time.monotonic() < deadline, f"not in time: {what}"
            time.sleep(0.02)

    return wait
