"""A broker under test, whichever it is, and what the tests of the contract share."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from dressage.brokers.interface import (
    Broker,
    Connection,
    ConsumerConfig,
    Delivery,
    Expect,
    Message,
    Pull,
    Schedule,
    Stored,
    StreamConfig,
)
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.memory import AT_ONCE, Fate, MemoryBroker, MemoryConnection, MemoryServer, Network
from dressage.protocol.errors import PublishRefused

DEADLINE_S: Final = 20.0
"""For what must come. It is long because the machine may be busy; nothing waits for it when all is well."""

QUIET_S: Final = 0.25
"""For what must not come: long enough for a message that was sent to arrive."""


class Weak(Protocol):
    """A connection over a link that can be broken."""

    @property
    def connection(self) -> Connection: ...

    def stall(self) -> None:
        """From now on nothing passes in either direction, and nobody is told."""
        ...

    async def cut(self) -> None:
        """The link breaks."""
        ...


class World(Protocol):
    """One broker that the contract holds for. `kind` is `memory`, `newest` or `oldest`."""

    kind: str
    broker: Broker

    def weak(self, *, reconnect: bool) -> Any:
        """A context manager that gives a `Weak`."""
        ...


# -- in memory -------------------------------------------------------------------------------------------------
class _Stalling(Network):
    def __init__(self) -> None:
        self.stalled = False

    def outgoing(self, connection: MemoryConnection, kind: str) -> Fate:
        return Fate(lost=True) if self.stalled else AT_ONCE

    def incoming(self, connection: MemoryConnection, kind: str) -> Fate:
        return self.outgoing(connection, kind)


@dataclass
class _WeakMemory:
    connection: MemoryConnection
    network: _Stalling

    def stall(self) -> None:
        self.network.stalled = True

    async def cut(self) -> None:
        self.connection.cut()
        self.network.stalled = False


class MemoryWorld:
    kind = "memory"

    def __init__(self) -> None:
        self.server = MemoryServer(time.time_ns)
        self.broker: Broker = MemoryBroker(self.server)

    @asynccontextmanager
    async def weak(self, *, reconnect: bool) -> AsyncIterator[Weak]:
        network = _Stalling()
        connection = await MemoryBroker(self.server, network).connect("weak", reconnect=reconnect)
        try:
            yield _WeakMemory(connection, network)
        finally:
            await connection.close()


# -- a real server ---------------------------------------------------------------------------------------------
class _Relay:
    """A TCP relay in front of a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._listener: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.stalled = False

    async def open(self) -> str:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, ours]
        for source, target in ((reader, ours), (theirs, writer)):
            pump = asyncio.create_task(self._pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.stalled:
                    target.write(data)
                    await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    async def cut(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.transport.abort()
        self.stalled = False

    async def close(self) -> None:
        await self.cut()
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@dataclass
class _WeakReal:
    connection: Connection
    relay: _Relay

    def stall(self) -> None:
        self.relay.stalled = True

    async def cut(self) -> None:
        await self.relay.cut()


class RealWorld:
    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self.broker: Broker = JetStreamBroker(url)

    @asynccontextmanager
    async def weak(self, *, reconnect: bool) -> AsyncIterator[Weak]:
        relay = _Relay(self.url)
        broker = JetStreamBroker(await relay.open())
        connection = await broker.connect("weak", reconnect=reconnect)
        try:
            yield _WeakReal(connection, relay)
        finally:
            await connection.close()
            await relay.close()


# -- what the tests say ----------------------------------------------------------------------------------------
@dataclass
class Place:
    """A stream of the test's own, with the families of a shard's stream, and short words for what tests do there."""

    world: World
    connection: Connection
    stream: str
    base: str

    def at(self, tail: str) -> str:
        """`cmd.a` becomes a subject of this stream."""
        return f"{self.base}.{tail}"

    def message(self, tail: str, data: bytes = b"", **fields: Any) -> Message:
        """`expect` may be a sequence, or (sequence, tail); `cancels` is a tail."""
        expect = fields.get("expect")
        if isinstance(expect, int):
            fields["expect"] = Expect(expect)
        elif isinstance(expect, tuple):
            fields["expect"] = Expect(expect[0], self.at(expect[1]))
        if "cancels" in fields:
            fields["cancels"] = self.at(fields["cancels"])
        return Message(self.at(tail), data, **fields)

    def timer(
        self, tail: str, in_s: float, target: str = "cmd.a", data: bytes = b"due", **fields: Any
    ) -> Message:
        return self.message(tail, data, schedule=Schedule(moment(in_s), self.at(target)), **fields)

    async def put(self, tail: str, data: bytes = b"", **fields: Any) -> int:
        return (await self.connection.publish(self.message(tail, data, **fields))).seq

    async def batch(self, *messages: Message) -> Stored:
        return await self.connection.publish_batch(messages)

    async def last(self, tail: str) -> bytes | None:
        found = await self.connection.last_message(self.stream, self.at(tail))
        return found.data if found is not None else None

    async def contents(self, tail: str = ">") -> list[tuple[int, str, bytes]]:
        """Everything in the stream below a tail, in order: sequence, tail, data."""
        found: list[tuple[int, str, bytes]] = []
        seq = 1
        while message := await self.connection.next_message(self.stream, seq, self.at(tail)):
            found.append((message.seq, message.subject.removeprefix(f"{self.base}."), message.data))
            seq = message.seq + 1
        return found

    async def tails(self, tail: str = ">") -> list[str]:
        return [each for _, each, _ in await self.contents(tail)]

    async def consumer(self, name: str, tail: str = "cmd.*", **fields: Any) -> str:
        fields = {"ack_wait_s": 30.0} | fields
        await self.connection.create_consumer(self.stream, ConsumerConfig(name, [self.at(tail)], **fields))
        return name

    async def pull(self, consumer: str, window: int = 100, connection: Connection | None = None) -> Taken:
        """Keeps what comes; nothing of it is told to be dealt with."""
        taken = Taken(connection or self.connection)
        taken.pull = await taken.connection.pull(
            self.stream, consumer, window, taken.deliveries.append, taken.ends.append
        )
        return taken

    async def ack_floor(self, consumer: str) -> int:
        return (await self.connection.consumer_state(self.stream, consumer)).floor


@dataclass
class Taken:
    """What came by a pull."""

    connection: Connection
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    ends: list[str] = field(default_factory=list[str])
    pull: Pull | None = None

    async def count(self, wanted: int) -> list[Delivery]:
        """Waits until so many have come; more are an error."""
        await eventually(
            lambda: len(self.deliveries) >= wanted, lambda: f"{len(self.deliveries)} of {wanted}"
        )
        assert len(self.deliveries) == wanted, [each.data for each in self.deliveries]
        return self.deliveries

    async def no_more_than(self, wanted: int) -> None:
        await asyncio.sleep(QUIET_S)
        assert len(self.deliveries) == wanted, [each.data for each in self.deliveries]

    async def ack(self, *places: int) -> None:
        for place in places:
            await self.connection.ack(self.deliveries[place])

    async def close(self) -> None:
        assert self.pull is not None
        await self.pull.close()

    @property
    def data(self) -> list[bytes]:
        return [each.data for each in self.deliveries]


async def eventually(fact: Callable[[], object], what: Callable[[], str] = lambda: "") -> None:
    """Waits for a fact, at most `DEADLINE_S`."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        assert time.monotonic() < deadline, f"not in time {what()}"
        await asyncio.sleep(0.005)


async def eventually_is(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Waits until the answer is the wanted one, at most `DEADLINE_S`."""
    deadline = time.monotonic() + DEADLINE_S
    while (found := await ask()) != wanted:
        assert time.monotonic() < deadline, f"it stays {found!r}, not {wanted!r}"
        await asyncio.sleep(0.02)


async def refusal(publishing: Awaitable[object]) -> int:
    """The server's number for why it refused; 0 when it did not."""
    try:
        await publishing
    except PublishRefused as refused:
        return refused.err_code
    return 0


def moment(in_s: float) -> str:
    """So many seconds from now, as a schedule writes it."""
    return (
        datetime.fromtimestamp(time.time() + in_s, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


async def new_place(world: World, connection: Connection, name: str = "", **fields: Any) -> Place:
    name = name or f"c{uuid.uuid4().hex[:12]}"
    families: Sequence[str] = ["cmd.*", "task.*", "timer.*.*", "send.*.*", "cursor"]
    config = StreamConfig(name, [f"{name}.{family}" for family in families], schedules=True, message_ttl=True)
    await connection.ensure_stream(replace(config, **fields))
    return Place(world, connection, name, name)


async def new_bucket(world: World, connection: Connection, **fields: Any) -> Place:
    name = f"b{uuid.uuid4().hex[:12]}"
    config = StreamConfig(f"KV_{name}", [f"$KV.{name}.>"], per_subject_max=1, message_ttl=True)
    await connection.ensure_stream(replace(config, **fields))
    return Place(world, connection, f"KV_{name}", f"$KV.{name}")
