"""The README's first workflow is what a reader gets."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

REPOSITORY: Final = Path(__file__).resolve().parents[2]
README: Final = (REPOSITORY / "README.md").read_text()
LINES_MAX: Final = 40


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def first() -> str:
    (source,) = blocks("python")
    return source


def command(beginning: str) -> list[str]:
    """The one command of the README that begins so, without the name of the program."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(beginning)]
    assert len(lines) == 1, f"{beginning!r} stands there {len(lines)} times"
    return shlex.split(lines[0])[1:]


def test_the_first_workflow_is_short(first: str) -> None:
    assert len(first.splitlines()) < LINES_MAX


def test_the_first_workflow_runs_as_the_reader_is_told(first: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(first)
    # Only the port differs from what the reader types: 4222 may be taken on this machine.
    dev = start(*command("dressage dev"), env={"DRESSAGE_PORT": "0"})
    dev.says("ready")
    server = dev.says("server").split()[1].rstrip(",")
    run = start(*command("dressage run start"), env={"DRESSAGE_SERVER": server})
    assert run.ended() == 0, run.said
    (promised,) = re.findall(r"It prints `(.*?)`", README)
    assert run.said.splitlines()[-1] == promised


def test_the_first_workflow_pleases_a_strict_type_checker(first: str, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(first)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(REPOSITORY / "pyproject.toml"),
            str(tmp_path / "first.py"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_exist(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_every_link_leads_to_something() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_every_command_exists_with_the_options_that_are_shown() -> None:
    from dressage.cli.main import COMMANDS

    shown = {
        line.split()[1]
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("dressage ")
    }
    assert shown <= set(COMMANDS)
