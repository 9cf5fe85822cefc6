"""Faults at random, several at a time, as a seed gives them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from tests.faults.cluster import Server  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Process  # pyright: ignore[reportMissingImports]
from tests.faults.proxy import BEHAVIOURS  # pyright: ignore[reportMissingImports]
from tests.faults.trial import Trial  # pyright: ignore[reportMissingImports]

Kind = Literal["kill", "pause", "stop", "links"]
KINDS: Final[tuple[Kind, ...]] = ("kill", "pause", "stop", "links")
FIRST_S: Final = 0.5
BETWEEN_S: Final = 3.0
LASTS_S: Final = (0.5, 6.0)
"""How long a fault lasts, before its victim is healed or started again."""


@dataclass(frozen=True)
class Fault:
    """`begin` does the damage, `end` undoes it."""

    name: str
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]


async def mix(trial: Trial, seed: int, count: int) -> None:
    """So many faults of all kinds, of which some overlap; returns when all are over."""
    chance = random.Random(seed)
    print(f"{count} faults of seed {seed}, some of them at a time")
    kinds: list[Kind] = list(KINDS)
    kinds += chance.choices(KINDS, k=count - len(kinds))
    chance.shuffle(kinds)
    going: set[asyncio.Task[None]] = set()
    busy: set[str] = set()
    try:
        for kind in kinds:
            fault, victim = _choose(trial, chance, kind, busy)
            print(f"    {fault.name}")
            going.add(asyncio.create_task(_lasting(fault, chance.uniform(*LASTS_S), victim, busy)))
            await asyncio.sleep(chance.uniform(FIRST_S, BETWEEN_S))
        await asyncio.gather(*going)
    finally:
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


async def _lasting(fault: Fault, seconds: float, victim: str, busy: set[str]) -> None:
    busy.add(victim)
    await fault.begin()
    try:
        await asyncio.sleep(seconds)
    finally:
        await fault.end()
        busy.discard(victim)


def _choose(trial: Trial, chance: random.Random, kind: Kind, busy: set[str]) -> tuple[Fault, str]:
    """A fault of something that has none now, and what it is of."""
    cluster = trial.cluster
    processes = [
        *cluster.orchestrators,
        *cluster.workers,
        *(server.process for server in cluster.servers.all),
    ]
    free = [process for process in processes if process.name not in busy]
    servers = [server for server in cluster.servers.all if server.name not in busy]
    if kind == "links" and servers:
        server = chance.choice(servers)
        return _links(trial, server, chance), server.name
    victim = chance.choice(free)
    return {"kill": _kill, "pause": _pause}.get(kind, _stop)(victim), victim.name


def _kill(victim: Process) -> Fault:
    return Fault(f"kill -9 of {victim.name}", victim.kill, _starting(victim))


def _stop(victim: Process) -> Fault:
    async def stop() -> None:
        await victim.stop()

    return Fault(f"SIGTERM of {victim.name}", stop, _starting(victim))


def _starting(victim: Process) -> Callable[[], Awaitable[None]]:
    async def start() -> None:
        victim.start()

    return start


def _pause(victim: Process) -> Fault:
    async def pause() -> None:
        victim.pause()

    async def wake() -> None:
        victim.wake()

    return Fault(f"SIGSTOP of {victim.name}", pause, wake)


def _links(trial: Trial, server: Server, chance: random.Random) -> Fault:
    links = trial.cluster.servers.around(server)
    how = chance.choice(list(BEHAVIOURS))

    async def spoil() -> None:
        for link in links:
            link.spoil(how)

    async def heal() -> None:
        for link in links:
            link.heal()

    return Fault(f"links of {server.name} {how}", spoil, heal)
