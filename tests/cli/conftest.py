"""An engine with a small application, and the commands that talk to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from dressage.cli.main import main

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

GREETINGS = """
from dressage.flow import App, WorkflowFailure, sleep, workflow

app = App("greetings")


class NoName(WorkflowFailure): ...


@app.task
async def greet(name: str) -> str:
    return f"Hello {name}"


@workflow
async def greeting(name: str) -> str:
    if name == "":
        raise NoName("say who")
    return await greet(name)


@workflow
async def napping(seconds: float) -> None:
    await sleep(seconds)
"""


@dataclass(frozen=True)
class Engine:
    """`dressage dev` with the application `greetings`: its address, and a folder for more modules."""

    url: str
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"DRESSAGE_SERVER": self.url, "DRESSAGE_ACTOR": "tests", "NO_COLOR": "1"}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `dressage ARGUMENTS` to its end, as a process in the folder of the application."""
        return subprocess.run(
            [sys.executable, "-m", "dressage.cli.main", *arguments],
            cwd=self.folder,
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def invoke(self, *arguments: str, stdin: str = "") -> Result:
        """The same inside of this process, which is faster; for commands that import no module of the user's."""
        with contextlib.chdir(self.folder):
            return CliRunner().invoke(main, arguments, input=stdin, env=self.env)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "greetings.py").write_text(GREETINGS)
    process = subprocess.Popen(
        [sys.executable, "-m", "dressage.cli.main", "dev", "greetings:app", "--port", "0", "--no-analytics"],
        cwd=folder,
        env=os.environ | {"DRESSAGE_LIFELINE": "stdin"},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdin is not None
    url = ""
    for line in process.stderr:
        if line.startswith("server"):
            url = line.split()[1].rstrip(",")
        if line.startswith("ready"):
            break
    assert url, "dressage dev did not start"
    yield Engine(url, folder)
    process.terminate()
    process.wait(30)
    process.stderr.close()
    process.stdin.close()


@pytest.fixture
def dev(start: Start, tmp_path: Path) -> str:
    """The address of an engine of this test alone, without an application."""
    program = start("dev", "--port", "0", "--no-analytics", "--data", str(tmp_path / "data"))
    program.says("ready")
    return program.says("server").split()[1].rstrip(",")
