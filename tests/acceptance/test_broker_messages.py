"""What the commands say about a server that they cannot use."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from dressage.brokers.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.usefixtures("anyio_backend")
"""The server is an async fixture; here, where no test is async, it may be the first to want it."""

NOWHERE: Final = "nats://127.0.0.1:1"
COMMANDS: dict[str, list[str]] = {
    "orchestrator": ["orchestrator"],
    "worker": ["worker", "nothing_special:app"],
    "run-start": ["run", "start", "order"],
    "run-get": ["run", "get", "r"],
    "run-wait": ["run", "wait", "r"],
    "run-history": ["run", "history", "r"],
    "workflow-list": ["workflow", "list"],
    "workflow-deploy": ["deploy", "nothing_special"],
    "query": ["query", "FROM runs"],
    "analytics": ["analytics", "--db", "a.duckdb"],
}
APP = """
from dressage.flow import App, workflow
app = App("nothing-special")

@app.task
async def step() -> int:
    return 1

@workflow
async def nothing_special() -> int:
    return await step()
"""


UNUSABLE = ["hello world", "http://127.0.0.1:1", "", "nats://"]
BAD_NAMESPACES = ["a.b", "A", "*"]


@dataclass(frozen=True)
class Ended:
    code: int
    said: str


class Call:
    """A `dressage` command that runs by itself, so that several may wait for their time-outs together."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "nothing_special.py").write_text(APP)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dressage.cli.main", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> Ended:
        try:
            said, _ = self._process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        return Ended(self._process.returncode, said)


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    ended = Call(folder, *arguments).end()
    return ended.code, ended.said


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """What every command says of a server that is not there, of addresses that are none, and of bad namespaces."""
    folder = tmp_path_factory.mktemp("lost")
    calls = {name: Call(folder, *command, "--server", NOWHERE) for name, command in COMMANDS.items()}
    calls |= {url: Call(folder, "workflow", "list", "--server", url) for url in UNUSABLE}
    for name in BAD_NAMESPACES:
        calls[name] = Call(folder, "workflow", "list", "--server", NOWHERE, "--namespace", name)
    return {name: each.end() for name, each in calls.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unreachable_server_is_named_with_a_cure_and_no_traceback(
    lost: dict[str, Ended], command: str
) -> None:
    ended = lost[command]
    assert ended.code > 0
    assert "127.0.0.1:1" in ended.said
    assert "dressage dev" in ended.said or "--server" in ended.said
    assert "Traceback" not in ended.said


@pytest.mark.parametrize("url", UNUSABLE)
def test_an_address_that_is_none_is_refused_without_a_traceback(lost: dict[str, Ended], url: str) -> None:
    assert lost[url].code > 0
    assert lost[url].said.strip()
    assert "Traceback" not in lost[url].said


@pytest.mark.parametrize("name", BAD_NAMESPACES)
def test_a_bad_namespace_is_told_before_a_server_is_looked_for(lost: dict[str, Ended], name: str) -> None:
    assert lost[name].code > 0
    assert "namespace" in lost[name].said.lower()


@pytest.mark.parametrize("name", BAD_NAMESPACES)
def test_a_bad_namespace_is_refused_with_the_rule(server: EmbeddedServer, tmp_path: Path, name: str) -> None:
    code, said = call(tmp_path, "workflow", "list", "--server", server.url, "--namespace", name)
    assert code > 0
    assert "NAME_INVALID" in said
    assert "Traceback" not in said


def test_dev_on_a_busy_port_says_so(server: EmbeddedServer, tmp_path: Path) -> None:
    code, said = call(tmp_path, "dev", "--port", str(server.port), "--data", "data", "--no-analytics")
    assert code != 0
    assert str(server.port) in said
    assert "Traceback" not in said


def test_dev_on_data_in_use_says_so(start: Start, tmp_path: Path) -> None:
    first = start("dev", "--port", "0", "--data", str(tmp_path / "data"), "--no-analytics")
    first.says("ready")
    code, said = call(tmp_path, "dev", "--port", "0", "--data", str(tmp_path / "data"), "--no-analytics")
    assert code != 0
    assert str(tmp_path / "data") in said
    assert "Traceback" not in said


def plain_server(binary: str, folder: Path, config: str) -> tuple[subprocess.Popen[bytes], str]:
    """A nats-server that somebody else configured."""
    (folder / "own.conf").write_text(f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n{config}')
    process = subprocess.Popen(
        [binary, "-c", str(folder / "own.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 10
    while not (found := list(folder.glob("*.ports"))):
        assert time.monotonic() < end, "the server did not start"
        time.sleep(0.02)
    url: str = json.loads(found[0].read_text())["nats"][0]
    return process, url


@pytest.fixture
def binary() -> str:
    return str(Path(sys.executable).with_name("nats-server"))


@pytest.mark.parametrize("command", ["orchestrator", "dev"])
def test_a_server_without_jetstream_is_refused_with_the_cure(
    tmp_path: Path, binary: str, command: str
) -> None:
    process, url = plain_server(binary, tmp_path, "")
    try:
        code, said = call(tmp_path, command, "--server", url)
    finally:
        process.terminate()
        process.wait(10)
    assert code != 0
    assert "JETSTREAM_OFF" in said
    assert "jetstream" in said.lower()
    assert "Traceback" not in said


def test_a_server_with_lazy_sync_is_reported_at_start(tmp_path: Path, binary: str, start: Start) -> None:
    config = (
        f'jetstream {{ store_dir: "{tmp_path}/js" }}\nsystem_account: SYS\n'
        + """
accounts {
  SYS { exports: [{ service: "$SYS.REQ.SERVER.PING", response_type: stream }] }
  A {
    jetstream: enabled
    users: [{ user: a }]
    imports: [{ service: { account: SYS, subject: "$SYS.REQ.SERVER.PING" } }]
  }
}
no_auth_user: a
"""
    )
    process, url = plain_server(binary, tmp_path, config)
    try:
        program = start("orchestrator", "--server", url)
        program.says("sync_interval")
        assert "always" in program.said
        program.close()
    finally:
        process.terminate()
        process.wait(10)


def test_an_unknown_run_is_an_error_of_the_command_without_a_traceback(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    code, said = call(tmp_path, "run", "get", "nobody", "--server", server.url, "--namespace", "never-served")
    assert code != 0
    assert "never-served" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("given", ["{", "[1]", "5", '"a"', "@missing.json"])
def test_input_that_is_no_json_object_is_refused_by_the_command(
    server: EmbeddedServer, tmp_path: Path, given: str
) -> None:
    code, said = call(tmp_path, "run", "start", "order", "--input", given, "--server", server.url)
    assert code != 0
    assert "Traceback" not in said
    assert "input" in said.lower() or "missing.json" in said
