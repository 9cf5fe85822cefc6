"""Interrupts, as the issue asks for them: a handler while the main thread pauses, several in order, one that fails,
and work in flight that is neither lost nor doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import RunFailed
from dressage.flow import App, Event, UserTask, WorkflowFailure, interruptible, sleep, workflow

Until = Callable[..., Awaitable[None]]

app = App("issue-interrupts")
moved = Event("moved", of=str)
recalled = Event("recalled", of=str)
released = Event("released")
stopped = Event("stopped")


class Recalled(WorkflowFailure):
    why: str = ""


@dataclass
class Verdict:
    fine: bool


inspect = UserTask("inspect", form=Verdict)


@dataclass
class Floor:
    """What the tasks of one test have done, and what holds them."""

    done: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.gate = [], asyncio.Event()


@app.task
async def pick(parcel: str) -> str:
    floor.done.append(f"pick {parcel}")
    await floor.gate.wait()
    return f"picked {parcel}"


@app.task
async def ship(parcel: str) -> str:
    floor.done.append(f"ship {parcel}")
    return f"shipped {parcel}"


@app.task
async def note(text: str) -> None:
    floor.done.append(text)


@dataclass
class View:
    city: str = ""


@workflow
async def issue_carry(parcel: str) -> str:
    view = View()

    async def body() -> str:
        first = await pick(parcel)
        second = await ship(parcel)
        return f"{first}, {second} to {view.city}"

    async def follow(city: str) -> None:
        view.city = city
        await released.wait()
        await note(f"now {city}")

    return await interruptible(body(), moved.interrupts(follow))


@workflow
async def issue_two_handlers() -> str:
    view = View()

    async def body() -> str:
        await stopped.wait()
        return view.city

    async def follow(city: str) -> None:
        await released.wait()
        view.city = view.city + f" moved:{city}"

    async def recall(why: str) -> None:
        view.city = view.city + f" recalled:{why}"

    return await interruptible(body(), moved.interrupts(follow), recalled.interrupts(recall))


@workflow
async def issue_recall(parcel: str, saved: bool) -> str:
    async def body() -> str:
        try:
            return await pick(parcel)
        finally:
            await note(f"put {parcel} back")

    async def recall(why: str) -> None:
        raise Recalled("it is called back", why=why)

    try:
        return await interruptible(body(), recalled.interrupts(recall))
    except Recalled as failure:
        if saved:
            return f"saved: {failure.why}"
        raise


@workflow
async def issue_keyed(number: str) -> str:
    view = View("home")

    async def body() -> str:
        await stopped.wait()
        return view.city

    async def follow(city: str) -> None:
        view.city = city

    return await interruptible(body(), moved.interrupts(follow, key=number))


@workflow
async def issue_inspected() -> str:
    view = View()

    async def body() -> str:
        verdict = await inspect.assign(group="inspectors")
        return f"{verdict.fine} {view.city}"

    async def follow(city: str) -> None:
        view.city = city
        await released.wait()

    return await interruptible(body(), moved.interrupts(follow))


@workflow
async def issue_napping() -> str:
    view = View()

    async def body() -> str:
        await sleep(timedelta(milliseconds=300))
        return f"slept in {view.city}"

    async def follow(city: str) -> None:
        view.city = city
        await released.wait()

    return await interruptible(body(), moved.interrupts(follow))


async def test_the_main_thread_pauses_and_work_in_flight_is_neither_lost_nor_doubled(
    sharded: Engine, until: Until
) -> None:
    await sharded.worker(app)
    client = await sharded.registered(issue_carry)
    run = await client.start(issue_carry, {"parcel": "p"})
    await until(lambda: floor.done == ["pick p"], "the worker has the attempt")
    await run.post(moved, "Ghent")
    await run.wait_for_event("interrupt-started", timeout_s=10)
    before = (await run.state()).seq
    floor.gate.set()

    async def result_has_come() -> bool:
        return (await run.state()).seq > before

    await until(result_has_come, "the result has come")
    # A second run passes in the meantime: the body of the first has had all the time it could use.
    other = await client.start(issue_carry, {"parcel": "q"})
    assert (await other.result(10)).startswith("picked q, shipped q")
    assert "ship p" not in floor.done
    await run.post(released)
    assert await run.result(10) == "picked p, shipped p to Ghent"
    assert floor.done.count("pick p") == floor.done.count("ship p") == 1
    assert floor.done.index("now Ghent") < floor.done.index("ship p")


async def test_several_interrupts_have_their_turns_in_the_order_in_which_they_came(engine: Engine) -> None:
    client = await engine.registered(issue_two_handlers)
    run = await client.start(issue_two_handlers, {})
    await run.post(moved, "a")
    await run.post(recalled, "b")
    await run.post(moved, "c")
    await run.post(stopped)
    await run.post(released)
    await run.post(released)
    assert await run.result(10) == " moved:a recalled:b moved:c"


async def test_the_same_interrupt_posted_twice_interrupts_once(engine: Engine) -> None:
    client = await engine.registered(issue_two_handlers)
    run = await client.start(issue_two_handlers, {})
    for _ in range(3):
        await client.post(run.run_id, recalled, "b", event_id="mail-1")
    await run.post(stopped)
    assert await run.result(10) == " recalled:b"


async def test_an_interrupt_that_comes_before_its_run_counts(engine: Engine) -> None:
    client = await engine.registered(issue_two_handlers)
    posted = await client.post("issue-early", recalled, "b")
    assert posted.early
    run = await client.start(issue_two_handlers, {}, run_id="issue-early")
    await run.post(stopped)
    assert await run.result(10) == " recalled:b"


async def test_a_handler_that_fails_cancels_the_body_and_is_raised_where_it_can_be_taken(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_recall)
    run = await client.start(issue_recall, {"parcel": "p", "saved": True})
    await until(lambda: "pick p" in floor.done, "the body works")
    await run.post(recalled, "rotten")
    assert await run.result(10) == "saved: rotten"
    assert floor.done == ["pick p", "put p back"]


async def test_a_handler_that_fails_fails_the_run_by_its_name_where_nobody_takes_it(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_recall)
    run = await client.start(issue_recall, {"parcel": "p", "saved": False})
    await until(lambda: "pick p" in floor.done, "the body works")
    await run.post(recalled, "rotten")
    with pytest.raises(RunFailed) as raised:
        await run.result(10)
    assert raised.value.failure.name == "recalled"
    assert raised.value.details == {"why": "rotten"}
    assert floor.done == ["pick p", "put p back"]


async def test_an_interrupt_finds_its_run_by_a_correlation_key(sharded: Engine) -> None:
    client = await sharded.registered(issue_keyed)
    run = await client.start(issue_keyed, {"number": "o-1"})
    other = await client.start(issue_keyed, {"number": "o-2"})
    await run.wait_for_state(lambda state: "stopped" in state.waiting_for, timeout_s=10)
    await client.post_by_key(moved, "o-1", "Ghent")
    await run.wait_for_event("interrupt-ended", timeout_s=10)
    await run.post(stopped)
    await other.post(stopped)
    assert [await run.result(10), await other.result(10)] == ["Ghent", "home"]


async def test_an_interrupted_run_keeps_its_user_task_and_what_is_done_meanwhile(engine: Engine) -> None:
    client = await engine.registered(issue_inspected)
    run = await client.start(issue_inspected, {})
    (before,) = await client.user_tasks(run.run_id)
    await run.post(moved, "Ghent")
    await run.wait_for_event("interrupt-started", timeout_s=10)
    (during,) = await client.user_tasks(run.run_id)
    assert during.id == before.id
    await client.user_task(run.run_id, before.id).complete("ann", Verdict(True))
    assert (await run.state()).status == "running"
    await run.post(released)
    assert await run.result(10) == "True Ghent"


async def test_timers_go_on_while_the_body_pauses(engine: Engine) -> None:
    client = await engine.registered(issue_napping)
    run = await client.start(issue_napping, {})
    await run.post(moved, "Ghent")
    await run.wait_for_event("interrupt-started", timeout_s=10)
    other = await client.start(issue_napping, {})
    assert await other.result(10) == "slept in "  # by then the first one's time is over, too
    assert (await run.state()).status == "running"
    await run.post(released)
    assert await run.result(10) == "slept in Ghent"


async def test_an_interrupt_survives_the_engine(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_carry)
    run = await client.start(issue_carry, {"parcel": "p"})
    await until(lambda: floor.done == ["pick p"], "the worker has the attempt")
    await run.post(moved, "Ghent")
    await run.wait_for_event("interrupt-started", timeout_s=10)
    await engine.down()
    floor.gate.set()
    await engine.up()
    await run.post(released)
    assert await run.result(20) == "picked p, shipped p to Ghent"
    assert floor.done == ["pick p", "now Ghent", "ship p"]


async def test_a_cancelled_run_ends_while_it_is_interrupted(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_carry)
    run = await client.start(issue_carry, {"parcel": "p"})
    await until(lambda: floor.done == ["pick p"], "the worker has the attempt")
    await run.post(moved, "Ghent")
    await run.wait_for_event("interrupt-started", timeout_s=10)
    await run.cancel("no more")
    assert (await client.wait(run.run_id, timeout_s=10)).status == "cancelled"
    assert "ship p" not in floor.done
