"""The commands that stay: how they start, and how they stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from dressage.brokers.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

Eventually = Callable[[Callable[[], bool], str], None]
DEV = ("dev", "--port", "0", "--no-analytics", "--data", "data")


def servers_of(pid: int) -> list[psutil.Process]:
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if "nats-server" in process.name()]


def test_dev_stops_on_sigterm_with_exit_code_0(start: Start) -> None:
    program = start(*DEV)
    program.says("ready")
    assert program.drain() == 0, program.said


def test_dev_leaves_no_server_behind(start: Start) -> None:
    program = start(*DEV)
    program.says("ready")
    (server,) = servers_of(program.pid)
    program.drain()
    assert not server.is_running()


def test_dev_that_is_killed_leaves_no_server_behind(start: Start, eventually: Eventually) -> None:
    program = start(*DEV)
    program.says("ready")
    (server,) = servers_of(program.pid)
    program.process.kill()
    eventually(lambda: not server.is_running(), "the server is gone")


def test_dev_keeps_its_data_between_starts(start: Start) -> None:
    first = start(*DEV, "--shards", "3")
    first.says("3 shards")
    first.says("ready")
    first.drain()
    assert "3 shards" in start(*DEV).says("engine")


def test_dev_on_a_port_in_use_says_what_to_do(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start("dev", "--port", str(port), "--no-analytics", "--data", "data")
        assert program.ended() == 1
    assert program.said.startswith("EMBEDDED_PORT_IN_USE: ")
    assert "--port 0" in program.said


def test_dev_ends_when_its_server_does(start: Start) -> None:
    program = start(*DEV)
    program.says("ready")
    servers_of(program.pid)[0].kill()
    assert program.ended() == 1
    assert "PART_ENDED: the embedded server ended unexpectedly" in program.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orchestrator_stops_in_good_order(start: Start, dev: str, number: signal.Signals) -> None:
    program = start("orchestrator", "--server", dev, "--namespace", "other")
    program.says("serving namespace other")
    program.process.send_signal(number)
    assert program.ended() == 0
    assert "stopped" in program.said


def test_an_orchestrator_with_another_number_of_shards_is_refused(start: Start, dev: str) -> None:
    program = start("orchestrator", "--server", dev, "--shards", "2")
    assert program.ended() == 1
    assert "SHARDS_DIFFER: namespace 'default' has 1 shards, not 2" in program.said


def test_a_worker_of_a_namespace_that_is_not_there_waits_for_it_and_says_so(
    start: Start, dev: str, tmp_path: Path
) -> None:
    (tmp_path / "greetings.py").write_text(
        "from dressage.flow import App\napp = App('one')\n@app.task\ndef one() -> int:\n    return 1\n"
    )
    program = start("worker", "greetings:app", "--server", dev, "--namespace", "nowhere")
    program.says("namespace 'nowhere' does not exist yet: waiting for an orchestrator")
    assert program.drain() == 0, program.said


def test_a_worker_without_handlers_is_refused(start: Start, dev: str, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("from dressage.flow import App\napp = App('empty')\n")
    program = start("worker", "empty:app", "--server", dev)
    assert program.ended() == 1
    assert "APP_EMPTY: " in program.said


async def test_a_server_with_lazy_sync_is_a_warning_with_its_cure(start: Start, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "lazy", sync="lazy") as server:
        program = start("orchestrator", "--server", server.url)
        line = program.says("WARNING SYNC_LAZY")
        assert "Set `sync_interval: always`" in line
        program.says("serving namespace")
        assert program.drain() == 0


def test_metrics_are_served_where_asked(start: Start, dev: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    program = start("orchestrator", "--server", dev, "--namespace", "other", "--metrics-port", str(port))
    program.says("serving namespace other")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"dressage_states_total" in answer


def test_a_process_whose_parent_is_gone_drains(start: Start, dev: str) -> None:
    program = start("orchestrator", "--server", dev, "--namespace", "other")
    program.says("serving namespace other")
    assert program.process.stdin is not None
    program.process.stdin.close()
    assert program.ended() == 0
