"""Many schedules: how fast they are made, and how late they fire when many are due at the same moment."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import msgspec

from dressage.cli.bench.starting import started_engine
from dressage.cli.bench.workload import nap
from dressage.client import Client
from dressage.protocol.errors import NotFound
from dressage.protocol.schedules import ScheduleSpec, Timing

OPEN_MAX: Final = 1_000
GOAL_PER_S: Final = 2_000
GOAL_S: Final = 1.0
"""How late 99 of 100 schedules fire at most, when a tenth of all are due together."""

LEAST_PER_S: Final = 400
"""The due ones are made in time if so many are made in a second."""


async def measure_schedules(schedules: int) -> dict[str, Any]:
    """Makes so many schedules for tomorrow, then a tenth as many that are all due in one moment, and reads off, on the
    broker's clock, when they fired, and when their runs were started."""
    due = max(1, schedules // 10)
    async with started_engine() as (_, orchestrator, client, _):
        version = (await client.register(nap)).version
        now = datetime.now(UTC)
        began = time.perf_counter()
        await _make(client, "later", schedules, now + timedelta(days=1), version)
        making_s = time.perf_counter() - began
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5 + due // LEAST_PER_S)
        await _make(client, "due", due, moment, version)
        spare_s = (moment - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(0.0, spare_s))
        started_s = sorted(await _started(client, due, moment))
        late_s = sorted(await _fired(client, due, moment))
        orchestrator.check()
    p99_s = _share(late_s, 0.99)
    per_s = schedules / making_s
    return {
        "schedules": schedules,
        "made_per_s": round(per_s),
        "goal_per_s": GOAL_PER_S,
        "due_together": due,
        "late_s": {"p50": _share(late_s, 0.5), "p99": p99_s, "max": late_s[-1]},
        "started_late_s": {
            "p50": _share(started_s, 0.5),
            "p99": _share(started_s, 0.99),
            "max": started_s[-1],
        },
        "goal_s": GOAL_S,
        "early": sum(each < 0 for each in late_s),
        "in_time": spare_s > 0,
        "met": per_s >= GOAL_PER_S and p99_s <= GOAL_S and late_s[0] >= 0 and spare_s > 0,
    }


def _share(sorted_s: list[float], share: float) -> float:
    return sorted_s[int(share * (len(sorted_s) - 1))]


def show_schedules(report: dict[str, Any]) -> None:
    click.echo("\n".join(f"{name}: {figure}" for name, figure in report.items()))


async def _make(client: Client, kind: str, count: int, moment: datetime, version: int) -> None:
    given = msgspec.Raw(b'{"seconds":86400}')
    timing = Timing(at=moment.isoformat())
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            spec = ScheduleSpec(nap.name, timing, given, version, run_id=f"{kind}-{number}")
            await client.put_schedule(f"{kind}-{number}", spec)

    await asyncio.gather(*(lane() for _ in range(min(count, OPEN_MAX))))


async def _fired(client: Client, count: int, moment: datetime) -> list[float]:
    """By how much each has fired behind its moment."""
    numbers, late_s = iter(range(count)), list[float]()

    async def lane() -> None:
        for number in numbers:
            (fire,) = (await client.get_schedule(f"due-{number}")).fires
            late_s.append((datetime.fromisoformat(fire.fired) - moment).total_seconds())

    await asyncio.gather(*(lane() for _ in range(min(count, OPEN_MAX))))
    return late_s


async def _started(client: Client, count: int, moment: datetime) -> list[float]:
    """By how much the run of each begins behind its moment."""
    numbers, late_s = iter(range(count)), list[float]()

    async def lane() -> None:
        for number in numbers:
            run_id = f"due-{number}"
            while True:
                try:
                    view = await client.get(run_id)
                except NotFound:
                    await asyncio.sleep(0.1)
                    continue
                break
            late_s.append((datetime.fromisoformat(view.started_at) - moment).total_seconds())

    await asyncio.gather(*(lane() for _ in range(min(count, OPEN_MAX))))
    return late_s
