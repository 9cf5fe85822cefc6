"""An engine, a stream of users, a receiver of webhooks, and sinks between them; all of them real."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from tests.connecting import QUICK, Place, Running, eventually, workflow  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import StoredMessage, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors.connect.options import ConnectorOptions

SHOP = "SHOP"
"""The stream of a user, on `shop.>`."""

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

SUBJECT_SINK = """
[[connector]]
name = "{name}"
type = "sink"
subject = 'f"shop.{{key}}.{{kind}}"'
"""

WEBHOOK_SINK = """
[[connector]]
name = "{name}"
type = "sink"
url = "{url}"
"""

ONLY_ENDED = """
[[connector.transforms]]
name = "only-ended"
type = "filter"
condition = 'kind == "run-completed"'
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        yield server


@pytest.fixture
async def place(server: EmbeddedServer) -> Place:
    return Place(server)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with place.engine(workflow()) as client:
        yield client


async def make_stream(server: EmbeddedServer, name: str = SHOP, subject: str = "shop.>", **more: Any) -> None:
    connection = await JetStreamBroker(server.url).connect("shop")
    try:
        await connection.ensure_stream(StreamConfig(name, [subject], **more))
    finally:
        await connection.close()


@pytest.fixture
async def shop(server: EmbeddedServer, place: Place) -> Callable[[], Awaitable[list[StoredMessage]]]:
    """What the stream of the shop holds."""
    await make_stream(server)
    return lambda: place.stored(SHOP, "shop.>")


StartConnector = Callable[..., Running]


@pytest.fixture
async def connector(server: EmbeddedServer) -> AsyncIterator[StartConnector]:
    """Starts processes of connectors, which are stopped at the end."""
    running: list[Running] = []

    def start(config: str, options: ConnectorOptions = QUICK) -> Running:
        running.append(Running(server.url, config, options))
        return running[-1]

    yield start
    for each in running:
        each.runner.stop()
    await asyncio.gather(*(each.task for each in running), return_exceptions=True)


@dataclass(slots=True)
class Got:
    """A request, as a receiver has it."""

    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The structured CloudEvent in it."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def run(self) -> str:
        return str(self.event["subject"])


Answer = Callable[[Got, int], "Response | None"]
"""Gets a request, and how often its id has come; None for 204."""


@dataclass(slots=True)
class Receiver:
    """A real HTTP server, with all that it was asked."""

    url: str
    got: list[Got] = field(default_factory=list[Got])
    taken: list[Got] = field(default_factory=list[Got])
    """Those that were answered by 2xx."""
    delay_s: float = 0.0
    """So long after it has taken something it says so."""
    answer: Answer = field(default=lambda got, count: None)

    counts: Counter[str] = field(default_factory=Counter[str])

    def times(self, message_id: str) -> int:
        return self.counts[message_id]

    async def has_taken(self, count: int) -> None:
        async def fact() -> bool:
            return len({each.id for each in self.taken}) >= count

        await eventually(fact, lambda: f"{len(self.taken)} of {count} are taken")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    port = free_port()
    found = Receiver(f"http://127.0.0.1:{port}/hooks")
    app = FastAPI()

    @app.post("/hooks")
    async def hook(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # whoever asked is dead
        got = Got(dict(request.headers), body, asyncio.get_running_loop().time())
        found.got.append(got)
        found.counts[got.id] += 1
        response = found.answer(got, found.times(got.id)) or Response(status_code=204)
        if 200 <= response.status_code < 300:
            found.taken.append(got)
        await asyncio.sleep(found.delay_s)
        return response

    service = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off", ws="none"))
    serving = asyncio.create_task(service.serve())

    async def started() -> bool:
        return service.started

    await eventually(started, "the receiver listens")
    yield found
    service.should_exit = True
    await serving
