"""What the language costs: a command after ten thousand nodes beside one of a fresh run, and a registration."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.bench.constructs import CONSTRUCTS, long_workflow
from dressage.cli.bench.starting import namespace_client
from dressage.cli.children import Child, dressage
from dressage.client import Client
from dressage.flow import Workflow
from dressage.orchestrator.fold.definition import Definition, ReadyNode
from dressage.orchestrator.fold.effects import DispatchTask, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState, encode_state
from dressage.orchestrator.turn.definitions import load_definition, make_definition
from dressage.protocol.commands import StartRun, TaskResult, WorkerInfo, decode_command, encoder
from dressage.protocol.errors import DressageError
from dressage.protocol.spec import RegisteredWorkflow
from dressage.simulation.programs import define

NODES: Final = 10_000
"""So many nodes a run has passed when it counts as an old one."""

BLOCKS: Final = 9
BLOCK_COMMANDS: Final = 240
"""A multiple of what a round takes, so that both stand at the same place behind a block."""

RATIO_GOAL: Final = 1.3
LONG_BLOCKS: Final = 71
"""Of seven nodes each."""

REGISTERED_TIMES: Final = 5
REGISTER_GOAL_MS: Final = 200.0
ROUNDS_MAX: Final = 1_000_000
"""The workflows of this benchmark end only when they are left alone."""


@dataclass
class Driven:
    """A run on the real fold, given the results of its tasks and its timers in the order in which it asked for them."""

    definition: Definition
    state: RunState | None = None
    asked: list[DispatchTask | SetTimer] = field(default_factory=list[DispatchTask | SetTimer])
    seq: int = 0

    def start(self) -> None:
        start = StartRun(
            self.definition.spec.name, 1, msgspec.Raw(b'{"rounds":%d}' % ROUNDS_MAX), "bench", "bench"
        )
        self._fold(encoder.encode(start))

    def go_on(self, commands: int) -> float:
        """Folds so many commands; returns the CPU seconds of a command: read, folded, its state and events written."""
        spent = 0.0
        for _ in range(commands):
            payload = encoder.encode(_answer(self.asked.pop(0)))
            began = time.process_time()
            outcome = self._fold(payload)
            spent += time.process_time() - began
            if outcome.code is not None or outcome.state is None or outcome.state.finished:
                raise DressageError(f"the run went wrong: {outcome}", code="BENCH_WRONG")
        return spent / commands

    def _fold(self, payload: bytes) -> Outcome:
        self.seq += 1
        stamp = Stamp(self.seq, 1_790_000_000_000 + self.seq)
        outcome = fold(self.state, decode_command(payload), "bench", stamp, self.definition)
        assert outcome.state is not None
        encode_state(outcome.state)
        for event in outcome.events:
            encoder.encode(event)
        self.state = outcome.run
        self.asked += [each for each in outcome.effects if isinstance(each, DispatchTask | SetTimer)]
        return outcome

    @property
    def state_bytes(self) -> int:
        assert self.state is not None
        return len(encode_state(self.state))


def _answer(effect: DispatchTask | SetTimer) -> Any:
    if isinstance(effect, SetTimer):
        return effect.command
    return TaskResult(effect.task_id, WorkerInfo("bench", 1.0), msgspec.Raw(b"7"))


class _Counted(list[ReadyNode]):
    """A definition's nodes, counting how often one is passed."""

    passed = 0

    def __getitem__(self, number: Any) -> Any:
        self.passed += 1
        return super().__getitem__(number)


def measure_construct(workflow: Workflow[..., Any]) -> dict[str, Any]:
    """A fresh run beside one that has passed `NODES` nodes, in turns, so that both see the same machine."""
    definition = make_definition(RegisteredWorkflow(workflow.spec, 1, workflow.spec.digest()))
    old, passed = _old_run(definition)
    cost: dict[str, list[float]] = {"fresh": [], "old": []}
    fresh: Driven | None = None
    for block in range(BLOCKS + 1):
        fresh = Driven(definition)
        fresh.start()
        fresh_s, old_s = _cost(fresh), _cost(old)
        if block:  # The first warms up.
            cost["fresh"].append(fresh_s)
            cost["old"].append(old_s)
    assert fresh is not None
    return {
        "nodes_passed": passed,
        "fresh_us": round(statistics.median(cost["fresh"]) * 1e6, 1),
        "old_us": round(statistics.median(cost["old"]) * 1e6, 1),
        "ratio": round(statistics.median(o / f for o, f in zip(cost["old"], cost["fresh"], strict=True)), 3),
        "fresh_state_bytes": fresh.state_bytes,
        "old_state_bytes": old.state_bytes,
    }


def _cost(run: Driven) -> float:
    """What a command of the next block costs. A full collection costs what is in this process, and would fall into the
    blocks of one of the two, as both allocate the same each time: it is made before."""
    gc.collect()
    return run.go_on(BLOCK_COMMANDS)


def _old_run(definition: Definition) -> tuple[Driven, int]:
    """A run that has passed so many nodes, counted one by one, and how many they were."""
    nodes = definition.nodes
    counted = definition.nodes = _Counted(nodes)
    old = Driven(definition)
    old.start()
    while counted.passed < NODES:
        old.go_on(BLOCK_COMMANDS)
    definition.nodes = nodes
    return old, counted.passed


def measure_constructs() -> dict[str, dict[str, Any]]:
    return {name: measure_construct(workflow) for name, workflow in CONSTRUCTS.items()}


async def measure_registration(times: int = REGISTERED_TIMES) -> dict[str, Any]:
    """A workflow of 500 nodes, from its text to where a run of it could be folded."""
    with tempfile.TemporaryDirectory(prefix="dressage-bench-") as folder:
        base = Path(folder)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(EmbeddedServer(base / "engine"))
            orchestrator = Child("orchestrator", dressage("orchestrator", "--server", server.url), base, base)
            await stack.enter_async_context(orchestrator)
            client = await stack.enter_async_context(await namespace_client(server.url, orchestrator))
            took = [await _register(client, number) for number in range(times + 1)][1:]
    return {name: round(statistics.median(each[name] for each in took), 1) for name in took[0]}


async def _register(client: Client, number: int) -> dict[str, float]:
    """Milliseconds of each part. Every number gives another workflow, so that nothing is known of it yet."""
    text = long_workflow(f"bench-long-{number}", LONG_BLOCKS)
    began = time.perf_counter()
    flow = define(text).flow
    compiled = time.perf_counter()
    registered = await client.register(flow)
    stored = time.perf_counter()
    load_definition(registered.spec.name, registered.version, encoder.encode(registered))
    loaded = time.perf_counter()
    return {
        "nodes": len(flow.spec.nodes),
        "compile_ms": (compiled - began) * 1000,
        "register_ms": (stored - compiled) * 1000,
        "load_ms": (loaded - stored) * 1000,
        "total_ms": (loaded - began) * 1000,
    }


async def measure_language() -> dict[str, Any]:
    constructs, registration = measure_constructs(), await measure_registration()
    worst = max(each["ratio"] for each in constructs.values())
    return {
        "fold": constructs,
        "ratio": worst,
        "ratio_goal": RATIO_GOAL,
        "registration": registration,
        "register_goal_ms": REGISTER_GOAL_MS,
        "met": worst <= RATIO_GOAL and registration["total_ms"] <= REGISTER_GOAL_MS,
    }


def show_language(report: dict[str, Any]) -> None:
    folded = Table(title=f"CPU of a command, fresh and after {NODES:,} nodes")
    for heading in ("construct", "fresh", "old", "ratio", "state, fresh", "state, old"):
        folded.add_column(heading, justify="left" if heading == "construct" else "right")
    for name, each in report["fold"].items():
        sizes = [f"{each[part]:,} bytes" for part in ("fresh_state_bytes", "old_state_bytes")]
        folded.add_row(name, f"{each['fresh_us']} us", f"{each['old_us']} us", f"{each['ratio']:.2f}", *sizes)
    Console().print(folded)
    parts = report["registration"]
    click.echo(
        f"a workflow of {parts['nodes']:.0f} nodes: compiled in {parts['compile_ms']} ms, registered in "
        f"{parts['register_ms']} ms, loaded by an orchestrator in {parts['load_ms']} ms, {parts['total_ms']} ms in all"
    )
    click.echo(
        f"goals: a ratio of at most {report['ratio_goal']}, {report['register_goal_ms']:g} ms in all: "
        + ("met" if report["met"] else "missed")
    )
