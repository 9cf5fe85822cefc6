"""A disk that can be filled: a small file system in memory, which only a server sees and which dies with the tests.

It is mounted in a mount namespace of its own, so nothing of it is left however the tests end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from tests.faults.processes import Family, Process  # pyright: ignore[reportMissingImports]

CHUNK_BYTES: Final = 1024 * 1024
MOUNT_S: Final = 20.0
MOUNTED: Final = "mounted"


class SmallDisk:
    """`why_not` says why a folder is on no disk of its own; then it cannot be filled."""

    def __init__(self, family: Family, folder: Path, size_mb: int) -> None:
        self.folder = folder
        self._size_mb = size_mb
        self._holder: Process | None = None
        self._family = family
        self.why_not = ""

    async def mount(self) -> None:
        """Keeps a process that holds the namespace, if there can be one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [name for name in ("unshare", "nsenter", "mount") if shutil.which(name) is None]
        if missing:
            self.why_not = f"there is no {missing[0]}"
            return
        script = (
            f'mount -t tmpfs -o size={self._size_mb}m tmpfs "$0" && echo {MOUNTED} && exec sleep infinity'
        )
        # Whoever is not root may become it in a user namespace, where the system allows that.
        as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        holder = self._family.program(
            "small-disk", "unshare", *as_root, "--mount", "sh", "-c", script, str(self.folder)
        )
        holder.start()
        async with asyncio.timeout(MOUNT_S):
            while MOUNTED not in holder.log():
                if not holder.alive:
                    holder.ended_as_told = True
                    self.why_not = f"no file system can be mounted: {holder.log().strip()}"
                    return
                await asyncio.sleep(0.02)
        self._holder = holder

    def inside(self, *command: str) -> list[str]:
        """The same command where the disk is seen."""
        if self._holder is None:
            return list(command)
        as_user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        return ["nsenter", "--target", str(self._holder.pid), *as_user, "--mount", *command]

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self._seen).free

    def fill(self) -> None:
        """Writes until nothing more fits."""
        for size in (CHUNK_BYTES, 512):
            with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))

    def free(self) -> None:
        """Makes room again."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _seen(self) -> Path:
        """The folder as the processes in the namespace see it."""
        assert self._holder is not None, self.why_not
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    @property
    def _ballast(self) -> Path:
        return self._seen / "ballast"
