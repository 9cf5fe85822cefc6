"""Branches that are cancelled alone, on the engine's fold: they tidy up, the others go on, and who waits is told."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from dressage.flow import (
    App,
    BranchCancelled,
    Event,
    Limits,
    Saga,
    UserTask,
    WorkflowFailure,
    first_completed,
    first_successful,
    gather,
    interruptible,
    sleep,
    workflow,
)
from dressage.orchestrator.fold.state import encode_state
from dressage.protocol.commands import REASON_BYTES_MAX, CancelThread, FailureInfo
from dressage.protocol.errors import BadInput, Refused
from dressage.testing import Run, WorkflowTest

app = App("cancelled-threads")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
paid = Event("paid", of=int)
called = Event("called", of=str)


class Stuck(WorkflowFailure): ...


@dataclass
class Form:
    fine: bool


look = UserTask("look", form=Form)


@app.task(retries=0)
def charge(what: str) -> str:
    return f"charged {what}"


@app.task(retries=0)
def give_back(what: str) -> None: ...


async def leg(name: str) -> str:
    async with Saga() as saga:
        saga.undo(give_back, f"saga {name}")
        try:
            return f"{name} {await paid.wait()}"
        except Exception as error:
            return f"no except takes it: {error}"
        finally:
            await give_back(f"finally {name}")


@workflow
async def both(one: str, other: str) -> str:
    first, second = await gather(leg(one), leg(other))
    return f"{first}, {second}"


@workflow
async def caught(one: str, other: str) -> str:
    said = "all came"
    try:
        await gather(leg(one), leg(other))
    except* BranchCancelled:
        said = "one was cancelled"
    return said


def kinds(run: Run[Any], *some: str) -> list[str]:
    return [event.kind for event in run.events if event.kind in some]


def given_back(run: Run[Any]) -> list[str]:
    return [call.arguments["what"] for call in run.calls if call.task == "give-back"]


def names(failure: FailureInfo | None) -> list[str]:
    assert failure is not None
    return [each.name for each in failure.causes]


# -- a gather ------------------------------------------------------------------------------------------
def test_a_branch_tidies_up_the_other_goes_on_and_the_gather_fails_by_name() -> None:
    run = WorkflowTest(caught, app).start("a", "b").cancel("not this one", thread=1)
    assert (run.status, given_back(run)) == ("running", ["finally a", "saga a"])
    run.post(paid, 5)
    assert (run.result, given_back(run)) == ("one was cancelled", ["finally a", "saga a", "finally b"])
    (told,) = [event.data for event in run.events if event.kind == "branch-cancelling"]
    assert (told["branch"], told["thread"], told["reason"]) == (0, 1, "not this one")
    ended = [event.data for event in run.events if event.kind == "branch-ended"]
    assert [(each["thread"], each.get("cancelled", False)) for each in ended] == [(1, True), (2, False)]
    assert not any("failure" in each for each in ended)


def test_a_run_that_does_not_take_it_fails_with_it_and_is_not_cancelled() -> None:
    run = WorkflowTest(both, app).start("a", "b").cancel("why", thread=2).post(paid, 5)
    assert (run.status, names(run.failure)) == ("failed", ["branch-cancelled"])
    assert run.failure is not None
    (cause,) = run.failure.causes
    assert (cause.message, cause.family) == ("why", ("BranchCancelled", "Exception"))


def test_without_a_reason_it_says_which_thread_it_was() -> None:
    run = WorkflowTest(both, app).start("a", "b").cancel(thread=2).cancel(thread=1)
    assert run.failure is not None
    said = ["run thread 1 was cancelled", "run thread 2 was cancelled"]
    assert [each.message for each in run.failure.causes] == said


def test_what_it_fails_with_while_it_tidies_up_takes_the_place_of_the_cancelling() -> None:
    test = WorkflowTest(both, app)
    test.task(give_back).fails(Stuck("no"))
    run = test.start("a", "b").cancel(thread=1).cancel(thread=2)
    assert run.failure is not None
    assert [names(each) for each in run.failure.causes] == [["stuck", "stuck"], ["stuck", "stuck"]]


@workflow
async def nested(number: int) -> str:
    async def inner() -> int:
        async def part() -> int:
            try:
                await sleep(HOUR)
            finally:
                await give_back("part")
            return 1

        try:
            await gather(part(), part())
        finally:
            await give_back("inner")
        return 2

    async def other() -> int:
        await sleep(MINUTE)
        return 3

    said = ""
    try:
        await gather(inner(), other())
    except* BranchCancelled as gone:
        said = f"{gone}"
    return said


def test_all_below_a_thread_is_cancelled_before_it() -> None:
    run = WorkflowTest(nested, app).start(1).cancel(thread=1)
    assert given_back(run) == ["part", "part", "inner"]
    assert run.finish().result == "branches failed (1 sub-exception)"
    ended = [event.data["thread"] for event in run.events if event.kind == "branch-ended"]
    assert ended == [3, 4, 1, 2]


def test_a_part_of_a_branch_is_a_failure_of_that_branch_alone() -> None:
    run = WorkflowTest(nested, app).start(1).cancel(thread=3).finish()
    assert run.elapsed == HOUR
    ended = [event.data for event in run.events if event.kind == "branch-ended"]
    assert [each["thread"] for each in ended if "failure" in each] == [1]


@workflow
async def for_each(count: int) -> int:
    await gather(*(charge(f"{number}") for number in range(count)), limit=1)
    return count


def test_the_next_of_a_list_begins_in_the_place_of_one_that_was_cancelled() -> None:
    test = WorkflowTest(for_each, app)
    test.task(charge).takes(MINUTE)
    run = test.start(3).cancel(thread=1).finish()
    assert (len(run.calls), run.elapsed, names(run.failure)) == (3, 2 * MINUTE, ["branch-cancelled"])


@workflow
async def with_child(name: str) -> str:
    async def child() -> str:
        return await caught(name, name)

    said = ""
    try:
        await gather(child(), charge(name))
    except* BranchCancelled:
        said = "cancelled"
    return said


def test_a_child_run_that_it_waits_for_tidies_up_first() -> None:
    test = WorkflowTest(with_child, app)
    test.task(give_back).takes(MINUTE)
    run = test.start("a").cancel(thread=1).advance(MINUTE / 2)
    (child,) = run.children
    assert (child.status, run.status) == ("running", "running")
    assert run.finish().result == "cancelled"
    assert (child.status, len(given_back(child))) == ("cancelled", 4)


@workflow
async def of_all_kinds(number: int) -> int:
    async def person() -> bool:
        return (await look.assign(user="ann")).fine

    async def task() -> str:
        return await charge("x")

    async def waits() -> int:
        return await paid.wait(timeout=HOUR)

    await gather(person(), task(), waits(), sleep(HOUR))
    return number


def test_whatever_a_branch_waits_for_is_given_up() -> None:
    test = WorkflowTest(of_all_kinds, app)
    test.task(charge).takes(HOUR)
    run = test.start(1)
    for thread in (1, 2, 3, 4):
        assert run.status == "running"
        run.cancel(thread=thread)
    assert (run.user_tasks, names(run.failure), run.elapsed) == ([], ["branch-cancelled"] * 4, timedelta(0))
    assert kinds(run, "user-task-cancelled") == ["user-task-cancelled"]


# -- races and interrupts --------------------------------------------------------------------------------
@workflow
async def raced(one: str, other: str) -> str:
    _, won = await first_completed(leg(one), leg(other))
    return won


@workflow
async def tried(one: str, other: str) -> str:
    async def fails() -> str:
        await sleep(MINUTE)
        raise Stuck("no")

    _, won = await first_successful(leg(one), fails())
    return won


def test_a_race_goes_on_without_it_and_it_wins_nothing() -> None:
    run = WorkflowTest(raced, app).start("a", "b").cancel(thread=1)
    assert run.status == "running"
    assert run.post(paid, 5).result == "b 5"


def test_a_race_in_which_nobody_is_left_fails_with_all() -> None:
    run = WorkflowTest(raced, app).start("a", "b").cancel(thread=1).cancel(thread=2)
    assert names(run.failure) == ["branch-cancelled", "branch-cancelled"]
    run = WorkflowTest(tried, app).start("a", "b").cancel(thread=1).finish()
    assert names(run.failure) == ["branch-cancelled", "stuck"]


def test_one_that_tidies_up_when_another_one_wins_is_a_loser() -> None:
    test = WorkflowTest(raced, app)
    test.task(give_back).takes(MINUTE)
    run = test.start("a", "b").cancel(thread=1).post(paid, 5).finish()
    assert run.result == "b 5"


def test_one_that_fails_while_it_tidies_up_has_failed_in_its_race() -> None:
    test = WorkflowTest(raced, app)
    test.task(give_back).fails(Stuck("no"))
    run = test.start("a", "b").cancel(thread=1)
    assert run.failure is not None
    assert [names(each) for each in run.failure.causes] == [["stuck", "stuck"], ["stuck", "stuck"]]


@workflow
async def interrupted(name: str) -> str:
    async def hang_up(who: str) -> None:
        try:
            await sleep(HOUR)
        finally:
            await give_back(f"call of {who}")

    try:
        return await interruptible(leg(name), called.interrupts(hang_up))
    except BranchCancelled as gone:
        return f"given up: {gone}"


@pytest.mark.parametrize("thread", [1, 2])
@pytest.mark.parametrize("calls", [False, True])
def test_what_is_interruptible_fails_with_its_body_and_with_what_interrupts_it(
    thread: int, calls: bool
) -> None:
    run = WorkflowTest(interrupted, app).start("a")
    if calls:
        run.post(called, "ann")
    run.cancel("enough", thread=thread)
    assert run.finish().result == "given up: enough"
    tidied = ["finally a", "saga a"]
    assert sorted(given_back(run)) == sorted([*tidied, "call of ann"] if calls else tidied)


def test_a_body_that_is_interrupted_is_cancelled_when_the_handler_has_ended() -> None:
    run = WorkflowTest(interrupted, app).start("a").post(called, "ann").cancel("enough", thread=2)
    assert (run.status, given_back(run)) == ("running", [])
    run.advance(HOUR)
    assert (run.result, given_back(run)) == ("given up: enough", ["call of ann", "finally a", "saga a"])


# -- what is cancelled or stopped already ----------------------------------------------------------------
def test_a_thread_is_cancelled_once_and_a_repeat_changes_nothing_however_late_it_comes() -> None:
    test = WorkflowTest(caught, app)
    test.task(give_back).takes(MINUTE)
    run = test.start("a", "b")
    command = CancelThread("once", 1, "why", "ann")
    run._fold(command, asked=True)
    run._fold(command, asked=True)
    run.cancel("by another", thread=1)
    run.post(paid, 5).finish()
    run._fold(command, asked=True)
    assert run.result == "one was cancelled"
    assert kinds(run, "branch-cancelling") == ["branch-cancelling"]
    assert given_back(run) == ["finally a", "finally b", "saga a"]


def test_a_loser_that_is_cancelled_once_more_has_lost() -> None:
    test = WorkflowTest(raced, app)
    test.task(give_back).takes(MINUTE)
    run = test.start("a", "b").post(paid, 5).advance(MINUTE).cancel("too late", thread=2)
    assert kinds(run, "branch-cancelling") == []
    assert run.finish().result == "a 5"


def test_a_run_that_is_cancelled_has_given_up_all_of_it() -> None:
    test = WorkflowTest(both, app)
    test.task(give_back).takes(MINUTE)
    run = test.start("a", "b").cancel("one", thread=1).cancel("all").finish()
    assert (run.status, run.reason) == ("cancelled", "all")
    run = test.start("a", "b").cancel("all").cancel("one", thread=1).finish()
    assert (run.status, run.reason) == ("cancelled", "all")


def test_a_stop_of_what_is_cancelled_is_lifted_and_that_of_others_stays() -> None:
    run = WorkflowTest(nested, app).start(1)
    for thread in (1, 2, 3):
        run.stop(thread=thread)
    run.cancel(thread=1)
    assert given_back(run) == ["part", "part", "inner"]
    resumed = [event.data.get("thread") for event in run.events if event.kind == "run-resumed"]
    assert (resumed, run.stopped) == ([1, 3], True)
    assert run.finish().status == "running"
    assert run.resume(thread=2).result == "branches failed (1 sub-exception)"


def test_in_a_stopped_run_it_tidies_up_when_the_run_goes_on() -> None:
    run = WorkflowTest(caught, app).start("a", "b").stop().cancel("not this one", thread=1).post(paid, 5)
    assert (run.status, run.stopped, given_back(run)) == ("running", True, [])
    assert run.resume().result == "one was cancelled"
    assert given_back(run) == ["finally a", "finally b", "saga a"]


def test_one_that_was_stopped_while_it_tidied_up_goes_on_when_it_is_cancelled_again() -> None:
    test = WorkflowTest(caught, app)
    test.task(give_back).takes(MINUTE)
    run = test.start("a", "b").cancel("first", thread=1).stop(thread=1).advance(HOUR)
    assert given_back(run) == ["finally a"]
    run.cancel("second", thread=1).finish()
    assert given_back(run) == ["finally a", "saga a"]


@workflow
async def tidied_by_a_child(name: str) -> str:
    async def part() -> None:
        try:
            await sleep(HOUR)
        finally:
            await with_child(name)

    said = ""
    try:
        await gather(part(), sleep(MINUTE))
    except* BranchCancelled:
        said = "cancelled"
    return said


def test_a_child_run_that_tidies_up_and_was_stopped_with_its_branch_goes_on() -> None:
    run = WorkflowTest(tidied_by_a_child, app).start("a").cancel("first", thread=1)
    (child,) = run.children
    run.stop(thread=1)
    assert child.stopped
    run.cancel("second", thread=1)
    assert (child.stopped, child.status) == (False, "running")
    child.children[0].post(paid, 1).post(paid, 2)
    assert (child.status, run.finish().result) == ("completed", "cancelled")


# -- refusals ------------------------------------------------------------------------------------------
def test_what_is_no_branch_is_refused_by_code() -> None:
    run = WorkflowTest(both, app).start("a", "b")
    with pytest.raises(Refused, match="cancel the run, and name no thread") as refused:
        run.cancel(thread=0)
    assert refused.value.code == "CANCEL_INVALID"
    with pytest.raises(Refused, match="has no run thread 9: it has 0, 1, 2") as refused:
        run.cancel(thread=9)
    assert refused.value.code == "THREAD_UNKNOWN"
    with pytest.raises(BadInput, match="without at_once") as wrong:
        run.cancel(thread=1, at_once=True)
    assert wrong.value.code == "CANCEL_INVALID"
    with pytest.raises(Refused) as refused:
        run.cancel("x" * (REASON_BYTES_MAX + 1), thread=1)
    assert refused.value.code == "REASON_TOO_LONG"
    run.cancel(thread=1)
    with pytest.raises(Refused, match="has no run thread 1 any more: it has 0, 2") as refused:
        run.cancel(thread=1)
    assert refused.value.code == "THREAD_UNKNOWN"
    run.cancel(thread=2)
    with pytest.raises(Refused) as refused:
        run.cancel(thread=1)
    assert refused.value.code == "RUN_FINISHED"


@workflow
async def wide(count: int) -> int:
    async def holds() -> None:
        try:
            await sleep(HOUR)
        finally:
            await sleep(HOUR)

    try:
        await gather(*(holds() for _ in range(count)))
    except* BranchCancelled:
        pass
    return count


def test_reasons_have_room_or_are_refused() -> None:
    run = WorkflowTest(wide, app).start(100)
    codes = list[str]()
    for number in range(1, 101):
        try:
            run.cancel("\x01" * REASON_BYTES_MAX, thread=number)
        except Refused as refused:
            codes.append(refused.code if "has no room for it" in refused.message else "?")
    assert set(codes) == {"REASON_TOO_LONG"}
    assert len(encode_state(run._known)) < 1_000_000
    assert run.finish().result == 100


@workflow(limits=Limits(history_events=7))
async def short_of_events(one: str, other: str) -> None:
    await gather(leg(one), leg(other))


def test_where_nothing_more_may_be_told_the_run_ends_by_that_limit() -> None:
    run = WorkflowTest(short_of_events, app).start("a", "b")
    assert (run.status, len(run.events)) == ("running", 7)
    run.cancel(thread=1)
    assert run.failure is not None
    assert (run.failure.name, kinds(run, "branch-cancelling")) == ("history-limit", [])
