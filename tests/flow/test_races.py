"""Races: the first branch that ends wins, the others are cancelled for good, and what they have to tidy up is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

import msgspec
import pytest
from tests.limits.specs import Run as Folded  # pyright: ignore[reportMissingImports]
from tests.limits.specs import expr, raw, spec_of  # pyright: ignore[reportMissingImports]

from dressage.client import RunFailed
from dressage.flow import (
    Event,
    Exponential,
    Saga,
    WorkflowFailure,
    first_completed,
    first_successful,
    gather,
    sleep,
    task,
    workflow,
)
from dressage.flow.drawing import node_text
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, SetTimer
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import decode_state, encode_state
from dressage.protocol.commands import FailureInfo, PostEvent, TaskResult, TimerFired, WorkerInfo
from dressage.protocol.errors import BadSpec, DefinitionError
from dressage.protocol.spec import (
    Branch,
    EventDef,
    EventNode,
    GatherNode,
    Node,
    ReturnNode,
    SleepNode,
    TaskDef,
    TaskNode,
)
from dressage.protocol.spec_check import check_spec
from dressage.protocol.types import ANY
from dressage.testing import WorkflowTest

SECOND = timedelta(seconds=1)


class Declined(WorkflowFailure):
    pass


@dataclass
class Offer:
    supplier: str
    price: int


@task
async def ask(supplier: str) -> Offer:
    raise NotImplementedError


@task(retries=3, backoff=Exponential(base=timedelta(hours=1), limit=timedelta(hours=1)))
async def tidy(what: str) -> str:
    raise NotImplementedError


@task
async def other(what: str) -> str:
    raise NotImplementedError


answered = Event("answered", of=int)
withdrawn = Event("withdrawn", of=str)


@workflow
async def cheapest(deadline: int) -> str:
    match await first_completed(ask("left"), other("x"), sleep(deadline)):
        case 0, offer:
            return f"{offer.supplier} for {offer.price}"
        case 1, text:
            return text
        case _:
            return "too late"


def racing(left: float, right: float, deadline: int = 60) -> Any:
    test = WorkflowTest(cheapest)
    test.task(ask).does(lambda supplier: Offer(supplier, 7)).takes(left * SECOND)
    test.task(other).returns("right").takes(right * SECOND)
    return test.run(deadline)


def ended(run: Any) -> list[tuple[int, bool]]:
    """The places of the branches in the order of their ends, and whether each was cancelled."""
    return [
        (each.data["branch"], each.data.get("cancelled", False))
        for each in run.events
        if each.kind == "branch-ended"
    ]


@pytest.mark.parametrize(
    ("left", "right", "deadline", "result", "elapsed"),
    [
        (1, 5, 60, "left for 7", 1),
        (5, 1, 60, "right", 1),
        (5, 5, 3, "too late", 3),
        (2, 3, 3, "left for 7", 2),
    ],
)
def test_the_first_that_ends_wins_and_the_race_is_over(
    left: float, right: float, deadline: int, result: str, elapsed: int
) -> None:
    run = racing(left, right, deadline)
    assert run.result == result
    assert run.elapsed == elapsed * SECOND
    assert sorted(cancelled for _, cancelled in ended(run)) == [False, True, True]


def test_a_failure_that_is_first_is_raised_as_itself() -> None:
    test = WorkflowTest(cheapest)
    test.task(ask).fails(Declined("no")).takes(SECOND)
    test.task(other).returns("right").takes(2 * SECOND)
    run = test.run(60)
    assert run.failed_with(Declined)
    assert run.elapsed == SECOND


@workflow
async def any_offer(suppliers: list[str]) -> str:
    place, offer = await first_successful(ask(suppliers[0]), ask(suppliers[1]), ask(suppliers[2]))
    return f"{place}: {offer.supplier}"


def asking(*fail: str) -> Any:
    test = WorkflowTest(any_offer)

    def offer(supplier: str) -> Offer:
        if supplier in fail:
            raise Declined(supplier)
        return Offer(supplier, 1)

    test.task(ask).does(offer)
    return test.run(["a", "b", "c"])


def test_of_the_successful_ones_failures_before_it_do_not_count() -> None:
    run = asking("a", "b")
    assert run.result == "2: c"
    failed = [
        each.data["failure"] for each in run.events if each.kind == "branch-ended" and "failure" in each.data
    ]
    assert [each["message"] for each in failed] == ["a", "b"]
    assert asking().result == "0: a"


def test_when_all_fail_all_failures_are_raised_in_the_order_of_the_branches() -> None:
    failure = asking("c", "b", "a").failure
    assert failure.kind == "group"
    assert [each.message for each in failure.causes] == ["a", "b", "c"]


@workflow
async def tidied(deadline: int) -> str:
    async def careful(what: str) -> str:
        try:
            async with Saga() as saga:
                saga.undo(other, what)
                await answered.wait()
        except Exception:
            # That it was cancelled is nothing that a branch could take.
            return "caught"
        finally:
            await tidy(what)
        return "answered"

    place, _ = await first_completed(careful("a"), sleep(deadline), careful("b"))
    return f"{place}"


def test_finally_and_undo_of_losers_run_before_the_race_is_over() -> None:
    test = WorkflowTest(tidied)
    test.task(other).returns("undone").takes(5 * SECOND)
    test.task(tidy).returns("tidied").takes(10 * SECOND)
    run = test.run(60)
    assert run.result == "1"
    assert run.elapsed == 75 * SECOND
    assert sorted((call.task, call.arguments["what"]) for call in run.calls) == [
        ("other", "a"),
        ("other", "b"),
        ("tidy", "a"),
        ("tidy", "b"),
    ]
    assert not [each for each in run.events if each.kind == "failure-caught"]


def test_a_loser_whose_tidying_fails_fails_the_race() -> None:
    test = WorkflowTest(tidied)
    test.task(other).returns("undone")
    test.task(tidy).does(lambda what: "fine" if what == "b" else _decline(what))
    failure = test.run(60).failure
    assert failure is not None
    assert failure.kind == "group"
    assert [(each.name, each.message) for each in failure.causes] == [("declined", "a")]


def test_an_undo_that_fails_is_told_without_the_cancelling() -> None:
    test = WorkflowTest(tidied)
    test.task(other).does(_decline)
    test.task(tidy).returns("tidied")
    run = test.run(60)
    # The saga's group of failures is caught in its own branch, as any failure there.
    assert run.result == "1"
    caught = [each.data["failure"] for each in run.events if each.kind == "failure-caught"]
    groups = [each for each in caught if each.get("kind") == "group"]
    assert [[cause["message"] for cause in each["causes"]] for each in groups] == [["a"], ["b"]]


def _decline(what: str) -> str:
    raise Declined(what)


@workflow
async def both_fail(deadline: int) -> str:
    async def careful() -> str:
        try:
            await answered.wait()
        finally:
            await tidy("it")
        return "answered"

    await first_completed(careful(), ask("a"))
    return "never"


def test_what_the_winner_failed_with_is_among_the_failures() -> None:
    test = WorkflowTest(both_fail)
    test.task(tidy).does(_decline)
    test.task(ask).fails(Declined("winner"))
    failure = test.run(60).failure
    assert failure is not None
    assert [each.message for each in failure.causes] == ["it", "winner"]
    assert failure.message == "branches failed (2 sub-exceptions)"


@workflow
async def one_of_two(n: int) -> list[str]:
    found = [""][:0]
    await sleep(1)
    while len(found) < n:
        match await first_completed(answered.wait(), withdrawn.wait(), sleep(timedelta(days=2))):
            case 0, number:
                found = [*found, f"{number}"]
            case 1, text:
                found = [*found, text]
            case _:
                found = [*found, "nothing"]
    return found


def test_one_of_several_events_takes_one_and_leaves_the_others() -> None:
    test = WorkflowTest(one_of_two)
    test.comes(withdrawn, "w1").comes(withdrawn, "w2").comes(answered, 1, after=timedelta(0))
    # All came before the first wait. What the branches behind the winner would take is still there.
    assert test.run(3).result == ["1", "w1", "w2"]
    late = WorkflowTest(one_of_two).comes(answered, 5, after=timedelta(days=3))
    run = late.run(2)
    assert run.result == ["nothing", "5"]
    assert run.elapsed == timedelta(days=3)


def test_an_event_that_a_loser_waited_for_is_there_for_the_next_wait() -> None:
    run = WorkflowTest(one_of_two).start(2).advance(SECOND)
    run.post(answered, 1)
    run.post(withdrawn, "w")
    assert run.result == ["1", "w"]


@workflow
async def nested(deadline: int) -> str:
    async def inner() -> str:
        async def waiting(what: str) -> None:
            try:
                await answered.wait()
            finally:
                await tidy(what)

        try:
            await gather(waiting("a"), waiting("b"))
        finally:
            await tidy("inner")
        return "inner"

    async def middle() -> str:
        place, text = await first_completed(inner(), other("x"))
        return f"{place} {text}"

    place, text = await first_completed(middle(), sleep(deadline), answered.wait())
    return f"{place} {text}"


def test_a_race_in_a_race_and_a_gather_in_it_are_cancelled_from_the_inside_out() -> None:
    test = WorkflowTest(nested)
    test.task(other).returns("x").takes(timedelta(days=1))
    test.task(tidy).returns("tidied").takes(SECOND)
    run = test.run(60)
    assert run.result == "1 None"
    assert [call.arguments["what"] for call in run.calls] == ["x", "a", "b", "inner"]
    assert run.elapsed == 62 * SECOND


def test_a_loser_that_tidies_up_already_is_not_disturbed_by_another_race_that_ends() -> None:
    test = WorkflowTest(nested)
    test.task(other).returns("x").takes(SECOND)
    test.task(tidy).returns("tidied").takes(40 * SECOND)
    run = test.run(60)
    # The inner race is decided after a second, and its loser busy until the 81st; the outer one ends at the 60th.
    assert run.result == "1 None"
    assert [call.arguments["what"] for call in run.calls] == ["x", "a", "b", "inner"]
    assert run.elapsed == 81 * SECOND


@workflow
async def goes_on(deadline: int) -> str:
    async def stubborn() -> str:
        try:
            try:
                await answered.wait()
            finally:
                await tidy("it")
        except Declined:
            await sleep(100)
        return "stubborn"

    place, _ = await first_completed(stubborn(), sleep(deadline))
    return f"{place}"


def test_a_loser_that_takes_what_its_own_finally_raised_goes_on_to_its_end() -> None:
    test = WorkflowTest(goes_on)
    test.task(tidy).does(_decline)
    run = test.run(60)
    assert run.result == "1"
    assert run.elapsed == 160 * SECOND


def test_the_delay_of_a_losers_retry_is_taken_back() -> None:
    @workflow
    async def retrying(deadline: int) -> str:
        place, _ = await first_completed(tidy("x"), sleep(deadline))
        return f"{place}"

    test = WorkflowTest(retrying)
    test.task(tidy).raises(OSError("down"), times=1).then_returns("up")
    run = test.start(60)
    run.advance(timedelta(minutes=1))
    assert run.result == "1"
    run.advance(timedelta(days=1))
    assert len(test.task(tidy).calls) == 1


# -- what the fold asks for ------------------------------------------------------------------------
def race(*second: Node, until: Any = "completed") -> Folded:
    """A task against what is given, whose branch begins at node 4."""
    branches = (Branch(2, {}, ("b",)), Branch(4, {}, ("c",)))
    nodes: list[Node] = [
        GatherNode(branches, 1, target="a", until=until),
        SleepNode(expr("9"), 6),
        *(TaskNode("work", {}, 3, target="b"), ReturnNode(expr("b"))),
        *second,
        ReturnNode(expr("c")),
    ]
    nodes += [ReturnNode(expr("list(a)"))] * (7 - len(nodes))
    return Folded(spec_of(nodes, tasks=(TaskDef("work", (), ANY),), events=(EventDef("e", ANY),)))


def dispatched(outcome: Outcome) -> str:
    return next(each.task_id for each in outcome.effects if isinstance(each, DispatchTask))


def report(run: Folded, task_id: str) -> Outcome:
    return run.apply(TaskResult(task_id, WorkerInfo("w", 1.0), output=raw("done")))


def test_point_12_the_late_result_of_a_loser_is_refused_and_changes_nothing() -> None:
    run = race(EventNode("e", 5, target="c"))
    task_id = dispatched(run.start())
    outcome = run.apply(PostEvent("e", "id", raw("came"), "ann"))
    assert outcome.run is not None
    before = encode_state(outcome.run)
    late = report(run, task_id)
    assert late.code == "RESULT_STALE"
    assert run.state is not None
    assert encode_state(run.state) == before
    done = run.apply(TimerFired(outcome.run.threads[0].timers[0]))
    assert done.run is not None
    assert done.run.output == raw([1, "came"])


def test_what_this_command_began_for_a_loser_is_not_asked_for() -> None:
    run = race(SleepNode(expr("0 / 1"), 5))
    outcome = run.start()
    assert [type(each) for each in outcome.effects] == [DispatchTask, SetTimer]
    at_once = race(ReturnNode(expr("7")))
    outcome = at_once.start()
    assert outcome.run is not None
    assert [type(each) for each in outcome.effects] == [SetTimer]
    assert [thread.node for thread in outcome.run.threads] == [1]


def test_the_timer_of_a_loser_is_cancelled() -> None:
    run = race(SleepNode(expr("30"), 5))
    outcome = report(run, dispatched(run.start()))
    assert [type(each) for each in outcome.effects] == [CancelTimer, SetTimer]


def test_the_state_of_a_race_is_read_as_it_was_written() -> None:
    run = race(EventNode("e", 5, target="c"), until="successful")
    outcome = run.start()
    assert outcome.run is not None
    assert decode_state(encode_state(outcome.run)) == outcome.run


def test_a_race_without_branches_is_no_spec() -> None:
    with pytest.raises(BadSpec, match="node 0 is a race without branches"):
        check_spec(spec_of([GatherNode((), 1, until="completed"), ReturnNode()]))


# -- definition ------------------------------------------------------------------------------------
HEAD = """\
from dressage.flow import first_completed, gather, sleep, task, workflow
@task
async def one(x: int) -> int: ...
@workflow
async def refused(x: int) -> int:
"""


@pytest.mark.parametrize("function", ["first_completed", "gather"])
def test_a_finally_knows_that_its_branch_may_be_cancelled(
    define: Callable[[str], ModuleType], function: str
) -> None:
    """By a race that it loses, or with its run."""
    body = """\
    async def part() -> int:
        try:
            await sleep(1)
            y = 2
        finally:
            await one(y)
        return y
    place, n = await {function}(part(), sleep(5))
    return x
"""
    with pytest.raises(DefinitionError, match="y may have no value here"):
        define(HEAD + body.format(function=function))


def test_a_picture_says_which_kind_of_race_it_is() -> None:
    for each, text in ((cheapest, "first_completed"), (any_offer, "first_successful")):
        drawn = [node_text(each.spec, node) for node in each.spec.nodes if isinstance(node, GatherNode)]
        assert [one.rpartition("= ")[2] for one in drawn] == [f"await {text}(3 branches)"]


# -- as plain Python -------------------------------------------------------------------------------
def in_python(offers: dict[str, tuple[float, int | None]]) -> str:
    async def offer(supplier: str) -> Offer:
        seconds, price = offers[supplier]
        await asyncio.sleep(seconds)
        if price is None:
            raise Declined(supplier)
        return Offer(supplier, price)

    async def run() -> str:
        with ask.faked(offer):
            return await any_offer(["a", "b", "c"])

    return asyncio.run(run())


def test_the_function_races_in_plain_python_too() -> None:
    assert in_python({"a": (60, 1), "b": (0, None), "c": (0.01, 3)}) == "2: c"
    with pytest.raises(ExceptionGroup) as raised:
        in_python({"a": (0.01, None), "b": (0, None), "c": (0, None)})
    assert [str(each) for each in raised.value.exceptions] == ["a", "b", "c"]


def test_a_race_that_is_cancelled_in_plain_python_waits_for_its_branches() -> None:
    told: list[str] = []

    async def careful(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            told.append(name)

    async def run() -> None:
        racing = asyncio.ensure_future(first_completed(careful("a"), gather(careful("b"), careful("c"))))
        await asyncio.sleep(0.01)
        racing.cancel()
        await asyncio.sleep(0.01)
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing

    asyncio.run(run())
    assert sorted(told) == ["a", "b", "c"]


def test_a_failed_run_tells_of_the_winner_that_failed() -> None:
    test = WorkflowTest(cheapest)
    test.task(ask).raises(OSError("down"))
    test.task(other).returns("right").takes(SECOND)
    with pytest.raises(RunFailed) as raised:
        _ = test.run(60).result
    assert isinstance(raised.value.failure, FailureInfo)
    assert raised.value.failure.kind == "task-error"
    assert msgspec.json.decode(msgspec.json.encode(raised.value.failure))["name"] == "OSError"


def test_in_plain_python_too_those_behind_a_branch_that_ends_at_once_do_not_begin() -> None:
    begun: list[str] = []

    async def one(name: str, seconds: float | None) -> str:
        begun.append(name)
        if seconds is not None:
            await asyncio.sleep(seconds)
        return name

    async def run() -> tuple[int, str]:
        return await first_completed(one("a", 60), one("b", None), one("c", None))

    assert asyncio.run(run()) == (1, "b")
    assert begun == ["a", "b"]


@workflow
async def undoing(deadline: int) -> str:
    async def loser() -> str:
        async with Saga() as saga:
            saga.undo(other, "first")
            saga.undo(tidy, "second")
            if deadline > 0:
                raise Declined("by itself")
        return ""

    place, _ = await first_completed(loser(), sleep(deadline))
    return f"{place}"


@pytest.mark.parametrize("failing", [False, True])
def test_a_saga_that_is_being_undone_when_its_branch_loses_is_undone_to_its_end(failing: bool) -> None:
    test = WorkflowTest(undoing)
    test.task(tidy).returns("undone").takes(5 * SECOND)
    if failing:
        test.task(tidy).fails(Declined("no"))
    test.task(other).returns("undone")
    run = test.run(1)
    assert [call.arguments["what"] for call in run.calls] == ["second", "first"]
    assert run.elapsed == 5 * SECOND
    if failing:
        # What the branch had failed with before is of no interest any more; what could not be undone is.
        assert run.failure is not None
        assert [[each.message for each in group.causes] for group in run.failure.causes] == [["no"]]
    else:
        assert run.result == "1"


def test_plain_python_undoes_to_the_end_as_well() -> None:
    undone: list[str] = []

    async def undo(what: str) -> str:
        await asyncio.sleep(0.05)
        undone.append(what)
        return what

    async def run() -> tuple[int, None]:
        async def loser() -> None:
            async with Saga() as saga:
                saga.undo(other, "first")
                saga.undo(tidy, "second")
                raise Declined("by itself")

        with other.faked(undo), tidy.faked(undo):
            return await first_completed(loser(), asyncio.sleep(0.01))

    assert asyncio.run(run()) == (1, None)
    assert undone == ["second", "first"]


@workflow
async def last_of_three(n: float | None) -> str:
    match await first_completed(ask("a"), other("b"), sleep(n if n is not None else 60)):
        case 0, offer:
            return offer.supplier
        case 1, text:
            return text
        case _, nothing:
            return f"{nothing}"


def test_the_last_case_of_a_race_may_take_whatever_is_left() -> None:
    test = WorkflowTest(last_of_three)
    test.task(ask).hangs()
    test.task(other).hangs()
    run = test.run(0.5)
    assert (run.result, run.elapsed) == ("None", SECOND / 2)
