"""A shop with a database, an engine, and relays between them: all of them real."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli.bench.postgres import Postgres, postgres, postgres_binaries
from dressage.client import Client
from dressage.flow import Event, Workflow, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.outbox import schema
from dressage.outbox.relay import Relay, RelayOptions
from dressage.outbox.relay.dsn import store_of
from dressage.outbox.relay.log import reading
from dressage.protocol.errors import NotFound
from dressage.protocol.events import KIND, RUN_HEADER, RunStarted
from dressage.protocol.names import run_id_of
from dressage.telemetry import PrometheusMeters

DEADLINE_S = 60.0
_numbers = itertools.count()

noted = Event("noted", of=int)
paid = Event("paid", of=str)


@workflow
async def greet(name: str, excited: bool = False) -> str:
    return name


@workflow
async def collect(count: int) -> list[int]:
    seen: list[int] = []
    while len(seen) < count:
        value = await noted.wait()
        seen = [*seen, value]
    return seen


@workflow
async def await_payment(order: str) -> str:
    return await paid.wait(key=order)


WORKFLOWS: tuple[Workflow[..., Any], ...] = (greet, collect, await_payment)


async def eventually(fact: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await fact():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.02)


class Shop:
    """What a test sees: it writes as a service would, and looks at the outcome from outside."""

    def __init__(self, nats: EmbeddedServer, client: Client) -> None:
        self.nats = nats
        self.client = client

    async def starts(self) -> Counter[str]:
        """How often each run was started, as the stream of output events tells it."""
        names = self.client.names
        subject = f"{names.root}.events.*.*.{KIND[RunStarted]}.*"
        found: Counter[str] = Counter()
        seq = 1
        connection = await JetStreamBroker(self.nats.url).connect("tests")
        try:
            while (message := await connection.next_message(names.events_stream, seq, subject)) is not None:
                found[run_id_of((message.headers or {})[RUN_HEADER])] += 1
                seq = message.seq + 1
        finally:
            await connection.close()
        return found

    async def result(self, run_id: str) -> Any:
        """Of a run that may not be there yet."""

        async def is_there() -> bool:
            with suppress(NotFound):
                await self.client.get(run_id)
                return True
            return False

        await eventually(is_there, f"run {run_id} is there")
        return await self.client.handle(run_id).result(DEADLINE_S)

    async def has_started(self, *runs: str) -> None:
        """Waits for the output events of these runs, which come behind the acceptance; there must be no others."""
        wanted = dict.fromkeys(runs, 1)

        async def all_started() -> bool:
            return len(await self.starts()) >= len(wanted)

        await eventually(all_started, f"{len(wanted)} runs are started")
        assert await self.starts() == wanted


class RunningRelay:
    """A relay inside of this process."""

    def __init__(self, url: str, dsn: str, options: RelayOptions, *, log: bool) -> None:
        self.meters = PrometheusMeters()
        beside = reading(dsn) if log else None
        self.relay = Relay(url, store_of(dsn), options, self.meters, beside=beside)
        self.task = asyncio.create_task(self.relay.run())

    def metric(self, name: str, **labels: str) -> float:
        return self.meters.registry.get_sample_value(f"dressage_outbox_{name}", labels) or 0.0

    async def reaches(self, name: str, value: float, **labels: str) -> None:
        async def reached() -> bool:
            if self.task.done():
                self.task.result()
            return self.metric(name, **labels) == value

        await eventually(reached, f"{name} {labels or ''} is {value}")

    async def stop(self) -> None:
        self.relay.stop()
        await self.task


class RelayProcess:
    """A relay that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, url: str, dsn: str, *more: str) -> RelayProcess:
        command = [
            sys.executable,
            "-m",
            "dressage.cli.main",
            "outbox",
            "relay",
            "--server",
            url,
            "--dsn",
            dsn,
            *more,
        ]
        return cls(await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL))

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


class StartRelay:
    """Starts relays in this process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._running: list[RunningRelay] = []

    def __call__(self, dsn: str, options: RelayOptions | None = None, *, log: bool = False) -> RunningRelay:
        self._running.append(RunningRelay(self._url, dsn, options or QUICK, log=log))
        return self._running[-1]

    def forget(self, relay: RunningRelay) -> None:
        """One that has failed, as it should."""
        self._running.remove(relay)

    async def stop(self) -> None:
        for each in self._running:
            await each.stop()


StartProcess = Callable[..., Awaitable[RelayProcess]]

QUICK = RelayOptions(look_every_s=0.1, poll_s=0.2)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb (apt-get install postgresql)")
    with postgres() as server:
        yield server


@pytest.fixture
def empty_dsn(postgres_server: Postgres) -> str:
    """A database without tables."""
    return postgres_server.create_database(f"shop_{next(_numbers)}")


@pytest.fixture
def dsn(empty_dsn: str) -> str:
    """A database with the tables of the outbox."""
    make_tables(empty_dsn)
    return empty_dsn


def make_tables(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in schema.statements("postgresql"):
            connection.execute(statement.encode())


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        yield server


@asynccontextmanager
async def engine(nats: EmbeddedServer, *workflows: Workflow[..., Any]) -> AsyncIterator[Client]:
    """An orchestrator, and the client that has registered these workflows with it."""
    broker = JetStreamBroker(nats.url)
    orchestrator, running = await run_beside(broker, OrchestratorConfig())
    try:
        async with Client(broker) as client:
            for each in workflows:
                await client.register(each)
            yield client
    finally:
        orchestrator.stop()
        await running


@pytest.fixture
async def shop(nats: EmbeddedServer) -> AsyncIterator[Shop]:
    async with engine(nats, *WORKFLOWS) as client:
        yield Shop(nats, client)


@pytest.fixture
async def relay(nats: EmbeddedServer) -> AsyncIterator[StartRelay]:
    """Starts relays in this process, which are stopped at the end."""
    start = StartRelay(nats.url)
    yield start
    await start.stop()


@pytest.fixture
async def process(nats: EmbeddedServer) -> AsyncIterator[StartProcess]:
    """Starts relays as processes, which are killed at the end."""
    running: list[RelayProcess] = []

    async def start(dsn: str, *more: str) -> RelayProcess:
        running.append(await RelayProcess.start(nats.url, dsn, *more))
        return running[-1]

    yield start
    for each in running:
        await each.kill()
