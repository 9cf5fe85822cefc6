"""Tasks that take too long, and that tell of their progress, in `WorkflowTest`: in no time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dressage.flow import App, Exponential, TaskError, TaskTimeout, gather, task, workflow
from dressage.protocol.errors import BadValue
from dressage.testing import WorkflowTest
from dressage.worker import current_task

app = App("hours")


@task(
    retries=2,
    backoff=Exponential(base=timedelta(minutes=1), factor=1.0, jitter=0.0),
    timeout=timedelta(hours=1),
    heartbeat=timedelta(minutes=10),
    start_timeout=timedelta(days=1),
    deadline=timedelta(hours=3),
)
async def count(shop: str) -> int:
    raise NotImplementedError


@workflow
async def counted(shop: str) -> str:
    try:
        return str(await count(shop))
    except TaskTimeout as late:
        return f"late: {late}"
    except TaskError as error:
        return str(error)


@pytest.fixture
def test() -> WorkflowTest[[str], str]:
    return WorkflowTest(counted)


def test_a_fake_that_takes_longer_than_its_timeout_is_tried_again(test: WorkflowTest[[str], str]) -> None:
    test.task(count).returns(5).takes(timedelta(hours=2))
    run = test.run("x")
    failed = [event.data for event in run.events if event.kind == "task-failed"]
    assert [(data["failure"]["name"], data.get("retry", False)) for data in failed] == [
        ("attempt-timeout", True),
        ("attempt-timeout", True),
        ("deadline", False),
    ]
    assert run.result == "late: task count was not done in 10800 s (attempt 3)"
    assert run.elapsed == timedelta(hours=3)


def test_a_fake_that_hangs_is_silent(test: WorkflowTest[[str], str]) -> None:
    test.task(count).hangs()
    run = test.run("x")
    assert run.result == "late: the handler was silent for 600 s (task count, attempt 3 of 3)"
    assert run.elapsed == timedelta(minutes=32)


def test_a_task_that_nobody_takes_ends_by_what_comes_first(test: WorkflowTest[[str], str]) -> None:
    test.task(count).stays_queued()
    run = test.run("x")
    assert run.result == "late: task count was not done in 10800 s (attempt 1)"
    assert run.elapsed == timedelta(hours=3)
    assert run.calls == []


def test_a_fake_that_is_done_before_its_times_is_not_late(test: WorkflowTest[[str], str]) -> None:
    test.task(count).raises(OSError("down")).takes(timedelta(minutes=59))
    run = test.run("x")
    assert run.result == "down (task count, attempt 3 of 3)"
    assert run.elapsed == timedelta(hours=2, minutes=59)


@workflow
async def waits_for_a_worker(shop: str) -> str:
    try:
        return str(await count.options(deadline=timedelta(days=9))(shop))
    except TaskTimeout as late:
        return str(late)


def test_options_of_the_call_go_before_those_of_the_task() -> None:
    test = WorkflowTest(waits_for_a_worker)
    test.task(count).stays_queued()
    run = test.run("x")
    assert run.result == "no worker has taken task count from queue default in 86400 s (attempt 1)"


def test_a_fake_that_is_given_something_else_to_do_takes_attempts_again(
    test: WorkflowTest[[str], str],
) -> None:
    test.task(count).stays_queued()
    test.task(count).returns(3)
    assert test.run("x").result == "3"


# -- progress -------------------------------------------------------------------------------------------
@app.task(retries=3)
async def imported(rows: int) -> list[int]:
    mine = current_task()
    first = mine.resumed(int) or 0
    await mine.checkpoint(first + 2)
    mine.heartbeat(first + 2)
    if first + 2 < rows:
        raise OSError("the file is locked")
    return [first, mine.attempt]


@app.task
def imported_in_a_thread(rows: int) -> int:
    current_task().checkpoint_blocking({"row": rows})
    assert current_task().stopped == ""
    with pytest.raises(BadValue, match="limit progress-size"):
        current_task().checkpoint_blocking("x" * 20_000)
    return rows


@workflow
async def importing(rows: int) -> tuple[list[int], int]:
    return await gather(imported(rows), imported_in_a_thread(rows))


def test_attempts_go_on_from_what_others_have_kept() -> None:
    run = WorkflowTest(importing, app).run(6)
    assert run.result == ([4, 3], 6)
    assert [event.kind for event in run.events].count("task-started") == 4


def test_what_is_kept_is_read_as_the_type_that_is_asked_for() -> None:
    test = WorkflowTest(importing, app)

    async def wrong(rows: int) -> list[int]:
        if current_task().attempt == 1:
            await current_task().checkpoint("no number")
            raise OSError("down")
        current_task().resumed(int)
        return []

    test.task(imported).does(wrong)
    run = test.run(6)
    assert run.failure is not None
    assert "is not of type <class 'int'>" in run.failure.causes[0].message
