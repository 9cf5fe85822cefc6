"""Processes held to a part of a core, so that a small machine shows what more cores would do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 20_000


class CannotHold(Exception):
    """The machine does not let a process be held; the message says why."""


class Quota:
    """A control group, of either version, with `share` of a core for the processes in it."""

    def __init__(self, name: str, share: float) -> None:
        """Raises `CannotHold`."""
        first = (ROOT / "cpu" / "cpu.cfs_quota_us").exists()
        self._folder = (ROOT / "cpu" if first else ROOT) / f"dressage-{os.getpid()}-{name}"
        quota_us = int(share * PERIOD_US)
        try:
            self._folder.mkdir()
            if first:
                (self._folder / "cpu.cfs_period_us").write_text(f"{PERIOD_US}")
                (self._folder / "cpu.cfs_quota_us").write_text(f"{quota_us}")
            else:
                (self._folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        except OSError as error:
            self.remove()
            raise CannotHold(f"no control group can be made: {error}") from error

    @contextlib.contextmanager
    def held(self, pid: int) -> Iterator[None]:
        """The process is in the group while the block runs."""
        (self._folder / "cgroup.procs").write_text(str(pid))
        yield
        (self._folder.parent / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """When no process is in it."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()
