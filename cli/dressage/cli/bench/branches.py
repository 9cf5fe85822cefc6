"""What a wide run costs: the same task in as many branches of one run as there were runs of it before."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import click

from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.bench.engine import OPEN_MAX, Throughput, measured
from dressage.cli.bench.starting import namespace_client
from dressage.cli.bench.workload import one, wide
from dressage.cli.children import Child, dressage
from dressage.client import Client
from dressage.protocol.errors import DressageError
from dressage.protocol.names import run_token

RATIO_GOAL: Final = 0.5
"""Tasks per second of a run with 10,000 branches, of those of as many runs."""

STATE_GOAL_BYTES: Final = 4 * 1024 * 1024
"""The state of that run stays below this while it goes on."""

WARM_UP: Final = 500
LOOK_S: Final = 0.2
WRITTEN_S: Final = 30.0
SHARD: Final = 0
WIDE: Final = "wide"


async def measure_branches(branches: int) -> dict[str, Any]:
    """`branches` runs of one task each, then one run with as many branches of it: same server, orchestrator, worker."""
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        apart, together, state_bytes = await _measure(Path(folder), branches)
    ratio = together.tasks_per_s / apart.tasks_per_s
    return {
        "branches": branches,
        "tasks_per_s_runs": round(apart.tasks_per_s),
        "tasks_per_s_branches": round(together.tasks_per_s),
        "ratio": round(ratio, 3),
        "ratio_goal": RATIO_GOAL,
        "state_bytes": state_bytes,
        "state_goal_bytes": STATE_GOAL_BYTES,
        "cpu_us_per_task_runs": apart.cpu_us_per_task(),
        "cpu_us_per_task_branches": together.cpu_us_per_task(),
        "other_load_cores": [apart.others_cores, together.others_cores],
        "met": ratio >= RATIO_GOAL and state_bytes < STATE_GOAL_BYTES,
    }


async def _measure(base: Path, branches: int) -> tuple[Throughput, Throughput, int]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(base / "engine"))
        orchestrator = Child("orchestrator", dressage("orchestrator", "--server", server.url), base, base)
        await stack.enter_async_context(orchestrator)
        client = await stack.enter_async_context(await namespace_client(server.url, orchestrator))
        worker = Child(
            "worker",
            dressage(
                "worker", "dressage.cli.bench.workload:app", "--server", server.url, "--concurrency", "500"
            ),
            base,
            base,
        )
        await stack.enter_async_context(worker)
        pids = {"orchestrator": orchestrator.pid, "worker": worker.pid, "server": server.pid}
        pids["client"] = os.getpid()
        await _apart(client, WARM_UP)
        apart = await measured(pids, _apart(client, branches), branches, 1)
        sizes: list[int] = []
        looking = asyncio.create_task(_look_at_state(client, sizes))
        together = await measured(pids, _together(client, branches), branches, 1)
        # A run that is over before its shard writes states behind is written once, when it has ended.
        async with asyncio.timeout(WRITTEN_S):
            while not sizes:
                await asyncio.sleep(LOOK_S)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        for child in (orchestrator, worker):
            child.check()
    return apart, together, max(sizes)


async def _apart(client: Client, runs: int) -> None:
    version = (await client.register(one)).version
    numbers = iter(range(runs))

    async def lane() -> None:
        for number in numbers:
            handle = await client.start(one, {"number": number}, version=version)
            _right(await handle.result(), number)

    await asyncio.gather(*(lane() for _ in range(min(runs, OPEN_MAX))))


async def _together(client: Client, branches: int) -> None:
    version = (await client.register(wide)).version
    handle = await client.start(wide, {"count": branches}, run_id=WIDE, version=version)
    _right(await handle.result(), sum(range(branches)))


def _right(result: int, wanted: int) -> None:
    if result != wanted:
        raise DressageError(f"a run of the benchmark gave {result}, not {wanted}", code="BENCH_WRONG")


async def _look_at_state(client: Client, sizes: list[int]) -> None:
    """Writes down how many bytes the state of the wide run takes in the bucket, whenever it may be another."""
    key = client.names.run_key(SHARD, run_token(WIDE))
    while True:
        found = await client.connection.last_message(client.names.runs_stream(), key)
        if found is not None:
            sizes.append(len(found.data))
        await asyncio.sleep(LOOK_S)


def show_branches(report: dict[str, Any]) -> None:
    click.echo(
        f"{report['branches']:,} runs of one task: {report['tasks_per_s_runs']:,} tasks/s; one run with as many "
        f"branches: {report['tasks_per_s_branches']:,} tasks/s, {report['ratio']:g} times as many. Its state took "
        f"{report['state_bytes']:,} bytes at most. Other programs kept {report['other_load_cores'][0]} and "
        f"{report['other_load_cores'][1]} cores busy.\n"
        f"goals: a ratio of at least {report['ratio_goal']}, a state below {report['state_goal_bytes']:,} bytes: "
        + ("met" if report["met"] else "missed")
    )
