"""What another orchestrator brings: the same load and shards, served by one process, then by more.

Server, worker and client stay one process each, so the ratio says what more processes for the fold bring where there
are cores for them. On a machine without spare cores it is near 1, or below.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.bench.engine import EngineBench, Throughput
from dressage.cli.bench.starting import namespace_client
from dressage.cli.children import Child, dressage
from dressage.client import Client
from dressage.orchestrator.overview import read_overview
from dressage.protocol.errors import DressageError

SHARDS_EACH: Final = 2
BALANCED_S: Final = 30.0


async def measure_scaling(base: Path, runs: int, orchestrators: int) -> dict[str, Any]:
    """Tasks per second with one orchestrator and with several, on as many shards."""
    shards = SHARDS_EACH * orchestrators
    alone = await _throughput(_folder(base, "alone"), runs, 1, shards)
    together = await _throughput(_folder(base, "together"), runs, orchestrators, shards)
    return {
        "cores": os.cpu_count(),
        "shards": shards,
        "orchestrators": orchestrators,
        "tasks_per_s_alone": round(alone.tasks_per_s),
        "tasks_per_s_together": round(together.tasks_per_s),
        "ratio": round(together.tasks_per_s / alone.tasks_per_s, 2),
        "cpu_us_per_task_alone": alone.cpu_us_per_task(),
        "cpu_us_per_task_together": together.cpu_us_per_task(),
        "other_load_cores": [alone.others_cores, together.others_cores],
        "runs": runs,
    }


def _folder(base: Path, name: str) -> Path:
    folder = base / name
    folder.mkdir()
    return folder


async def _throughput(base: Path, runs: int, orchestrators: int, shards: int) -> Throughput:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(base / "nats"))
        command = dressage("orchestrator", "--server", server.url, "--shards", str(shards))
        serving = [Child(f"orchestrator-{number}", command, base, base) for number in range(orchestrators)]
        for child in serving:
            await stack.enter_async_context(child)
        client = await stack.enter_async_context(await namespace_client(server.url, serving[0]))
        worker = Child(
            "worker",
            dressage(
                "worker", "dressage.cli.bench.workload:app", "--server", server.url, "--concurrency", "500"
            ),
            base,
            base,
        )
        await stack.enter_async_context(worker)
        await _balanced(client, serving, shards)
        pids = {child.name: child.pid for child in (*serving, worker)} | {"server": server.pid}
        engine = EngineBench(client, pids | {"client": os.getpid()})
        await engine.prepare(warm_up=500)
        measured = await engine.throughput(runs)
        await engine.check_events()
        for child in (*serving, worker):
            child.check()
        return measured


async def _balanced(client: Client, serving: list[Child], shards: int) -> None:
    """Waits until every shard is served, and every orchestrator has its share of them."""
    deadline = time.monotonic() + BALANCED_S
    while time.monotonic() < deadline:
        for child in serving:
            child.check()
        overview = await read_overview(client.connection, client.names)
        served = sum(view.state == "serving" for view in overview.shards)
        shares = [member.shards for member in overview.members]
        if served == shards and len(shares) == len(serving) and max(shares) - min(shares) <= 1:
            return
        await asyncio.sleep(0.1)
    raise DressageError(
        f"{len(serving)} orchestrators did not share {shards} shards in {BALANCED_S:g} s", code="BENCH_WRONG"
    )


def say(report: dict[str, Any]) -> str:
    """The figures in words."""
    return (
        f"{report['shards']} shards, {report['cores']} cores: {report['tasks_per_s_alone']:,} tasks/s with one "
        f"orchestrator, {report['tasks_per_s_together']:,} with {report['orchestrators']}: {report['ratio']:g} times "
        f"as many. Other programs kept {report['other_load_cores'][0]} and {report['other_load_cores'][1]} cores busy."
    )
