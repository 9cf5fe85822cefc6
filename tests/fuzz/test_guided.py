"""`make fuzz` in its shortest form: all targets together, for some seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

GUIDED: Final = Path(__file__).with_name("guided.py")
HERE: Final = importlib.util.find_spec("atheris") is not None


def guided(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(GUIDED), *arguments], capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.skipif(not HERE, reason=f"atheris has no wheel for Python {sys.version.split()[0]} here")
def test_a_short_look_finds_nothing(tmp_path: Path) -> None:
    done = guided("--together", "--seconds", "4", "--found", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every: Done" in done.stdout


@pytest.mark.skipif(HERE, reason="atheris is installed")
def test_without_atheris_the_reason_is_told() -> None:
    done = guided()
    assert done.returncode == 0
    assert "atheris is not installed" in done.stdout


def test_a_finding_can_be_replayed(tmp_path: Path) -> None:
    found = tmp_path / "crash"
    found.write_bytes(b"order-4711")
    done = guided("names", "--replay", str(found))
    assert done.returncode == 0
    assert "the promise holds" in done.stdout or not HERE
    unknown = guided("nobody", "--replay", str(found))
    assert unknown.returncode == 2 or not HERE
