"""A disk that can be filled: a small file system in memory, where this process may mount one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE_MB: Final = 192
CHUNK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class SmallDisk:
    """`why_not` says why the folder is on no disk of its own; then it cannot be filled."""

    folder: Path
    why_not: str = ""

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def fill(self) -> None:
        """Writes until nothing more fits."""
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(CHUNK_BYTES))
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    def free(self) -> None:
        """Makes room again."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A folder on a disk of its own, if that can be had; else an ordinary folder that says why it is none."""
    folder.mkdir(parents=True, exist_ok=True)
    why_not = _mount(folder)
    try:
        yield SmallDisk(folder, why_not)
    finally:
        if not why_not:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _mount(folder: Path) -> str:
    if os.geteuid() != 0:
        return "only root may mount a file system"
    mount = shutil.which("mount")
    if mount is None:
        return "there is no mount program"
    options = ["-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run([mount, *options], capture_output=True, text=True, check=False)
    return "" if mounted.returncode == 0 else f"mounting a tmpfs failed: {mounted.stderr.strip()}"
