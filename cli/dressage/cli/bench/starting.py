"""What a benchmark starts, and waiting for it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.children import Child, dressage
from dressage.client import Client
from dressage.protocol.errors import DressageError


class Started(NamedTuple):
    url: str
    orchestrator: Child
    client: Client
    server_pid: int


@asynccontextmanager
async def started_engine() -> AsyncIterator[Started]:
    """A server and an orchestrator as processes of their own, and a client in this one. Nothing is left of them."""
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        base = Path(folder)
        async with EmbeddedServer(base / "engine") as server:
            child = Child("orchestrator", dressage("orchestrator", "--server", server.url), base, base)
            async with child as orchestrator, await namespace_client(server.url, orchestrator) as client:
                yield Started(server.url, orchestrator, client, server.pid)


async def namespace_client(url: str, orchestrator: Child) -> Client:
    """A client that is not connected yet, once there is a namespace to connect to."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        orchestrator.check()
        try:
            async with Client(url):
                return Client(url, actor="bench")
        except DressageError:
            await asyncio.sleep(0.1)
    raise orchestrator.failure()
