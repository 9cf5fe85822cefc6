"""Moves that went wrong, each of them once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from dressage.flow import (
    App,
    Event,
    Masked,
    Saga,
    WorkflowFailure,
    gather,
    interruptible,
    sleep,
    workflow,
)
from dressage.protocol.errors import BadInput, Refused
from dressage.testing import Run, WorkflowTest

app = App("moves")
DAY = timedelta(days=1)
paid = Event("paid", of=int)
ring = Event("ring", of=int)
noted = Event("noted", of=str)


class Lost(WorkflowFailure): ...


@app.task
def pack(what: str) -> str:
    return f"packed {what}"


@app.task
def ship(what: str) -> str:
    return f"shipped {what}"


@app.task
def unpack(what: str) -> str:
    return f"unpacked {what}"


@app.task
def unship(what: str) -> str:
    return f"unshipped {what}"


def moving(before: Any, *args: Any) -> Run[Any]:
    return WorkflowTest(before, app).start(*args)


def lines_of(of: Any, kind: str) -> list[int]:
    return sorted({node.line for node in of.spec.nodes if type(node).__name__ == kind})


def test_what_is_to_be_undone_stays_what_it_was() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        async with Saga() as saga:
            await pack(what)
            saga.undo(unpack, what)
            if await paid.wait() < 0:
                raise Lost("lost")
        return what

    @workflow(name="order")
    async def after(what: str) -> str:
        async with Saga() as saga:
            if what == "never":
                await ship(what)
                saga.undo(unship, what)
            await pack(what)
            saga.undo(unpack, what)
            if await paid.wait() < 0:
                raise Lost("lost")
        return what

    run = moving(before, "a").migrate(WorkflowTest(after, app)).post(paid, -1)
    assert run.failure is not None
    assert [call.task for call in run.calls] == ["pack", "unpack"]


def test_an_event_that_one_version_does_not_know_is_there_in_the_next() -> None:
    @workflow(name="order")
    async def knows(what: str) -> str:
        await sleep(DAY)
        return f"{what} {await paid.wait()}"

    @workflow(name="order")
    async def knows_nothing(what: str) -> str:
        await sleep(DAY)
        return what

    run = moving(knows, "a").post(paid, 4).migrate(WorkflowTest(knows_nothing, app))
    run = run.migrate(WorkflowTest(knows, app))
    assert run.advance(DAY).result == "a 4"


def test_items_that_wait_are_of_the_types_of_their_branches() -> None:
    @workflow(name="order")
    async def before(what: list[str]) -> list[str]:
        async def one(name: str) -> str:
            await paid.wait()
            return name

        return list(await gather(*(one(each) for each in what), limit=1))

    @workflow(name="order")
    async def after(what: list[str]) -> list[str]:
        async def one(name: int) -> str:
            await paid.wait()
            return str(name)

        return list(await gather(*(one(len(each)) for each in what), limit=1))

    with pytest.raises(Refused) as error:
        moving(before, ["a", "b"]).migrate(WorkflowTest(after, app))
    assert "item" in error.value.message


def test_items_that_wait_are_given_to_the_parameters_that_they_were_for() -> None:
    @workflow(name="order")
    async def before(what: list[str]) -> list[str]:
        async def one(name: str, where: str) -> str:
            await paid.wait()
            return f"{name} to {where}"

        return list(await gather(*(one(each, "x") for each in what), limit=1))

    @workflow(name="order")
    async def after(what: list[str]) -> list[str]:
        async def one(where: str, name: str) -> str:
            await paid.wait()
            return f"{name} to {where}"

        return list(await gather(*(one("x", each) for each in what), limit=1))

    try:
        run = moving(before, ["a", "b"]).migrate(WorkflowTest(after, app))
    except Refused:
        return
    assert run.post(paid, 1).post(paid, 1).result == ["a to x", "b to x"]


def test_who_has_the_turn_does_not_wait_for_it() -> None:
    @dataclass
    class View:
        rung: int = 0

    async def work(what: str) -> str:
        return f"{what} {await paid.wait()}"

    @workflow(name="order")
    async def before(what: str) -> str:
        view = View()

        async def on_ring(number: int) -> None:
            view.rung += number
            await pack(what)

        return await interruptible(
            work(what),
            ring.interrupts(on_ring),
        )

    @workflow(name="order")
    async def after(what: str) -> str:
        view = View()

        async def on_ring(number: int) -> None:
            view.rung += number

        return await interruptible(
            work(what),
            ring.interrupts(on_ring),
        )

    test = WorkflowTest(before, app)
    test.task(pack).takes(timedelta(hours=1))
    run = test.start("a").post(ring, 1)
    (line,) = lines_of(before, "TaskNode")
    there = next(node.line for node in after.spec.nodes if getattr(node, "event", "") == "ring")
    with pytest.raises(BadInput, match="handler that interrupts"):
        run.migrate(WorkflowTest(after, app), lines={line: there})


def test_who_has_no_turn_does_not_give_it_back() -> None:
    @dataclass
    class View:
        rung: int = 0

    async def work(what: str) -> str:
        return f"{what} {await paid.wait()}"

    @workflow(name="order")
    async def before(what: str) -> str:
        view = View()

        async def on_ring(number: int) -> None:
            view.rung += number
            await pack(what)

        return await interruptible(
            work(what),
            ring.interrupts(on_ring),
        )

    event = next(node.line for node in before.spec.nodes if getattr(node, "event", "") == "ring")
    (task,) = lines_of(before, "TaskNode")
    with pytest.raises(BadInput, match="handler that interrupts"):
        moving(before, "a").migrate(
            WorkflowTest(before, app), lines={event: task}, values={"on_ring.number": 1}
        )


def test_what_has_come_to_a_stopped_run_is_of_the_type_that_the_other_version_has() -> None:
    heard = Event("paid", of=str)

    @workflow(name="order")
    async def before(what: str) -> str:
        amount = await paid.wait()
        return f"{what} {amount}"

    @workflow(name="order")
    async def after(what: str) -> str:
        amount = await heard.wait()
        return what + amount

    run = moving(before, "a").stop().post(paid, 4)
    with pytest.raises(Refused, match="what has come"):
        run.migrate(WorkflowTest(after, app))


def test_two_variables_do_not_become_one() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        total = "total"
        amount = "amount"
        await paid.wait()
        return what + total + amount

    @workflow(name="order")
    async def after(what: str) -> str:
        amount = "amount"
        await paid.wait()
        return what + amount

    run = moving(before, "a").migrate(WorkflowTest(after, app), variables={"total": "amount"})
    assert run.post(paid, 1).result == "atotal"


def test_a_name_that_no_variable_has_is_refused() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        await paid.wait()
        return what

    with pytest.raises(BadInput, match="totl"):
        moving(before, "a").migrate(WorkflowTest(before, app), variables={"totl": "what"})


def test_masked_stays_masked_where_the_type_is_not_masked_any_more() -> None:
    @workflow(name="order")
    async def before(card: Masked[str]) -> str:
        await paid.wait()
        return "x"

    @workflow(name="order")
    async def after(card: str) -> str:
        await paid.wait()
        return card + "!"

    with pytest.raises(Refused, match="variable card is masked, and would be shown in version 2"):
        moving(before, "4711").migrate(WorkflowTest(after, app))


def test_a_failure_that_passes_is_not_lost() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        try:
            await ship(what)
            if what == "a":
                raise Lost("lost")
        finally:
            await paid.wait()
        return what

    @workflow(name="order")
    async def after(what: str) -> str:
        try:
            if what == "never":
                return what
            await pack(what)
            if what == "a":
                raise Lost("lost")
        finally:
            await paid.wait()
        return what

    run = moving(before, "a").migrate(WorkflowTest(after, app)).post(paid, 1)
    assert run.failure is not None


def test_a_failure_that_passes_is_not_forgotten() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        try:
            if what == "a":
                raise Lost("lost")
        finally:
            await paid.wait()
        return what

    @workflow(name="order")
    async def after(what: str) -> str:
        await paid.wait()
        return what

    run = moving(before, "a")
    lines = {line: lines_of(after, "EventNode")[0] for line in lines_of(before, "EventNode")}
    with pytest.raises(Refused, match="version 2 would forget a failure that passes through"):
        run.migrate(WorkflowTest(after, app), lines=lines)
    assert moving(before, "b").migrate(WorkflowTest(after, app), lines=lines).post(paid, 1).result == "b"


def test_what_is_to_be_undone_is_not_forgotten() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        async with Saga() as saga:
            await pack(what)
            saga.undo(unpack, what)
            await paid.wait()
        return what

    @workflow(name="order")
    async def after(what: str) -> str:
        await paid.wait()
        return what

    @workflow(name="order")
    async def otherwise(what: str) -> str:
        async with Saga() as saga:
            await pack(what)
            saga.undo(unship, what)
            await paid.wait()
        return what

    with pytest.raises(Refused, match="version 2 would forget what is to be undone"):
        moving(before, "a").migrate(WorkflowTest(after, app))
    with pytest.raises(Refused, match="version 2 does not undo by task unpack what is to be undone"):
        moving(before, "a").migrate(WorkflowTest(otherwise, app))
