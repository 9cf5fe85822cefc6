"""A real server for all tests of the engine, each in a namespace of its own, and an audit from the outside."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.protocol.events import ReceivedEvent, decode_event
from dressage.protocol.names import Names

TERMINAL = {"run-completed", "run-failed", "run-cancelled", "run-faulted"}


@dataclass
class Audit:
    """All output events of a namespace, as raw stream reads give them."""

    runs: dict[str, list[ReceivedEvent]] = field(default_factory=lambda: defaultdict(list))

    @property
    def finished(self) -> set[str]:
        return {run for run, events in self.runs.items() if events[-1].kind in TERMINAL}

    def wrong(self) -> list[str]:
        """Runs whose events have a gap, a double, or something behind their end."""
        found: list[str] = []
        for run, events in self.runs.items():
            indexes = [event.index for event in events]
            if indexes != list(range(len(events))):
                found.append(f"{run}: event indexes {indexes}")
            if any(event.kind in TERMINAL for event in events[:-1]):
                found.append(f"{run}: events behind its end")
        return found

    def kinds(self, run: str) -> list[str]:
        return [event.kind for event in self.runs[run]]


async def read_audit(connection: Connection, names: Names) -> Audit:
    audit = Audit()
    seq = 1
    while True:
        found = await connection.next_message(names.events_stream, seq, names.all_events())
        if found is None:
            return audit
        event = decode_event(found.data)
        audit.runs[event.subject].append(event)
        seq = found.seq + 1


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(Path(tmp_path_factory.mktemp("nats"))) as running:
        yield running


@pytest.fixture
def broker(server: EmbeddedServer) -> JetStreamBroker:
    return JetStreamBroker(server.url)


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def connection(broker: JetStreamBroker) -> AsyncIterator[Connection]:
    opened = await broker.connect("test", reconnect=True)
    yield opened
    await opened.close()


@pytest.fixture
def audit() -> Callable[[Connection, Names], Awaitable[Audit]]:
    return read_audit
