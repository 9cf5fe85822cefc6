"""A small system for what stands at the edges of the engine: real processes on the broker in memory, among faults.

It has seeds of its own, so that the seeds of the engine stay what they are.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from dressage.brokers.memory import MemoryBroker, MemoryServer
from dressage.client import Client
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.protocol.errors import DressageError
from dressage.simulation.loop import Hang, SimLoop
from dressage.simulation.network import Links
from dressage.simulation.processes import Life, Process
from dressage.simulation.seed import seeded_ids, virtual_dates
from dressage.simulation.striking import begin

EPOCH_NS: Final = 1_790_000_000_000_000_000
SECONDS: Final = 6.0
"""For so long services write and faults strike."""

SETTLED_S: Final = 600.0
ENDS_AT_S: Final = 2_000.0
FAULTS: Final = 8


@dataclass
class SmallWorld:
    """Everything of one seed."""

    name: ClassVar[str]
    """The namespace, and what tells its random streams from those of another one."""

    seed: int
    loop: SimLoop
    processes: list[Process] = field(default_factory=list[Process])
    violations: list[str] = field(default_factory=list[str])
    trace: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.name} {self.seed}")
        self.server = MemoryServer(self.now_ns)
        self.links = Links(random.Random(f"{self.name} links {self.seed}"), 0.0005)
        self.add("orchestrator-0", self._orchestrate)

    def now_ns(self) -> int:
        """The broker's clock."""
        return EPOCH_NS + int(self.loop.true_time * 1e9)

    def add(self, name: str, main: Callable[[Life], Coroutine[Any, Any, None]]) -> None:
        """One more process."""
        made = Process(
            name, name.partition("-")[0], main, self.loop, self.server, self.links, self.trace.append
        )
        self.processes.append(made)

    def client(self) -> Client:
        """One that no fault meets."""
        return Client(MemoryBroker(self.server), namespace=self.name)

    async def _orchestrate(self, life: Life) -> None:
        config = OrchestratorConfig(
            namespace=self.name, shards=1 if life.number == 1 else None, member=f"{life.name}-{life.number}"
        )
        await Orchestrator(life.broker, config).run()

    # -- the story ---------------------------------------------------------------------------------
    async def story(self) -> None:
        begin()
        for process in self.processes:
            process.start()
        await self._prepared()
        await asyncio.gather(self._strike(), self.work())
        deadline = self.loop.time() + SETTLED_S
        while self.loop.time() < deadline:
            self._heal()
            await asyncio.sleep(0.2)
            if await self.is_settled():
                break
        await self.judge()
        unexpected = [each for process in self.processes for each in process.unexpected]
        self.violations += [f"no-exception: {each}" for each in unexpected]

    async def _prepared(self) -> None:
        while True:
            try:
                async with self.client() as client:
                    await self.prepare(client)
                    return
            except DressageError:
                await asyncio.sleep(0.2)

    async def prepare(self, client: Client) -> None:
        """What has to be there first; may be done again."""
        raise NotImplementedError

    async def work(self) -> None:
        """What services do while faults strike."""
        raise NotImplementedError

    async def is_settled(self) -> bool:
        """Whether nothing is to be waited for any more."""
        raise NotImplementedError

    async def judge(self) -> None:
        """Notes what is wrong in the end, as `violations`."""
        raise NotImplementedError

    def _heal(self) -> None:
        """Everybody lives, also who was to die some steps from now."""
        for process in self.processes:
            if process.life is not None:
                process.life.lane.dies_in = None
            process.start()

    async def _strike(self) -> None:
        dice = random.Random(f"{self.name} faults {self.seed}")
        for _ in range(FAULTS):
            await asyncio.sleep(dice.random() * 2 * SECONDS / FAULTS)
            process = dice.choice(self.processes)
            if dice.random() < 0.25:
                process.cut(dice)
                continue
            process.crash(dice.choice([0, dice.randint(1, 60)]))
            await asyncio.sleep(dice.random() * 0.3)
            process.start()
        self._heal()


_World = TypeVar("_World", bound=SmallWorld)


def run_small(kind: type[_World], seed: int) -> _World:
    """The same seed gives the same run, to the last message. `violations` are empty if all is well."""
    loop = SimLoop(random.Random(f"{kind.name} loop {seed}"))
    loop.ends_at = ENDS_AT_S
    asyncio.set_event_loop(loop)
    try:
        world = kind(seed, loop)
        with seeded_ids(seed), virtual_dates(lambda: world.now_ns() / 1e9):
            story = loop.create_task(world.story())
            story.add_done_callback(lambda _: loop.stop())
            try:
                loop.run_forever()
            except Hang as hang:
                world.violations.append(f"nothing-hangs: {hang}")
            if story.done():
                story.result()
        loop.bury()
    finally:
        asyncio.set_event_loop(None)
    return world
