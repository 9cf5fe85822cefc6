"""Real processes that can be killed, paused and started again, and that never outlive whoever started them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dressage.client import Client
from dressage.protocol.errors import DressageError

END_S: Final = 60.0

_REAPER: Final = """
import os, signal
while os.read(0, 1):
    pass
os.killpg(os.getpgrp(), signal.SIGKILL)
"""
"""Waits for the end of a pipe whose other end only the tests hold, and then kills its process group.

The kernel closes the pipe however the tests end, and SIGKILL ends a process that is paused too.
"""


class Family:
    """A process group of its own: everything that is started in it dies with this process, at the latest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self._reaper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-S", "-c", _REAPER]
        self._reaper = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reaper is not None
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait(END_S)
        for process in self.processes.values():
            process.reap()

    @property
    def group(self) -> int:
        """The process group's id. It belongs to the reaper, so no other process can ever get it meanwhile."""
        assert self._reaper is not None
        return self._reaper.pid

    def program(
        self, name: str, *command: str, cwd: Path | None = None, env: Mapping[str, str] = {}
    ) -> Process:
        """A process that is not started yet; its output goes to `<name>.log`."""
        self.processes[name] = Process(self, name, command, cwd or self.folder, env)
        return self.processes[name]

    def dressage(self, name: str, *arguments: str, cwd: Path | None = None) -> Process:
        """A `dressage` command as such a process."""
        return self.program(name, sys.executable, "-m", "dressage.cli.main", *arguments, cwd=cwd)

    def logs(self, size: int = 3000) -> str:
        """The end of every log, for a test that fails."""
        return "\n".join(
            f"---- log of {name}:\n{each.log()[-size:]}" for name, each in self.processes.items()
        )


class Process:
    """One program, which may be started again as often as it has ended."""

    def __init__(
        self, family: Family, name: str, command: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self._family = family
        self._command = list(command)
        self._cwd = cwd
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.ended_as_told = True
        """False from its start until somebody here ends it."""

    @property
    def log_path(self) -> Path:
        return self._family.folder / f"{self.name}.log"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> None:
        if self.alive:
            raise RuntimeError(f"{self.name} is running already")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **self._env},
                process_group=self._family.group,
            )
        self.starts += 1
        self.ended_as_told = False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises `RuntimeError` unless it runs."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} is not running: {self.log()[-1000:]}")
        return self._process.pid

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        os.kill(self.pid, number)
        self.ended_as_told = True
        return await self.ended()

    async def ended(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(END_S):
            while (code := self._process.poll()) is None:
                await asyncio.sleep(0.01)
        return code

    async def kill(self) -> None:
        """`kill -9`, and the kernel is done with it when this returns."""
        await self.end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM: an orderly stop."""
        return await self.end(signal.SIGTERM)

    async def stop_or_kill(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL if it has not ended by then, as a container's runtime does."""
        os.kill(self.pid, signal.SIGTERM)
        self.ended_as_told = True
        try:
            async with asyncio.timeout(patience_s):
                await self.ended()
        except TimeoutError:
            print(f"{self.name} did not end within {patience_s:g} s of SIGTERM, and is killed")
            await self.kill()

    def reap(self) -> None:
        if self._process is not None:
            self._process.wait(END_S)


PORTS: Final = range(20_000, 32_000)
"""Below those that connections of other tests get from the kernel, which may take a port before its server does."""


def free_ports(count: int) -> list[int]:
    """Servers of a cluster must know the others' ports before any of them runs, so they are chosen here."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = random.choice(PORTS)
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


async def connected(url: str, patience_s: float = END_S) -> Client:
    """A client, once an orchestrator has made the namespace. Raises `TimeoutError`."""
    async with asyncio.timeout(patience_s):
        while True:
            client = Client(url, patience_s=patience_s)
            try:
                await client.connect()
            except DressageError:
                await asyncio.sleep(0.1)
            else:
                return client
