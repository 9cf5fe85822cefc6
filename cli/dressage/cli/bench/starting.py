"""Waiting for what a benchmark has started."""

from __future__ import annotations

import asyncio
import time

from dressage.cli.children import Child
from dressage.client import Client
from dressage.protocol.errors import DressageError


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
