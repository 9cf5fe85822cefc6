"""Cancelling one branch of a run on the real engine: the client, the micro service, the command line, a lost owner."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.acceptance.conftest import Engine, Scraped, until  # pyright: ignore[reportMissingImports]
from tests.conftest import Start  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunFailed
from dressage.flow import App, BranchCancelled, Event, Saga, first_completed, gather, workflow
from dressage.protocol.commands import CancelThread
from dressage.protocol.errors import BadInput, Refused
from dressage.protocol.names import run_token

pytestmark = pytest.mark.anyio

app = App("gives-up")
paid = Event("paid", of=int)
begun = Counter[str]()
told_to_end: list[str] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    begun.clear()
    told_to_end.clear()


@app.task
async def ask(name: str) -> str:
    begun[name] += 1
    try:
        while name not in told_to_end:
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        told_to_end.append(name)
        raise
    return name


@app.task
async def give_back(name: str) -> None:
    begun[f"give back {name}"] += 1


async def asking(name: str) -> str:
    async with Saga() as saga:
        saga.undo(give_back, name)
        try:
            return await ask(name)
        finally:
            await give_back(f"seat of {name}")


async def paying(name: str) -> str:
    return f"{name} {await paid.wait()}"


@workflow(name="gives-up")
async def two(name: str) -> str:
    said = "both"
    try:
        await gather(asking(name), paying(name))
    except* BranchCancelled as gone:
        said = f"one of two: {gone}"
    return said


@workflow(name="gives-up-a-supplier")
async def fastest(name: str) -> str:
    _, won = await first_completed(asking(name), paying(name))
    return won


@workflow(name="gives-up-in-a-child")
async def above(name: str) -> str:
    async def child() -> str:
        return await two(name)

    said = "both"
    try:
        await gather(child(), paying(name))
    except* BranchCancelled:
        said = "without the child"
    return said


async def kinds(client: Client, run_id: str) -> list[str]:
    return [event.kind async for event in client.history(run_id)]


async def test_a_branch_is_given_up_its_handler_told_and_the_gather_fails_by_name(sharded: Engine) -> None:
    client = await sharded.registered(two)
    async with sharded.working(app):
        run = await client.start(two, {"name": "a"}, run_id="a")
        await until(lambda: begun["a"] == 1, "the task has begun")
        assert await run.cancel("not this supplier", thread=1) > run.seq
        await until(lambda: told_to_end == ["a"], "the handler is told to end")
        await until(lambda: begun["give back a"] == 1, "the saga is undone")
        assert begun["give back seat of a"] == 1
        assert (await run.state()).status == "running"
        await run.post(paid, 5)
        assert await run.result(10) == "one of two: branches failed (1 sub-exception)"
    (told,) = [event async for event in run.history() if event.kind == "branch-cancelling"]
    assert b'"reason":"not this supplier"' in bytes(told.data)


async def test_a_race_goes_on_with_the_others(sharded: Engine) -> None:
    client = await sharded.registered(fastest)
    async with sharded.working(app):
        run = await client.start(fastest, {"name": "r"}, run_id="r")
        await until(lambda: begun["r"] == 1, "the task has begun")
        await run.cancel(thread=1)
        await until(lambda: begun["give back r"] == 1, "it tidies up")
        assert (await run.state()).status == "running"
        await run.post(paid, 7)
        assert await run.result(10) == "r 7"
        other = await client.start(fastest, {"name": "s"}, run_id="s")
        await other.cancel(thread=1)
        await other.cancel("nobody delivers", thread=2)
        with pytest.raises(RunFailed) as failed:
            await other.result(10)
    assert [each.name for each in failed.value.failure.causes] == ["branch-cancelled", "branch-cancelled"]


async def test_a_child_run_that_the_branch_waits_for_tidies_up_before_it(sharded: Engine) -> None:
    client = await sharded.registered(two, above)
    async with sharded.working(app):
        run = await client.start(above, {"name": "k"}, run_id="k")
        await until(lambda: begun["k"] == 1, "the task of the child run has begun")
        await run.cancel(thread=1)
        await run.post(paid, 1)
        assert await run.result(10) == "without the child"
    assert begun["give back k"] == 1


async def test_a_cancel_outlives_its_owner_and_its_repeat_changes_nothing(scraped: Scraped) -> None:
    engine = scraped.engine
    client = await engine.registered(two)
    run = await client.start(two, {"name": "c"}, run_id="c")
    told_to_end.append("c")  # The attempt waits in its queue: it is executed, and its result refused.
    command = CancelThread("once", 1, "why", "ann")
    await client.send(run_token("c"), command)
    await client.send(run_token("c"), command)
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    await engine.up()
    await client.cancel("c", "why", thread=1, command_id="once")
    await engine.worker(app)
    await until(lambda: begun["give back c"] == 1, "it tidies up")
    await run.post(paid, 5)
    assert (await run.result(20)).startswith("one of two")
    await client.cancel("c", "why", thread=1, command_id="once")
    told = Counter(await kinds(client, "c"))
    assert (told["branch-cancelling"], begun["give back seat of c"], begun["give back c"]) == (1, 1, 1)


async def test_what_is_no_branch_is_refused_by_code_and_harms_nobody(sharded: Engine) -> None:
    client = await sharded.registered(two)
    run = await client.start(two, {"name": "n"}, run_id="n")
    for thread, code in ((0, "CANCEL_INVALID"), (9, "THREAD_UNKNOWN"), (-1, "THREAD_UNKNOWN")):
        with pytest.raises(Refused) as refused:
            await run.cancel(thread=thread)
        assert refused.value.code == code
    with pytest.raises(BadInput) as wrong:
        await run.cancel(thread=1, at_once=True)
    assert wrong.value.code == "CANCEL_INVALID"
    with pytest.raises(Refused) as refused:
        await client.cancel("nobody", thread=1)
    assert refused.value.code == "RUN_UNKNOWN"
    assert "branch-cancelling" not in await kinds(client, "n")


async def test_any_language_and_the_command_line_cancel_a_branch(engine: Engine, start: Start) -> None:
    client = await engine.registered(two)
    for run_id in ("a", "b"):
        await client.start(two, {"name": run_id}, run_id=run_id)
    answer = await engine.call("cancel", {"run_id": "a", "thread": 1, "actor": "eve", "command_id": "x"})
    assert answer["ok"] is True
    assert (await engine.call("cancel", {"run_id": "a", "thread": 1, "command_id": "x"}))["ok"] is True
    refused = await engine.call("cancel", {"run_id": "a", "thread": 2, "at_once": True})
    assert (refused["ok"], refused["code"], refused["retryable"]) == (False, "CANCEL_INVALID", False)
    (told,) = [event async for event in client.history("a") if event.kind == "branch-cancelling"]
    assert told.actor == "eve"

    async def ended(*arguments: str) -> tuple[int, str]:
        program = start("run", *arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    assert (await ended("cancel", "b", "--thread", "1", "--reason", "too dear"))[0] == 0
    assert "branch-cancelling" in (await ended("history", "b"))[1]
    code, said = await ended("cancel", "b", "--thread", "0")
    assert (code != 0, "cancel the run, and name no thread" in said) == (True, True)
