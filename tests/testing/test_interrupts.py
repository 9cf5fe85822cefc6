"""Interrupts on the engine's fold and in plain Python: who pauses, who has its turn when, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from dressage.client import RunFailed
from dressage.flow import (
    App,
    Event,
    Searchable,
    TaskTimeout,
    WorkflowFailure,
    first_completed,
    gather,
    interruptible,
    sleep,
    wait_until,
    workflow,
)
from dressage.protocol.errors import DefinitionError
from dressage.testing import Run, WorkflowTest

app = App("interrupts")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

moved = Event("moved", of=str)
cancelled = Event("cancelled")
paid = Event("paid", of=int)


class GivenUp(WorkflowFailure):
    pass


class Untidy(WorkflowFailure):
    pass


@dataclass
class Parcel:
    city: Searchable[str] = "Ulm"
    log: list[str] = field(default_factory=list[str])


@app.task(retries=2)
def step(what: str) -> str:
    return what


@app.task(retries=2)
def note(what: str) -> None: ...


def calls(run: Run[Any]) -> list[str]:
    return [next(iter(call.arguments.values())) for call in run.calls]


def kinds(run: Run[Any], *some: str) -> list[str]:
    return [event.kind for event in run.events if event.kind in some]


@workflow
async def carried(hours: int) -> str:
    view = Parcel()

    async def carry() -> str:
        await sleep(timedelta(hours=hours))
        await step("load")
        try:
            await sleep(timedelta(hours=hours))
        finally:
            await note("tidied")
        return await step(view.city)

    async def follow(city: str) -> None:
        await note(f"to {city}")
        await sleep(HOUR)
        view.city = city

    async def give_up() -> None:
        await note("giving up")
        raise GivenUp("enough")

    try:
        return await interruptible(carry(), moved.interrupts(follow), cancelled.interrupts(give_up))
    except GivenUp as failure:
        return f"given up: {failure}"


def test_without_an_event_it_is_as_if_there_were_no_interrupts() -> None:
    run = WorkflowTest(carried, app).run(2)
    assert (run.result, run.elapsed, calls(run)) == ("Ulm", 4 * HOUR, ["load", "tidied", "Ulm"])
    assert kinds(run, "interrupt-started") == []


def test_the_body_pauses_and_goes_on_with_what_has_come() -> None:
    run = WorkflowTest(carried, app).start(2).advance(timedelta(hours=1.5)).post(moved, "Bonn").advance(HOUR)
    assert calls(run) == ["to Bonn", "load"]
    assert run.finish().result == "Bonn"
    # The sleep had ended while the handler ran, and the next one began when that had ended.
    assert run.elapsed == timedelta(hours=4.5)


def test_while_the_handler_runs_nothing_of_the_body_does() -> None:
    run = (
        WorkflowTest(carried, app)
        .start(2)
        .advance(timedelta(hours=1.5))
        .post(moved, "Bonn")
        .advance(45 * MINUTE)
    )
    assert kinds(run, "sleep-ended") == ["sleep-ended"]
    assert calls(run) == ["to Bonn"]
    assert run.waiting_for.count("going on with what has come, which it may not yet") == 1


def test_events_have_their_turns_in_the_order_in_which_they_came() -> None:
    run = WorkflowTest(carried, app).start(1)
    for city in ("Bonn", "Kiel", "Jena"):
        run.post(moved, city)
    assert run.finish().result == "Jena"
    assert calls(run)[:3] == ["to Bonn", "to Kiel", "to Jena"]
    assert run.elapsed == 4 * HOUR
    run = WorkflowTest(carried, app).start(1).post(moved, "Bonn").post(cancelled).post(moved, "Kiel").finish()
    assert (run.result, calls(run)) == ("given up: enough", ["to Bonn", "giving up"])


def test_what_waits_already_interrupts_before_the_body_begins() -> None:
    run = WorkflowTest(carried, app).comes(cancelled).start(0).finish()
    assert calls(run)[0] in ("giving up", "load")

    @workflow
    async def late(hours: int) -> str:
        async def body() -> str:
            return await step("body")

        async def give_up() -> None:
            raise GivenUp("at once")

        await sleep(HOUR)
        return await interruptible(body(), cancelled.interrupts(give_up))

    run = WorkflowTest(late, app).start(1).post(cancelled).finish()
    assert run.failed_with(GivenUp)
    assert run.calls == []


def test_point_3_a_handler_that_fails_cancels_the_body_which_tidies_up() -> None:
    run = WorkflowTest(carried, app).start(2).advance(3 * HOUR).post(cancelled).finish()
    assert (run.result, calls(run)) == ("given up: enough", ["load", "giving up", "tidied"])
    assert run.elapsed == 3 * HOUR


def test_what_the_body_fails_with_while_it_tidies_up_is_not_lost() -> None:
    test = WorkflowTest(carried, app)
    test.task(note).does(_fails)
    run = test.start(2).advance(3 * HOUR).post(cancelled).finish()
    with pytest.raises(RunFailed, match="exception-group"):
        _ = run.result
    assert run.failure is not None
    assert [cause.name for cause in run.failure.causes] == ["given-up", "untidy"]


def _fails(what: str) -> None:
    if what == "tidied":
        raise Untidy("no")


def test_a_run_that_is_cancelled_while_a_handler_runs_tidies_up_both() -> None:
    run = WorkflowTest(carried, app).start(2).advance(3 * HOUR).post(moved, "Bonn").cancel("no more").finish()
    assert (run.status, calls(run)) == ("cancelled", ["load", "to Bonn", "tidied"])


@workflow
async def wide(hours: int) -> list[str]:
    view = Parcel()

    async def one(name: str, minutes: int) -> str:
        await sleep(timedelta(minutes=minutes))
        return await step(f"{name} {view.city}")

    async def body() -> list[str]:
        return [*await gather(one("a", 10), one("b", 20), one("c", 90))]

    async def follow(city: str) -> None:
        await sleep(HOUR)
        view.city = city

    return await interruptible(body(), moved.interrupts(follow))


def test_all_branches_of_the_body_pause() -> None:
    run = WorkflowTest(wide, app).start(1).advance(MINUTE).post(moved, "Bonn").finish()
    assert run.result == ["a Bonn", "b Bonn", "c Bonn"]
    assert run.elapsed == timedelta(minutes=90)


@workflow
async def waits(hours: int) -> str:
    view = Parcel()

    async def condition() -> str:
        await wait_until(lambda: view.city == "Bonn", timeout=2 * HOUR)
        return "arrived"

    async def follow(city: str) -> None:
        view.city = city
        await sleep(3 * HOUR)

    try:
        return await interruptible(condition(), moved.interrupts(follow))
    except TimeoutError:
        return "late"


def test_a_condition_that_a_handler_makes_true_holds_when_the_body_goes_on() -> None:
    run = WorkflowTest(waits, app).start(1).advance(HOUR).post(moved, "Bonn").finish()
    assert (run.result, run.elapsed) == ("arrived", 4 * HOUR)
    run = WorkflowTest(waits, app).start(1).advance(HOUR).post(moved, "Kiel").finish()
    assert (run.result, run.elapsed) == ("late", 4 * HOUR)


@workflow
async def nested(hours: int) -> str:
    view = Parcel()

    async def innermost() -> str:
        await sleep(HOUR)
        return view.city

    async def pay(amount: int) -> None:
        await sleep(HOUR)
        await note(f"paid {amount}")

    async def inner() -> str:
        return await interruptible(innermost(), paid.interrupts(pay))

    async def follow(city: str) -> None:
        await sleep(HOUR)
        view.city = city
        await note(city)

    return await interruptible(inner(), moved.interrupts(follow))


def test_an_outer_interrupt_pauses_an_inner_handler_too() -> None:
    run = WorkflowTest(nested, app).start(1).post(paid, 5).advance(30 * MINUTE).post(moved, "Bonn").finish()
    assert (run.result, calls(run)) == ("Bonn", ["Bonn", "paid 5"])
    assert run.elapsed == timedelta(minutes=90)


@workflow
async def keyed(order: str) -> str:
    async def body() -> str:
        await sleep(HOUR)
        return "done"

    async def follow(city: str) -> None:
        await note(city)

    return await interruptible(body(), moved.interrupts(follow, key=order))


def test_events_of_a_correlation_key_interrupt() -> None:
    run = WorkflowTest(keyed, app).start("o-1").post(moved, "Bonn", key="o-1").post(moved, "Kiel", key="o-2")
    run.advance(timedelta(0)).post(moved, "Jena", key="o-1").finish()
    assert (run.result, calls(run)) == ("done", ["Bonn", "Jena"])


async def sleeps(result: object) -> str:
    await sleep(MINUTE)
    return f"{result}"


async def raced() -> str:
    return await interruptible(sleeps("first"), moved.interrupts(note))


@workflow
async def handled_by_a_task(hours: int) -> str:
    _, result = await first_completed(raced(), sleep(2 * HOUR))
    return await interruptible(sleeps(result), moved.interrupts(note))


def test_a_task_may_be_the_handler_and_it_stands_in_branches() -> None:
    run = (
        WorkflowTest(handled_by_a_task, app)
        .start(1)
        .post(moved, "a")
        .advance(MINUTE)
        .post(moved, "b")
        .finish()
    )
    assert (run.result, calls(run)) == ("first", ["a", "b"])


@workflow
async def in_a_hurry(hours: int) -> str:
    async def body() -> str:
        try:
            return await step.options(deadline=HOUR)("slow")
        except TaskTimeout:
            return "late"

    async def follow(city: str) -> None:
        await sleep(2 * HOUR)

    return await interruptible(body(), moved.interrupts(follow))


@pytest.mark.parametrize(("takes", "comes"), [(30 * MINUTE, "slow"), (90 * MINUTE, "late")])
def test_a_deadline_does_not_move(takes: timedelta, comes: str) -> None:
    test = WorkflowTest(in_a_hurry, app)
    test.task(step).takes(takes)
    run = test.start(1).post(moved, "Bonn").finish()
    assert (run.result, run.elapsed) == (comes, 2 * HOUR)


@workflow
async def child_of_body(hours: int) -> str:
    await sleep(timedelta(hours=hours))
    return await step("child")


@workflow
async def beside_another(hours: int) -> list[str]:
    async def body() -> str:
        return await child_of_body(hours)

    async def follow(city: str) -> None:
        await sleep(HOUR)

    async def interrupted() -> str:
        return await interruptible(body(), moved.interrupts(follow))

    async def other() -> str:
        await sleep(timedelta(hours=hours + 1))
        return await step("other")

    first, second = await gather(interrupted(), other())
    return [first, second]


def test_a_stop_of_another_thread_stops_no_child_of_what_is_interrupted() -> None:
    run = WorkflowTest(beside_another, app).start(2).post(moved, "Bonn").advance(MINUTE)
    other = next(
        event.data["thread"]
        for event in run.events
        if event.kind == "branch-started" and (event.data.get("parent", 0), event.data["branch"]) == (0, 1)
    )
    run.stop("look at it", thread=other)
    assert not run.children[0].stopped
    run.advance(2 * HOUR).resume(thread=other)
    assert run.finish().result == ["child", "other"]
    assert [event.kind for event in run.children[0].events if "stop" in event.kind] == []


async def counted(number: int) -> None:
    once = number + 1
    twice = once + 1
    thrice = twice + 1
    if thrice < 0:
        await note("never")


@workflow
async def overrun(hours: int) -> int:
    async def body() -> None:
        await sleep(timedelta(hours=hours))

    async def follow(city: str) -> None:
        await sleep(2 * HOUR)

    await interruptible(body(), moved.interrupts(follow), paid.interrupts(counted))
    return 0


def test_events_that_wait_are_not_counted_as_steps_of_one_command() -> None:
    run = WorkflowTest(overrun, app).start(1).post(moved, "Bonn")
    for number in range(1_900):
        run.post(paid, number)
    assert run.finish().result == 0
    assert len(kinds(run, "interrupt-ended")) == 1_901


@workflow
async def unheard(key: str) -> list[str]:
    heard: list[str] = []

    async def body() -> None:
        await sleep(24 * HOUR)

    async def fails(number: int) -> None:
        await sleep(HOUR)
        raise GivenUp("enough")

    async def follow(city: str) -> None:
        await note(city)

    try:
        if key:
            await interruptible(body(), paid.interrupts(fails), moved.interrupts(follow, key=key))
        else:
            await interruptible(body(), paid.interrupts(fails), moved.interrupts(follow))
    except GivenUp:
        for _ in range(2):
            city = await moved.wait(key=key) if key else await moved.wait()
            heard = [*heard, city]
    return heard


@pytest.mark.parametrize("key", ["", "o-1"])
def test_an_event_that_waits_for_its_turn_when_another_handler_fails_is_not_lost(key: str) -> None:
    test = WorkflowTest(unheard, app)
    run = test.start(key).post(paid, 1).advance(MINUTE)
    for city in ("Bonn", "Kiel"):
        run = run.post(moved, city, key=key) if key else run.post(moved, city)
    assert run.finish().result == ["Bonn", "Kiel"]
    assert run.calls == []
    assert kinds(run, "event-returned") == ["event-returned"]


def test_what_waits_says_that_it_is_interrupted() -> None:
    run = WorkflowTest(carried, app).start(9).post(moved, "Bonn").advance(MINUTE)
    assert run.waiting_for.count(", and is interrupted") == 1
    assert "interrupted" not in run.advance(2 * HOUR).waiting_for


def test_the_body_goes_on_until_the_next_event_of_a_key_has_come() -> None:
    test = WorkflowTest(by_key_or_not, app)
    test.task(note).takes(MINUTE)
    run = test.start("o-1").advance(MINUTE)
    run.post(moved, "Bonn", key="o-1").post(moved, "Kiel", key="o-1").finish()
    assert calls(run) == ["to Bonn", "Bonn", "to Kiel"]
    run = test.start("").advance(MINUTE)
    run.post(moved, "Bonn").post(moved, "Kiel").finish()
    assert calls(run) == ["to Bonn", "to Kiel", "Kiel"]


@workflow
async def by_key_or_not(key: str) -> str:
    view = Parcel()

    async def body() -> str:
        await wait_until(lambda: view.city != "Ulm")
        await step(view.city)
        await sleep(HOUR)
        return view.city

    async def follow(city: str) -> None:
        await note(f"to {city}")
        view.city = city

    if key:
        return await interruptible(body(), moved.interrupts(follow, key=key))
    return await interruptible(body(), moved.interrupts(follow))


# -- plain Python --------------------------------------------------------------------------------------
@pytest.fixture
def bells() -> Iterator[asyncio.Queue[str]]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    never: asyncio.Queue[None] = asyncio.Queue()
    with moved.faked(lambda timeout: queue.get()), cancelled.faked(lambda timeout: never.get()):
        yield queue


async def give_up() -> None:
    raise GivenUp("never")


@workflow
async def plainly(seconds: float) -> str:
    view = Parcel()

    async def body() -> str:
        first = await step("one")
        await sleep(seconds)
        return f"{first} {await step(view.city)}"

    async def follow(city: str) -> None:
        await sleep(2 * seconds)
        view.city = city

    return await interruptible(body(), moved.interrupts(follow), cancelled.interrupts(give_up))


async def test_in_plain_python_the_body_pauses_too(bells: asyncio.Queue[str]) -> None:
    loop = asyncio.get_running_loop()
    began, running = loop.time(), asyncio.ensure_future(plainly(0.05))
    await asyncio.sleep(0.02)
    bells.put_nowait("Bonn")
    bells.put_nowait("Kiel")
    assert await running == "one Kiel"
    assert loop.time() - began >= 0.2


async def test_in_plain_python_a_held_body_is_cancelled_with_its_caller(bells: asyncio.Queue[str]) -> None:
    running = asyncio.ensure_future(plainly(10.0))
    await asyncio.sleep(0.01)
    bells.put_nowait("Bonn")
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("key", ["", "o-1"])
async def test_in_plain_python_the_order_of_turns_is_the_same(key: str) -> None:
    bells: asyncio.Queue[str] = asyncio.Queue()
    noted: list[str] = []

    def noting(what: str) -> str:
        noted.append(what)
        return what

    def noted_too(what: str) -> None:
        noting(what)

    with (
        moved.faked(lambda timeout, key="": bells.get()),
        note.faked(noted_too),
        step.faked(noting),
    ):
        running = asyncio.ensure_future(by_key_or_not(key))
        await asyncio.sleep(0.01)
        bells.put_nowait("Bonn")
        bells.put_nowait("Kiel")
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert noted == (["to Bonn", "Bonn", "to Kiel"] if key else ["to Bonn", "to Kiel", "Kiel"])


@workflow
async def plainly_unheard(seconds: float) -> str:
    async def body() -> None:
        await sleep(100.0)

    async def fails() -> None:
        await sleep(seconds)
        raise GivenUp("enough")

    try:
        await interruptible(body(), cancelled.interrupts(fails), moved.interrupts(note))
    except GivenUp:
        return await moved.wait()
    return ""


async def test_in_plain_python_an_event_without_a_turn_is_not_lost_either() -> None:
    bells: asyncio.Queue[str] = asyncio.Queue()
    rung: asyncio.Queue[None] = asyncio.Queue()
    rung.put_nowait(None)
    with moved.faked(lambda timeout: bells.get()), cancelled.faked(lambda timeout: rung.get()):
        running = asyncio.ensure_future(plainly_unheard(0.03))
        await asyncio.sleep(0.01)
        bells.put_nowait("Bonn")
        assert await running == "Bonn"


async def test_in_plain_python_what_a_failing_handler_cancels_makes_no_more_step() -> None:
    noted: list[str] = []

    async def noting(what: str) -> None:
        noted.append(what)
        await asyncio.sleep(0.02)

    bells: asyncio.Queue[None] = asyncio.Queue()
    with note.faked(noting), cancelled.faked(lambda timeout: bells.get()):
        running = asyncio.ensure_future(two_beside(0.05))
        await asyncio.sleep(0.01)
        bells.put_nowait(None)
        assert await running == "given up"
    assert noted == ["first 1", "second 1"]


@workflow
async def two_beside(seconds: float) -> str:
    async def each(name: str) -> None:
        await note(f"{name} 1")
        await note(f"{name} 2")

    async def body() -> None:
        await gather(each("first"), each("second"))

    async def fails() -> None:
        await sleep(seconds)
        raise GivenUp("enough")

    try:
        await interruptible(body(), cancelled.interrupts(fails))
    except GivenUp:
        return "given up"
    return ""


@workflow
async def held_condition(seconds: float) -> str:
    view = Parcel()

    async def body() -> str:
        try:
            await wait_until(lambda: view.city == "Bonn", timeout=seconds)
        except TimeoutError:
            return "late"
        return "in time"

    async def follow(city: str) -> None:
        view.city = city
        await sleep(2 * seconds)
        view.city = "Ulm"

    return await interruptible(body(), moved.interrupts(follow))


async def test_in_plain_python_a_condition_is_judged_when_its_time_is_over() -> None:
    assert WorkflowTest(held_condition, app).start(10.0).post(moved, "Bonn").finish().result == "in time"
    bells: asyncio.Queue[str] = asyncio.Queue()
    with moved.faked(lambda timeout: bells.get()):
        running = asyncio.ensure_future(held_condition(0.05))
        await asyncio.sleep(0.01)
        bells.put_nowait("Bonn")
        assert await running == "in time"


@workflow
async def half_done(seconds: float) -> str:
    async def follow(city: str) -> None:
        await sleep(3 * seconds)

    return await interruptible(step("x"), moved.interrupts(follow))


async def test_in_plain_python_an_attempt_on_its_way_is_executed() -> None:
    ended: list[float] = []

    async def slow(what: str) -> str:
        await asyncio.sleep(0.02)
        await asyncio.sleep(0.02)
        ended.append(asyncio.get_running_loop().time())
        return what

    bells: asyncio.Queue[str] = asyncio.Queue()
    with moved.faked(lambda timeout: bells.get()), step.faked(slow):
        running = asyncio.ensure_future(half_done(0.1))
        await asyncio.sleep(0.01)
        bells.put_nowait("Bonn")
        assert await running == "x"
    # The handler was at it for long when the attempt was done.
    assert asyncio.get_running_loop().time() - ended[0] > 0.1


# -- refusals ------------------------------------------------------------------------------------------
def test_what_cannot_be_an_interrupt_is_refused() -> None:
    with pytest.raises(DefinitionError, match="takes a body, and what interrupts it"):

        @workflow
        async def alone(hours: int) -> str:
            return await interruptible(step("x"))

    with pytest.raises(DefinitionError, match="what interrupts is an event with its handler"):

        @workflow
        async def no_event(hours: int) -> str:
            return await interruptible(step("x"), moved.wait())  # type: ignore[arg-type]

    with pytest.raises(DefinitionError, match="takes a handler, and a key by name"):

        @workflow
        async def no_handler(hours: int) -> str:
            return await interruptible(step("x"), moved.interrupts())  # type: ignore[call-arg]

    with pytest.raises(DefinitionError, match="give this to `interruptible"):

        @workflow
        async def awaited(hours: int) -> None:
            await moved.interrupts(note)  # type: ignore[misc]

    with pytest.raises(DefinitionError, match="is no branch by itself"):

        @workflow
        async def in_a_gather(hours: int) -> None:
            await gather(interruptible(step("x"), moved.interrupts(note)))
