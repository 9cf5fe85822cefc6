"""An orchestrator process: provisions the namespace, serves its share of the shards, and the API in front."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import SERVERS_MISSING, Broker, Connection
from dressage.brokers.provision import Namespace, provision, reread_definition
from dressage.orchestrator.api import Api
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.membership import BEAT_S, Heartbeat, Membership
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.sharing import Member, to_serve
from dressage.orchestrator.trying import Vain
from dressage.orchestrator.turn.behind import STATES_LINGER_S
from dressage.orchestrator.turn.committing import SINGLES_MAX
from dressage.orchestrator.turn.owner import Owner
from dressage.orchestrator.turn.publishing import PATIENCE_S
from dressage.orchestrator.turn.starting import share_of
from dressage.orchestrator.turn.tenure import Tenure, TenureConfig
from dressage.protocol.errors import BrokerError, DressageError, OutcomeUnknown, ServerUnsuitable
from dressage.protocol.names import Names
from dressage.protocol.retention import Retention
from dressage.protocol.shardmap import ShardMap
from dressage.telemetry import Meters
from dressage.telemetry.tracing import Tracing

_log = logging.getLogger("dressage.orchestrator")

PAYLOAD_BYTES_MIN: Final = 1024 * 1024
SERVERS_MISSING_S: Final = 60.0
"""For so long an orchestrator waits for servers of its cluster before it says that there are too few."""


@dataclass(slots=True, frozen=True)
class OrchestratorConfig:
    """`shards` None takes what the namespace has, or 1. `runs_max` is how many runs one shard keeps in memory.

    `member` and `where` (its host and process) are found out if left empty. `publish_patience_s` is for how long a
    domain event is tried that no stream takes. `fold_version` is the newest fold that this release has.
    """

    namespace: str = "default"
    shards: int | None = None
    replicas: int = 1
    runs_max: int = 50_000
    member: str = ""
    singles_max: int = SINGLES_MAX
    states_linger_s: float = STATES_LINGER_S
    publish_patience_s: float = PATIENCE_S
    where: str = ""
    fold_version: int = FOLD_VERSION


@dataclass(slots=True)
class _Held:
    """A shard that this process tries, serves, or drains."""

    owner: Owner
    task: asyncio.Task[None]
    draining: bool = False


class Orchestrator:
    """Runs until `stop` is called; a lost broker is waited for."""

    def __init__(
        self,
        broker: Broker,
        config: OrchestratorConfig | None = None,
        meters: Meters | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._broker = broker
        self._config = config or OrchestratorConfig()
        self._names = Names(self._config.namespace)
        self._metrics = EngineMetrics(meters)
        self._tracing = tracing
        self._held: dict[int, _Held] = {}
        self._vain = Vain()
        self._released = False
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._assigned = asyncio.Event()
        self._where = self._config.where or f"{socket.gethostname()}:{os.getpid()}"
        self.namespace: Namespace | None = None

    def stop(self) -> None:
        """Asks for an orderly end: every shard is drained and given up."""
        self._stop.set()
        self._wake.set()

    @property
    def shards(self) -> set[int]:
        """The shards that this process serves now."""
        return {
            shard for shard, held in self._held.items() if held.owner.serving.is_set() and not held.draining
        }

    def unready(self) -> str:
        """Why it does not do its work now; empty if it does."""
        if self._stop.is_set():
            return "it is ending"
        if not self._assigned.is_set():
            return "it does not know yet which shards fall to it"
        trying = sorted(
            shard
            for shard, held in self._held.items()
            if not held.draining and not held.owner.serving.is_set()
        )
        return f"shard {', '.join(map(str, trying))} is not served yet" if trying else ""

    async def ready(self) -> None:
        """Returns once every shard that falls to this process is served."""
        await self._assigned.wait()
        for held in list(self._held.values()):
            serving = asyncio.ensure_future(held.owner.serving.wait())
            await asyncio.wait({serving, held.task}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()

    async def run(self) -> None:
        """Raises `ServerUnreachable` or `BadInput` if it cannot even begin."""
        connection = await self._broker.connect("dressage-orchestrator", reconnect=True)
        try:
            require_payload(connection.payload_bytes_max)
            self.namespace = await self._provisioned(connection)
            member = self._config.member or uuid.uuid4().hex[:12]
            membership = Membership(connection, self._names, member)
            async with Api(self._broker, connection, self._names, self._metrics):
                await self._serve(connection, membership)
            await membership.leave()
        finally:
            tasks = [held.task for held in self._held.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.close()

    async def _provisioned(self, connection: Connection) -> Namespace:
        """A cluster that elects leaders answers nothing for a while, and one that starts lacks servers: wait."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SERVERS_MISSING_S
        while True:
            try:
                return await provision(
                    connection, self._names, shards=self._config.shards, replicas=self._config.replicas
                )
            except BrokerError as error:
                waits = isinstance(error, OutcomeUnknown) or (
                    error.code == SERVERS_MISSING and loop.time() < deadline
                )
                if not waits or self._stop.is_set() or connection.lost.is_set():
                    raise
                _log.warning("the namespace cannot be brought about yet: %s", error.message)
            await asyncio.sleep(BEAT_S)

    async def _serve(self, connection: Connection, membership: Membership) -> None:
        """Says what it holds, looks at the others, and follows; until it is stopped and everything is drained."""
        nudges = await connection.serve(self._names.nudge(), self._on_nudge)
        loop = asyncio.get_running_loop()
        try:
            while not self._stop.is_set() or self._held:
                self._wake.clear()
                began = loop.time()
                released, self._released = self._released, False
                said = self._heartbeat(membership)
                found = await membership.beat(said)
                if released:
                    await membership.nudge()
                members = {name: heartbeat.as_member() for name, heartbeat in found.items()}
                changed = self._follow(membership.member, members, await self._shards_defined(connection))
                self._assigned.set()
                if changed:
                    continue  # The others should know at once.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(began + BEAT_S):
                        await self._wake.wait()
        finally:
            await nudges.close()

    async def _shards_defined(self, connection: Connection) -> int:
        """How many shards there are now: the namespace may have grown."""
        try:
            self.namespace = (await reread_definition(connection, self._names))[0] or self.namespace
        except DressageError as error:
            _log.info("reading the namespace: %s", error)
        return self._map().shards

    def _map(self) -> ShardMap:
        assert self.namespace is not None, "nothing is served before it is known"
        return self.namespace.map

    async def _on_nudge(self, _: str, __: bytes, ___: str) -> None:
        self._wake.set()

    def _heartbeat(self, membership: Membership) -> Heartbeat:
        now = asyncio.get_running_loop().time()
        for shard, held in self._held.items():
            if held.owner.refused:
                self._vain.refused(shard)
            elif held.owner.serving.is_set():
                self._vain.served(shard)
            elif not held.draining:
                self._vain.tried(shard, now, membership.heard_s, hopeless=held.owner.hopeless)
        return Heartbeat(
            where=self._where,
            fold_version=self._config.fold_version,
            shards={shard: held.owner.figures() for shard, held in sorted(self._held.items())},
            unable=tuple(sorted(self._vain.unable(now))),
            leaving=self._stop.is_set(),
            resting=membership.resting,
        )

    def _follow(self, me: str, members: Mapping[str, Member], shards: int) -> bool:
        """Begins to try and to drain what the members' words say. Nobody waits here: the next beat is due soon.

        True if this process now holds other shards, or others of them drain, than it has said.
        """
        ended = [shard for shard, held in self._held.items() if held.task.done()]
        for shard in ended:
            self._held.pop(shard).task.result()
        self._released = self._released or bool(ended)
        wanted: frozenset[int] = frozenset()
        if not self._stop.is_set():
            wanted = to_serve(me, shards, members)
        superfluous = [
            held for shard, held in self._held.items() if shard not in wanted and not held.draining
        ]
        for held in superfluous:
            held.draining = True
            held.owner.stop()
        begun = sorted(wanted - self._held.keys() - set(ended))
        for shard in begun:
            owner = Owner(shard, self._tenure(shard), self._metrics, self._wake.set)
            self._held[shard] = _Held(owner, asyncio.create_task(owner.run()))
            self._held[shard].task.add_done_callback(lambda _: self._wake.set())
        return bool(ended or superfluous or begun)

    def _tenure(self, shard: int) -> Callable[[], Tenure]:
        config = TenureConfig(
            runs_max=self._config.runs_max,
            singles_max=self._config.singles_max,
            states_linger_s=self._config.states_linger_s,
            publish_patience_s=self._config.publish_patience_s,
            fold_version=self._config.fold_version,
        )
        return lambda: Tenure(
            self._broker,
            self._names,
            shard,
            config,
            self._metrics,
            self._map,
            lambda: share_of(self.namespace),
            lambda: Retention() if self.namespace is None else self.namespace.retention,
            self._tracing,
        )


def require_payload(bytes_max: int) -> None:
    """Raises `ServerUnsuitable` if a run's state, which has limits of its own, might not fit one message."""
    if bytes_max < PAYLOAD_BYTES_MIN:
        raise ServerUnsuitable(
            f"the server's max_payload is {bytes_max} bytes, below the {PAYLOAD_BYTES_MIN} that run states may need: "
            "raise max_payload in its configuration (1 MiB is NATS's default; limit payload-size)",
            code="PAYLOAD_LIMIT_TOO_SMALL",
        )


async def run_beside(
    broker: Broker, config: OrchestratorConfig, tracing: Tracing | None = None
) -> tuple[Orchestrator, asyncio.Task[None]]:
    """An orchestrator inside the caller's process, ready when this returns; for tests and the one-process mode."""
    orchestrator = Orchestrator(broker, config, tracing=tracing)
    task = asyncio.create_task(orchestrator.run())
    ready = asyncio.create_task(orchestrator.ready())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        task.result()
    return orchestrator, task
