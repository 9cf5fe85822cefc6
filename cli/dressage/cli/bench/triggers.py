"""Triggers: events a second that one process turns into runs, one by one, in the order of a key, and in batches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from dressage.brokers.interface import Message, StreamConfig
from dressage.cli.bench.sleepers import stored_events
from dressage.cli.bench.starting import Started, started_engine
from dressage.cli.bench.workload import nothing
from dressage.cli.children import Child, dressage
from dressage.protocol.events import KIND, RunStarted

STREAM: Final = "BENCH_EVENTS"
PUBLISHED_TOGETHER: Final = 500
EVENTS_PER_RUN: Final = 2
"""run-started, run-completed."""


class Way(NamedTuple):
    """A way to take events: what of a trigger says so, how many make a run, and their share of the messages."""

    says: str
    size: int = 1
    share: float = 1.0
    source: str = ""


WAYS: Final = {
    "one by one": Way(""),
    "in the order of 500 keys": Way("order_by = \"str(event['id'] % 500)\"\n"),
    "in the order of 5 keys": Way("order_by = \"str(event['id'] % 5)\"\n", share=0.25),
    "in the order of the stream": Way("", share=0.1, source=", ordered = true"),
    "in batches of 100": Way('batch = { size = 100, within = "1s" }\n', size=100, share=4.0),
}


async def measure_triggers(messages: int) -> dict[str, int]:
    """Events a second of each way, one after the other, each with one process of the trigger."""
    found: dict[str, int] = {}
    before = 0
    async with started_engine() as engine:
        await engine.client.register(nothing)
        await engine.client.connection.ensure_stream(StreamConfig(STREAM, ["bench.*"]))
        for number, (name, way) in enumerate(WAYS.items()):
            count = max(2 * way.size, int(messages * way.share)) // way.size * way.size
            found[name] = await _measure(engine, f"way-{number}", way, count, before)
            before += count // way.size * EVENTS_PER_RUN
        engine.orchestrator.check()
    return found


def show_triggers(report: dict[str, Any]) -> None:
    for name, per_s in report.items():
        click.echo(f"a trigger, {name}: {per_s:,} events/s through one process")


async def _measure(engine: Started, name: str, way: Way, count: int, before: int) -> int:
    """Of so many events, behind the output events that were there `before`."""
    connection = engine.client.connection
    for first in range(0, count, PUBLISHED_TOGETHER):
        numbers = range(first, min(first + PUBLISHED_TOGETHER, count))
        await connection.publish_batch(
            [Message(f"bench.{name}", b'{"id":%d}' % number) for number in numbers]
        )
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        base = Path(folder)
        file = base / "triggers.toml"
        file.write_text(_file(name, way))
        run = dressage("trigger", "run", str(file), "--server", engine.url)
        async with Child("trigger", run, base, base) as trigger:
            told = before + count // way.size * EVENTS_PER_RUN
            started = [
                stored_s
                async for event, stored_s in stored_events(engine.client, told)
                if event.kind == KIND[RunStarted] and event.subject.startswith(name)
            ]
            trigger.check()
    # The first one's own events came before its start.
    return round((len(started) - 1) * way.size / max(max(started) - min(started), 1e-6))


def _file(name: str, way: Way) -> str:
    run_id = f"f'{name}-{{batch}}'" if way.size > 1 else f"f\\\"{name}-{{event['id']}}\\\""
    number = "len(events)" if way.size > 1 else "event['id']"
    return (
        f'[[trigger]]\nname = "{name}"\nsource = {{ stream = "{STREAM}", subject = "bench.{name}"{way.source} }}\n'
        f'{way.says}workflow = "{nothing.name}"\nrun_id = "{run_id}"\n[trigger.input]\nnumber = "{number}"\n'
    )
