"""An orchestrator process: provisions the namespace, serves its share of the shards, and the API in front."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import Broker
from dressage.brokers.provision import Namespace, provision
from dressage.orchestrator.api import Api
from dressage.orchestrator.membership import BEAT_S, Membership, preferred
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.behind import STATES_LINGER_S
from dressage.orchestrator.turn.committing import SINGLES_MAX
from dressage.orchestrator.turn.owner import Owner
from dressage.orchestrator.turn.tenure import Tenure, TenureConfig
from dressage.protocol.errors import ServerUnsuitable
from dressage.protocol.names import Names
from dressage.telemetry import Meters

_log = logging.getLogger("dressage.orchestrator")

PAYLOAD_BYTES_MIN: Final = 1024 * 1024


@dataclass(slots=True, frozen=True)
class OrchestratorConfig:
    """`shards` None takes what the namespace has, or 1. `runs_max` is how many runs one shard keeps in memory."""

    namespace: str = "default"
    shards: int | None = None
    replicas: int = 1
    runs_max: int = 50_000
    member: str = ""
    singles_max: int = SINGLES_MAX
    states_linger_s: float = STATES_LINGER_S


class Orchestrator:
    """Runs until `stop` is called; a lost broker is waited for."""

    def __init__(
        self, broker: Broker, config: OrchestratorConfig | None = None, meters: Meters | None = None
    ) -> None:
        self._broker = broker
        self._config = config or OrchestratorConfig()
        self._names = Names(self._config.namespace)
        self._metrics = EngineMetrics(meters)
        self._owners: dict[int, tuple[Owner, asyncio.Task[None]]] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._assigned = asyncio.Event()
        self.namespace: Namespace | None = None

    def stop(self) -> None:
        """Asks for an orderly end: every shard is drained and given up."""
        self._stop.set()

    @property
    def shards(self) -> set[int]:
        """The shards that this process serves now."""
        return {shard for shard, (owner, _) in self._owners.items() if owner.serving.is_set()}

    async def ready(self) -> None:
        """Returns once every shard that falls to this process is served."""
        await self._assigned.wait()
        for owner, _ in list(self._owners.values()):
            await owner.serving.wait()

    async def run(self) -> None:
        """Raises `ServerUnreachable` or `BadInput` if it cannot even begin."""
        connection = await self._broker.connect("dressage-orchestrator", reconnect=True)
        try:
            _require_payload(connection.payload_bytes_max)
            self.namespace = await provision(
                connection, self._names, shards=self._config.shards, replicas=self._config.replicas
            )
            member = self._config.member or uuid.uuid4().hex[:12]
            membership = Membership(connection, self._names, member)
            async with Api(self._broker, connection, self._names, self._metrics):
                await self._serve(membership, self.namespace.shards)
            await membership.leave()
        finally:
            tasks = [*(task for _, task in self._owners.values()), *self._leaving.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.close()

    async def _serve(self, membership: Membership, shards: int) -> None:
        while not self._stop.is_set():
            members = await membership.beat()
            mine = {shard for shard in range(shards) if preferred(shard, members) == membership.member}
            self._serve_only(mine, shards)
            self._assigned.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._stop.wait()
        self._give_up(list(self._owners))
        for leaving in list(self._leaving.values()):
            await leaving

    def _serve_only(self, mine: set[int], shards: int) -> None:
        self._leaving = {shard: task for shard, task in self._leaving.items() if not task.done()}
        self._give_up([shard for shard in self._owners if shard not in mine])
        for shard in sorted(mine - self._leaving.keys()):
            held = self._owners.get(shard)
            if held is not None and held[1].done():
                held[1].result()
            if held is None or held[1].done():
                owner = Owner(shard, self._tenure(shard, shards), self._metrics)
                self._owners[shard] = (owner, asyncio.create_task(owner.run()))

    def _tenure(self, shard: int, shards: int) -> Callable[[], Tenure]:
        config = TenureConfig(
            shards=shards,
            runs_max=self._config.runs_max,
            singles_max=self._config.singles_max,
            states_linger_s=self._config.states_linger_s,
        )
        return lambda: Tenure(self._broker, self._names, shard, config, self._metrics)

    def _give_up(self, shards: list[int]) -> None:
        """Begins to drain shards. Nobody waits here: this process must go on saying that it is alive."""
        for shard in shards:
            owner, self._leaving[shard] = self._owners.pop(shard)
            owner.stop()


def _require_payload(bytes_max: int) -> None:
    """A run's state has limits of its own, and has to fit one message (see `docs/operations.md`)."""
    if bytes_max < PAYLOAD_BYTES_MIN:
        raise ServerUnsuitable(
            f"the server's max_payload is {bytes_max} bytes, below the {PAYLOAD_BYTES_MIN} that run states may need: "
            "raise max_payload in its configuration (1 MiB is NATS's default)",
            code="PAYLOAD_LIMIT_TOO_SMALL",
        )


async def run_beside(broker: Broker, config: OrchestratorConfig) -> tuple[Orchestrator, asyncio.Task[None]]:
    """An orchestrator inside the caller's process, ready when this returns; for tests and the one-process mode."""
    orchestrator = Orchestrator(broker, config)
    task = asyncio.create_task(orchestrator.run())
    ready = asyncio.create_task(orchestrator.ready())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        task.result()
    return orchestrator, task
