"""A real server with an EVENTS stream, and events to put into it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dressage.analytics.ingest import Ingest
from dressage.analytics.store import Store
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.event_feed import BatchLimits
from dressage.brokers.interface import Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.protocol.commands import FailureInfo
from dressage.protocol.events import (
    KIND,
    RUN_HEADER,
    TYPE_PREFIX,
    EventData,
    OutputEvent,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    VariableChanged,
    encoder,
)
from dressage.protocol.names import Names, event_bucket, run_token, shard_of

DEADLINE_S = 20.0
BATCH_MAX = 400


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def task(
    name: str, node: int, run_id: str, attempt: int, failure: FailureInfo | None = None
) -> list[EventData]:
    """What an attempt leaves in the stream: it took 10 ms for each number of its node, and waited 1 ms more."""
    task_id, spent_ms = f"{run_id}.{node}.{attempt}", 10.0 * node
    scheduled = TaskScheduled(name, task_id, node, attempt, "shop")
    if failure is None:
        ended: EventData = TaskCompleted(
            name, task_id, node, attempt, "worker-1", spent_ms, spent_ms + 1, raw({"ok": True})
        )
    else:
        ended = TaskFailed(
            name, task_id, node, attempt, "worker-1", spent_ms, spent_ms + 1, failure, retry=attempt == 1
        )
    return [scheduled, ended]


def order(run_id: str, number: int) -> list[EventData]:
    """An order of the shop: every fifth is declined, every fourth needs a second attempt to be priced.

    It takes `number` + 1 ms.
    """
    error = FailureInfo("ValueError", "no price yet", kind="task-error")
    declined = FailureInfo("card-declined", "not covered")
    happened: list[EventData] = [RunStarted(raw({"order": number})), VariableChanged("price", raw("9.90"))]
    if number % 4 == 0:
        happened += task("fetch-price", 1, run_id, 1, error)
    happened += task("fetch-price", 1, run_id, 2 if number % 4 == 0 else 1)
    happened += task("charge-card", 2, run_id, 1, declined if number % 5 == 0 else None)
    status = "DECLINED" if number % 5 == 0 else "DONE"
    happened.append(VariableChanged("status", raw(status), searchable=True))
    if number % 5 == 0:
        happened.append(RunFailed(declined, number + 1.0))
    else:
        happened.append(RunCompleted(raw({"paid": number}), number + 1.0))
    return happened


class EventsStream:
    """The EVENTS stream of a namespace, written as an owner writes it: batches that end with a position."""

    def __init__(self, connection: JetStreamConnection, names: Names, shards: int = 3) -> None:
        self.connection = connection
        self.names = names
        self.shards = shards
        self._command = 0

    async def create(self, **limits: Any) -> None:
        """`limits` are settings of the stream, as JetStream spells them."""
        config = {
            "name": self.names.events_stream,
            "subjects": self.names.events_subjects(),
            "allow_atomic": True,
            "allow_rollup_hdrs": True,
        }
        await self._api("STREAM.CREATE", config | limits)

    async def delete(self) -> None:
        await self._api("STREAM.DELETE", None)

    async def purge(self, keep: int) -> None:
        await self._api("STREAM.PURGE", {"keep": keep})

    async def _api(self, operation: str, body: dict[str, Any] | None) -> None:
        payload = msgspec.json.encode(body) if body is not None else b""
        reply = await self.connection.request(f"$JS.API.{operation}.{self.names.events_stream}", payload, 5.0)
        assert b'"error"' not in reply, reply

    async def last_seq(self) -> int:
        state = await self.connection.stream_state(self.names.events_stream)
        assert state is not None
        return state.last_seq

    def event(
        self,
        run_id: str,
        index: int,
        data: EventData,
        *,
        at_ms: int = 0,
        workflow: str = "process-order",
        version: int = 1,
        actor: str = "tests",
    ) -> Message:
        shard, kind = shard_of(run_id, self.shards), KIND[type(data)]
        self._command += 1
        event = OutputEvent(
            id=f"{run_id}/{index}",
            source=f"dressage/{self.names.namespace}",
            type=TYPE_PREFIX + kind,
            time=f"2026-01-02T03:{4 + at_ms // 60_000:02}:{at_ms // 1000 % 60:02}.{at_ms % 1000:03}Z",
            subject=run_id,
            workflow=workflow,
            version=version,
            index=index,
            command=str(self._command),
            data=data,
            actor=actor,
        )
        subject = self.names.event(shard, workflow, kind, event_bucket(run_id))
        return Message(subject, encoder.encode(event), headers={RUN_HEADER: run_token(run_id)})

    def run(self, run_id: str, happened: Iterable[EventData]) -> list[Message]:
        return [self.event(run_id, index, data, at_ms=index) for index, data in enumerate(happened)]

    def order(self, run_id: str, number: int = 1) -> list[Message]:
        """The events of one order: see `order` above."""
        return self.run(run_id, order(run_id, number))

    def position(self, shard: int = 0) -> Message:
        return Message(self.names.position(shard), b"{}", rollup=True)

    async def publish(self, messages: list[Message]) -> int:
        """Returns the stream's last sequence, which is that of a position."""
        last = 0
        for start in range(0, len(messages), BATCH_MAX):
            part = [*messages[start : start + BATCH_MAX], self.position(start // BATCH_MAX % self.shards)]
            last = (await self.connection.publish_batch(part)).seq
        return last

    async def publish_orders(self, count: int, first: int = 0) -> int:
        """`count` runs, each with an id of its own; returns the stream's last sequence."""
        messages: list[Message] = []
        for number in range(first, first + count):
            messages += self.order(f"order-{number}", number)
        return await self.publish(messages)

    async def in_stream(self) -> list[tuple[int, str, int, bytes]]:
        """Every event that the stream holds, read by raw gets: (sequence, run id, index, payload)."""
        found: list[tuple[int, str, int, bytes]] = []
        seq = 1
        while True:
            message = await self.connection.next_message(
                self.names.events_stream, seq, self.names.all_events()
            )
            if message is None:
                return found
            event = msgspec.json.decode(message.data)
            found.append((message.seq, event["subject"], event["index"], message.data))
            seq = message.seq + 1


class Process:
    """An ingesting process, inside of this one."""

    def __init__(self, ingest: Ingest, store: Store) -> None:
        self.ingest = ingest
        self.store = store
        self.task = asyncio.create_task(ingest.run())

    async def until(self, position: int) -> None:
        reaching = asyncio.create_task(self.ingest.reached(position, DEADLINE_S))
        await asyncio.wait([self.task, reaching], return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            reaching.cancel()
            self.task.result()
        assert await reaching, f"{self.ingest.position} of {position} after {DEADLINE_S} s"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self.store.cursor()
        try:
            return cursor.execute(sql).fetchall()
        finally:
            cursor.close()

    async def stop(self) -> None:
        self.ingest.stop()
        try:
            await self.task
        finally:
            self.store.close()


Start = Callable[..., Process]
"""Starts an ingesting process; takes the keyword arguments of `Ingest`."""

Raw = Callable[[Any], msgspec.Raw]
Eventually = Callable[[Callable[[], Awaitable[bool]], str], Awaitable[None]]
MakeEvents = Callable[[JetStreamConnection, Names], EventsStream]
MakeStream = Callable[..., Awaitable[EventsStream]]


async def eventually(fact: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await fact():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture(name="raw")
def raw_fixture() -> Raw:
    return raw


@pytest.fixture(name="eventually")
def eventually_fixture() -> Eventually:
    return eventually


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def make_events() -> MakeEvents:
    return EventsStream


@pytest.fixture
def names() -> Names:
    return Names("shop")


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "analytics.duckdb"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        yield server


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[JetStreamConnection]:
    connection = await JetStreamBroker(server.url).connect("test", reconnect=True)
    yield connection
    await connection.close()


@pytest.fixture
async def events(connection: JetStreamConnection, names: Names) -> EventsStream:
    """The stream, created and empty."""
    stream = EventsStream(connection, names)
    await stream.create()
    return stream


@pytest.fixture
def make_stream(connection: JetStreamConnection, names: Names) -> MakeStream:
    """Creates the stream when the test says so, with the limits it says."""

    async def make(**limits: Any) -> EventsStream:
        stream = EventsStream(connection, names)
        await stream.create(**limits)
        return stream

    return make


@pytest.fixture
async def start(connection: JetStreamConnection, names: Names, db_path: Path) -> AsyncIterator[Start]:
    """Starts ingesting processes on `db_path`, one after another; the last is stopped at the end."""
    running: list[Process] = []

    def start(**options: Any) -> Process:
        options.setdefault("limits", BatchLimits(pause_s=0.0, idle_s=0.05))
        store = Store.open(db_path, names.events_stream, names.all_events().removesuffix(">"))
        running.append(Process(Ingest(connection, names, store, **options), store))
        return running[-1]

    yield start
    for process in running:
        if not process.task.done():
            await process.stop()
