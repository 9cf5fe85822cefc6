"""A run that has failed has ended, and so has its parent, for all but a rescue. What one does before spares that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dressage.flow import App, Event, Exponential, Saga, workflow
from dressage.protocol.errors import DressageError, Refused
from dressage.testing import Run, WorkflowTest

app = App("rescue")
MINUTE = timedelta(minutes=1)
ring = Event("ring")


@app.task(retries=1, backoff=Exponential(base=MINUTE, jitter=0.0))
def charge(amount: int) -> int:
    return amount


@app.task
def give_back(what: str) -> None: ...


@workflow
async def fails(amount: int) -> int:
    async with Saga() as saga:
        saga.undo(give_back, "lamp")
        return await charge(amount)


@workflow
async def fails_with_it(amount: int) -> int:
    return await fails(amount)


@workflow
async def waits(amount: int) -> int:
    async with Saga() as saga:
        saga.undo(give_back, "lamp")
        return await charge.options(exhausted="wait")(amount)


@workflow
async def waits_with_it(amount: int) -> int:
    return await waits(amount)


def down(definition: Any) -> WorkflowTest[[int], int]:
    test: WorkflowTest[[int], int] = WorkflowTest(definition, app)
    test.task(charge).raises(OSError("down"))
    return test


def calls(run: Run[Any]) -> list[str]:
    return [call.task for call in run.calls]


def test_a_child_that_has_failed_and_its_parent_have_ended_for_good() -> None:
    test = down(fails_with_it)
    run = test.run(7)
    child = run.children[0]
    test.task(charge).returns(7)
    assert (run.status, child.status) == ("failed", "failed")
    assert calls(child) == [
        "charge",
        "charge",
        "give-back",
    ]  # The saga has run: there is nothing to go on with.
    for ended in (run, child):
        for tell in (ended.resume, ended.stop, ended.cancel, lambda ended=ended: ended.post(ring)):
            with pytest.raises(Refused) as refused:
                tell()
            assert refused.value.code == "RUN_FINISHED"
        with pytest.raises(DressageError, match="0 calls of task 'charge' are dead"):
            ended.retry_task(charge)
        assert ended.finish().status == "failed"


def test_a_child_whose_task_waits_for_somebody_goes_on_and_so_does_its_parent() -> None:
    test = down(waits_with_it)
    run = test.start(7).finish()
    child = run.children[0]
    test.task(charge).returns(7)
    assert (run.status, child.status) == ("running", "running")
    child.retry_task(charge)
    assert run.finish().result == 7
    assert calls(child) == ["charge", "charge", "charge"]


@workflow(name="shares")
async def shares(amount: int) -> int:
    paid = await charge.options(exhausted="wait")(amount)
    return paid // (amount - amount)


@workflow(name="shares")
async def shares_mended(amount: int) -> int:
    paid = await charge.options(exhausted="wait")(amount)
    return paid // amount


def test_a_run_that_waits_moves_to_a_mended_version_before_it_fails() -> None:
    run = down(shares).start(7).finish()
    assert len(run.dead_tasks) == 1
    mended: WorkflowTest[[int], int] = WorkflowTest(shares_mended, app)
    moved = run.migrate(mended)
    assert moved.retry_task(charge).finish().result == 1
    unmended = down(shares)
    failed = unmended.start(7).finish()
    unmended.task(charge).returns(7)
    failed.retry_task(charge).finish()
    assert failed.failure is not None
    assert "ZeroDivisionError" in failed.failure.message
    with pytest.raises(Refused) as refused:
        failed.migrate(mended)
    assert refused.value.code == "MIGRATION_REFUSED"
