"""Stop, resume and cancel, as the issue asks for them: of runs and threads, for several reasons, cascading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunCancelled, RunHandle
from dressage.flow import App, Event, Exponential, Saga, UserTask, gather, sleep, workflow
from dressage.protocol.errors import Refused
from dressage.protocol.events import decode_data

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

app = App("issue-stopping")
called = Event("called", of=str)
freed = Event("freed")


@dataclass
class Yes:
    yes: bool


agree = UserTask("agree", form=Yes)


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


@app.task
async def slow(name: str) -> str:
    floor.done.append(name)
    await floor.gate.wait()
    return name


@app.task(retries=3, backoff=Exponential(base=timedelta(milliseconds=50), limit=timedelta(milliseconds=50)))
async def shaky(name: str) -> str:
    floor.done.append(name)
    await floor.gate.wait()
    if floor.done.count(name) == 1:
        raise OSError("down")
    return name


@workflow
async def issue_slow(name: str) -> str:
    first = await slow(name)
    second = await step(f"behind {name}")
    return f"{first}, {second}"


@workflow
async def issue_shaky() -> str:
    return await shaky("shaky")


@workflow
async def issue_two_calls() -> list[str]:
    first = await called.wait()
    second = await called.wait()
    return [first, second]


@workflow
async def issue_impatient() -> str:
    try:
        return await called.wait(timeout=timedelta(milliseconds=200))
    except TimeoutError:
        return "too late"


@workflow
async def issue_agreed() -> bool:
    return (await agree.assign(user="ann")).yes


@workflow
async def issue_sides() -> list[str]:
    async def side(name: str) -> str:
        await freed.wait()
        return await step(name)

    first, second = await gather(side("left"), side("right"))
    return [first, second]


@workflow
async def issue_leaf(name: str) -> str:
    try:
        return await called.wait()
    finally:
        await step(f"tidied {name}")


@workflow
async def issue_root() -> str:
    async with Saga() as saga:
        saga.undo(step, "undone")
        got = await issue_leaf("leaf")
        return f"root {got}"


@workflow
async def issue_stubborn() -> str:
    try:
        await called.wait()
    finally:
        await sleep(timedelta(days=300))
    return ""


async def begin(engine: Engine, definition: object) -> tuple[Client, RunHandle[object]]:
    client = await engine.registered(definition)  # type: ignore[arg-type]
    return client, await client.start(definition, {})  # type: ignore[call-overload]


async def test_nothing_of_a_stopped_run_goes_on_and_what_came_counts_in_its_order(engine: Engine) -> None:
    client, run = await begin(engine, issue_two_calls)
    await client.stop(run.run_id, "broken")
    await run.post(called, "first")
    await run.post(called, "second")
    view = await run.state()
    assert view.status == "running"
    assert [(stop.by, stop.reason, stop.actor) for stop in view.stops] == [("somebody", "broken", "tester")]
    await client.resume(run.run_id)
    assert await run.result(10) == ["first", "second"]
    kinds = [event.kind async for event in run.history()]
    assert kinds.index("run-resumed") < kinds.index("run-completed")
    stopped = kinds[kinds.index("run-stopped") : kinds.index("run-resumed")]
    assert "variable-changed" not in stopped  # the first event is claimed, and nothing is done with it
    assert "event-awaited" not in stopped


async def test_an_attempt_in_flight_is_kept_and_executed_once(sharded: Engine, until: Until) -> None:
    await sharded.worker(app)
    client = await sharded.registered(issue_slow)
    run = await client.start(issue_slow, {"name": "a"})
    await until(lambda: floor.done == ["a"], "the attempt has begun")
    await client.stop(run.run_id)
    floor.gate.set()
    other = await client.start(issue_slow, {"name": "b"})
    assert await other.result(10) == "b, behind b"
    assert "behind a" not in floor.done
    await client.resume(run.run_id)
    assert await run.result(10) == "a, behind a"
    assert sorted(floor.done) == ["a", "b", "behind a", "behind b"]


async def test_no_attempt_is_made_again_before_the_run_is_resumed(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client, run = await begin(engine, issue_shaky)
    await until(lambda: floor.done == ["shaky"], "the attempt has begun")
    await client.stop(run.run_id)
    floor.gate.set()
    _, other = await begin(engine, issue_impatient)
    assert await other.result(10) == "too late"  # it takes longer than the backoff
    assert floor.done == ["shaky"]
    await client.resume(run.run_id)
    assert await run.result(10) == "shaky"
    assert floor.done == ["shaky", "shaky"]


async def test_timers_keep_counting_while_a_run_is_stopped(engine: Engine) -> None:
    client, run = await begin(engine, issue_impatient)
    await client.stop(run.run_id)
    _, other = await begin(engine, issue_impatient)
    assert await other.result(10) == "too late"
    await run.post(called, "hello")
    await client.resume(run.run_id)
    assert await run.result(10) == "too late"


async def test_a_stopped_run_keeps_its_user_task_and_what_people_do(engine: Engine) -> None:
    client, run = await begin(engine, issue_agreed)
    await client.stop(run.run_id)
    (view,) = await client.user_tasks(run.run_id)
    mine = client.user_task(run.run_id, view.id)
    await mine.comment("ann", "hm")
    await mine.complete("ann", Yes(True))
    assert (await run.state()).status == "running"
    await client.resume(run.run_id)
    assert await run.result(10) is True


async def test_to_stop_twice_is_to_stop_once_and_resuming_what_goes_on_is_no_error(engine: Engine) -> None:
    client, run = await begin(engine, issue_two_calls)
    await client.resume(run.run_id)
    await client.stop(run.run_id, "one")
    await client.stop(run.run_id, "two")
    assert len((await run.state()).stops) == 1
    await client.resume(run.run_id)
    assert (await run.state()).stops == ()
    kinds = [event.kind async for event in run.history()]
    assert kinds.count("run-stopped") == kinds.count("run-resumed") == 1


async def test_one_thread_is_stopped_while_others_go_on(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, issue_sides)
    threads = [event async for event in run.history() if event.kind == "branch-started"]
    assert len(threads) == 2
    left = next(each.thread for each in map(decode_data, threads) if each.branch == 0)  # type: ignore[union-attr]
    await client.stop(run.run_id, "only left", thread=left)
    await run.post(freed)
    await run.post(freed)
    ended = await run.wait_for_event("branch-ended", timeout_s=10)
    assert decode_data(ended).branch == 1  # type: ignore[union-attr]
    assert floor.done == ["right"]
    await client.resume(run.run_id, thread=left)
    assert await run.result(10) == ["left", "right"]


async def test_a_thread_that_is_stopped_as_itself_and_with_its_run_waits_for_both(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, issue_sides)
    threads = [decode_data(event) async for event in run.history() if event.kind == "branch-started"]
    left = next(each.thread for each in threads if each.branch == 0)  # type: ignore[union-attr]
    await client.stop(run.run_id, "left", thread=left)
    await client.stop(run.run_id, "all")
    assert len((await run.state()).stops) == 2
    await run.post(freed)
    await run.post(freed)
    await client.resume(run.run_id)
    await run.wait_for_event("branch-ended", timeout_s=10)
    assert floor.done == ["right"]
    await client.resume(run.run_id, thread=left)
    assert await run.result(10) == ["left", "right"]


async def test_an_unknown_thread_an_unknown_run_and_one_that_has_ended_are_refused(engine: Engine) -> None:
    client, run = await begin(engine, issue_two_calls)
    codes = []
    for what in (client.stop(run.run_id, thread=77), client.stop("nobody"), client.resume("nobody")):
        with pytest.raises(Refused) as refused:
            await what
        codes.append(refused.value.code)
    assert codes == ["THREAD_UNKNOWN", "RUN_UNKNOWN", "RUN_UNKNOWN"]
    await run.cancel()
    await client.wait(run.run_id, timeout_s=10)
    with pytest.raises(Refused) as refused:
        await client.stop(run.run_id)
    assert refused.value.code == "RUN_FINISHED"


async def child_of(client: Client, run_id: str) -> str:
    event = await client.wait_for_event(run_id, "child-started", timeout_s=10)
    return decode_data(event).run_id  # type: ignore[union-attr]


async def test_a_stop_cascades_to_children_which_wait_for_both_reasons(sharded: Engine, until: Until) -> None:
    await sharded.worker(app)
    client, run = await begin(sharded, issue_root)
    child = await child_of(client, run.run_id)
    await client.stop(child, "the child alone")
    await client.stop(run.run_id, "all of it")

    async def both() -> bool:
        return sorted(stop.by for stop in (await client.get(child)).stops) == ["parent", "somebody"]

    await until(both, "the child is stopped for two reasons")
    await client.post(child, called, "x")
    await client.resume(run.run_id)

    async def one() -> bool:
        return [stop.by for stop in (await client.get(child)).stops] == ["somebody"]

    await until(one, "the parent's reason is gone")
    assert (await client.get(child)).status == "running"
    await client.resume(child)
    assert await run.result(10) == "root x"


async def test_a_cancel_cascades_and_is_seen_by_finally_and_by_compensation(sharded: Engine) -> None:
    await sharded.worker(app)
    client, run = await begin(sharded, issue_root)
    child = await child_of(client, run.run_id)
    await run.cancel("ordered twice")
    ended = await client.wait(run.run_id, timeout_s=10)
    assert (ended.status, ended.reason) == ("cancelled", "ordered twice")
    assert (await client.get(child)).status == "cancelled"
    assert floor.done == ["tidied leaf", "undone"]
    with pytest.raises(RunCancelled, match="ordered twice"):
        await run.result(10)


async def test_cancel_at_once_runs_nothing_and_leaves_no_child_open(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client, run = await begin(engine, issue_root)
    child = await child_of(client, run.run_id)
    await client.cancel(run.run_id, "now", at_once=True)
    assert (await client.wait(run.run_id, timeout_s=10)).status == "cancelled"

    async def child_has_ended() -> bool:
        return (await client.get(child)).status == "cancelled"

    await until(child_has_ended, "the child has ended")
    assert "undone" not in floor.done


async def test_a_run_that_tidies_up_says_so_and_can_still_be_ended_at_once(engine: Engine) -> None:
    client, run = await begin(engine, issue_stubborn)
    await run.cancel("enough")
    view = await run.state()
    assert (view.status, view.cancelling, view.reason) == ("running", True, "enough")
    await run.cancel("again")
    assert (await run.state()).reason == "enough"
    await client.cancel(run.run_id, "now", at_once=True)
    assert (await client.wait(run.run_id, timeout_s=10)).status == "cancelled"


async def test_to_cancel_a_stopped_run_resumes_it_and_it_tidies_up(engine: Engine) -> None:
    await engine.worker(app)
    client, run = await begin(engine, issue_root)
    child = await child_of(client, run.run_id)
    await client.stop(run.run_id)
    await run.cancel("enough")
    assert (await client.wait(run.run_id, timeout_s=10)).status == "cancelled"
    assert (await client.get(child)).status == "cancelled"
    assert floor.done == ["tidied leaf", "undone"]


async def test_a_stop_survives_the_engine(engine: Engine) -> None:
    client, run = await begin(engine, issue_two_calls)
    await client.stop(run.run_id, "repair")
    await engine.down()
    await engine.up()
    await run.post(called, "a")
    await run.post(called, "b")
    view = await run.state()
    assert view.status == "running"
    assert [stop.reason for stop in view.stops] == ["repair"]
    await client.resume(run.run_id)
    assert await run.result(10) == ["a", "b"]


async def test_any_language_stops_resumes_and_cancels(engine: Engine) -> None:
    client, run = await begin(engine, issue_two_calls)
    assert (await engine.call("stop", {"run_id": run.run_id, "reason": "lunch", "actor": "eve"}))["ok"]
    got = await engine.call("get", {"run_id": run.run_id})
    assert [(each["reason"], each["actor"]) for each in got["run"]["stops"]] == [("lunch", "eve")]
    assert (await engine.call("resume", {"run_id": run.run_id}))["ok"]
    assert (await engine.call("cancel", {"run_id": run.run_id, "reason": "over"}))["ok"]
    assert (await client.wait(run.run_id, timeout_s=10)).reason == "over"


async def test_the_command_line_stops_resumes_and_cancels(engine: Engine, start: Start) -> None:
    client = await engine.registered(issue_two_calls)
    run = await client.start(issue_two_calls, {}, run_id="cli-stop")

    async def dressage(*arguments: str) -> str:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        said: str = program.said
        return said

    await dressage("run", "stop", run.run_id, "--reason", "the provider is down")
    assert "the provider is down" in await dressage("run", "get", run.run_id)
    await dressage("run", "resume", run.run_id)
    assert (await run.state()).stops == ()
    await dressage("run", "cancel", run.run_id, "--reason", "ordered twice")
    assert (await client.wait(run.run_id, timeout_s=10)).reason == "ordered twice"
