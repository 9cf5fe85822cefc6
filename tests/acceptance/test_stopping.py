"""Stopping and resuming a run, as its users see it: the client, the micro service, the command line, SQL."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from tests.acceptance.conftest import Engine, Scraped, until  # pyright: ignore[reportMissingImports]
from tests.conftest import Start  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client, RunCancelled
from dressage.client.finding import query
from dressage.flow import App, Event, Saga, gather, sleep, workflow
from dressage.protocol.errors import Refused
from dressage.protocol.names import Names

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def afresh() -> None:
    begun.clear()
    go_on.clear()


app = App("stops")
paid = Event("paid", of=int)
begun = Counter[str]()
go_on: dict[str, asyncio.Event] = {}


def gate(name: str) -> asyncio.Event:
    return go_on.setdefault(name, asyncio.Event())


@app.task
async def charge(name: str) -> str:
    begun[name] += 1
    await gate(name).wait()
    return f"charged {name}"


@app.task
async def undo(name: str) -> None:
    begun[f"undo {name}"] += 1


@workflow(name="stoppable-order")
async def order(name: str) -> str:
    charged = await charge(name)
    amount = await paid.wait(timeout=timedelta(hours=1))
    return f"{charged}, {amount}"


@workflow(name="stoppable-parent")
async def parent(name: str) -> str:
    return await order(name)


@workflow(name="stoppable-stay")
async def stay(name: str) -> str:
    async with Saga() as saga:
        saga.undo(undo, name)
        await sleep(3600)
    return "stayed"


@workflow(name="stoppable-pair")
async def pair(name: str) -> tuple[str, str]:
    async def one() -> str:
        return await charge(f"{name} 1")

    async def other() -> str:
        return await charge(f"{name} 2")

    return await gather(one(), other())


async def kinds(client: Client, run_id: str) -> list[str]:
    return [event.kind async for event in client.history(run_id)]


async def test_what_comes_to_a_stopped_run_counts_when_it_goes_on(sharded: Engine) -> None:
    client = await sharded.registered(order)
    async with sharded.working(app):
        handle = await client.start(order, {"name": "a"}, run_id="a")
        await until(lambda: begun["a"] == 1, "the task has begun")
        await handle.stop("the provider is down")
        (stop,) = (await handle.state()).stops
        assert (stop.by, stop.thread, stop.reason) == ("somebody", 0, "the provider is down")
        gate("a").set()
        await handle.post(paid, 70)

        async def completed() -> bool:
            return "task-completed" in await kinds(client, "a")

        await until(completed, "the result is told")
        view = await handle.state()
        assert (view.status, view.waiting_for) == (
            "running",
            "going on with what has come, which it may not yet",
        )
        assert "event-received" not in await kinds(client, "a")
        await handle.resume()
        assert await handle.result(5) == "charged a, 70"
        assert (await handle.state()).stops == ()
        with pytest.raises(Refused, match="RUN_FINISHED"):
            await handle.stop()


async def test_a_stop_outlives_its_owner_and_its_repeat_comes_too_late(scraped: Scraped) -> None:
    engine = scraped.engine
    client = await engine.registered(order, parent)
    await engine.worker(app)
    handle = await client.start(parent, {"name": "k"}, run_id="k")
    await until(lambda: begun["k"] == 1, "the task has begun")
    await client.stop("k", "why", command_id="once")
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    gate("k").set()
    await engine.up()
    (child,) = [event async for event in client.history("k") if event.kind == "child-started"]
    child_id = json.loads(bytes(child.data))["run_id"]

    async def stopped_with_it() -> bool:
        return [stop.by for stop in (await client.get(child_id)).stops] == ["parent"]

    await until(stopped_with_it, "the child run is stopped, too")
    await client.post(child_id, paid, 5)
    await client.resume("k", command_id="twice")
    await client.stop("k", "why", command_id="once")
    assert await handle.result(20) == "charged k, 5"
    assert begun["k"] == 1
    assert Counter(await kinds(client, child_id))["run-resumed"] == 1


async def test_one_run_thread_is_stopped_and_a_stopped_run_is_cancelled(sharded: Engine) -> None:
    client = await sharded.registered(pair, stay)
    async with sharded.working(app):
        both = await client.start(pair, {"name": "p"}, run_id="p")
        await until(lambda: begun["p 1"] == begun["p 2"] == 1, "both have begun")
        await both.stop(thread=1)
        for number in (1, 2):
            gate(f"p {number}").set()

        async def one_ended() -> bool:
            return (await kinds(client, "p")).count("task-completed") == 2

        await until(one_ended, "both results are told")
        assert (await kinds(client, "p")).count("branch-ended") == 1
        with pytest.raises(Refused, match="it has 0, 1") as refused:
            await both.stop(thread=2)
        assert refused.value.code == "THREAD_UNKNOWN"
        await both.resume(thread=1)
        assert await both.result(5) == ("charged p 1", "charged p 2")
        stayed = await client.start(stay, {"name": "s"}, run_id="s")
        await stayed.stop()
        await stayed.cancel("left")
        with pytest.raises(RunCancelled, match="left"):
            await stayed.result(5)
        assert begun["undo s"] == 1


async def test_the_command_line_stops_and_sql_knows_it(engine: Engine, start: Start, tmp_path: Path) -> None:
    client = await engine.registered(stay)
    await client.start(stay, {"name": "c"}, run_id="c")

    async def said(*arguments: str) -> str:
        program = start("run", *arguments, "--server", engine.url, "--namespace", engine.namespace)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        return program.said

    await said("stop", "c", "--reason", "lunch", "--actor", "ann")
    assert "by ann: lunch" in await said("get", "c")
    sql = "SELECT run_id, workflow, thread, stopped_by, actor, reason FROM stopped_runs"
    broker = await JetStreamBroker(engine.url).connect("test")
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):

        async def asked() -> list[list[object]]:
            return [list(row) for row in (await query(broker, Names(engine.namespace), sql)).rows]

        async def known() -> bool:
            return await asked() == [["c", "stoppable-stay", 0, "somebody", "ann", "lunch"]]

        await until(known, "the view has it")
        await said("resume", "c")
        assert "lunch" not in await said("get", "c")

        async def gone() -> bool:
            return await asked() == []

        await until(gone, "the view has it no more")
    await broker.close()
    answer = await engine.call("stop", {"run_id": "c", "thread": 9})
    assert (answer["ok"], answer["code"]) == (False, "THREAD_UNKNOWN")
