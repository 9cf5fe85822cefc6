"""Runs that have failed go on again, where they failed or at another line, with what was set from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from dressage.flow import (
    App,
    Exponential,
    Limits,
    Saga,
    TaskError,
    WorkflowFailure,
    gather,
    sleep,
    wait_until,
    workflow,
)
from dressage.orchestrator.fold.advance import how_ended
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.retention import Keeping
from dressage.orchestrator.fold.state import RunState
from dressage.protocol.commands import CancelRun, ChildEnded, RescueRun, StopRun
from dressage.protocol.errors import BadInput, Refused
from dressage.testing import Run, WorkflowTest

app = App("rescuing")


class Declined(WorkflowFailure): ...


@app.task(retries=1, backoff=Exponential(base=timedelta(seconds=1), jitter=0.0))
def charge(amount: int) -> int:
    return amount


@app.task
def ship(what: str) -> str:
    return what


@app.task
def give_back(what: str) -> None: ...


def down(definition: Any, task: Any = charge, error: Exception | None = None) -> WorkflowTest[..., Any]:
    test: WorkflowTest[..., Any] = WorkflowTest(definition, app)
    test.task(task).raises(error or OSError("down"))
    return test


def calls(run: Run[Any]) -> list[str]:
    return [call.task for call in run.calls]


def kinds(run: Run[Any]) -> list[str]:
    return [event.kind for event in run.events]


def line_of(definition: Any, text: str) -> int:
    """The line of the workflow's file with this text in it."""
    lines, first = inspect.getsourcelines(definition.function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as found:
        call()
    return found.value.code, found.value.message


@workflow
async def order(amount: int) -> str:
    paid = await charge(amount)
    parcel = await ship(f"lamp for {paid}")
    return f"{parcel}, paid"


def test_a_run_goes_on_at_the_task_that_has_failed() -> None:
    test = down(order)
    run = test.run(7)
    assert run.status == "failed"
    test.task(charge).returns(8)
    run.rescue()
    assert run.finish().result == "lamp for 8, paid"
    assert calls(run) == ["charge", "charge", "charge", "ship"]
    assert kinds(run).count("run-failed") == kinds(run).count("run-rescued") == 1
    (rescued,) = [event for event in run.events if event.kind == "run-rescued"]
    assert (rescued.data["status"], rescued.actor) == ("failed", "test")
    assert [event.index for event in run.events] == list(range(len(run.events)))


def test_it_may_fail_again_and_be_rescued_again() -> None:
    test = down(order)
    run = test.run(7)
    run.rescue().finish()
    assert run.status == "failed"
    assert run.failure is not None
    test.task(charge).returns(7)
    assert run.rescue().finish().result == "lamp for 7, paid"
    assert kinds(run).count("run-rescued") == 2


def test_a_failure_of_the_author_is_taken_back_as_well() -> None:
    test = down(order, ship, Declined("no lamp"))
    run = test.run(7)
    assert run.failed_with(Declined)
    test.task(ship).returns("lamp")
    assert run.rescue().finish().result == "lamp, paid"
    assert run.failure is None
    assert calls(run) == ["charge", "ship", "ship"]


def test_a_step_is_skipped_with_what_it_would_have_given() -> None:
    run = down(order).run(7)
    code, message = refused(lambda: run.rescue(skip=True))
    assert (code, "(task charge) would have given" in message) == ("RESCUE_REFUSED", True)
    assert run.rescue(skip=True, value=3).finish().result == "lamp for 3, paid"
    assert calls(run) == ["charge", "charge", "ship"]


def test_a_run_goes_on_at_another_line_with_other_variables() -> None:
    run = down(order, ship).run(7)
    run.rescue(line=line_of(order, "parcel ="), variables={"paid": 1})
    assert run.status == "failed"
    test = down(order, ship)
    run = test.run(7)
    test.task(ship).does(lambda what: what)
    run.rescue(line=line_of(order, "charge("), variables={"amount": 5})
    assert run.finish().result == "lamp for 5, paid"
    assert calls(run) == ["charge", "ship", "charge", "ship"]


@workflow
async def trip(amount: int) -> int:
    async with Saga() as saga:
        saga.undo(give_back, "lamp")
        return await charge(amount)


def test_what_a_saga_has_undone_stays_undone_and_the_step_is_done_anew() -> None:
    test = down(trip)
    run = test.run(7)
    test.task(charge).returns(7)
    assert calls(run) == ["charge", "charge", "give-back"]
    assert run.rescue().finish().result == 7
    assert calls(run) == ["charge", "charge", "give-back", "charge"]


def test_a_saga_begins_anew_where_it_begins() -> None:
    test = down(trip)
    run = test.run(7)
    run.rescue(line=line_of(trip, "Saga()")).finish()
    assert calls(run) == ["charge", "charge", "give-back"] * 2
    assert run.status == "failed"


@workflow
async def tidy(amount: int) -> int:
    try:
        try:
            paid = await charge(amount)
        finally:
            await ship("a letter")
    except TaskError as error:
        await ship("a report")
        raise error
    return paid


def test_the_step_is_meant_that_has_failed_and_not_what_raises_it_again() -> None:
    test = down(tidy)
    run = test.run(7)
    assert calls(run) == ["charge", "charge", "ship", "ship"]
    test.task(charge).returns(7)
    assert run.rescue().finish().result == 7
    assert calls(run)[4:] == ["charge", "ship"]


def test_a_saga_whose_undoing_fails_too_goes_on_at_the_step() -> None:
    test = down(trip)
    test.task(give_back).raises(OSError("down as well"))
    run = test.run(7)
    assert run.failure is not None
    assert run.failure.kind == "group"
    test.task(charge).returns(7)
    assert run.rescue().finish().result == 7
    assert calls(run)[-1] == "charge"


@workflow
async def notified(amount: int) -> int:
    try:
        paid = await charge(amount)
    finally:
        try:
            await ship("word")
        except TaskError:
            await ship("nobody")
    return paid


def test_what_fails_and_is_taken_in_a_finally_is_not_meant() -> None:
    test = down(notified)

    def fails_once(what: str) -> str:
        if what == "word":
            raise OSError("down as well")
        return what

    test.task(ship).does(fails_once)
    run = test.run(7)
    assert calls(run) == ["charge", "charge", "ship", "ship"]
    test.task(charge).returns(7)
    assert run.rescue().finish().result == 7
    assert calls(run)[4:] == ["charge", "ship", "ship"]


@workflow
async def kept(amount: int) -> str:
    try:
        done = await order(amount)
    except TaskError as first:
        try:
            done = await order(amount + 1)
        except TaskError:
            raise first from None
    return done


def test_a_failure_that_is_kept_and_raised_later_is_that_of_its_child() -> None:
    test = down(kept)
    run = test.run(7)
    one, other = run.children
    test.task(charge).returns(7)
    assert run.rescue().finish().result == "lamp for 7, paid"
    assert (one.status, other.status, len(run.children)) == ("completed", "failed", 2)


@workflow
async def refunded(amount: int) -> str:
    done = "nothing"
    try:
        a, b = await gather(charge(amount), charge(amount + 1))
        done = f"{a + b}"
    except* TaskError:
        done = await ship("refund")
    return done


def test_behind_an_except_group_the_line_is_asked_for() -> None:
    """What has failed in a clause is raised with what is left, and stays in what is collected."""
    test = down(refunded)
    test.task(ship).raises(OSError("down as well"))
    run = test.run(7)
    assert run._known.raised is None
    code, message = refused(run.rescue)
    assert (code, "name the line" in message) == ("RESCUE_REFUSED", True)
    test.task(ship).returns("refund")
    assert run.rescue(line=line_of(refunded, "gather(")).finish().result == "refund"


@workflow
async def at_once(amount: int) -> str:
    return await ship(f"{await charge(amount)}")


def test_a_step_whose_result_has_no_name_is_skipped() -> None:
    run = down(at_once).run(7)
    assert run.rescue(skip=True, value=3).finish().result == "3"


@workflow
async def behind_a_saga(amount: int) -> str:
    async with Saga() as saga:
        paid = await charge(amount)
        saga.undo(give_back, f"{paid}")
    return await ship("it")


def test_nothing_goes_on_inside_of_a_saga_that_is_over() -> None:
    run = down(behind_a_saga, ship).run(7)
    code, message = refused(lambda: run.rescue(line=line_of(behind_a_saga, "saga.undo")))
    assert (code, "something that is over" in message) == ("RESCUE_REFUSED", True)
    assert run.rescue(line=line_of(behind_a_saga, "Saga()")).status == "failed"
    assert calls(run) == ["charge", "ship", "charge", "ship"]


async def helped(amount: int) -> int:
    paid = await charge(amount)
    return paid + 0


@workflow
async def twice(amount: int) -> int:
    one = await helped(amount)
    two = await helped(one + 1)
    return two + 0


def test_a_line_that_is_there_several_times_is_not_taken() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(twice, app)

    def some(amount: int) -> int:
        if amount > 7:
            raise OSError("too much")
        return amount

    test.task(charge).does(some)
    run = test.run(7)
    _, first = inspect.getsourcelines(helped)
    with pytest.raises(BadInput) as wrong:
        run.rescue(line=first + 1)
    assert wrong.value.code == "RESCUE_INVALID"
    test.task(charge).returns(9)
    assert run.rescue().finish().result == 9


@workflow(limits=Limits(variables_bytes=1_000))
async def fills(amount: int) -> int:
    text = await ship("x")
    more = text + text
    paid = await charge(amount)
    return paid + len(more)


def test_behind_a_limit_what_was_dropped_is_asked_for() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(fills, app)
    test.task(ship).returns("x" * 700)
    run = test.run(7)
    assert run.failure is not None
    assert run.failure.kind == "limit"
    assert run.rescue(variables={"text": "y"}).status in ("failed", "running", "completed")
    test.task(ship).returns("x")
    again: WorkflowTest[..., Any] = WorkflowTest(fills, app)
    again.task(ship).returns("x" * 900)
    run = again.run(7)
    again.task(ship).returns("x")
    assert run.rescue(line=line_of(fills, "ship(")).finish().result == 9


@workflow
async def both(amount: int) -> list[int]:
    a, b = await gather(charge(amount), charge(amount + 1))
    return [a, b]


def test_all_branches_are_done_anew() -> None:
    test = down(both)
    run = test.run(7)
    test.task(charge).returns(1)
    assert run.rescue().finish().result == [1, 1]
    assert calls(run) == ["charge"] * 6


@workflow
async def each_of(amounts: list[int]) -> int:
    total = 0
    for amount in amounts:
        total = total + await charge(amount)
    last = await ship(f"{total}")
    return total + len(last)


def test_a_loop_goes_on_with_the_item_that_has_failed() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(each_of, app)
    broken = True

    def some(amount: int) -> int:
        if amount == 3 and broken:
            raise OSError("down")
        return amount

    test.task(charge).does(some)
    run = test.run([1, 2, 3, 4])
    assert run.variables["total"] == 3
    broken = False
    assert run.rescue().finish().result == 12
    assert calls(run) == ["charge"] * 6 + ["ship"]


def test_nothing_goes_on_in_a_loop_that_is_over() -> None:
    run = down(each_of, ship).run([1, 2])
    code, message = refused(lambda: run.rescue(line=line_of(each_of, "total + await")))
    assert code == "RESCUE_REFUSED"
    assert "stands in the middle of something that is over" in message
    assert run.rescue(line=line_of(each_of, "for amount")).status == "failed"
    assert calls(run) == ["charge", "charge", "ship", "charge", "charge", "ship"]


def test_where_nothing_goes_on() -> None:
    run = down(both).run(7)
    with pytest.raises(BadInput) as wrong:
        run.rescue(line=1)
    assert wrong.value.code == "RESCUE_INVALID"
    code, message = refused(lambda: run._fold(RescueRun("x", node=999), asked=True))
    assert (code, "has no step 999" in message) == ("RESCUE_REFUSED", True)
    lanes = run._definition.positions.lanes
    inside = next(number for number, lane in lanes.items() if lane)
    code, message = refused(lambda: run._fold(RescueRun("x", node=inside), asked=True))
    assert (code, "stands in a branch" in message) == ("RESCUE_REFUSED", True)
    assert run.status == "failed"


@workflow
async def early(amount: int) -> int:
    if amount > 0:
        raise Declined("too much")
    paid = await charge(amount)
    await ship(f"for {paid}")
    return paid


def test_what_has_no_value_is_asked_for() -> None:
    run = WorkflowTest(early, app).run(7)
    at = line_of(early, "ship(")
    code, message = refused(lambda: run.rescue(line=at))
    assert (code, "needs paid, which has no value" in message) == ("RESCUE_REFUSED", True)
    assert run.rescue(line=at, variables={"paid": 2}).finish().result == 2
    run = WorkflowTest(early, app).run(7)
    assert run.rescue().status == "failed"  # It is raised again.
    assert run.rescue(line=line_of(early, "if amount"), variables={"amount": 0}).finish().result == 0


def test_variables_have_their_types() -> None:
    run = down(order).run(7)
    for given, said in (
        ({"amount": "much"}, "variable amount"),
        ({"amounts": 1}, "has no variable 'amounts': it has amount, paid, parcel"),
        ({"$1": 1}, "has no variable '$1'"),
    ):
        code, message = refused(partial(run.rescue, variables=given))
        assert (code, said in message) == ("RESCUE_REFUSED", True), message
    assert kinds(run)[-1] == "run-failed"


def test_only_what_has_failed_is_rescued() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(order, app)
    assert refused(test.run(7).rescue)[0] == "RUN_FINISHED"
    waiting: WorkflowTest[..., Any] = WorkflowTest(napping, app)
    run = waiting.start(7)
    assert refused(run.rescue)[0] == "RUN_OPEN"
    run.cancel()
    assert refused(run.rescue)[0] == "RUN_FINISHED"


@workflow
async def napping(amount: int) -> int:
    await sleep(timedelta(hours=1))
    return amount


def test_a_rescue_that_comes_twice_is_one() -> None:
    test = down(order)
    run = test.run(7)
    test.task(charge).returns(7)
    for _ in range(2):
        run._fold(RescueRun("once"), asked=True)
    assert run.finish().result == "lamp for 7, paid"
    run._fold(RescueRun("once"), asked=True)
    assert kinds(run).count("run-rescued") == 1


# -- child runs ------------------------------------------------------------------------------------
@workflow
async def outer(amount: int) -> str:
    done = await order(amount)
    return f"{done}!"


@workflow
async def outermost(amount: int) -> str:
    done = await outer.options(run_id=f"of-{amount}")(amount)
    return f"{done}!"


def test_point_19_a_rescue_goes_down_to_the_child_that_has_failed() -> None:
    test = down(outermost)
    run = test.run(7)
    middle = run.children[0]
    inner = middle.children[0]
    assert [each.status for each in (run, middle, inner)] == ["failed"] * 3
    test.task(charge).returns(7)
    for child in (middle, inner):
        assert refused(child.rescue)[0] == "RUN_OWNED"
    assert run.rescue().finish().result == "lamp for 7, paid!!"
    assert [each.status for each in (run, middle, inner)] == ["completed"] * 3
    assert (len(run.children), len(middle.children)) == (1, 1)
    assert [kinds(each).count("run-rescued") for each in (run, middle, inner)] == [1, 1, 1]
    assert calls(inner) == ["charge", "charge", "charge", "ship"]


def test_a_child_that_fails_again_fails_its_parent_again() -> None:
    test = down(outer)
    run = test.run(7)
    assert run.rescue().finish().status == "failed"
    test.task(charge).returns(7)
    assert run.rescue().finish().result == "lamp for 7, paid!"
    assert len(run.children) == 1


@workflow
async def takes_it(amount: int) -> str:
    try:
        return await order(amount)
    except TaskError:
        return await ship("nothing")


def test_a_child_is_not_rescued_whose_parent_has_taken_its_failure() -> None:
    run = down(takes_it).run(7)
    assert run.status == "completed"
    assert refused(run.children[0].rescue)[0] == "RUN_OWNED"


def test_a_child_that_was_cancelled_is_started_anew() -> None:
    @workflow
    async def waits_for(amount: int) -> int:
        return await napping(amount)

    test: WorkflowTest[..., Any] = WorkflowTest(waits_for, app)
    run = test.start(7)
    run.children[0].cancel()
    assert run.status == "failed"
    assert run.rescue().finish().result == 7
    assert [each.status for each in run.children] == ["cancelled", "completed"]


def test_what_a_child_said_before_it_was_rescued_does_not_count_any_more() -> None:
    """Between shards what is told may come again, however late."""
    test = down(outer)
    run = test.run(7)
    child = run.children[0]
    ended = [each for each in said_by(child) if isinstance(each, ChildEnded)]
    assert [each.times for each in ended] == [0]
    test.task(charge).takes(timedelta(minutes=1)).returns(7)
    run.rescue()
    rescue = RescueRun("late", parent=child._known.parent, times=1)
    with pytest.raises(Refused) as late:
        run._fold(ended[0], asked=True)
    assert late.value.code == "RESULT_STALE"
    child._fold(rescue, asked=True)
    assert run.finish().result == "lamp for 7, paid!"
    child._fold(rescue, asked=True)
    assert [kinds(each).count("run-rescued") for each in (run, child)] == [1, 1]


def test_a_cancel_from_before_a_rescue_does_not_cancel_the_child_when_it_comes_again() -> None:
    """Between shards what is told may come again, however late."""
    test = down(outer)
    run = test.run(7)
    child = run.children[0]
    parent = child._known.parent
    test.task(charge).takes(timedelta(minutes=1)).returns(7)
    run.rescue()
    assert (child.status, child._known.times) == ("running", 1)
    child._fold(CancelRun("late", parent=parent), asked=True)
    assert (child.status, child._known.cancelling) == ("running", False)
    child._fold(CancelRun("now", parent=parent, times=1), asked=True)
    assert child.finish().status == "cancelled"


def test_a_rescued_child_is_cancelled_by_who_waits_for_it_no_more() -> None:
    test = down(outer)
    run = test.run(7)
    child = run.children[0]
    test.task(charge).takes(timedelta(hours=1)).returns(7)
    run.rescue()
    run.cancel()
    assert run.finish().status == "cancelled"
    assert (child.status, child._known.times) == ("cancelled", 1)


def said_by(child: Run[Any]) -> list[Any]:
    """What a child that has failed has told its parent."""
    state = child._known
    assert state.parent is not None
    return [how_ended(state, state.parent, state.times).command]


def test_a_child_whose_failure_came_while_its_parent_was_stopped_is_rescued() -> None:
    test = down(outer)
    test.task(charge).takes(timedelta(minutes=1)).raises(OSError("down"))
    run = test.start(7)
    # The child is told so only when it has ended.
    stopped = fold(run._known, StopRun("stop"), run.run_id, run._world.stamp(), run._definition)
    assert isinstance(stopped.state, RunState)
    run._state = stopped.state
    child = run.children[0]
    run.advance(timedelta(hours=1))
    assert (child.status, run.status) == ("failed", "running")
    run.resume().finish()
    assert run.status == "failed"
    test.task(charge).returns(7)
    assert run.rescue().finish().result == "lamp for 7, paid!"
    assert len(run.children) == 1


def test_a_child_that_cannot_be_rescued_yet_is_not_started_anew() -> None:
    """It has ended where it was before the number of shards grew, for example."""
    test = down(outer)
    run = test.run(7)
    child = run.children[0]
    refusing = RescueRun("now", parent=child._known.parent, times=1)
    keeping = Keeping(elsewhere=True)
    refused_so = fold(
        child._known, refusing, child.run_id, run._world.stamp(), child._definition, None, keeping
    )
    assert refused_so.code == "RUN_ELSEWHERE"
    (told,) = refused_so.effects
    assert isinstance(told, SendCommand)
    # The parent is rescued, and told so.
    rescued = fold(run._known, RescueRun("top"), run.run_id, run._world.stamp(), run._definition)
    run._state = rescued.run
    run._fold(told.command)
    assert run.failure is not None
    assert run.failure.name == "run-elsewhere"
    test.task(charge).returns(7)
    assert run.rescue().finish().result == "lamp for 7, paid!"
    assert len(run.children) == 1


def test_a_skipped_child_stays_as_it_is() -> None:
    test = down(outer)
    run = test.run(7)
    assert run.rescue(skip=True, value="bought elsewhere").finish().result == "bought elsewhere!"
    assert run.children[0].status == "failed"


# -- another run ------------------------------------------------------------------------------------------
def test_another_run_goes_on_where_one_has_failed() -> None:
    test = down(outer)
    run = test.run(7)
    test.task(charge).returns(7)
    before = len(run.events)
    other = run.fork(variables={"amount": 8}).finish()
    assert (other.result, run.status, len(run.events)) == ("lamp for 7, paid!", "failed", before)
    assert [call.arguments for call in other.children[0].calls] == [{"amount": 8}, {"what": "lamp for 7"}]
    assert other.children[0].run_id != run.children[0].run_id
    assert [(event.kind, event.data) for event in other.events[:2]] == [
        ("run-started", {"input": {"amount": 7}, "forked_from": run.run_id}),
        ("variable-changed", {"name": "amount", "value": 8}),
    ]


def test_another_run_begins_at_a_line_of_one_that_has_completed() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(order, app)
    run = test.run(7)
    assert refused(run.fork)[0] == "RESCUE_REFUSED"
    other = run.fork(line=line_of(order, "ship("), variables={"paid": 1}).finish()
    assert (other.result, run.result) == ("lamp for 1, paid", "lamp for 7, paid")
    assert calls(other) == ["ship"]
    assert other.fork(line=line_of(order, "ship(")).finish().result == "lamp for 1, paid"


def test_no_other_run_is_made_of_one_that_goes_on() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(napping, app)
    run = test.start(7)
    assert refused(run.fork)[0] == "RUN_OPEN"
    run.cancel()
    assert run.fork(line=line_of(napping, "sleep(")).finish().result == 7


# -- variables of a run that goes on ------------------------------------------------------------------
def test_what_waits_for_a_condition_looks_at_what_was_set() -> None:
    @workflow
    async def waits(limit: int) -> int:
        paid = 0
        await wait_until(lambda: paid >= limit)
        await ship("it")
        return paid

    test: WorkflowTest[..., Any] = WorkflowTest(waits, app)
    run = test.start(5)
    run.edit({"paid": 4})
    assert run.status == "running"
    run.edit({"limit": 4})
    assert run.finish().result == 4
    told = [(event.kind, event.data.get("names", event.data.get("name"))) for event in run.events[3:7]]
    assert told == [
        ("variables-edited", ["paid"]),
        ("variable-changed", "paid"),
        ("variables-edited", ["limit"]),
        ("variable-changed", "limit"),
    ]


def test_what_is_no_variable_is_not_set_and_nothing_happens() -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(napping, app)
    run = test.start(5)
    before = len(run.events)
    for given in ({"amount": "x"}, {"amounts": 5}, {"amount": 6, "other": 1}):
        assert refused(partial(run.edit, given))[0] == "EDIT_REFUSED"
    assert (len(run.events), run.variables) == (before, {"amount": 5})
    assert refused(lambda: run.edit({"amount": 6}, thread=3))[0] == "THREAD_UNKNOWN"
    run.finish()
    assert refused(lambda: run.edit({"amount": 6}))[0] == "RUN_FINISHED"


def test_a_variable_of_a_branch_is_named_with_it() -> None:
    @workflow
    async def branching(n: int) -> int:
        async def one(k: int) -> int:
            mine = k
            await sleep(timedelta(hours=1))
            return mine

        a, b = await gather(one(n), one(n + 1))
        return a * 10 + b

    test: WorkflowTest[..., Any] = WorkflowTest(branching, app)
    run = test.start(1)
    code, message = refused(lambda: run.edit({"one.mine": 7}))
    assert (code, "of a branch" in message) == ("EDIT_REFUSED", True), message
    run.edit({"one.mine": 7}, thread=2)
    assert run.finish().result == 17


def test_a_run_that_has_moved_on_since_is_known_by_its_state_alone() -> None:
    """What is needed for a rescue is in the state, also behind a restart."""
    run = down(order).run(7)
    state = run._known
    assert state.raised is not None
    assert msgspec.json.decode(msgspec.json.encode(state.raised))["node"] == state.raised.node
