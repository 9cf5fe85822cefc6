"""Which of several servers is taken: one that hangs, or answers wrongly, costs a moment once and not each time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.processes import Family, free_ports  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import ConsumerConfig, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.brokers.server_binary import find_server_binary
from dressage.protocol.errors import OutcomeUnknown, ServerUnreachable

pytestmark = pytest.mark.anyio

CONNECTIONS = 20


class Bad:
    """Takes connections as if nothing were wrong."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs
        self._held: list[asyncio.StreamWriter] = []
        self.taken = 0

    def accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        if self._hangs:
            self._held.append(writer)
        else:
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        try:
            yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for writer in self._held:
                writer.close()


@pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
@pytest.mark.parametrize("hangs", [True, False])
async def test_a_bad_server_is_tried_once_and_then_last(tmp_path: Path, hangs: bool) -> None:
    """An owner needs four connections: by chance it would hardly ever get four good ones."""
    bad = Bad(hangs=hangs)
    async with EmbeddedServer(tmp_path) as good, bad.listening() as url:
        broker = JetStreamBroker(f"{url},{good.url}")
        for number in range(CONNECTIONS):
            connection = await broker.connect(f"number-{number}")
            await connection.close()
    assert bad.taken <= 1


async def test_all_servers_bad_is_an_error_that_names_them() -> None:
    bad = Bad(hangs=False)
    async with bad.listening() as url:
        with pytest.raises(ServerUnreachable, match=url):
            await JetStreamBroker(f"{url},nats://127.0.0.1:1").connect("nobody")


async def test_a_server_that_reaches_no_leader_is_left_for_another(tmp_path: Path) -> None:
    """One that is cut off from its cluster keeps its connections and answers pings, as one without JetStream does."""
    (port,) = free_ports(1)
    async with EmbeddedServer(tmp_path / "good") as good:
        with Family(tmp_path / "cut-off") as family:
            family.program("cut-off", find_server_binary(), "-a", "127.0.0.1", "-p", str(port)).start()
            connection = await _first_on(port, JetStreamBroker(f"nats://127.0.0.1:{port},{good.url}"))
            with pytest.raises(OutcomeUnknown):
                await connection.stream_state("s")
            async with asyncio.timeout(60):
                while connection.nats.connected_url is None or connection.nats.connected_url.port == port:
                    with contextlib.suppress(OutcomeUnknown):
                        await connection.stream_state("s")
                    await asyncio.sleep(0.1)
            assert await connection.stream_state("s") is None
            await connection.close()


async def _first_on(port: int, broker: JetStreamBroker) -> JetStreamConnection:
    """A connection that begins on this server: which one is taken first is left to chance."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ServerUnreachable):
                connection = await broker.connect("patient", reconnect=True)
                url = connection.nats.connected_url
                if url is not None and url.port == port:
                    return connection
                await connection.close()
            await asyncio.sleep(0.05)


async def test_a_pull_ends_when_its_consumer_is_gone(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        connection = await JetStreamBroker(server.url).connect("pulling", reconnect=True)
        try:
            await connection.ensure_stream(StreamConfig("s", ["s.>"]))
            await connection.create_consumer("s", ConsumerConfig("c", ["s.>"], memory=True))
            ended = asyncio.Event()
            pull = await connection.pull("s", "c", 10, lambda _: None, lambda _: ended.set())
            server.kill()  # A consumer in memory does not come back with its server.
            await server.wait()
            await server.start()
            await asyncio.wait_for(ended.wait(), 30)
            await pull.close()
        finally:
            await connection.close()
