"""One real server for the folder; engines on it, each in a namespace of its own, seen only as a user sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nats
import pytest
from nats.aio.client import Client as Nats

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import App, Workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside
from dressage.orchestrator.turn.publishing import PATIENCE_S
from dressage.protocol.names import Names, run_token, shard_of
from dressage.worker import Worker, WorkerConfig

if TYPE_CHECKING:
    from tests.conftest import Program, Start  # pyright: ignore[reportMissingImports]

DEADLINE_S: Final = 10.0


async def until(
    fact: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str, timeout_s: float = 10.0
) -> None:
    """Waits until `fact` holds; fails after `timeout_s`."""
    end = asyncio.get_running_loop().time() + timeout_s
    while True:
        holds = fact()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert asyncio.get_running_loop().time() < end, f"not in time: {what}"
        await asyncio.sleep(0.02)


@dataclass
class Engine:
    """An orchestrator inside this process, and the means to talk to its namespace as users do."""

    url: str
    shards: int
    namespace: str = field(default_factory=lambda: f"a{uuid.uuid4().hex[:12]}")
    patience_s: float = PATIENCE_S
    """For how long a domain event is tried that no stream takes."""

    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _running: tuple[Orchestrator, asyncio.Task[None]] | None = None

    @property
    def names(self) -> Names:
        return Names(self.namespace)

    async def up(self) -> None:
        config = OrchestratorConfig(
            namespace=self.namespace, shards=self.shards, publish_patience_s=self.patience_s
        )
        self._running = await run_beside(JetStreamBroker(self.url), config)

    async def down(self) -> None:
        """An orderly stop of the orchestrator; streams and clients stay."""
        if self._running is not None:
            orchestrator, task = self._running
            self._running = None
            orchestrator.stop()
            await asyncio.wait_for(task, 2 * DEADLINE_S)

    def crash(self) -> BaseException | None:
        """What ended the orchestrator although nobody stopped it. After that it counts as down."""
        if self._running is None or not self._running[1].done():
            return None
        task = self._running[1]
        self._running = None
        return task.exception()

    async def client(self, actor: str = "tester") -> Client:
        return await self._stack.enter_async_context(Client(self.url, namespace=self.namespace, actor=actor))

    async def nats(self) -> Nats:
        """A connection that knows nothing of Dressage."""
        connection = await nats.connect(self.url)
        self._stack.push_async_callback(connection.close)
        return connection

    @contextlib.asynccontextmanager
    async def working(self, app: App, **options: Any) -> AsyncIterator[Worker]:
        worker = Worker(self.url, app, WorkerConfig(namespace=self.namespace, **options))
        task = asyncio.create_task(worker.run())
        try:
            await asyncio.wait_for(worker.ready(), DEADLINE_S)
            yield worker
        finally:
            worker.stop()
            await asyncio.wait_for(task, DEADLINE_S)

    async def worker(self, app: App, **options: Any) -> Worker:
        """A worker that ends with the engine."""
        return await self._stack.enter_async_context(self.working(app, **options))

    async def registered(self, *workflows: Workflow[..., Any]) -> Client:
        client = await self.client()
        for each in workflows:
            await client.register(each)
        return client

    async def send_raw(self, run_id: str, payload: bytes, timeout_s: float = 5.0) -> dict[str, Any]:
        """Publishes bytes as a command straight to the run's shard; gives the engine's answer."""
        shard = shard_of(run_id, self.shards)
        return await self.send_to(self.names.command(shard, run_token(run_id)), payload, timeout_s)

    async def send_to(self, subject: str, payload: bytes, timeout_s: float = 5.0) -> dict[str, Any]:
        connection = await self.nats()
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        await connection.jetstream().publish(subject, payload, headers={"Dressage-Reply": inbox})
        answer = await answers.next_msg(timeout_s)
        await answers.unsubscribe()
        decoded: dict[str, Any] = json.loads(answer.data)
        return decoded

    async def call(self, operation: str, request: Any, timeout_s: float = 10.0) -> dict[str, Any]:
        """The micro service, in plain JSON."""
        connection = await self.nats()
        payload = request if isinstance(request, bytes) else json.dumps(request).encode()
        answer = await connection.request(f"dressage.{self.namespace}.api.{operation}", payload, timeout_s)
        decoded: dict[str, Any] = json.loads(answer.data)
        return decoded

    async def close(self) -> None:
        await self._stack.aclose()
        await self.down()


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(Path(tmp_path_factory.mktemp("acceptance"))) as running:
        yield running


@pytest.fixture
async def engine(server: EmbeddedServer) -> AsyncIterator[Engine]:
    """An engine of one shard for this test alone."""
    made = Engine(server.url, 1)
    await made.up()
    yield made
    await made.close()


@pytest.fixture(params=[1, 3], ids=["1-shard", "3-shards"])
async def sharded(server: EmbeddedServer, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """The same, on one shard and on three."""
    made = Engine(server.url, request.param)
    await made.up()
    yield made
    await made.close()


@pytest.fixture(scope="session")
async def served(server: EmbeddedServer) -> AsyncIterator[Engine]:
    made = Engine(server.url, 3)
    await made.up()
    yield made
    await made.close()


@pytest.fixture
async def shared(served: Engine) -> AsyncIterator[Engine]:
    """An engine of three shards that many tests share: clients and workers are the test's own, as run ids must be."""
    made = Engine(served.url, served.shards, served.namespace)
    yield made
    await made.close()


@dataclass
class Scraped:
    """`dressage orchestrator --metrics-port` as a process, and what its metrics say."""

    program: Program
    engine: Engine
    metrics_url: str

    def value(self, metric: str) -> float:
        """A sample by its name and labels, as Prometheus prints them; 0 while it is not there."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:
            text: str = answer.read().decode()
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == metric]
        return float(found[0]) if found else 0.0


@pytest.fixture(params=[1, 3], ids=["1-shard", "3-shards"])
async def scraped(
    server: EmbeddedServer, start: Start, free_port: int, request: pytest.FixtureRequest
) -> AsyncIterator[Scraped]:
    made = Engine(server.url, request.param)
    program = start(
        *("-v", "orchestrator", "--server", server.url, "--namespace", made.namespace),
        *("--shards", str(made.shards), "--metrics-port", str(free_port)),
    )
    found = Scraped(program, made, f"http://127.0.0.1:{free_port}/metrics")

    def serves_all() -> bool:
        assert program.process.poll() is None, program.said
        with contextlib.suppress(OSError):
            return all(found.value(f'dressage_shard_owned{{shard="{n}"}}') == 1 for n in range(made.shards))
        return False

    await until(serves_all, "every shard is served")
    yield found
    await made.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Awaitable[None]]:
    return until


Run = Callable[..., Awaitable[Any]]


@pytest.fixture
async def run(shared: Engine, request: pytest.FixtureRequest) -> Run:
    """Runs a workflow with these arguments, and gives its result; a worker executes `app` of the test's module.

    What its tasks wrote into `calls` there is forgotten before.
    """
    await shared.worker(request.module.app)
    client = await shared.client()
    getattr(request.module, "calls", []).clear()

    async def ran(definition: Workflow[..., Any], **given: Any) -> Any:
        await client.register(definition)
        return await (await client.start(definition, given)).result(15)

    return ran
