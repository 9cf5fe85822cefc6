"""Child runs: a workflow that is awaited in another one is a run of its own, and means what it means in Python."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from dressage.client import RunFailed
from dressage.flow import (
    App,
    ChildError,
    Event,
    Limits,
    WorkflowFailure,
    first_completed,
    gather,
    sleep,
    workflow,
)
from dressage.orchestrator.fold.limits import CHILD_DEPTH_MAX
from dressage.protocol.errors import DefinitionError
from dressage.testing import Run, WorkflowTest

app = App("children")
called = Event("called", of=str)


class Declined(WorkflowFailure):
    code: str


@app.task
def charge(amount: int) -> str:
    if amount > 100:
        raise Declined("too much", code="limit")
    return f"receipt {amount}"


@app.task
def note(what: str) -> None: ...


@workflow
async def bill(amount: int, currency: str = "EUR") -> str:
    try:
        await sleep(timedelta(hours=1))
        return f"{await charge(amount)} {currency}"
    finally:
        await note(f"billed {amount}")


@workflow
async def order(amount: int) -> str:
    try:
        receipt = await bill(amount, currency="USD")
    except Declined as declined:
        return f"declined: {declined.message} ({declined.code})"
    return receipt


@workflow
async def orders(amounts: list[int]) -> list[str]:
    return [*await gather(*(bill(amount) for amount in amounts), limit=2)]


@workflow
async def hurried(amount: int) -> str:
    match await first_completed(bill(amount), called.wait()):
        case 0, receipt:
            return receipt
        case _, name:
            return name


@workflow
async def dividing(by: int) -> int:
    return 10 // by


@workflow
async def guarded(by: int) -> str:
    try:
        return str(await dividing(by))
    except ZeroDivisionError:
        return "by nothing"


@workflow(limits=Limits(history_events=2))
async def short(amount: int) -> str:
    return await bill(amount)


@workflow
async def careful(amount: int) -> str:
    try:
        return await short(amount)
    except ChildError as error:
        return f"{error}"


def calls(run: Run[Any]) -> list[str]:
    return [call.task for call in run.calls]


def kinds(run: Run[Any]) -> list[str]:
    return [event.kind for event in run.events]


# -- start and await -------------------------------------------------------------------------------
def test_a_child_is_a_run_of_its_own_under_its_parent() -> None:
    run = WorkflowTest(order, app=app).start(5)
    (child,) = run.children
    assert child.run_id == f"{run.run_id}~0-0-1"
    assert run.waiting_for == f"run {child.run_id} of workflow bill"
    assert (child.status, child.waiting_for) == ("running", "time 2030-01-01T01:00:00.000Z")
    assert run.finish().result == "receipt 5 USD"
    assert (child.result, calls(child), calls(run)) == ("receipt 5 USD", ["charge", "note"], [])
    assert kinds(run) == [
        "run-started",
        "child-started",
        "child-completed",
        "variable-changed",
        "run-completed",
    ]
    started, completed = run.events[1].data, run.events[2].data
    assert started == {
        "node": 0,
        "workflow": "bill",
        "version": 1,
        "run_id": child.run_id,
        "wait_id": "0-0-1",
    }
    assert completed["output"] == "receipt 5 USD"
    assert completed["waited_ms"] == 3_600_000


def test_what_a_child_fails_with_is_raised_in_its_parent_by_name() -> None:
    assert WorkflowTest(order, app=app).run(500).result == "declined: too much (limit)"
    run = WorkflowTest(guarded).run(0)
    assert run.result == "by nothing"
    assert kinds(run)[1:4] == ["child-started", "child-failed", "failure-caught"]


def test_what_nobody_catches_fails_the_parent_alike() -> None:
    run = WorkflowTest(orders, app=app).run([500])
    with pytest.raises(RunFailed, match="branches failed"):
        _ = run.result


def test_children_are_branches_of_a_gather_in_order() -> None:
    run = WorkflowTest(orders, app=app).start([1, 2, 3])
    assert len(run.children) == 2
    assert run.finish().result == ["receipt 1 EUR", "receipt 2 EUR", "receipt 3 EUR"]
    assert run.elapsed == timedelta(hours=2)


async def test_in_plain_python_it_is_the_function_itself() -> None:
    assert await guarded(0) == "by nothing"
    assert await guarded(5) == "2"


# -- cancelling --------------------------------------------------------------------------------------
def test_a_child_that_loses_a_race_tidies_up_before_the_race_is_over() -> None:
    test = WorkflowTest(hurried, app=app)
    test.task(note).takes(timedelta(minutes=1))
    run = test.start(5).post(called, "ann")
    (child,) = run.children
    assert (run.status, child.status) == ("running", "running")
    assert run.finish().result == "ann"
    assert (child.status, calls(child)) == ("cancelled", ["note"])
    assert "waits for it no more" in child.reason


def test_a_cancelled_run_cancels_its_children_and_waits_for_them() -> None:
    run = WorkflowTest(order, app=app).start(5).cancel("enough")
    (child,) = run.children
    assert (run.status, run.reason, child.status, calls(child)) == (
        "cancelled",
        "enough",
        "cancelled",
        ["note"],
    )


def test_a_run_that_is_ended_at_once_ends_its_children_at_once() -> None:
    run = WorkflowTest(order, app=app).start(5).cancel("enough", at_once=True)
    (child,) = run.children
    assert (run.status, child.status, calls(child)) == ("cancelled", "cancelled", [])


def test_a_child_that_somebody_cancels_is_an_error_of_its_parent() -> None:
    run = WorkflowTest(order, app=app).start(5)
    run.children[0].cancel("by hand")
    run.finish()
    assert run.failure is not None
    assert (run.failure.kind, run.failure.family[0]) == ("task-error", "ChildError")
    assert "was cancelled: by hand" in run.failure.message


def test_a_child_that_passes_a_limit_is_an_error_that_its_parent_may_catch() -> None:
    run = WorkflowTest(careful, app=app).run(5)
    assert run.result.startswith(f"child run {run.children[0].run_id} failed: ")
    assert "2 output events" in run.result


# -- limits ------------------------------------------------------------------------------------------
def nested(define: Callable[[str], ModuleType], depth: int) -> Any:
    text = "from dressage.flow import workflow\n@workflow\nasync def level0(x: int) -> int:\n    return x\n"
    for level in range(1, depth + 1):
        text += (
            f"@workflow\nasync def level{level}(x: int) -> int:\n    return await level{level - 1}(x) + 1\n"
        )
    return getattr(define(text), f"level{depth}")


@pytest.mark.limit("orchestrator.fold.limits.CHILD_DEPTH_MAX")
def test_so_many_runs_may_wait_for_each_other(define: Callable[[str], ModuleType]) -> None:
    test: WorkflowTest[[int], int] = WorkflowTest(nested(define, CHILD_DEPTH_MAX))
    run = test.run(0)
    assert run.result == CHILD_DEPTH_MAX
    test = WorkflowTest(nested(define, CHILD_DEPTH_MAX + 1))
    run = test.run(0)
    assert run.failure is not None
    # Each above it is told of a child that has passed a limit.
    assert (run.failure.name, run.failure.kind) == ("child-depth", "task-error")


# -- what is refused -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return await child()", "misses x"),
        ("return await child(1, 2)", "takes 1 arguments by place"),
        ("return await child(y=2)", "no parameter y"),
        ("return child(1)", "called inside an expression"),
    ],
)
def test_what_does_not_fit_a_child_is_refused(
    define: Callable[[str], ModuleType], body: str, what: str
) -> None:
    text = f"""\
from dressage.flow import workflow
@workflow
async def child(x: int) -> int:
    return x
@workflow
async def parent(x: int) -> int:
    {body}
"""
    with pytest.raises(DefinitionError, match=what):
        define(text)


def test_the_order_of_registration_is_children_first() -> None:
    assert [each.name for each in careful.with_children()] == ["bill", "short", "careful"]
