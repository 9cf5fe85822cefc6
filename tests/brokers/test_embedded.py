"""The embedded server, against the real binary."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest

from dressage.brokers import embedded
from dressage.brokers.connect import connect
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.server_binary import find_server_binary
from dressage.protocol.errors import EmbeddedServerError, ServerUnsuitable

DEADLINE_S = 15.0

OWNER = """
import sys
from pathlib import Path
import anyio
from dressage.brokers import embedded
from dressage.brokers.embedded import EmbeddedServer

async def main():
    async with EmbeddedServer(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""
"""A program that starts a server, tells its process id, and waits to be killed."""


def until(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The other program, and the process id of its server."""
    process = start_owner(tmp_path, OWNER)
    assert process.stdout is not None
    yield process, int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def start_owner(data_dir: Path, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )


async def publish(url: str, text: str) -> None:
    client = await connect(url)
    js = client.jetstream()
    await js.add_stream(name="kept", subjects=["kept"])
    await js.publish("kept", text.encode())
    await client.close()


async def read_last(url: str) -> str:
    client = await connect(url)
    message = await client.jetstream().get_last_msg("kept", "kept")
    await client.close()
    return (message.data or b"").decode()


# --- starting and stopping ---------------------------------------------------------------------------------


async def test_it_is_ready_durable_and_on_loopback(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        assert server.facts is not None
        assert server.facts.sync == "always"
        assert server.facts.warnings == ()
        assert server.facts.max_payload_bytes == 1024 * 1024
        addresses = {
            c.laddr.ip for c in psutil.Process(server.pid).net_connections("tcp") if c.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no IPv6")
async def test_it_listens_on_ipv6_loopback_too(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, host="::1") as server:
        assert server.url == f"nats://[::1]:{server.port}"


async def test_lazy_sync_can_be_asked_for_and_is_reported(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, sync="lazy") as server:
        assert server.facts is not None
        assert server.facts.sync == "lazy"


async def test_after_stop_nothing_runs(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    pid = server.pid
    await server.stop()
    assert not server.running
    assert not psutil.pid_exists(pid)
    await server.stop()  # once more does no harm


async def test_data_and_port_are_kept_between_starts(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as first:
        await publish(first.url, "hello")
    async with EmbeddedServer(tmp_path) as second:
        assert second.port == first.port
        assert await read_last(second.url) == "hello"


async def test_an_acknowledged_write_survives_a_kill(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await publish(server.url, "hello")
        url = server.url
        server.kill()
        await server.wait()
        await server.start()
        assert server.url == url
        assert await read_last(url) == "hello"


async def test_a_connected_client_finds_the_server_again(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        client = await connect(server.url)
        server.kill()
        await server.wait()
        await server.start()
        with anyio.fail_after(DEADLINE_S):
            while not client.is_connected:
                await anyio.sleep(0.02)
        await client.flush()
        await client.close()


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    for delay_s in (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07):
        server = EmbeddedServer(tmp_path)
        with anyio.move_on_after(delay_s):
            await server.start()
            await server.stop()
        assert not server.running
    async with EmbeddedServer(tmp_path) as server:
        assert server.running


async def test_the_loop_goes_on_while_the_server_starts_and_stops(tmp_path: Path) -> None:
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            before = time.perf_counter()
            await anyio.sleep(0.001)
            longest_s = max(longest_s, time.perf_counter() - before)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        async with EmbeddedServer(tmp_path):
            pass
        tasks.cancel_scope.cancel()
    # The whole takes some 100 ms; the bound is wide because other tests may use the same cores.
    assert longest_s < 0.25


# --- no orphan ---------------------------------------------------------------------------------------------


def test_the_server_ends_when_its_owner_is_killed(owner: tuple[subprocess.Popen[str], int]) -> None:
    process, server_pid = owner
    assert psutil.pid_exists(server_pid)
    process.send_signal(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(server_pid), "the server ended")


def test_the_server_ends_even_when_a_fork_of_the_owner_lives_on(tmp_path: Path) -> None:
    forking = OWNER.replace(
        "print(server.pid, flush=True)",
        "import os, time; fork = os.fork(); fork or time.sleep(60); print(server.pid, fork, flush=True)",
    )
    process = start_owner(tmp_path, forking)
    assert process.stdout is not None
    server_pid, fork_pid = map(int, process.stdout.readline().split())
    try:
        process.kill()
        until(lambda: not psutil.pid_exists(server_pid), "the server ended")
        assert psutil.pid_exists(fork_pid)
    finally:
        os.kill(fork_pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


async def test_a_start_right_after_the_owner_was_killed_works(
    tmp_path: Path, owner: tuple[subprocess.Popen[str], int]
) -> None:
    process, _ = owner
    process.send_signal(signal.SIGKILL)
    async with EmbeddedServer(tmp_path) as server:
        assert server.running


async def test_a_server_whose_supervisor_was_killed_is_ended_by_stop(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        pid = server.pid
        supervisor = psutil.Process(pid).parent()
        assert supervisor is not None
        supervisor.kill()
        await server.wait()
        assert psutil.pid_exists(pid)
    await anyio.to_thread.run_sync(until, lambda: not is_alive(pid), "the server ended")


def is_alive(pid: int) -> bool:
    """A process that nobody has waited for yet is dead all the same."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- clear errors ------------------------------------------------------------------------------------------


async def test_a_second_start_on_the_same_data_is_refused(
    tmp_path: Path, owner: tuple[subprocess.Popen[str], int]
) -> None:
    process, server_pid = owner
    with pytest.raises(EmbeddedServerError, match=f"in use .* process {process.pid}") as refused:
        await EmbeddedServer(tmp_path).start()
    assert refused.value.code == "EMBEDDED_DATA_IN_USE"
    assert psutil.pid_exists(server_pid)


async def test_a_taken_port_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"port {port} ") as refused:
            await EmbeddedServer(tmp_path, port=port).start()
    assert refused.value.code == "EMBEDDED_PORT_IN_USE"


async def test_a_taken_port_that_was_only_remembered_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "server.port").write_text(f"{taken.getsockname()[1]}\n")
        async with EmbeddedServer(tmp_path) as server:
            assert server.port != taken.getsockname()[1]


async def test_a_failed_start_quotes_the_log(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("a file where the server wants a folder")
    with pytest.raises(
        EmbeddedServerError, match=r"(?s)The end of its log:.*(jetstream|directory)"
    ) as refused:
        await EmbeddedServer(tmp_path).start()
    assert refused.value.code == "EMBEDDED_START_FAILED"


async def test_a_server_with_data_has_the_time_that_it_takes_to_read_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some million messages take minutes after a crash; a server without any that is not ready soon never is."""
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.0)
    monkeypatch.setattr(embedded, "TELL_S", 0.0)
    with pytest.raises(EmbeddedServerError, match="not ready after 0 s"):
        await EmbeddedServer(tmp_path / "new").start()
    (tmp_path / "known" / "jetstream").mkdir(parents=True)
    async with EmbeddedServer(tmp_path / "known") as server:
        assert server.running
    assert "nats-server reads its data since" in caplog.text


async def test_a_binary_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    fake = tmp_path / "nats-server"
    fake.write_text("#!/nonexistent/interpreter\n")
    fake.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="could not be executed"):
        await EmbeddedServer(tmp_path / "data", binary=fake).start()


async def test_an_old_binary_is_named_as_the_cause(tmp_path: Path) -> None:
    old = tmp_path / "nats-server"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "nats-server: v2.9.10" && exit 0\nexit 1\n')
    old.chmod(0o755)
    with pytest.raises(ServerUnsuitable, match=r"2\.9\.10.*needs 2\.12\.1") as refused:
        await EmbeddedServer(tmp_path / "data", binary=old).start()
    assert refused.value.code == "SERVER_TOO_OLD"


async def test_a_missing_binary_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"pip install 'dressage\[server\]'") as refused:
        await EmbeddedServer(tmp_path, binary=tmp_path / "none").start()
    assert refused.value.code == "EMBEDDED_BINARY_MISSING"


def test_the_environment_may_name_the_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "my-server"
    named.write_text("")
    named.chmod(0o755)
    monkeypatch.setenv("NATS_SERVER_BIN", str(named))
    assert find_server_binary() == str(named)


def test_the_binary_of_this_environment_is_found_without_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATS_SERVER_BIN", raising=False)
    monkeypatch.setenv("PATH", "")
    assert Path(find_server_binary()).parent == Path(sys.executable).parent


def test_a_host_that_others_could_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="loopback only") as refused:
        EmbeddedServer(tmp_path, host="0.0.0.0")
    assert refused.value.code == "EMBEDDED_HOST_REFUSED"
