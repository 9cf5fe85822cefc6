"""The end of a seed: everything is healed, the system comes to rest, and what it left is compared with what is due."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from dressage.orchestrator.fold.state import RunState, SleepWait, encode_state
from dressage.orchestrator.turn.removing import TASK_CONSUMER_PREFIX
from dressage.protocol.names import Names, run_token
from dressage.simulation.invariants import ShardView, Watch
from dressage.simulation.reference import Ending, failure_ending
from dressage.simulation.refold import Shard
from dressage.simulation.script import PlannedRun
from dressage.simulation.world import NAMESPACE, World

PATIENCE_S: Final = 300.0
"""So long after the last fault everything must have come to rest; the longest wait is a lost task's, 30 s."""

POLL_S: Final = 0.5
ASLEEP_S: Final = 86_400
"""A run whose sleep has longer than this to go is left asleep."""


def heal(world: World) -> None:
    """Every process lives again, every link is clean, every stream has room."""
    world.note("healing")
    world.links.weather.clear()
    world.server.refusing = None
    for stream in world.server.streams.values():
        stream.full = False
    for process in world.processes.values():
        process.resume()
        if process.life is not None:
            process.life.lane.dies_in = None
        process.start()


async def settle(world: World) -> None:
    """Returns once all clients have their answers and the streams hold nothing that is still to be done."""
    deadline = world.loop.true_time + PATIENCE_S
    while world.loop.true_time < deadline:
        await asyncio.sleep(POLL_S)
        for process in world.processes.values():
            if process.kind != "client":
                process.start()  # One that was told to stop before the healing may end behind it.
        done = all(action.done for action in world.script.actions)
        if done and not _left_over(world) and not _misowned(world):
            return
    waiting = [str(action) for action in world.script.actions if not action.done][:5]
    if waiting:
        world.watch.broken("nothing-hangs", f"still waiting: {waiting}")
    left = _left_over(world)
    if left:
        world.watch.broken("nothing-left-over", f"{left[:5]}")


def _misowned(world: World) -> list[str]:
    """What is wrong with the owners of the shards: each has one, and the only consumers beside the queues'."""
    names, wrong = Names(NAMESPACE), list[str]()
    for number in range(world.watch.count):
        owners = [name for name, engine in world.engines.items() if number in engine.shards]
        if len(owners) != 1:
            wrong.append(f"shard {number} is served by {owners}")
        epoch = world.watch.view(number).fence_seq
        wanted = {names.command_consumer(epoch), names.forward_consumer(epoch)}
        consumers = world.server.streams[names.shard_stream(number)].consumers
        found = {consumer for consumer in consumers if not consumer.startswith(TASK_CONSUMER_PREFIX)}
        if found != wanted:
            wrong.append(f"shard {number} has consumers {sorted(found)}, not {sorted(wanted)}")
    return wrong


def _left_over(world: World) -> list[str]:
    """Messages in the shard streams that no sleeping run accounts for."""
    names, left = Names(NAMESPACE), list[str]()
    for number in range(world.watch.count):
        shard = world.watch.refold.shard(number)
        allowed = {names.cursor(number)}
        for token, state in shard.states.items():
            for thread in state.threads:
                if isinstance(thread.wait, SleepWait) and _sleeps_long(state, thread.wait):
                    allowed.add(names.timer(number, token, thread.wait.timer_id))
        stored = set(world.server.streams[names.shard_stream(number)].log.subjects)
        left += sorted(stored - allowed)
        left += [f"{each} is missing" for each in sorted(allowed - stored)]
    return left


def _sleeps_long(state: RunState, wait: SleepWait) -> bool:
    return wait.until_ms - state.time_ms > ASLEEP_S * 1000


def judge(world: World) -> None:
    """Compares what is there with what must be."""
    watch = world.watch
    for run in world.script.runs.values():
        _judge_run(world, run)
    for number in range(watch.count):
        _judge_shard(watch, number, watch.view(number), watch.refold.shard(number))
    for wrong in _misowned(world):
        watch.broken("one-owner", wrong)
    for process in world.processes.values():
        for unexpected in process.unexpected:
            watch.broken("no-unhandled-error", unexpected)
    for context in world.loop.unhandled:
        watch.broken("no-unhandled-error", f"{context.get('message')}: {context.get('exception')!r}")
    for action in world.script.actions:
        if action.error:
            watch.broken("acknowledged-not-lost", f"{action}: {action.error}")


def _judge_run(world: World, run: PlannedRun) -> None:
    watch, token = world.watch, run_token(run.run_id)
    found = [
        state
        for number in range(watch.count)
        if (state := watch.refold.shard(number).states.get(token)) is not None
    ]
    if len(found) > 1:
        watch.broken("acknowledged-not-lost", f"{run.run_id} is on {len(found)} shards")
    if not found:
        if run.accepted:
            watch.broken(
                "acknowledged-not-lost", f"{run.run_id} was accepted as {run.accepted} and is not there"
            )
        return
    ending = _ending_of(found[0])
    if ending not in (run.ending, *run.may_end):
        watch.broken(
            "outcome-as-python", f"{run.run_id} of {run.workflow}({run.x}): {ending}, not {run.ending}"
        )
    for seen in run.seen:
        if seen != ending:
            watch.broken("outcome-as-python", f"{run.run_id}: a client saw {seen}, it is {ending}")


def _ending_of(state: RunState) -> Ending:
    if state.status == "completed":
        return Ending("completed", msgspec.json.decode(bytes(state.output or b"null")))
    if state.status == "failed" and state.failure is not None:
        return failure_ending(state.failure)
    if state.status == "running":
        return (
            Ending("asleep")
            if any(isinstance(t.wait, SleepWait) for t in state.threads)
            else Ending("at a task")
        )
    return Ending(state.status)


def _judge_shard(watch: Watch, number: int, view: ShardView, shard: Shard) -> None:
    for token, state in shard.states.items():
        if view.state_data.get(token) != encode_state(state):
            watch.broken(
                "state-in-bucket",
                f"shard {number}: {token} is stored @{view.state_seq.get(token)}, not @{state.seq}",
            )
        stored, wanted = view.events.get(token, 0), len(shard.events.get(token, []))
        if stored != wanted:
            watch.broken("events-complete", f"shard {number}: {token} has {stored} of {wanted} events")


def judge_executions(world: World) -> None:
    """Every result that was applied comes from at least one execution of that attempt."""
    for shard in world.watch.refold.shards.values():
        for token, events in shard.events.items():
            for _, kind, data in events:
                if kind in ("task-completed", "task-failed"):
                    _judge_execution(world, shard.states[token].run_id, data)


def _judge_execution(world: World, run_id: str, data: bytes) -> None:
    task_id = msgspec.json.decode(data)["task_id"]
    if not world.executions.ended.get((run_id, task_id)):
        world.watch.broken("task-executed", f"{task_id} of {run_id}")
