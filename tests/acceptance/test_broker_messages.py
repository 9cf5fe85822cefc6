"""What the commands say about a server that they cannot use."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from dressage.brokers.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

NOWHERE: Final = "nats://127.0.0.1:1"
COMMANDS: dict[str, list[str]] = {
    "orchestrator": ["orchestrator"],
    "worker": ["worker", "nothing_special:app"],
    "run-start": ["run", "start", "order"],
    "run-get": ["run", "get", "r"],
    "run-wait": ["run", "wait", "r"],
    "run-history": ["run", "history", "r"],
    "workflow-list": ["workflow", "list"],
    "workflow-deploy": ["workflow", "deploy", "nothing_special"],
    "query": ["query", "FROM runs"],
    "analytics": ["analytics", "--db", "a.duckdb"],
}
APP = '''
from dressage.flow import App, workflow
app = App("nothing-special")

@workflow
async def nothing_special() -> int:
    return 1
'''


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "nothing_special.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "-m", "dressage.cli.main", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unreachable_server_is_named_with_a_cure_and_no_traceback(tmp_path: Path, command: str) -> None:
    code, said = call(tmp_path, *COMMANDS[command], "--server", NOWHERE)
    assert code not in (0, -1)
    assert "SERVER_UNREACHABLE" in said or "127.0.0.1:1" in said
    assert "127.0.0.1:1" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("url", ["hello world", "http://127.0.0.1:1", "", "nats://"])
def test_an_address_that_is_none_is_refused_without_a_traceback(tmp_path: Path, url: str) -> None:
    code, said = call(tmp_path, "workflow", "list", "--server", url)
    assert code != 0
    assert "Traceback" not in said
    assert said.strip()


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
    import json

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
def test_a_server_without_jetstream_is_refused_with_the_cure(tmp_path: Path, binary: str, command: str) -> None:
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
    """The embedded server's own default shows the policy; here it is asked of the monitoring port."""
    config = f'jetstream {{ store_dir: "{tmp_path}/js" }}\nsystem_account: SYS\n' + """
accounts {
  SYS { exports: [{ service: "$SYS.REQ.SERVER.PING", response_type: stream }] }
  A { jetstream: enabled, users: [{ user: a }], imports: [{ service: { account: SYS, subject: "$SYS.REQ.SERVER.PING" } }] }
}
no_auth_user: a
"""
    process, url = plain_server(binary, tmp_path, config)
    try:
        program = start("orchestrator", "--server", url)
        program.says("sync_interval")
        assert "always" in program.said
        program.close()
    finally:
        process.terminate()
        process.wait(10)


def test_an_unknown_run_is_an_error_of_the_command_without_a_traceback(server: EmbeddedServer, tmp_path: Path) -> None:
    code, said = call(tmp_path, "run", "get", "nobody", "--server", server.url, "--namespace", "never-served")
    assert code != 0
    assert "never-served" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("given", ["{", "[1]", "5", '"a"', "@missing.json"])
def test_input_that_is_no_json_object_is_refused_by_the_command(server: EmbeddedServer, tmp_path: Path, given: str) -> None:
    code, said = call(tmp_path, "run", "start", "order", "--input", given, "--server", server.url)
    assert code != 0
    assert "Traceback" not in said
    assert "input" in said.lower() or "missing.json" in said


@pytest.mark.parametrize("namespace", ["a.b", "A", "*"])
def test_a_bad_namespace_is_refused_by_every_command(tmp_path: Path, namespace: str) -> None:
    for command in ("orchestrator", "workflow-list", "run-get"):
        code, said = call(tmp_path, *COMMANDS[command], "--server", NOWHERE, "--namespace", namespace)
        assert code != 0
        assert "Traceback" not in said
        assert "namespace" in said.lower()
