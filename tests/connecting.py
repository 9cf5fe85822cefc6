"""What tests of connectors share: an engine as they see it from outside, and a process that runs connectors."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import prometheus_client

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Message, StoredMessage
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.options import ConnectorOptions
from dressage.connectors.connect.runner import ConnectorRunner
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.events import KIND, RUN_HEADER, RunCompleted, RunStarted
from dressage.protocol.expressions import Const, Index, Name
from dressage.protocol.names import Names, run_id_of
from dressage.protocol.spec import ReturnNode, Variable, WorkflowSpec
from dressage.protocol.types import ANY, Field, MaskedOf, Scalar
from dressage.telemetry import PrometheusMeters

DEADLINE_S = 60.0

QUICK = ConnectorOptions(in_flight=200, answer_s=3.0, drain_s=3.0, commit_every_s=0.1, lag_every_s=0.2)
"""Patience that a test can wait for."""


def workflow(name: str = "take-order") -> WorkflowSpec:
    """A workflow without tasks, so that it needs no worker: it returns the number of the order it is given."""
    number = Index(Name("order"), Const(msgspec.Raw(b'"id"')))
    params = (Field("order", ANY),)
    return WorkflowSpec(1, name, params, ANY, (ReturnNode(number),), variables=(Variable("order"),))


CARD = "4111-hidden-1111"


def paying() -> WorkflowSpec:
    """A workflow whose input, variable and output are masked."""
    params = (Field("card", MaskedOf(Scalar("str"))), Field("item", Scalar("str")))
    variables = (Variable("card"), Variable("item"))
    return WorkflowSpec(
        1, "pay", params, MaskedOf(Scalar("str")), (ReturnNode(Name("card")),), variables=variables
    )


class Place:
    """A NATS server with an engine, as a test sees it from outside."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.names = Names()

    @asynccontextmanager
    async def engine(self, *specs: WorkflowSpec, shards: int = 1) -> AsyncIterator[Client]:
        broker = JetStreamBroker(self.server.url)
        orchestrator, running = await run_beside(broker, OrchestratorConfig(shards=shards))
        try:
            async with Client(broker) as client:
                for spec in specs:
                    await client.register(spec)
                yield client
        finally:
            orchestrator.stop()
            await running

    async def stored(self, stream: str, subject: str) -> list[StoredMessage]:
        """Every message of a stream on a subject, by raw gets."""
        connection = await JetStreamBroker(self.server.url).connect("look", reconnect=True)
        found: list[StoredMessage] = []
        try:
            seq = 1
            while (message := await connection.next_message(stream, seq, subject)) is not None:
                found.append(message)
                seq = message.seq + 1
        finally:
            await connection.close()
        return found

    async def starts(self) -> Counter[str]:
        """How often each run was started, as the stream of output events tells it."""
        return Counter(await self.started_in_order())

    async def started_in_order(self) -> list[str]:
        subject = f"{self.names.root}.events.*.*.{KIND[RunStarted]}.*"
        found = await self.stored(self.names.events_stream, subject)
        return [run_id_of((message.headers or {})[RUN_HEADER]) for message in found]

    async def has_started(self, *runs: str) -> None:
        """Waits for the output events of these runs, which come behind the acceptance; there must be no others."""
        wanted = dict.fromkeys(runs, 1)

        async def all_started() -> bool:
            return len(await self.starts()) >= len(wanted)

        await eventually(all_started, f"{len(wanted)} runs are started")
        assert await self.starts() == wanted

    async def events(self, ended: int = 0) -> list[StoredMessage]:
        """All output events, once those of so many runs' ends are there: they come behind the results."""
        ends = f"{self.names.root}.events.*.*.{KIND[RunCompleted]}.*"

        async def all_ended() -> bool:
            return len(await self.stored(self.names.events_stream, ends)) >= ended

        await eventually(all_ended, f"{ended} runs have ended")
        return await self.stored(self.names.events_stream, self.names.all_events())

    async def dead_letters(self, connector: str) -> list[StoredMessage]:
        return await self.stored(self.names.dead_stream, self.names.dead_connector(connector))


class Running:
    """A process of connectors, inside of this one."""

    def __init__(self, url: str, config: str, options: ConnectorOptions) -> None:
        self.meters = PrometheusMeters()
        connectors = parse_connectors(config)
        self.name = connectors[0].name
        self.runner = ConnectorRunner(url, connectors, options, self.meters)
        self.task = asyncio.create_task(self.runner.run())

    def metric(self, name: str, **labels: str) -> float:
        registry: prometheus_client.CollectorRegistry = self.meters.registry
        return (
            registry.get_sample_value(f"dressage_connector_{name}", {"connector": self.name, **labels}) or 0.0
        )

    async def reaches(self, name: str, value: float, **labels: str) -> None:
        async def reached() -> bool:
            if self.task.done():
                self.task.result()
            return self.metric(name, **labels) >= value

        await eventually(
            reached, lambda: f"{name} {labels or ''} is {self.metric(name, **labels)}, not {value}"
        )

    async def stop(self) -> None:
        self.runner.stop()
        await self.task


async def eventually(fact: Callable[[], Awaitable[bool]], what: Callable[[], str] | str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await fact():
        assert time.monotonic() < deadline, (
            f"not within {DEADLINE_S} s: {what if isinstance(what, str) else what()}"
        )
        await asyncio.sleep(0.02)


async def put_back(client: Client, letter: StoredMessage) -> None:
    """As if somebody had died when a dead letter was taken, before it was removed."""
    headers = {name: value for name, value in (letter.headers or {}).items() if name != "Nats-Msg-Id"}
    await client.connection.publish(Message(letter.subject, letter.data, headers))


async def run_orders(client: Client, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        run = await client.start("take-order", {"order": {"id": number}}, run_id=f"run-{number}")
        await run.result()
