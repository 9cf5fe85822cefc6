"""Cancelling a run, as its users see it: the client, the micro service, other tasks and waiters."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]
from tests.conftest import Start  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunCancelled, RunFailed
from dressage.flow import App, Event, Saga, WorkflowFailure, sleep, workflow
from dressage.protocol.commands import REASON_BYTES_MAX
from dressage.protocol.errors import Refused

pytestmark = pytest.mark.anyio

app = App("cancels")
begun = asyncio.Event()
go_on = asyncio.Event()


@app.task
async def slow(n: int) -> int:
    begun.set()
    await go_on.wait()
    return n


@workflow
async def long(seconds: float) -> str:
    await sleep(seconds)
    return "awake"


@workflow(name="cleaned-up")
async def cleaned_up(n: int) -> int:
    try:
        return await slow(n)
    except WorkflowFailure:
        return -1


@workflow
async def quick() -> int:
    return 1


async def test_a_waiter_is_told_of_the_cancel_at_once(sharded: Engine) -> None:
    client = await sharded.registered(long)
    handle = await client.start(long, {"seconds": 3600})
    waiting = asyncio.create_task(handle.result(10))
    await handle.cancel("not needed")
    with pytest.raises(RunCancelled, match="not needed") as caught:
        await waiting
    assert isinstance(caught.value, RunFailed)
    assert (caught.value.code, caught.value.reason, caught.value.run_id) == (
        "RUN_CANCELLED",
        "not needed",
        handle.run_id,
    )


async def test_history_ends_with_the_cancel_and_names_who_asked(shared: Engine) -> None:
    client = await shared.registered(long)
    handle = await client.start(long, {"seconds": 3600})
    await client.cancel(handle.run_id, "changed my mind", actor="bob")
    last = [event async for event in handle.history()][-1]
    assert (last.kind, last.actor) == ("run-cancelled", "bob")
    assert json.loads(bytes(last.data))["reason"] == "changed my mind"


async def test_a_cancelled_run_stays_as_it_was_cancelled_first(shared: Engine) -> None:
    client = await shared.registered(long)
    handle = await client.start(long, {"seconds": 3600})
    await handle.cancel("first")
    before = await handle.state()
    await handle.cancel("second")
    assert await handle.state() == before
    assert before.reason == "first"


async def test_the_same_command_again_finds_the_run_cancelled(shared: Engine) -> None:
    client = await shared.registered(long)
    await client.start(long, {"seconds": 3600}, run_id="again")
    command = b'{"type": "cancel-run", "command_id": "c1", "reason": "r", "actor": "raw"}'
    first = await shared.send_raw("again", command)
    second = await shared.send_raw("again", command)
    assert (first["accepted"], first.get("existing", False)) == (True, False)
    assert (second["accepted"], second["existing"]) == (True, True)


async def test_what_cannot_be_cancelled_is_refused_by_code(shared: Engine) -> None:
    client = await shared.registered(quick, long)
    ended = await client.start(quick, {})
    await ended.result(5)
    running = await client.start(long, {"seconds": 3600})
    for run_id, reason, code in (
        ("never-started", "", "RUN_UNKNOWN"),
        (ended.run_id, "", "RUN_FINISHED"),
        (running.run_id, "x" * (REASON_BYTES_MAX + 1), "REASON_TOO_LONG"),
    ):
        with pytest.raises(Refused) as refused:
            await client.cancel(run_id, reason)
        assert refused.value.code == code
    assert (await running.state()).status == "running"


async def test_no_handler_runs_and_the_result_of_a_running_attempt_changes_nothing(shared: Engine) -> None:
    client = await shared.registered(cleaned_up)
    async with shared.working(app):
        handle = await client.start(cleaned_up, {"n": 1})
        await asyncio.wait_for(begun.wait(), 5)
        await handle.cancel()
        go_on.set()
    kinds = [event.kind async for event in handle.history()]
    assert kinds == ["run-started", "task-scheduled", "run-cancelled"]


async def test_the_micro_service_cancels(shared: Engine) -> None:
    client = await shared.registered(long)
    handle = await client.start(long, {"seconds": 3600})
    request: dict[str, Any] = {"run_id": handle.run_id, "reason": "by hand", "actor": "eve"}
    answer = await shared.call("cancel", request)
    assert answer["ok"] is True
    run = (await shared.call("get", {"run_id": handle.run_id}))["run"]
    assert (run["status"], run["reason"], run["seq"]) == ("cancelled", "by hand", answer["seq"])
    assert (await shared.call("cancel", request))["ok"] is True
    assert (await shared.call("cancel", {"run_id": "never-started"}))["code"] == "RUN_UNKNOWN"


async def test_a_cancelled_id_stays_the_cancelled_run(shared: Engine) -> None:
    client = await shared.registered(long)
    handle = await client.start(long, {"seconds": 3600})
    await handle.cancel()
    again = await client.start(long, {"seconds": 3600}, run_id=handle.run_id)
    assert again.existing
    with pytest.raises(RunCancelled):
        await again.result(5)


# -- tidying up -----------------------------------------------------------------------------------------
left = Event("left", of=str)
released: list[str] = []


@app.task
async def release(room: str) -> None:
    released.append(room)


@workflow
async def stay(room: str) -> str:
    async with Saga() as saga:
        saga.undo(release, room)
        try:
            return await left.wait()
        finally:
            await left.wait()


async def cancelling(client: Client, run_id: str) -> None:
    async def fact() -> bool:
        return (await client.get(run_id)).cancelling

    await until(fact, "the run is being cancelled")


async def test_a_cancelled_run_tidies_up_also_behind_another_owner(sharded: Engine) -> None:
    client = await sharded.registered(stay)
    handle = await client.start(stay, {"room": "blue"})
    waiting = asyncio.create_task(handle.result(20))
    await client.cancel(handle.run_id, "the guest called", actor="ann")
    view = await handle.state()
    assert (view.status, view.cancelling, view.reason) == ("running", True, "the guest called")
    assert view.waiting_for == "event left"
    await handle.cancel("once more")
    await sharded.down()
    await sharded.up()
    await cancelling(client, handle.run_id)
    await handle.post(left, "the key is back")
    async with sharded.working(app):
        with pytest.raises(RunCancelled, match="the guest called"):
            await waiting
    assert released == ["blue"]
    released.clear()
    view = await handle.state()
    assert (view.status, view.cancelling, view.reason) == ("cancelled", False, "the guest called")
    told = [(event.kind, event.actor) async for event in handle.history()]
    assert told.count(("run-cancelling", "ann")) == 1
    assert told[-1][0] == "run-cancelled"


async def test_a_run_that_cannot_tidy_up_is_ended_at_once(sharded: Engine) -> None:
    client = await sharded.registered(stay)
    handle = await client.start(stay, {"room": "red"})
    await handle.cancel("gently")
    assert (await handle.state()).cancelling
    async with sharded.working(app):
        await handle.cancel("now", at_once=True)
        with pytest.raises(RunCancelled, match="now"):
            await handle.result(5)
    kinds = [event.kind async for event in handle.history()]
    assert "task-scheduled" not in kinds
    assert released == []
    assert (await client.cancel(handle.run_id)) > 0


async def test_the_micro_service_and_the_command_line_cancel_at_once(engine: Engine, start: Start) -> None:
    client = await engine.registered(stay)
    for run_id in ("a", "b"):
        await client.start(stay, {"room": run_id}, run_id=run_id)
    assert (await engine.call("cancel", {"run_id": "a", "reason": "r"}))["ok"] is True
    run = (await engine.call("get", {"run_id": "a"}))["run"]
    assert (run["status"], run["cancelling"], run["reason"]) == ("running", True, "r")
    assert (await engine.call("cancel", {"run_id": "a", "at_once": True}))["ok"] is True
    assert (await engine.call("get", {"run_id": "a"}))["run"]["status"] == "cancelled"

    async def said(*arguments: str) -> str:
        program = start("run", *arguments, "--server", engine.url, "--namespace", engine.namespace)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        return program.said

    await said("cancel", "b", "--reason", "twice")
    assert "running, being cancelled" in await said("get", "b")
    await said("cancel", "b", "--at-once")
    assert "cancelled" in await said("get", "b")
