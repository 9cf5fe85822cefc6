"""How long work stands still after a loss: of an orchestrator, of the server that leads a stream, of a worker.

    .venv/bin/python -m tests.faults.availability --rounds 3 --json

Everything is measured from the outside, by the times at which the server stored output events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from tests.faults.cluster import Shape  # pyright: ignore[reportMissingImports]
from tests.faults.load import Demand, Moment  # pyright: ignore[reportMissingImports]
from tests.faults.outside import Raw  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Process  # pyright: ignore[reportMissingImports]
from tests.faults.trial import Site, Trial  # pyright: ignore[reportMissingImports]

from dressage.brokers.provision import TASK_ACK_WAIT_S
from dressage.protocol.events import TaskCompleted, TaskFailed, TaskScheduled, decode_data, decode_event

HANDING_S: Final = 1.0
"""JetStream looks only now and then for attempts that are overdue; taking one and storing its result counts, too."""

GOALS_S: Final = {"orchestrator": 3.0, "server": 10.0, "worker": TASK_ACK_WAIT_S + HANDING_S}
QUIET_S: Final = 3.0
"""Load without a fault, before each of them."""


class Figure(msgspec.Struct, frozen=True):
    """One loss. `seconds` is the longest time without progress of what was affected; `hit` is what was open.

    Of a worker that is the time until all it held was executing elsewhere.
    """

    lost: str
    seconds: float
    goal_s: float
    met: bool
    hit: str


@dataclass(frozen=True)
class Loss:
    """A loss whose figure is known once the events are read."""

    lost: str
    moment: Moment
    until_s: float
    shards: list[int] = field(default_factory=list)


async def lose_orchestrator(trial: Trial, between: float = QUIET_S) -> Loss:
    """Kills the one that serves the most shards, and starts it again once they are served by others."""
    await trial.cluster.settled()
    await asyncio.sleep(between)
    owners = trial.cluster.owners()
    victim = max(owners.values(), key=list(owners.values()).count)
    shards = [shard for shard, owner in owners.items() if owner is victim]
    moment = await trial.kill(victim)
    await trial.goes_on(shards)
    loss = Loss("orchestrator", moment, time.time(), shards)
    victim.start()
    return loss


async def lose_leader(trial: Trial, between: float = QUIET_S) -> Loss:
    """Kills the server that leads the first shard's stream, and starts it again once all shards go on."""
    await asyncio.sleep(between)
    server = await trial.leader_of(trial.cluster.names.shard_stream(0))
    moment = await trial.kill(server.process)
    await trial.goes_on()
    loss = Loss("server", moment, time.time(), list(range(trial.cluster.shape.shards)))
    server.process.start()
    return loss


async def lose_worker(trial: Trial, victim: Process) -> Loss:
    """Kills it while it runs attempts, which nobody else gets before their ack wait is over."""
    return Loss("worker", await trial.kill(victim), 0.0)


def figure(loss: Loss, trial: Trial) -> Figure:
    """What a loss cost; only after the trial, when its events are read."""
    if loss.lost == "worker":
        seconds = last_begun_s(trial.events, loss.moment.at_s)
    else:
        seconds = trial.gap_s(loss.moment, loss.until_s - loss.moment.at_s, loss.shards)
    goal = GOALS_S[loss.lost]
    return Figure(loss.lost, round(seconds, 2), goal, seconds <= goal, str(loss.moment))


def last_begun_s(events: Iterable[Raw], at_s: float) -> float:
    """How long after a moment the last of the attempts was begun that had been scheduled before it and ended after.

    An attempt began as long before its result as its handler took, by the clock of the worker whose result counted.
    """
    open_attempts: set[str] = set()
    last = at_s
    for raw in events:
        event = decode_event(raw.data)
        data = decode_data(event)
        if isinstance(data, TaskScheduled) and raw.time_s <= at_s:
            open_attempts.add(data.task_id)
        elif isinstance(data, TaskCompleted | TaskFailed) and data.task_id in open_attempts:
            last = max(last, raw.time_s - data.duration_ms / 1000)
    return last - at_s


def table(figures: Iterable[Figure]) -> str:
    lines = [f"{'lost':<14}{'work goes on after':>20}{'goal':>10}  {'met':<5}{'what it hit'}"]
    for each in figures:
        met = "yes" if each.met else "NO"
        lines.append(f"{each.lost:<14}{each.seconds:>18.2f} s{each.goal_s:>8.0f} s  {met:<5}{each.hit}")
    return "\n".join(lines)


async def measure(rounds: int, folder: Path) -> list[Figure]:
    """Loses each of them so many times, in a cluster whose processes reach each other directly."""
    figures: list[Figure] = []
    demand = Demand(open_wanted=60, per_s=40.0, poll_s=0.2)
    async with Site.open(folder, demand, 10, Shape(linked=False)) as site:
        for number in range(rounds):
            async with site.trial("availability") as trial:
                worker = site.cluster.workers[number % len(site.cluster.workers)]
                losses = [
                    await lose_worker(trial, worker),
                    await lose_orchestrator(trial),
                    await lose_leader(trial),
                ]
                worker.start()
                await trial.goes_on()
            figures += [figure(loss, trial) for loss in losses]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="how often each of them is lost")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        # What the trials tell while they run belongs beside the figures, not among them.
        with contextlib.redirect_stdout(sys.stderr):
            figures = asyncio.run(measure(given.rounds, Path(temporary, "availability")))
    print(msgspec.json.encode(figures).decode() if given.json else table(figures))
    return 0 if all(each.met for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
