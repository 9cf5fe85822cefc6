"""What is done to a loaded cluster, one thing after another. Every scenario leaves everything running."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.faults.availability import (  # pyright: ignore[reportMissingImports]
    Loss,
    lose_leader,
    lose_orchestrator,
    lose_worker,
)
from tests.faults.mixture import mix  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Process  # pyright: ignore[reportMissingImports]
from tests.faults.proxy import Spoilt  # pyright: ignore[reportMissingImports]
from tests.faults.trial import Trial  # pyright: ignore[reportMissingImports]


class CannotBeDone(Exception):
    """The machine does not allow a scenario; the message says why."""


@dataclass(frozen=True)
class Form:
    """How long and how much.

    `spoilt_s` is how long links stay spoilt after work has gone on without them, `quiet_s` how long there is load
    without a fault before each loss whose cost is told.
    """

    pause_s: float
    spoilt_s: float
    quiet_s: float
    mixed: int
    all_of_them: bool
    """Whether a scenario goes through every process and combination, or takes one of each kind."""


SHUTDOWN_S: Final = 20.0

SHORT: Final = Form(pause_s=5.0, spoilt_s=1.0, quiet_s=1.0, mixed=4, all_of_them=False)
LONG: Final = Form(pause_s=30.0, spoilt_s=20.0, quiet_s=3.0, mixed=24, all_of_them=True)


@dataclass
class Stage:
    """A trial, and what else a scenario needs. `losses` are those whose cost is told behind the trial."""

    trial: Trial
    form: Form
    round_: int
    losses: list[Loss]

    @property
    def worker(self) -> Process:
        workers = self.trial.cluster.workers
        return workers[self.round_ % len(workers)]


async def killed_one_by_one(stage: Stage) -> None:
    """The worker goes first: what it held has been given to others when the rest is over."""
    trial = stage.trial
    stage.losses += [
        await lose_worker(trial, stage.worker),
        await lose_orchestrator(trial, stage.form.quiet_s),
        await lose_leader(trial, stage.form.quiet_s),
    ]
    stage.worker.start()
    await trial.goes_on()


async def killed_together(stage: Stage) -> None:
    """Several kinds at one moment."""
    trial, cluster = stage.trial, stage.trial.cluster
    kinds = ("orchestrator", "worker", "server")
    combinations = [each for size in (2, 3) for each in itertools.combinations(kinds, size)]
    for combination in combinations if stage.form.all_of_them else combinations[:1]:
        await cluster.settled()
        leader = await trial.leader_of(cluster.names.shard_stream(0))
        one_of = {"orchestrator": await cluster.owner(0), "worker": stage.worker, "server": leader.process}
        victims = [one_of[kind] for kind in combination]
        await trial.hit("kill -9 of " + ", ".join(victim.name for victim in victims))
        await asyncio.gather(*(victim.kill() for victim in victims))
        await trial.goes_on()
        for victim in victims:
            victim.start()
        await trial.goes_on()


async def paused_one_by_one(stage: Stage) -> None:
    """Whoever wakes up believes that no time has passed, and goes on with what it was about to write."""
    trial, cluster = stage.trial, stage.trial.cluster
    await cluster.settled()
    await trial.hit(f"SIGSTOP of {stage.worker.name}, until the others are awake again")
    stage.worker.pause()
    await trial.paused(await cluster.owner(0), stage.form.pause_s, [0])
    # In the short form a leader is paused with others only, as each election takes a while.
    if stage.form.all_of_them:
        leader = await trial.leader_of(cluster.names.shard_stream(0))
        await trial.paused(leader.process, stage.form.pause_s)
    stage.worker.wake()
    await trial.goes_on()


async def paused_together(stage: Stage) -> None:
    """An owner, a worker and the leader of a stream stand still at one moment; in the long form all else, too."""
    trial, cluster = stage.trial, stage.trial.cluster
    await cluster.settled()
    owner, leader = await cluster.owner(0), await trial.leader_of(cluster.names.shard_stream(0))
    victims = [owner, stage.worker, leader.process]
    await trial.paused_together(victims, stage.form.pause_s, others_go_on=True)
    if stage.form.all_of_them:
        servers = [server.process for server in cluster.servers.all]
        everything = [*servers, *cluster.orchestrators, *cluster.workers]
        await trial.paused_together(everything, stage.form.pause_s, others_go_on=False)
    await trial.goes_on()


async def restarted_one_by_one(stage: Stage) -> None:
    """What an upgrade does: an orderly stop and a start of each process, the next one when work goes on."""
    trial, cluster = stage.trial, stage.trial.cluster
    for kind in (cluster.orchestrators, cluster.workers, [server.process for server in cluster.servers.all]):
        for process in kind if stage.form.all_of_them else kind[:1]:
            await trial.hit(f"SIGTERM of {process.name}")
            assert await process.stop() == 0, f"{process.name}: {process.log()[-1000:]}"
            process.start()
            await trial.goes_on()


async def routes_spoilt(stage: Stage) -> None:
    """A server that is cut off from the others keeps its clients, who must find to the others by themselves."""
    trial, servers = stage.trial, stage.trial.cluster.servers
    leader = await trial.leader_of(trial.cluster.names.shard_stream(0))
    await trial.cluster.look_from_elsewhere(leader)
    async with trial.spoilt(servers.around(leader), "frozen", f"routes of {leader.name}"):
        await trial.goes_on()
        await asyncio.sleep(stage.form.spoilt_s)
    await trial.goes_on()
    one, other = random.Random(stage.round_).sample(servers.all, 2)
    async with trial.spoilt(
        servers.between(one, other), "cut", f"routes between {one.name} and {other.name}"
    ):
        await trial.goes_on()
        await asyncio.sleep(stage.form.spoilt_s)
    every = [link for links in servers.routes.values() for link in links]
    async with trial.spoilt(every, "slow", "all routes"):
        await trial.goes_on()
        await asyncio.sleep(stage.form.spoilt_s)


async def links_spoilt(stage: Stage) -> None:
    """Links of clients, owners and workers to all servers."""
    trial, cluster = stage.trial, stage.trial.cluster
    await cluster.settled()
    owner = await cluster.owner(0)
    async with trial.spoilt(cluster.links_of(owner.name), "frozen", f"links of {owner.name}"):
        await trial.goes_on()
    cases: list[tuple[str, Spoilt]] = [("client", "cut"), (owner.name, "slow")]
    if stage.form.all_of_them:
        cases += [("client", "frozen"), ("client", "slow"), (owner.name, "cut")]
    for name, how in cases:
        async with trial.spoilt(cluster.links_of(name), how, f"links of {name}"):
            await asyncio.sleep(stage.form.spoilt_s)
    workers = [link for worker in cluster.workers for link in cluster.links_of(worker.name)]
    async with trial.spoilt(workers, "cut", "links of all workers"):
        await asyncio.sleep(stage.form.spoilt_s)
    await trial.goes_on()


async def disk_full(stage: Stage) -> None:
    """A server without space leaves JetStream to the others. With space again, it is back after a restart."""
    trial, servers = stage.trial, stage.trial.cluster.servers
    server, disk = servers.all[-1], stage.trial.cluster.disk
    assert disk is not None, "the cluster has no small disk"
    if disk.why_not:
        raise CannotBeDone(f"no disk to fill: {disk.why_not}")
    await trial.hit(f"no space on the disk of {server.name}")
    disk.fill()
    try:
        assert disk.free_bytes == 0
        await trial.goes_on()
        await asyncio.sleep(stage.form.spoilt_s)
    finally:
        disk.free()
    # A server whose disk was full may hang in its orderly shutdown for ever; whatever runs it kills it then.
    await server.process.stop_or_kill(SHUTDOWN_S)
    server.process.start()
    await servers.healthy(server)
    await trial.goes_on()


async def all_killed_at_once(stage: Stage) -> None:
    """With fsync before each acknowledgement, what was acknowledged is there when the servers are back."""
    cluster = stage.trial.cluster
    servers = [server.process for server in cluster.servers.all]
    everything = [*servers, *cluster.orchestrators, *cluster.workers]
    for victims in (servers, everything) if stage.form.all_of_them else (everything,):
        await stage.trial.hit(f"kill -9 of {len(victims)} processes at once, all servers among them")
        await asyncio.gather(*(victim.kill() for victim in victims))
        for server in servers:
            server.start()
        await cluster.servers.formed()
        for victim in victims[len(servers) :]:
            victim.start()
        await stage.trial.goes_on()


async def mixed(stage: Stage) -> None:
    """Kills, pauses, orderly stops and spoilt links at random, of which several hold at a time."""
    await stage.trial.hit("a mixture of faults")
    seed = random.randrange(1_000_000) if stage.form.all_of_them else stage.round_
    await mix(stage.trial, seed, stage.form.mixed)
    await stage.trial.goes_on()


Scenario = Callable[[Stage], Awaitable[None]]

ALL: Final[list[Scenario]] = [
    killed_one_by_one,
    killed_together,
    paused_one_by_one,
    paused_together,
    restarted_one_by_one,
    routes_spoilt,
    links_spoilt,
    disk_full,
    all_killed_at_once,
    mixed,
]
