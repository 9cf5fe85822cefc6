"""The tables and views answer what people ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dressage.protocol.commands import FailureInfo
from dressage.protocol.events import (
    ChildCompleted,
    ChildFailed,
    ChildRescued,
    ChildStarted,
    EventData,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunFaulted,
    RunRescued,
    RunStarted,
    RunStopped,
    TaskDead,
    VariableChanged,
)

if TYPE_CHECKING:
    from tests.analytics.conftest import (  # pyright: ignore[reportMissingImports]
        EventsStream,
        Process,
        Raw,
        Start,
    )


@pytest.fixture
async def shop(events: EventsStream, start: Start) -> Process:
    """Forty orders: number n took n + 1 ms; every fifth was declined, every fourth priced twice."""
    process = start()
    await process.until(await events.publish_orders(40))
    return process


async def test_how_long_a_workflow_takes(shop: Process) -> None:
    rows = shop.rows("SELECT workflow, runs, avg_ms, p50_ms, p95_ms, max_ms FROM workflow_stats")
    assert rows == [("process-order", 40, 20.5, 20.5, 38.05, 40.0)]


async def test_how_the_runs_of_a_workflow_stand(shop: Process) -> None:
    rows = shop.rows("SELECT running, completed, failed, faulted FROM workflow_stats")
    assert rows == [(0, 32, 8, 0)]


async def test_how_long_the_attempts_of_a_task_take(shop: Process) -> None:
    rows = shop.rows("SELECT task, attempts, avg_ms, p95_ms, avg_waited_ms FROM task_stats")
    assert rows == [("charge-card", 40, 20.0, 20.0, 21.0), ("fetch-price", 50, 10.0, 10.0, 11.0)]


async def test_which_share_of_a_task_s_attempts_fails(shop: Process) -> None:
    rows = shop.rows("SELECT task, failed, errored, retried, failed_share FROM task_stats")
    assert rows == [("charge-card", 8, 0, 8, 0.2), ("fetch-price", 0, 10, 10, 0.2)]


async def test_which_share_of_orders_came_to_which_end(shop: Process) -> None:
    rows = shop.rows("SELECT outcome, status, failure_name, runs, share FROM outcome_stats")
    assert rows == [
        ("DONE", "completed", None, 32, 0.8),
        ("DECLINED", "failed", "card-declined", 8, 0.2),
    ]


async def test_shares_of_every_searchable_attribute(shop: Process) -> None:
    rows = shop.rows("SELECT name, value, runs, share FROM attribute_stats")
    assert rows == [("status", "DONE", 32, 0.8), ("status", "DECLINED", 8, 0.2)]


async def test_a_run_has_its_failure(shop: Process) -> None:
    rows = shop.rows("SELECT failure_name, failure_message, failure_kind FROM runs WHERE run_id = 'order-5'")
    assert rows == [("card-declined", "not covered", "failure")]


async def test_a_run_has_its_output(shop: Process) -> None:
    rows = shop.rows("SELECT output->>'paid' FROM runs WHERE run_id = 'order-6'")
    assert rows == [("6",)]


async def test_a_run_has_its_searchable_attributes(shop: Process) -> None:
    (found,) = shop.rows("SELECT search FROM runs WHERE run_id = 'order-6'")
    assert json.loads(found[0]) == {"status": "DONE"}


async def test_a_run_that_goes_on_is_running(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish(events.order("order-1")[:-1]))
    assert process.rows("SELECT status, ended_at FROM runs") == [("running", None)]


async def test_an_attempt_without_a_result_is_open(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish(events.order("order-1")[:3]))
    assert process.rows("SELECT task, outcome FROM task_attempts") == [("fetch-price", None)]


async def test_variables_have_their_last_value(events: EventsStream, start: Start, raw: Raw) -> None:
    happened: list[EventData] = [
        RunStarted(raw({})),
        *(VariableChanged("total", raw(value)) for value in (1, 2, 3)),
    ]
    process = start()
    await process.until(await events.publish(events.run("order-1", happened)))
    assert process.rows("SELECT name, value::VARCHAR, searchable, changes FROM variables") == [
        ("total", "3", False, 3)
    ]


async def test_a_run_id_that_comes_back_is_another_run(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish(events.order("order-1", 5) + events.order("order-1", 6)))
    rows = process.rows("SELECT status, duration_ms, search->>'status' FROM runs ORDER BY run_seq")
    assert rows == [("failed", 6.0, "DECLINED"), ("completed", 7.0, "DONE")]


async def test_a_run_id_that_comes_back_and_still_runs_has_not_ended(
    events: EventsStream, start: Start
) -> None:
    process = start()
    await process.until(await events.publish(events.order("order-1", 6) + events.order("order-1", 6)[:2]))
    assert process.rows("SELECT status FROM runs ORDER BY run_seq") == [("completed",), ("running",)]


async def test_a_fault_of_the_engine_is_a_status(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    happened: list[EventData] = [RunStarted(raw({})), RunFaulted(7, "Traceback: KeyError")]
    await process.until(await events.publish(events.run("order-1", happened)))
    rows = process.rows("SELECT status, failure_name, failure_message FROM runs")
    assert rows == [("engine-fault", "engine-fault", "Traceback: KeyError")]


async def test_a_cancelled_run_has_its_status_and_its_reason(
    events: EventsStream, start: Start, raw: Raw
) -> None:
    process = start()
    happened: list[EventData] = [RunStarted(raw({})), RunCancelled(5.0, "no longer wanted")]
    await process.until(await events.publish(events.run("order-1", happened)))
    rows = process.rows("SELECT status, duration_ms, failure_name, failure_message FROM runs")
    assert rows == [("cancelled", 5.0, None, "no longer wanted")]
    assert process.rows("SELECT runs, failed, cancelled FROM workflow_stats") == [(1, 0, 1)]


async def test_a_rescued_run_counts_by_its_last_end(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    failed = RunFailed(FailureInfo("os-error", "down"), 4.0)
    rescued: list[EventData] = [
        RunStarted(raw({})),
        RunFaulted(7, "KeyError"),
        RunRescued(2, "engine-fault", reason="mended"),
        failed,
        RunRescued(3, "failed", skipped=True),
        RunCompleted(raw(1), 5.0),
    ]
    await process.until(await events.publish(events.run("order-1", rescued)))
    await process.until(await events.publish(events.run("order-2", [*rescued[:5]])))
    await process.until(await events.publish(events.run("order-3", rescued[:4])))
    assert process.rows("SELECT run_id, status, duration_ms FROM runs ORDER BY run_id") == [
        ("order-1", "completed", 5.0),
        ("order-2", "running", None),
        ("order-3", "failed", 4.0),
    ]
    assert process.rows("SELECT run_id, status FROM last_ends ORDER BY run_id") == [
        ("order-1", "completed"),
        ("order-3", "failed"),
    ]
    rows = process.rows(
        "SELECT node, skipped, reason FROM run_rescues WHERE run_id = 'order-1' ORDER BY node"
    )
    assert rows == [(2, False, "mended"), (3, True, "")]


async def test_what_was_stopped_or_dead_before_an_end_is_not_so_behind_a_rescue(
    events: EventsStream, start: Start, raw: Raw
) -> None:
    process = start()
    failure = FailureInfo("os-error", "down", "task-error")
    happened: list[EventData] = [
        RunStarted(raw({})),
        RunStopped("somebody"),
        TaskDead("charge", "0-1-5-3", 1, 3, failure),
        RunFailed(FailureInfo("state-size", "too large", "limit"), 4.0),
        RunRescued(2, "failed"),
    ]
    await process.until(await events.publish(events.run("order-1", happened)))
    assert process.rows("SELECT status FROM runs") == [("running",)]
    assert process.rows("SELECT run_id FROM stopped_runs") == []
    assert process.rows("SELECT run_id FROM dead_tasks") == []


async def test_failures_and_errors_of_attempts_are_told_apart(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish(events.order("order-20", 20)))
    rows = process.rows(
        "SELECT task, attempt, outcome, failure_name FROM task_attempts ORDER BY node, attempt"
    )
    assert rows == [
        ("fetch-price", 1, "errored", "ValueError"),
        ("fetch-price", 2, "completed", None),
        ("charge-card", 1, "failed", "card-declined"),
    ]


async def test_a_missing_event_shows_as_a_break_of_the_index(events: EventsStream, start: Start) -> None:
    whole = events.order("order-1")
    process = start()
    await process.until(await events.publish(whole[:3] + whole[4:]))
    assert process.rows("SELECT run_id, idx, expected_idx FROM index_breaks") == [("order-1", 4, 3)]


def test_a_failure_is_business_unless_it_says_otherwise() -> None:
    """The views rely on this default of the protocol, which the stream leaves out."""
    assert FailureInfo("card-declined").kind == "failure"


async def test_a_child_that_is_rescued_is_one_step(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    failure = FailureInfo("os-error", "down", "task-error")
    happened: list[EventData] = [
        RunStarted(raw({})),
        ChildStarted(1, "part", 1, "order-1~c", "0-1-5"),
        ChildFailed(1, "part", "order-1~c", "0-1-5", 5.0, failure),
        RunFailed(failure, 4.0),
        RunRescued(1, "failed"),
        ChildRescued(1, "part", "order-1~c", "0-1-5"),
    ]
    await process.until(await events.publish(events.run("order-1", happened)))
    steps = "SELECT step, outcome, ended_at IS NULL FROM steps WHERE kind = 'child'"
    assert process.rows(steps) == [("part", "", True)]
    ended = ChildCompleted(1, "part", "order-1~c", "0-1-5", 5.0, raw(1))
    await process.until(await events.publish([events.event("order-1", len(happened), ended)]))
    assert process.rows(steps) == [("part", "completed", False)]
