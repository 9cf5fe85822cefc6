"""Real processes: a nats-server, an orchestrator, a worker and analytics, each of which may be killed at any time."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


class Process:
    """One `dressage` command that can be killed and started again."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dressage.cli.main",
                *self._arguments,
                cwd=HERE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), 60)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


@pytest.fixture
def make_process(tmp_path: Path) -> Callable[..., Process]:
    def make(*arguments: str) -> Process:
        return Process(tmp_path / f"{arguments[0]}.log", *arguments)

    return make


@pytest.fixture(scope="session")
def kill_app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_app", HERE / "kill_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_app"] = module
    spec.loader.exec_module(module)
    return module
