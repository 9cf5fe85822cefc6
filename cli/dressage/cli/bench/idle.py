"""Many runs that wait for an event for a year: what they cost in memory, and how soon one among them wakes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import click

from dressage.cli.bench.memory import memory_mib
from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import idle, rung
from dressage.client import Client

OPEN_MAX: Final = 2_000
WAKES: Final = 1_000
GOAL_MIB: Final = 600
"""The most memory that the orchestrator may have had when 1,000,000 idle runs were started and some woken."""

GOAL_MS: Final = 50.0
"""How soon 99 of 100 runs among them have ended, from when the event is posted."""

SETTLE_S: Final = 20.0


async def measure_idle(runs: int) -> dict[str, Any]:
    """Starts so many runs that wait, and wakes some of them, one after the other."""
    async with started_engine() as (_, orchestrator, client, server_pid):
        version = (await client.register(idle)).version
        began = time.perf_counter()
        await all_of(runs, lambda number: start_idle(client, number, version))
        starting_s = time.perf_counter() - began
        await asyncio.sleep(SETTLE_S)
        orchestrator_mib, server_mib = memory_mib(orchestrator.pid), memory_mib(server_pid)
        chosen = random.Random(runs).sample(range(runs), min(runs, WAKES))
        wakes_ms = sorted([await _wake_ms(client, number) for number in chosen])
        orchestrator.check()
        peak_mib = memory_mib(orchestrator.pid, "VmHWM")
    p99_ms = wakes_ms[int(0.99 * (len(wakes_ms) - 1))]
    return {
        "idle": runs,
        "starts_per_s": round(runs / starting_s),
        "orchestrator_mib": orchestrator_mib,
        "orchestrator_peak_mib": peak_mib,
        "goal_mib": GOAL_MIB,
        "server_mib": server_mib,
        "wake_ms": {
            "p50": round(wakes_ms[len(wakes_ms) // 2], 1),
            "p99": round(p99_ms, 1),
            "max": round(wakes_ms[-1], 1),
        },
        "goal_ms": GOAL_MS,
        "met": peak_mib <= GOAL_MIB and p99_ms <= GOAL_MS,
    }


def show_idle(report: dict[str, Any]) -> None:
    click.echo("\n".join(f"{name}: {figure}" for name, figure in report.items()))


async def start_idle(client: Client, number: int, version: int) -> None:
    await client.start(idle, {}, run_id=f"idle-{number}", version=version)


async def _wake_ms(client: Client, number: int) -> float:
    began = time.perf_counter()
    await client.post(f"idle-{number}", rung)
    assert await client.handle(f"idle-{number}").result(30.0) == "awake"
    return (time.perf_counter() - began) * 1000


async def all_of(count: int, act: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    numbers: Iterator[int] = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await act(number)

    await asyncio.gather(*(lane() for _ in range(min(count, OPEN_MAX))))
