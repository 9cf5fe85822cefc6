"""Another orchestrator raises throughput where there is a core for it, and takes it along when it leaves.

Each orchestrator is held to a tenth of a core, so that two of them, the server, the worker and the client find room on
any machine: what limits the throughput is the orchestrators, as it is where every process has a core of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from tests.faults import scaling_app  # pyright: ignore[reportMissingImports]
from tests.faults.load import Demand, Load  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family, connected  # pyright: ignore[reportMissingImports]
from tests.faults.quota import CannotHold, Quota  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client
from dressage.orchestrator.membership import read_members
from dressage.protocol.errors import DressageError
from dressage.worker import Worker, WorkerConfig

SHARDS: Final = 4
SHARE: Final = 0.1
MEASURED_S: Final = 4.0
RAISED: Final = 1.4

MEASURED_TIMES: Final = 6
"""At most: what else the machine does may leave the second one no core for a while."""

SETTLED_S: Final = 60.0

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(180)]


class Site:
    client: Client

    def __init__(self, family: Family, server: EmbeddedServer) -> None:
        self._family = family
        self._url = server.url

    @contextlib.asynccontextmanager
    async def orchestrator(self, name: str, beside: int) -> AsyncIterator[None]:
        """One more, held to its share from when it has its shards until it leaves. Raises `CannotHold`."""
        quota = Quota(name, SHARE)
        process = self._family.dressage(
            name, "-v", "orchestrator", "--server", self._url, "--shards", str(SHARDS)
        )
        try:
            process.start()
            if not beside:
                self.client = await connected(self._url)
            await self.shared_by(beside + 1)
            with quota.held(process.pid):
                yield
            assert await process.stop() == 0, process.log()[-2000:]
        finally:
            quota.remove()

    async def shared_by(self, count: int) -> None:
        """Returns when so many orchestrators serve the shards, each as many as the others."""
        async with asyncio.timeout(SETTLED_S):
            while await self._shares() != [SHARDS // count] * count:
                await asyncio.sleep(0.1)

    async def _shares(self) -> list[int]:
        with contextlib.suppress(DressageError):
            found = await read_members(self.client.connection, self.client.names)
            counted = Counter(
                name
                for name, (_, heartbeat) in found.items()
                for figures in heartbeat.shards.values()
                if figures.state == "serving"
            )
            return sorted(counted.values())
        return []

    async def tasks_per_s(self) -> float:
        began, before = time.monotonic(), await self._tasks()
        await asyncio.sleep(MEASURED_S)
        return (await self._tasks() - before) / (time.monotonic() - began)

    async def _tasks(self) -> int:
        names = self.client.names
        state = await self.client.connection.stream_state(
            names.events_stream, subjects=f"{names.root}.events.*.*.task-completed.*"
        )
        return sum(state.subjects.values()) if state else 0


async def test_another_orchestrator_raises_throughput(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(tmp_path / "data"))
        family = stack.enter_context(Family(tmp_path / "logs"))
        site = Site(family, server)
        try:
            await stack.enter_async_context(site.orchestrator("first", beside=0))
        except CannotHold as error:
            pytest.skip(str(error))
        client = site.client
        stack.push_async_callback(client.close)
        registered = await client.register(scaling_app.scaled)
        worker = Worker(server.url, scaling_app.app, WorkerConfig(concurrency=200))
        working = asyncio.create_task(worker.run())
        load = Load(client, SHARDS, registered, Demand(open_wanted=200))
        await load.begin()
        await load.loaded(100, 200)
        alone = await site.tasks_per_s()
        async with site.orchestrator("second", beside=1):
            together = 0.0
            for _ in range(MEASURED_TIMES):
                together = max(together, await site.tasks_per_s())
                if together > RAISED * alone:
                    break
        await site.shared_by(1)
        again = await site.tasks_per_s()
        print(f"one orchestrator {alone:.0f} tasks/s, two {together:.0f}, one again {again:.0f}")
        for run_id, n in (await load.end()).items():
            assert await client.handle(run_id).result(60) == n + 3
        worker.stop()
        await working
    assert together > RAISED * max(alone, again)
