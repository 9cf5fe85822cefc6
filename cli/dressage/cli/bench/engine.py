"""Measuring the engine: one server, orchestrator, worker and client process, all on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Final

from dressage.cli.bench.cpu import Reading, busy_seconds, read_cpu
from dressage.cli.bench.workload import EVENTS_PER_RUN, TASKS_PER_RUN, bench_order, order_input
from dressage.client import Client
from dressage.protocol.errors import DressageError

OPEN_MAX: Final = 2000
"""Runs that the client keeps open at a time."""

SETTLE_S: Final = 60.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the start call to the result, one run at a time."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Throughput:
    """`others_cores` is how many cores were busy with what does not belong to this measurement."""

    runs: int
    seconds: float
    cpu: Reading | None
    others_cores: float | None
    tasks_per_run: int = TASKS_PER_RUN

    @property
    def tasks(self) -> int:
        return self.runs * self.tasks_per_run

    @property
    def tasks_per_s(self) -> float:
        return self.tasks / self.seconds

    def cpu_us_per_task(self) -> dict[str, float | None]:
        return {name: round(seconds / self.tasks * 1e6, 1) for name, seconds in (self.cpu or {}).items()}


async def measured(
    pids: Mapping[str, int], work: Awaitable[None], runs: int, tasks_per_run: int = TASKS_PER_RUN
) -> Throughput:
    """What so many runs took, until `work` has seen the end of all of them."""
    cpu, busy, began = read_cpu(pids), busy_seconds(), time.perf_counter()
    await work
    seconds = time.perf_counter() - began
    after, busy_after = read_cpu(pids), busy_seconds()
    used = {name: after[name] - cpu[name] for name in cpu} if cpu is not None and after is not None else None
    others = None
    if used is not None and busy is not None and busy_after is not None:
        others = round(max(0.0, (busy_after - busy - sum(used.values())) / seconds), 2)
    return Throughput(runs, seconds, used, others, tasks_per_run)


class EngineBench:
    """Drives runs through a client and counts what came of them."""

    def __init__(self, client: Client, pids: dict[str, int]) -> None:
        self._client = client
        self._pids = pids
        self._version = 0
        self._done = 0

    async def prepare(self, warm_up: int) -> None:
        self._version = (await self._client.register(bench_order)).version
        await self._many(warm_up)

    async def _one(self, number: int) -> None:
        handle = await self._client.start(bench_order, order_input(number), version=self._version)
        if len(await handle.result()) != 198:
            raise DressageError("a run of the benchmark gave a wrong result", code="BENCH_WRONG")
        self._done += 1

    async def _many(self, runs: int) -> None:
        """Keeps `OPEN_MAX` runs open until all are done."""
        numbers = iter(range(runs))

        async def lane() -> None:
            for number in numbers:
                await self._one(number)

        await asyncio.gather(*(lane() for _ in range(min(runs, OPEN_MAX))))

    async def latency(self, runs: int) -> Latency:
        took: list[float] = []
        for number in range(runs):
            began = time.perf_counter()
            await self._one(number)
            took.append((time.perf_counter() - began) * 1000)
        took.sort()
        return Latency(*(round(took[min(runs - 1, int(runs * share))], 2) for share in (0.50, 0.95, 0.99)))

    async def throughput(self, runs: int) -> Throughput:
        return await measured(self._pids, self._many(runs), runs)

    async def check_events(self) -> int:
        """Counts the output events. Raises `DressageError` unless there are exactly as many as there must be."""
        names = self._client.names
        must = self._done * EVENTS_PER_RUN
        counted = 0
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            state = await self._client.connection.stream_state(
                names.events_stream, subjects=names.all_events()
            )
            counted = sum(state.subjects.values()) if state else 0
            if counted >= must:
                break
            await asyncio.sleep(0.1)
        if counted != must:
            raise DressageError(f"{counted} events, but {self._done} runs make {must}", code="BENCH_WRONG")
        return counted
