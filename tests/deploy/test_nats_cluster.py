"""The configuration that the compose file mounts, run by three real servers on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from tests.faults.cluster import SERVERS, Servers  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family  # pyright: ignore[reportMissingImports]

from dressage.brokers.connect import connect
from dressage.brokers.server_check import ServerFacts, check_server
from dressage.protocol.errors import BrokerError

DEADLINE_S: Final = 60.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Family(tmp_path) as family:
        servers = Servers(family)
        servers.start()
        yield servers


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
async def test_three_servers_form_a_cluster_that_writes_before_it_acknowledges(servers: Servers) -> None:
    client = await connect(servers.url, timeout_s=DEADLINE_S)
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
