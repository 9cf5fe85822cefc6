"""Finding and reading among many runs: what DuckDB takes from a backlog, how soon it finds, how soon a run is got."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection, Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import provision
from dressage.cli.bench.idle import all_of, start_idle
from dressage.cli.bench.memory import memory_mib
from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import idle
from dressage.cli.children import Child, dressage
from dressage.client.finding import RunQuery, condition, query, runs
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import NoAnswer
from dressage.protocol.events import (
    KIND,
    RUN_HEADER,
    TYPE_PREFIX,
    EventData,
    OutputEvent,
    RunCompleted,
    RunFailed,
    RunStarted,
    VariableChanged,
    encoder,
)
from dressage.protocol.names import Names, event_bucket, run_token

NAMES: Final = Names("read")
BATCH: Final = 900
ASKS: Final = 100
GETS: Final = 2_000
RUNS_OF_A_CUSTOMER: Final = 100
WORKFLOWS: Final = 4

GOAL_EVENTS: Final = 25_000
"""A second, from a backlog."""

GOAL_ANALYTICS_MIB: Final = 1_024
GOAL_SEARCH_MS: Final = 200.0
"""95 of 100 searches by a searchable variable, among 1,000,000 runs."""

GOAL_GET_MS: Final = 10.0
"""99 of 100 reads of one run, among 100,000."""


async def measure_read(count: int, gets: int) -> dict[str, Any]:
    """Finds among `count` runs, of which there are events alone, and reads among `gets` that the engine has."""
    found = await _finding(count)
    got = await _getting(gets)
    report = found | got
    met = (
        found["ingested_per_s"] >= GOAL_EVENTS
        and found["analytics_mib"] <= GOAL_ANALYTICS_MIB
        and found["search_ms"]["p95"] <= GOAL_SEARCH_MS
        and got["get_ms"]["p99"] <= GOAL_GET_MS
    )
    return report | {"met": met}


def show_read(report: dict[str, Any]) -> None:
    click.echo("\n".join(f"{name}: {figure}" for name, figure in report.items()))


# -- finding ---------------------------------------------------------------------------------------
async def _finding(count: int) -> dict[str, Any]:
    chance = random.Random(count)
    customers = max(1, count // RUNS_OF_A_CUSTOMER)
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        base = Path(folder)
        async with EmbeddedServer(base / "server") as server:
            connection = await JetStreamBroker(server.url).connect("bench")
            await provision(connection, NAMES, shards=1, replicas=1)
            events = await _publish(connection, count, customers, chance)
            told = await connection.stream_state(NAMES.events_stream)
            assert told is not None, "the stream was just written"
            where = (
                "--server",
                server.url,
                "--namespace",
                NAMES.namespace,
                "--db",
                str(base / "read.duckdb"),
            )
            child = Child("analytics", dressage("analytics", *where), base, base)
            began = time.perf_counter()
            async with child:
                await _ingested(connection, told.last_seq, child)
                ingested = events / (time.perf_counter() - began)

                async def by_customer() -> int:
                    asked = RunQuery(where=[condition("customer", "=", f"c-{chance.randrange(customers)}")])
                    return len((await runs(connection, NAMES, asked)).runs)

                async def by_status() -> int:
                    asked = RunQuery(workflow="bench-1", status=["failed"])
                    return len((await runs(connection, NAMES, asked)).runs)

                async def by_total() -> int:
                    asked = RunQuery(where=[condition("total", ">", 990), "status = DONE"])
                    return len((await runs(connection, NAMES, asked, sort="-total")).runs)

                report = {
                    "runs": count,
                    "events": events,
                    "ingested_per_s": round(ingested),
                    "goal_per_s": GOAL_EVENTS,
                    "search_ms": await _times(by_customer),
                    "goal_ms": GOAL_SEARCH_MS,
                    "by_status_ms": await _times(by_status),
                    "by_range_of_numbers_ms": await _times(by_total),
                    "analytics_mib": memory_mib(child.pid, "VmHWM"),
                    "goal_mib": GOAL_ANALYTICS_MIB,
                }
            await connection.close()
    return report


async def _times(ask: Callable[[], Awaitable[int]]) -> dict[str, float]:
    """Of one who asks, one after the other."""
    assert await ask() > 0, "nothing is found"
    taken: list[float] = []
    for _ in range(ASKS):
        began = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - began) * 1000)
    return _shares(taken)


def _shares(taken: list[float]) -> dict[str, float]:
    taken = sorted(taken)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(taken[int(share * (len(taken) - 1))], 1) for name, share in shares.items()}


async def _ingested(connection: Connection, position: int, child: Child) -> None:
    """Waits until all is in the file, and can be asked for."""
    while True:
        child.check()
        try:
            reached = await query(connection, NAMES, "SELECT max(position) FROM positions", timeout_s=1.0)
        except NoAnswer:
            await asyncio.sleep(0.1)
            continue
        if (reached.rows[0][0] or 0) >= position:
            return
        await asyncio.sleep(0.2)


async def _publish(connection: Connection, count: int, customers: int, chance: random.Random) -> int:
    batch: list[Message] = []
    published = 0
    for number in range(count):
        batch += _run(number, customers, chance)
        if len(batch) >= BATCH:
            published += len(batch)
            await connection.publish_batch(batch)
            batch = []
    # As an owner ends a batch of its own: with how far it is.
    await connection.publish_batch([*batch, Message(NAMES.position(0), b"{}", rollup=True)])
    return published + len(batch)


def _run(number: int, customers: int, chance: random.Random) -> Iterator[Message]:
    run_id, workflow = f"run-{number:08}", f"bench-{chance.randrange(WORKFLOWS)}"
    fails = chance.random() < 0.02
    end: EventData = (
        RunFailed(FailureInfo("card-declined", "not covered"), 41.0)
        if fails
        else RunCompleted(msgspec.Raw(b'{"paid":true}'), 42.0)
    )
    happened: list[EventData] = [
        RunStarted(msgspec.Raw(b'{"order":{"lines":["a","b","c"],"note":"%s"}}' % (b"x" * 120))),
        VariableChanged("customer", msgspec.Raw(b'"c-%d"' % chance.randrange(customers)), searchable=True),
        VariableChanged("total", msgspec.Raw(b"%d" % chance.randrange(1000)), searchable=True),
        VariableChanged("status", msgspec.Raw(b'"DECLINED"' if fails else b'"DONE"'), searchable=True),
    ]
    if chance.random() < 0.95:
        happened.append(end)
    headers = {RUN_HEADER: run_token(run_id)}
    seconds = number // 50
    began = f"2026-01-{1 + seconds // 86_400:02}T{seconds // 3_600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    for index, data in enumerate(happened):
        kind = KIND[type(data)]
        event = OutputEvent(
            id=f"{run_id}/{index}",
            source=f"dressage/{NAMES.namespace}",
            type=TYPE_PREFIX + kind,
            time=f"{began}.{number % 50 * 20 + index:03}Z",
            subject=run_id,
            workflow=workflow,
            version=1,
            index=index,
            command=str(number),
            data=data,
            actor="bench",
        )
        yield Message(NAMES.event(0, workflow, kind, event_bucket(run_id)), encoder.encode(event), headers)


# -- reading one -----------------------------------------------------------------------------------
async def _getting(count: int) -> dict[str, Any]:
    async with started_engine() as started:
        client = started.client
        version = (await client.register(idle)).version
        await all_of(count, lambda number: start_idle(client, number, version))
        taken: list[float] = []
        chance = random.Random(count)
        for _ in range(GETS):
            run_id = f"idle-{chance.randrange(count)}"
            began = time.perf_counter()
            assert (await client.get(run_id)).status == "running"
            taken.append((time.perf_counter() - began) * 1000)
        started.orchestrator.check()
    return {"get_runs": count, "get_ms": _shares(taken), "goal_get_ms": GOAL_GET_MS}
