"""A cancelled run tidies up as Python's asyncio lets a task tidy up: `finally`, sagas, branches, and then its end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dressage.client import RunCancelled, RunFailed
from dressage.flow import App, Event, Limits, Saga, WorkflowFailure, first_completed, gather, sleep, workflow
from dressage.protocol.errors import Refused
from dressage.testing import Run, WorkflowTest

app = App("tidying")
called = Event("called", of=str)


class Broken(WorkflowFailure):
    pass


class Loud(WorkflowFailure):
    text: str


@app.task
def reserve(what: str) -> str:
    return what


@app.task
def release(what: str) -> None: ...


@app.task
def note(what: str) -> None: ...


@workflow
async def holding(what: str) -> str:
    async with Saga() as saga:
        room = await reserve(what)
        saga.undo(release, room)
        try:
            if len(room) < 10:
                return await called.wait()
            return await reserve("more")
        except Exception:
            return "caught"
        finally:
            await note("left")


@workflow
async def failing(what: str) -> str:
    try:
        await sleep(timedelta(days=1))
    finally:
        raise Broken(f"{what} is stuck")


@workflow
async def slow_to_go(what: str) -> str:
    try:
        await sleep(timedelta(days=1))
    finally:
        await sleep(timedelta(hours=1))
        await note("gone")
    return what


async def napping(what: str) -> str:
    try:
        await sleep(timedelta(days=1))
    finally:
        await note(what)
    return what


@workflow
async def side_by_side(what: str) -> list[str]:
    try:
        one, two = await gather(napping("one"), napping("two"))
    finally:
        await note("all")
    return [one, two]


@workflow
async def racing(what: str) -> int:
    try:
        place, _ = await first_completed(napping("one"), called.wait())
    finally:
        await note("all")
    return place


@workflow
async def undoing(what: str) -> None:
    async with Saga() as saga:
        saga.undo(release, await reserve("first"))
        saga.undo(release, await reserve("second"))
        raise Broken("no")


@workflow
async def tasked(what: str) -> str:
    try:
        return await reserve(what)
    finally:
        await sleep(timedelta(hours=1))
        await note("gone")


@workflow(limits=Limits(history_events=2))
async def short_of_events(what: str) -> None:
    try:
        await sleep(timedelta(days=1))
    finally:
        await note(what)


@workflow
async def quick() -> None:
    return None


@workflow
async def two_at_a_time(names: list[str]) -> list[str]:
    return [*await gather(*(napping(each) for each in names), limit=2)]


@workflow
async def stubborn(what: str) -> str:
    try:
        try:
            await sleep(timedelta(days=1))
        finally:
            raise Broken(what)
    except Broken:
        pass
    return await called.wait()


async def loud(number: int) -> str:
    if number == 0:
        return await called.wait()
    try:
        await sleep(timedelta(days=1))
    finally:
        await sleep(timedelta(minutes=number))
        raise Loud("x", text="y" * 30_000)


@workflow
async def loud_losers(count: int) -> int:
    place, _ = await first_completed(*(loud(number) for number in range(count)))
    return place


@workflow
async def plain(what: str) -> str:
    await sleep(timedelta(days=1))
    return what


def calls(run: Run[Any]) -> list[tuple[str, str]]:
    return [(call.task, call.arguments["what"]) for call in run.calls]


def kinds(run: Run[Any]) -> list[str]:
    return [event.kind for event in run.events]


def test_finally_and_saga_run_and_no_except_takes_it() -> None:
    run = WorkflowTest(holding, app=app).start("room")
    run.cancel("the guest called")
    assert calls(run) == [("reserve", "room"), ("note", "left"), ("release", "room")]
    assert (run.status, run.reason) == ("cancelled", "the guest called")
    assert kinds(run)[-1] == "run-cancelled"
    assert kinds(run).count("run-cancelling") == 1
    with pytest.raises(RunCancelled, match="the guest called"):
        _ = run.result


def test_what_has_nothing_to_tidy_up_ends_in_the_same_moment() -> None:
    run = WorkflowTest(plain).start("x").cancel("enough")
    assert kinds(run)[-2:] == ["sleep-started", "run-cancelled"]


def test_a_failure_while_it_tidies_up_is_how_the_run_ends() -> None:
    run = WorkflowTest(failing).start("lift").cancel("enough")
    assert run.status == "failed"
    with pytest.raises(RunFailed, match="lift is stuck"):
        _ = run.result
    assert run.reason == ""


def test_it_goes_on_for_as_long_as_it_tidies_up_and_is_cancelled_once() -> None:
    run = WorkflowTest(slow_to_go, app=app).start("x").cancel("first")
    assert run.status == "running"
    seen = kinds(run)
    run.cancel("second")
    assert kinds(run) == seen
    run.advance(timedelta(hours=1))
    assert (run.status, run.reason) == ("cancelled", "first")
    assert calls(run) == [("note", "gone")]
    with pytest.raises(RunCancelled):
        _ = run.result
    run.cancel("third")
    with pytest.raises(Refused, match="RUN_FINISHED"):
        WorkflowTest(quick).run().cancel()


def test_at_once_ends_it_where_it_stands_also_while_it_tidies_up() -> None:
    run = WorkflowTest(slow_to_go, app=app).start("x").cancel("first")
    run.cancel("now", at_once=True)
    assert (run.status, run.reason, calls(run)) == ("cancelled", "now", [])
    run = WorkflowTest(slow_to_go, app=app).start("x").cancel("first").cancel(at_once=True)
    assert (run.status, run.reason) == ("cancelled", "first")
    run = WorkflowTest(holding, app=app).start("room").cancel(at_once=True)
    assert calls(run) == [("reserve", "room")]


def test_all_branches_tidy_up_before_the_run_does() -> None:
    run = WorkflowTest(side_by_side, app=app).start("x").cancel()
    assert calls(run) == [("note", "one"), ("note", "two"), ("note", "all")]
    assert run.status == "cancelled"
    ended = [event.data for event in run.events if event.kind == "branch-ended"]
    assert [each["cancelled"] for each in ended] == [True, True]


def test_a_race_is_cancelled_with_the_run_also_while_its_loser_tidies_up() -> None:
    test = WorkflowTest(racing, app=app)
    assert calls(test.start("x").cancel()) == [("note", "one"), ("note", "all")]
    test = WorkflowTest(racing, app=app)
    test.task(note).takes(timedelta(minutes=1))
    run = test.start("x").post(called, "now")
    assert run.status == "running"
    run.cancel()
    assert calls(run) == [("note", "one")]
    run.finish()
    assert (run.status, calls(run)) == ("cancelled", [("note", "one"), ("note", "all")])


def test_a_saga_that_is_being_undone_is_undone_to_its_end() -> None:
    test = WorkflowTest(undoing, app=app)
    test.task(release).takes(timedelta(minutes=1))
    run = test.start("x")
    assert calls(run)[2:] == [("release", "second")]
    run.cancel("enough").finish()
    assert calls(run)[2:] == [("release", "second"), ("release", "first")]
    assert (run.status, run.reason) == ("cancelled", "enough")


def test_a_finally_that_it_had_got_to_by_itself_is_cut_as_in_python() -> None:
    test = WorkflowTest(slow_to_go, app=app)
    run = test.start("x")
    run.advance(timedelta(days=1))
    run.cancel().finish()
    assert (run.status, calls(run)) == ("cancelled", [])


def test_a_late_result_changes_nothing() -> None:
    test = WorkflowTest(tasked, app=app)
    test.task(reserve).takes(timedelta(minutes=30))
    run = test.start("x").cancel()
    run.advance(timedelta(minutes=45))
    assert run.waiting_for.startswith("time ")
    assert "task-completed" not in kinds(run)
    run.advance(timedelta(minutes=45))
    assert run.status == "cancelled"
    assert calls(run) == [("reserve", "x"), ("note", "gone")]


def test_branches_that_have_not_begun_never_do() -> None:
    run = WorkflowTest(two_at_a_time, app=app).start(["a", "b", "c", "d"]).cancel()
    assert (run.status, calls(run)) == ("cancelled", [("note", "a"), ("note", "b")])


def test_a_failure_that_takes_the_place_of_the_cancelling_can_be_caught() -> None:
    run = WorkflowTest(stubborn).start("x").cancel("enough")
    assert run.waiting_for == "event called"
    run.cancel("again")
    assert run.status == "running"
    assert run.cancel("now", at_once=True).reason == "now"


def test_what_branches_fail_with_while_they_tidy_up_has_a_limit() -> None:
    """Also of what had failed before, when the race was over and its losers tidied up."""
    run = WorkflowTest(loud_losers).start(60).post(called, "now")
    run.advance(timedelta(minutes=25, seconds=30))
    run.cancel().finish()
    failure = run.failure
    assert failure is not None
    assert (failure.kind, failure.name) == ("limit", "state-size")
    assert timedelta(minutes=30) < run.elapsed < timedelta(minutes=35)


def test_the_limit_on_events_leaves_no_room_to_tidy_up() -> None:
    run = WorkflowTest(short_of_events, app=app).start("x")
    assert run.cancel("enough").status == "cancelled"
    assert kinds(run)[-1] == "run-cancelled"
    assert "run-cancelling" not in kinds(run)
