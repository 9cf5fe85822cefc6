"""The engine on three servers with three replicas: every turn is an atomic batch there, and a server may die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.faults.cluster import Servers  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family  # pyright: ignore[reportMissingImports]

from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import App, sleep, workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names
from dressage.worker import Worker

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]

RUNS: Final = 60

app = App("cluster")


@app.task(retries=5)
async def double(n: int) -> int:
    await asyncio.sleep(0.02)
    return 2 * n


@workflow(name="on-cluster")
async def on_cluster(n: int) -> int:
    a = await double(n)
    await sleep(0.5)
    return await double(a)


@workflow
async def dozing(seconds: float) -> None:
    await sleep(seconds)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Family(tmp_path) as family:
        servers = Servers(family)
        servers.start()
        yield servers


async def test_runs_end_on_three_replicas_although_a_server_dies(servers: Servers) -> None:
    broker = JetStreamBroker(servers.url)
    orchestrator = Orchestrator(broker, OrchestratorConfig(shards=2, replicas=3))
    task = await served(orchestrator)
    async with Client(broker, patience_s=90) as client, Worker(broker, app):
        await client.register(on_cluster)
        handles = [
            await client.start(on_cluster, {"n": n}, run_id=f"c{n}", timeout_s=60) for n in range(RUNS)
        ]
        await servers.all[0].process.kill()
        assert [await handle.result(120) for handle in handles] == [4 * n for n in range(RUNS)]
        for n in range(0, RUNS, 10):
            history = [event async for event in client.history(f"c{n}")]
            assert [event.index for event in history] == list(range(len(history)))
            assert history[-1].kind == "run-completed"
    orchestrator.stop()
    await task


async def test_cancels_take_their_timers_away_on_three_replicas(servers: Servers) -> None:
    broker = JetStreamBroker(servers.url)
    orchestrator = Orchestrator(broker, OrchestratorConfig(shards=1, replicas=3))
    task = await served(orchestrator)
    names = Names()
    async with Client(broker, patience_s=90) as client:
        await client.register(dozing)
        runs = [f"c{n}" for n in range(RUNS)]
        for run in runs:
            await client.start(dozing, {"seconds": 3600.0}, run_id=run, timeout_s=60)
        await asyncio.gather(*(client.cancel(run, timeout_s=60) for run in runs))
        assert {(await client.get(run)).status for run in runs} == {"cancelled"}
        left = await client.connection.stream_state(names.shard_stream(0), names.timer(0, "*", "*"))
        assert left is not None
        assert not left.subjects
    orchestrator.stop()
    await task


async def test_an_orchestrator_waits_for_a_cluster_that_is_starting(tmp_path: Path, start: Start) -> None:
    """As a compose file starts them: all at once."""
    with Family(tmp_path) as family:
        first, *others = Servers(family).all
        first.process.start()
        orchestrator = start("-v", "orchestrator", "--server", first.url, "--shards", "1", "--replicas", "3")
        await asyncio.to_thread(orchestrator.says, "waiting for up to")
        for server in others:
            server.process.start()
        await asyncio.to_thread(orchestrator.says, "shard 0: serving")
        assert orchestrator.drain() == 0


async def served(orchestrator: Orchestrator) -> asyncio.Task[None]:
    """Runs it until its streams can be made: a cluster that forms has no leader yet."""
    while True:
        task = asyncio.create_task(orchestrator.run())
        ready = asyncio.create_task(orchestrator.ready())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not task.done():
            return task
        with contextlib.suppress(DressageError):
            task.result()
        await asyncio.sleep(0.5)
