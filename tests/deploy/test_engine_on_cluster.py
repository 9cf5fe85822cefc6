"""The engine on three servers with three replicas: every turn is an atomic batch there, and a server may die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.server_binary import find_server_binary
from dressage.client import Client
from dressage.flow import App, sleep, workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.protocol.errors import DressageError
from dressage.worker import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]

CONFIG: Final = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"
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


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[list[str], list[subprocess.Popen[bytes]]]]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(9)]
        ports: list[int] = [one.getsockname()[1] for one in sockets]
    clients, routes, monitors = ports[:3], ports[3:6], ports[6:]
    processes: list[subprocess.Popen[bytes]] = []
    for index in range(3):
        environment = {
            "NATS_NAME": f"nats-{index + 1}",
            "NATS_LISTEN": f"127.0.0.1:{clients[index]}",
            "NATS_MONITOR": f"127.0.0.1:{monitors[index]}",
            "NATS_CLUSTER_LISTEN": f"127.0.0.1:{routes[index]}",
            "NATS_ROUTES": json.dumps([f"nats://127.0.0.1:{port}" for port in routes]),
            "NATS_DATA": str(tmp_path / f"nats-{index + 1}"),
        }
        command = [find_server_binary(), "-c", str(CONFIG)]
        with (tmp_path / f"nats-{index + 1}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=os.environ | environment, stderr=log))
    yield [f"nats://127.0.0.1:{port}" for port in clients], processes
    for process in processes:
        process.kill()
        process.wait()


async def test_runs_end_on_three_replicas_although_a_server_dies(
    servers: tuple[list[str], list[subprocess.Popen[bytes]]],
) -> None:
    urls, processes = servers
    broker = JetStreamBroker(",".join(urls))
    orchestrator = Orchestrator(broker, OrchestratorConfig(shards=2, replicas=3))
    task = await served(orchestrator)
    async with Client(broker, patience_s=90) as client, Worker(broker, app):
        await client.register(on_cluster)
        handles = [
            await client.start(on_cluster, {"n": n}, run_id=f"c{n}", timeout_s=60) for n in range(RUNS)
        ]
        processes[0].kill()
        processes[0].wait()
        assert [await handle.result(120) for handle in handles] == [4 * n for n in range(RUNS)]
        for n in range(0, RUNS, 10):
            history = [event async for event in client.history(f"c{n}")]
            assert [event.index for event in history] == list(range(len(history)))
            assert history[-1].kind == "run-completed"
    orchestrator.stop()
    await task


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
