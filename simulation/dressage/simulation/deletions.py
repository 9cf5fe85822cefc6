"""Runs that are deleted and started anew under the same id, held and released, or deleted when their time is over."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from dressage.client import Client
from dressage.orchestrator.fold.state import Gone, RunState
from dressage.protocol.commands import DeleteRun, StartRun
from dressage.protocol.errors import NotFound, Refused
from dressage.protocol.names import run_token
from dressage.protocol.retention import Retention
from dressage.simulation.behaviour import fleeting
from dressage.simulation.reference import Ending, ending_of, failure_ending
from dressage.simulation.script import Action, Script
from dressage.simulation.workloads import carry, workload

if TYPE_CHECKING:
    from dressage.simulation.world import World

KEEP_MS: Final = 2_000
POLL_S: Final = 0.3
HELD_S: Final = 3.0
"""Longer than the time is for which runs are kept that are to be deleted by themselves."""

LIVES_MAX: Final = 3
GROWN_S: Final = 20.0

Step = Literal["start", "start for a time", "hold", "release", "delete", "wait until it is gone"]


@dataclass
class Lives:
    """What happens to one run id, in order; `done` counts the steps whose outcome is known."""

    run_id: str
    steps: list[Step]
    done: int = 0
    moved: bool = False
    """The run lives where it cannot be deleted, as the number of shards has grown: the rest does not happen."""

    def began(self) -> list[int]:
        """With what each of its runs was started, as far as that is known."""
        return [10 * place for place, step in enumerate(self.steps[: self.done]) if step.startswith("start")]

    def deleted(self) -> int:
        ends = ("delete", "wait until it is gone")
        return sum(step in ends for step in self.steps[: self.done])


@workload
def deletions(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Some ids have one life after the other. Commands of earlier ones come again, and change nothing.

    The choice has a stream of its own: seeds without it are what they would be without this workload.
    """
    chance = random.Random(f"deletions {script.seed}")
    for number in range(chance.choice([0, 0, 1, 2, 3])):
        steps: list[Step] = []
        for _ in range(chance.randint(1, LIVES_MAX)):
            by_itself = chance.random() < 0.3
            steps.append("start for a time" if by_itself else "start")
            if chance.random() < 0.5:
                steps.extend(("hold", "release"))
            steps.append("wait until it is gone" if by_itself else "delete")
        if chance.random() < 0.4:
            steps.pop()  # The last one stays.
            last = max(place for place, step in enumerate(steps) if step.startswith("start"))
            steps[last] = "start"
        lives = Lives(f"fleeting-{number}", steps)
        script.lives.append(lives)
        script.actions.append(_live(lives, chance.choice(clients), chance.random() * seconds * 0.5))


def _live(lives: Lives, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await client.register(fleeting().flow)
        await client.registry.keep("fleeting", Retention(KEEP_MS / 1000))
        while lives.done < len(lives.steps) and not lives.moved:
            try:
                await _do(world, client, lives, lives.done)
            except Refused as refused:
                if refused.code != "RUN_ELSEWHERE":
                    raise
                lives.moved = True
                return
            lives.done += 1

    return Action(client, at_s, f"live {lives.run_id}", act)


async def _do(world: World, client: Client, lives: Lives, place: int) -> None:
    run_id, step = lives.run_id, lives.steps[place]
    name = f"{step} {place}"
    match step:
        case "start" | "start for a time":
            await _start(world, client, lives, place)
        case "hold":
            with contextlib.suppress(_Unknown):
                await _told(client.hold(run_id, "simulated", command_id=name))
            await _is_kept(world, client, lives)
        case "release":
            with contextlib.suppress(_Unknown):
                await _told(client.release(run_id, command_id=name))
        case "delete":
            with contextlib.suppress(_Unknown):
                await _told(client.delete(run_id, "simulated", events=place // 2 % 2 == 0, command_id=name))
            await _again(client, lives, place)
        case "wait until it is gone":
            await _until_gone(world, client, lives)
            await _again(client, lives, place)


class _Unknown(Exception):
    """There is no such run any more: this was done before, and its outcome was not heard of."""


async def _told(command: Awaitable[int]) -> None:
    try:
        await command
    except Refused as refused:
        if refused.code == "RUN_UNKNOWN":
            raise _Unknown from refused
        raise


def _command(lives: Lives, place: int) -> StartRun:
    keep_ms = KEEP_MS if lives.steps[place] == "start for a time" else None
    given = msgspec.Raw(b'{"x":%d}' % (10 * place))
    return StartRun("fleeting", 1, given, f"start {place}", "simulated", keep_ms=keep_ms)


async def _start(world: World, client: Client, lives: Lives, place: int) -> None:
    """Starts it until it was there, by the events that are stored: what is kept for a time may be gone again."""
    wanted = sum(step.startswith("start") for step in lives.steps[: place + 1])
    while kinds_of(world, lives.run_id)["run-started"] < wanted:
        await client.send(lives.run_id, _command(lives, place))
        await asyncio.sleep(POLL_S)
    with contextlib.suppress(NotFound):
        await client.wait(lives.run_id, timeout_s=60.0)
    for earlier in range(place):
        if lives.steps[earlier] == "delete":
            await _again(client, lives, earlier)


async def _again(client: Client, lives: Lives, place: int) -> None:
    """What has started it, and what has deleted it, comes once more, as if it had been on its way for long."""
    first = max(at for at in range(place) if lives.steps[at].startswith("start"))
    await client.send(lives.run_id, _command(lives, first))
    if lives.steps[place] == "delete":
        await client.send(lives.run_id, DeleteRun(f"delete {place}", "simulated"))


async def _is_kept(world: World, client: Client, lives: Lives) -> None:
    """While it is held nobody deletes it, and no time is over."""
    deadline = world.loop.true_time + HELD_S
    while world.loop.true_time < deadline:
        try:
            if (await client.get(lives.run_id)).held is None:
                return  # It was deleted before it was held.
        except NotFound:
            return
        try:
            await client.delete(lives.run_id, command_id=f"in vain {lives.done}")
        except Refused as refused:
            if refused.code == "RUN_ELSEWHERE":
                raise
        else:
            world.watch.broken("held-is-kept", f"{lives.run_id} was held, and somebody deleted it")
        await asyncio.sleep(POLL_S)
    try:
        await client.get(lives.run_id)
    except NotFound:
        world.watch.broken("held-is-kept", f"{lives.run_id} was held, and is gone")


async def _until_gone(world: World, client: Client, lives: Lives) -> None:
    deadline = world.loop.true_time + GROWN_S
    while True:
        try:
            await client.get(lives.run_id)
        except NotFound:
            return
        if world.watch.refold.map.generation > 1 and world.loop.true_time > deadline:
            lives.moved = True  # Where it was while the shards grew it is looked at again in a day.
            return
        await asyncio.sleep(POLL_S)


# -- large values --------------------------------------------------------------------------------------
@dataclass
class Carried:
    """A run with large values that is deleted when it has `ended`."""

    run_id: str
    text: str
    ended: bool = False


@workload
def large_deletions(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs that have the same large values are deleted, and started anew under other ids: each has its own objects.

    The choice has a stream of its own, as that of deletions.
    """
    chance = random.Random(f"large deletions {script.seed}")
    if chance.random() < 0.6:
        return
    text = f"{chance.random()} " * chance.choice([1_000, 3_000])
    for number in range(chance.choice([1, 2, 3])):
        carried = Carried(f"carried-{number}", text)
        script.actions.append(_carry_away(carried, chance.choice(clients), chance.random() * seconds * 0.7))


def _carry_away(carried: Carried, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        if not carried.ended:
            await carry(world, client, carried.run_id, carried.text)
            carried.ended = True
        try:
            await client.delete(carried.run_id, "simulated", command_id="delete")
        except Refused as refused:
            # It was deleted before, or lives where it cannot be.
            if refused.code not in ("RUN_UNKNOWN", "RUN_ELSEWHERE"):
                raise

    return Action(client, at_s, f"carry {carried.run_id} away", act)


# -- the end -----------------------------------------------------------------------------------------
def kinds_of(world: World, run_id: str) -> Counter[str]:
    """How many output events of each kind are stored of all runs of an id."""
    return Counter(event.kind for event in world.watch.events_of(run_id))


def judge_lives(world: World) -> None:
    """Each life began once and ended once, and what is there is the last one, or nothing."""
    for lives in world.script.lives:
        if lives.moved or lives.done < len(lives.steps):
            continue
        kinds, began, deleted = kinds_of(world, lives.run_id), lives.began(), lives.deleted()
        if (kinds["run-started"], kinds["run-deleted"]) != (len(began), deleted):
            world.watch.broken(
                "one-life-after-the-other",
                f"{lives.run_id} began {kinds['run-started']} times and was deleted {kinds['run-deleted']} times, "
                f"and not {len(began)} and {deleted}",
            )
        if len(began) == deleted:
            _judge_gone(world, lives)
        else:
            _judge_there(world, lives, began[-1])


def _judge_gone(world: World, lives: Lives) -> None:
    names, token = world.watch.names, run_token(lives.run_id)
    for shard in range(world.watch.count):
        found = world.server.last_message(names.runs_stream(), names.run_key(shard, token))
        state = world.watch.refold.shard(shard).states.get(token)
        if (found is not None and found.data) or not (state is None or isinstance(state, Gone)):
            world.watch.broken(
                "deleted-stays-gone", f"{lives.run_id} was deleted; shard {shard} has {found}, folded {state}"
            )


def _judge_there(world: World, lives: Lives, x: int) -> None:
    token = run_token(lives.run_id)
    states = [shard.states.get(token) for shard in world.watch.refold.shards.values()]
    found = [state for state in states if isinstance(state, RunState)]
    inputs = [msgspec.json.decode(bytes(state.input))["x"] for state in found]
    if inputs != [x]:
        world.watch.broken("deleted-stays-gone", f"{lives.run_id} is there with {inputs}, and not with {x}")
        return
    ending = world_ending(found[0])
    wanted = ending_of(fleeting(), lives.run_id, x)
    if ending != wanted:
        world.watch.broken("outcome-as-python", f"{lives.run_id} of fleeting: {ending}, not {wanted}")


def world_ending(state: RunState) -> Ending:
    if state.status == "completed":
        return Ending("completed", msgspec.json.decode(bytes(state.output or b"null")))
    return failure_ending(state.failure) if state.failure is not None else Ending(state.status)
