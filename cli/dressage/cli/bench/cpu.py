"""CPU time of processes, where the kernel tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

Reading = Mapping[str, float]


def read_cpu(pids: Mapping[str, int]) -> Reading | None:
    """Seconds of user and system time by name; None where there is no `/proc`."""
    try:
        return {name: _seconds(pid) for name, pid in pids.items()}
    except (OSError, IndexError, ValueError):
        return None


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float | None:
    """Seconds that all cores together were busy since the machine started, whoever used them."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except (OSError, ValueError):
        return None
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")
