"""One simulated system: broker, orchestrators, workers and clients on one loop, watched from outside."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

from dressage.brokers.interface import StreamConfig
from dressage.brokers.memory import MemoryBroker, MemoryServer
from dressage.brokers.provision import limit_open_runs, provision
from dressage.client import Client
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.protocol.errors import (
    DressageError,
    NoAnswer,
    NotFound,
    OutcomeUnknown,
    PublishRefused,
    Refused,
)
from dressage.protocol.names import Names
from dressage.simulation.behaviour import EPOCH_S, QUEUES, Executions
from dressage.simulation.invariants import Watch
from dressage.simulation.loop import SimLoop
from dressage.simulation.network import Links
from dressage.simulation.processes import RESTART_S, Life, Process
from dressage.simulation.programs import SHOP
from dressage.simulation.releases import run_as
from dressage.simulation.script import Action, Script
from dressage.worker import Worker, WorkerConfig

EPOCH_NS: Final = EPOCH_S * 1_000_000_000
TRACE_MAX: Final = 4000
NAMESPACE: Final = "sim"
PUBLISH_PATIENCE_S: Final = 600.0
"""Longer than a host's clocks jump: the users' stream is always there, if full for a moment, so that no dead letter is
due."""

REFUSED_S: Final = 2.5
"""After so long a client tries again what was refused for the moment."""


@dataclass(slots=True, frozen=True)
class Shape:
    """How large the system of a seed is, and how its engine is configured."""

    shards: int
    orchestrators: int
    workers: int
    clients: int
    singles_max: int
    states_linger_s: float
    runs_max: int
    link_delay_s: float
    marks_max: int
    """For so many marks of events a correlation key has room."""


@dataclass
class World:
    """Everything of one seed. Random streams are apart, so that one fault less leaves all else as it was."""

    seed: int
    shape: Shape
    script: Script
    loop: SimLoop
    server: MemoryServer = field(init=False)
    links: Links = field(init=False)
    watch: Watch = field(init=False)
    executions: Executions = field(init=False)
    processes: dict[str, Process] = field(default_factory=dict[str, Process])
    clock_jump_s: float = 0.0
    fold_version: int = FOLD_VERSION
    """That of the newest release that anybody has; `releases` holds those of the processes that were upgraded."""
    releases: dict[str, int] = field(default_factory=dict[str, int])
    trace: list[str] = field(default_factory=list[str])
    engines: dict[str, Orchestrator] = field(default_factory=dict[str, Orchestrator])

    def __post_init__(self) -> None:
        self.server = MemoryServer(self.now_ns)
        self.executions = Executions(self.script.deadly, self.script.down)
        self.links = Links(random.Random(f"links {self.seed}"), self.shape.link_delay_s)
        self.watch = Watch(self.server, Names(NAMESPACE), lambda: self.loop.true_time)
        self.watch.count = self.shape.shards
        for number in range(self.shape.orchestrators):
            self._add(f"orchestrator-{number}", "orchestrator", self._orchestrate)
        for number in range(self.shape.workers):
            self._add(f"worker-{number}", "worker", self._work)
        for number in range(self.shape.clients):
            self._add(f"client-{number}", "client", self._use)

    def now_ns(self) -> int:
        """The broker's clock."""
        return EPOCH_NS + int((self.loop.true_time + self.clock_jump_s) * 1e9)

    def note(self, what: str) -> None:
        self.trace.append(f"{self.loop.true_time:9.4f}  {what}")
        if len(self.trace) > TRACE_MAX:
            del self.trace[: TRACE_MAX // 2]

    def _add(self, name: str, kind: str, main: Any) -> None:
        self.processes[name] = Process(name, kind, main, self.loop, self.server, self.links, self.note)

    def of_kind(self, kind: str) -> list[Process]:
        return [process for process in self.processes.values() if process.kind == kind]

    async def provision(self) -> None:
        """What an operator does before anything starts, and whoever wants to hear of what runs publish."""
        self.server.ensure_stream(StreamConfig(SHOP, [f"{SHOP}.>"]))
        most = self.script.open_runs_max(self.shape.shards)
        if most:
            connection = await MemoryBroker(self.server).connect("operator")
            names = Names(NAMESPACE)
            await provision(connection, names, shards=self.shape.shards, replicas=1)
            await limit_open_runs(connection, names, most)
            await connection.close()

    def call_up(self) -> None:
        """One more run, by a client that comes late."""
        run, start = self.script.reserve.pop(0)
        self.script.runs[run.run_id] = run
        self.script.actions.append(start)
        if start.client not in self.processes:
            self._add(start.client, "client", self._use)
        self.processes[start.client].start()

    # -- what the processes run --------------------------------------------------------------------
    async def _orchestrate(self, life: Life) -> None:
        shape, release = self.shape, self.releases.get(life.name, FOLD_VERSION)
        run_as(release)
        config = OrchestratorConfig(
            namespace=NAMESPACE,
            shards=shape.shards if life.number == 1 else None,
            runs_max=shape.runs_max,
            member=f"{life.name}-{life.number}",
            where=f"host-of-{life.name}:{life.number}",
            singles_max=shape.singles_max,
            states_linger_s=shape.states_linger_s,
            fold_version=release,
            publish_patience_s=PUBLISH_PATIENCE_S,
        )
        engine = self.engines[life.name] = Orchestrator(life.broker, config)
        await engine.run()

    async def _work(self, life: Life) -> None:
        number = int(life.name.rpartition("-")[2])
        queue = QUEUES[number % len(QUEUES)]
        config = WorkerConfig(
            namespace=NAMESPACE, concurrency=20, identity=repr(life), build=self.script.build
        )
        app = self.executions.app(queue, die=lambda: self._die(life))
        await Worker(life.broker, app, config).run()

    def _die(self, life: Life) -> None:
        """A task takes its worker with it, which somebody starts again."""
        life.process.crash(1)
        self.loop.call_later(RESTART_S, life.process.start, context=self.loop.world.context)

    async def _use(self, life: Life) -> None:
        """A client whose user is stubborn: what has no known outcome is done again, also after a crash."""
        async with Client(life.broker, namespace=NAMESPACE, patience_s=20.0, actor=life.name) as client:
            actions = [action for action in self.script.of(life.name) if not action.done]
            async with asyncio.TaskGroup() as group:
                for action in actions:
                    group.create_task(self._perform(client, action))

    async def _perform(self, client: Client, action: Action) -> None:
        await asyncio.sleep(max(0.0, action.at_s - self.loop.true_time))
        while not action.done:
            try:
                await action.act(self, client)
                action.done = True
            except (NoAnswer, OutcomeUnknown, PublishRefused) as error:
                self.note(f"{action} goes on: {error.code}")
            except NotFound as error:
                # A definition is registered by a client that may be late or dead at the moment.
                if error.code != "WORKFLOW_UNKNOWN":
                    raise
            except Refused as refused:
                if not refused.retryable:
                    action.error, action.done = f"{refused.code}: {refused.message}", True
                await asyncio.sleep(REFUSED_S)
            except DressageError as error:
                action.error = f"{error.code}: {error.message}"
                action.done = True
            await asyncio.sleep(0.2)
