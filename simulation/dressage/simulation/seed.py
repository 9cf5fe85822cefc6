"""One seed: a system, a script, some faults, the rest afterwards, and what was found."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Final, Self
from unittest import mock

from dressage.brokers import objects, registry
from dressage.connectors import definitions as trigger_definitions
from dressage.orchestrator import api
from dressage.orchestrator.fold import archive, definition, mailbox, retention
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.limits import MARKS_MAX
from dressage.orchestrator.turn import definitions
from dressage.orchestrator.turn.definitions import load_definition
from dressage.protocol.spec import WorkflowSpec
from dressage.protocol.spec_check import check_spec
from dressage.protocol.spec_reading import read_registered
from dressage.simulation import striking
from dressage.simulation.faults import FAULTS, choose
from dressage.simulation.invariants import Violation
from dressage.simulation.loop import Hang, SimLoop
from dressage.simulation.releases import releases
from dressage.simulation.script import Action, Script
from dressage.simulation.settling import heal, judge, judge_executions, settle
from dressage.simulation.workloads import WORKLOADS, more_runs, reserve_runs
from dressage.simulation.world import Shape, World

SECONDS: Final = 10.0
"""For so long clients begin things and faults strike; then everything is healed."""

CHUNK_BYTES: Final = 8 * 1024
"""So that large values have several chunks, and are small for all that."""

DEFINITIONS_MAX: Final = 1_000
FAULTS_MIN, FAULTS_MAX = 5, 10
STRIKES_MAX: Final = 4
AGAIN_S: Final = 0.3
FORGET_MS: Final = 30_000
"""Longer than anything of a deleted run can be on its way here; what is known of it has to go in a seed."""

ENDS_AT_S: Final = 2_000.0


@dataclass(slots=True, frozen=True)
class PlannedFault:
    """Strikes at `at_s`. `number` names it, so that it can be left out when a trace is made smaller."""

    number: int
    at_s: float
    name: str

    def __str__(self) -> str:
        return f"fault {self.number} at {self.at_s:.3f} s: {self.name}"


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    shape: Shape
    script: Script
    faults: list[PlannedFault]
    without: frozenset[int] = frozenset()
    workloads: frozenset[str] = frozenset()
    """Those that take part."""


@dataclass
class SeedResult:
    seed: int
    violations: list[Violation]
    runs: int
    commands: int
    faults: int
    """Faults that did something: those that found nobody to kill and nothing to lose are not counted."""

    steps: int
    seconds: float
    fingerprint: str
    """A hash over everything that the broker stored: equal for equal seeds."""

    struck: frozenset[str] = frozenset()
    """The kinds of those faults."""

    workloads: frozenset[str] = frozenset()
    """Those that took part."""

    trace: list[str] = field(default_factory=list[str])


def plan(seed: int, without: frozenset[int] = frozenset()) -> Plan:
    """Everything about a seed that is decided before it runs."""
    chance = random.Random(f"shape {seed}")
    shape = Shape(
        shards=chance.choice([1, 2, 3]),
        orchestrators=chance.choice([2, 2, 3]),
        workers=2,
        clients=chance.choice([1, 2, 3]),
        singles_max=chance.choice([0, 8, 8]),
        states_linger_s=chance.choice([0.05, 0.3, 0.8]),
        runs_max=chance.choice([3, 50_000]),
        link_delay_s=chance.choice([0.0, 0.0005, 0.005]),
        marks_max=chance.choice([2, 2, MARKS_MAX]),
    )
    clients = [f"client-{number}" for number in range(shape.clients)]
    script, workloads = Script(seed), random.Random(f"workloads {seed}")
    taking_part: set[str] = set()
    for name, write in WORKLOADS.items():
        before = _written(script)
        write(script, workloads, clients, SECONDS)
        if _written(script) != before:
            taking_part.add(name)
    more_runs(script, workloads, clients, SECONDS)  # for those that were cancelled
    reserve_runs(script, workloads)
    script.actions.insert(0, _register(script, clients[0]))
    dice = random.Random(f"faults {seed}")
    faults = [
        PlannedFault(number, 0.3 + dice.random() * SECONDS, choose(dice))
        for number in range(dice.randint(FAULTS_MIN, FAULTS_MAX))
    ]
    return Plan(seed, shape, script, faults, without, frozenset(taking_part))


def _written(script: Script) -> tuple[int, int, int]:
    """Changes with whatever a workload writes into a script."""
    return len(script.actions), script.spare_runs, len(script.deadly)


def _register(script: Script, client: str) -> Action:
    async def act(world: World, client: object) -> None:
        for module in script.programs.values():
            await client.register(module.flow)  # type: ignore[attr-defined]

    return Action(client, 0.0, "register the workflows", act)


def run_seed(
    seed: int, without: frozenset[int] = frozenset(), until: frozenset[str] = frozenset()
) -> SeedResult:
    """Runs a seed from nothing. The same seed gives the same run, to the last message.

    It ends early, without the judgement at its end, when one of the rules in `until` is broken.
    """
    planned = plan(seed, without)
    loop = SimLoop(random.Random(f"loop {seed}"))
    loop.ends_at = ENDS_AT_S
    world = World(seed, planned.shape, planned.script, loop)
    asyncio.set_event_loop(loop)
    struck: list[PlannedFault] = []
    with (
        seeded_ids(seed),
        virtual_dates(lambda: world.now_ns() / 1e9 + world.loop.calendar_s),
        _definitions_once(),
        _room_for_marks(planned.shape),
        mock.patch.object(retention, "FORGET_MS", FORGET_MS),
        mock.patch.object(objects, "CHUNK_BYTES", CHUNK_BYTES),
        releases(),
    ):
        story = loop.create_task(_story(world, planned, struck))
        world.watch.on_broken = lambda rule: loop.stop() if rule in until else None
        story.add_done_callback(lambda _: loop.stop())
        try:
            loop.run_forever()
        except Hang as hang:
            world.watch.broken("nothing-hangs", str(hang))
        if story.done():
            story.result()
    if not any(violation.rule in until for violation in world.watch.violations):
        judge(world)
        judge_executions(world)
    loop.bury()
    asyncio.set_event_loop(None)
    return SeedResult(
        seed=seed,
        violations=world.watch.violations,
        runs=len(planned.script.runs),
        commands=world.watch.commands,
        faults=len(struck),
        steps=loop.steps,
        seconds=loop.true_time,
        fingerprint=_fingerprint(world),
        struck=frozenset(fault.name for fault in struck),
        workloads=planned.workloads,
        trace=world.trace,
    )


async def _story(world: World, planned: Plan, struck: list[PlannedFault]) -> None:
    await world.provision()
    for process in world.processes.values():
        process.start()
    faults = [
        asyncio.ensure_future(_strike(world, fault, planned.seed, struck))
        for fault in planned.faults
        if fault.number not in planned.without
    ]
    await asyncio.sleep(SECONDS)
    await asyncio.gather(*faults)
    heal(world)
    await settle(world)


async def _strike(world: World, fault: PlannedFault, seed: int, struck: list[PlannedFault]) -> None:
    """A fault that did nothing, because all it could hit was down or silent, strikes again a little later."""
    await asyncio.sleep(fault.at_s)
    strike, chance = striking.begin(), random.Random(f"fault {seed} {fault.number}")
    for _ in range(STRIKES_MAX):
        world.note(str(fault))
        await FAULTS[fault.name](world, chance)
        if strike.hits:
            struck.append(fault)
            return
        await asyncio.sleep(AGAIN_S)


@contextmanager
def seeded_ids(seed: int) -> Iterator[None]:
    """Ids that clients draw are, with dates, all that loops and brokers do not decide."""
    chance = random.Random(f"ids {seed}")

    def drawn() -> uuid.UUID:
        return uuid.UUID(int=chance.getrandbits(128), version=4)

    with mock.patch.object(uuid, "uuid4", side_effect=drawn):
        yield


@contextmanager
def _room_for_marks(shape: Shape) -> Iterator[None]:
    with (
        mock.patch.object(mailbox, "MARKS_MAX", shape.marks_max),
        mock.patch.object(archive, "MARKS_MAX", shape.marks_max),
    ):
        yield


@contextmanager
def virtual_dates(now_s: Callable[[], float]) -> Iterator[None]:
    """When something was registered or started is part of what is stored."""

    class Dates(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(now_s(), tz)

    with (
        mock.patch.object(registry, "datetime", Dates),
        mock.patch.object(api, "datetime", Dates),
        mock.patch.object(trigger_definitions, "datetime", Dates),
    ):
        yield


@functools.lru_cache(maxsize=DEFINITIONS_MAX)
def _load_once(workflow: str, version: int, data: bytes) -> Definition:
    return load_definition(workflow, version, data)


_read_once = functools.lru_cache(maxsize=DEFINITIONS_MAX)(read_registered)
_checked: dict[str, WorkflowSpec] = {}


def _check_once(spec: WorkflowSpec) -> None:
    if _checked.get(spec.name) is not spec:
        check_spec(spec)
        _checked[spec.name] = spec


@contextmanager
def _definitions_once() -> Iterator[None]:
    """A definition never changes, and reading one takes as long as folding a hundred commands.

    Whatever is loaded was checked when it was registered.
    """
    with (
        mock.patch.object(definitions, "load_definition", _load_once),
        mock.patch.object(definitions, "read_registered", _read_once),
        mock.patch.object(definition, "check_spec"),
        mock.patch.object(registry, "read_registered", _read_once),
        mock.patch.object(registry, "check_spec", _check_once),
    ):
        yield


def _fingerprint(world: World) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for record in world.server.ledger:
        digest.update(f"{record.stream} {record.seq} {record.subject} {record.time_ns} ".encode())
        digest.update(record.data)
    return digest.hexdigest()
