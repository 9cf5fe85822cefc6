"""`WorkflowTest`: what a user's unit test can say, and what it is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from types import ModuleType
from typing import Any

import pytest

from dressage.client.client import RunCancelled, RunFailed
from dressage.flow import App, Limits, Searchable, WorkflowFailure, gather, sleep, task, workflow
from dressage.protocol.errors import BadInput, BadValue, DressageError, Refused
from dressage.testing import Sleep, WorkflowTest
from dressage.worker import current_task

WEEK = timedelta(days=7)


class Declined(WorkflowFailure): ...


class Stolen(Declined):
    card: str


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    id: str
    size: Size = Size.SMALL
    tags: list[str] | None = None


@dataclass
class View:
    status: Searchable[str] = "NEW"
    tries: int = 0


@task(retries=2)
async def charge(order: Order, amount: Decimal = Decimal(1)) -> str:
    raise NotImplementedError


@task
def pack(order: Order) -> str:
    return f"parcel-{order.id}"


@task
async def where() -> str:
    await asyncio.sleep(0)
    return current_task().idempotency_key


@task
def unrelated() -> None: ...


@workflow
async def buying(order: Order, patience: timedelta = WEEK) -> str:
    view = View()
    try:
        view.tries += 1
        receipt = await charge(order, amount=Decimal("2.50"))
    except Declined as error:
        view.status = "DECLINED"
        await sleep(patience)
        raise error
    view.status = "PAID"
    parcel = await pack(order)
    return f"{receipt}/{parcel}"


@workflow
async def ticking(pause: float) -> None:
    count = 0
    while True:
        count += 1
        await sleep(pause)


@workflow
async def asking() -> str:
    return await where()


@workflow
async def hurrying(text: str) -> int:
    return int(text)


@workflow(limits=Limits(history_events=40))
async def bounded() -> None:
    while True:
        await sleep(1)


@pytest.fixture
def test() -> WorkflowTest[..., str]:
    return WorkflowTest(buying)


ORDER = Order("o-1", Size.LARGE, ["a"])


# -- what tasks do ---------------------------------------------------------------------------------
def test_a_fake_returns_what_the_test_says() -> None:
    test = WorkflowTest(buying)
    test.task(charge).returns("r-1")
    run = test.run(ORDER)
    assert run.status == "completed"
    assert run.result == "r-1/parcel-o-1"
    assert run.failure is None


def test_a_task_without_a_fake_runs_its_own_function(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("r")
    test.run(ORDER)
    assert [call.task for call in test.task(pack).calls] == ["pack"]


def test_an_application_handles_what_the_test_leaves_open() -> None:
    app = App("bank")

    @app.handles(charge)
    async def bank(order: Order, amount: Decimal = Decimal(1)) -> str:
        return f"{order.id} paid {amount}"

    assert WorkflowTest(buying, app).run(ORDER).result == "o-1 paid 2.50/parcel-o-1"


def test_what_task_faked_puts_in_place_is_run(test: WorkflowTest[..., str]) -> None:
    with charge.faked(lambda order, amount=Decimal(1): "faked"):
        assert test.run(ORDER).result == "faked/parcel-o-1"


def test_a_contract_without_a_fake_says_what_to_write(test: WorkflowTest[..., str]) -> None:
    with pytest.raises(BadInput, match=r"write `test\.task\(charge\)\.returns") as raised:
        test.run(ORDER)
    assert raised.value.code == "TASK_NOT_FAKED"


def test_a_task_that_the_workflow_never_calls_has_no_fake(test: WorkflowTest[..., str]) -> None:
    with pytest.raises(BadInput, match="does not call task 'unrelated': it calls charge, pack"):
        test.task(unrelated)


def test_a_failure_is_caught_as_in_the_workflow() -> None:
    test = WorkflowTest(buying)
    test.task(charge).fails(Stolen("reported", card="c-1"))
    run = test.run(ORDER)
    assert run.status == "failed"
    assert run.failure is not None
    assert (run.failure.name, run.failure.message) == ("stolen", "reported")
    assert run.failed_with(Declined)
    assert run.failed_with(Stolen)
    assert not test.run(ORDER, timedelta(0)).failed_with(type("Other", (WorkflowFailure,), {}))


def test_a_failure_is_not_tried_again(test: WorkflowTest[..., str]) -> None:
    test.task(charge).fails(Declined)
    test.run(ORDER)
    assert len(test.task(charge).calls) == 1


def test_an_error_is_tried_again_after_its_backoff(test: WorkflowTest[..., str]) -> None:
    fake = test.task(charge).raises(OSError("down"), times=2).then_returns("r")
    run = test.run(ORDER)
    assert run.result == "r/parcel-o-1"
    assert [call.attempt for call in fake.calls] == [1, 2, 3]
    assert len({call.call_id for call in fake.calls}) == 1
    # Delays of one and two seconds, each ten percent more or less.
    assert timedelta(seconds=2.7) <= run.elapsed <= timedelta(seconds=3.3)
    assert [event.data["retry"] for event in run.events if event.kind == "task-failed"] == [True, True]


def test_an_error_of_every_attempt_fails_the_run_and_is_its_cause(test: WorkflowTest[..., str]) -> None:
    error = OSError("down")
    test.task(charge).raises(error)
    run = test.run(ORDER)
    with pytest.raises(RunFailed, match=r"OSError: down \(task charge, attempt 3 of 3\)") as raised:
        _ = run.result
    assert raised.value.__cause__ is error
    assert "tasks that were called: charge (attempt 1), charge (attempt 2), charge (attempt 3)" in (
        raised.value.__notes__
    )


def test_a_script_goes_on_with_its_last_step(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("a").then_returns("b", times=2).then_returns("c")
    assert [test.run(ORDER).result[0] for _ in range(5)] == ["a", "b", "b", "c", "c"]


def test_a_new_script_replaces_the_old_one(test: WorkflowTest[..., str]) -> None:
    test.task(charge).fails(Declined)
    test.task(charge).returns("r")
    assert test.run(ORDER).status == "completed"


def test_a_function_takes_the_place_of_a_task(test: WorkflowTest[..., str]) -> None:
    test.task(charge).does(lambda order, amount=Decimal(1): f"{order.size.name} {amount}")
    assert test.run(ORDER).result == "LARGE 2.50/parcel-o-1"


def test_an_async_function_takes_the_place_of_a_task(test: WorkflowTest[..., str]) -> None:
    async def later(order: Order, amount: Decimal = Decimal(1)) -> str:
        await asyncio.sleep(0)
        return "later"

    test.task(charge).does(later)
    assert test.run(ORDER).result == "later/parcel-o-1"


@pytest.mark.anyio
async def test_a_test_that_is_async_itself_runs_async_tasks() -> None:
    assert WorkflowTest(asking).run().result == "asking-1/0-0-1"


def test_a_task_sees_which_attempt_it_is() -> None:
    assert WorkflowTest(asking).run().result == "asking-1/0-0-1"


def test_an_assertion_in_a_fake_ends_the_test(test: WorkflowTest[..., str]) -> None:
    def check(order: Order, amount: Decimal = Decimal(1)) -> str:
        assert amount > 100, "too little"
        return "r"

    test.task(charge).does(check)
    with pytest.raises(AssertionError, match="too little"):
        test.run(ORDER)


def test_an_assertion_error_that_was_asked_for_is_an_error_like_others(test: WorkflowTest[..., str]) -> None:
    test.task(charge).raises(AssertionError("asked for"))
    failure = test.run(ORDER).failure
    assert failure is not None
    assert failure.name == "AssertionError"


def test_an_error_in_a_fake_is_an_error_of_the_worker(test: WorkflowTest[..., str]) -> None:
    test.task(charge).does(lambda order, amount=Decimal(1): order.id[99])
    run = test.run(ORDER)
    with pytest.raises(RunFailed, match="IndexError") as raised:
        _ = run.result
    assert isinstance(raised.value.__cause__, IndexError)


def test_a_fake_of_other_parameters_is_refused(test: WorkflowTest[..., str]) -> None:
    with pytest.raises(BadInput, match="cannot be called with order, amount by name"):
        test.task(charge).does(lambda order: "r")  # type: ignore[arg-type]


def test_a_result_of_the_wrong_type_fails_as_on_a_worker(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run = test.run(ORDER)
    assert run.failure is not None
    assert run.failure.kind == "type-error"
    assert "result of task 'charge'" in run.failure.message
    assert len(run.calls) == 1, "a wrong type is wrong every time"


# -- what was asked of them ------------------------------------------------------------------------
def test_calls_have_arguments_of_the_authors_types(test: WorkflowTest[..., str]) -> None:
    fake = test.task(charge).returns("r")
    run = test.run(ORDER)
    (call,) = fake.calls
    assert call.arguments == {"order": ORDER, "amount": Decimal("2.50")}
    assert call.at == datetime(2030, 1, 1, tzinfo=UTC)
    assert [each.task for each in run.calls] == ["charge", "pack"]


def test_called_with_compares_every_argument(test: WorkflowTest[..., str]) -> None:
    fake = test.task(charge).returns("r")
    assert not fake.was_called
    test.run(ORDER)
    assert fake.was_called
    assert fake.was_called_with(ORDER, Decimal("2.50"))
    assert fake.was_called_with(order=ORDER, amount=Decimal("2.5"))
    assert not fake.was_called_with(ORDER)
    assert not fake.was_called_with(Order("o-2"), Decimal("2.50"))


def test_variables_are_of_the_authors_types(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("r")
    run = test.run(ORDER)
    assert run.variables == {
        "order": ORDER,
        "patience": WEEK,
        "view": View("PAID", 1),
        "receipt": "r",
        "parcel": "parcel-o-1",
    }
    assert run.view == View("PAID", 1)


def test_a_workflow_without_a_view_says_so() -> None:
    with pytest.raises(BadInput, match="has set no view"):
        _ = WorkflowTest(asking).run().view


def test_events_are_what_a_reader_of_the_stream_sees(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("r")
    run = test.run(ORDER)
    kinds = [event.kind for event in run.events]
    assert kinds[0] == "run-started"
    assert kinds[-1] == "run-completed"
    assert [event.index for event in run.events] == list(range(len(kinds)))
    assert run.events[-1].data["output"] == "r/parcel-o-1"
    shown = [event.data["value"] for event in run.events if event.data.get("name") == "status"]
    assert shown == ["NEW", "PAID"]


# -- time ------------------------------------------------------------------------------------------
def test_a_week_passes_in_no_time(test: WorkflowTest[..., str]) -> None:
    test.task(charge).fails(Declined)
    test.run(ORDER)
    began = time.perf_counter()
    run = test.run(ORDER)
    assert time.perf_counter() - began < 0.1
    assert run.elapsed == WEEK
    assert run.now == datetime(2030, 1, 8, tzinfo=UTC)


def test_time_begins_when_the_test_says() -> None:
    began = datetime(2024, 2, 29, 12, tzinfo=UTC)
    run = WorkflowTest(asking, began=began).run()
    assert run.now == run.events[0].at == began
    with pytest.raises(BadInput, match="has a zone"):
        WorkflowTest(asking, began=datetime(2024, 2, 29)).run()  # noqa: DTZ001


def test_tasks_take_the_time_that_the_test_says(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("r").takes(timedelta(hours=2))
    test.task(pack).takes(timedelta(minutes=1))
    run = test.run(ORDER)
    assert run.elapsed == timedelta(hours=2, minutes=1)
    assert run.calls[1].at - run.calls[0].at == timedelta(hours=2)


def test_a_run_goes_on_step_by_step(test: WorkflowTest[..., str]) -> None:
    test.task(charge).fails(Declined("no"))
    run = test.start(ORDER)
    assert run.status == "running"
    assert run.waiting_for == "time 2030-01-08T00:00:00.000Z"
    run.advance(timedelta(days=6))
    assert run.status == "running"
    assert run.elapsed == timedelta(days=6)
    with pytest.raises(BadInput, match="it waits for time 2030-01-08") as raised:
        _ = run.result
    assert raised.value.code == "RUN_WAITS"
    run.advance(timedelta(days=1))
    assert run.failed_with(Declined)
    assert run.waiting_for == ""


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(BadInput, match="backwards"):
        WorkflowTest(asking).start().advance(timedelta(seconds=-1))


def test_a_run_that_is_cancelled_stops_where_it_is(test: WorkflowTest[..., str]) -> None:
    test.task(charge).fails(Declined)
    run = test.start(ORDER).cancel("changed my mind")
    assert run.status == "cancelled"
    assert run.reason == "changed my mind"
    with pytest.raises(RunCancelled, match="changed my mind"):
        _ = run.result
    assert run.finish().elapsed == timedelta(0), "its timer went with it"


def test_an_attempt_that_is_due_later_is_not_made_once_the_run_is_cancelled(
    test: WorkflowTest[..., str],
) -> None:
    fake = test.task(charge).raises(OSError("down"))
    run = test.start(ORDER).cancel()
    run.advance(timedelta(days=1)).advance(timedelta(days=1))
    assert len(fake.calls) == 1


def test_cancelling_what_has_ended_is_refused(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("r")
    with pytest.raises(Refused, match="RUN_FINISHED"):
        test.run(ORDER).cancel()


def test_a_task_that_hangs_leaves_the_run_waiting(test: WorkflowTest[..., str]) -> None:
    test.task(charge).hangs()
    run = test.run(ORDER)
    assert run.status == "running"
    assert run.waiting_for == "task charge (attempt 1) on queue default"
    assert run.cancel().status == "cancelled"


def test_the_result_of_a_task_that_ends_after_the_run_changes_nothing(test: WorkflowTest[..., str]) -> None:
    test.task(charge).returns("r").takes(timedelta(hours=1))
    run = test.start(ORDER).cancel()
    assert run.advance(timedelta(hours=2)).status == "cancelled"


def test_a_run_without_an_end_stops_at_a_stated_limit() -> None:
    with pytest.raises(
        DressageError, match=r"within 10000 commands and 416 days, .* waits for time"
    ) as raised:
        WorkflowTest(ticking).run(3600)
    assert raised.value.code == "RUN_ENDLESS"
    with pytest.raises(DressageError, match="within 10 commands"):
        WorkflowTest(ticking, commands_max=10).run(1)
    with pytest.raises(DressageError, match="RUN_ENDLESS"):
        WorkflowTest(ticking, commands_max=10).run(0)


def test_a_run_without_an_end_can_be_watched_for_a_while() -> None:
    run = WorkflowTest(ticking).start(3600).advance(timedelta(days=2))
    assert run.variables["count"] == 49


# -- the engine's own rules ------------------------------------------------------------------------
def test_arguments_that_do_not_fit_are_refused(test: WorkflowTest[..., str]) -> None:
    with pytest.raises(BadValue, match="do not fit"):
        test.run("o-1")
    with pytest.raises(BadValue, match="missing a required argument"):
        test.run()


def test_an_expression_that_fails_fails_the_run() -> None:
    run = WorkflowTest(hurrying).run("seven")
    assert run.failure is not None
    assert run.failure.message.startswith("line ")
    assert "ValueError" in run.failure.message


def test_limits_are_those_of_the_engine() -> None:
    run = WorkflowTest(bounded).run()
    assert run.failure is not None
    assert run.failure.name == "history-limit"


def test_the_same_test_gives_the_same_run_again(shop: ModuleType) -> None:
    def once() -> object:
        test: WorkflowTest[..., Any] = WorkflowTest(shop.process_order)
        test.task(shop.charge_card).raises(OSError("down"), times=2).then_fails(shop.CardDeclined)
        test.task(shop.release_stock).returns(None)
        run = test.run(shop.Order("o-1", "lamp"))
        return run.calls, run.events, run.elapsed

    assert once() == once()


# -- branches --------------------------------------------------------------------------------------
@workflow
async def spread(order: Order) -> str:
    async def packed(days: int) -> str:
        await sleep(timedelta(days=days))
        first, second = await gather(pack(order), where())
        return first + second

    await pack(order)
    left, right = await gather(packed(2), packed(1))
    await gather(where(), sleep(timedelta(hours=1)))
    return left + right


def test_a_call_and_a_sleep_tell_their_branch() -> None:
    test = WorkflowTest(spread)
    test.task(where).returns("here").takes(timedelta(minutes=1))
    run = test.run(Order("1"))
    assert run.result == "parcel-1here" * 2
    assert [(call.task, call.branch) for call in run.calls] == [
        ("pack", ()),
        ("pack", ((0, 1), (0, 0))),
        ("where", ((0, 1), (0, 1))),
        ("pack", ((0, 0), (0, 0))),
        ("where", ((0, 0), (0, 1))),
        ("where", ((1, 0),)),
    ]
    began = datetime(2030, 1, 1, tzinfo=UTC)
    assert run.sleeps == [
        Sleep(timedelta(days=2), began, ((0, 0),)),
        Sleep(timedelta(days=1), began, ((0, 1),)),
        Sleep(timedelta(hours=1), began + timedelta(days=2, minutes=1), ((1, 1),)),
    ]


def test_every_attempt_of_a_call_is_in_its_branch() -> None:
    @workflow
    async def twice(order: Order) -> list[str]:
        return list(await gather(charge(order), pack(order)))

    test = WorkflowTest(twice)
    test.task(charge).raises(OSError, times=2).then_returns("paid")
    assert [call.branch for call in test.run(Order("1")).calls if call.task == "charge"] == [((0, 0),)] * 3
