"""What goes wrong in a seed. A fault is an async function on the hand that breaks things, registered by `@fault`.

Whatever a fault does is over when the healing begins: processes that are down start again, links are clean.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from dressage.brokers.interface import FENCE_IN_PROCESS
from dressage.brokers.memory.clock import clock_of
from dressage.simulation.network import Weather
from dressage.simulation.processes import Process
from dressage.simulation.striking import strike
from dressage.simulation.world import World

Fault = Callable[[World, random.Random], Awaitable[None]]
FAULTS: dict[str, Fault] = {}
_WEIGHTS: dict[str, int] = {}

WRITES: Final = frozenset({"send", "batch", "reply"})


def fault(weight: int = 1) -> Callable[[Fault], Fault]:
    """Registers a fault; `weight` is how often it is chosen beside the others."""

    def register(act: Fault) -> Fault:
        FAULTS[act.__name__] = act
        _WEIGHTS[act.__name__] = weight
        return act

    return register


def choose(chance: random.Random) -> str:
    """The name of the next fault."""
    return chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]


def _some(world: World, chance: random.Random, *kinds: str) -> Process:
    """A process of one of these kinds, alive if there is one."""
    found = [process for kind in kinds for process in world.of_kind(kind)]
    return chance.choice([process for process in found if process.alive] or found)


def _some_owner(world: World, chance: random.Random) -> Process:
    """An orchestrator that has shards, if there is one."""
    owning = [name for name, engine in world.engines.items() if engine.shards]
    found = [world.processes[name] for name in owning if world.processes[name].alive]
    return chance.choice(found) if found else _some(world, chance, "orchestrator")


@fault(weight=4)
async def crash(world: World, chance: random.Random) -> None:
    """An orchestrator dies at one of its next steps, between any two awaits, and comes back after a while."""
    process = _some(world, chance, "orchestrator")
    process.crash(chance.randint(1, chance.choice([3, 40, 400])))
    await asyncio.sleep(chance.random() * 3)
    process.crash()
    await asyncio.sleep(chance.choice([0.0, 0.05, 1.0, 4.0]))
    process.start()


@fault(weight=2)
async def crash_outside(world: World, chance: random.Random) -> None:
    """A worker, in the middle of its tasks, or a client dies and comes back."""
    process = _some(world, chance, "worker", "client")
    process.crash(chance.randint(1, chance.choice([3, 60])))
    await asyncio.sleep(chance.random() * 2)
    process.crash()
    await asyncio.sleep(chance.random() * 2)
    process.start()


@fault()
async def crash_all(world: World, chance: random.Random) -> None:
    """All orchestrators die at once."""
    for process in world.of_kind("orchestrator"):
        process.crash(chance.randint(1, 50))
    await asyncio.sleep(1.0)
    for process in world.of_kind("orchestrator"):
        process.crash()
        process.start()


@fault(weight=3)
async def pause(world: World, chance: random.Random) -> None:
    """A process stands still and wakes up later: a zombie, if another one took its place."""
    process = _some(world, chance, "orchestrator", "orchestrator", "worker", "client")
    process.pause()
    await asyncio.sleep(chance.choice([0.05, 0.5, 3.0, 7.0]) * (0.5 + chance.random()))
    process.resume()


@fault(weight=3)
async def cut(world: World, chance: random.Random) -> None:
    """Connections break; what was on its way never arrives."""
    _some(world, chance, "orchestrator", "orchestrator", "worker", "client").cut(chance)


@fault()
async def restart_server(world: World, chance: random.Random) -> None:
    """The broker restarts: every connection breaks, and ids of messages that are gone are forgotten."""
    world.note("the server restarts")
    strike().hit()
    for stream in world.server.streams.values():
        stream.forget_ids()
    for process in world.processes.values():
        if process.life is not None:
            for connection in list(process.life.broker.connections):
                connection.cut()


@fault(weight=4)
async def silence(world: World, chance: random.Random) -> None:
    """Writes of an orchestrator, or the answers to them, get lost while its connections stand."""
    process = _some_owner(world, chance)
    share = chance.choice([0.3, 1.0, 1.0])
    out, back = chance.choice([(share, 0.0), (0.0, share), (share, share)])
    role = chance.choice([None, "turns", "turns", "turns", "events", "states", "intake", "publishing"])
    weather = Weather(process.name, role, out, back, kinds=WRITES)
    await _while(
        world, weather, 0.5 + chance.random() * 3, f"writes get lost: {process.name} {role} {out}/{back}"
    )


@fault(weight=3)
async def zombie(world: World, chance: random.Random) -> None:
    """An orchestrator whose writes take long stands still for so long that another takes its place.

    What it had sent arrives behind the other one's fences, and then it wakes up and goes on.
    """
    process = _some(world, chance, "orchestrator")
    role = chance.choice([None, "turns", "events", "states"])
    weather = Weather(process.name, role, delay_s=6.0)
    world.note(f"{process.life}: writes of {role or 'every'} connection take up to 6 s")
    with world.links.under(weather):
        await asyncio.sleep(0.1 + chance.random())
    process.pause()
    await asyncio.sleep(3 + chance.random() * 3)
    process.resume()


@fault(weight=2)
async def refusals(world: World, chance: random.Random) -> None:
    """The broker refuses some writes, for a limit of its own or because it is busy with another one."""
    share, err_code = chance.choice([0.1, 0.5]), chance.choice([10077, FENCE_IN_PROCESS])
    dice = random.Random(chance.random())

    here = strike()

    def refusing(_: str, __: object) -> int | None:
        if dice.random() >= share:
            return None
        here.hit()
        return err_code

    world.note(f"{share} of all writes are refused with {err_code}")
    world.server.refusing = refusing
    await asyncio.sleep(chance.random())
    world.server.refusing = None
    world.note("no writes are refused any more")


@fault(weight=3)
async def lossy_deliveries(world: World, chance: random.Random) -> None:
    """Deliveries vanish in the client, or come twice."""
    process = _some_owner(world, chance) if chance.random() < 0.7 else _some(world, chance, "worker")
    loss, twice = chance.choice([(0.05, 0.0), (0.0, 0.2), (0.3, 0.3)])
    weather = Weather(process.name, None, 0.0, loss, twice=twice, kinds=frozenset({"delivery"}))
    await _while(
        world, weather, chance.random() * 2, f"deliveries to {process.name}: {loss} lost, {twice} twice"
    )


@fault(weight=2)
async def lost_messages(world: World, chance: random.Random) -> None:
    """Everything to and from one process may vanish: acknowledgements, reads, requests, answers."""
    process = _some(world, chance, "worker", "client", "orchestrator")
    share = chance.choice([0.05, 0.5])
    weather = Weather(process.name, None, share, share)
    await _while(world, weather, chance.random() * 2, f"{share} of everything of {process.name} gets lost")


@fault(weight=2)
async def slow_links(world: World, chance: random.Random) -> None:
    """Messages of one process, or of one kind of connection, take long."""
    process = chance.choice([None, _some(world, chance, "orchestrator").name])
    role = chance.choice([None, "states", "states", "events", "turns"])
    weather = Weather(process, role, delay_s=chance.choice([0.05, 0.5, 2.0]))
    await _while(world, weather, chance.random() * 4, f"slow links: {process} {role} {weather.delay_s} s")


@fault(weight=2)
async def flapping(world: World, chance: random.Random) -> None:
    """Heartbeats get lost, so that the orchestrators disagree about who should have which shard.

    With slow links their take-overs interleave, too.
    """
    heartbeats = Weather(None, "dressage-orchestrator", chance.choice([0.7, 1.0]), 0.0)
    slow = Weather(None, "intake", delay_s=chance.choice([0.0, 0.5, 1.0]))
    with world.links.under(slow):
        await _while(world, heartbeats, 2 + chance.random() * 4, "heartbeats get lost")


@fault()
async def clock_of_broker(world: World, chance: random.Random) -> None:
    """Another leader, with another clock: broker time jumps, back as well."""
    world.clock_jump_s += chance.choice([-1.5, -0.2, 0.5, 3.0])
    clock_of(world.server).set()
    strike().hit()
    world.note(f"broker time jumps to {world.clock_jump_s:+.1f} s")


@fault()
async def clock_of_host(world: World, chance: random.Random) -> None:
    """A host's clocks jump, and stay there: that of its calendar back as well, the one it measures with ahead only."""
    process = _some(world, chance, "orchestrator", "worker", "client")
    process.skew_s += chance.choice([0.0, 0.3, 5.0, 90.0])
    process.calendar_s += chance.choice([-86_400.0, -5.0, -0.3, 0.0, 90.0])
    if process.life is not None:
        process.life.lane.skew_s = process.skew_s
        process.life.lane.calendar_s = process.calendar_s
    strike().hit()
    world.note(
        f"the clocks of {process.name} jump to {process.skew_s:+.1f} s, the calendar by {process.calendar_s:+.1f} s"
    )


@fault()
async def full_stream(world: World, chance: random.Random) -> None:
    """A stream takes nothing for a while: every publish to it is refused."""
    streams = list(world.server.streams.values())
    stream = chance.choice(streams)
    world.note(f"stream {stream.name} is full")
    before = stream.refused
    stream.full = True
    await asyncio.sleep(chance.random() * 2)
    stream.full = False
    if stream.refused > before:
        strike().hit()
    world.note(f"stream {stream.name} has room")


@fault()
async def orderly_restart(world: World, chance: random.Random) -> None:
    """An orchestrator is told to stop, drains, and is started again."""
    process = _some(world, chance, "orchestrator")
    await _stop(world, process, 0.5 + chance.random() * 4)
    process.start()


@fault()
async def upgrade(world: World, chance: random.Random) -> None:
    """A newer release, one orchestrator after another; some stop in order, some crash.

    Often the others restart once as what they are, so that the newer one serves everything, and then that one is away
    for a while: its shards are offered to older ones, which would misread what stands there (see
    `dressage.simulation.releases`).
    """
    first, *others = chance.sample(world.of_kind("orchestrator"), len(world.of_kind("orchestrator")))
    older, world.fold_version = world.fold_version, world.fold_version + 1
    world.note(f"upgrade to fold version {world.fold_version}")
    await _become(world, first, world.fold_version, chance)
    if chance.random() < 0.7:
        for process in others:
            await _become(world, process, world.releases.get(process.name, older), chance)
        await asyncio.sleep(0.3 + chance.random())
        await _stop(world, first, 1 + chance.random() * 2)
        first.start()
    for process in others:
        await _become(world, process, world.fold_version, chance)


async def _become(world: World, process: Process, release: int, chance: random.Random) -> None:
    """The process ends, and comes back as that release."""
    if chance.random() < 0.6:
        await _stop(world, process, chance.random() * 2)
    world.releases[process.name] = release
    process.crash()
    await asyncio.sleep(chance.random() * 0.5)
    process.start()


async def _stop(world: World, process: Process, seconds: float) -> None:
    """Tells an orchestrator to stop, and gives it time for that."""
    engine = world.engines.get(process.name)
    if process.life is not None and engine is not None:
        strike().hit()
        world.note(f"{process.life} is told to stop")
        process.life.lane.context.copy().run(engine.stop)
        await asyncio.sleep(seconds)


async def _while(world: World, weather: Weather, seconds: float, what: str) -> None:
    world.note(f"{what}, for {seconds:.1f} s")
    with world.links.under(weather):
        await asyncio.sleep(seconds)
    world.note(f"no longer: {what}")
