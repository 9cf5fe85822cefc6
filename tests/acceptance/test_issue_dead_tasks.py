"""Dead tasks, listed and retried, and workers of a version, as the issue asks for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import RunCancelled, RunFailed, RunHandle
from dressage.client.finding import query
from dressage.flow import App, Event, Exponential, TaskError, gather, workflow
from dressage.protocol.commands import DeadTaskView
from dressage.protocol.errors import DressageError
from dressage.worker import current_task

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Dressage = Callable[..., Awaitable[tuple[int, str]]]

app = App("issue-dead")
go = Event("issue-dead-go", of=str)
MOMENT: Final = timedelta(milliseconds=300)
SOON: Final = Exponential(base=timedelta(milliseconds=20), limit=timedelta(milliseconds=20))


async def down(word: str) -> str:
    raise OSError(f"{word} is down")


async def up(word: str) -> str:
    return f"{word} is up"


@dataclass
class Floor:
    done: list[str] = field(default_factory=list)
    does: Callable[[str], Awaitable[str]] = down
    gate: asyncio.Event = field(default_factory=asyncio.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.does, floor.gate = [], down, asyncio.Event()


@app.task(exhausted="wait")
async def pay(word: str) -> str:
    floor.done.append(f"pay {word} {current_task().attempt}")
    return await floor.does(word)


@app.task(exhausted="wait")
async def ship(word: str) -> str:
    floor.done.append(f"ship {word} {current_task().attempt}")
    return await floor.does(word)


@app.task
async def tidy(word: str) -> str:
    floor.done.append(f"tidy {word}")
    return word


@app.task(concurrency=1)
async def single(word: str) -> str:
    floor.done.append(f"single {word}")
    await floor.gate.wait()
    return word


@workflow
async def dead_pay(word: str) -> str:
    return await pay(word)


@workflow
async def dead_caught(word: str) -> str:
    try:
        return await pay(word)
    except TaskError as error:
        return f"caught: {error}"


@workflow
async def dead_tidy(word: str) -> str:
    try:
        return await pay(word)
    finally:
        await go.wait()
        await tidy(word)


@workflow
async def dead_both(word: str) -> list[str]:
    left, right = await gather(pay(word), ship(word))
    return [left, right]


@workflow
async def dead_start(word: str) -> str:
    return await pay.options(start_timeout=MOMENT)(word)


@workflow
async def dead_deadline(word: str) -> str:
    try:
        return await pay.options(deadline=MOMENT)(word)
    except TimeoutError:
        return "behind its deadline"


@workflow
async def dead_single(word: str) -> str:
    return await single(word)


async def dead_of(run: RunHandle[Any]) -> tuple[DeadTaskView, ...]:
    return (await run.state()).dead_tasks


async def died(run: RunHandle[Any], until: Until, count: int = 1) -> list[DeadTaskView]:
    async def are_dead() -> bool:
        return len(await dead_of(run)) == count

    await until(are_dead, f"{count} of its tasks are dead")
    return list(await dead_of(run))


async def code_of(action: Awaitable[Any]) -> str:
    """What it is refused with; empty if it is not."""
    try:
        await action
    except DressageError as refused:
        return refused.code
    return ""


async def told(run: RunHandle[Any], *kinds: str) -> list[dict[str, Any]]:
    return [json.loads(bytes(event.data)) async for event in run.history() if event.kind in kinds]


@pytest.fixture
def dressage(engine: Engine, start: Start) -> Dressage:
    """The command line: what it exits with, and what it says."""

    async def run(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    return run


# -- retrying ------------------------------------------------------------------------------------------------------
async def test_of_two_who_retry_at_once_one_is_refused_and_there_is_one_attempt(
    sharded: Engine, until: Until
) -> None:
    await sharded.worker(app)
    client = await sharded.registered(dead_pay)
    run = await client.start(dead_pay, {"word": "bank"})
    (dead,) = await died(run, until)
    floor.does = up
    tries = [code_of(client.retry_task(run.run_id, dead.task_id)) for _ in range(4)]
    assert sorted(await asyncio.gather(*tries)) == ["", *["TASK_UNKNOWN"] * 3]
    assert await run.result(10) == "bank is up"
    assert floor.done == ["pay bank 1", "pay bank 2"]
    assert await code_of(client.retry_task(run.run_id, dead.task_id)) == "RUN_FINISHED"


async def test_who_retries_and_who_lets_it_fail_at_once_get_one_outcome(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_caught)
    floor.does = down
    for number in range(6):
        run = await client.start(dead_caught, {"word": f"bank {number}"})
        (dead,) = await died(run, until)
        settle = (
            [client.retry_task, client.fail_task] if number % 2 else [client.fail_task, client.retry_task]
        )
        codes = await asyncio.gather(*(code_of(each(run.run_id, dead.task_id)) for each in settle))
        assert sum(code == "" for code in codes) == 1, codes
        (settled,) = await told(run, "task-settled")
        won = settle[codes.index("")]
        assert settled["do"] == ("retry" if won == client.retry_task else "fail")
        attempts = sum(each.startswith(f"pay bank {number} ") for each in floor.done)
        if settled["do"] == "fail":
            assert "is down" in await run.result(10)
            assert attempts == 1
        else:
            (again,) = await died(run, until)
            assert again.attempt == 2


async def test_a_retry_is_known_by_its_command_id_however_often_it_comes(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_pay)
    run = await client.start(dead_pay, {"word": "bank"})
    (dead,) = await died(run, until)
    tries = [code_of(client.retry_task(run.run_id, dead.task_id, command_id="once")) for _ in range(3)]
    assert await asyncio.gather(*tries) == ["", "", ""]
    (again,) = await died(run, until)
    assert again.task_id != dead.task_id
    assert await code_of(client.retry_task(run.run_id, dead.task_id, command_id="once")) == ""
    assert floor.done == ["pay bank 1", "pay bank 2"]


async def test_a_retry_goes_on_from_the_checkpoint_of_what_has_died(engine: Engine, until: Until) -> None:
    async def does(word: str) -> str:
        here = current_task()
        if here.attempt > 1:
            return f"from {here.resumed(int)}"
        await here.checkpoint(500)
        raise OSError("down")

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(dead_pay)
    run = await client.start(dead_pay, {"word": "bank"})
    (dead,) = await died(run, until)
    await engine.down()
    await engine.up()
    await client.retry_task(run.run_id, dead.task_id)
    assert await run.result(10) == "from 500"


async def test_an_attempt_that_no_worker_takes_dies_too_and_is_retried_when_there_is_one(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(dead_start)
    run = await client.start(dead_start, {"word": "bank"})
    (dead,) = await died(run, until)
    floor.does = up
    await engine.worker(app)
    await client.retry_task(run.run_id, dead.task_id)
    assert await run.result(10) == "bank is up"
    assert floor.done == ["pay bank 2"]


async def test_a_deadline_ends_a_dead_task_and_nobody_can_retry_it_then(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_deadline)
    run = await client.start(dead_deadline, {"word": "bank"})
    (dead,) = await died(run, until)
    assert await run.result(10) == "behind its deadline"
    assert await code_of(client.retry_task(run.run_id, dead.task_id)) == "RUN_FINISHED"
    assert floor.done == ["pay bank 1"]


# -- what became of the run meanwhile ------------------------------------------------------------------------------
async def test_a_dead_task_of_a_run_that_was_cancelled_meanwhile_is_retried_by_nobody(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_pay, dead_tidy)
    gone = await client.start(dead_pay, {"word": "gone"})
    tidies = await client.start(dead_tidy, {"word": "tidies"})
    dead = {run.run_id: (await died(run, until))[0].task_id for run in (gone, tidies)}
    for run in (gone, tidies):
        await run.cancel("no need")
    with pytest.raises(RunCancelled):
        await gone.result(10)
    assert await code_of(client.retry_task(gone.run_id, dead[gone.run_id])) == "RUN_FINISHED"
    assert await code_of(client.retry_task(tidies.run_id, dead[tidies.run_id])) == "TASK_UNKNOWN"
    assert await dead_of(tidies) == ()
    await tidies.post(go, "on")
    with pytest.raises(RunCancelled):
        await tidies.result(10)
    assert sorted(floor.done) == ["pay gone 1", "pay tidies 1", "tidy tidies"]
    for run in (gone, tidies):
        assert [each["do"] for each in await told(run, "task-settled")] in ([], ["cancel"])


async def test_a_retry_and_a_cancel_at_once_leave_a_run_that_is_cancelled(
    sharded: Engine, until: Until
) -> None:
    async def hangs(word: str) -> str:
        await asyncio.sleep(60)
        return "never"

    await sharded.worker(app)
    client = await sharded.registered(dead_pay)
    for number in range(4):
        floor.does = down
        run = await client.start(dead_pay, {"word": f"w{number}"})
        (dead,) = await died(run, until)
        floor.does = hangs
        both = [run.cancel(), client.retry_task(run.run_id, dead.task_id)]
        await asyncio.gather(*map(code_of, both if number % 2 else reversed(both)))
        with pytest.raises(RunCancelled):
            await run.result(10)


async def test_in_a_stopped_run_a_retry_counts_when_that_goes_on(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_pay)
    run = await client.start(dead_pay, {"word": "bank"})
    (dead,) = await died(run, until)
    await run.stop("for a while")
    assert await code_of(client.retry_task(run.run_id, dead.task_id)) == ""
    assert await code_of(client.retry_task(run.run_id, dead.task_id)) == "TASK_UNKNOWN"
    marker = await client.start(dead_pay, {"word": "marker"})
    await died(marker, until)
    assert floor.done == ["pay bank 1", "pay marker 1"]
    floor.does = up
    await run.resume()
    assert await run.result(10) == "bank is up"


async def test_one_branch_waits_for_somebody_while_the_other_one_goes_on(
    engine: Engine, until: Until, dressage: Dressage
) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_both)
    run = await client.start(dead_both, {"word": "w"}, run_id="both")
    dead = {each.task: each for each in await died(run, until, 2)}
    assert dead["pay"].thread != dead["ship"].thread
    shown = (await dressage("run", "get", "both"))[1]
    assert dead["pay"].task_id in shown
    floor.does = up
    code, said = await dressage("task", "retry", "both", dead["pay"].task_id, "--reason", "the bank is back")
    assert code == 0, said
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert [each.task for each in await dead_of(run)] == ["ship"]
    code, said = await dressage("task", "retry", "both", dead["pay"].task_id)
    assert (code, "TASK_UNKNOWN" in said) == (1, True), said
    code, said = await dressage("task", "fail", "both")
    assert code == 0, said
    with pytest.raises(RunFailed, match="branches failed"):
        await run.result(10)


# -- the list ------------------------------------------------------------------------------------------------------
async def test_the_command_line_lists_dead_tasks_and_retries_those_that_are_left(
    engine: Engine, until: Until, dressage: Dressage, start: Start, tmp_path: Path
) -> None:
    await engine.worker(app)
    client = await engine.registered(dead_pay, dead_both)
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("analytics", "--db", str(tmp_path / "a.duckdb"), *place)
    runs = {name: await client.start(dead_pay, {"word": name}, run_id=name) for name in ("a", "b", "gone")}
    both = await client.start(dead_both, {"word": "c"}, run_id="c")
    for run in runs.values():
        await died(run, until)
    await died(both, until, 2)

    async def listed() -> set[tuple[str, str]]:
        assert program.process.poll() is None, program.said
        try:
            found = await query(client.connection, engine.names, "SELECT run_id, task FROM dead_tasks")
        except DressageError:
            return set()
        return {(run_id, of) for run_id, of in found.rows}

    async def all_are_listed() -> bool:
        return len(await listed()) == 5

    await until(all_are_listed, "all of them are listed", timeout_s=20)
    code, said = await dressage("task", "list", "--task", "pay", "--json")
    assert code == 0, said
    shown = json.loads(said)
    assert {each["run_id"] for each in shown} == {"a", "b", "c", "gone"}
    assert {(each["attempt"], each["failure_name"]) for each in shown} == {(1, "OSError")}
    floor.does = up
    await runs["gone"].cancel()
    await client.wait("gone", timeout_s=10)
    code, said = await dressage("task", "retry", "--all", "--task", "pay", "--reason", "the bank is back")
    assert code == 0, said
    assert await runs["a"].result(10) == "a is up"
    assert await runs["b"].result(10) == "b is up"
    assert [each.task for each in await dead_of(both)] == ["ship"]

    async def one_is_left() -> bool:
        return await listed() == {("c", "ship")}

    await until(
        one_is_left, "those that were retried, and those of runs that have ended, are listed no more", 20
    )
    code, said = await dressage("task", "fail", "--all", "--workflow", "dead-pay")
    assert (code, "0 tasks" in said) == (0, True), said


# -- workers of a version ------------------------------------------------------------------------------------------
def built(text: str) -> Any:
    if text == "one":

        @workflow(name="dead-built")
        async def of_build(word: str) -> str:
            await go.wait()
            return "one " + await pay.options(retries=2, backoff=SOON)(word)

    else:

        @workflow(name="dead-built")
        async def of_build(word: str) -> str:
            await go.wait()
            return "two " + await pay.options(retries=2, backoff=SOON)(word)

    return of_build


async def test_all_attempts_of_a_run_go_to_workers_of_the_build_that_it_began_with(
    sharded: Engine,
) -> None:
    async def does(word: str) -> str:
        if current_task().attempt == 1:
            raise OSError("down")
        return word

    floor.does = does
    for identity, build in (("w1", "b-1"), ("w2", "b-2"), ("plain", "")):
        await sharded.worker(app, identity=identity, build=build)
    client = await sharded.registered()
    await client.register(built("one"), build="b-1")
    old = [await client.start("dead-built", {"word": "a"}) for _ in range(3)]
    await client.register(built("two"), build="b-2")
    new = [await client.start("dead-built", {"word": "b"}) for _ in range(3)]
    for run in (*old, *new):
        await run.post(go, "on")
    for runs, result, worker, build in ((old, "one a", "w1", "b-1"), (new, "two b", "w2", "b-2")):
        for run in runs:
            assert await run.result(10) == result
            ends = await told(run, "task-failed", "task-completed")
            assert [(each["worker"], each["build"]) for each in ends] == [(worker, build)] * 2


async def test_the_handler_of_a_build_is_told_when_its_run_is_cancelled(engine: Engine, until: Until) -> None:
    async def does(word: str) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            floor.done.append("cancelled")
        return "never"

    floor.does = does
    client = await engine.registered()
    await client.register(dead_pay, build="b-1")
    await engine.worker(app, build="b-1")
    run = await client.start(dead_pay, {"word": "a"})
    await until(lambda: floor.done == ["pay a 1"], "the handler runs")
    await run.cancel()
    await until(lambda: floor.done == ["pay a 1", "cancelled"], "the handler is cancelled")


async def test_a_limit_counts_across_builds(engine: Engine, until: Until) -> None:
    client = await engine.registered()
    await client.register(dead_single, build="b-1")
    await engine.worker(app, build="b-1")
    await engine.worker(app, build="b-2")
    first = await client.start(dead_single, {"word": "first"})
    await until(lambda: floor.done == ["single first"], "it has the permit")
    registered = await client.register(dead_single, build="b-2")
    assert registered.label == "1.1"
    second = await client.start(dead_single, {"word": "second"})

    async def one_waits() -> bool:
        return (await client.task_limit("single")).waiting == 1

    await until(one_waits, "the other one waits for its turn")
    assert floor.done == ["single first"]
    floor.gate.set()
    assert [await first.result(10), await second.result(10)] == ["first", "second"]
