"""A shop: a service with a stream of its own, an engine, and a trigger between them. All on a real server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Message, StoredMessage, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.client import Client
from dressage.connectors import TriggerOptions, TriggerRunner, parse_triggers
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.events import KIND, RUN_HEADER, RunStarted
from dressage.protocol.expressions import Const, Index, Name
from dressage.protocol.names import Names, run_id_of
from dressage.protocol.spec import ReturnNode, Variable, WorkflowSpec
from dressage.protocol.types import ANY, Field, Scalar
from dressage.telemetry import PrometheusMeters

DEADLINE_S = 30.0
STREAM = "ORDERS"
CONSUMER = "dressage_default_trigger_orders"

CONFIG = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>" }
workflow = "take-order"
when = 'event["total"] >= 0'
run_id = "'order-' + str(event['id'])"

[trigger.input]
order = "event"
"""

QUICK = TriggerOptions(in_flight=100, ack_wait_s=1.5, answer_s=3.0, lag_every_s=0.1)
"""Patience that a test can wait for."""


def workflow(name: str = "take-order", parameter: Field | None = None) -> WorkflowSpec:
    """A workflow without tasks, so that it needs no worker: it returns the number of the order it is given."""
    number = Index(Name("order"), Const(msgspec.Raw(b'"id"')))
    params = (parameter or Field("order", ANY),)
    nodes = (ReturnNode(number if parameter is None else None),)
    return WorkflowSpec(1, name, params, ANY, nodes, variables=(Variable(params[0].name),))


ONLY_TEXT = Field("order", Scalar("str"))


def orders(count: int) -> list[str]:
    """The runs of the first `count` orders."""
    return [f"order-{number}" for number in range(count)]


def order(number: int, total: float = 9.9, **more: Any) -> dict[str, Any]:
    return {"id": number, "total": total, **more}


class Shop:
    """What a test sees: it publishes as a service would, and looks at the outcome from outside."""

    def __init__(self, server: EmbeddedServer, connection: JetStreamConnection) -> None:
        self.server = server
        self.connection = connection
        self.names = Names()
        self.watched = CONSUMER

    # -- the service, which knows nothing of Dressage ----------------------------------------------
    async def create_stream(self, name: str = STREAM, subjects: Sequence[str] = ("orders.>",)) -> None:
        await self.connection.ensure_stream(StreamConfig(name, subjects))

    async def delete_stream(self, name: str = STREAM) -> None:
        await self.connection.request(f"$JS.API.STREAM.DELETE.{name}", b"", 5.0)

    async def publish(
        self, event: object, *, subject: str = "orders.new", headers: Mapping[str, str] | None = None
    ) -> int:
        """`event` is the payload if it is bytes, else becomes JSON. Returns its sequence."""
        data = event if isinstance(event, bytes) else msgspec.json.encode(event)
        message = Message(subject, data, dict(headers) if headers else None)
        return (await self.connection.publish(message)).seq

    async def publish_orders(self, count: int, first: int = 0) -> None:
        for start in range(first, first + count, 500):
            numbers = range(start, min(start + 500, first + count))
            messages = [Message("orders.new", msgspec.json.encode(order(number))) for number in numbers]
            await self.connection.publish_batch(messages)

    # -- the engine --------------------------------------------------------------------------------
    @asynccontextmanager
    async def engine(self, *specs: WorkflowSpec, shards: int = 1) -> AsyncIterator[Client]:
        """An orchestrator, and the client that has registered these workflows with it."""
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

    # -- the outcome -------------------------------------------------------------------------------
    async def stored(self, stream: str, subject: str) -> list[StoredMessage]:
        """Every message of a stream on a subject, by raw gets."""
        found: list[StoredMessage] = []
        seq = 1
        while (message := await self.connection.next_message(stream, seq, subject)) is not None:
            found.append(message)
            seq = message.seq + 1
        return found

    async def starts(self) -> Counter[str]:
        """How often each run was started, as the stream of output events tells it."""
        subject = f"{self.names.root}.events.*.*.{KIND[RunStarted]}.*"
        found = await self.stored(self.names.events_stream, subject)
        return Counter(run_id_of((message.headers or {})[RUN_HEADER]) for message in found)

    async def has_started(self, *runs: str) -> None:
        """Waits for the output events of these runs, which come behind the acceptance; there must be no others."""
        wanted = dict.fromkeys(runs, 1)

        async def all_started() -> bool:
            return len(await self.starts()) >= len(wanted)

        await eventually(all_started, f"{len(wanted)} runs are started")
        assert await self.starts() == wanted

    async def dead_letters(self, trigger: str = "orders") -> list[StoredMessage]:
        return await self.stored(self.names.dead_stream, self.names.dead_trigger(trigger))

    async def consumer(self) -> dict[str, Any]:
        """What the server says of the trigger's consumer."""
        subject = f"$JS.API.CONSUMER.INFO.{STREAM}.{self.watched}"
        found: dict[str, Any] = msgspec.json.decode(await self.connection.request(subject, b"", 5.0))
        return found

    async def is_done(self) -> bool:
        """Every event of the stream is acknowledged. The server counts one as pending a moment after it has stored it,
        so that the consumer must have come to the last one as well."""
        info, last = await self.consumer(), await self.connection.last_message(STREAM, "orders.>")
        if "error" in info or info["num_pending"] or info["num_ack_pending"]:
            return False
        return last is None or info["delivered"]["stream_seq"] >= last.seq

    async def done(self) -> None:
        await eventually(self.is_done, "every event is acknowledged")


class Trigger:
    """A trigger process, inside of this one."""

    def __init__(self, url: str, config: str | None, options: TriggerOptions) -> None:
        """Without `config` it runs what is deployed."""
        self.meters = PrometheusMeters()
        triggers = None if config is None else parse_triggers(config)
        self.runner = TriggerRunner(url, triggers, options, self.meters)
        self.task = asyncio.create_task(self.runner.run())

    def metric(self, name: str, **labels: str) -> float:
        registry: prometheus_client.CollectorRegistry = self.meters.registry
        return registry.get_sample_value(f"dressage_trigger_{name}", {"trigger": "orders", **labels}) or 0.0

    async def reaches(self, name: str, value: float, **labels: str) -> None:
        async def reached() -> bool:
            if self.task.done():
                self.task.result()
            return self.metric(name, **labels) == value

        await eventually(reached, f"{name} {labels or ''} is {value}")

    async def stop(self) -> None:
        self.runner.stop()
        await self.task


StartTrigger = Callable[..., Trigger]


async def eventually(fact: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await fact():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        yield server


@pytest.fixture
async def shop(server: EmbeddedServer) -> AsyncIterator[Shop]:
    """The service with its stream; there is no engine yet."""
    connection = await JetStreamBroker(server.url).connect("shop", reconnect=True)
    shop = Shop(server, connection)
    await shop.create_stream()
    yield shop
    await connection.close()


@pytest.fixture
async def client(shop: Shop) -> AsyncIterator[Client]:
    """The engine, with the workflow that the usual trigger starts."""
    async with shop.engine(workflow()) as client:
        yield client


@pytest.fixture
async def trigger(server: EmbeddedServer) -> AsyncIterator[StartTrigger]:
    """Starts trigger processes, which are stopped at the end."""
    running: list[Trigger] = []

    def start(config: str | None = CONFIG, options: TriggerOptions = QUICK) -> Trigger:
        running.append(Trigger(server.url, config, options))
        return running[-1]

    yield start
    for each in running:
        await each.stop()
