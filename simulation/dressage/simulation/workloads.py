"""What clients do with the engine. A feature adds a function here, marked `@workload`, and its rule if it has one.

A workload writes actions into the script of a seed. Each gets the seed's random stream for workloads, and decides
itself how often it takes part.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec import structs
from msgspec.json import encode

from dressage.brokers.interface import Message
from dressage.brokers.memory import Record
from dressage.client import Client, RunFailed, ScheduleHandle
from dressage.client.user_tasks import UserTaskHandle
from dressage.orchestrator.fold.state import RunState, SleepWait, TaskWait
from dressage.orchestrator.growth import GrowthUnfinished, grow, retire
from dressage.protocol.commands import (
    PROGRESS_BYTES_MAX,
    REASON_BYTES_MAX,
    AttemptProgress,
    AttemptStopped,
    CancelRun,
    PostEvent,
    StartRun,
    TaskResult,
    TimerFired,
    WorkerInfo,
    decode_command,
)
from dressage.protocol.errors import DefinitionError, NotFound, Refused
from dressage.protocol.events import END_KINDS, ReceivedEvent
from dressage.protocol.names import timetable_token
from dressage.protocol.schedules import Overlap, ScheduleSpec, Timing
from dressage.protocol.spec import CANCELLED_ERROR, ChildNode
from dressage.protocol.user_tasks import UserTaskView
from dressage.simulation.behaviour import (
    EDITED,
    EPOCH_S,
    MOMENT,
    NAP,
    PARTED_THREADS,
    QUEUES,
    carrying,
    limited,
    mended,
    parted,
    payload_of,
    person_of,
    task_options,
    ticking,
    turned,
)
from dressage.simulation.programs import Program, define, other_version
from dressage.simulation.programs.program import FILED, RINGS, TOLD
from dressage.simulation.reference import Ending, ending_of, failure_ending, parted_ending
from dressage.simulation.script import Action, PlannedRun, Script
from dressage.simulation.tracing import traceparent_of

if TYPE_CHECKING:
    from dressage.simulation.world import World

RUNS_MIN: Final = 20
COMMANDS_MIN: Final = 200
PLANNED_MIN: Final = 140
"""So many commands are planned for; what is repeated, refused and called up late makes the rest."""

RESERVE, RESERVE_COMMANDS = 20, 150
"""So many runs wait for being needed, and more where these are small: all of a seed together must be enough."""

LATE_CLIENT: Final = "client-late"
DULL_COMMANDS, LONG_COMMANDS = 5, 40
"""Runs of fewer commands are mostly dull; one of more takes all the time there is, and gains nothing by it."""

DRAWN_MAX: Final = 150
"""After so many runs were thought of, any length will do."""

AIMING: Final = 10
PROGRAMS: Final = 100
"""So many different programs the seeds of a block draw from; a process compiles each of them once."""

ASLEEP_S: Final = 86_400
"""A run whose sleep has longer than this to go is left asleep."""

BLOCK: Final = 1_000
"""So many seeds, beginning with number 0, share their programs: few seeds compile little, many see much."""

Workload = Callable[[Script, random.Random, list[str], float], None]
WORKLOADS: dict[str, Workload] = {}


def workload(write: Workload) -> Workload:
    """Registers a workload: `write(script, chance, clients, seconds)`."""
    WORKLOADS[write.__name__] = write
    return write


@functools.lru_cache(maxsize=PROGRAMS)
def program(number: int) -> ModuleType | None:
    """The `number`th program; None for one that the compiler refuses."""
    try:
        return define(_written(number, f"program-{number}"))
    except DefinitionError:
        return None


@functools.lru_cache(maxsize=PROGRAMS)
def moving_program(number: int) -> tuple[ModuleType, ModuleType] | None:
    """Two versions of a program; None for one that the compiler refuses."""
    text = _written(number, f"moving-{number}")
    try:
        return define(text), define(other_version(text, same_lines=True))
    except DefinitionError:
        return None


def _written(number: int, name: str) -> str:
    queue = QUEUES[number % len(QUEUES)]
    written = Program(
        number,
        name=name,
        naps=NAP,
        moments=MOMENT,
        began_s=EPOCH_S,
        task_options=task_options(queue, waits=number % 7 == 3),
        length=(2, 6),
        parks=number % 2 == 0,
        tells=True,
        sure=True,
    )
    return written.text()


def some_program(block: int, chance: random.Random) -> tuple[int, ModuleType]:
    while True:
        number = block * PROGRAMS + chance.randrange(PROGRAMS)
        module = program(number)
        if module is not None:
            return number, module


# -- starting runs and awaiting their ends ------------------------------------------------------------
@workload
def runs(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs of a few generated workflows, each started by one client and awaited by it or by another one."""
    chosen = dict(some_program(script.seed // BLOCK, chance) for _ in range(6))
    script.programs |= {f"program-{number}": module for number, module in chosen.items()}
    more_runs(script, chance, clients, seconds, 0)


def more_runs(
    script: Script, chance: random.Random, clients: list[str], seconds: float, commands_min: int = PLANNED_MIN
) -> None:
    """As many as make a seed worth its name."""
    while len(script.runs) < RUNS_MIN or script.commands < commands_min:
        run = some_run(script, chance)
        if run is None:
            continue
        at_s = _plan(script, chance, clients, seconds, run)
        if run.ending.kind != "asleep" and chance.random() < 0.5:
            script.actions.append(end_of(run, chance.choice(clients), at_s + chance.random()))


def _plan(
    script: Script, chance: random.Random, clients: list[str], seconds: float, run: PlannedRun
) -> float:
    """A run with all that it needs from outside; when it is started."""
    script.runs[run.run_id] = run
    at_s = chance.random() ** 2 * seconds
    script.actions.append(start_of(run, chance.choice(clients), at_s))
    for _ in range(chance.choice([1, 1, 2]) if run.ending.events else 0):
        early = chance.random() < 0.3
        posted_s = at_s + (chance.random() - 0.5 * early) * 5 * chance.random()
        script.actions.append(posts_of(run, chance.choice(clients), max(0.0, posted_s), early=early))
    for _ in range(chance.choice([1, 1, 2]) if run.ending.keys else 0):
        script.actions.append(files_of(run, chance.choice(clients), chance.random() ** 2 * seconds))
    for _ in range(chance.choice([1, 1, 2]) if run.ending.people else 0):
        script.actions.append(serves_of(run, chance.choice(clients), at_s + 3 * chance.random()))
    own = random.Random(f"dead {script.seed} {run.run_id}")
    if _waits_when_exhausted(run):
        for _ in range(own.choice([1, 1, 2])):
            script.actions.append(settles_of(run, own.choice(clients), at_s + 3 * own.random()))
    own = random.Random(f"rings {script.seed} {run.run_id}")
    if any(name in run.module.flow.events for name in RINGS):
        for _ in range(own.choice([1, 1, 2])):
            script.actions.append(rings_of(run, own.choice(clients), at_s + 3 * own.random()))
    return at_s


def reserve_runs(script: Script, chance: random.Random) -> None:
    """How often things are repeated is not known beforehand, so some runs wait for being needed."""
    commands = 0
    while len(script.reserve) < RESERVE or commands < RESERVE_COMMANDS:
        run = some_run(script, chance)
        waits = run is not None and (
            run.ending.events or run.ending.keys or run.ending.people or _waits_when_exhausted(run)
        )
        if run is not None and run.ending.kind != "asleep" and not waits:
            script.reserve.append((run, start_of(run, LATE_CLIENT, 0.0)))
            commands += run.ending.commands


def some_run(script: Script, chance: random.Random) -> PlannedRun | None:
    """None instead of one that is too long, and of most of the short ones."""
    name, module = chance.choice([each for each in script.programs.items() if each[0].startswith("program-")])
    run_id, x = f"run{' ' if chance.random() < 0.2 else '-'}{script.drawn}", chance.randint(-2, 5)
    script.drawn += 1
    ending = ending_of(module, run_id, x)
    if script.drawn < DRAWN_MAX:
        dull = ending.commands < DULL_COMMANDS and chance.random() < 0.8
        if dull or ending.commands > LONG_COMMANDS:
            return None
    return PlannedRun(run_id, name, module, x, ending)


def start_of(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        world.watch.traces.started.add(run.run_id)
        handle = await client.start(
            *(run.workflow, {"x": run.x}),
            run_id=run.run_id,
            timeout_s=10.0,
            traceparent=traceparent_of(run.run_id),
        )
        run.accepted[handle.seq] = handle.existing

    return Action(client, at_s, f"start {run.run_id}", act)


def posts_of(run: PlannedRun, client: str, at_s: float, *, early: bool = False) -> Action:
    """The external events that the run will take, one after the other; by two clients each of them comes twice. Some
    are `early`: they need not wait for the run."""

    async def act(world: World, client: Client) -> None:
        if early:
            await client.register(run.module.flow)  # By who posts first, so that the event is known.
        else:
            await _until(lambda: bool(run.accepted))
        for number in range(run.ending.events):
            try:
                await client.post(
                    run.run_id, TOLD, payload_of(run.run_id, number), event_id=f"event {number}"
                )
            except Refused as refused:
                if refused.code != "RUN_FINISHED":
                    raise
                return

    return Action(client, at_s, f"tell {run.run_id}", act)


def rings_of(run: PlannedRun, client: str, at_s: float) -> Action:
    """Some events that interrupt the run, if it is then where they do."""

    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        for number in range(3):
            for name in RINGS:
                if name in run.module.flow.events:
                    await _none_or(client.post(run.run_id, name, number, event_id=f"{name} {number}"))
            await asyncio.sleep(0.3)

    return Action(client, at_s, f"ring {run.run_id}", act)


def _waits_when_exhausted(run: PlannedRun) -> bool:
    return any(
        task.retry is not None and task.retry.exhausted == "wait" for task in run.module.flow.spec.tasks
    )


def settles_of(run: PlannedRun, client: str, at_s: float) -> Action:
    """Somebody looks for dead tasks of the run, and of those that it has started, now and then: retries some of them
    once, and lets the others fail, so that the run ends as if none had waited. By two clients each of that comes
    twice."""

    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        quiet = 0
        while quiet < 10:
            family = _family(world, run.run_id)
            for state in family:
                for wait in _attempts(state):
                    if wait.dead is not None:
                        await _settle(client, state.run_id, wait)
            quiet = quiet + 1 if family and all(map(_is_at_rest, family)) else 0
            await asyncio.sleep(0.7)

    return Action(client, at_s, f"settle {run.run_id}", act)


def _is_at_rest(state: RunState) -> bool:
    """Whether it has ended, or sleeps for so long that nobody waits for it."""
    waits = [thread.wait for thread in state.threads]
    return state.finished or any(isinstance(wait, SleepWait) and sleeps_long(state, wait) for wait in waits)


def sleeps_long(state: RunState, wait: SleepWait) -> bool:
    """Whether a run is left asleep."""
    return wait.until_ms - state.time_ms > ASLEEP_S * 1000


async def _settle(client: Client, run_id: str, wait: TaskWait) -> None:
    again = wait.spent == 0 and random.Random(wait.task_id).random() < 0.5
    tell = client.retry_task if again else client.fail_task
    for _ in range(2):
        await _none_or(tell(run_id, wait.task_id, command_id=f"settle {wait.task_id}"))
    if not again:
        await _none_or(client.retry_task(run_id, wait.task_id, command_id=f"too late {wait.task_id}"))


def _family(world: World, run_id: str) -> list[RunState]:
    """The run, and all that it has started, and those have, as they stand."""
    states = [
        state
        for shard in world.watch.refold.shards.values()
        for state in shard.states.values()
        if isinstance(state, RunState)
    ]
    known, found = {run_id}, [state for state in states if state.run_id == run_id]
    while new := [s for s in states if s.parent and s.parent.run_id in known and s.run_id not in known]:
        known |= {state.run_id for state in new}
        found += new
    return found


def files_of(run: PlannedRun, client: str, at_s: float) -> Action:
    """As many events as the run takes, at the keys where it takes them; which runs these go to is chance. By two
    clients each comes twice."""

    async def act(world: World, client: Client) -> None:
        await client.register(run.module.flow)
        for number, key in enumerate(run.ending.keys):
            await client.post_by_key(FILED, key, payload_of(key, 0), event_id=f"{run.run_id} {number}")

    return Action(client, at_s, f"file for {run.run_id}", act)


def serves_of(run: PlannedRun, client: str, at_s: float) -> Action:
    """Somebody looks for the run's user tasks now and then, says something, takes them, and does them. By two clients
    each of that comes twice."""

    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        while len(run.served) < run.ending.people or run.tidies:
            if (await client.get(run.run_id)).status != "running":
                return
            for view in await client.user_tasks(run.run_id):
                try:
                    await _serve(run, client.user_task(run.run_id, view.id), view)
                except Refused as refused:
                    if refused.code == "RUN_FINISHED" or (
                        refused.code == "USER_TASK_UNKNOWN" and run.may_end
                    ):
                        continue
                    raise
            await asyncio.sleep(1.0)

    return Action(client, at_s, f"serve {run.run_id}", act)


async def _serve(run: PlannedRun, task: UserTaskHandle, view: UserTaskView) -> None:
    """The notes say how it ends."""
    value = person_of(run.run_id, view.notes)
    await task.comment("ann", "looks odd", action_id="look")
    await task.claim("ann", action_id="claim")
    # Of a save nothing is known any more when the task is done.
    await _none_or(task.save("ann", {"left": 0}, action_id="save"))
    await _none_or(task.save("ann", {"left": "nothing"}))
    await _none_or(task.claim("bob"))
    if value is None:
        await task.cancel("ann", "no", action_id="end")
    else:
        await task.complete("ann", {"left": value}, override=True, action_id="end")
    run.served.add(view.id)


def end_of(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        if not run.accepted:
            # Only what was accepted can be awaited; somebody else is still at it.
            await _until(lambda: bool(run.accepted))
        handle = client.handle(run.run_id)
        try:
            run.seen.append(Ending("completed", await handle.result()))
        except RunFailed as failed:
            run.seen.append(seen_failure(failed))

    return Action(client, at_s, f"await {run.run_id}", act)


def seen_failure(failed: RunFailed) -> Ending:
    return Ending("cancelled") if failed.failure.name == "cancelled" else failure_ending(failed.failure)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.3)


# -- starts that come twice -----------------------------------------------------------------------------
@workload
def duplicate_starts(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """The same run started by several clients at about the same time, or long after it has ended."""
    for run in chance.sample(list(script.runs.values()), 4):
        first = next(action.at_s for action in script.actions if action.what == f"start {run.run_id}")
        for _ in range(chance.randint(1, 3)):
            at_s = chance.choice([first, first + chance.random() * 0.01, chance.random() * seconds])
            again = start_of(run, chance.choice(clients), at_s)
            again.commands = 1
            script.actions.append(again)


@workload
def conflicting_starts(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """A start with other input is refused, and changes nothing. It waits until the right one is accepted."""
    for run in chance.sample(list(script.runs.values()), 2):
        script.actions.append(_conflict(run, chance.choice(clients), chance.random() * seconds))


def _conflict(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        try:
            await client.start(run.workflow, {"x": run.x + 1}, run_id=run.run_id, timeout_s=10.0)
        except Refused as refused:
            if refused.code != "RUN_ID_CONFLICT":
                raise
            return
        world.watch.broken("answer-as-folded", f"{run.run_id} was started with other input")

    return Action(client, at_s, f"start {run.run_id} with other input", act, commands=1)


# -- a limit on open runs ------------------------------------------------------------------------------
@workload
def open_runs(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Only few runs may be open at a time: starts beyond that are refused, and are repeated until there is room."""
    if chance.random() < 0.15:
        script.spare_runs = chance.choice([1, 3, 5])


# -- tasks that kill -----------------------------------------------------------------------------------
@workload
def deadly_tasks(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """A run whose tasks bring their worker down with them, once or twice, as one that eats all memory does."""
    if chance.random() < 0.07:
        script.deadly[chance.choice(list(script.runs))] = chance.randint(1, 2)


# -- cancels -----------------------------------------------------------------------------------------
@workload
def cancels(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs cancelled at some time, by one or two clients: each ends as Python says, or as cancelled.

    How one ends that tidies up depends on where it was; wherever that is, it is ended at once some time later.
    """
    for run in chance.sample(list(script.runs.values()), 4):
        run.may_end.append(Ending("cancelled", commands=2))
        first = next(action.at_s for action in script.actions if action.what == f"start {run.run_id}")
        at_once = chance.random() < 0.4
        for _ in range(chance.randint(1, 2)):
            at_s = first + chance.random() * chance.choice([0.5, 5.0, seconds])
            script.actions.append(_cancel(run, chance.choice(clients), at_s, at_once=at_once))
        if not at_once and _tidies(run):
            run.tidies = True
            at_s = max(first, seconds * (1 - 0.2 * chance.random()))
            script.actions.append(_cancel(run, chance.choice(clients), at_s, at_once=True))


def _tidies(run: PlannedRun) -> bool:
    if run.module.flow.spec.children:
        return True  # Its child runs may.
    return any(
        CANCELLED_ERROR in each.names for scope in run.module.flow.spec.scopes for each in scope.handlers
    )


def _cancel(run: PlannedRun, client: str, at_s: float, *, at_once: bool) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        try:
            await client.cancel(run.run_id, reason="simulated", at_once=at_once)
            if at_once or not run.tidies:
                run.told.add("cancelled")
        except Refused as refused:
            if refused.code != "RUN_FINISHED":
                raise
            run.told.add("finished")

    return Action(client, at_s, f"cancel {run.run_id}", act)


# -- stops -------------------------------------------------------------------------------------------
@workload
def stops(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs, or run threads of them, that are stopped for a while: each ends as it would have without that.

    The choice has a stream of its own: seeds are what they would be without this workload, but for the stops.
    """
    chance = random.Random(f"stops {script.seed}")
    for run in chance.sample(list(script.runs.values()), 4):
        first = next(action.at_s for action in script.actions if action.what == f"start {run.run_id}")
        for _ in range(chance.randint(1, 2)):
            at_s = min(first + chance.random() * chance.choice([0.5, 5.0]), seconds * 0.8)
            thread = chance.choice([0, 0, 1, 2])
            script.actions.append(_stop(run, chance.choice(clients), at_s, thread, chance.random() * 3.0))


def _stop(run: PlannedRun, client: str, at_s: float, thread: int, for_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        stop = functools.partial(client.stop, command_id=f"stop {at_s}")
        for tell in (stop, client.resume, stop):  # The second time it is a repeat that comes late.
            try:
                await tell(run.run_id, thread=thread)
            except Refused as refused:
                if refused.code not in ("RUN_FINISHED", "THREAD_UNKNOWN"):
                    raise
                return
            await asyncio.sleep(for_s)

    return Action(client, at_s, f"stop {run.run_id}", act)


# -- versions ----------------------------------------------------------------------------------------
@workload
def migrations(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs that move to another version of their workflow, and on, at any time: each ends as it would have without
    that, as all versions do the same. Some of the others are of a build.

    The choice has a stream of its own, as that of the stops.
    """
    chance = random.Random(f"moves {script.seed}")
    drawn = 0
    while drawn < MOVING_RUNS:
        number = script.seed // BLOCK * PROGRAMS + chance.randrange(MOVING_PROGRAMS)
        versions = moving_program(number)
        if versions is None:
            continue
        drawn += 1
        run_id, x = f"moving-{drawn}", chance.randint(-2, 5)
        run = PlannedRun(run_id, f"moving-{number}", versions[0], x, ending_of(versions[0], run_id, x))
        if run.ending.commands > LONG_COMMANDS:
            continue
        script.programs[run.workflow] = versions[0]
        build = BUILD if number % 2 else ""
        script.build = script.build or build
        at_s = _plan(script, chance, clients, 0.7 * seconds, run)
        for _ in range(chance.randint(1, 2)):
            moved_s = at_s + 0.5 * chance.random()
            script.actions.append(_move(run, versions[1], build, chance.choice(clients), moved_s))


MOVING_RUNS: Final = 3
MOVING_PROGRAMS: Final = 30
"""So many different ones the seeds of a block draw from, as with `PROGRAMS`."""


BUILD: Final = "newer"


def _move(run: PlannedRun, other: ModuleType, build: str, client: str, at_s: float) -> Action:
    """Somebody moves a run some times. By two clients they may mean different things."""

    async def act(world: World, client: Client) -> None:
        await client.register(run.module.flow)
        latest = (await client.register(other.flow, build=build)).version
        await _until(lambda: bool(run.accepted))
        for number in range(MOVES):
            view = await client.get(run.run_id)
            after = latest if view.version != latest else latest - 1
            planned = await client.plan_migration(f"{run.workflow}@{view.version}", f"{run.workflow}@{after}")
            for _ in range(2):
                try:
                    await client.migrate(
                        run.run_id, planned.migration, command_id=f"move {at_s} {number} {after}"
                    )
                except Refused as refused:
                    if refused.code != "MIGRATION_REFUSED" or "cannot move: it is " not in refused.message:
                        raise
            await asyncio.sleep(random.Random(f"{run.run_id} {at_s} {number}").random())

    return Action(client, at_s, f"move {run.run_id}", act)


MOVES: Final = 6

T = TypeVar("T")


# -- schedules ---------------------------------------------------------------------------------------
@workload
def schedules(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Schedules that fire for a while, set by two clients at once, some of them changed, paused or fired by hand.

    The choice has a stream of its own: seeds without schedules are what they would be without this workload.
    """
    chance = random.Random(f"schedules {script.seed}")
    for number in range(chance.choice([0, 0, 1, 2])):
        overlap: Overlap = chance.choice(["skip", "queue", "cancel", "allow"])
        until = datetime.fromtimestamp(EPOCH_S + seconds * 0.7, UTC)
        every_s = chance.choice([1, 2, 3])
        timing = Timing(every_s=float(every_s), until=until.isoformat())
        if chance.random() < 0.4:
            crons = (f"*/{every_s} * * * * *", f"{chance.randrange(60)} * * * * *")
            timing = Timing(crons, chance.choice(["UTC", "Europe/Berlin"]), until=until.isoformat())
        spec = ScheduleSpec(
            "ticking",
            timing,
            msgspec.Raw(b'{"x":%d}' % number),
            overlap=overlap,
            jitter_s=chance.choice([0.0, 0.0, 1.5]),
        )
        name, at_s = f"tick-{number}", chance.random() * seconds * 0.3
        for client in (chance.choice(clients), chance.choice(clients)):
            script.actions.append(_set(name, spec, client, at_s))
        script.schedules[name] = chance.random() < 0.5
        for _ in range(0 if script.schedules[name] else 3):
            act = chance.choice([_fire, _pause, _backfill, _begin_anew])
            later_s = at_s + chance.random() * (seconds - at_s)
            script.actions.append(act(name, chance.choice(clients), later_s))


@workload
def moments(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Schedules of one timetable that are due at the same moments, which one timer stands for, some of them changed."""
    chance = random.Random(f"moments {script.seed}")
    if chance.random() < 0.6:
        return
    first_s, every_s = 1 + int(chance.random() * seconds * 0.3), chance.choice([2, 4])
    until = datetime.fromtimestamp(EPOCH_S + seconds * 0.6, UTC).isoformat()
    begins = datetime.fromtimestamp(EPOCH_S + first_s, UTC).isoformat()
    for name in of_one_timetable(chance.choice([2, 3, 6])):
        timing = Timing(every_s=float(every_s), begins=begins, until=until)
        spec = ScheduleSpec("ticking", timing, msgspec.Raw(b'{"x":7}'), overlap="allow")
        at_s = chance.random() * seconds * 0.5
        script.actions.append(_set(name, spec, chance.choice(clients), at_s))
        script.schedules[name] = chance.random() < 0.7
        for _ in range(0 if script.schedules[name] else 2):
            act = chance.choice([_pause, _begin_anew])
            later_s = at_s + chance.random() * (seconds - at_s)
            script.actions.append(act(name, chance.choice(clients), later_s))


def of_one_timetable(count: int) -> list[str]:
    """Names of schedules that share a timetable."""
    named = (f"together-{number}" for number in itertools.count())
    wanted = timetable_token("together-0")
    return list(itertools.islice((name for name in named if timetable_token(name) == wanted), count))


def _set(name: str, spec: ScheduleSpec, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await client.register(ticking().flow)
        try:
            await client.put_schedule(name, spec, command_id="set")
        except Refused as refused:
            # It may come so late, or the broker's time may jump so far, that all its moments are over.
            over = world.now_ns() / 1e9 >= datetime.fromisoformat(spec.timing.until).timestamp() - 4
            if refused.code != "SCHEDULE_INVALID" or not over:
                raise

    return Action(client, at_s, f"set schedule {name}", act)


def _told(
    name: str, what: str, client: str, at_s: float, tell: Callable[[ScheduleHandle], Awaitable[int]]
) -> Action:
    async def act(world: World, client: Client) -> None:
        try:
            await tell(client.schedule(name))
        except Refused as refused:
            if refused.code != "SCHEDULE_UNKNOWN":
                raise

    return Action(client, at_s, f"{what} schedule {name}", act)


def _fire(name: str, client: str, at_s: float) -> Action:
    return _told(name, "fire", client, at_s, lambda each: each.fire(command_id=f"fire {at_s}"))


def _pause(name: str, client: str, at_s: float) -> Action:
    async def both(each: ScheduleHandle) -> int:
        await each.pause("simulated", command_id=f"pause {at_s}")
        await asyncio.sleep(2.0)
        return await each.resume(command_id=f"resume {at_s}")

    return _told(name, "pause", client, at_s, both)


def _backfill(name: str, client: str, at_s: float) -> Action:
    first = datetime.fromtimestamp(EPOCH_S, UTC)
    last = first + timedelta(seconds=at_s)
    return _told(
        name, "backfill", client, at_s, lambda each: each.backfill(first, last, command_id=f"backfill {at_s}")
    )


def _begin_anew(name: str, client: str, at_s: float) -> Action:
    """It is deleted, and made again by one of two who try."""

    async def act(world: World, client: Client) -> None:
        view = await _none_or(client.get_schedule(name))
        if view is None:
            return
        await _none_or(client.schedule(name).delete(command_id=f"delete {at_s}"))
        wrong = structs.replace(view.spec, timing=Timing(at="soon"))
        for spec, command_id in ((wrong, "none"), (view.spec, "one"), (view.spec, "other")):
            await _none_or(client.put_schedule(name, spec, new=True, command_id=f"{command_id} {at_s}"))

    return Action(client, at_s, f"begin schedule {name} anew", act)


async def _none_or(asked: Awaitable[T]) -> T | None:
    try:
        return await asked
    except (Refused, NotFound):
        return None


# -- large values ------------------------------------------------------------------------------------
@workload
def large_values(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs that are given a large value, hand it on, and come to one: it is what it was, whatever fails.

    The choice has a stream of its own, as that of schedules.
    """
    chance = random.Random(f"large {script.seed}")
    if chance.random() < 0.7:
        return
    for number in range(chance.choice([1, 2])):
        text, at_s = (
            f"{number}{chance.random()} " * chance.choice([10, 1_000, 3_000]),
            chance.random() * seconds,
        )
        for client in {chance.choice(clients), chance.choice(clients)}:
            script.actions.append(_carry(f"large-{number}", text, client, at_s))


def _carry(run_id: str, text: str, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await carry(world, client, run_id, text)

    return Action(client, at_s, f"carry {run_id}", act)


async def carry(world: World, client: Client, run_id: str, text: str) -> None:
    """Starts a run with a large value, and awaits what it comes to."""
    await client.register(carrying().flow)
    handle = await client.start(carrying().flow, {"text": text}, run_id=run_id, timeout_s=10.0)
    found = await handle.result()
    wanted = 2 * len(text) + len("small"), turned(text, 1)
    if found != wanted:
        world.watch.broken("large-value-kept", f"{run_id} came to {str(found)[:100]}")


# -- what no client of ours would send -------------------------------------------------------------------
@workload
def garbage(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Messages that are no commands, or none that anybody may send: refused, and harmless."""
    for _ in range(chance.randint(0, 8)):
        at_s, client = chance.random() * seconds, chance.choice(clients)
        script.actions.append(_throw(chance.choice(list(GARBAGE)), chance.random(), client, at_s))


_BY: Final = WorkerInfo("nobody", 1.0)

Garbage = Callable[["World", Record], tuple[str | None, bytes | None]]
GARBAGE: Final[dict[str, Garbage]] = {
    "a copy": lambda _, record: (None, record.data),
    "no JSON": lambda _, __: (None, b"\xff{"),
    "an unknown command": lambda _, __: (None, b'{"type":"make-coffee"}'),
    "a timer of nobody": lambda _, __: (None, encode(TimerFired("0-1-1"))),
    "a result for nobody": lambda _, __: (
        None,
        encode(TaskResult("0-1-1-1", _BY, msgspec.Raw(b"1"))),
    ),
    "a result without a result": lambda world, record: (None, _empty_result(world, record)),
    "a cancel with a long reason": lambda _, __: (
        None,
        encode(CancelRun("c", "x" * (REASON_BYTES_MAX + 1))),
    ),
    "a cancel of nobody": lambda _, __: ("nobody", encode(CancelRun("c"))),
    "a start of nothing": lambda _, __: ("nobody", encode(_start_of("unheard-of"))),
    "a start without its input": lambda world, _: (
        "nobody",
        encode(_start_of(min(world.script.programs))),
    ),
    "an event of an unknown name": lambda _, __: (None, encode(PostEvent("unheard-of", "e"))),
    "an event of another type": lambda _, __: (None, encode(PostEvent(TOLD, "e", msgspec.Raw(b'"x"')))),
    "an event for nobody": lambda _, __: ("nobody", encode(PostEvent(TOLD, "e", msgspec.Raw(b"1")))),
    "a command for no run": lambda _, record: ("=", record.data),
    "progress for nobody": lambda _, __: (None, encode(AttemptProgress("0-1-1-1", "w", msgspec.Raw(b"1")))),
    "progress that is too long": lambda world, record: (None, _long_progress(world, record)),
    "a word that nobody waits": lambda _, __: (None, None),
}
"""What is sent in the place of a command that was sent: to which run (None: to the same) and as what."""


AIMED: Final[dict[str, Callable[[World, RunState], bool]]] = {
    "a result without a result": lambda _, state: bool(_attempts(state)),
    "progress that is too long": lambda _, state: bool(_attempts(state)),
    "a word that nobody waits": lambda _, state: bool(_attempts(state)),
    "an event of another type": lambda world, state: not state.finished and _hears(world, state),
}
"""Which runs something is for that few others would even look at."""


def _hears(world: World, state: RunState) -> bool:
    definition = world.watch.refold.definition(state.workflow, state.version)
    return definition is not None and TOLD in definition.events


def _state_of(world: World, record: Record) -> RunState | None:
    """How the run stands that a command was for."""
    _, _, shard, _, token = record.subject.split(".")
    state = world.watch.refold.shard(int(shard)).states.get(token)
    return state if isinstance(state, RunState) else None


def _start_of(workflow: str) -> StartRun:
    return StartRun(workflow, 1, msgspec.Raw(b"{}"), "s")


def _empty_result(world: World, record: Record) -> bytes | None:
    """For an attempt that the run waits for, if it waits for one."""
    attempts = _attempts(_state_of(world, record))
    return encode(TaskResult(attempts[0].task_id, _BY)) if attempts else None


def _long_progress(world: World, record: Record) -> bytes | None:
    attempts = _attempts(_state_of(world, record))
    long = msgspec.Raw(msgspec.json.encode("x" * PROGRESS_BYTES_MAX))
    return encode(AttemptProgress(attempts[0].task_id, "w", long)) if attempts else None


def _attempts(state: RunState | None) -> list[TaskWait]:
    waits = [] if state is None else [thread.wait for thread in state.threads]
    return [wait for wait in waits if isinstance(wait, TaskWait)]


def _throw(what: str, dice: float, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        records = [record for record in world.server.ledger if ".cmd." in record.subject]
        if not records:
            return
        fits = AIMED.get(what)
        if fits is not None:
            states = [(each, _state_of(world, each)) for each in records]
            aimed = [each for each, state in states if state is not None and fits(world, state)]
            records = aimed or records
        chosen = records[int(dice * len(records))]
        if what == "a word that nobody waits":
            for wait in _attempts(state := _state_of(world, chosen)):
                assert state is not None
                told = encode(AttemptStopped(state.run_id, wait.task_id))
                await client.connection.tell(client.names.stop(wait.queue), told)
        token, data = GARBAGE[what](world, chosen)
        place, _, named = chosen.subject.rpartition(".")
        if data is not None:
            await client.connection.publish(Message(f"{place}.{token or named}", data))

    return Action(client, at_s, f"send {what}", act)


@workload
def late_timers(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Timers that fire a second time, while the run is awake, asleep at the same place again, or at its end."""
    for _ in range(chance.randint(4, 12)):
        script.actions.append(_fire_again(chance.random(), chance.choice(clients), chance.random() * seconds))


def _fire_again(dice: float, client: str, at_s: float) -> Action:
    """Waits a while for a run that is asleep again where it was woken before, and takes any other timer else."""

    async def act(world: World, client: Client) -> None:
        fired, aimed = list[Record](), list[Record]()
        for _ in range(AIMING):
            recent = world.server.ledger[-200:]
            fired = [each for each in recent if ".cmd." in each.subject and b'"timer-fired"' in each.data]
            aimed = [record for record in fired if _sleeps_there_again(world, record)]
            if aimed:
                break
            await asyncio.sleep(0.1)
        if fired:
            chosen = (aimed or fired)[int(dice * len(aimed or fired))]
            await client.connection.publish(Message(chosen.subject, chosen.data))

    return Action(client, at_s, "fire a timer again", act)


def _sleeps_there_again(world: World, record: Record) -> bool:
    """Whether the run is asleep at the place whose earlier sleep this timer ended."""
    state = _state_of(world, record)
    command = decode_command(record.data)
    if state is None or not isinstance(command, TimerFired):
        return False
    place = command.timer_id.rsplit("-", 1)[0]
    asleep = [thread.wait.timer_id for thread in state.threads if isinstance(thread.wait, SleepWait)]
    return any(each.startswith(f"{place}-") and each != command.timer_id for each in asleep)


# -- growth ------------------------------------------------------------------------------------------
@workload
def growth(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """The namespace gets more shards in the middle of it all, and the growth is finished as soon as it can be.

    Not together with a limit on open runs, of which each shard would get another share in the middle of it all.
    """
    if not script.spare_runs and chance.random() < 0.6:
        at_s = chance.random() ** 2 * seconds
        script.actions.append(_grow(chance.randint(1, 2), chance.choice(clients), at_s))
        if chance.random() < 0.7:
            script.actions.append(_retire(chance.choice(clients), at_s + chance.random() * seconds))


def _grow(more: int, client: str, at_s: float) -> Action:
    wanted: list[int] = []

    async def act(world: World, client: Client) -> None:
        if not wanted:
            wanted.append(world.watch.count + more)
        await grow(client.connection, client.names, wanted[0])
        world.note(f"{wanted[0]} shards")

    return Action(client, at_s, f"grow by {more} shards", act)


def _retire(client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        # A run that is asleep for long keeps the growth open; that is as it should be, so one does not insist.
        with contextlib.suppress(GrowthUnfinished):
            await retire(client.connection, client.names)
            world.note("the growth is finished")

    return Action(client, at_s, "finish the growth", act)


# -- readers -----------------------------------------------------------------------------------------
@workload
def readers(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Reads of runs at any time: what they show is checked where it is told."""
    for _ in range(6):
        run = chance.choice(list(script.runs.values()))
        script.actions.append(_read(run, chance.choice(clients), chance.random() * seconds))


def _read(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        view = await client.get(run.run_id)
        if view.status in ("completed", "failed") and run.seen and view.status != run.seen[0].kind:
            world.watch.broken("reads-only-committed", f"{run.run_id}: {view.status} after {run.seen[0]}")

    return Action(client, at_s, f"read {run.run_id}", act)


# -- limits of tasks -------------------------------------------------------------------------------------
@workload
def limited_tasks(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs whose tasks have limits, some of them cancelled, stopped or followed by a repeat of their own words.

    The choice has a stream of its own: seeds without such runs are what they would be without this workload.
    """
    chance = random.Random(f"limited {script.seed}")
    if script.spare_runs or chance.random() > 0.3:
        return
    script.programs["limited"] = module = limited()
    for number in range(chance.randint(3, 6)):
        run_id, x = f"limited-{number}", chance.randint(-2, 5)
        run = PlannedRun(run_id, "limited", module, x, ending_of(module, run_id, x))
        script.runs[run_id] = run
        at_s = chance.random() * seconds / 2
        script.actions.append(start_of(run, chance.choice(clients), at_s))
        script.actions.append(end_of(run, chance.choice(clients), at_s))
        if chance.random() < 0.4:
            run.may_end.append(Ending("cancelled", commands=2))
            at_once = chance.random() < 0.5
            cancelled_s = at_s + chance.random() * 3.0
            script.actions.append(_cancel(run, chance.choice(clients), cancelled_s, at_once=at_once))
        if chance.random() < 0.3:
            stopped_s = at_s + chance.random() * 2.0
            script.actions.append(_stop(run, chance.choice(clients), stopped_s, 0, chance.random()))
    for _ in range(chance.randint(2, 6)):
        script.actions.append(_say_again(chance.random(), chance.choice(clients), chance.random() * seconds))


# -- branches that are cancelled -------------------------------------------------------------------------
@workload
def cancelled_threads(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs of which run threads are cancelled, and some stopped: each fails with those, and only those, of which a
    client was told that they are. Also threads of other runs, that are cancelled as a whole at another time.

    The choice has a stream of its own: seeds without such runs are what they would be without this workload.
    """
    chance = random.Random(f"parted {script.seed}")
    if script.spare_runs or chance.random() > 0.3:
        return
    script.programs["parted"] = module = parted()
    for number in range(chance.randint(1, 3)):
        run_id, x = f"parted-{number}", chance.randint(-2, 5)
        run = PlannedRun(run_id, "parted", module, x, ending_of(module, run_id, x))
        script.runs[run_id] = run
        at_s = chance.random() * seconds / 2
        script.actions.append(start_of(run, chance.choice(clients), at_s))
        script.actions.append(end_of(run, chance.choice(clients), at_s))
        whole, cancelled = run.ending, set[int]()
        for thread in chance.sample(PARTED_THREADS, chance.randint(1, 4)):
            told = functools.partial(_told_of_thread, run, whole, cancelled, thread)
            cancelled_s = at_s + 1.5 * chance.random()
            script.actions.append(_cancel_thread(run, chance.choice(clients), cancelled_s, thread, told))
        if chance.random() < 0.5:
            thread, for_s = chance.choice([0, *PARTED_THREADS]), chance.random()
            script.actions.append(
                _stop(run, chance.choice(clients), at_s + 1.5 * chance.random(), thread, for_s)
            )
    for run in script.runs.values():
        if run.tidies:
            cancelled_s = chance.random() * seconds
            thread = chance.choice([1, 1, 2, 3])
            script.actions.append(_cancel_thread(run, chance.choice(clients), cancelled_s, thread))


def _told_of_thread(run: PlannedRun, whole: Ending, cancelled: set[int], thread: int) -> None:
    cancelled.add(thread)
    run.ending = parted_ending(whole, cancelled)


def _cancel_thread(
    run: PlannedRun, client: str, at_s: float, thread: int, told: Callable[[], None] = lambda: None
) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        for _ in range(2):  # The second time it is a repeat that comes late.
            try:
                await client.cancel(run.run_id, "simulated", thread=thread, command_id=f"cancel {at_s}")
            except Refused as refused:
                if refused.code not in ("RUN_FINISHED", "THREAD_UNKNOWN"):
                    raise
                return
            told()
            await asyncio.sleep(at_s % 1)

    return Action(client, at_s, f"cancel thread {thread} of {run.run_id}", act)


def _say_again(dice: float, client: str, at_s: float) -> Action:
    """What a run and a limiter have told each other comes once more, however late."""

    async def act(world: World, client: Client) -> None:
        said = [
            each for each in world.server.ledger if ".cmd." in each.subject and b"-permit" in each.data[:30]
        ]
        if said:
            chosen = said[int(dice * len(said))]
            await client.connection.publish(Message(chosen.subject, chosen.data))

    return Action(client, at_s, "say again what is told of permits", act)


# -- those who follow ----------------------------------------------------------------------------------
@workload
def followers(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs followed from their first event to their last, and waited for by an event and by a state.

    The choice has a stream of its own: seeds without followers are what they would be without this workload.
    """
    chance = random.Random(f"followers {script.seed}")
    if chance.random() < 0.3:
        awake = [run for run in script.runs.values() if run.ending.kind != "asleep"]
        for run in chance.sample(awake, len(awake) // 2):
            first = next(action.at_s for action in script.actions if action.what == f"start {run.run_id}")
            follow = chance.choice([_follow, _follow, _follow, _await_event, _await_state])
            script.actions.append(follow(run, chance.choice(clients), first + chance.random()))


def _follow(run: PlannedRun, client: str, at_s: float) -> Action:
    """A client that is killed goes on behind the last event that it has kept."""
    kept: list[ReceivedEvent] = []

    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        async with contextlib.aclosing(client.follow(run.run_id, after=len(kept) - 1)) as events:
            async for event in events:
                if event.index != len(kept):
                    world.watch.broken("followed-as-stored", f"{event.id} was told behind {len(kept)} events")
                kept.append(event)
        if kept != world.watch.events_of(run.run_id) or kept[-1].kind not in END_KINDS:
            world.watch.broken("followed-as-stored", f"{run.run_id} was told as {kept}")

    return Action(client, at_s, f"follow {run.run_id}", act)


def _await_event(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        event = await client.wait_for_event(run.run_id, lambda event: event.kind in END_KINDS)
        if event != world.watch.events_of(run.run_id)[-1]:
            world.watch.broken("followed-as-stored", f"{run.run_id}: its end was told as {event}")

    return Action(client, at_s, f"await the last event of {run.run_id}", act)


def _await_state(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        view = await client.wait_for_state(run.run_id, lambda view: view.status != "running")
        if view.events < len(world.watch.events_of(run.run_id)):  # They follow the state by a moment.
            world.watch.broken("followed-as-stored", f"{run.run_id}: its end was told as {view}")

    return Action(client, at_s, f"await the last state of {run.run_id}", act)


# -- runs that have failed -------------------------------------------------------------------------------
@workload
def rescues(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Runs that fail with a child run, as their tasks are down, and are rescued when somebody has mended that: each
    ends as if nothing had been down. A variable of some is set meanwhile.

    The choice has a stream of its own: seeds without such runs are what they would be without this workload.
    """
    chance = random.Random(f"rescues {script.seed}")
    if script.spare_runs or chance.random() > 0.3:
        return
    script.programs["mended"] = module = mended()
    for number in range(chance.randint(1, 3)):
        run_id, x = f"mended-{number}", chance.randint(-2, 5)
        run = PlannedRun(run_id, "mended", module, x, ending_of(module, run_id, x))
        script.runs[run_id] = run
        script.down.add(run_id)
        at_s = chance.random() * seconds / 2
        script.actions.append(start_of(run, chance.choice(clients), at_s))
        for _ in range(chance.choice([1, 1, 2])):
            rescued_s, below = at_s + 2 * chance.random(), chance.random() < 0.4
            script.actions.append(_rescue(run, chance.choice(clients), rescued_s, below=below))
        if chance.random() < 0.5:
            script.actions.append(_fork(script, run, chance.choice(clients), at_s + 3 * chance.random()))
        if chance.random() < 0.6:
            script.actions.append(_edit(run, chance.choice(clients), at_s + chance.random()))


def _rescue(run: PlannedRun, client: str, at_s: float, *, below: bool) -> Action:
    """Somebody waits until the run has failed, mends what is down, and rescues it, twice; or names its child run, which
    comes to the same."""

    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        await _none_or(client.rescue(run.run_id, command_id=f"too early {at_s}"))
        while (view := await client.get(run.run_id)).status == "running":
            await asyncio.sleep(0.5)
        await _none_or(client.rescue(run.run_id, value=1, command_id=f"no step is skipped {at_s}"))
        if view.failed_child:
            await _none_or(client.rescue(view.failed_child, skip=True, command_id=f"owned {at_s}"))
        world.executions.down.discard(run.run_id)
        named, elsewhere = view.failed_child if below and view.failed_child else run.run_id, False
        for _ in range(2):
            try:
                await client.rescue(named, command_id=f"rescue {at_s}")
            except Refused as refused:
                elsewhere |= refused.code == "RUN_ELSEWHERE"
                if refused.code not in ("RUN_OPEN", "RUN_FINISHED", "RUN_OWNED", "RUN_ELSEWHERE"):
                    raise
            await asyncio.sleep(at_s % 1)
        while (view := await client.get(run.run_id)).status == "running":
            await asyncio.sleep(0.5)
        if view.failure is not None and (elsewhere or view.failure.name == "run-elsewhere"):
            run.may_end.append(failure_ending(view.failure))  # The shards have grown in between.
        async with contextlib.aclosing(client.follow(run.run_id)) as followed:
            events = [event async for event in followed]
        if events != world.watch.events_of(run.run_id)[: len(events)] or events[-1].kind not in END_KINDS:
            world.watch.broken("followed-as-stored", f"{run.run_id} was told as {events}")
        children = sum(event.kind == "child-started" for event in events)
        if children != 1 and not elsewhere:
            world.watch.broken("outcome-as-python", f"{run.run_id} has started {children} child runs")

    return Action(client, at_s, f"rescue {run.run_id}", act, commands=2)


def _fork(script: Script, run: PlannedRun, client: str, at_s: float) -> Action:
    """Somebody lets another run do again what the run has done, with what that has ended with."""
    module, run_id = run.module, f"{run.run_id}-fork"
    other = PlannedRun(run_id, run.workflow, module, run.x, ending_of(module, run_id, run.x))
    if other.ending.kind == "completed":
        other.may_end.append(_marked(other.ending))
    script.runs[run_id] = other
    (line,) = {node.line for node in module.flow.spec.nodes if isinstance(node, ChildNode)}

    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        while (await client.get(run.run_id)).status == "running":
            await asyncio.sleep(0.5)
        for _ in range(2):
            try:
                handle = await client.fork(run.run_id, run_id, line=line, command_id="fork")
            except Refused as refused:
                if refused.code != "RUN_OPEN":
                    raise
                return  # It was rescued just then.
            other.accepted[handle.seq] = handle.existing

    return Action(client, at_s, f"fork {run.run_id}", act)


def _marked(ending: Ending) -> Ending:
    """The same of a run whose variable was edited in time."""
    return dataclasses.replace(ending, what=f"{ending.what.rpartition('|')[0]}|{EDITED}")


def _edit(run: PlannedRun, client: str, at_s: float) -> Action:
    async def act(world: World, client: Client) -> None:
        await _until(lambda: bool(run.accepted))
        await _none_or(client.edit(run.run_id, {"nothing": 1}, command_id="no such variable"))
        for _ in range(2):
            try:
                await client.edit(run.run_id, {"mark": EDITED}, command_id="edit")
            except Refused as refused:
                if refused.code != "RUN_FINISHED":
                    raise
                return
            if run.ending.kind == "completed":
                run.ending = _marked(run.ending)
            await asyncio.sleep(at_s % 1)

    return Action(client, at_s, f"edit {run.run_id}", act)
