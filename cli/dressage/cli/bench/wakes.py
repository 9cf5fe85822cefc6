"""Events that find their run by a key: how many wait and are woken in a second."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import click
import msgspec

from dressage.cli.bench.sleepers import stored_events
from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import told, told_by_key
from dressage.client import Client
from dressage.protocol.errors import DressageError

GOAL_PER_S: Final = 2_500
"""Wakes a second, end to end: posted, delivered to the run, and the run has ended."""

EVENTS_PER_RUN: Final = 5
"""run-started, event-awaited, event-posted, event-received, run-completed."""

QUIET_S: Final = 30.0


async def measure_wakes(runs: int) -> dict[str, Any]:
    """Lets `runs` runs wait, each at a key of its own, and posts an event to every key as fast as they are accepted."""
    async with started_engine() as (_, orchestrator, client, _):
        version = (await client.register(told_by_key)).version
        began = time.perf_counter()
        await asyncio.gather(
            *(
                client.start(told_by_key, {"key": f"key-{n}"}, run_id=f"run-{n}", version=version)
                for n in range(runs)
            )
        )
        waiting_s = time.perf_counter() - began
        await _settled(client, runs)
        posting = asyncio.gather(*(client.post_by_key(told, f"key-{n}", n) for n in range(runs)))
        wrong, first_s, last_s = 0, float("inf"), 0.0
        async for event, stored_s in stored_events(client, runs * EVENTS_PER_RUN):
            if event.kind == "event-posted":
                first_s = min(first_s, stored_s)
            elif event.kind == "run-completed":
                last_s = max(last_s, stored_s)
                output = msgspec.json.decode(event.data)["output"]
                wrong += event.subject != f"run-{output}"
        await posting
        orchestrator.check()
    if wrong:
        raise DressageError(f"{wrong} runs were given what was posted to another key", code="BENCH_WRONG")
    return {
        "wakes": runs,
        "starts_per_s": round(runs / waiting_s),
        "seconds": round(last_s - first_s, 3),
        "wakes_per_s": round(runs / (last_s - first_s)),
        "goal_per_s": GOAL_PER_S,
        "met": runs / (last_s - first_s) >= GOAL_PER_S,
    }


async def _settled(client: Client, runs: int) -> None:
    """Returns once every key knows of its wait: nothing is left in the shard's stream but the cursor.

    Raises `DressageError` when that does not come.
    """
    deadline = time.monotonic() + QUIET_S + runs / 100
    while time.monotonic() < deadline:
        state = await client.connection.stream_state(client.names.shard_stream(0))
        if state is not None and state.messages <= 1:
            return
        await asyncio.sleep(0.1)
    raise DressageError("the runs do not come to wait", code="BENCH_WRONG")


def show_wakes(report: dict[str, Any]) -> None:
    click.echo(
        f"{report['wakes']:,} runs waited, each at a key of its own ({report['starts_per_s']:,} started a second). "
        f"From the first event that was taken to the end of the last run: {report['seconds']:g} s, "
        f"{report['wakes_per_s']:,} wakes/s.\n"
        f"goal: {report['goal_per_s']:,} wakes/s: " + ("met" if report["met"] else "missed")
    )
