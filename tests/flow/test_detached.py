"""Child runs that nobody waits for, ids of the author's, and what becomes of a run whose parent ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from dressage.flow import (
    App,
    ChildError,
    Event,
    WorkflowFailure,
    first_completed,
    gather,
    sleep,
    wait_until,
    workflow,
)
from dressage.orchestrator.fold.limits import OPEN_CHILDREN_MAX
from dressage.protocol.errors import DefinitionError
from dressage.testing import Run, WorkflowTest

app = App("detached")
go = Event("go")
notes: list[str] = []


class Refused(WorkflowFailure): ...


@pytest.fixture(autouse=True)
def fresh() -> None:
    notes.clear()


@app.task
def note(what: str) -> None:
    notes.append(what)


@workflow
async def ship(order: str) -> str:
    try:
        await sleep(timedelta(days=2))
        await note(f"shipped {order}")
    finally:
        await note(f"done with {order}")
    return order


@workflow
async def sell(order: str) -> str:
    shipping = await ship.start(order)
    return f"see {shipping}"


@workflow
async def sell_by_name(order: str) -> str:
    shipping = await ship.options(run_id=f"ship-{order}").start(order)
    receipt = await ship.options(run_id=order + "-again")(order)
    return f"{shipping} {receipt}"


@workflow
async def sell_twice(order: str) -> str:
    await ship.options(run_id="taken").start(order)
    try:
        return await ship.options(run_id="taken").start(order)
    except ChildError as error:
        return str(error)


@workflow
async def sell_oddly(order: str) -> str:
    try:
        return await ship.options(run_id=order * 100).start(order)
    except ValueError:
        return "no such id"


@workflow
async def requesting(fails: bool) -> None:
    await ship.options(parent_close="request").start("a")
    await go.wait()
    if fails:
        raise Refused("no")


@workflow
async def cancelling(fails: bool) -> None:
    await ship.options(parent_close="cancel").start("a")
    await go.wait()
    if fails:
        raise Refused("no")


@workflow
async def abandoning(fails: bool) -> None:
    await ship.start("a")
    await go.wait()
    if fails:
        raise Refused("no")


@workflow
async def side_by_side(orders: list[str]) -> list[str]:
    return [*await gather(*(ship.options(run_id=f"s-{each}").start(each) for each in orders))]


@workflow
async def in_a_gather(order: str) -> tuple[str, str]:
    return await gather(ship.start(order), ship(order))


@workflow
async def many(count: int) -> int:
    for number in range(count):
        await ship.options(parent_close="cancel").start(str(number))
    return count


def test_a_run_that_is_started_goes_on_alone() -> None:
    run = WorkflowTest(sell, app).run("o-1")
    (child,) = run.children
    assert run.result == f"see {child.run_id}"
    assert run.elapsed == timedelta(0)
    assert child.status == "running"
    assert child.finish().result == "o-1"
    assert notes == ["shipped o-1", "done with o-1"]


def test_the_history_tells_of_the_begin() -> None:
    run = WorkflowTest(sell, app).run("o-1")
    kinds = [event.kind for event in run.events]
    assert kinds == ["run-started", "child-started", "child-begun", "variable-changed", "run-completed"]
    assert run.events[2].data["run_id"] == run.children[0].run_id


def test_a_run_has_the_id_that_its_author_gives_it() -> None:
    run = WorkflowTest(sell_by_name, app).run("o-1")
    assert run.result == "ship-o-1 o-1"
    assert [child.run_id for child in run.children] == ["ship-o-1", "o-1-again"]


def test_an_id_that_is_taken_is_an_error_of_the_parent() -> None:
    run = WorkflowTest(sell_twice, app).run("o-1")
    assert "run 'taken' exists" in run.result
    assert len(run.children) == 1


def test_what_is_no_id_is_a_value_error() -> None:
    assert WorkflowTest(sell_oddly, app).run("o-1").result == "no such id"


@app.task
def name_of(order: str) -> str:
    notes.append("named")
    return f"n-{order}"


@workflow
async def named(order: str) -> tuple[str, str]:
    started = await ship.options(run_id=await name_of(order)).start(order)
    awaited = await ship.options(run_id=f"{order}-{started}", parent_close="abandon").start(
        await name_of("x")
    )
    return started, awaited


def test_an_id_may_be_awaited_and_comes_before_the_arguments() -> None:
    run = WorkflowTest(named, app).run("o")
    assert run.result == ("n-o", "o-n-o")
    assert [child.run_id for child in run.children] == ["n-o", "o-n-o"]


@workflow
async def dividing(n: int) -> str:
    try:
        return await ship.options(run_id=f"r{1 // n}").start(await name_of("x"))
    except ZeroDivisionError:
        return "no id"


def test_what_fails_in_the_id_fails_before_the_arguments() -> None:
    assert WorkflowTest(dividing, app).run(0).result == "no id"
    assert notes == []
    assert WorkflowTest(dividing, app).run(1).result == "r1"


@workflow
async def optional(run_id: str | None) -> str:
    return await ship.options(run_id=run_id).start("a")


def test_none_is_no_id_of_the_authors() -> None:
    run = WorkflowTest(optional, app).run(None)
    assert run.result == run.children[0].run_id != "None"
    assert WorkflowTest(optional, app).run("mine").result == "mine"


@workflow
async def meddling(order: str) -> int:
    await ship.options(run_id="theirs").start(order)
    place, _ = await first_completed(ship.options(run_id="theirs")(order), sleep(timedelta(0)))
    return place


async def failing(order: str) -> None:
    raise Refused(order)


@workflow
async def ending(order: str) -> None:
    await ship.options(run_id="theirs").start(order)
    try:
        await gather(ship.options(run_id="theirs", parent_close="cancel").start(order), failing(order))
    except ExceptionGroup:
        return


@pytest.mark.parametrize("parent", [meddling, ending])
def test_a_run_of_somebody_else_is_not_cancelled_by_who_wanted_its_id(parent: Any) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(parent, app)
    run = test.run("a")
    assert run.status != "running"
    (theirs,) = run.children
    assert theirs.status == "running"
    assert theirs.finish().status == "completed"


Parents = [abandoning, requesting, cancelling]


@pytest.mark.parametrize(
    ("parent", "status", "noted"),
    [
        (abandoning, "completed", ["shipped a", "done with a"]),
        (requesting, "cancelled", ["done with a"]),
        (cancelling, "cancelled", []),
    ],
)
@pytest.mark.parametrize("end", ["completes", "fails", "is cancelled", "is ended"])
def test_what_becomes_of_a_run_whose_parent_ends(
    parent: Any, status: str, noted: list[str], end: str
) -> None:
    test: WorkflowTest[..., None] = WorkflowTest(parent, app)
    run: Run[None] = test.start(end == "fails")
    (child,) = run.children
    if end in ("completes", "fails"):
        run.post(go)
    else:
        run.cancel("enough", at_once=end == "is ended")
    assert run.status == {"completes": "completed", "fails": "failed"}.get(end, "cancelled")
    child.finish()
    assert child.status == status
    assert notes == noted
    if status == "cancelled":
        assert child.reason == f"run {run.run_id} has ended"


@pytest.mark.parametrize("parent", Parents)
def test_a_run_that_has_ended_is_left_alone(parent: Any) -> None:
    test: WorkflowTest[..., None] = WorkflowTest(parent, app)
    run: Run[None] = test.start(fails=False)
    (child,) = run.children
    child.finish()
    assert child.status == "completed"
    run.post(go)
    assert run.status == child.status == "completed"
    assert notes == ["shipped a", "done with a"]


def test_runs_are_started_side_by_side() -> None:
    run = WorkflowTest(side_by_side, app).run(["a", "b"])
    assert run.result == ["s-a", "s-b"]
    assert [child.run_id for child in run.children] == ["s-a", "s-b"]


def test_started_and_awaited_runs_stand_side_by_side() -> None:
    run = WorkflowTest(in_a_gather, app).run("a")
    assert run.result == (run.children[0].run_id, "a")


@pytest.mark.limit("orchestrator.fold.limits.OPEN_CHILDREN_MAX")
def test_so_many_runs_may_be_open_that_end_with_their_parent() -> None:
    assert WorkflowTest(many, app).run(OPEN_CHILDREN_MAX).status == "completed"
    run = WorkflowTest(many, app).run(OPEN_CHILDREN_MAX + 1)
    assert run.failure is not None
    assert run.failure.name == "open-children"
    assert {child.finish().status for child in run.children} == {"cancelled"}


def test_in_plain_python_it_runs_beside_its_caller() -> None:
    async def call() -> str:
        def noted(what: str) -> None:
            notes.append(what)

        with note.faked(noted):
            told = await hasty("o-1")
            await asyncio.sleep(0.01)
        return told

    assert asyncio.run(call()) == "n-o-1"
    assert notes == ["o-1"]


@workflow
async def brief(order: str) -> None:
    await note(order)
    raise Refused("nobody hears of it")


@workflow
async def hasty(order: str) -> str:
    return await brief.options(run_id=f"n-{order}").start(order)


@dataclass
class Gate:
    open: int = 0
    seen: str = ""


@workflow
async def raced(order: str) -> str:
    gate = Gate()

    async def opens(what: str) -> str:
        gate.open = 1
        gate.seen = gate.seen + "opens "
        told = await brief.options(run_id=f"n-{what}").start(what)
        gate.seen = gate.seen + "started "
        return told

    async def waits(what: str) -> str:
        gate.seen = gate.seen + "waits "
        await wait_until(lambda: gate.open == 1)
        gate.seen = gate.seen + "goes on "
        return what

    place, told = await first_completed(opens(order), waits(order))
    return f"{place} {told}: {gate.seen}"


def test_who_starts_a_run_goes_on_behind_those_that_wait_for_what_it_has_changed() -> None:
    def noted(what: str) -> None:
        notes.append(what)

    async def call() -> str:
        with note.faked(noted):
            told = await raced("o-1")
            await asyncio.sleep(0.01)
        return told

    told = asyncio.run(call())
    assert told == WorkflowTest(raced).run("o-1").result == "1 o-1: opens waits goes on "
    assert notes == []


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("await ship.options(parent_close='cancel')(n)", "is cancelled with its parent"),
        ("await ship.options(parent_close='stop').start(n)", "this is no policy"),
        ("await ship.options(name='x').start(n)", "there is no option name"),
        ("await ship.options('x').start(n)", "options are given by name"),
        ("await ship.begin(n)", "a workflow cannot do begin() here"),
        ("await ship.start()", "misses n"),
        ("await flow.start(n)", "flow is no workflow that is known here"),
        ("await ship.start(n, 2)", "takes 1 arguments by place"),
    ],
)
def test_what_cannot_be_started_is_refused(
    written: str, what: str, define: Callable[[str], ModuleType]
) -> None:
    text = f"""\
from dressage.flow import workflow

@workflow
async def ship(n: int) -> int:
    return n

@workflow
async def flow(n: int) -> None:
    {written}
"""
    with pytest.raises(DefinitionError) as refused:
        define(text)
    assert what in refused.value.message
