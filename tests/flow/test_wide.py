"""Wide fan-out: a branch for each item of a list, in order, some at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from tests.limits.specs import Run as Folded  # pyright: ignore[reportMissingImports]
from tests.limits.specs import expr, raw, spec_of  # pyright: ignore[reportMissingImports]

from dressage.flow import (
    Event,
    Searchable,
    WorkflowFailure,
    first_completed,
    first_successful,
    gather,
    sleep,
    task,
    workflow,
)
from dressage.flow.drawing import node_text
from dressage.orchestrator.fold.limits import RUN_THREADS_MAX
from dressage.orchestrator.fold.state import decode_state, encode_state
from dressage.protocol.errors import BadSpec
from dressage.protocol.spec import EACH_LIMIT, Branch, Each, GatherNode, Node, ReturnNode
from dressage.protocol.spec_check import check_spec
from dressage.testing import WorkflowTest

SECOND = timedelta(seconds=1)


class Declined(WorkflowFailure):
    pass


@dataclass
class View:
    status: Searchable[str] = "NEW"


@task
async def charge(order: str, amount: int = 1) -> int:
    raise NotImplementedError


told = Event("told", of=int)


@workflow
async def charge_all(orders: list[str], at_once: int) -> list[int]:
    charged = await gather(*(charge(order) for order in orders), limit=at_once)
    return list(charged)


def charging(*fail: str) -> WorkflowTest[Any, Any]:
    test = WorkflowTest(charge_all)

    def charged(order: str, amount: int = 1) -> int:
        if order in fail:
            raise Declined(order)
        return int(order) * amount

    test.task(charge).does(charged).takes(SECOND)
    return test


ORDERS = [str(number) for number in range(10)]


@pytest.mark.parametrize(("at_once", "seconds"), [(1, 10), (3, 4), (9, 2), (10, 1), (1000, 1)])
def test_so_many_run_at_a_time_and_the_results_are_in_order(at_once: int, seconds: int) -> None:
    run = charging().run(ORDERS, at_once)
    assert run.result == list(range(10))
    assert run.elapsed == seconds * SECOND
    assert [call.arguments["order"] for call in run.calls] == ORDERS


def test_all_of_them_run_and_all_failures_are_raised_in_their_order() -> None:
    run = charging("7", "2").run(ORDERS, 3)
    assert run.failure is not None
    assert [each.message for each in run.failure.causes] == ["2", "7"]
    assert len(run.calls) == 10


def test_no_items_are_no_branches() -> None:
    run = charging().run([], 3)
    assert run.result == []
    assert not run.calls


@pytest.mark.parametrize("at_once", [0, -1])
def test_a_limit_below_one_is_an_error_of_the_workflow(at_once: int) -> None:
    run = charging().run(ORDERS, at_once)
    assert run.failure is not None
    assert (run.failure.kind, run.failure.family[0]) == ("expression-error", "ValueError")
    assert not run.calls


@workflow
async def by_function(groups: dict[str, list[int]], least: int) -> list[str]:
    view, factor = View(), 10

    async def told_of(name: str, amount: int, *, place: int) -> str:
        view.status = name
        total = await charge(name, amount * factor)
        return f"{place}:{total}"

    got = await gather(
        *[
            told_of(name, amount, place=len(view.status))
            for name, amounts in groups.items()
            for amount in amounts
            if amount >= least
        ]
    )
    return [*got, view.status]


def test_what_branches_are_given_is_computed_before_the_first_one_begins() -> None:
    test = WorkflowTest(by_function)
    test.task(charge).does(lambda order, amount=1: amount)
    run = test.run({"aaaa": [1, 5], "bb": [6]}, 2)
    # The view's status is changed by the branches, and was NEW for all of them.
    assert run.result == ["3:50", "3:60", "bb"]


def test_how_far_it_is_can_be_read() -> None:
    run = charging().start(ORDERS, 4).advance(2 * SECOND)
    assert "branches, of which 8 of 10 have ended" in run.waiting_for
    assert run.finish().result == list(range(10))


@workflow
async def widely(count: int) -> int:
    return sum(await gather(*(charge("1", n) for n in range(count))))


def test_of_more_than_a_run_has_room_for_as_many_run_as_there_is_room() -> None:
    run = charging().start([str(number) for number in range(RUN_THREADS_MAX + 500)], 10 * RUN_THREADS_MAX)
    assert run.waiting_for.startswith("branches, of which 0 of 1500 have ended")
    assert len(run.calls) == RUN_THREADS_MAX - 1
    assert run.finish().result == list(range(RUN_THREADS_MAX + 500))
    assert run.elapsed == 2 * SECOND


def test_thousands_of_branches_fit_into_a_run_and_hundreds_run_at_a_time() -> None:
    test = WorkflowTest(widely, commands_max=100_000)
    test.task(charge).does(lambda order, amount=1: amount)
    run = test.start(3000)
    assert run.result == sum(range(3000))
    running = most = 0
    for event in run.events:
        running += {"branch-started": 1, "branch-ended": -1}.get(event.kind, 0)
        most = max(most, running)
    assert most == EACH_LIMIT


def test_the_state_between_two_commands_is_read_as_it_was_written() -> None:
    node = GatherNode(
        (Branch(2, {}, ("b",)),), 1, target="a", each=Each(expr("[(1,), (2,), (3,)]"), ("b",), expr("2"))
    )
    run = Folded(spec_of([node, ReturnNode(expr("list(a)")), *_waiting()]))
    outcome = run.start()
    assert outcome.run is not None
    assert outcome.run.output == raw([1, 2, 3])
    assert decode_state(encode_state(outcome.run)) == outcome.run


def _waiting() -> list[Node]:
    return [ReturnNode(expr("b"))]


@workflow
async def quickest(suppliers: list[str]) -> str:
    place, price = await first_successful(*(charge(supplier, 2) for supplier in suppliers))
    return f"{suppliers[place]} {price}"


def test_a_race_of_all_that_a_list_has() -> None:
    test = WorkflowTest(quickest)

    def price(order: str, amount: int = 1) -> int:
        if order != "c":
            raise Declined(order)
        return amount

    test.task(charge).does(price)
    assert test.run(["a", "b", "c", "d"]).result == "c 2"
    nobody = test.run([])
    assert nobody.failure is not None
    assert nobody.failure.family[0] == "ValueError"


def test_every_branch_of_a_race_runs_as_the_last_may_win() -> None:
    test = WorkflowTest(quickest)
    suppliers = [f"{number}" for number in range(RUN_THREADS_MAX - 1)]
    test.task(charge).hangs()
    waiting = test.start(suppliers)
    assert len(waiting.calls) == len(suppliers)
    # One more has no room, and would never win.
    crowded = test.start([*suppliers, "one more"])
    assert crowded.failure is not None
    assert (crowded.failure.kind, crowded.failure.name) == ("limit", "open-branches")


@workflow
async def stopped(orders: list[str]) -> str:
    async def all_of_them() -> int:
        return sum(await gather(*(charge(order) for order in orders), limit=2))

    match await first_completed(all_of_them(), told.wait(), sleep(60)):
        case 0, total:
            return f"{total}"
        case 1, number:
            return f"stopped by {number}"
        case _:
            return "late"


def test_what_has_not_begun_does_not_begin_when_the_race_around_is_lost() -> None:
    test = WorkflowTest(stopped)
    test.task(charge).returns(1).takes(SECOND)
    test.comes(told, 7, after=timedelta(seconds=2.5))
    run = test.run([*ORDERS, *ORDERS])
    assert run.result == "stopped by 7"
    assert len(run.calls) == 6
    assert test.run(["1", "2"]).result == "2"


def test_of_a_lost_branch_only_what_fails_while_it_tidies_up_is_raised() -> None:
    test = WorkflowTest(stopped)
    test.task(charge).fails(Declined("early")).then_returns(1, times=9).takes(SECOND)
    test.comes(told, 7, after=timedelta(seconds=1.5))
    # The first one failed before the race was lost: nobody is interested in that any more.
    assert test.run(ORDERS).result == "stopped by 7"


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (GatherNode((Branch(1), Branch(1)), 1, each=Each(expr("[]"))), "one branch, without arguments"),
        (GatherNode((Branch(1),), 1, each=Each(expr("[]"), ("b",))), "none of its branch's variables"),
        (GatherNode((Branch(1, {}, ("b",)),), 1, each=Each(expr("[]"), ("b", "b"))), "twice"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(node: GatherNode, what: str) -> None:
    with pytest.raises(BadSpec, match=what):
        check_spec(spec_of([node, ReturnNode()]))


@pytest.mark.parametrize("items", ["7", "[1, 2]", "[(1, 2)]"])
def test_items_that_no_compiler_would_give_fail_their_run_alone(items: str) -> None:
    node = GatherNode((Branch(1, {}, ("b",)),), 1, each=Each(expr(items), ("b",)))
    outcome = Folded(spec_of([node, ReturnNode()])).start()
    assert outcome.run is not None
    assert outcome.run.failure is not None
    assert outcome.run.failure.family[0] == "TypeError"


def test_a_picture_says_for_what_there_are_branches() -> None:
    drawn = [
        node_text(charge_all.spec, node) for node in charge_all.spec.nodes if isinstance(node, GatherNode)
    ]
    assert drawn == [
        "charged = await gather(one branch for each of [(order,) for order in orders], limit=at_once)"
    ]


def test_plain_python_runs_some_at_a_time_too() -> None:
    running = most = 0

    async def slowly(order: str, amount: int = 1) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return int(order)

    async def run(at_once: int) -> list[int]:
        with charge.faked(slowly):
            return await charge_all(ORDERS, at_once)

    assert asyncio.run(run(3)) == list(range(10))
    assert most == 3
    with pytest.raises(ValueError, match="1 or more"):
        asyncio.run(run(0))
