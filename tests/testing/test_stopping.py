"""Stopped runs and run threads on the engine's fold: what comes meanwhile is kept, and nothing of it is lost."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dressage.flow import (
    App,
    Event,
    Exponential,
    Saga,
    TaskTimeout,
    UserTask,
    WorkflowFailure,
    first_completed,
    gather,
    sleep,
    sleep_until,
    wait_until,
    workflow,
)
from dressage.orchestrator.fold.pausing import STOPPING_KEPT
from dressage.orchestrator.fold.state import encode_state
from dressage.protocol.commands import REASON_BYTES_MAX, CancelRun, ResumeRun, StopRun
from dressage.protocol.errors import Refused
from dressage.testing import Run, WorkflowTest

app = App("stopping")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


approved = Event("approved", of=int)


@dataclass
class Verdict:
    fine: bool


look = UserTask("look", form=Verdict)


@dataclass
class Progress:
    ready: bool = False
    when: datetime = datetime(2030, 1, 1, 1, tzinfo=UTC)
    tidied: bool = False


@app.task(retries=2)
def step(number: int) -> int:
    return number + 1


@app.task(
    retries=5, backoff=Exponential(base=timedelta(minutes=1), limit=HOUR), deadline=timedelta(minutes=30)
)
def hurried(number: int) -> int:
    return number


@workflow
async def two_steps(number: int) -> int:
    first = await step(number)
    return await step(first)


def kinds(run: Run[Any], *some: str) -> list[str]:
    return [event.kind for event in run.events if event.kind in some]


# -- what comes meanwhile ------------------------------------------------------------------------------
def test_point_10_an_attempt_that_is_on_its_way_counts_when_the_run_goes_on() -> None:
    test = WorkflowTest(two_steps, app)
    test.task(step).takes(MINUTE)
    run = test.start(1).stop("the shop is closed").finish()
    assert (run.status, run.stopped, len(run.calls)) == ("running", True, 1)
    assert run.waiting_for == "going on with what has come, which it may not yet"
    assert run.events[-1].kind == "task-completed"
    assert run.resume().finish().result == 3
    told = [event for event in run.events if event.kind in ("run-stopped", "run-resumed")]
    assert [(event.kind, event.data) for event in told] == [
        ("run-stopped", {"by": "somebody", "reason": "the shop is closed"}),
        ("run-resumed", {"by": "somebody"}),
    ]
    assert [event.actor for event in told] == ["test", "test"]


def test_a_failed_attempt_is_not_tried_again_before_the_run_goes_on() -> None:
    test = WorkflowTest(two_steps, app)
    test.task(step).raises(OSError("down")).takes(MINUTE)
    run = test.start(1).stop().advance(HOUR)
    assert len(run.calls) == 1
    test.task(step).returns(9)
    run.resume().finish()
    assert (run.result, len(run.calls)) == (9, 3)


@workflow
async def in_a_hurry(number: int) -> str:
    try:
        return str(await hurried(number))
    except TaskTimeout as late:
        return f"late: {late}"


def test_the_time_of_a_call_is_over_though_its_next_attempt_is_kept() -> None:
    test = WorkflowTest(in_a_hurry, app)
    test.task(hurried).raises(OSError("down"))
    run = test.start(1)
    assert len(run.calls) == 1
    run.stop().advance(HOUR)
    # The second attempt was on its way already, in its backoff.
    assert (len(run.calls), run.status) == (2, "running")
    assert run.resume().finish().result.startswith("late: task hurried was not done in 1800 s")


def test_an_attempt_whose_backoff_is_over_before_the_run_is_stopped_is_kept_with_its_deadline() -> None:
    test = WorkflowTest(in_a_hurry, app)
    test.task(hurried).raises(OSError("down")).takes(timedelta(seconds=1))
    run = test.start(1).stop().advance(HOUR)
    assert run.waiting_for == "going on with what has come, which it may not yet"
    assert kinds(run, "task-failed") == ["task-failed"]
    assert run.resume().result.startswith("late: task hurried was not done in 1800 s (attempt 1)")


@workflow
async def waiting(long: bool) -> str:
    told = "?"
    if long:
        await sleep(HOUR)
        told = "slept"
    else:
        try:
            told = str(await approved.wait(timeout=HOUR))
        except TimeoutError:
            told = "late"
    await sleep(MINUTE)
    return told


def test_a_sleep_goes_on_while_its_run_is_stopped() -> None:
    run = WorkflowTest(waiting).start(True).stop().advance(2 * HOUR)
    assert kinds(run, "sleep-ended") == ["sleep-ended"]
    assert run.resume().finish().result == "slept"
    assert run.elapsed == 2 * HOUR + MINUTE
    assert WorkflowTest(waiting).start(True).stop().advance(MINUTE).resume().finish().elapsed == HOUR + MINUTE


def test_an_event_that_comes_meanwhile_counts() -> None:
    run = WorkflowTest(waiting).start(False).stop().advance(MINUTE).post(approved, 7).advance(2 * HOUR)
    assert run.status == "running"
    assert run.resume().finish().result == "7"


def test_the_time_of_a_wait_goes_on() -> None:
    run = WorkflowTest(waiting).start(False).stop().advance(2 * HOUR).post(approved, 7)
    assert kinds(run, "failure-caught") == []
    assert run.resume().finish().result == "late"


@workflow
async def asks(notes: str) -> bool:
    return (await look.assign(user="ann", notes=notes)).fine


def test_a_user_task_stays_with_people_and_can_be_done() -> None:
    run = WorkflowTest(asks).start("lamp").stop()
    assert [view.user for view in run.user_tasks] == ["ann"]
    run.complete(look, Verdict(True), user="ann")
    assert (run.status, run.user_tasks) == ("running", [])
    assert run.resume().result is True


# -- run threads ---------------------------------------------------------------------------------------
@workflow
async def side_by_side(number: int) -> tuple[int, int]:
    async def slow() -> int:
        await sleep(HOUR)
        return await step(number)

    async def quick() -> int:
        await sleep(MINUTE)
        return await step(number + 10)

    return await gather(slow(), quick())


def test_one_run_thread_is_stopped_and_the_others_go_on() -> None:
    run = WorkflowTest(side_by_side, app).start(1).stop(thread=1).finish()
    assert len(run.calls) == 1
    assert kinds(run, "branch-ended") == ["branch-ended"]
    assert run.events[-1].kind == "sleep-ended"
    run.resume(thread=0)
    assert run.status == "running"
    assert run.resume(thread=1).result == (2, 12)


def test_point_11_what_is_stopped_twice_waits_for_both() -> None:
    run = WorkflowTest(side_by_side, app).start(1).stop().stop(thread=1).stop().finish()
    assert len(run.calls) == 0
    run.resume().finish()
    assert (len(run.calls), run.stopped) == (1, True)
    run.stop().resume(thread=1)
    assert len(run.calls) == 1
    assert run.resume().result == (2, 12)
    assert kinds(run, "run-stopped", "run-resumed") == [
        "run-stopped",
        "run-stopped",
        "run-resumed",
        "run-stopped",
        "run-resumed",
        "run-resumed",
    ]


def test_a_run_thread_that_there_is_not_is_named_with_those_that_there_are() -> None:
    run = WorkflowTest(side_by_side, app).start(1)
    with pytest.raises(Refused, match="has no run thread 7: it has 0, 1, 2") as refused:
        run.stop(thread=7)
    assert refused.value.code == "THREAD_UNKNOWN"
    assert run.resume(thread=7).finish().result == (2, 12)


@workflow
async def racing(number: int) -> str:
    view = Progress()

    async def slow() -> str:
        try:
            await sleep(HOUR)
        finally:
            view.tidied = True
        return "slow"

    async def quick() -> str:
        await sleep(MINUTE)
        return "quick"

    _, won = await first_completed(slow(), quick())
    return f"{won} {view.tidied}"


def test_a_stopped_loser_is_cancelled_when_it_goes_on() -> None:
    run = WorkflowTest(racing).start(1).stop(thread=1).advance(2 * MINUTE)
    assert run.status == "running"
    assert run.resume(thread=1).result == "quick True"


def test_a_stop_of_a_thread_ends_with_it() -> None:
    @workflow
    async def two_of_them(number: int) -> int:
        async def one() -> int:
            return await step(number)

        await gather(one(), one())
        await sleep(MINUTE)
        return number

    test = WorkflowTest(two_of_them, app)
    test.task(step).takes(MINUTE)
    run = test.start(1).stop(thread=1).advance(HOUR)
    assert run.stopped
    assert not run.resume(thread=1).stopped


@workflow
async def watched(number: int) -> str:
    view = Progress()

    async def waits() -> str:
        await wait_until(lambda: view.ready, timeout=HOUR)
        return "ready"

    async def sets() -> str:
        await sleep(MINUTE)
        view.ready = True
        return "set"

    first, second = await gather(waits(), sets())
    return f"{first} {second}"


def test_a_condition_that_holds_meanwhile_is_looked_at_when_its_thread_goes_on() -> None:
    run = WorkflowTest(watched).start(1).stop(thread=1).advance(2 * MINUTE)
    assert kinds(run, "condition-met") == []
    assert run.resume(thread=1).result == "ready set"


def test_a_condition_that_holds_when_its_time_is_over_has_held_in_time() -> None:
    run = WorkflowTest(watched).start(1).stop(thread=1).advance(2 * HOUR)
    assert kinds(run, "condition-met", "condition-timed-out") == ["condition-met"]
    assert run.resume(thread=1).result == "ready set"


def test_a_condition_that_does_not_hold_in_time_has_not_when_its_thread_goes_on() -> None:
    run = WorkflowTest(watched).start(1).stop().advance(2 * HOUR).resume()
    assert run.failure is not None
    assert run.failure.kind == "group"


@workflow
async def moved(number: int) -> float:
    view = Progress()

    async def sleeper() -> float:
        await sleep_until(lambda: view.when)
        return 1.0

    async def mover() -> None:
        await sleep(MINUTE)
        view.when = view.when + timedelta(days=1)

    first, _ = await gather(sleeper(), mover())
    return first


def test_a_moment_that_was_moved_meanwhile_counts() -> None:
    run = WorkflowTest(moved).start(1).stop(thread=1).advance(5 * HOUR)
    assert kinds(run, "sleep-moved", "sleep-ended") == ["sleep-ended", "sleep-moved"]
    run.resume(thread=1).finish()
    assert run.elapsed == timedelta(hours=25)


# -- what goes on ends others ----------------------------------------------------------------------------
class Bad(WorkflowFailure):
    pass


@app.task
def fails(number: int) -> int:
    raise Bad("no")


@workflow
async def decided(number: int) -> str:
    async def first() -> int:
        return await fails(number)

    async def second() -> int:
        try:
            await sleep(MINUTE)
            await sleep(HOUR)
        finally:
            await sleep(MINUTE)
        return 1

    try:
        await first_completed(first(), second())
    except Bad:
        return "bad"
    return "good"


def test_who_goes_on_may_decide_a_race_that_another_one_goes_on_in() -> None:
    test = WorkflowTest(decided, app)
    test.task(fails).fails(Bad).takes(MINUTE)
    run = test.start(1).stop().advance(2 * MINUTE).resume()
    assert run.finish().result == "bad"


@workflow
async def undone_in_a_finally(number: int) -> int:
    try:
        async with Saga() as saga:
            saga.undo(step, number)
            await fails(number)
    finally:
        await sleep(MINUTE)
    return number


def test_a_stopped_run_whose_undo_is_kept_is_cancelled() -> None:
    test = WorkflowTest(undone_in_a_finally, app)
    test.task(step).takes(MINUTE)
    run = test.start(1).stop().advance(HOUR)
    assert run.waiting_for.startswith("going on")
    assert run.cancel().finish().status == "cancelled"


@workflow
async def decides_around(number: int) -> int:
    async def inner() -> int:
        async def p() -> int:
            async def x() -> int:
                return 1

            await gather(x())
            await sleep(HOUR)
            return 1

        async def y() -> int:
            async def z() -> int:
                raise Bad("no")

            await gather(z())
            return 1

        won, _ = await first_completed(p(), y())
        return won

    async def other() -> int:
        await sleep(MINUTE)
        return 2

    try:
        await gather(inner(), other())
    except* Bad:
        pass
    return number


def test_a_loser_that_is_cancelled_as_it_begins_to_wait_ends_all_around_it() -> None:
    assert WorkflowTest(decides_around).run(3).result == 3


@workflow
async def child_of_a_loser(number: int) -> int:
    async def loses() -> int:
        try:
            await sleep(HOUR)
        finally:
            await gather(two_steps(1), two_steps(2))
        return 1

    async def wins() -> int:
        await sleep(MINUTE)
        return 2

    _, won = await first_completed(loses(), wins())
    return won


def test_child_runs_that_a_cancel_does_not_reach_go_on() -> None:
    test = WorkflowTest(child_of_a_loser, app)
    test.task(step).takes(HOUR)
    run = test.start(1).advance(2 * MINUTE).stop().advance(MINUTE)
    assert [child.stopped for child in run.children] == [True, True]
    run.cancel().finish()
    assert run.status == "cancelled"
    assert [child.status for child in run.children] == ["completed", "completed"]


@workflow
async def retried_undo(number: int) -> int:
    async def loses() -> int:
        async with Saga() as saga:
            saga.undo(step, number)
            await sleep(HOUR)
        return 1

    async def wins() -> int:
        await sleep(MINUTE)
        return 2

    _, won = await first_completed(loses(), wins())
    return won


def test_no_attempt_is_made_of_what_is_stopped() -> None:
    test = WorkflowTest(retried_undo, app)
    test.task(step).raises(OSError("down")).takes(MINUTE)
    run = test.start(1).advance(MINUTE).stop(thread=1).advance(HOUR)
    assert len(run.calls) == 1
    run.cancel().finish()
    assert len(run.calls) == 3  # The cancel lets it go on.


@workflow
async def busy(number: int) -> int:
    async def one(each: int) -> int:
        await sleep(timedelta(seconds=each + 1))
        count = 0
        while count < 1_000:
            count += 1
        return count

    return sum(await gather(*(one(each) for each in range(number))))


def test_each_that_goes_on_has_the_work_of_a_command_of_its_own() -> None:
    assert WorkflowTest(busy).run(12).result == 12_000
    assert WorkflowTest(busy).start(12).stop().advance(HOUR).resume().finish().result == 12_000


@workflow
async def wide(number: int) -> int:
    async def one(each: int) -> int:
        await sleep(MINUTE)
        return await step(each)

    return sum(await gather(*(one(each) for each in range(number))))


def test_many_threads_go_on_one_after_the_other() -> None:
    count = 35
    run = WorkflowTest(wide, app).start(count).stop().finish()
    assert run.waiting_for.startswith("branches, of which 0 of ")
    before = len(run.events)
    assert run.resume().finish().result == sum(range(1, count + 1))
    assert {event.actor for event in run.events[before + 1 :]} >= {"test", "orchestrator"}


# -- cancelling ----------------------------------------------------------------------------------------
@workflow
async def tidying(number: int) -> int:
    async with Saga() as saga:
        saga.undo(step, number)
        await sleep(HOUR)
        await sleep(HOUR)
    return number


@pytest.mark.parametrize("comes", [False, True])
def test_a_stopped_run_that_is_cancelled_tidies_up(comes: bool) -> None:
    run = WorkflowTest(tidying, app).start(1).stop()
    if comes:
        run.advance(2 * HOUR)
    run.cancel("no longer wanted")
    assert (run.status, run.reason, len(run.calls)) == ("cancelled", "no longer wanted", 1)
    assert kinds(run, "run-resumed", "run-cancelling") == ["run-cancelling", "run-resumed"]
    assert run.waiting_for == ""


@pytest.mark.parametrize("done", [False, True])
def test_one_that_is_stopped_while_it_tidies_up_goes_on_when_it_is_cancelled_again(done: bool) -> None:
    test = WorkflowTest(tidying, app)
    test.task(step).takes(MINUTE)
    run = test.start(1).cancel("no longer wanted").stop()
    if done:
        run.advance(HOUR)
    assert run.status == "running"
    run.cancel("at last").finish()
    assert (run.status, run.reason) == ("cancelled", "no longer wanted")


def test_one_that_is_stopped_can_be_ended_where_it_stands() -> None:
    run = WorkflowTest(tidying, app).start(1).stop().advance(2 * HOUR).cancel(at_once=True)
    assert (run.status, run.stopped, run.calls) == ("cancelled", False, [])


@workflow
async def lost(number: int) -> int:
    async def loses() -> int:
        try:
            await sleep(HOUR)
        finally:
            await step(1)
        return 1

    async def wins() -> int:
        await sleep(MINUTE)
        return 2

    place, _ = await first_completed(loses(), wins())
    return place


def test_a_run_whose_stopped_loser_was_to_be_cancelled_is_cancelled() -> None:
    run = WorkflowTest(lost, app).start(1).stop(thread=1).advance(2 * MINUTE)
    assert run.calls == []
    run.cancel()
    assert (run.status, len(run.calls)) == ("cancelled", 1)


# -- child runs ----------------------------------------------------------------------------------------
@workflow
async def parent(number: int) -> int:
    return await two_steps(number)


@workflow
async def grandparent(number: int) -> int:
    return await parent(number) + 100


def test_child_runs_are_stopped_with_their_parent() -> None:
    test = WorkflowTest(grandparent, app)
    test.task(step).takes(MINUTE)
    run = test.start(1).stop("closed").finish()
    child = run.children[0]
    grandchild = run.children[0].children[0]
    assert (child.stopped, grandchild.stopped, len(grandchild.calls)) == (True, True, 1)
    told = [event.data for event in grandchild.events if event.kind == "run-stopped"]
    assert told == [{"by": "parent", "reason": "closed"}]
    assert run.resume().finish().result == 103
    assert not grandchild.stopped


def test_a_child_that_somebody_else_has_stopped_waits_for_both() -> None:
    test = WorkflowTest(parent, app)
    test.task(step).takes(MINUTE)
    run = test.start(1)
    run.children[0].stop("mine")
    run.stop().advance(HOUR).resume().advance(HOUR)
    assert (run.children[0].stopped, run.status) == (True, "running")
    run.children[0].resume()
    assert run.finish().result == 3


def test_a_parent_that_is_cancelled_cancels_its_stopped_child() -> None:
    test = WorkflowTest(parent, app)
    test.task(step).takes(MINUTE)
    run = test.start(1).stop().advance(HOUR).cancel().finish()
    assert (run.status, run.children[0].status) == ("cancelled", "cancelled")
    assert len(run.children[0].calls) == 1


@workflow
async def beside(number: int) -> int:
    await tidying.options(parent_close="request").start(number)
    await sleep(MINUTE)
    return number


def test_a_child_run_that_goes_on_beside_is_stopped_and_ends_with_its_parent() -> None:
    run = WorkflowTest(beside, app).start(1).stop().advance(HOUR)
    assert run.children[0].stopped
    run.resume().advance(timedelta(0))
    assert (run.status, run.children[0].status) == ("completed", "cancelled")


def test_a_repeated_cancel_does_not_lift_a_stop() -> None:
    test = WorkflowTest(tidying, app)
    test.task(step).takes(HOUR)
    run = test.start(1)
    command = CancelRun("once")
    run._fold(command)
    run.stop()
    run._fold(command)
    assert run.stopped
    run._fold(CancelRun("again"))
    assert not run.stopped


def test_reasons_have_room_or_are_refused() -> None:
    run = WorkflowTest(wide, app).start(100)
    codes: list[str] = []
    for number in range(1, 101):
        try:
            run.stop("\x01" * REASON_BYTES_MAX, thread=number)
        except Refused as refused:
            codes.append(refused.code if "has no room for it" in refused.message else "?")
    assert set(codes) == {"REASON_TOO_LONG"}
    assert len(encode_state(run._known)) < 1_000_000
    for number in range(1, 101):
        run.resume(thread=number)
    assert run.finish().status == "completed"


# -- repeats and refusals ------------------------------------------------------------------------------
def test_a_repeated_stop_changes_nothing_however_late_it_comes() -> None:
    run = WorkflowTest(waiting).start(True)
    first = StopRun("once", "why", "ann")
    run._fold(first)
    run._fold(first)
    run.resume()
    run._fold(first)
    assert not run.stopped
    run._fold(ResumeRun("again"))
    run.stop()
    run._fold(ResumeRun("again"))
    assert run.stopped
    for number in range(STOPPING_KEPT):
        run._fold(StopRun(f"stop {number}"))
    assert len(kinds(run, "run-stopped")) == 2


def test_what_ends_is_no_more_to_be_stopped_and_reasons_have_an_end() -> None:
    run = WorkflowTest(waiting).start(True)
    with pytest.raises(Refused, match="reason-size") as refused:
        run.stop("é" * (REASON_BYTES_MAX // 2) + "e")
    assert refused.value.code == "REASON_TOO_LONG"
    run.finish()
    for tell in (run.stop, run.resume):
        with pytest.raises(Refused) as refused:
            tell()
        assert refused.value.code == "RUN_FINISHED"


def test_what_is_kept_counts_to_the_state() -> None:
    @app.task
    def text(number: int) -> str:
        return "x" * number

    @workflow
    async def large(number: int) -> int:
        async def one(_: int) -> int:
            return len(await text(number))

        return sum(await gather(*(one(each) for each in range(40))))

    test = WorkflowTest(large, app)
    test.task(text).takes(MINUTE)
    run = test.start(60_000).stop().finish()
    assert run.failure is not None
    assert run.failure.name == "state-size"
    assert msgspec.json.encode(run.events[-1].data)
