"""Tasks that can be trusted, as the issue asks for them: their times, signs of life, checkpoints, how handlers hear
that nobody waits for them, what is not retried, how late results are fenced, and what is kept with an attempt."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunFailed
from dressage.flow import (
    App,
    Event,
    Exponential,
    TaskError,
    TaskTimeout,
    WorkflowFailure,
    first_completed,
    task,
    workflow,
)
from dressage.protocol.errors import Refused
from dressage.worker import TaskLog, current_task

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

app = App("issue-tasks", version="1.4.0")
FAST = Exponential(base=timedelta(milliseconds=20), limit=timedelta(milliseconds=20))

logger = logging.getLogger("issue-tasks")
logger.setLevel(logging.INFO)
logger.addHandler(TaskLog())


@dataclass
class Floor:
    done: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = True


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.gate, floor.broken = [], asyncio.Event(), True


class Declined(WorkflowFailure):
    pass


class Hopeless(ValueError):
    pass


class VeryHopeless(Hopeless):
    pass


# -- times ---------------------------------------------------------------------------------------------------------
@app.task(timeout=timedelta(milliseconds=200), retries=1, backoff=FAST)
async def hangs_once() -> str:
    floor.done.append(f"attempt {current_task().attempt}")
    if current_task().attempt == 1:
        await asyncio.sleep(60)
    return "at last"


@app.task(timeout=timedelta(milliseconds=150), retries=1, backoff=FAST)
async def hangs() -> str:
    floor.done.append("hangs")
    await asyncio.sleep(60)
    return ""


@task(queue="issue-nobody-there", start_timeout=timedelta(milliseconds=200), retries=5)
async def never_taken() -> str:
    raise NotImplementedError


@app.task(retries=1000, backoff=FAST)
async def sleeps() -> str:
    """It fails twice, and hangs then: the deadline is of all its attempts together."""
    if current_task().attempt < 3:
        raise OSError("down")
    await asyncio.sleep(60)
    return ""


@app.task(retries=1000, backoff=Exponential(base=timedelta(hours=1), limit=timedelta(hours=1)))
async def fails_slowly() -> str:
    raise OSError("down")


@app.task(heartbeat=timedelta(milliseconds=400), retries=1, backoff=FAST)
async def falls_silent() -> str:
    floor.done.append("falls silent")
    if current_task().attempt == 1:
        await asyncio.sleep(60)
    return "spoke"


@app.task(heartbeat=timedelta(milliseconds=400))
async def keeps_talking() -> str:
    for count in range(12):
        current_task().heartbeat({"rows": count})
        await asyncio.sleep(0.1)
    return "heard"


@workflow
async def issue_hangs_once() -> str:
    return await hangs_once()


@workflow
async def issue_times(which: str) -> str:
    try:
        if which == "timeout":
            return await hangs()
        if which == "start":
            return await never_taken()
        return await sleeps.options(deadline=timedelta(milliseconds=800))()
    except TaskTimeout as error:
        return f"not in time: {error}"


@workflow
async def issue_fails_slowly() -> str:
    return await fails_slowly.options(deadline=timedelta(minutes=1))()


@workflow
async def issue_silent() -> str:
    return await falls_silent()


@workflow
async def issue_talking() -> str:
    return await keeps_talking()


# -- going on where it was -----------------------------------------------------------------------------------------
@task(
    queue="issue-import",
    retries=5,
    backoff=Exponential(base=timedelta(seconds=1), limit=timedelta(seconds=1)),
)
async def load_rows(rows: int) -> list[int]:
    raise NotImplementedError


@workflow
async def issue_import(rows: int) -> list[int]:
    return await load_rows(rows)


def importer(name: str, *, breaks_at: int) -> App:
    """An application of another process: it keeps each row, and breaks at one."""
    made = App(name)

    @made.handles(load_rows)
    async def handle(rows: int) -> list[int]:
        here = current_task()
        begins = here.resumed(int) or 0
        for row in range(begins, rows):
            if row == breaks_at:
                raise OSError("the disk is gone")
            await here.checkpoint(row + 1)
        return [begins, rows]

    return made


# -- cancelled handlers --------------------------------------------------------------------------------------------
stop_it = Event("stop-it")
heard: dict[str, threading.Event] = {}


@app.task
async def waits_async(name: str) -> None:
    floor.done.append(f"{name} began")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        floor.done.append(f"{name} was cancelled")
        raise


@app.task
def waits_sync(name: str) -> None:
    floor.done.append(f"{name} began")
    end = time.monotonic() + 20
    while not current_task().stopped and time.monotonic() < end:
        time.sleep(0.02)
    floor.done.append(f"{name} was stopped: {bool(current_task().stopped)}")


@app.task
def beats_sync(name: str) -> None:
    floor.done.append(f"{name} began")
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            current_task().heartbeat()
            time.sleep(0.02)
    except asyncio.CancelledError:
        floor.done.append(f"{name} was cancelled")
        raise


@workflow
async def issue_waits(how: str) -> str:
    if how == "async":
        await waits_async("async")
    elif how == "sync":
        await waits_sync("sync")
    else:
        await beats_sync("beats")
    return ""


@workflow
async def issue_race() -> str:
    place, _ = await first_completed(waits_async("async"), stop_it.wait())
    return f"won by {place}"


# -- what is not retried -------------------------------------------------------------------------------------------
@app.task(retries=3, backoff=FAST, not_retried=(Hopeless,))
async def fails_as(kind: str) -> str:
    floor.done.append(kind)
    match kind:
        case "hopeless":
            raise Hopeless("no")
        case "very hopeless":
            raise VeryHopeless("no")
        case "declined":
            raise Declined("no")
        case _:
            raise ValueError("no")


@workflow
async def issue_fails(kind: str) -> str:
    try:
        return await fails_as(kind)
    except Declined:
        return "declined"
    except TaskError as error:
        return f"{error}"


@task(
    queue="issue-jitter",
    retries=3,
    backoff=Exponential(base=timedelta(seconds=100), limit=timedelta(hours=1), jitter=0.5),
)
async def jittered() -> str:
    raise NotImplementedError


@workflow
async def issue_jitter() -> str:
    return await jittered()


@task(queue="issue-hand", retries=3, backoff=Exponential(base=timedelta(0), limit=timedelta(0)))
async def by_hand() -> str:
    raise NotImplementedError


@workflow
async def issue_by_hand() -> str:
    return await by_hand()


# -- what is kept --------------------------------------------------------------------------------------------------
@app.task(retries=1, backoff=FAST)
async def tells() -> str:
    current_task().log("asked the bank")
    logger.warning("refunding %s", 7)
    if current_task().attempt == 1:
        raise OSError("no line")
    return "told"


@workflow
async def issue_tells() -> str:
    return await tells()


@app.task(retries=1, backoff=FAST, exhausted="wait")
async def refund(number: int) -> str:
    if floor.broken:
        raise OSError("the bank is down")
    return f"refunded {number}"


@workflow
async def issue_refund(number: int) -> str:
    try:
        return await refund(number)
    except TaskError:
        return f"given up {number}"


async def events(client: Client, run_id: str, kind: str) -> list[Any]:
    return [json.loads(bytes(event.data)) async for event in client.history(run_id) if event.kind == kind]


async def test_an_attempt_that_takes_too_long_is_cancelled_and_another_one_follows(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_hangs_once)
    run = await client.start(issue_hangs_once, {})
    assert await run.result(10) == "at last"
    assert floor.done == ["attempt 1", "attempt 2"]
    (failed,) = await events(client, run.run_id, "task-failed")
    assert failed["retry"] is True


async def test_timeout_start_timeout_and_deadline_end_a_call_by_name(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_times)
    runs = {
        which: await client.start(issue_times, {"which": which}) for which in ("timeout", "start", "deadline")
    }
    for run in runs.values():
        assert (await run.result(15)).startswith("not in time: ")
    assert floor.done == ["hangs", "hangs"]  # the timeout is of an attempt
    assert (
        len(await events(client, runs["start"].run_id, "task-scheduled")) == 1
    )  # no other would be taken earlier
    # The deadline is of the call, with all its attempts.
    assert len(await events(client, runs["deadline"].run_id, "task-scheduled")) == 3


async def test_a_call_fails_with_its_last_error_where_the_next_attempt_would_be_behind_its_deadline(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_fails_slowly)
    run = await client.start(issue_fails_slowly, {})
    with pytest.raises(RunFailed, match="down"):
        await run.result(10)
    assert len(await events(client, run.run_id, "task-scheduled")) == 1


async def test_a_handler_that_falls_silent_is_given_up_and_one_that_talks_is_not(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_silent, issue_talking)
    silent = await client.start(issue_silent, {})
    talking = await client.start(issue_talking, {})
    await talking.wait_for_state(lambda state: "rows" in state.waiting_for, timeout_s=10)
    assert [await silent.result(10), await talking.result(10)] == ["spoke", "heard"]
    assert floor.done == ["falls silent", "falls silent"]
    assert await events(client, talking.run_id, "task-failed") == []


async def test_another_worker_goes_on_from_the_checkpoint_of_the_first(engine: Engine) -> None:
    client = await engine.registered(issue_import)
    async with engine.working(importer("issue-import", breaks_at=3), identity="first"):
        run = await client.start(issue_import, {"rows": 5})
        await run.wait_for_event("task-failed", timeout_s=10)
    await engine.worker(importer("issue-import", breaks_at=-1), identity="second")
    assert await run.result(15) == [3, 5]
    (failed,) = await events(client, run.run_id, "task-failed")
    (completed,) = await events(client, run.run_id, "task-completed")
    assert [failed["worker"], completed["worker"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("how", "told"),
    [("async", "async was cancelled"), ("sync", "sync was stopped: True"), ("beats", "beats was cancelled")],
)
async def test_a_running_handler_hears_that_its_run_is_cancelled(
    shared: Engine, until: Until, how: str, told: str
) -> None:
    await shared.worker(app)
    client = await shared.registered(issue_waits)
    run = await client.start(issue_waits, {"how": how})
    await until(lambda: floor.done == [f"{how} began"], "the handler runs")
    await run.cancel()
    await until(lambda: told in floor.done, "the handler has heard of it")


async def test_a_running_handler_hears_that_it_has_lost_a_race(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_race)
    run = await client.start(issue_race, {})
    await until(lambda: floor.done == ["async began"], "the handler runs")
    await run.post(stop_it)
    assert await run.result(10) == "won by 1"
    await until(lambda: "async was cancelled" in floor.done, "the handler has heard of it")


@pytest.mark.parametrize(
    ("kind", "attempts"), [("hopeless", 1), ("very hopeless", 1), ("declined", 1), ("other", 4)]
)
async def test_what_is_named_and_business_failures_are_not_retried(
    shared: Engine, kind: str, attempts: int
) -> None:
    await shared.worker(app)
    client = await shared.registered(issue_fails)
    run = await client.start(issue_fails, {"kind": kind})
    await run.result(10)
    assert floor.done == [kind] * attempts


async def test_delays_are_spread_and_stay_within_their_jitter(engine: Engine) -> None:
    client = await engine.registered(issue_jitter)
    delays = []
    for number in range(12):
        run = await client.start(issue_jitter, {}, run_id=f"jitter-{number}")
        (first,) = await events(client, run.run_id, "task-scheduled")
        report = {
            "type": "task-result",
            "task_id": first["task_id"],
            "by": {"worker": "ann", "duration_ms": 1.0},
        }
        report["error"] = {"name": "task-error", "message": "down", "kind": "task-error"}
        answer = await engine.call("result", {"run_id": run.run_id, "result": report})
        assert answer["ok"], answer
        _, second = await events(client, run.run_id, "task-scheduled")
        delays.append(second["delay_s"])
    assert all(50 <= delay <= 150 for delay in delays)
    assert len(set(delays)) > 6


async def test_a_late_or_second_result_is_refused_and_changes_nothing(engine: Engine) -> None:
    client = await engine.registered(issue_by_hand)
    run = await client.start(issue_by_hand, {})

    async def report(task_id: str, **what: Any) -> dict[str, Any]:
        result = {
            "type": "task-result",
            "task_id": task_id,
            "by": {"worker": "ann", "duration_ms": 1.0},
            **what,
        }
        return await engine.call("result", {"run_id": run.run_id, "result": result})

    (first,) = await events(client, run.run_id, "task-scheduled")
    down = {"name": "task-error", "message": "down", "kind": "task-error"}
    assert (await report(first["task_id"], error=down))["ok"]
    _, second = await events(client, run.run_id, "task-scheduled")
    late = await report(first["task_id"], output="late")
    assert late["code"] == "RESULT_STALE"
    assert (await report("0-0-99-1", output="forged"))["code"] == "RESULT_STALE"
    both = await report(second["task_id"], output="x", error=down)
    assert both["code"] == "RESULT_MALFORMED"
    assert (await report(second["task_id"], output="right"))["ok"]
    twice = await report(second["task_id"], output="other")
    assert twice["code"] in {"RESULT_STALE", "RUN_FINISHED"}
    assert await run.result(10) == "right"
    assert len(await events(client, run.run_id, "task-completed")) == 1


async def test_who_did_it_in_which_version_and_what_it_logged_is_kept_with_each_attempt(
    engine: Engine,
) -> None:
    await engine.worker(app, identity="eve@desk")
    client = await engine.registered(issue_tells)
    run = await client.start(issue_tells, {})
    assert await run.result(10) == "told"
    (failed,) = await events(client, run.run_id, "task-failed")
    (completed,) = await events(client, run.run_id, "task-completed")
    for attempt in (failed, completed):
        assert (attempt["worker"], attempt["build"]) == ("eve@desk", "1.4.0")
        assert "asked the bank" in attempt["log"]
        assert "refunding 7" in attempt["log"]


async def test_retry_policies_are_data_of_the_definition(engine: Engine) -> None:
    await engine.registered(issue_fails, issue_times)
    answer = await engine.call("get-workflow", {"name": "issue-fails"})
    (defined,) = answer["workflow"]["spec"]["tasks"]
    assert defined["retry"]["retries"] == 3
    assert "Hopeless" in json.dumps(defined["retry"])


async def test_dead_tasks_are_listed_retried_and_failed_from_the_command_line(
    engine: Engine, start: Start, until: Until, tmp_path: Path
) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_refund)
    runs = [await client.start(issue_refund, {"number": n}, run_id=f"refund-{n}") for n in range(4)]
    for run in runs:
        await run.wait_for_state(lambda state: bool(state.dead_tasks), timeout_s=10)
    place = ("--server", engine.url, "--namespace", engine.namespace)
    start("analytics", "--db", str(tmp_path / "a.duckdb"), *place)

    async def dressage(*arguments: str) -> str:
        program = start(*arguments, *place)
        code = await asyncio.to_thread(program.ended)
        assert code == 0, program.said
        said: str = program.said
        return said

    async def listed() -> bool:
        program = start("task", "list", "--json", *place)
        await asyncio.to_thread(program.ended)
        return all(f"refund-{n}" in program.said for n in range(4))

    await until(listed, "all are listed", timeout_s=30.0)
    floor.broken = False
    dead = (await client.get("refund-0")).dead_tasks[0]
    assert (dead.task, dead.attempt) == ("refund", 2)
    await dressage("task", "retry", "refund-0", dead.task_id, "--reason", "the bank is back")
    assert await runs[0].result(10) == "refunded 0"
    dead = (await client.get("refund-1")).dead_tasks[0]
    await dressage("task", "fail", "refund-1", dead.task_id, "--reason", "too late")
    assert await runs[1].result(10) == "given up 1"
    await dressage("task", "retry", "--all", "--task", "refund")
    assert [await run.result(10) for run in runs[2:]] == ["refunded 2", "refunded 3"]
    with pytest.raises(Refused) as refused:
        await client.retry_task("refund-1", dead.task_id)
    assert refused.value.code in {"TASK_UNKNOWN", "RUN_FINISHED"}


async def test_a_call_that_is_used_up_fails_its_run_by_name_unless_its_author_says_otherwise(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_hopeless)
    run = await client.start(issue_hopeless, {})
    with pytest.raises(RunFailed, match="attempt 4 of 4"):
        await run.result(10)


@workflow
async def issue_hopeless() -> str:
    return await fails_as("other")
