"""What is said about servers that do not fit, or do not answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from nats.aio.client import Client

from dressage.brokers.connect import connect
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.server_binary import find_server_binary
from dressage.brokers.server_check import ServerFacts, check_server, parse_version
from dressage.protocol.errors import BadValue, ServerUnreachable, ServerUnsuitable

DEADLINE_S = 10.0

JETSTREAM = 'jetstream {{ store_dir: "{dir}", sync_interval: {sync} }}'


class Started:
    """A nats-server with a configuration of the test's own."""

    def __init__(self, ports: dict[str, list[str]]) -> None:
        self.url = ports["nats"][0]
        self.monitoring_url = ports["monitoring"][0]

    def as_user(self, name: str) -> str:
        return self.url.replace("nats://", f"nats://{name}:secret@")


Start = Callable[[str], Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []

    def run(configuration: str) -> Started:
        config = tmp_path / f"{len(processes)}.conf"
        config.write_text(
            f'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\nports_file_dir: "{tmp_path}"\n{configuration}\n'
        )
        log = config.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen([find_server_binary(), "-c", str(config)], stderr=output)
        processes.append(process)
        ports = tmp_path / f"nats-server_{process.pid}.ports"
        deadline = time.monotonic() + DEADLINE_S
        while not (ports.exists() and ports.read_text().endswith("}")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        return Started(json.loads(ports.read_text()))

    yield run
    for process in processes:
        process.terminate()
        process.wait(DEADLINE_S)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = await connect(url)
    try:
        yield client
    finally:
        await client.close()


async def facts_of(url: str, monitoring_url: str | None = None) -> ServerFacts:
    async with connected(url) as client:
        return await check_server(client, monitoring_url=monitoring_url)


def jetstream(tmp_path: Path, sync: str = "always") -> str:
    return JETSTREAM.format(dir=tmp_path, sync=sync)


def with_system_account(tmp_path: Path, sync: str) -> str:
    return (
        jetstream(tmp_path, sync)
        + """
        accounts {
          SYS { users: [{ user: sys, password: secret }] }
          APP { jetstream: enabled, users: [{ user: app, password: secret }] }
          BARE { users: [{ user: bare, password: secret }] }
        }
        system_account: SYS
        """
    )


# --- version -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def impostor(version: str) -> AsyncIterator[str]:
    """Speaks just enough of the protocol to be taken for a server of that version."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            hello = {"server_id": "X", "server_name": "old-one", "version": version, "max_payload": 1048576}
            await stream.send(b"INFO " + json.dumps(hello).encode() + b"\r\n")
            async for received in stream:
                await stream.send(b"PONG\r\n" * received.count(b"PING"))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"nats://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["2.9.10", "2.12.0", "1.4.1", "unheard-of"])
async def test_an_old_server_is_refused(version: str) -> None:
    async with impostor(version) as url:
        with pytest.raises(
            ServerUnsuitable, match=r"old-one is nats-server .*needs 2\.12\.1.*Upgrade"
        ) as refused:
            await facts_of(url)
    assert refused.value.code == "SERVER_TOO_OLD"
    assert version in refused.value.message
    assert not refused.value.retryable


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.12.1", (2, 12, 1)), ("v2.15.1", (2, 15, 1)), ("2.14.0-beta.2", (2, 14, 0)), ("unheard-of", None)],
)
def test_versions_are_read_as_servers_write_them(text: str, numbers: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == numbers


async def test_the_oldest_server_that_fits_is_accepted(tmp_path: Path, start: Start) -> None:
    """Runs where DRESSAGE_OLDEST_SERVER names a nats-server 2.12.1."""
    oldest = os.environ.get("DRESSAGE_OLDEST_SERVER")
    if not oldest:
        pytest.skip("DRESSAGE_OLDEST_SERVER names no server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NATS_SERVER_BIN", oldest)
        server = start(jetstream(tmp_path))
    facts = await facts_of(server.url, server.monitoring_url)
    assert (facts.version, facts.sync) == ("2.12.1", "always")


# --- JetStream ---------------------------------------------------------------------------------------------


async def test_a_server_without_jetstream_is_refused(start: Start) -> None:
    with pytest.raises(ServerUnsuitable, match=r"without JetStream.*Add `jetstream") as refused:
        await facts_of(start("").url)
    assert refused.value.code == "JETSTREAM_OFF"


async def test_an_account_without_jetstream_is_refused(tmp_path: Path, start: Start) -> None:
    server = start(with_system_account(tmp_path, "always"))
    with pytest.raises(ServerUnsuitable, match=r"not for the account.*jetstream: enabled") as refused:
        await facts_of(server.as_user("bare"))
    assert refused.value.code == "JETSTREAM_OFF_FOR_ACCOUNT"


async def test_a_cluster_without_a_leader_is_refused_for_now(tmp_path: Path, start: Start) -> None:
    cluster = (
        'server_name: a\ncluster {{ name: c, listen: "127.0.0.1:-1", routes: ["nats://127.0.0.1:{port}"] }}'
    )
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        server = start(jetstream(tmp_path) + "\n" + cluster.format(port=nobody.getsockname()[1]))
        with pytest.raises(ServerUnsuitable, match=r"not available.*leader") as refused:
            await facts_of(server.url)
    assert refused.value.code == "JETSTREAM_UNAVAILABLE"
    assert refused.value.retryable


# --- sync policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "policy"), [("always", "always"), ("2m", "lazy"), ("1s", "lazy")])
async def test_the_monitoring_port_tells_the_sync_policy(
    tmp_path: Path, start: Start, setting: str, policy: str
) -> None:
    server = start(jetstream(tmp_path, setting))
    facts = await facts_of(server.url, server.monitoring_url)
    assert facts.sync == policy
    assert [warning.code for warning in facts.warnings] == ([] if policy == "always" else ["SYNC_LAZY"])


async def test_a_server_left_at_its_default_is_reported_as_lazy(tmp_path: Path, start: Start) -> None:
    server = start(f'jetstream {{ store_dir: "{tmp_path}" }}')
    (warning,) = (await facts_of(server.url, server.monitoring_url)).warnings
    assert "up to 120 s before they are on disk" in warning.message
    assert "Set `sync_interval: always`" in warning.message


@pytest.mark.parametrize(("setting", "policy"), [("always", "always"), ("2m", "lazy")])
async def test_an_account_that_imports_the_service_sees_the_sync_policy(
    tmp_path: Path, start: Start, setting: str, policy: str
) -> None:
    server = start(
        jetstream(tmp_path, setting)
        + """
        accounts {
          SYS { exports: [{ service: "$SYS.REQ.SERVER.PING", response_type: stream }] }
          APP {
            jetstream: enabled
            users: [{ user: app, password: secret }]
            imports: [{ service: { account: SYS, subject: "$SYS.REQ.SERVER.PING" } }]
          }
        }
        system_account: SYS
        """
    )
    assert (await facts_of(server.as_user("app"))).sync == policy


async def test_a_policy_that_cannot_be_seen_is_called_unknown(tmp_path: Path, start: Start) -> None:
    server = start(with_system_account(tmp_path, "2m"))
    facts = await facts_of(server.as_user("app"))
    assert facts.sync == "unknown"
    (warning,) = facts.warnings
    assert warning.code == "SYNC_UNKNOWN"
    assert "sync_interval: always" in warning.message


async def test_a_user_who_may_not_ask_gets_unknown_and_not_an_error(tmp_path: Path, start: Start) -> None:
    server = start(
        jetstream(tmp_path)
        + """
        accounts {
          APP {
            jetstream: enabled
            users: [{ user: app, password: secret, permissions: { publish: ["$JS.API.>"] } }]
          }
        }
        """
    )
    assert (await facts_of(server.as_user("app"))).sync == "unknown"


async def test_the_monitoring_port_of_another_server_proves_nothing(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = start(jetstream(tmp_path / "ours", "2m"))
    other = start(jetstream(tmp_path / "other", "always"))
    port = int(other.monitoring_url.rpartition(":")[2])
    monkeypatch.setattr("dressage.brokers.server_check.MONITORING_PORT", port)
    assert (await facts_of(ours.url)).sync == "unknown"
    assert (await facts_of(other.url)).sync == "always"


# --- unreachable -------------------------------------------------------------------------------------------


async def unreachable(url: str, timeout_s: float = 0.6) -> ServerUnreachable:
    started = time.monotonic()
    with pytest.raises(ServerUnreachable) as refused:
        await connect(url, timeout_s=timeout_s)
    assert time.monotonic() - started < timeout_s + 2
    return refused.value


async def test_nobody_listening_is_named_with_the_cure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{unused.getsockname()[1]}"
        error = await unreachable(url)
    assert url in error.message
    assert error.retryable
    assert "nothing listens there" in error.message
    assert "dressage dev" in error.message
    assert "--server" in error.message


async def test_a_silent_port_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = await unreachable(f"nats://127.0.0.1:{silent.getsockname()[1]}")
    assert "not answered in time" in error.message


async def test_an_unknown_host_is_named() -> None:
    error = await unreachable("nats://no-such-host.invalid:4222")
    assert "no-such-host.invalid" in error.message


async def test_wrong_credentials_are_named(tmp_path: Path, start: Start) -> None:
    server = start(with_system_account(tmp_path, "always"))
    error = await unreachable(server.url.replace("nats://", "nats://app:wrong@"))
    assert not error.retryable
    assert "Authorization" in error.message
    assert "credentials" in error.message
    assert "wrong" not in error.message


@pytest.mark.parametrize("url", ["", "nats://", "nats://127.0.0.1:port", "http://127.0.0.1:1"])
async def test_an_address_that_is_none_is_explained(url: str) -> None:
    with pytest.raises(BadValue, match="nats://host:4222"):
        await connect(url)


async def test_a_server_that_starts_a_little_later_is_awaited(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as first:
        url = first.url

    async def start_late() -> None:
        await anyio.sleep(0.5)
        async with EmbeddedServer(tmp_path):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start_late)
        client = await connect(url, timeout_s=DEADLINE_S)
        await client.close()
        tasks.cancel_scope.cancel()
