"""`dressage bulk`: the same is done with all runs that a search finds, and with no other."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.client import Client
from dressage.client.finding import RunQuery, count_runs
from dressage.flow import Event, Searchable, workflow
from dressage.protocol.events import KIND, RunStopped

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Dressage = Callable[..., Awaitable[tuple[int, str]]]

go = Event("bulk-go", of=str)


@dataclass
class Charge:
    provider: Searchable[str] = ""


@workflow
async def bulk_charge(provider: str) -> str:
    view = Charge(provider)
    return f"{view.provider} {await go.wait()}"


@workflow
async def bulk_other(provider: str) -> str:
    view = Charge(provider)
    return f"{view.provider} {await go.wait()}"


@pytest.fixture
async def client(engine: Engine, tmp_path: Path) -> AsyncIterator[Client]:
    """Ten runs that charge by acme, five by other ones, and five of another workflow; an analytics process."""
    client = await engine.registered(bulk_charge, bulk_other)
    for number in range(20):
        flow = bulk_charge if number < 15 else bulk_other
        await client.start(
            flow, {"provider": "acme" if number < 10 or number >= 15 else "other"}, run_id=f"run-{number:02}"
        )
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "bulk.duckdb"):
        yield client


@pytest.fixture
def dressage(engine: Engine, start: Start) -> Dressage:
    """The command line: what it exits with, and what it says."""

    async def run(*arguments: str) -> tuple[int, str]:
        program = start("bulk", *arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    return run


MEANT = ("bulk-charge", "--where", "provider = acme")


async def stopped(client: Client) -> list[str]:
    views = [await client.get(f"run-{number:02}") for number in range(20)]
    return [view.run_id for view in views if view.stops]


async def statuses(client: Client) -> Counter[str]:
    return Counter([(await client.get(f"run-{number:02}")).status for number in range(20)])


def last_json(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


async def test_runs_are_stopped_found_and_resumed_and_no_others(client: Client, dressage: Dressage) -> None:
    code, said = await dressage("stop", *MEANT, "--reason", "acme is down", "--yes")
    assert (code, "stop: 10 of 10 done" in said) == (0, True), said
    meant = [f"run-{number:02}" for number in range(10)]
    assert await stopped(client) == meant
    (counted,) = await count_runs(client.connection, client.names, RunQuery(stopped=True))
    assert counted.runs == 10
    (told,) = [each async for each in client.history("run-03") if each.kind == KIND[RunStopped]]
    assert json.loads(bytes(told.data))["reason"] == "acme is down"
    # Those that are stopped are passed over: a limit leads on.
    code, said = await dressage("stop", "bulk-charge", "--limit", "2", "--yes", "--json")
    assert last_json(said)["done"] == 2
    assert await stopped(client) == [*meant, "run-10", "run-11"]
    code, said = await dressage("resume", "--where", "provider = other", "--yes")
    assert (code, "resume: 2 of 2 done" in said) == (0, True), said
    code, said = await dressage("resume", "--id", "run-0", "--limit", "4", "--yes")
    assert (code, "resume: 4 of 4 done" in said) == (0, True), said
    assert await stopped(client) == meant[4:]
    code, said = await dressage("resume", "--yes", "--json")
    assert (code, last_json(said)["done"]) == (0, 6), said
    assert await stopped(client) == []


async def test_a_dry_run_shows_them_and_changes_nothing(client: Client, dressage: Dressage) -> None:
    code, said = await dressage("cancel", "--where", "provider = acme", "--dry-run")
    assert (code, "run-00" in said, "and 5 more" in said) == (0, True, True), said
    code, said = await dressage("cancel", *MEANT, "--dry-run", "--json")
    assert last_json(said) == {"found": 10, "first": [f"run-{number:02}" for number in range(10)]}
    assert await statuses(client) == {"running": 20}


async def test_nothing_is_done_where_nobody_can_be_asked(client: Client, dressage: Dressage) -> None:
    code, said = await dressage("cancel", *MEANT)
    assert (code, "--yes" in said) == (2, True), said
    for arguments in (
        ("cancel", "--status", "failed"),
        ("delete", "--status", "running"),
        ("resume", "--reason", "x"),
        ("cancel",),
        ("delete", "--status", "failed"),
        ("stop", "--all", "--id", "run-"),
    ):
        code, said = await dressage(*arguments, "--yes")
        assert code == 2, said
    code, said = await dressage("cancel", "--where", "provder is null", "--yes")
    assert (code, "all runs would be meant" in said) == (1, True), said
    code, said = await dressage("cancel", "--where", "nonsense", "--yes")
    assert (code, "CONDITION_INVALID" in said) == (1, True), said
    code, said = await dressage("cancel", "--where", "provider = nobody", "--yes", "--json")
    assert (code, last_json(said)["found"]) == (0, 0), said
    code, said = await dressage("cancel", "--id", "run-", "--limit", "3", "--dry-run", "--json")
    assert last_json(said) == {"found": 3, "first": ["run-00", "run-01", "run-02"]}
    assert await statuses(client) == {"running": 20}


async def test_runs_are_cancelled_and_deleted_and_those_that_are_held_are_told(
    client: Client, dressage: Dressage
) -> None:
    code, said = await dressage("cancel", *MEANT, "--reason", "gone", "--yes", "--json")
    assert (code, last_json(said)) == (0, {"found": 10, "done": 10, "over": 0, "refused": {}, "examples": {}})
    assert await statuses(client) == {"cancelled": 10, "running": 10}
    await client.hold("run-07", "evidence")
    code, said = await dressage("delete", "--all", "--yes", "--json")
    assert (code, last_json(said)) == (
        1,
        {"found": 10, "done": 9, "over": 0, "refused": {"RUN_HELD": 1}, "examples": {"RUN_HELD": ["run-07"]}},
    )
    (counted,) = await count_runs(client.connection, client.names, RunQuery())
    assert counted.runs == 11


async def test_it_is_interrupted_and_goes_on_when_it_is_called_again(
    client: Client, engine: Engine, start: Start, dressage: Dressage, until: Until
) -> None:
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("bulk", "cancel", *MEANT, "--yes", "--rate", "2", *place)

    async def some() -> bool:
        return (await statuses(client))["cancelled"] >= 2

    await until(some, "some are cancelled")
    program.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(program.ended) == 130
    assert "call it again to go on" in program.said
    done = (await statuses(client))["cancelled"]
    assert 2 <= done < 10
    code, said = await dressage("cancel", *MEANT, "--yes")
    assert (code, f"cancel: {10 - done} of {10 - done} done" in said) == (0, True), said
    assert await statuses(client) == {"cancelled": 10, "running": 10}


async def test_where_no_page_can_be_had_it_says_what_is_done_and_goes_on_when_it_is_called_again(
    engine: Engine, start: Start, dressage: Dressage, until: Until, tmp_path: Path
) -> None:
    client = await engine.registered(bulk_charge)
    runs = [await client.start(bulk_charge, {"provider": "acme"}, run_id=f"run-{n}") for n in range(10)]

    async def cancelled() -> int:
        return [(await run.state()).status for run in runs].count("cancelled")

    async def some() -> bool:
        return await cancelled() >= 1

    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "bulk.duckdb"):
        place = ("--server", engine.url, "--namespace", engine.namespace)
        program = start("bulk", "cancel", "--all", "--yes", "--rate", "1", *place)
        await until(some, "one is cancelled")
    assert await asyncio.to_thread(program.ended) == 1
    assert "call it again" in program.said
    assert "start `dressage analytics`" in program.said
    done = await cancelled()
    assert f"cancel: {done} of {done} done" in program.said
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "bulk.duckdb"):
        code, said = await dressage("cancel", "--all", "--yes")
    assert (code, f"{10 - done} of {10 - done} done" in said) == (0, True), said
    assert await cancelled() == 10
