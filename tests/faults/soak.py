"""Hours under load and faults: nothing may grow that does not have to, and nothing may be lost or doubled.

    .venv/bin/python -m tests.faults.soak --minutes 60 --json build/soak.json

One server, two orchestrators, two workers and analytics. The load is 70 % of what they were found to bear.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec
from tests.faults import kill_app  # pyright: ignore[reportMissingImports]
from tests.faults.load import Demand, Load  # pyright: ignore[reportMissingImports]
from tests.faults.outside import Outside, Watch  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family, Process, connected  # pyright: ignore[reportMissingImports]
from tests.faults.sampling import (  # pyright: ignore[reportMissingImports]
    MB,
    Samples,
    broker_values,
    file_mb,
    files_mb,
    process_values,
)
from tests.faults.tally import Digest, Tally, digest_of  # pyright: ignore[reportMissingImports]
from tests.faults.verdicts import Rule, Verdict, judge, table  # pyright: ignore[reportMissingImports]

from dressage.analytics.store import StoreConfig
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.protocol.names import Names
from dressage.protocol.spec import RegisteredWorkflow

HERE: Final = Path(__file__).resolve().parent
SHARDS: Final = 3
SHARE: Final = 0.7
OPEN_MAX: Final = 5_000
CAPACITY_OPEN: Final = 400
SETTLE_S: Final = 180.0
LONG_MINUTES: Final = 20.0
KIB: Final = 1 / 1024
"""In MB, as all sizes are."""


@dataclass(frozen=True)
class Settings:
    """`rate` is in runs a second; 0 finds the capacity first, for `capacity_s` seconds."""

    minutes: float
    rate: float
    seed: int

    @property
    def capacity_s(self) -> float:
        return min(120.0, max(8.0, self.minutes * 6))

    @property
    def sample_s(self) -> float:
        return min(5.0, max(1.0, self.minutes * 60 / 300))

    @property
    def between_faults_s(self) -> float:
        return min(60.0, max(4.0, self.minutes))

    @property
    def pause_s_max(self) -> float:
        return min(10.0, self.between_faults_s)


class Report(msgspec.Struct):
    """The result; sizes are in MB, rates in runs a second."""

    seed: int
    minutes: float
    capacity: float
    rate: float
    runs: int
    events: int
    faults: dict[str, int]
    duckdb_equals_streams: bool
    violations: list[str]
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        # A series that was too short to judge is no finding in a short soak, and in a long one is a hole.
        fine = (True,) if self.minutes >= LONG_MINUTES else (True, None)
        judged = all(verdict.flat in fine for verdict in self.verdicts)
        return self.duckdb_equals_streams and not self.violations and judged


MEMORY: Final = Rule(growth=8.0)
RUNS_IN_MEMORY: Final = 2_000
"""So few runs does an orchestrator keep for each shard here that they are all there long before the warm-up is over;
and so many that those fit which may be open at a time. With fewer, what was started while an orchestrator stood still
had to be read from the bucket command by command, and the engine did not bear what it had borne before."""

DUCKDB_MB: Final = StoreConfig().memory_bytes_max / MB
KEPT: Final = "kept for 30 days"
ONE_KEY: Final = "one key for each run, as finished runs stay"
RULES: Final[dict[str, Rule]] = {
    "orchestrator-* memory MB": MEMORY,
    "worker-* memory MB": MEMORY,
    "server memory MB": Rule(growth=16.0, per_run=1 * KIB, why=f"an index entry in memory: {ONE_KEY}"),
    "analytics memory MB": Rule(
        growth=8.0, ceiling=DUCKDB_MB + 256, why=f"DuckDB keeps pages, up to its limit of {DUCKDB_MB:g} MB"
    ),
    "* open files": Rule(growth=16),
    "streams": Rule(growth=0, share=0),
    "consumers": Rule(growth=4),
    "definitions messages": Rule(growth=0, share=0),
    "definitions MB": Rule(growth=0, share=0),
    "members messages": Rule(growth=2),
    "members MB": Rule(growth=0.01),
    "objects messages": Rule(growth=0, share=0),  # No run of this load has any.
    "objects MB": Rule(growth=0, share=0),
    "dead letters messages": Rule(growth=0, share=0),
    "dead letters MB": Rule(growth=0, share=0),
    # They swell when something stands still. What leaks stays when they shrink again, so their low level is judged.
    "shard streams messages": Rule(growth=1_000, share=0.1, quantile=0.1),
    "shard streams MB": Rule(growth=1, share=0.1, quantile=0.1),
    "open runs": Rule(growth=1_000, share=0.1, quantile=0.1),
    "EVENTS messages": Rule(growth=1_000, per_run=25, why=KEPT),
    "EVENTS MB": Rule(growth=1, per_run=16 * KIB, why=KEPT),
    "states of runs messages": Rule(growth=1_000, per_run=1.05, why=ONE_KEY),
    "states of runs MB": Rule(growth=1, per_run=2 * KIB, why=ONE_KEY),
    "files of the server MB": Rule(growth=64, per_run=24 * KIB, why=f"EVENTS, {KEPT}, and {ONE_KEY}"),
    "file of DuckDB MB": Rule(growth=64, per_run=24 * KIB, why="every event"),
}
"""By the pattern of a series' name. Each name fits exactly one."""


@dataclass
class Soak:
    """Everything that runs, and what was seen of it."""

    settings: Settings
    server: EmbeddedServer
    family: Family
    database: Path
    say: Callable[[str], None]
    tally: Tally = field(default_factory=lambda: Tally(kill_app.expected))
    faults: Counter[str] = field(default_factory=Counter[str])

    async def run(self) -> Report:
        self._make_processes()
        self.family.processes["orchestrator-1"].start()
        client = await connected(self.server.url, SETTLE_S)
        observer = await JetStreamBroker(self.server.url).connect("observer", reconnect=True)
        names = client.names
        watch = Watch(observer, names.events_stream, [names.all_events()], self.tally.see)
        try:
            await watch.begin()
            registered = await client.register(kill_app.killed)
            for process in self.family.processes.values():
                if not process.alive:
                    process.start()
            return await self._under_load(client, observer, registered)
        finally:
            await watch.end()
            await observer.close()
            await client.close()

    def _make_processes(self) -> None:
        at = ("--server", self.server.url)
        for number in (1, 2):
            kept = ("--shards", str(SHARDS), "--runs-in-memory", str(RUNS_IN_MEMORY))
            self.family.dressage(f"orchestrator-{number}", "-v", "orchestrator", *at, *kept)
            self.family.dressage(f"worker-{number}", "-v", "worker", "kill_app:app", *at, cwd=HERE)
        self.family.dressage("analytics", "-v", "analytics", *at, "--db", str(self.database))

    async def _under_load(
        self, client: Client, observer: Connection, registered: RegisteredWorkflow
    ) -> Report:
        def ended() -> int:
            return self.tally.ended

        capacity = 0.0
        started: dict[str, int] = {}
        if not self.settings.rate:
            load = Load(client, SHARDS, registered, Demand(CAPACITY_OPEN, poll_s=0.05), ended=ended)
            capacity = await self._capacity(load)
            started |= await load.end()
        rate = self.settings.rate or capacity * SHARE
        self.say(f"seed {self.settings.seed}: {rate:.0f} runs/s for {self.settings.minutes:g} minutes")
        load = Load(client, SHARDS, registered, Demand(OPEN_MAX, rate, poll_s=0.1), ended=ended)
        await load.begin("soak")
        samples = Samples(time.monotonic())
        sampling = asyncio.create_task(self._sample(samples, observer, load))
        try:
            await self._faults(time.monotonic() + self.settings.minutes * 60)
        finally:
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling
        started |= await load.end()
        violations = await self._settle(observer, client.names, started)
        stored = await self._stored_by_analytics()
        return Report(
            seed=self.settings.seed,
            minutes=self.settings.minutes,
            capacity=round(capacity, 1),
            rate=round(rate, 1),
            runs=len(started),
            events=self.tally.digest.count,
            faults=dict(sorted(self.faults.items())),
            duckdb_equals_streams=stored == self.tally.digest,
            violations=violations,
            verdicts=verdicts(samples),
        )

    async def _capacity(self, load: Load) -> float:
        """Runs a second when as many are open as the engine can use."""
        await load.begin("capacity")
        seconds = self.settings.capacity_s
        await asyncio.sleep(seconds * 0.4)
        before, began = self.tally.ended, time.monotonic()
        await asyncio.sleep(seconds * 0.6)
        capacity = (self.tally.ended - before) / (time.monotonic() - began)
        self.say(f"capacity {capacity:.0f} runs/s")
        return capacity

    # -- sampling ----------------------------------------------------------------------------------
    async def _sample(self, samples: Samples, observer: Connection, load: Load) -> None:
        told_at = time.monotonic()
        while True:
            now, runs = time.monotonic(), self.tally.ended
            with contextlib.suppress(RuntimeError):  # it is just being started again
                self._sample_process(samples, "server", self.server.pid, now)
            for name, process in self.family.processes.items():
                with contextlib.suppress(RuntimeError):
                    self._sample_process(samples, name, process.pid, now)
            for what, value in (await broker_values(observer, load.names, SHARDS)).items():
                samples.add(what, now, runs, value)
            samples.add("open runs", now, runs, load.sent - load.ended)
            samples.add("files of the server MB", now, runs, files_mb(self.server.data_dir))
            samples.add("file of DuckDB MB", now, runs, file_mb(self.database))
            if now - told_at > 60:
                told_at = now
                self.say(
                    f"{runs} runs ended, {sum(self.faults.values())} faults, {len(self.tally.wrong)} violations"
                )
            await asyncio.sleep(self.settings.sample_s)

    def _sample_process(self, samples: Samples, name: str, pid: int, now: float) -> None:
        for what, value in process_values(pid).items():
            samples.add(f"{name} {what} of {pid}", now, self.tally.ended, value)

    # -- faults ------------------------------------------------------------------------------------
    async def _faults(self, until: float) -> None:
        """One after another at random times. The first of a kind is never ended, so that its memory can grow."""
        chance = random.Random(self.settings.seed)
        while True:
            wait = min(
                chance.expovariate(1 / self.settings.between_faults_s), 3 * self.settings.between_faults_s
            )
            if time.monotonic() + wait + self.settings.pause_s_max > until:
                await asyncio.sleep(max(0.0, until - time.monotonic()))
                return
            await asyncio.sleep(wait)
            await self._fault(chance)

    async def _fault(self, chance: random.Random) -> None:
        victim = chance.choice(
            ["server", "orchestrator-2", "worker-2", "orchestrator-2", "worker-2", "analytics", "any"]
        )
        kind = "SIGSTOP" if victim == "any" else chance.choice(["SIGKILL", "SIGTERM", "SIGSTOP"])
        if victim == "any":
            victim = chance.choice(["server", *self.family.processes])
        self.faults[f"{kind} of {victim}"] += 1
        pause_s = chance.uniform(0.5, self.settings.pause_s_max)
        if victim == "server":
            await self._fault_of_server(kind, pause_s)
        else:
            await self._fault_of(self.family.processes[victim], kind, pause_s)

    async def _fault_of_server(self, kind: str, pause_s: float) -> None:
        if kind == "SIGSTOP":
            await _paused(self.server.pid, pause_s)
            return
        if kind == "SIGKILL":
            self.server.kill()
            await self.server.wait()
        else:
            await self.server.stop()
        await self.server.start()
        self._supervise()

    def _supervise(self) -> None:
        """Starts again what found no server when it started, as whatever watches over processes does."""
        for process in self.family.processes.values():
            if not process.alive and process.log().rstrip().rpartition("\n")[2].startswith(
                "SERVER_UNREACHABLE"
            ):
                process.start()

    async def _fault_of(self, process: Process, kind: str, pause_s: float) -> None:
        if kind == "SIGSTOP":
            await _paused(process.pid, pause_s)
            return
        await process.end(signal.Signals[kind])
        process.start()

    # -- the end -----------------------------------------------------------------------------------
    async def _settle(self, observer: Connection, names: Names, started: dict[str, int]) -> list[str]:
        deadline = time.monotonic() + SETTLE_S
        while self.tally.open(started) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        wrong = self.tally.violations(started)
        processes = self.family.processes.values()
        wrong += [
            f"{each.name} ended by itself" for each in processes if not each.alive and not each.ended_as_told
        ]
        outside = Outside(observer, names, SHARDS, kill_app.expected)
        wrong += await outside.left([], SETTLE_S)
        bucket = await observer.stream_state(names.runs_stream())
        if bucket is None or bucket.messages != len(started) + SHARDS:
            wrong.append(
                f"{bucket.messages if bucket else 0} states for {len(started)} runs and {SHARDS} fences"
            )
        return wrong

    async def _stored_by_analytics(self) -> Digest:
        """What the file holds, once it holds as much as the stream, or after a while."""
        analytics = self.family.processes["analytics"]
        deadline = time.monotonic() + SETTLE_S
        while True:
            await asyncio.sleep(2.0)
            await analytics.stop()
            stored = await asyncio.to_thread(digest_of, self.database)
            if stored.count >= self.tally.digest.count or time.monotonic() > deadline:
                return stored
            analytics.start()


async def _paused(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def verdicts(samples: Samples) -> list[Verdict]:
    """One for each series; of processes that were started again, for the one that ran longest."""
    longest: dict[str, str] = {}
    for name, points in samples.series.items():
        what = name.partition(" of ")[0] if " of " in name and name.split()[-1].isdigit() else name
        held = longest.get(what)
        if held is None or len(points) > len(samples.series[held]):
            longest[what] = name
    return [judge(what, samples.series[name], rule_for(what)) for what, name in longest.items()]


def rule_for(what: str) -> Rule:
    """The rule for a series. Raises `LookupError` unless exactly one fits."""
    fitting = [rule for pattern, rule in RULES.items() if fnmatchcase(what, pattern)]
    if len(fitting) != 1:
        raise LookupError(f"{len(fitting)} rules fit {what}")
    return fitting[0]


def text(report: Report) -> str:
    """The report for people."""
    lines = [
        f"{report.runs} runs, {report.events} events in {report.minutes:g} minutes at {report.rate:g} runs/s "
        f"(capacity {report.capacity:g}), seed {report.seed}",
        "faults: " + ", ".join(f"{count} {what}" for what, count in report.faults.items()),
        table(report.verdicts),
        _how_many_judged(report),
        f"DuckDB equals the streams: {'yes' if report.duckdb_equals_streams else 'NO'}",
        f"violations: {len(report.violations)}",
        *report.violations[:20],
        "PASSED" if report.passed else "FAILED",
    ]
    return "\n".join(lines)


def _how_many_judged(report: Report) -> str:
    judged = [verdict for verdict in report.verdicts if verdict.flat is not None]
    growing = [verdict.name for verdict in judged if not verdict.flat]
    told = f"slopes: {len(judged)} of {len(report.verdicts)} judged, growing: {', '.join(growing) or 'none'}"
    if judged:
        return told
    return f"{told}. So short a soak judges no slope, only that nothing was lost or doubled."


async def soak(settings: Settings, folder: Path, say: Callable[[str], None]) -> Report:
    server = EmbeddedServer(folder / "nats")
    await server.start()
    try:
        with Family(folder / "logs") as family:
            try:
                return await Soak(settings, server, family, folder / "events.duckdb", say).run()
            except BaseException:
                say(family.logs())
                raise
    finally:
        await server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="runs a second; without it, 70 %% of the capacity"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the faults")
    parser.add_argument("--json", type=Path, default=None, help="also write the report to this file")
    given = parser.parse_args()
    settings = Settings(given.minutes, given.rate, given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        report = asyncio.run(soak(settings, Path(temporary), lambda line: print(line, flush=True)))
    print(text(report))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
