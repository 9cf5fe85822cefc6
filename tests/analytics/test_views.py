"""The tables and views answer what people ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dressage.protocol.commands import FailureInfo
from dressage.protocol.events import (
    BranchEnded,
    BranchStarted,
    ChildBegun,
    ChildCompleted,
    ChildFailed,
    ChildRescued,
    ChildStarted,
    EventAwaited,
    EventData,
    EventExpired,
    EventPosted,
    EventReceived,
    EventRefused,
    EventReturned,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunFaulted,
    RunRescued,
    RunStarted,
    RunStopped,
    SleepEnded,
    SleepStarted,
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


async def test_branches_of_a_run_are_threads_beside_it(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    failure = FailureInfo("card-declined", "no")
    happened: list[EventData] = [
        RunStarted(raw({})),
        BranchStarted(2, 0, 1),
        BranchStarted(2, 1, 2),
        BranchStarted(5, 0, 3, parent=2),
        BranchStarted(2, 2, 4),
        BranchEnded(5, 0, 3),
        BranchEnded(2, 0, 1, failure),
        BranchEnded(2, 1, 2, cancelled=True),
    ]
    await process.until(await events.publish(events.run("order-1", happened)))
    rows = "SELECT thread, parent, node, branch, status, failure_name FROM threads ORDER BY thread"
    wanted = [
        (0, None, None, None, "running", None),
        (1, 0, 2, 0, "failed", "card-declined"),
        (2, 0, 2, 1, "cancelled", None),
        (3, 2, 5, 0, "completed", None),
        (4, 0, 2, 2, "running", None),
    ]
    assert process.rows(rows) == wanted
    ended = RunCancelled(4.0, "enough")
    await process.until(
        await events.publish([events.event("order-1", len(happened), ended, at_ms=len(happened))])
    )
    assert [row[4] for row in process.rows(rows)] == [
        "cancelled",
        "failed",
        "cancelled",
        "completed",
        "cancelled",
    ]
    assert process.rows("SELECT count(*) FROM threads WHERE ended_at IS NULL OR ended_at < started_at") == [
        (0,)
    ]


async def test_external_events_say_what_became_of_them(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    happened: list[EventData] = [
        RunStarted(raw({})),
        EventPosted("paid", "e1", raw(7), key="o-1"),
        EventAwaited(3, "paid"),
        EventReceived(3, "paid", "e1", 12.0),
        EventPosted("paid", "e2", raw(8)),
        EventPosted("called", "e3", raw(None)),
        EventReceived(4, "called", "e3"),
        EventReturned(4, "called", "e3"),
        EventPosted("called", "e4", raw(None)),
        EventExpired("called", "e4"),
        EventPosted("rung", "e5", raw(None)),
        EventRefused("rung", "e5", "nobody waits for it"),
    ]
    await process.until(await events.publish(events.run("order-1", happened)))
    rows = process.rows(
        "SELECT event_id, event, key, state, node, waited_ms, reason, payload FROM external_events ORDER BY event_id"
    )
    assert rows == [
        ("e1", "paid", "o-1", "received", 3, 12.0, None, "7"),
        ("e2", "paid", "", "kept", None, None, None, "8"),
        ("e3", "called", "", "returned", 4, None, None, "null"),
        ("e4", "called", "", "expired", None, None, None, "null"),
        ("e5", "rung", "", "refused", None, None, "nobody waits for it", "null"),
    ]


async def test_nodes_are_the_places_that_a_run_came_by(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    await process.until(await events.publish_orders(1))
    happened: list[EventData] = [
        RunStarted(raw({})),
        SleepStarted(1, "1-0", "2026-01-01T00:00:00Z"),
        SleepEnded(1, "1-0"),
        EventAwaited(2, "paid"),
        EventAwaited(2, "paid"),
        RunStopped("somebody"),
        ChildStarted(4, "part", 1, "other~c", "0-1-5"),
    ]
    await process.until(await events.publish(events.run("other", happened)))
    rows = process.rows("SELECT node, kind, name, events FROM nodes WHERE run_id = 'other' ORDER BY node")
    assert rows == [(1, "sleep", "", 2), (2, "event", "paid", 2), (4, "child", "part", 1)]
    tasks = process.rows("SELECT node, kind, name FROM nodes WHERE run_id = 'order-0' ORDER BY node")
    assert ("task", "fetch-price") in [row[1:] for row in tasks]


async def test_child_runs_are_found_by_their_parent(events: EventsStream, start: Start, raw: Raw) -> None:
    process = start()
    failure = FailureInfo("os-error", "down", "task-error")
    happened: list[EventData] = [
        RunStarted(raw({})),
        ChildStarted(1, "part", 2, "order-1~a", "a"),
        ChildStarted(2, "part", 2, "chosen", "b"),
        ChildStarted(3, "part", 2, "order-1~c", "c"),
        ChildStarted(3, "part", 2, "order-1~d", "d"),
        ChildFailed(1, "part", "order-1~a", "a", 5.0, failure),
        ChildBegun(2, "part", "chosen", "b", 1.0),
        ChildCompleted(3, "part", "order-1~c", "c", 5.0, raw(1)),
    ]
    await process.until(await events.publish(events.run("order-1", happened)))
    rows = process.rows(
        "SELECT run_id, version, parent, parent_workflow, node, told, failure_name FROM child_runs ORDER BY run_id"
    )
    assert rows == [
        ("chosen", 2, "order-1", "process-order", 2, "detached", None),
        ("order-1~a", 2, "order-1", "process-order", 1, "failed", "os-error"),
        ("order-1~c", 2, "order-1", "process-order", 3, "completed", None),
        ("order-1~d", 2, "order-1", "process-order", 3, "waited-for", None),
    ]
