"""The examples of docs/rescue.md are tests, and pass; its commands are there, and its client does what it says."""

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
from dressage.client import Client, RunFailed
from dressage.client.finding import query
from dressage.flow import App, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.names import Names
from dressage.simulation.programs import define
from dressage.worker import Worker, WorkerConfig

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "rescue.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)
(LISTED,) = re.findall(r"(?s)```sql\n(.*?);\n```", PAGE)

app = App("rescue-page")
broken = [True]


@app.task
def pay(amount: int) -> str:
    if broken[0]:
        raise ConnectionError("the provider is down")
    return f"paid {amount}"


@workflow
async def paying(amount: int) -> str:
    return await pay(amount)


@pytest.fixture(scope="module")
def examples() -> dict[str, Callable[..., Any]]:
    module = define(SOURCE)
    found: dict[str, Any] = {name: getattr(module, name) for name in [*TESTS, "again"]}
    return found


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(examples: dict[str, Callable[[], None]], name: str) -> None:
    examples[name]()


@pytest.mark.anyio
async def test_the_client_of_the_page_rescues(
    examples: dict[str, Callable[..., Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken[0] = True
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with (
            Client(server.url, actor="ann") as client,
            Worker(JetStreamBroker(server.url), app, WorkerConfig("default")),
        ):
            await client.register(paying)
            run = await client.start(paying, {"amount": 7}, run_id="order-17")
            with pytest.raises(RunFailed):
                await run.result(20)
            broken[0] = False
            assert await examples["again"](client) == "paid 7, RUN_FINISHED"
            broker = await JetStreamBroker(server.url).connect("test")
            async with AnalyticsService(server.url, "default", tmp_path / "a.duckdb"):

                async def is_listed() -> bool:
                    rows = [list(row) for row in (await query(broker, Names("default"), LISTED)).rows]
                    return [[row[0], *row[2:]] for row in rows] == [
                        ["order-17", "ann", "the provider is back"]
                    ]

                await until(is_listed, "the SQL of the page lists it")
            await broker.close()
        orchestrator.stop()
        await task
    assert capsys.readouterr().out == "failed ConnectionError\n"


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)
