"""The example of docs/tracing.md runs on a real engine, in the trace of its caller; its names are those of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import StoredMessage
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.events import decode_event
from dressage.protocol.traces import read_trace
from dressage.simulation.programs import define
from dressage.telemetry import tracing
from dressage.worker import Worker

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (REPOSITORY / "docs" / "tracing.md").read_text()


@pytest.mark.anyio
async def test_the_example_of_the_page_is_in_the_trace_of_its_caller(tmp_path: Path) -> None:
    module: Any = define("\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE)))
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with Client(server.url) as client, Worker(server.url, module.app):
            await client.register(module.order)
            assert await module.place(client, "lamp") == "lamp is reserved"
            names = client.names
            found: list[StoredMessage] = []

            async def is_told() -> bool:
                message = await client.connection.next_message(names.events_stream, 1, names.all_events())
                found.extend([message] if message is not None else [])
                return bool(found)

            await until(is_told, "the run's start is told of")
            traceparent = decode_event(found[0].data).traceparent
        orchestrator.stop()
        await task
    trace = read_trace(traceparent)
    assert trace is not None
    assert trace.sampled


def test_the_names_of_the_page_are_those_of_the_code() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "pip install 'dressage[tracing]'" in PAGE
    assert "tracing" in extras
    (variable,) = re.findall(r"export (\w+)=", PAGE)
    source = Path(tracing.__file__).read_text()
    assert f'"{variable}"' in source
    engine = (REPOSITORY / "orchestrator/dressage/orchestrator/tracing.py").read_text()
    for name in re.findall(r"`(dressage\.\w+)`", PAGE):
        assert f'"{name}"' in source + engine, name
