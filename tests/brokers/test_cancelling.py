"""A task that is cancelled while it uses a connection ends, whatever nats-py makes of its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(Path(tmp_path_factory.mktemp("cancelling"))) as running:
        yield running


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[JetStreamConnection]:
    opened = await JetStreamBroker(server.url).connect("test")
    yield opened
    await opened.close()


async def test_a_request_that_is_answered_in_the_step_that_cancels_it_is_cancelled(
    connection: JetStreamConnection,
) -> None:
    heard = asyncio.Event()

    async def hear(subject: str, data: bytes, reply: str) -> None:
        heard.set()

    await connection.serve("question", hear)
    asking = asyncio.create_task(connection.request("question", b"", 10.0))
    await heard.wait()
    (answer,) = connection.nats._resp_map.values()  # pyright: ignore[reportPrivateUsage]
    answer.set_result(Msg(connection.nats, data=b"answer"))
    asking.cancel()
    await asyncio.wait({asking}, timeout=5)
    assert asking.cancelled()


async def test_a_connection_whose_opening_is_cancelled_is_closed() -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        left.set()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        opening = asyncio.create_task(JetStreamBroker(f"nats://127.0.0.1:{port}").connect("test"))
        await reached.wait()
        opening.cancel()
        await asyncio.wait({opening}, timeout=5)
        assert opening.cancelled()
        await asyncio.wait_for(left.wait(), 5)
