"""What memory a process has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def memory_mib(pid: int, what: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int:
    """Now, or the most it ever had (`VmHWM`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) // 1024
