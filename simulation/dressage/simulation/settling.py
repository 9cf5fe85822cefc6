"""The end of a seed: everything is healed, the system comes to rest, and what it left is compared with what is due."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Final

import msgspec

from dressage.expressions.calendar import Calendar
from dressage.orchestrator.fold.state import Gone, Mailbox, RunState, Schedule, SleepWait, encode_state
from dressage.orchestrator.fold.times import rfc3339
from dressage.orchestrator.turn.removing import TASK_CONSUMER_PREFIX
from dressage.protocol.names import Names, is_key, key_token, run_id_of, run_token
from dressage.simulation.behaviour import ticking
from dressage.simulation.deletions import judge_lives
from dressage.simulation.invariants import ShardView, Watch
from dressage.simulation.memory import judge_memory
from dressage.simulation.permits import judge_permits
from dressage.simulation.reference import Ending, ending_of, failure_ending
from dressage.simulation.refold import Shard
from dressage.simulation.script import PlannedRun
from dressage.simulation.triggers import judge_triggers
from dressage.simulation.workloads import COMMANDS_MIN, sleeps_long
from dressage.simulation.world import NAMESPACE, World

PATIENCE_S: Final = 300.0
"""So long after the last output event everything must have come to rest; the longest wait is a lost task's, 30 s."""

SETTLED_WITHIN_S: Final = 1_500.0
"""And so long after the last fault in any case: with a limit of one open run, runs go one by one."""

POLL_S: Final = 0.5


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
    healed = moved = world.loop.true_time
    told = 0
    while world.loop.true_time < min(moved + PATIENCE_S, healed + SETTLED_WITHIN_S):
        await asyncio.sleep(POLL_S)
        events = sum(sum(world.watch.view(number).events.values()) for number in range(world.watch.count))
        if events != told:
            told, moved = events, world.loop.true_time
        for process in world.processes.values():
            if process.kind != "client":
                process.start()  # One that was told to stop before the healing may end behind it.
        done = all(action.done for action in world.script.actions)
        if done and not _left_over(world) and not _misowned(world):
            if world.watch.commands >= COMMANDS_MIN or not world.script.reserve:
                return
            world.call_up()
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
            if not isinstance(state, RunState):
                continue
            for thread in state.threads:
                if isinstance(thread.wait, SleepWait) and sleeps_long(state, thread.wait):
                    allowed.add(names.timer(number, token, thread.wait.timer_id))
        stored = set(world.server.streams[names.shard_stream(number)].log.subjects)
        if world.watch.refold.map.generation > 1:
            # What lives elsewhere by the newest map is looked at again in a day, and not deleted.
            allowed |= stored & {
                names.timer(number, token, state.keep_id)
                for token, state in shard.states.items()
                if isinstance(state, RunState) and state.keep_id
            }
        left += sorted(stored - allowed)
        left += [f"{each} is missing" for each in sorted(allowed - stored)]
    return left


def judge(world: World) -> None:
    """Compares what is there with what must be."""
    watch = world.watch
    for run in world.script.runs.values():
        _judge_run(world, run)
    for number in range(watch.count):
        _judge_shard(watch, number, watch.view(number), watch.refold.shard(number))
    _judge_keys(watch)
    judge_triggers(world)
    _judge_schedules(world)
    shards = [watch.refold.shard(number) for number in range(watch.count)]
    judge_permits(dict(each for shard in shards for each in shard.states.items()), watch.broken)
    judge_lives(world)
    _judge_publishes(watch)
    for wrong in _misowned(world):
        watch.broken("one-owner", wrong)
    judge_memory(world)
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
        if isinstance(state := watch.refold.shard(number).states.get(token), RunState)
    ]
    if len(found) > 1:
        watch.broken("acknowledged-not-lost", f"{run.run_id} is on {len(found)} shards")
    if not found:
        if run.accepted:
            watch.broken(
                "acknowledged-not-lost", f"{run.run_id} was accepted as {run.accepted} and is not there"
            )
        return
    ending = _ending_of(watch, found[0])
    tidied = run.tidies and ending.kind in ("completed", "failed")
    if ending not in (run.ending, *run.may_end) and not tidied:
        watch.broken(
            "outcome-as-python", f"{run.run_id} of {run.workflow}({run.x}): {ending}, not {run.ending}"
        )
    if "cancelled" in run.told and ending.kind != "cancelled":
        watch.broken(
            "acknowledged-not-lost", f"{run.run_id}: a client was told of its cancel, it is {ending}"
        )
    if "finished" in run.told and ending.kind not in ("completed", "failed"):
        watch.broken(
            "acknowledged-not-lost", f"{run.run_id}: no cancel, as it was finished, but it is {ending}"
        )
    for seen in run.seen:
        if seen != ending:
            watch.broken("outcome-as-python", f"{run.run_id}: a client saw {seen}, it is {ending}")


def _judge_keys(watch: Watch) -> None:
    """Events of correlation keys are taken or kept, whoever stopped waiting for them meanwhile."""
    shards = [watch.refold.shard(number) for number in range(watch.count)]
    taken, kept = set[tuple[str, str]](), set[tuple[str, str]]()
    for shard in shards:
        for events in shard.events.values():
            posted = [msgspec.json.decode(data) for _, kind, data in events if kind == "event-posted"]
            taken |= {
                (key_token(each["event"], each["key"]), each["event_id"]) for each in posted if "key" in each
            }
        for token, state in shard.states.items():
            if is_key(token) and isinstance(state, Mailbox):
                kept |= {(token, each.event_id) for each in state.unclaimed}
                all_filed = {each for other in shards for each in other.filed if each[0] == token}
                if state.held or state.number != len(all_filed):
                    watch.broken(
                        "filed-once",
                        f"{token} had {len(all_filed)} events, and counts {state.number}; {len(state.held)} are held",
                    )
    for filed in (each for shard in shards for each in shard.filed):
        if (filed in taken) == (filed in kept):
            how = "taken, and kept" if filed in taken else "neither taken nor kept"
            watch.broken("filed-once", f"event {filed[1]} of {filed[0]} is {how}")


def _ending_of(watch: Watch, state: RunState) -> Ending:
    if state.status == "completed":
        return Ending("completed", msgspec.json.decode(bytes(state.output or b"null")))
    if state.status == "failed" and state.failure is not None:
        return failure_ending(state.failure)
    if state.status == "running":
        sleeps = [thread.wait for thread in state.threads if isinstance(thread.wait, SleepWait)]
        return Ending("asleep", _sleep_of(watch, state, sleeps[0])) if sleeps else Ending("at a task")
    return Ending(state.status)


def _judge_schedules(world: World) -> None:
    """Each moment fired once, in its order, and what is known of the runs is what became of them."""
    watch = world.watch
    shards = [watch.refold.shard(number) for number in range(watch.count)]
    runs = {
        state.run_id: state
        for shard in shards
        for state in shard.states.values()
        if isinstance(state, RunState) and state.schedule
    }
    known: set[str] = set()
    for shard in shards:
        for token, state in shard.states.items():
            if not isinstance(state, Schedule):
                continue
            told = [
                msgspec.json.decode(data) for _, kind, data in shard.events[token] if kind == "schedule-fired"
            ]
            known |= {each["run_id"] for each in told if each.get("run_id")}
            moments = [each["moment"] for each in told if not each.get("by_hand")]
            first = list(dict.fromkeys(moments))  # What was queued fires again.
            untouched = world.script.schedules.get(state.name, False)
            calendar = Calendar(state.spec.timing, state.made_ms)
            due = [rfc3339(each) for each in calendar.between(state.made_ms + 1, state.time_ms)]
            if untouched and first != due:
                watch.broken("scheduled-once", f"{token} fired for {first}, not for {due}")
            if state.open or state.queued or state.next_ms:
                watch.broken(
                    "scheduled-once", f"{token} still has {state.open}, {state.queued}, {state.next_ms}"
                )
            for fire in state.fires:
                run = runs.get(fire.run_id)
                if run is not None and fire.outcome not in (run.status, "refused"):
                    watch.broken("scheduled-once", f"{token} knows {fire}, and the run {run.status}")
    for run_id, run in runs.items():
        if run_id not in known:
            watch.broken("scheduled-once", f"no schedule knows of {run_id}")
        _judge_scheduled(watch, run)


def _judge_scheduled(watch: Watch, run: RunState) -> None:
    wanted = ending_of(ticking(), run.run_id, msgspec.json.decode(bytes(run.input))["x"])
    ending = _ending_of(watch, run)
    if ending not in (wanted, Ending("cancelled")):
        watch.broken("outcome-as-python", f"{run.run_id} of ticking: {ending}, not {wanted}")


def _sleep_of(watch: Watch, state: RunState, wait: SleepWait) -> tuple[int, float]:
    """Where in the module the run sleeps and for how long, since it fell asleep: a child run may have ended meanwhile
    that would be cancelled with it."""
    definition = watch.refold.definition(state.workflow, state.version)
    assert definition is not None, "the run was started with it"
    line = definition.spec.nodes[wait.node].line
    for event in reversed(watch.events_of(state.run_id)):
        if event.kind == "sleep-started" and msgspec.json.decode(event.data)["timer_id"] == wait.timer_id:
            began_ms = round(datetime.fromisoformat(event.time).timestamp() * 1000)
            return line, (wait.until_ms - began_ms) / 1000
    return line, -1.0  # No event tells of it, which is a rule of its own.


def _judge_shard(watch: Watch, number: int, view: ShardView, shard: Shard) -> None:
    for token, state in shard.states.items():
        wanted = b"" if isinstance(state, Gone) and state.forgotten else encode_state(state)
        if view.state_data.get(token) != wanted:
            watch.broken(
                "state-in-bucket",
                f"shard {number}: {token} is stored @{view.state_seq.get(token)}, not @{state.seq}",
            )
        stored, due = view.events.get(token, 0), len(shard.events.get(token, []))
        if stored != due:
            watch.broken("events-complete", f"shard {number}: {token} has {stored} of {due} events")


def _judge_publishes(watch: Watch) -> None:
    if watch.dead_publishes:
        watch.broken("publishes-complete", f"{watch.dead_publishes} dead letters")
    for token, wanted in watch.refold.published.items():
        stored = watch.published.get(token, [])
        if stored != list(wanted):
            watch.broken("publishes-complete", f"{token} published {list(wanted)}, stored are {stored}")


def judge_executions(world: World) -> None:
    """Every result that was applied, as the stored events tell it, is what an execution of that attempt came to; and
    what a handler has kept was there for whoever executed its call next."""
    for lost in world.executions.lost:
        world.watch.broken("progress-kept", lost)
    for (token, task_id), (kind, data) in world.watch.applied.items():
        told = msgspec.json.decode(data)
        if not told["worker"]:
            continue  # It was not done in time, whatever its executions come to.
        came_to = world.executions.ended.get((run_id_of(token), task_id), [])
        if not any(_tells(kind, told, *ended) for ended in came_to):
            world.watch.broken("task-executed", f"{told} of {token}, but its executions came to {came_to}")


def _tells(kind: str, told: dict[str, Any], how: str, what: Any) -> bool:
    """Whether an event tells of an execution that ended so. What a type error says is the worker's own."""
    if kind == "task-completed":
        return how == "value" and told["output"] == msgspec.json.decode(msgspec.json.encode(what))
    if how != "failure":
        return False
    name, message = what
    return told["failure"]["name"] == name and message in (None, told["failure"]["message"])
