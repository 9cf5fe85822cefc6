"""The outbox: messages a second through one relay, and how long from a commit to the run's first task."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import click
import psycopg

from dressage import outbox
from dressage.cli.bench.cpu import Reading, busy_seconds, read_cpu
from dressage.cli.bench.postgres import postgres, postgres_binaries
from dressage.cli.bench.sleepers import stored_events
from dressage.cli.bench.starting import Started, started_engine
from dressage.cli.bench.workload import begun, nothing
from dressage.cli.children import Child, dressage
from dressage.client import Client
from dressage.outbox import Outbox, schema
from dressage.outbox.relay import slot as slots
from dressage.outbox.relay.dsn import open_db
from dressage.protocol.errors import DressageError

GOAL_PER_S: Final = 3_000
GOAL_MS: Final = 20.0
EVENTS_PER_RUN: Final = 2
"""run-started, run-completed."""

BETWEEN_S: Final = 0.03
"""Between two messages of the latency, so that each finds the relay idle."""

DEADLINE_S: Final = 60.0


async def measure_outbox(messages: int, latency_messages: int) -> dict[str, Any]:
    """By the table and by the log, each with a database, an engine and one relay of its own.

    Raises `DressageError` (BENCH_DATABASE_MISSING) where PostgreSQL is not installed.
    """
    if postgres_binaries() is None:
        raise DressageError(
            "PostgreSQL is not installed: there is no initdb. Install it (apt-get install postgresql)",
            code="BENCH_DATABASE_MISSING",
        )
    report: dict[str, Any] = {"messages": messages, "goal_per_s": GOAL_PER_S, "goal_ms": GOAL_MS}
    with postgres(fsync=True) as server:
        for name, box in (("table", outbox.table), ("log", outbox.log)):
            dsn = server.create_database(f"bench_{name}")
            async with started_engine() as engine:
                report[name] = await _Way(dsn, box, engine).measure(messages, latency_messages)
    ways = [report["table"], report["log"]]
    report["met"] = all(way["per_s"] >= GOAL_PER_S and way["ms"]["p50"] <= GOAL_MS for way in ways)
    return report


class _Way:
    """One way for messages to go."""

    def __init__(self, dsn: str, box: Outbox, engine: Started) -> None:
        self._dsn = dsn
        self._box = box
        self._engine = engine
        self._client: Client = engine.client

    async def measure(self, messages: int, latency_messages: int) -> dict[str, Any]:
        await self._client.register(nothing)
        await self._prepare()
        with psycopg.connect(self._dsn) as connection:
            for number in range(messages):
                self._box.start(connection, nothing, {"number": number}, run_id=f"run-{number}")
        with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
            base = Path(folder)
            more = ["--log"] if self._box is outbox.log else []
            command = dressage("outbox", "relay", "--dsn", self._dsn, "--server", self._engine.url, *more)
            async with Child("relay", command, base, base) as relay:
                pids = {
                    "relay": relay.pid,
                    "orchestrator": self._engine.orchestrator.pid,
                    "server": self._engine.server_pid,
                }
                before, busy = read_cpu(pids), busy_seconds()
                began = time.monotonic()
                seconds = await self._throughput(messages)
                cpu = _cpu_us(before, read_cpu(pids), messages)
                busy_cores = _cores(busy, busy_seconds(), time.monotonic() - began)
                await self._idle(messages)
                worker = dressage("worker", "dressage.cli.bench.workload:app", "--server", self._engine.url)
                async with Child("worker", worker, base, base) as working:
                    waits = await self._latency(latency_messages)
                    working.check()
                relay.check()
        self._engine.orchestrator.check()
        return {
            "per_s": round(messages / seconds),
            "cpu_us": cpu,
            "busy_cores": busy_cores,
            "ms": {f"p{share}": _percentile(waits, share) for share in (50, 95, 99)},
        }

    async def _prepare(self) -> None:
        with psycopg.connect(self._dsn) as connection:
            for statement in schema.statements("postgresql"):
                connection.execute(statement.encode())
        db = await open_db(self._dsn)
        await slots.create(db)
        await db.close()

    async def _throughput(self, messages: int) -> float:
        """From the first run's start to the last one's, as the broker has stored them."""
        first_s, last_s = float("inf"), 0.0
        async for event, stored_s in stored_events(self._client, messages * EVENTS_PER_RUN):
            if event.kind == "run-started":
                first_s, last_s = min(first_s, stored_s), max(last_s, stored_s)
        return last_s - first_s

    async def _idle(self, messages: int) -> None:
        """Returns when the relay has written down what it has sent."""
        if self._box is outbox.log:
            return
        await _until(lambda: asyncio.to_thread(self._sent, messages))

    def _sent(self, messages: int) -> bool:
        with psycopg.connect(self._dsn) as connection:
            found = connection.execute("SELECT count(*) FROM dressage_outbox WHERE state = 'sent'").fetchone()
        return found is not None and found[0] == messages

    async def _latency(self, messages: int) -> list[float]:
        """One message at a time: milliseconds from its commit to when a worker begins with the run's first task."""
        await self._client.register(begun)
        await (await self._client.start(begun, {}, run_id="is-the-worker-there")).result(DEADLINE_S)
        committed = await asyncio.to_thread(self._commit_slowly, messages)
        begun_s = [await self._client.handle(run_id).result(DEADLINE_S) for run_id in committed]
        return sorted((at - since) * 1000 for at, since in zip(begun_s, committed.values(), strict=True))

    def _commit_slowly(self, messages: int) -> dict[str, float]:
        committed: dict[str, float] = {}
        with psycopg.connect(self._dsn) as connection:
            for number in range(messages):
                run_id = f"late-{number}"
                self._box.start(connection, begun, {}, run_id=run_id)
                connection.commit()
                committed[run_id] = time.time()
                time.sleep(BETWEEN_S)
        return committed


def _cpu_us(before: Reading | None, after: Reading | None, messages: int) -> dict[str, int]:
    """What each process has used for a message."""
    if before is None or after is None:
        return {}
    return {name: round((after[name] - before[name]) / messages * 1e6) for name in before}


def _cores(before: float | None, after: float | None, seconds: float) -> float | None:
    """How many cores were busy meanwhile, by whomever."""
    return None if before is None or after is None else round((after - before) / seconds, 1)


async def _until(fact: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await fact():
        if time.monotonic() > deadline:
            raise DressageError("the relay does not come to an end", code="BENCH_WRONG")
        await asyncio.sleep(0.05)


def _percentile(waits: list[float], share: int) -> float:
    return round(waits[min(len(waits) - 1, len(waits) * share // 100)], 1)


def show_outbox(report: dict[str, Any]) -> None:
    for name, what in (("table", "rows, woken by NOTIFY"), ("log", "entries of PostgreSQL's log")):
        way = report[name]
        waits = " / ".join(f"{ms:g}" for ms in way["ms"].values())
        click.echo(
            f"{what}: {way['per_s']:,} messages/s through one relay; from commit to the run's "
            f"first task, p50 / p95 / p99: {waits} ms"
        )
        used = ", ".join(f"{process} {us} us" for process, us in way["cpu_us"].items())
        click.echo(f"    CPU for a message: {used}; cores busy meanwhile: {way['busy_cores']}")
    click.echo(
        f"goals: {report['goal_per_s']:,} messages/s, p50 {report['goal_ms']:g} ms: "
        + ("met" if report["met"] else "missed")
    )
