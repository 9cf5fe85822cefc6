"""Which step follows which, and the log of steps: of a real engine's runs, told by DuckDB."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli.main import main
from dressage.client import Client
from dressage.client.finding import mining
from dressage.flow import App, Event, UserTask, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.worker import Worker, WorkerConfig

pytestmark = pytest.mark.anyio

app = App("mining")
paid = Event("mining-paid", of=int)
ATTRIBUTE = "{http://www.xes-standard.org/}"


@dataclass
class Form:
    ok: bool


approve = UserTask("mining-approve", form=Form)
failing = {"left": 1}


@app.task(retries=2)
async def reserve(x: int) -> int:
    if x == 1 and failing["left"]:
        failing["left"] -= 1
        raise RuntimeError("try again")
    return x


@app.task
async def ship(x: int) -> int:
    return x


@workflow(name="mined-child")
async def child(x: int) -> int:
    return await ship(x)


@workflow(name="mined")
async def mined(x: int) -> int:
    for _ in range(2):
        await reserve(x)
    if x == 2:
        return 0
    got = await paid.wait()
    if x == 3:
        await approve.assign(group="ops")
    return await child(got)


@workflow(name="mined-nothing")
async def nothing() -> int:
    return 1


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Three runs: 1 with a retry and a child, 2 that ends early, 3 that waits for a user."""
    failing["left"] = 1
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        broker = JetStreamBroker(server.url)
        orchestrator, running = await run_beside(broker, OrchestratorConfig())
        async with (
            AnalyticsService(server.url, "default", tmp_path / "events.duckdb"),
            Worker(broker, app, WorkerConfig()),
            Client(server.url, actor="ann") as client,
        ):
            for each in (child, mined, nothing):
                await client.register(each)
            for x in (1, 2, 3):
                run = await client.start(mined, {"x": x}, run_id=f"m-{x}")
                if x != 2:
                    await run.post(paid, x)
                if x != 3:
                    await run.result(20)
            await (await client.start(nothing, run_id="n")).result(20)
            await client.wait_for_event("m-3", "user-task-opened", timeout_s=20)
            last = await client.connection.stream_state(client.names.events_stream)
            assert last is not None
            await until_read(client, last.last_seq)
            client.url = server.url  # type: ignore[attr-defined]
            yield client
        orchestrator.stop()
        await running


async def until_read(client: Client, seq: int) -> None:
    async with asyncio.timeout(20):
        while (await client.query("SELECT max(position) FROM positions")).rows[0][0] < seq:
            await asyncio.sleep(0.05)


def pair(before: str | None, after: str | None, times: int, status: str = "") -> tuple[object, ...]:
    return before, after, status, times


async def test_steps_follow_each_other_as_the_runs_went(client: Client) -> None:
    found = await mining.follows(client.connection, client.names, "mined")
    told = {(each.before, each.after, each.status, each.times) for each in found}
    assert told == {
        pair(None, "reserve", 3),
        pair("reserve", "reserve", 3),
        pair("reserve", None, 1, "completed"),
        pair("reserve", "mining-paid", 2),
        pair("mining-paid", "mined-child", 1),
        pair("mining-paid", "mining-approve", 1),
        pair("mined-child", None, 1, "completed"),
    }
    assert all(each.median_ms is not None and each.median_ms >= 0 for each in found)
    assert [each.times for each in found] == sorted((each.times for each in found), reverse=True)
    alone = await mining.follows(client.connection, client.names, "mined-nothing")
    assert [(each.before, each.after, each.status, each.times) for each in alone] == [
        pair(None, None, 1, "completed")
    ]
    assert await mining.follows(client.connection, client.names, "mined", version=2) == []


async def test_steps_are_read_page_by_page_with_their_attempts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> list[mining.Step]:
        return [each async for each in mining.steps(client.connection, client.names, "mined")]

    whole = await read()
    monkeypatch.setattr(mining, "PAGE", 2)
    assert await read() == whole
    shown = [(each.run_id, each.step, each.kind, each.attempts, each.outcome) for each in whole]
    assert shown == [
        ("m-1", "reserve", "task", 2, "completed"),
        ("m-1", "reserve", "task", 1, "completed"),
        ("m-1", "mining-paid", "event", 1, "received"),
        ("m-1", "mined-child", "child", 1, "completed"),
        ("m-2", "reserve", "task", 1, "completed"),
        ("m-2", "reserve", "task", 1, "completed"),
        ("m-3", "reserve", "task", 1, "completed"),
        ("m-3", "reserve", "task", 1, "completed"),
        ("m-3", "mining-paid", "event", 1, "received"),
        ("m-3", "mining-approve", "user-task", 1, ""),
    ]
    assert whole[-1].ended_at is None
    assert all(each.ended_at is not None and each.began_at <= each.ended_at for each in whole[:-1])
    assert whole[2].who == "ann"


async def call(client: Client, *words: str) -> str:
    command = ["mining", *words, "--server", client.url]  # type: ignore[attr-defined]
    done = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert done.exit_code == 0, done.output
    return done.output


async def test_the_graph_is_printed_in_three_forms(client: Client) -> None:
    table = await call(client, "graph", "mined")
    assert [line.split()[:3] for line in table.splitlines()[1:3]] == [
        ["start", "reserve", "3"],
        ["reserve", "reserve", "3"],
    ]
    listed = json.loads(await call(client, "graph", "mined", "--json"))
    assert len(listed) == 7
    drawn = await call(client, "graph", "mined", "--mermaid")
    assert drawn.startswith("flowchart TD\n    start")
    assert 'end_completed(["completed"])' in drawn
    assert drawn.count("-->") == 7
    assert await call(client, "graph", "mined", "--since", "2100-01-01T00:00:00Z", "--json") == "[]\n"


async def test_the_log_is_what_tools_read(client: Client) -> None:
    rows = list(csv.DictReader(io.StringIO(await call(client, "log", "mined"))))
    assert len(rows) == 19
    assert {row["lifecycle:transition"] for row in rows} == {"start", "complete"}
    assert [row["case:concept:name"] for row in rows] == 8 * ["m-1"] + 4 * ["m-2"] + 7 * ["m-3"]
    root = ElementTree.fromstring(await call(client, "log", "mined", "--format", "xes"))
    traces = root.findall(f"{ATTRIBUTE}trace")
    assert [len(trace.findall(f"{ATTRIBUTE}event")) for trace in traces] == [8, 4, 7]
    first = traces[0].find(f"{ATTRIBUTE}event")
    assert first is not None
    attributes = {each.get("key"): each.get("value") for each in first}
    assert (attributes["concept:name"], attributes["lifecycle:transition"]) == ("reserve", "start")
    empty = ElementTree.fromstring(await call(client, "log", "nobody", "--format", "xes"))
    assert empty.findall(f"{ATTRIBUTE}trace") == []
