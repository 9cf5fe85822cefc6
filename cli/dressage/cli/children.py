"""Processes that a command starts: one by one, watched, stopped in order, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dressage.cli.lifeline import LIFELINE
from dressage.protocol.errors import DressageError

STOP_S: Final = 20.0
"""How long a process may drain before it is killed."""

LOG_LINES_SHOWN: Final = 15


class Child:
    """One process, as an async context manager: leaving the block drains it."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = command
        self._folder = folder
        self._process: Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env=_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C goes to every process of the terminal's group; the demo stops its own in their order.
                start_new_session=True,
            )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def process(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def finished(self) -> None:
        """Waits for a process that ends by itself. Raises `DressageError` if it fails."""
        if await self.process.wait() != 0:
            raise self.failure()

    def check(self) -> None:
        """Raises `DressageError` if the process, which should be running, has ended."""
        if self.process.returncode is not None:
            raise self.failure()

    def failure(self) -> DressageError:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        said = "\n".join(["", *lines]) if lines else " It said nothing."
        status = self.process.returncode
        return DressageError(f"{self.name} ended with status {status}.{said}", code="CHILD_ENDED")

    async def stop(self) -> None:
        """Drains the process, or kills it when that takes too long."""
        process = self.process
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def dressage(*arguments: str) -> list[str]:
    """The command line of a `dressage` command, whatever PATH says."""
    return [sys.executable, "-m", "dressage.cli.main", *arguments]


def _environment() -> Mapping[str, str]:
    # What a user has set for own servers must not lead a part of the demo there.
    own = {name: value for name, value in os.environ.items() if not name.startswith("DRESSAGE_")}
    return own | {LIFELINE: "stdin", "PYTHONUNBUFFERED": "1"}
