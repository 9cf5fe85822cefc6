"""What sleeping runs cost: nothing at a take-over, which reads a handful of messages however many runs there are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any, Final

import click

from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import require_namespace
from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import nap
from dressage.client import Client
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.tenure import Tenure, TenureConfig
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

OPEN_MAX: Final = 2000
SETTLE_S: Final = 120.0
TAKE_OVERS: Final = 3
GOAL_S: Final = 2.0
"""How soon a shard is to be served beside 100,000 sleeping runs, from a take-over with empty memory."""

SHARD: Final = 0


async def measure_sleeping(runs: int) -> dict[str, Any]:
    """Starts `runs` runs that sleep, kills their orchestrator, and takes the shard over with empty memory."""
    async with started_engine() as (url, orchestrator, client, _):
        began = time.perf_counter()
        await _put_to_sleep(client, runs)
        await _settled(client)
        started_s = time.perf_counter() - began
        os.kill(orchestrator.pid, signal.SIGKILL)
        took = [await _take_over(url, client, number) for number in range(TAKE_OVERS)]
    slowest_s = max(serving for serving, _ in took)
    return {
        "sleeping": runs,
        "starts_per_s": round(runs / started_s),
        "take_over_s": [round(serving, 3) for serving, _ in took],
        "answered_s": [round(answered, 3) for _, answered in took],
        "goal_s": GOAL_S,
        "share_of_goal": round(slowest_s / GOAL_S, 3),
        "met": slowest_s <= GOAL_S,
    }


def show_sleeping(report: dict[str, Any]) -> None:
    click.echo("\n".join(f"{name}: {figure}" for name, figure in report.items()))


async def _put_to_sleep(client: Client, runs: int) -> None:
    version = (await client.register(nap)).version
    numbers = iter(range(runs))

    async def lane() -> None:
        for number in numbers:
            await client.start(nap, {"seconds": 86_400}, run_id=f"nap-{number}", version=version)

    await asyncio.gather(*(lane() for _ in range(min(runs, OPEN_MAX))))


async def _settled(client: Client) -> None:
    """Waits until every state is stored, and every command that led to one is removed."""
    names = client.names
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        state = await client.connection.stream_state(
            names.shard_stream(SHARD), subjects=names.commands(SHARD)
        )
        if state is not None and not state.subjects:
            return
        await asyncio.sleep(0.2)
    raise DressageError(f"the runs are not stored after {SETTLE_S:g} s", code="BENCH_WRONG")


async def _take_over(url: str, client: Client, number: int) -> tuple[float, float]:
    """Seconds until the shard is served, and until a start is answered."""
    broker, names = JetStreamBroker(url), Names(client.names.namespace)
    shard_map = (await require_namespace(client.connection, names)).map
    stop = asyncio.Event()
    began = time.perf_counter()
    tenure = Tenure(broker, names, SHARD, TenureConfig(), EngineMetrics(), lambda: shard_map)
    serving = asyncio.create_task(tenure.serve(stop))
    await tenure.serving.wait()
    served_s = time.perf_counter() - began
    await client.start(nap, {"seconds": 86_400}, run_id=f"late-{number}")
    answered_s = time.perf_counter() - began
    stop.set()
    await serving
    return served_s, answered_s
