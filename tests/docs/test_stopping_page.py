"""The examples of docs/stopping.md are tests, and pass; its commands are there, and its client does what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.client.finding import query
from dressage.flow import Event, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.commands import REASON_BYTES_MAX
from dressage.protocol.names import Names
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "stopping.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)
(LISTED,) = re.findall(r"(?s)```sql\n(.*?);\n```", PAGE)

called = Event("called")


@workflow
async def calling() -> None:
    await called.wait()


@pytest.fixture(scope="module")
def examples() -> dict[str, Callable[..., Any]]:
    module = define(SOURCE)
    found: dict[str, Any] = {name: getattr(module, name) for name in [*TESTS, "repaired"]}
    return found


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(examples: dict[str, Callable[[], None]], name: str) -> None:
    examples[name]()


@pytest.mark.anyio
async def test_the_client_of_the_page_stops_resumes_and_cancels(
    examples: dict[str, Callable[..., Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with Client(server.url, actor="ann") as client:
            await client.register(calling)
            run = await client.start(calling, {}, run_id="order-7")
            assert await examples["repaired"](client) == "ordered twice, RUN_FINISHED"
            kinds = [event.kind async for event in run.history()]
            other = await client.start(calling, {}, run_id="order-8")
            await other.stop("lunch")
            broker = await JetStreamBroker(server.url).connect("test")
            async with AnalyticsService(server.url, "default", tmp_path / "a.duckdb"):

                async def is_listed() -> bool:
                    rows = [list(row) for row in (await query(broker, Names("default"), LISTED)).rows]
                    return [[*row[:2], *row[3:]] for row in rows] == [["order-8", "calling", "ann", "lunch"]]

                await until(is_listed, "the SQL of the page lists it")
            await broker.close()
        orchestrator.stop()
        await task
    assert re.fullmatch(r"ann \S+Z the payment provider is down\n", capsys.readouterr().out)
    assert kinds[-3:] == ["run-stopped", "run-resumed", "run-cancelled"]


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)


def test_the_figure_of_the_page_is_that_of_the_code() -> None:
    assert f"at most {REASON_BYTES_MAX:,} bytes" in PAGE
