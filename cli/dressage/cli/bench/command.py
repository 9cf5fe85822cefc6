"""`dressage bench`: what the engine does on this machine, beside what bare JetStream does with the same messages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console
from rich.table import Table

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli.bench.bare import drive
from dressage.cli.bench.branches import measure_branches, show_branches
from dressage.cli.bench.engine import EngineBench, Latency, Throughput
from dressage.cli.bench.idle import measure_idle, show_idle
from dressage.cli.bench.language import measure_language, show_language
from dressage.cli.bench.outbox import measure_outbox, show_outbox
from dressage.cli.bench.scaling import measure_scaling, say
from dressage.cli.bench.schedules import measure_schedules, show_schedules
from dressage.cli.bench.shape import Shape, read_shape
from dressage.cli.bench.sleepers import measure_sleepers, show_sleepers
from dressage.cli.bench.sleeping import measure_sleeping, show_sleeping
from dressage.cli.bench.starting import namespace_client
from dressage.cli.bench.triggers import measure_triggers, show_triggers
from dressage.cli.bench.wakes import measure_wakes, show_wakes
from dressage.cli.bench.workload import TASKS_PER_RUN
from dressage.cli.children import Child, dressage
from dressage.cli.running import run


@click.group(invoke_without_command=True)
@click.option("--runs", default=6000, show_default=True, help="Runs of the throughput figure.")
@click.option("--latency-runs", default=300, show_default=True, help="Runs of the latency figure.")
@click.option("--analytics/--no-analytics", default=True, help="Measure again while DuckDB ingests.")
@click.option(
    "--orchestrators",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Instead: what so many processes bring, compared with one, on as many shards.",
)
@click.option(
    "--sleeping",
    type=click.IntRange(1),
    metavar="RUNS",
    help="Instead: how long a take-over takes beside so many sleeping runs. Exits with 1 beyond 2 s.",
)
@click.option(
    "--branches",
    type=click.IntRange(1),
    metavar="N",
    help="Instead: a run with N branches beside N runs of the same task. Exits with 1 below half their tasks/s, or if "
    "the run's state reaches 4 MiB.",
)
@click.option(
    "--sleepers",
    type=click.IntRange(1),
    metavar="RUNS",
    help="Instead: so many runs that sleep 5 s, started together. Exits with 1 if the last ends more than 9 s after "
    "the first start, or any too early.",
)
@click.option(
    "--wakes",
    type=click.IntRange(1),
    metavar="RUNS",
    help="Instead: so many runs that wait at keys, all woken at once. Exits with 1 below 2,500 a second.",
)
@click.option(
    "--schedules",
    type=click.IntRange(1),
    metavar="N",
    help="Instead: so many schedules, and a tenth as many that are due together. Exits with 1 below 2,000 made in a "
    "second, if 1 of 100 is more than 1 s late, or any too early.",
)
@click.option(
    "--idle",
    type=click.IntRange(1),
    metavar="RUNS",
    help="Instead: so many runs that wait for an event for a year. Exits with 1 if the orchestrator has more than 600 "
    "MiB, or if 1 of 100 among them wakes later than 50 ms after its event.",
)
@click.option(
    "--kafka",
    metavar="BOOTSTRAP",
    help="Instead: records of the Kafka at this address that become runs, and output events that become records. Exits "
    "with 1 below 8,000 a second of either.",
)
@click.option(
    "--language",
    is_flag=True,
    help="Instead: what a command costs after 10,000 nodes, and a registration of 500. Exits with 1 beyond a goal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def bench(
    context: click.Context,
    runs: int,
    latency_runs: int,
    *,
    analytics: bool,
    orchestrators: int,
    sleeping: int | None,
    branches: int | None,
    sleepers: int | None,
    wakes: int | None,
    schedules: int | None,
    idle: int | None,
    kafka: str | None,
    language: bool,
    as_json: bool,
) -> None:
    """Measure the engine beside bare JetStream, on this machine, with fsync before every acknowledgement."""
    if context.invoked_subcommand is not None:
        return
    if orchestrators > 1:
        scaling = run(scale(runs, orchestrators))
        click.echo(json.dumps(scaling) if as_json else say(scaling))
        return
    if sleeping is not None:
        _judged(run(measure_sleeping(sleeping)), show_sleeping, as_json)
    if branches is not None:
        _judged(run(measure_branches(branches)), show_branches, as_json)
    if sleepers is not None:
        _judged(run(measure_sleepers(sleepers)), show_sleepers, as_json)
    if wakes is not None:
        _judged(run(measure_wakes(wakes)), show_wakes, as_json)
    if schedules is not None:
        _judged(run(measure_schedules(schedules)), show_schedules, as_json)
    if idle is not None:
        _judged(run(measure_idle(idle)), show_idle, as_json)
    if kafka is not None:
        from dressage.cli.bench.kafka import measure_kafka, show_kafka

        _judged(run(measure_kafka(kafka)), show_kafka, as_json)
    if language:
        _judged(run(measure_language()), show_language, as_json)
    report = run(measure(runs, latency_runs, with_analytics=analytics))
    if as_json:
        click.echo(json.dumps(report))
    else:
        show(report)


@bench.command()
@click.option(
    "--messages", type=click.IntRange(10), default=10_000, show_default=True, help="Of the throughput."
)
@click.option(
    "--latency-messages", type=click.IntRange(10), default=200, show_default=True, help="Of the latency."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def edges(messages: int, latency_messages: int, *, as_json: bool) -> None:
    """Measure the outbox, messages a second through one relay, and from a commit to the run's start; and triggers,
    events a second, one by one, in the order of a key, and in batches.

    Exits with 1 below 3,000 messages/s, or above 20 ms at the median. A PostgreSQL server is started for it, whose
    binaries have to be there.
    """

    async def both() -> dict[str, Any]:
        outbox = await measure_outbox(messages, latency_messages)
        return outbox | {"triggers": await measure_triggers(messages)}

    def show_both(report: dict[str, Any]) -> None:
        show_outbox(report)
        show_triggers(report["triggers"])

    _judged(run(both()), show_both, as_json)


@bench.command()
@click.option(
    "--runs", type=click.IntRange(1_000), default=1_000_000, show_default=True, help="To find among."
)
@click.option(
    "--gets", type=click.IntRange(1), default=100_000, show_default=True, help="Runs to read one of."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def read(runs: int, gets: int, *, as_json: bool) -> None:
    """Measure finding and reading runs: ingestion from a backlog, searches, and reads of one run.

    Exits with 1 below 25,000 events/s, above 1 GiB of memory for DuckDB, above 200 ms for 95 of 100 searches by a
    searchable variable, or above 10 ms for 99 of 100 reads.
    """
    from dressage.cli.bench.read import measure_read, show_read

    _judged(run(measure_read(runs, gets)), show_read, as_json)


def _judged(report: dict[str, Any], show: Callable[[dict[str, Any]], None], as_json: bool) -> NoReturn:
    """Tells the figures, and ends the process: with 1 if they miss a goal."""
    if as_json:
        click.echo(json.dumps(report))
    else:
        show(report)
    sys.exit(0 if report["met"] else 1)


async def scale(runs: int, orchestrators: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        return await measure_scaling(Path(folder), runs, orchestrators)


async def measure(runs: int, latency_runs: int, *, with_analytics: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        base = Path(folder)
        latency, plain, events, shape, beside = await measure_engine(base, runs, latency_runs, with_analytics)
        ceiling = await measure_ceiling(base, runs, shape)
    return {
        "sync": "always",
        "tasks_per_s": round(plain.tasks_per_s),
        "workflows_per_s": round(plain.runs / plain.seconds),
        "ceiling_tasks_per_s": round(ceiling),
        "share_of_ceiling": round(plain.tasks_per_s / ceiling, 3),
        "messages_per_workflow": round(shape.messages, 2),
        "latency_ms": {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99},
        "cpu_us_per_task": plain.cpu_us_per_task(),
        "tasks_per_s_with_analytics": None if beside is None else round(beside.tasks_per_s),
        "runs": runs,
        "events": events,
        "other_load_cores": plain.others_cores,
    }


async def measure_engine(
    base: Path, runs: int, latency_runs: int, with_analytics: bool
) -> tuple[Latency, Throughput, int, Shape, Throughput | None]:
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
        engine = EngineBench(client, pids | {"client": os.getpid()})
        await engine.prepare(warm_up=500)
        latency = await engine.latency(latency_runs)
        plain = await engine.throughput(runs)
        events = await engine.check_events()
        shape = await read_shape(client, runs + latency_runs + 500)
        beside = None
        if with_analytics:
            analytics = Child(
                "analytics",
                dressage("analytics", "--server", server.url, "--db", str(base / "b.duckdb")),
                base,
                base,
            )
            await stack.enter_async_context(analytics)
            await asyncio.sleep(5)
            beside = await engine.throughput(runs)
            await engine.check_events()
        for child in (orchestrator, worker):
            child.check()
    return latency, plain, events, shape, beside


async def measure_ceiling(base: Path, runs: int, shape: Shape) -> float:
    """Tasks per second of the same messages without an engine."""
    shape_file = base / "shape.json"
    shape_file.write_bytes(msgspec.json.encode(shape))
    command = [sys.executable, "-m", "dressage.cli.bench.bare"]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(base / "bare"))
        for part in ("orchestrator", "worker"):
            child = Child(f"bare-{part}", [*command, part, server.url, str(shape_file)], base, base)
            await stack.enter_async_context(child)
            await said_ready(child)
        broker = JetStreamBroker(server.url)
        await drive(broker, shape, 500)
        began = time.perf_counter()
        await drive(broker, shape, runs)
        return runs * TASKS_PER_RUN / (time.perf_counter() - began)


async def said_ready(child: Child) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        child.check()
        if "ready" in child.log.read_text():
            return
        await asyncio.sleep(0.05)
    raise child.failure()


def show(report: dict[str, Any]) -> None:
    table = Table(title="three-task workflow, fsync before every acknowledgement", show_header=False)
    rows = [
        ("tasks/s", f"{report['tasks_per_s']:,}"),
        ("workflows/s", f"{report['workflows_per_s']:,}"),
        ("bare JetStream with the same messages, tasks/s", f"{report['ceiling_tasks_per_s']:,}"),
        ("messages per workflow", f"{report['messages_per_workflow']:g}"),
        ("tasks/s while DuckDB ingests", f"{report['tasks_per_s_with_analytics'] or 0:,}"),
        (
            "one run at a time, p50 / p95 / p99",
            " / ".join(f"{ms:g}" for ms in report["latency_ms"].values()) + " ms",
        ),
        ("CPU per task", ", ".join(f"{name} {us} us" for name, us in report["cpu_us_per_task"].items())),
        ("events, counted and as many as they must be", f"{report['events']:,}"),
        ("cores busy with something else", str(report["other_load_cores"])),
    ]
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)
