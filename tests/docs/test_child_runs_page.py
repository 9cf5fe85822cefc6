"""The examples of docs/child-runs.md are tests, and pass; its commands and its SQL find the children."""

from __future__ import annotations

import re
import shlex
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
from dressage.orchestrator.fold.limits import CHILD_DEPTH_MAX, OPEN_CHILDREN_MAX, RUN_THREADS_MAX
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.names import RUN_ID_BYTES_MAX, Names
from dressage.protocol.spec_sizes import CHILDREN_MAX
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "child-runs.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def examples() -> Any:
    return define(SOURCE)


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(examples: Any, name: str) -> None:
    getattr(examples, name)()


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    for figure in (
        f"At most {CHILD_DEPTH_MAX} runs wait for each other",
        f"At most {OPEN_CHILDREN_MAX:,} of the last two",
        f"at most {CHILDREN_MAX} others",
        f"the {RUN_THREADS_MAX:,} run threads",
        f"a text of up to {RUN_ID_BYTES_MAX} bytes",
    ):
        assert figure in PAGE


@pytest.mark.anyio
async def test_the_sql_of_the_page_finds_children(examples: Any, tmp_path: Path) -> None:
    (asked,) = [shlex.split(line)[-1] for line in commands_of(PAGE) if line.startswith("dressage query")]
    (chosen,) = re.findall(r"(?s)```sql\n(.*?);\n```", PAGE)
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        broker = await JetStreamBroker(server.url).connect("test")
        async with (
            Client(server.url) as client,
            AnalyticsService(server.url, "default", tmp_path / "a.duckdb"),
        ):
            await client.register(examples.sell)
            await client.start(examples.sell, {"guest": "ann"}, run_id="order-7")
            await client.wait_for_state(
                "order-7", lambda state: state.waiting_for.startswith("time"), timeout_s=20
            )

            async def found(sql: str) -> list[list[Any]]:
                return [list(row) for row in (await query(broker, Names("default"), sql)).rows]

            async def all_are_there() -> bool:
                return len(await found(chosen)) == 3

            await until(all_are_there, "analytics know of them")
            assert [row[1:] for row in await found(asked)] == [["ship", "running"]] * 2
            assert ["ship-ann", "ship", "running"] in await found(chosen)
        await broker.close()
        orchestrator.stop()
        await task
