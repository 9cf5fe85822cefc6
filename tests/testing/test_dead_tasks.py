"""Tasks whose last attempt has failed, and which wait for somebody: on the fold, by `WorkflowTest`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from dressage.flow import (
    App,
    Event,
    Exponential,
    Limits,
    Saga,
    TaskError,
    TaskTimeout,
    WorkflowFailure,
    first_completed,
    gather,
    interruptible,
    sleep,
    workflow,
)
from dressage.protocol.errors import BadInput, DefinitionError, Refused
from dressage.testing import Run, WorkflowTest

app = App("dead-tasks")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ring = Event("ring")


class Declined(WorkflowFailure):
    pass


@app.task(retries=2, backoff=Exponential(base=MINUTE, jitter=0.0), exhausted="wait")
def charge(amount: int) -> int:
    return amount


@app.task
def note(what: str) -> None: ...


@workflow
async def buy(amount: int) -> str:
    try:
        return f"paid {await charge(amount)}"
    except TaskError as error:
        return f"not paid: {error}"
    except Declined:
        return "declined"


def failing(definition: Any = buy) -> WorkflowTest[..., Any]:
    test: WorkflowTest[..., Any] = WorkflowTest(definition, app)
    test.task(charge).raises(OSError("the provider is down"))
    return test


def kinds(run: Run[Any], *some: str) -> list[str]:
    return [event.kind for event in run.events if event.kind in some]


def test_a_call_whose_retries_are_used_up_waits_for_somebody() -> None:
    run = failing().start(7).finish()
    assert (run.status, len(run.calls), run.elapsed) == ("running", 3, 2 * MINUTE)
    assert run.waiting_for == "somebody who retries task charge (attempt 3), or lets it fail"
    [dead] = run.dead_tasks
    assert (dead.task, dead.attempt, dead.thread) == ("charge", 3, 0)
    assert dead.failure.message == "the provider is down (task charge, attempt 3 of 3)"
    assert kinds(run, "task-failed", "task-dead") == ["task-failed"] * 3 + ["task-dead"]


def test_it_has_all_its_retries_once_more() -> None:
    test = failing()
    run = test.start(7).finish().retry_task(charge).finish()
    assert (run.status, len(run.calls), run.elapsed) == ("running", 6, 4 * MINUTE)
    assert run.dead_tasks[0].failure.message.endswith("(task charge, attempt 6 of 6)")
    test.task(charge).returns(7)
    run.retry_task(charge).finish()
    assert (run.result, len(run.calls), run.dead_tasks) == ("paid 7", 7, [])
    settled = [event for event in run.events if event.kind == "task-settled"]
    assert [(event.data["do"], event.actor) for event in settled] == [("retry", "test")] * 2


def test_it_may_fail_and_then_the_workflow_sees_it() -> None:
    run = failing().start(7).finish().fail_task(charge).finish()
    assert run.result == "not paid: the provider is down (task charge, attempt 3 of 3)"


def test_a_business_failure_is_no_dead_task() -> None:
    test = WorkflowTest(buy, app)
    test.task(charge).raises(Declined("no"))
    assert test.run(7).result == "declined"


def test_what_was_settled_is_settled_once() -> None:
    test = failing()
    run = test.start(7).finish()
    dead = run.dead_tasks[0]
    test.task(charge).takes(HOUR)
    run.retry_task(dead)
    with pytest.raises(Refused, match="has no such dead task") as caught:
        run.fail_task(dead)
    assert caught.value.code == "TASK_UNKNOWN"
    with pytest.raises(BadInput, match="0 calls of task 'charge' are dead"):
        run.retry_task(charge)


async def buy_now(amount: int) -> str:
    try:
        return f"paid {await charge.options(exhausted='fail')(amount)}"
    except TaskError:
        return "failed at once"


def test_who_names_an_attempt_settles_no_other() -> None:
    run = failing().start(7).finish()
    first = run.dead_tasks[0]
    run.retry_task(first).finish()
    for stale in (first, structs.replace(first, task_id="0"), structs.replace(first, task_id="0-")):
        with pytest.raises(Refused, match="has no such dead task"):
            run.fail_task(stale)
    assert run.status == "running"


@workflow(limits=Limits(history_events=9))
async def nearly_full(amount: int) -> str:
    try:
        return f"paid {await charge(amount)}"
    except TaskError:
        return "failed"


def test_a_call_is_not_dead_where_there_is_no_room_to_tell_what_becomes_of_it() -> None:
    assert failing(nearly_full).start(7).finish().result == "failed"


def test_a_deadline_behind_a_retry_that_is_kept_tells_of_no_attempt_twice() -> None:
    run = failing(in_a_hurry).start(7).advance(30 * MINUTE).stop()
    run.retry_task(charge).advance(HOUR).resume().finish()
    assert run.result == "late: task charge was not done in 3600 s (attempt 3)"
    assert len(kinds(run, "task-failed")) == 3


@workflow(exhausted="wait")
async def each_place(amount: int) -> str:
    await note("by the workflow")
    return await buy_now(amount)


def test_what_becomes_of_it_is_said_by_the_call_its_task_or_the_workflow() -> None:
    test = failing(each_place)
    test.task(note).raises(OSError("no paper"))
    run = test.start(7).finish()
    assert [dead.task for dead in run.dead_tasks] == ["note"]
    test.task(note).returns(None)
    assert run.retry_task(note).finish().result == "failed at once"


@workflow
async def in_a_hurry(amount: int) -> str:
    try:
        return f"paid {await charge.options(deadline=HOUR)(amount)}"
    except TaskTimeout as late:
        return f"late: {late}"


def test_a_deadline_ends_a_dead_call_too() -> None:
    run = failing(in_a_hurry).start(7).advance(30 * MINUTE)
    assert len(run.dead_tasks) == 1
    run.finish()
    assert (run.result, run.elapsed) == ("late: task charge was not done in 3600 s (attempt 3)", HOUR)
    test = failing(in_a_hurry)
    run = test.start(7).advance(30 * MINUTE)
    test.task(charge).returns(7)
    assert run.retry_task(charge).finish().result == "paid 7"


@workflow
async def never_taken(amount: int) -> int:
    return await charge.options(start_timeout=HOUR)(amount)


def test_an_attempt_that_no_worker_has_taken_is_dead() -> None:
    test = WorkflowTest(never_taken, app)
    test.task(charge).stays_queued()
    run = test.start(7).finish()
    assert (run.elapsed, [dead.failure.name for dead in run.dead_tasks]) == (HOUR, ["start-timeout"])
    test.task(charge).returns(7)
    assert run.retry_task(charge).finish().result == 7


@workflow
async def raced(amount: int) -> int:
    place, _ = await first_completed(charge(amount), sleep(HOUR))
    await sleep(HOUR)
    return place


def test_what_is_dead_and_needed_no_more_is_told_to_be_so() -> None:
    for definition, told in ((raced, "cancel"), (in_a_hurry, "timeout")):
        run = failing(definition).start(7).advance(90 * MINUTE)
        assert run.dead_tasks == []
        assert [event.data["do"] for event in run.events if event.kind == "task-settled"] == [told]


@workflow
async def undone(amount: int) -> str:
    try:
        async with Saga() as saga:
            saga.undo(charge, amount)
            await note("shipped")
            raise Declined("out of stock")
    except Declined:
        return "undone"


def test_an_undo_that_is_dead_waits_and_nothing_is_left_undone() -> None:
    test = failing(undone)
    run = test.start(7).finish()
    assert (run.status, len(run.dead_tasks)) == ("running", 1)
    test.task(charge).returns(7)
    assert run.retry_task(charge).finish().result == "undone"


@workflow
async def side_by_side(amount: int) -> list[int]:
    return list(await gather(charge(amount), charge(amount + 1)))


def test_branches_are_settled_one_by_one() -> None:
    test = failing(side_by_side)
    run = test.start(1).finish()
    first, second = run.dead_tasks
    with pytest.raises(BadInput, match="2 calls of task 'charge' are dead"):
        run.retry_task(charge)
    test.task(charge).does(lambda amount: amount)
    assert len(run.retry_task(second).finish().dead_tasks) == 1
    assert run.retry_task(first).finish().result == [1, 2]


def test_a_cancelled_run_leaves_no_dead_task() -> None:
    run = failing().start(7).finish().cancel().finish()
    assert (run.status, run.dead_tasks) == ("cancelled", [])


def test_a_stopped_run_tries_again_when_it_goes_on() -> None:
    test = failing()
    run = test.start(7).finish().stop()
    test.task(charge).returns(7)
    run.retry_task(charge).finish()
    assert (run.status, len(run.calls), run.dead_tasks) == ("running", 3, [])
    assert run.resume().finish().result == "paid 7"


@workflow
async def interrupted(amount: int) -> int:
    async def hold() -> None:
        await sleep(HOUR)

    return await interruptible(charge(amount), ring.interrupts(hold))


def test_what_is_retried_while_it_is_interrupted_is_tried_behind_that() -> None:
    test = failing(interrupted)
    run = test.start(7).finish().post(ring)
    test.task(charge).returns(7)
    run.retry_task(charge).advance(MINUTE)
    assert len(run.calls) == 3
    assert run.finish().result == 7


def test_what_is_no_word_for_it_is_refused() -> None:
    with pytest.raises(DefinitionError, match='exhausted is "fail" or "wait", and not'):
        charge.options(exhausted="retry")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
