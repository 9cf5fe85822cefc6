"""The configuration that the compose file mounts, run by three real servers on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client

from dressage.brokers.connect import connect
from dressage.brokers.server_binary import find_server_binary
from dressage.brokers.server_check import ServerFacts, check_server
from dressage.protocol.errors import BrokerError

CONFIG: Final = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"
SERVERS: Final = 3
DEADLINE_S: Final = 60.0


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Where the three servers listen for clients."""
    ports = free_ports(3 * SERVERS)
    clients, routes, monitors = ports[:SERVERS], ports[SERVERS : 2 * SERVERS], ports[2 * SERVERS :]
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as logs:
        for index in range(SERVERS):
            environment = {
                "NATS_NAME": f"nats-{index + 1}",
                "NATS_LISTEN": f"127.0.0.1:{clients[index]}",
                "NATS_MONITOR": f"127.0.0.1:{monitors[index]}",
                "NATS_CLUSTER_LISTEN": f"127.0.0.1:{routes[index]}",
                "NATS_ROUTES": json.dumps([f"nats://127.0.0.1:{port}" for port in routes]),
                "NATS_DATA": str(tmp_path / f"nats-{index + 1}"),
            }
            log = logs.enter_context((tmp_path / f"nats-{index + 1}.log").open("wb"))
            command = [find_server_binary(), "-c", str(CONFIG)]
            processes.append(subprocess.Popen(command, env=os.environ | environment, stderr=log))
        yield [f"nats://127.0.0.1:{port}" for port in clients]
        for process in processes:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Every server must know the others' ports before any of them runs, so they are chosen here."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


async def facts_when_formed(client: Client) -> ServerFacts:
    """Poll until the cluster has a leader and all three servers answer."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            with contextlib.suppress(BrokerError):
                facts = await check_server(client)
                if facts.sync != "unknown" and facts.servers == SERVERS:
                    return facts
            await anyio.sleep(0.1)


async def add_replicated_stream(client: Client) -> int:
    """Return the number of replicas, once as many servers are ready to hold one."""
    js = client.jetstream()
    with anyio.fail_after(DEADLINE_S):
        while True:
            with contextlib.suppress(nats.js.errors.APIError, nats.errors.TimeoutError):
                info = await js.add_stream(name="replicated", subjects=["replicated"], num_replicas=SERVERS)
                return info.config.num_replicas or 0
            await anyio.sleep(0.1)


@pytest.mark.slow
async def test_three_servers_form_a_cluster_that_writes_before_it_acknowledges(urls: list[str]) -> None:
    client = await connect(",".join(urls), timeout_s=DEADLINE_S)
    try:
        facts = await facts_when_formed(client)
        assert facts.cluster == "dressage"
        assert facts.sync == "always"
        assert facts.warnings == ()
        assert await add_replicated_stream(client) == SERVERS
        ack = await client.jetstream().publish("replicated", b"hello", timeout=DEADLINE_S)
        assert ack.seq == 1
    finally:
        await client.close()
