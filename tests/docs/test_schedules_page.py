"""The examples of docs/schedules.md run, its commands are there, and what it says of limits is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client, ScheduleHandle
from dressage.flow import App
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.schedules import BACKFILL_MAX, FIRES_KEPT, OPEN_MAX, QUEUED_MAX, Overlap
from dressage.simulation.programs import define
from dressage.worker import Worker, WorkerConfig

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "schedules.md").read_text()


@pytest.fixture(scope="module")
def examples() -> Any:
    return define("\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE)))


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)


@pytest.mark.anyio
async def test_the_schedules_of_the_page_fire_and_its_sql_counts_them(examples: Any, tmp_path: Path) -> None:
    (counted,) = re.findall(r"(?s)```sql\n(.*?);\n```", PAGE)

    async def invoice(customer: str, month: str) -> str:
        return f"{customer} pays for {month}"

    app: Any = App("default")
    app.handles(examples.invoice)(invoice)
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with (
            Client(server.url) as client,
            Worker(JetStreamBroker(server.url), app, WorkerConfig("default")),
            AnalyticsService(server.url, "default", tmp_path / "a.duckdb"),
        ):
            await examples.set_up(client)
            for name in ("monthly-billing", "hourly"):
                await client.schedule(name).fire()
            view = await client.schedule("monthly-billing").view()
            assert (view.fired, len(view.fires)) == (1, 1)
            assert await client.handle(view.fires[0].run_id).result(20) == "pro pays for this month"

            async def both_are_counted() -> bool:
                rows = (await client.query(counted)).rows
                return sorted([row[0], row[1]] for row in rows) == [["hourly", 0], ["monthly-billing", 0]]

            await until(both_are_counted, "SQL counts what was fired")
            assert {each.schedule for each in await client.find_schedules(workflow="bill")} >= {
                "hourly",
                "monthly-billing",
            }
        orchestrator.stop()
        await task


def test_everything_that_can_be_said_and_done_is_on_the_page() -> None:
    assert [policy for policy in get_args(Overlap) if f"`{policy}`" not in PAGE] == []
    methods = [name for name in vars(ScheduleHandle) if not name.startswith("_")]
    assert [name for name in methods if f".{name}(" not in PAGE] == []
    for figure in (
        f"at most {QUEUED_MAX} wait",
        f"up to {OPEN_MAX:,}",
        f"the last {FIRES_KEPT} fires",
        f"at most {BACKFILL_MAX:,}",
    ):
        assert figure in PAGE
