"""Many runs that sleep at once: how soon the last of them has ended, and that none of them wakes too early."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from dressage.brokers.interface import ConsumerConfig, Delivery
from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import nap
from dressage.client import Client
from dressage.protocol.errors import DressageError
from dressage.protocol.events import ReceivedEvent, decode_event

SLEEP_S: Final = 5
GOAL_S: Final = 9.0
"""How soon after the first start the last of 5,000 runs that sleep so long has ended."""

EVENTS_PER_RUN: Final = 4
"""run-started, sleep-started, sleep-ended, run-completed."""

SILENCE_S: Final = 30.0
WINDOW: Final = 500


async def measure_sleepers(runs: int) -> dict[str, Any]:
    """Starts `runs` runs that sleep `SLEEP_S` seconds, all at once, and reads off the output events when they woke."""
    async with started_engine() as (_, orchestrator, client, _):
        version = (await client.register(nap)).version
        began = time.perf_counter()
        await asyncio.gather(*(client.start(nap, {"seconds": SLEEP_S}, version=version) for _ in range(runs)))
        starting_s = time.perf_counter() - began
        times = Times()
        async for event, stored_s in stored_events(client, runs * EVENTS_PER_RUN):
            times.add(event, stored_s)
        orchestrator.check()
    return {
        "sleepers": runs,
        "sleep_s": SLEEP_S,
        "starts_per_s": round(runs / starting_s),
        "seconds": round(times.ended_s - times.started_s, 3),
        "goal_s": GOAL_S,
        "latest_s": round(max(times.late_s), 3),
        "early": sum(late_s < 0 for late_s in times.late_s),
        "met": times.ended_s - times.started_s <= GOAL_S and min(times.late_s) >= 0,
    }


class Times:
    """What the broker's clock says of the sleeping runs, in seconds since 1970.

    A start is when its command was stored, an end when the event that tells of it was: an event's own time is never
    before the end of its sleep.
    """

    def __init__(self) -> None:
        self.started_s = float("inf")
        self.ended_s = 0.0
        self.late_s: list[float] = []
        """How long behind its time each sleep ended."""
        self._until_s: dict[str, float] = {}

    def add(self, event: ReceivedEvent, stored_s: float) -> None:
        match event.kind:
            case "run-started":
                self.started_s = min(self.started_s, _seconds(event.time))
            case "sleep-started":
                self._until_s[event.subject] = _seconds(msgspec.json.decode(event.data)["until"])
            case "sleep-ended":
                self.late_s.append(stored_s - self._until_s[event.subject])
            case "run-completed":
                self.ended_s = max(self.ended_s, stored_s)
            case kind:
                raise DressageError(f"a run that sleeps gave an event {kind}", code="BENCH_WRONG")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


async def stored_events(client: Client, count: int) -> AsyncIterator[tuple[ReceivedEvent, float]]:
    """The first `count` output events of the namespace, each with the second at which it was stored.

    Raises `DressageError` when there is none for a long time.
    """
    names, connection = client.names, client.connection
    queue: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = f"bench_{uuid.uuid4().hex}"
    await connection.create_consumer(
        names.events_stream,
        ConsumerConfig(
            consumer, [names.all_events()], durable=False, explicit_ack=False, memory=True, inactive_s=60.0
        ),
    )
    pull = await connection.pull(names.events_stream, consumer, WINDOW, queue.put_nowait, lambda _: None)
    try:
        for number in range(count):
            try:
                async with asyncio.timeout(SILENCE_S):
                    delivery = await queue.get()
            except TimeoutError as error:
                raise DressageError(f"{number} events, but {count} must come", code="BENCH_WRONG") from error
            await pull.taken()
            yield decode_event(delivery.data), delivery.time_ns / 1e9
    finally:
        await pull.close()


def show_sleepers(report: dict[str, Any]) -> None:
    click.echo(
        f"{report['sleepers']:,} runs that sleep {report['sleep_s']} s, started together ({report['starts_per_s']:,} a "
        f"second): the last had ended {report['seconds']:g} s after the first start. The latest sleep ended "
        f"{report['latest_s']:g} s behind its time, {report['early']} before it.\n"
        f"goals: at most {report['goal_s']:g} s, none early: " + ("met" if report["met"] else "missed")
    )
