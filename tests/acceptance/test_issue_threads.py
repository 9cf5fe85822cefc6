"""Stop, resume and cancel of one run thread and of what hangs on it, as the issue asks for them; moving many runs."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunHandle
from dressage.client.finding import query
from dressage.flow import (
    App,
    BranchCancelled,
    Event,
    Exponential,
    Saga,
    UserTask,
    Workflow,
    first_completed,
    gather,
    interruptible,
    sleep,
    workflow,
)
from dressage.protocol.errors import DressageError

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Dressage = Callable[..., Awaitable[tuple[int, str]]]

app = App("issue-threads")
one = Event("issue-threads-one", of=str)
two = Event("issue-threads-two", of=str)
three = Event("issue-threads-three", of=str)
came = Event("issue-threads-came", of=str)
MOMENT = timedelta(milliseconds=200)


@dataclass
class Yes:
    yes: bool


agree = UserTask("issue-threads-agree", form=Yes)


@dataclass
class Floor:
    done: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.gate = [], asyncio.Event()


@app.task
async def step(name: str) -> str:
    floor.done.append(name)
    return name


@app.task(retries=3, backoff=Exponential(base=timedelta(milliseconds=50), limit=timedelta(milliseconds=50)))
async def shaky(name: str) -> str:
    floor.done.append(name)
    await floor.gate.wait()
    if floor.done.count(name) == 1:
        raise OSError("down")
    return name


async def at_one() -> str:
    return await step(f"one {await one.wait()}")


async def at_two() -> str:
    return await step(f"two {await two.wait()}")


async def at_three() -> str:
    return await step(f"three {await three.wait()}")


@workflow
async def threads_two() -> list[str]:
    left, right = await gather(at_one(), at_two())
    return [left, right]


@workflow
async def threads_nested() -> list[str]:
    async def pair() -> str:
        first, second = await gather(at_one(), at_two())
        return f"{first}, {second}"

    both, last = await gather(pair(), at_three())
    return [both, last]


@workflow
async def threads_leaf(name: str) -> str:
    try:
        return f"{name} {await came.wait()}"
    finally:
        await step(f"tidied {name}")


@workflow
async def threads_children() -> list[str]:
    left, right = await gather(threads_leaf("left"), threads_leaf("right"))
    return [left, right]


@workflow
async def threads_timers(name: str) -> list[str]:
    async def impatient() -> str:
        try:
            return await one.wait(timeout=MOMENT)
        except TimeoutError:
            return "too late"

    async def sleepy() -> str:
        await sleep(MOMENT)
        return await step(f"{name} has slept")

    first, second, third = await gather(impatient(), sleepy(), at_three())
    return [first, second, third]


@workflow
async def threads_shaky() -> list[str]:
    left, right = await gather(shaky("shaky"), at_two())
    return [left, right]


@workflow
async def threads_agreed() -> list[str]:
    async def agreed() -> str:
        answer = await agree.assign(user="ann")
        return await step("agreed" if answer.yes else "refused")

    left, right = await gather(agreed(), at_two())
    return [left, right]


@workflow
async def threads_tidy() -> list[str]:
    async def tidies() -> str:
        async with Saga() as saga:
            saga.undo(step, "undone")
            try:
                return await one.wait()
            finally:
                await step("tidied")

    said: list[str] = []
    try:
        left, right = await gather(tidies(), at_two())
        said = [left, right]
    except* BranchCancelled:
        said = ["given up"]
    return said


@workflow
async def threads_race() -> str:
    async def tidies() -> str:
        try:
            return await one.wait()
        finally:
            await step("tidied the loser")

    _, won = await first_completed(tidies(), at_two())
    return won


@workflow
async def threads_interrupted() -> str:
    async def handle(word: str) -> None:
        await step(f"handled {word} {await two.wait()}")

    return await interruptible(at_one(), came.interrupts(handle))


async def begin(engine: Engine, definition: Any, given: Any = None) -> tuple[Client, RunHandle[Any]]:
    client = await engine.registered(definition)
    return client, await client.start(definition, given or {})


async def threads_of(run: RunHandle[Any]) -> dict[tuple[int, int], int]:
    """The run threads by the thread that has started them (0: the run itself) and their place there."""
    found: dict[tuple[int, int], int] = {}
    async for event in run.history():
        if event.kind == "branch-started":
            data = json.loads(bytes(event.data))
            found[data.get("parent", 0), data.get("branch", 0)] = data["thread"]
    return found


async def left_of(run: RunHandle[Any]) -> int:
    return (await threads_of(run))[0, 0]


async def right_of(run: RunHandle[Any]) -> int:
    return (await threads_of(run))[0, 1]


async def ended_branches(run: RunHandle[Any]) -> list[int]:
    found = [json.loads(bytes(event.data)) async for event in run.history() if event.kind == "branch-ended"]
    return [each["thread"] for each in found]


async def kinds_of(run: RunHandle[Any]) -> list[str]:
    return [event.kind async for event in run.history()]


async def child_runs(run: RunHandle[Any]) -> list[str]:
    return [
        json.loads(bytes(event.data))["run_id"]
        async for event in run.history()
        if event.kind == "child-started"
    ]


async def refusal(action: Awaitable[Any]) -> DressageError:
    with pytest.raises(DressageError) as refused:
        await action
    return refused.value


@pytest.fixture
def dressage(engine: Engine, start: Start) -> Dressage:
    """The command line: what it exits with, and what it says."""

    async def run(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    return run


# -- one thread ----------------------------------------------------------------------------------------------------
async def test_the_command_line_stops_one_thread_for_a_reason_and_lets_it_go_on(
    engine: Engine, dressage: Dressage
) -> None:
    await engine.worker(app)
    _, run = await begin(engine, threads_two)
    code, told = await dressage("run", "history", run.run_id, "--json")
    assert code == 0, told
    started = [json.loads(line) for line in told.splitlines() if "branch-started" in line]
    assert len(started) == 2
    left = str(await left_of(run))
    code, said = await dressage(
        *("run", "stop", run.run_id, "--thread", left, "--reason", "only this supplier", "--actor", "eve")
    )
    assert code == 0, said
    shown = (await dressage("run", "get", run.run_id))[1]
    assert "only this supplier" in shown
    assert "eve" in shown
    await run.post(one, "a")
    await run.post(two, "b")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert await ended_branches(run) == [await right_of(run)]
    assert (await kinds_of(run)).count("task-scheduled") == 1
    code, said = await dressage("run", "resume", run.run_id, "--thread", left)
    assert code == 0, said
    assert await run.result(10) == ["one a", "two b"]


async def test_what_a_stopped_thread_has_started_is_stopped_with_it(sharded: Engine) -> None:
    await sharded.worker(app)
    client, run = await begin(sharded, threads_nested)
    pair = await left_of(run)
    await client.stop(run.run_id, "the pair", thread=pair)
    for event in (one, two, three):
        await run.post(event, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert await ended_branches(run) == [await right_of(run)]
    assert (await kinds_of(run)).count("task-scheduled") == 1
    await client.resume(run.run_id, thread=pair)
    assert await run.result(10) == ["one x, two x", "three x"]


async def test_a_thread_and_the_one_above_it_are_stopped_for_reasons_of_their_own(sharded: Engine) -> None:
    await sharded.worker(app)
    client, run = await begin(sharded, threads_nested)
    threads = await threads_of(run)
    pair = threads[0, 0]
    inner = threads[pair, 0]
    await client.stop(run.run_id, "inner", thread=inner)
    await client.stop(run.run_id, "pair", thread=pair)
    await client.stop(run.run_id, "all of it")
    assert {stop.reason for stop in (await run.state()).stops} == {"inner", "pair", "all of it"}
    for event in (one, two, three):
        await run.post(event, "x")
    assert "task-scheduled" not in await kinds_of(run)
    await client.resume(run.run_id)
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert await ended_branches(run) == [threads[0, 1]]
    await client.resume(run.run_id, thread=pair)
    await client.wait_for_event(run.run_id, lambda event: count_ended(event, threads[pair, 1]), timeout_s=10)
    assert "one x" not in floor.done
    assert {stop.reason for stop in (await run.state()).stops} == {"inner"}
    await client.resume(run.run_id, thread=inner)
    assert await run.result(10) == ["one x, two x", "three x"]


def count_ended(event: Any, thread: int) -> bool:
    return event.kind == "branch-ended" and bool(json.loads(bytes(event.data))["thread"] == thread)


async def test_a_stop_of_a_thread_reaches_its_child_run_and_no_other(sharded: Engine, until: Until) -> None:
    await sharded.worker(app)
    client = await sharded.registered(threads_leaf, threads_children)
    run = await client.start(threads_children)
    first, second = await child_runs(run)
    await client.stop(run.run_id, "left alone", thread=await left_of(run))

    async def stopped() -> list[list[str]]:
        return [[stop.by for stop in (await client.get(each)).stops] for each in (first, second)]

    async def one_is_stopped() -> bool:
        return sorted(await stopped()) == [[], ["parent"]]

    await until(one_is_stopped, "the child run of the thread is stopped")
    by = await stopped()
    halted, free = (first, second) if by[0] else (second, first)
    assert [stop.reason for stop in (await client.get(halted)).stops] == ["left alone"]
    await client.stop(halted, "for another reason")
    for child in (halted, free):
        await client.post(child, came, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert await ended_branches(run) == [await right_of(run)]
    await client.resume(run.run_id, thread=await left_of(run))

    async def parents_reason_is_gone() -> bool:
        return [stop.by for stop in (await client.get(halted)).stops] == ["somebody"]

    await until(parents_reason_is_gone, "the parent's reason is gone")
    assert floor.done == ["tidied right"]
    await client.resume(halted)
    assert await run.result(10) == ["left x", "right x"]


async def test_timers_of_a_stopped_thread_keep_counting(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_timers, {"name": "stopped"})
    threads = await threads_of(run)
    for branch in (0, 1):
        await client.stop(run.run_id, f"branch {branch}", thread=threads[0, branch])
    assert len((await run.state()).stops) == 2
    other = await client.start(threads_timers, {"name": "other"})
    await other.post(three, "x")
    assert (await other.result(10))[0] == "too late"
    await run.post(one, "a letter")
    await run.post(three, "goes on")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert await ended_branches(run) == [threads[0, 2]]
    assert "stopped has slept" not in floor.done
    for branch in (0, 1):
        await client.resume(run.run_id, thread=threads[0, branch])
    assert await run.result(10) == ["too late", "stopped has slept", "three goes on"]


async def test_an_event_in_time_counts_although_its_thread_goes_on_later(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_two)
    left = await left_of(run)
    await client.stop(run.run_id, thread=left)
    await run.post(one, "first")
    await run.post(one, "second")
    await client.resume(run.run_id, thread=left)
    await run.post(two, "x")
    assert await run.result(10) == ["one first", "two x"]


async def test_an_attempt_of_a_stopped_thread_is_kept_and_none_is_made_again(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_shaky)
    await until(lambda: floor.done == ["shaky"], "the attempt has begun")
    left = await left_of(run)
    await client.stop(run.run_id, "no more", thread=left)
    floor.gate.set()
    await client.register(threads_timers)
    marker = await client.start(threads_timers, {"name": "marker"})
    await marker.post(three, "x")
    await marker.result(10)  # which takes longer than the backoff
    await run.post(two, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done.count("shaky") == 1
    await client.resume(run.run_id, thread=left)
    assert await run.result(10) == ["shaky", "two x"]
    assert floor.done.count("shaky") == 2


async def test_a_user_task_of_a_stopped_thread_is_kept_and_done_meanwhile(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_agreed)
    left = await left_of(run)
    await client.stop(run.run_id, thread=left)
    (view,) = await client.user_tasks(run.run_id)
    await client.user_task(run.run_id, view.id).complete("ann", Yes(True))
    assert await client.user_tasks(run.run_id) == []
    await run.post(two, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done == ["two x"]
    await client.resume(run.run_id, thread=left)
    assert await run.result(10) == ["agreed", "two x"]


async def test_a_race_waits_for_a_stopped_branch_and_the_loser_is_cancelled_when_it_goes_on(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_race)
    loser = await left_of(run)
    await client.stop(run.run_id, thread=loser)
    await run.post(two, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert (await run.state()).status == "running"
    assert "tidied the loser" not in floor.done
    await client.resume(run.run_id, thread=loser)
    assert await run.result(10) == "two x"
    assert floor.done == ["two x", "tidied the loser"]


async def test_a_handler_that_interrupts_is_stopped_alone_and_what_came_waits_for_both(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_interrupted)
    await run.post(came, "a")
    begun = await run.wait_for_event("interrupt-started", timeout_s=10)
    handler = json.loads(bytes(begun.data))["thread"]
    await client.stop(run.run_id, "the handler", thread=handler)
    await run.post(two, "b")
    await run.post(one, "c")
    assert "task-scheduled" not in await kinds_of(run)
    await client.resume(run.run_id, thread=handler)
    assert await run.result(10) == "one c"
    assert floor.done == ["handled a b", "one c"]


async def test_to_stop_a_thread_twice_is_to_stop_it_once_and_the_first_reason_stays(engine: Engine) -> None:
    client, run = await begin(engine, threads_two)
    left = await left_of(run)
    await client.resume(run.run_id, thread=left)
    await client.stop(run.run_id, "first", thread=left)
    await client.stop(run.run_id, "second", thread=left)
    assert [stop.reason for stop in (await run.state()).stops] == ["first"]
    await client.resume(run.run_id)  # another reason, which there is not
    assert [stop.reason for stop in (await run.state()).stops] == ["first"]
    await client.resume(run.run_id, thread=left)
    await client.resume(run.run_id, thread=left)
    assert (await run.state()).stops == ()


async def test_a_thread_that_has_ended_or_never_was_is_refused_and_those_that_there_are_are_named(
    engine: Engine, dressage: Dressage
) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_two)
    left, right = await left_of(run), await right_of(run)
    await run.post(two, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    for thread in (right, 99):
        for action in (client.stop(run.run_id, thread=thread), client.cancel(run.run_id, thread=thread)):
            refused = await refusal(action)
            assert refused.code == "THREAD_UNKNOWN"
            assert refused.message.endswith(f"it has 0, {left}")
    code, said = await dressage("run", "stop", run.run_id, "--thread", "99")
    assert (code, "THREAD_UNKNOWN" in said) == (1, True), said
    assert (await refusal(client.stop(run.run_id, "x" * 4097, thread=left))).code == "REASON_TOO_LONG"
    answer = await engine.call(
        "stop", {"run_id": run.run_id, "thread": left, "reason": "lunch", "actor": "eve"}
    )
    assert answer["ok"], answer
    got = await engine.call("get", {"run_id": run.run_id})
    assert [(each["reason"], each["actor"]) for each in got["run"]["stops"]] == [("lunch", "eve")]


async def test_reasons_of_threads_survive_a_killed_orchestrator(scraped: Scraped) -> None:
    engine = scraped.engine
    client, run = await begin(engine, threads_two)
    left = await left_of(run)
    await client.stop(run.run_id, "left", thread=left)
    await client.stop(run.run_id, "all")
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    await engine.up()
    await engine.worker(app)
    await run.post(one, "a")
    await run.post(two, "b")
    assert {stop.reason for stop in (await run.state()).stops} == {"left", "all"}
    await client.resume(run.run_id)
    await run.wait_for_event("branch-ended", timeout_s=15)
    assert floor.done == ["two b"]
    await client.resume(run.run_id, thread=left)
    assert await run.result(15) == ["one a", "two b"]


async def test_sql_lists_threads_that_are_stopped(
    engine: Engine, start: Start, tmp_path: Path, until: Until
) -> None:
    client, run = await begin(engine, threads_two)
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("analytics", "--db", str(tmp_path / "a.duckdb"), *place)
    left = await left_of(run)
    await client.stop(run.run_id, "only left", thread=left)
    sql = "SELECT run_id, thread, actor, reason FROM stopped_runs"
    found: list[tuple[Any, ...]] = []

    async def look() -> list[tuple[Any, ...]]:
        assert program.process.poll() is None, program.said
        try:
            return [tuple(row) for row in (await query(client.connection, engine.names, sql)).rows]
        except DressageError:
            return [("not yet",)]

    async def listed() -> bool:
        found[:] = await look()
        return found == [(run.run_id, left, "tester", "only left")]

    await until(listed, "the thread is listed", timeout_s=20)
    await client.resume(run.run_id, thread=left)

    async def gone() -> bool:
        return await look() == []

    await until(gone, "it is listed no more", timeout_s=20)


# -- cancelling ----------------------------------------------------------------------------------------------------
async def test_a_stopped_thread_that_is_cancelled_tidies_up_and_the_others_go_on(
    sharded: Engine, until: Until
) -> None:
    await sharded.worker(app)
    client, run = await begin(sharded, threads_tidy)
    left = await left_of(run)
    await client.stop(run.run_id, "look at it", thread=left)
    await client.cancel(run.run_id, "not this one", thread=left)
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done == ["tidied", "undone"]
    view = await run.state()
    assert (view.status, view.stops) == ("running", ())
    await run.post(two, "x")
    assert await run.result(10) == ["given up"]
    assert floor.done == ["tidied", "undone", "two x"]


async def test_a_thread_that_is_cancelled_in_a_stopped_run_tidies_up_when_that_goes_on(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_tidy)
    left = await left_of(run)
    await client.stop(run.run_id, "all of it")
    await client.cancel(run.run_id, "not this one", thread=left)
    assert [stop.reason for stop in (await run.state()).stops] == ["all of it"]
    assert "task-scheduled" not in await kinds_of(run)
    await client.resume(run.run_id)
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done == ["tidied", "undone"]
    await run.post(two, "x")
    assert await run.result(10) == ["given up"]


async def test_a_cancelled_thread_lifts_every_stop_of_its_child_run_which_tidies_up(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(threads_leaf, threads_children)
    run = await client.start(threads_children)
    left = await left_of(run)
    await client.stop(run.run_id, "left alone", thread=left)

    async def stopped() -> list[str]:
        return [child for child in await child_runs(run) if (await client.get(child)).stops]

    async def one_is_stopped() -> bool:
        return len(await stopped()) == 1

    await until(one_is_stopped, "the child run of the thread is stopped")
    (child,) = await stopped()
    await client.stop(child, "for another reason")
    await client.cancel(run.run_id, "not this one", thread=left)
    view = await client.wait(child, timeout_s=10)
    assert (view.status, view.stops) == ("cancelled", ())
    assert floor.done == ["tidied left"]
    assert (await run.state()).status == "running"
    (other,) = [each for each in await child_runs(run) if each != child]
    await client.post(other, came, "x")
    ended = await client.wait(run.run_id, timeout_s=10)
    assert ended.status == "failed"  # nothing takes the failure of its gather
    assert ended.failure is not None
    assert [cause.name for cause in ended.failure.causes] == ["branch-cancelled"]


async def test_a_run_with_stopped_threads_that_is_cancelled_tidies_up_all_of_it(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(threads_leaf, threads_children)
    run = await client.start(threads_children)
    await client.stop(run.run_id, "left", thread=await left_of(run))
    await client.stop(run.run_id, "all")
    children = await child_runs(run)
    await client.stop(children[0], "and this one")
    await run.cancel("over")
    view = await client.wait(run.run_id, timeout_s=10)
    assert (view.status, view.reason, view.stops) == ("cancelled", "over", ())
    assert [(await client.get(child)).status for child in children] == ["cancelled"] * 2
    assert sorted(floor.done) == ["tidied left", "tidied right"]


async def test_a_run_with_a_stopped_thread_ends_at_once_where_that_is_asked_for(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, threads_tidy)
    await client.stop(run.run_id, "left", thread=await left_of(run))
    await client.cancel(run.run_id, "now", at_once=True)
    assert (await client.wait(run.run_id, timeout_s=10)).status == "cancelled"
    assert floor.done == []
    assert (await refusal(client.resume(run.run_id, thread=1))).code == "RUN_FINISHED"


# -- moving runs ---------------------------------------------------------------------------------------------------
def before() -> Workflow[..., Any]:
    @workflow(name="threads-move")
    async def move(member: str) -> str:
        first = await one.wait()
        answer = await agree.assign(user=member)
        last = await two.wait()
        return f"old {first} {answer.yes} {last}"

    return move


def after() -> Workflow[..., Any]:
    @workflow(name="threads-move")
    async def move(member: str) -> str:
        greeting = f"dear {member}"
        await step(greeting)
        first = await one.wait()
        last = await two.wait()
        return f"new {first} {last}"

    return move


def line_of(made: Callable[[], object], text: str) -> int:
    lines, begins = inspect.getsourcelines(made)
    return begins + next(number for number, line in enumerate(lines) if text in line)


async def test_a_plan_is_proposed_from_source_lines_and_a_dry_run_says_who_cannot_move_and_why(
    engine: Engine, dressage: Dressage
) -> None:
    client = await engine.registered(before(), after())
    for name in ("at-one", "at-agree", "at-two", "over", "tidy"):
        await client.start("threads-move@1", {"member": "ann"}, run_id=name)
    for name in ("at-agree", "at-two"):
        await client.post(name, one, "x")
    (view,) = await client.user_tasks("at-two")
    await client.user_task("at-two", view.id).complete("ann", Yes(True))
    await client.cancel("over", at_once=True)
    code, said = await dressage("migrate", "plan", "threads-move@1", "2", "--json")
    assert code == 0, said
    steps = json.loads(said.splitlines()[-1])["steps"]
    assert [(each["line"], each.get("line_after") or None) for each in steps] == [
        (line_of(before, "one.wait"), line_of(after, "one.wait")),
        (line_of(before, "agree.assign"), None),
        (line_of(before, "two.wait"), line_of(after, "two.wait")),
    ]
    runs = ("at-one", "at-agree", "at-two", "over", "nobody")
    code, said = await dressage("migrate", "check", "threads-move@1", "2", *runs)
    assert code == 1, said
    why = {line.split(":")[0]: line for line in said.splitlines() if line.split(":")[0] in runs}
    assert set(why) >= {"at-agree", "over", "nobody"}, said
    assert str(line_of(before, "agree.assign")) in why["at-agree"], said
    for name in runs[:4]:
        assert (await client.get(name)).version == 1
        assert "run-migrated" not in await kinds_of(client.handle(name))
    code, said = await dressage("migrate", "apply", "threads-move@1", "2", *runs)
    assert code == 1, said
    assert [(await client.get(name)).version for name in runs[:4]] == [2, 1, 2, 1]
    pair = f"{line_of(before, 'agree.assign')}:{line_of(after, 'two.wait')}"
    code, said = await dressage(
        "migrate", "apply", "threads-move@1", "2", "at-agree", "at-one", "--map", pair
    )
    assert code == 0, said
    assert (await client.get("at-agree")).version == 2
    assert await client.user_tasks("at-agree") == []
    kinds = await kinds_of(client.handle("at-agree"))
    assert "user-task-cancelled" in kinds
    await client.post("at-one", one, "y")
    for name in ("at-one", "at-agree", "at-two"):
        await client.post(name, two, "z")
    results = [await client.handle(name).result(10) for name in ("at-one", "at-agree", "at-two")]
    assert results == ["new y z", "new x z", "new x z"]
    assert (await kinds_of(client.handle("at-one"))).count("run-migrated") == 1


async def test_moving_many_is_killed_in_the_middle_and_started_again_and_moves_each_once(
    engine: Engine, start: Start, until: Until
) -> None:
    client = await engine.registered(before(), after())
    names = [f"many-{number}" for number in range(150)]
    await asyncio.gather(*(client.start("threads-move@1", {"member": "x"}, run_id=name) for name in names))
    line = ("migrate", "apply", "threads-move@1", "2", *names)
    place = ("--server", engine.url, "--namespace", engine.namespace)
    killed = start(*line, *place)

    async def some_have_moved() -> bool:
        return (await client.get(names[0])).version == 2

    await until(some_have_moved, "the first has moved", timeout_s=30)
    killed.process.kill()
    await asyncio.to_thread(killed.process.wait)
    again = start(*line, *place)
    assert await asyncio.to_thread(again.ended) == 0, again.said
    assert [(await client.get(name)).version for name in names] == [2] * len(names)
    for name in names:
        assert (await kinds_of(client.handle(name))).count("run-migrated") == 1
        await client.post(name, one, "a")
        await client.post(name, two, "b")
    results = await asyncio.gather(*(client.handle(name).result(20) for name in names))
    assert set(results) == {"new a b"}


async def test_a_run_whose_thread_is_stopped_moves_with_its_reason_and_its_threads(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(sides_before(), sides_after())
    run = await client.start("threads-sides@1", {})
    left = await left_of(run)
    await client.stop(run.run_id, "left", thread=left)
    await run.post(one, "kept")
    planned = await client.plan_migration("threads-sides@1", "threads-sides@2", values={"word": "new"})
    assert (await client.check_migration(run.run_id, planned.migration)).reasons == ()
    await client.migrate(run.run_id, planned.migration)
    assert [stop.reason for stop in (await run.state()).stops] == ["left"]
    await run.post(two, "x")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done == ["two x"]
    await client.resume(run.run_id, thread=left)
    assert await run.result(10) == "new one kept, two x"


def sides_before() -> Workflow[..., Any]:
    @workflow(name="threads-sides")
    async def sides() -> str:
        left, right = await gather(at_one(), at_two())
        return f"old {left}, {right}"

    return sides


def sides_after() -> Workflow[..., Any]:
    @workflow(name="threads-sides")
    async def sides() -> str:
        word = "new"
        left, right = await gather(at_one(), at_two())
        return f"{word} {left}, {right}"

    return sides


def asks_before() -> Workflow[..., Any]:
    @workflow(name="threads-asks")
    async def asks() -> str:
        async def agreed() -> str:
            await agree.assign(user="ann")
            return await step(f"one {await one.wait()}")

        left, right = await gather(agreed(), at_two())
        return f"old {left}, {right}"

    return asks


def asks_after() -> Workflow[..., Any]:
    @workflow(name="threads-asks")
    async def asks() -> str:
        async def agreed() -> str:
            return await step(f"one {await one.wait()}")

        left, right = await gather(agreed(), at_two())
        return f"new {left}, {right}"

    return asks


async def test_a_stopped_thread_that_begins_at_another_step_gives_up_its_user_task_and_stays_stopped(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client = await engine.registered(asks_before(), asks_after())
    run = await client.start("threads-asks@1", {})
    left = await left_of(run)
    await client.stop(run.run_id, "left", thread=left)
    lines = {line_of(asks_before, "agree.assign"): line_of(asks_after, "one.wait")}
    planned = await client.plan_migration("threads-asks@1", "threads-asks@2", lines=lines)
    await client.migrate(run.run_id, planned.migration)
    assert await client.user_tasks(run.run_id) == []
    await run.post(one, "a")
    await run.post(two, "b")
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done == ["two b"]
    assert [stop.reason for stop in (await run.state()).stops] == ["left"]
    await client.resume(run.run_id, thread=left)
    assert await run.result(10) == "new one a, two b"
