"""One trial: faults on a loaded cluster, then the check from the outside."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults import kill_app  # pyright: ignore[reportMissingImports]
from tests.faults.cluster import Cluster, Server, Shape  # pyright: ignore[reportMissingImports]
from tests.faults.load import Demand, Load, Moment, hits  # pyright: ignore[reportMissingImports]
from tests.faults.outside import (  # pyright: ignore[reportMissingImports]
    Commits,
    Found,
    Outside,
    Raw,
    longest_gap_s,
    persistently,
    shard_of_event,
)
from tests.faults.processes import Process  # pyright: ignore[reportMissingImports]
from tests.faults.proxy import Link, Spoilt  # pyright: ignore[reportMissingImports]

from dressage.protocol.errors import DressageError

APP: Final = "kill_app:app"
SETTLE_S: Final = 90.0
"""Far above the 30 s after which a dead worker's attempts are given to another one."""

GOES_ON_S: Final = 60.0
GROWTH: Final = 10
UNDER_WAY_S: Final = 0.5
"""What was under way when a fault hit is stored by then; so many events more mean that a shard is served."""


@dataclass
class Trial:
    """What was done to the cluster so far, and what it met."""

    cluster: Cluster
    load: Load
    open_min: int
    moments: list[Moment] = field(default_factory=list)
    events: list[Raw] = field(default_factory=list)
    """All output events of the trial, once it is over."""

    async def hit(self, what: str) -> Moment:
        """Waits until there is something to hit, and tells what; to be called right before a fault."""
        more = self.moments[-1].ended + self.open_min if self.moments else self.open_min
        moment = await self.load.loaded(self.open_min, more)
        self.moments.append(moment)
        print(f"{what}: {moment}")
        return moment

    async def goes_on(self, shards: Iterable[int] | None = None) -> None:
        """Returns once new output events stand in each of these shards (None: in all)."""
        began = time.monotonic()
        await asyncio.sleep(UNDER_WAY_S)
        chosen = range(self.cluster.shape.shards) if shards is None else shards
        before = {shard: await self._count(shard) for shard in chosen}
        async with asyncio.timeout(GOES_ON_S):
            for shard, count in before.items():
                while await self._count(shard) < count + GROWTH:
                    await asyncio.sleep(0.05)
        print(f"    work goes on after {time.monotonic() - began:.1f} s")

    async def _count(self, shard: int) -> int:
        names = self.cluster.names
        subjects = f"{names.root}.events.{shard}.>"
        state = await persistently(
            lambda: self.cluster.observer.stream_state(names.events_stream, subjects=subjects), GOES_ON_S
        )
        return sum(state.subjects.values()) if state is not None else 0

    def gap_s(self, moment: Moment, seconds: float, shards: Iterable[int]) -> float:
        """The longest time without an output event of one of these shards, within so many seconds after a fault."""
        until = moment.at_s + seconds
        return max(
            longest_gap_s((raw for raw in self.events if shard_of_event(raw) == shard), moment.at_s, until)
            for shard in shards
        )

    # -- faults ------------------------------------------------------------------------------------
    async def kill(self, victim: Process) -> Moment:
        moment = await self.hit(f"kill -9 of {victim.name}")
        await victim.kill()
        return moment

    async def paused(self, victim: Process, seconds: float, goes_on: Iterable[int] | None = None) -> Moment:
        """SIGSTOP, and SIGCONT so much later: a zombie that wakes up and believes that nothing has happened."""
        moment = await self.hit(f"SIGSTOP of {victim.name} for {seconds:g} s")
        victim.pause()
        try:
            wakes_at = time.monotonic() + seconds
            await self.goes_on(goes_on)
            await asyncio.sleep(max(0.0, wakes_at - time.monotonic()))
        finally:
            victim.wake()
        return moment

    async def paused_together(
        self, victims: Sequence[Process], seconds: float, *, others_go_on: bool
    ) -> None:
        """The same of several at one moment. What is left does the work, unless nothing is left that could."""
        await self.hit(f"SIGSTOP of {', '.join(victim.name for victim in victims)} for {seconds:g} s")
        wakes_at = time.monotonic() + seconds
        for victim in victims:
            victim.pause()
        try:
            if others_go_on:
                await self.goes_on()
            await asyncio.sleep(max(0.0, wakes_at - time.monotonic()))
        finally:
            for victim in victims:
                victim.wake()

    @asynccontextmanager
    async def spoilt(self, links: Iterable[Link], how: Spoilt, what: str) -> AsyncIterator[None]:
        """Links that carry nothing, or little, while the block runs."""
        await self.hit(f"{what} {how}")
        chosen = list(links)
        try:
            for link in chosen:
                link.spoil(how)
            yield
        finally:
            for link in chosen:
                link.heal()

    async def leader_of(self, stream: str) -> Server:
        async with asyncio.timeout(GOES_ON_S):
            while (server := await self.cluster.leader(stream)) is None or not server.process.alive:
                await asyncio.sleep(0.1)
        return server


class Site:
    """A cluster for several trials, one after another."""

    def __init__(self, cluster: Cluster, load: Load, open_min: int) -> None:
        self.cluster = cluster
        self.load = load
        self.broken = False
        self._open_min = open_min
        self._trials = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, demand: Demand, open_min: int, shape: Shape) -> AsyncIterator[Site]:
        async with Cluster(folder, APP, shape) as cluster:
            registered = await cluster.client.register(kill_app.killed)
            load = Load(cluster.client, shape.shards, registered, demand, cluster.observer)
            try:
                yield cls(cluster, load, open_min)
            finally:
                await load.cut_off()

    @asynccontextmanager
    async def trial(self, name: str) -> AsyncIterator[Trial]:
        """Load while the block runs; behind it everything must come to its end, and is checked."""
        cluster, load = self.cluster, self.load
        outside = Outside(cluster.observer, cluster.names, cluster.shape.shards, kill_app.expected)
        commits = Commits(cluster.observer, cluster.names, cluster.shape.shards)
        self._trials += 1
        trial = Trial(cluster, load, self._open_min)
        self.broken = True
        try:
            first = await outside.events_so_far() + 1
            await commits.begin()
            await load.begin(f"{name}-{self._trials}")
            yield trial
            started = await load.end()
            found: Found = await outside.check(started, SETTLE_S, first=first, unsure=load.unsure)
            trial.events += found.events
            await commits.end()
            found.wrong += commits.wrong()
            print(
                f"{name}: {len(started)} runs, {len(found.events)} events, {commits.takeovers} take-overs and "
                f"{commits.seen} commits seen, {len(found.wrong)} violations"
            )
            found.require()
            cluster.require_alive()
            hits(trial.moments, self._open_min)
        except BaseException:
            print(cluster.family.logs())
            raise
        finally:
            await load.cut_off()
            with contextlib.suppress(DressageError):
                await commits.end()
        self.broken = False
