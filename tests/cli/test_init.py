"""`dressage init` and `dressage completion`: what somebody needs to begin with."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli.init import FILES
from dressage.cli.main import COMMANDS, main
from dressage.protocol.errors import NoAnswer

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

DEADLINE_S: Final = 60.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """In the folder in which the commands of a test run."""
    done = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(tmp_path / name) for name in FILES]
    return tmp_path


def commands(project: Path) -> list[list[str]]:
    """The commands of each block of its README."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (project / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [block.splitlines() for block in blocks]


def python(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_its_tests_pass(project: Path) -> None:
    done = python(project, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_its_tests_can_fail(project: Path) -> None:
    """They test the workflow, and not themselves."""
    text = (project / "orders.py").read_text()
    (project / "orders.py").write_text(text.replace("await release(reservation)", "pass", 1))
    assert "1 failed, 3 passed" in python(project, "pytest", "-q", "-p", "no:cacheprovider").stdout


def test_it_pleases_a_strict_type_checker(project: Path) -> None:
    done = python(project, "mypy", "--strict", "orders.py", "test_orders.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.anyio
async def test_the_commands_of_its_readme_do_what_it_says(project: Path, start: Start) -> None:
    install, serve, walk, triggers = commands(project)
    assert install == ["pip install 'dressage[all]' pytest", "pytest"]
    # Only the port differs from what the reader types: 4222 may be taken on this machine.
    dev = start(*shlex.split(serve[0])[1:], env={"DRESSAGE_PORT": "0"})
    dev.says("ready")
    server = dev.says("server").split()[1].rstrip(",")
    (promised,) = re.findall(r"prints `(.*?)`", (project / "README.md").read_text())
    said = ""
    for line in walk:
        done = start(*shlex.split(line)[1:], env={"DRESSAGE_SERVER": server})
        assert done.ended() == 0, (line, done.said)
        if line.startswith("dressage why"):
            assert "amount = await paid.wait" in done.said
            assert "dressage run post order-1 paid PAYLOAD" in done.said
        if line.startswith("dressage run wait"):
            assert done.said.strip() == promised
        said = done.said
    assert "run-completed" in said
    start(*shlex.split(triggers[0])[1:], env={"DRESSAGE_SERVER": server})
    assert await _asked(server, "shop.orders", b'{"id": "order-2", "item": "lamp", "amount": "5"}') == (
        b'{"ok":true,"run_id":"order-2"}'
    )
    paid = await _asked(server, "shop.payments", b'{"order": "order-2", "payment": "p-1", "amount": "5.00"}')
    assert b'"event_id":"p-1"' in paid
    ended = start("run", "wait", "order-2", env={"DRESSAGE_SERVER": server})
    assert ended.ended() == 0
    assert ended.said.strip() == '"parcel with shelf 7, lamp"'


async def _asked(server: str, subject: str, data: bytes) -> bytes:
    connection = await JetStreamBroker(server).connect("test")
    deadline = time.monotonic() + DEADLINE_S
    try:
        while True:
            try:
                return await connection.request(subject, data, 20)
            except NoAnswer:
                assert time.monotonic() < deadline, f"nobody answers on {subject}"
    finally:
        await connection.close()


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "a" / "b")]).exit_code == 0
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == set(FILES)


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "triggers.toml").write_text("mine")
    done = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert (done.exit_code, "FILE_EXISTS" in done.output) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["triggers.toml"]
    assert (tmp_path / "triggers.toml").read_text() == "mine"


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["init", str(tmp_path / "file" / "orders")])
    assert done.exit_code == 1
    assert "FOLDER_UNUSABLE" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_what_it_needs_to_complete(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_DRESSAGE_COMPLETE" in done.output


def test_what_bash_asks_for_is_completed() -> None:
    def completed(*words: str) -> set[str]:
        env = {
            "_DRESSAGE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        done = subprocess.run(
            [str(Path(sys.executable).parent / "dressage")],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return {line.partition(",")[2] for line in done.stdout.splitlines()}

    assert completed("dressage", "ta") == {"task", "tail"}
    assert completed("dressage", "run", "his") == {"history"}
    assert completed("dressage", "connect", "rep") == {"replay"}
    assert {"--seq", "--all", "--file"} <= completed("dressage", "connect", "replay", "--")
    assert "--json" in completed("dressage", "run", "history", "--")
    assert set(COMMANDS) <= completed("dressage", "")
