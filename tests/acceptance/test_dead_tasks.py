"""Dead tasks on the real engine: who waits for whom, from Python, from the shell, by SQL and from any language."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.client import Client
from dressage.flow import App, Exponential, TaskError, workflow
from dressage.protocol.commands import DeadTaskView, TaskResult, WorkerInfo
from dressage.protocol.errors import Refused

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

app = App("dead")
down: set[str] = set()
charged: list[str] = []


@app.task(retries=1, backoff=Exponential(base=timedelta(milliseconds=10)), exhausted="wait")
async def charge(order: str) -> str:
    if order in down:
        raise OSError("the provider is down")
    charged.append(order)
    return f"paid {order}"


@workflow(name="dead-order")
async def dead_order(order: str) -> str:
    try:
        return await charge(order)
    except TaskError as error:
        return f"{error}"


@pytest.fixture(autouse=True)
def _provider() -> None:
    down.clear()
    charged.clear()


async def dead(client: Client, run_id: str) -> DeadTaskView:
    async def is_dead() -> bool:
        return bool((await client.get(run_id)).dead_tasks)

    await until(is_dead, f"{run_id} has a dead task", 20)
    [found] = (await client.get(run_id)).dead_tasks
    return found


async def orders(engine: Engine, *names: str) -> Client:
    client = await engine.registered(dead_order)
    down.update(names)
    for name in names:
        await client.start(dead_order, {"order": name}, run_id=name)
    return client


async def test_a_dead_task_is_retried_and_the_run_goes_on(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await orders(sharded, "a", "b")
    for name in ("a", "b"):
        view = await dead(client, name)
        assert (view.task, view.attempt) == ("charge", 2)
        assert view.failure.message == "the provider is down (task charge, attempt 2 of 2)"
    # Another owner knows it, too.
    await sharded.down()
    await sharded.up()
    down.clear()
    first, second = await dead(client, "a"), await dead(client, "b")
    await client.retry_task("a", first.task_id, reason="it is up again", command_id="c-1")
    await client.retry_task("a", first.task_id, reason="it is up again", command_id="c-1")
    assert await client.handle("a").result(15) == "paid a"
    assert charged == ["a"]
    await client.fail_task("b", second.task_id, reason="nobody knows")
    assert await client.handle("b").result(15) == "the provider is down (task charge, attempt 2 of 2)"
    with pytest.raises(Refused) as caught:
        await client.retry_task("b", second.task_id)
    assert caught.value.code == "RUN_FINISHED"


async def test_who_is_faster_settles_it(engine: Engine) -> None:
    await engine.worker(app)
    client = await orders(engine, "a")
    view = await dead(client, "a")

    async def settle(number: int) -> str:
        tell = client.retry_task if number % 2 else client.fail_task
        try:
            await tell("a", view.task_id)
        except Refused as refused:
            return refused.code
        return "settled"

    said = await asyncio.gather(*(settle(number) for number in range(6)))
    assert said.count("settled") == 1
    assert set(said) <= {"settled", "TASK_UNKNOWN", "RUN_FINISHED"}


async def test_an_attempt_that_was_dead_has_ended(engine: Engine) -> None:
    await engine.worker(app)
    client = await orders(engine, "a")
    view, by = await dead(client, "a"), WorkerInfo("ann", 0.0)
    for late in (
        TaskResult(view.task_id, by, error=view.failure),
        TaskResult(view.task_id, by, output=msgspec.Raw(b'"x"')),
    ):
        with pytest.raises(Refused) as caught:
            await client.report("a", late)
        assert caught.value.code == "RESULT_STALE"
    await client.retry_task("a", view.task_id)

    async def is_dead_again() -> bool:
        return [each.attempt for each in (await client.get("a")).dead_tasks] == [4]

    await until(is_dead_again, "it is dead again", 20)
    with pytest.raises(Refused) as caught:
        await client.fail_task("a", view.task_id)
    assert caught.value.code == "TASK_UNKNOWN"


async def test_a_killed_worker_and_engine_lose_no_dead_task(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    """The orchestrator is killed right behind the command that retries it."""
    await engine.worker(app)
    client = await orders(engine, *(f"o-{number}" for number in range(8)))
    for number in range(8):
        await dead(client, f"o-{number}")
    await engine.down()
    program = start(
        "orchestrator",
        "--server",
        engine.url,
        "--namespace",
        engine.namespace,
        "--shards",
        str(engine.shards),
    )
    down.clear()

    async def retry(number: int) -> None:
        view = await dead(client, f"o-{number}")
        await client.retry_task(f"o-{number}", view.task_id, command_id=f"retry {number}", timeout_s=60)

    telling = [asyncio.create_task(retry(number)) for number in range(8)]
    await asyncio.sleep(0.3)
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
    await engine.up()
    await asyncio.gather(*telling)
    for number in range(8):
        assert await client.handle(f"o-{number}").result(30) == f"paid o-{number}"
    events = [event.kind async for event in client.history("o-0")]
    assert (events.count("task-settled"), events.count("task-scheduled")) == (1, 3)


async def test_the_command_line_finds_them_and_settles_all(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    await engine.worker(app)
    client = await orders(engine, "a", "b", "c")
    for name in ("a", "b", "c"):
        await dead(client, name)

    async def said(*arguments: str) -> str:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        return program.said

    assert "charge" in await said("run", "get", "a")
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):

        async def listed() -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = json.loads((await said("task", "list", "--json")).splitlines()[-1])
            return rows

        async def has(count: int) -> bool:
            return len(await listed()) == count

        await until(lambda: has(3), "all are listed", 20)
        row = next(each for each in await listed() if each["run_id"] == "a")
        assert (row["workflow"], row["task"], row["attempt"]) == ("dead-order", "charge", 2)
        assert "the provider is down" in await said("task", "list", "--task", "charge")
        assert "1 task is failed" in await said("task", "fail", "a", row["task_id"], "--reason", "test")
        assert "0 tasks are retried" in await said("task", "retry", "--all", "--task", "other")
        down.clear()
        assert "1 task is retried" in await said("task", "retry", "b")
        await until(lambda: has(1), "one is left", 20)
        down.add("again")
        await client.start(dead_order, {"order": "again"}, run_id="again")
        await dead(client, "again")
        await client.cancel("again", at_once=True)
        assert "1 task is retried" in await said("task", "retry", "--all", "--workflow", "dead-order")
        assert await client.handle("c").result(15) == "paid c"
        await until(lambda: has(0), "none is left", 20)


async def test_the_service_settles_them_for_any_language(engine: Engine) -> None:
    await engine.worker(app)
    client = await orders(engine, "a")
    view = await dead(client, "a")
    got = await engine.call("get", {"run_id": "a"})
    assert got["run"]["dead_tasks"][0]["task_id"] == view.task_id
    asked = {"run_id": "a", "task_id": view.task_id, "do": "fail", "reason": "no", "actor": "ann"}
    assert (await engine.call("settle-task", asked))["ok"]
    refused = await engine.call("settle-task", {**asked, "task_id": "0-0-0-0"})
    assert refused["code"] in ("TASK_UNKNOWN", "RUN_FINISHED")
