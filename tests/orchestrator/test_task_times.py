"""What the fold makes of a task's times and progress: timers that are set and taken back, attempts that are over."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from dressage.flow import App, Exponential, TaskTimeout, WorkflowFailure, first_completed, sleep, workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.limits import FAMILY_NAMES_MAX, LOG_CHARS_MAX, thread_bytes
from dressage.orchestrator.fold.outcome import Outcome, Stamp, stopped
from dressage.orchestrator.fold.state import RunState, TaskWait, decode_state, encode_state
from dressage.orchestrator.turn.waits import waiting_for
from dressage.protocol.commands import (
    PROGRESS_BYTES_MAX,
    AttemptProgress,
    CancelRun,
    Command,
    FailureInfo,
    StartRun,
    TaskResult,
    TimerFired,
    WorkerInfo,
)
from dressage.protocol.events import TaskFailed, TaskStarted
from dressage.protocol.spec import RegisteredWorkflow, RetryOptions, WorkflowSpec

app = App("timed")
BY = WorkerInfo("w", 1.0)


class Declined(WorkflowFailure): ...


@app.task(
    retries=3,
    backoff=Exponential(base=timedelta(seconds=2), factor=1.0, jitter=0.0),
    deadline=timedelta(seconds=10),
    start_timeout=timedelta(seconds=4),
    timeout=timedelta(seconds=3),
    heartbeat=timedelta(seconds=1),
)
async def work(n: int) -> int:
    return n


@workflow
async def worked(n: int) -> str:
    try:
        return str(await work(n))
    except TaskTimeout as late:
        return f"late: {late}"
    except Declined:
        return "declined"


@workflow
async def raced(n: int) -> int:
    place, _ = await first_completed(work(n), sleep(1))
    return place


@dataclass
class Folding:
    """A run as one shard folds it, a second after the other."""

    spec: WorkflowSpec
    state: RunState | None = None
    seq: int = 0
    before: RunState | None = None
    last: Outcome | None = None
    refused: list[str] = field(default_factory=list[str])

    def apply(self, command: Command, at_s: float) -> Outcome:
        self.seq += 1
        definition = Definition(RegisteredWorkflow(self.spec, 1, self.spec.digest()))
        self.before = self.state
        outcome = self.last = fold(self.state, command, "r", Stamp(self.seq, round(1000 * at_s)), definition)
        if outcome.code is None:
            assert outcome.run is not None
            state = decode_state(encode_state(outcome.run))
            assert isinstance(state, RunState)
            self.state = state
        return outcome

    def begin(self) -> Outcome:
        given = msgspec.Raw(msgspec.json.encode({"n": 1}))
        return self.apply(StartRun(self.spec.name, 1, given, "start"), 0)

    @property
    def wait(self) -> TaskWait:
        assert self.state is not None
        return next(each.wait for each in self.state.threads if isinstance(each.wait, TaskWait))

    def done(self, value: Any, at_s: float) -> Outcome:
        output = msgspec.Raw(msgspec.json.encode(value))
        return self.apply(TaskResult(self.wait.task_id, BY, output), at_s)

    def breaks(self, at_s: float, name: str = "OSError") -> Outcome:
        return self.apply(
            TaskResult(self.wait.task_id, BY, error=FailureInfo(name, "down", "task-error")), at_s
        )

    @property
    def output(self) -> Any:
        assert self.state is not None
        return msgspec.json.decode(self.state.output) if self.state.output else None


@pytest.fixture
def run() -> Folding:
    made = Folding(worked.spec)
    made.begin()
    return made


def cancelled(outcome: Outcome) -> set[str]:
    return {effect.timer_id for effect in outcome.effects if isinstance(effect, CancelTimer)}


def test_a_call_begins_with_its_timers_and_tells_the_worker_of_its_times() -> None:
    outcome = Folding(worked.spec).begin()
    timers = {effect.timer_id: effect.due_ms for effect in outcome.effects if isinstance(effect, SetTimer)}
    (task,) = (effect for effect in outcome.effects if isinstance(effect, DispatchTask))
    assert timers == {f"{task.call_id}-deadline": 10_000, f"{task.task_id}-start": 4_000}
    assert (task.times.attempt_s, task.times.heartbeat_s, task.times.start_s) == (3.0, 1.0, 4.0)


def test_a_result_takes_both_timers_back(run: Folding) -> None:
    both = {run.wait.deadline_id, run.wait.start_id}
    assert cancelled(run.done(5, 1)) == both
    assert run.output == "5"


def test_a_business_failure_takes_both_timers_back(run: Folding) -> None:
    both = {run.wait.deadline_id, run.wait.start_id}
    failure = TaskResult(run.wait.task_id, BY, failure=FailureInfo("declined", "no"))
    assert cancelled(run.apply(failure, 1)) == both
    assert run.output == "declined"


def test_a_cancel_takes_both_timers_back(run: Folding) -> None:
    both = {run.wait.deadline_id, run.wait.start_id}
    assert cancelled(run.apply(CancelRun("c"), 1)) == both


def test_the_deadline_is_that_of_the_call_and_the_start_that_of_each_attempt(run: Folding) -> None:
    first = run.wait
    outcome = run.breaks(1)
    assert cancelled(outcome) == {first.start_id}
    (start,) = (effect for effect in outcome.effects if isinstance(effect, SetTimer))
    assert start.due_ms == 1_000 + 2_000 + 4_000, "it counts from when the attempt may begin"
    assert (run.wait.attempt, run.wait.deadline_id) == (2, first.deadline_id)
    assert start.timer_id == run.wait.start_id != first.start_id


def test_no_attempt_is_begun_that_would_come_behind_the_deadline(run: Folding) -> None:
    run.breaks(7)
    assert run.wait.attempt == 2
    deadline = run.wait.deadline_id
    outcome = run.breaks(9)
    assert deadline in cancelled(outcome)
    (failed,) = (event for event in outcome.events if isinstance(event, TaskFailed))
    assert not failed.retry
    assert run.state is not None
    assert run.state.failure is not None
    assert run.state.failure.message == "down (task work, attempt 2 of 4)"


def test_the_deadline_ends_the_call(run: Folding) -> None:
    wait = run.wait
    outcome = run.apply(TimerFired(wait.deadline_id), 10)
    assert cancelled(outcome) == {wait.start_id}
    assert run.output == "late: task work was not done in 10 s (attempt 1)"
    (failed,) = (event for event in outcome.events if isinstance(event, TaskFailed))
    assert (failed.worker, failed.failure.name, failed.failure.kind) == ("", "deadline", "timeout")
    late = run.apply(TaskResult(wait.task_id, BY, msgspec.Raw(b"5")), 11)
    assert late.code == "RUN_FINISHED"


def test_the_deadline_takes_back_an_attempt_that_waits_for_the_end_of_its_backoff(run: Folding) -> None:
    run.breaks(7.5)
    wait = run.wait
    assert wait.timer_id
    assert cancelled(run.apply(TimerFired(wait.deadline_id), 10)) == {wait.timer_id, wait.start_id}


def test_a_deadline_that_fires_with_a_clock_behind_is_not_early(run: Folding) -> None:
    run.apply(TimerFired(run.wait.deadline_id), 9.9)
    assert run.state is not None
    assert run.state.time_ms == 10_000


def test_an_attempt_that_nobody_takes_ends_the_call(run: Folding) -> None:
    wait = run.wait
    assert cancelled(run.apply(TimerFired(wait.start_id), 4)) == {wait.deadline_id}
    assert run.output == "late: no worker has taken task work from queue timed in 4 s (attempt 1)"


def test_an_attempt_that_has_started_is_not_waited_for(run: Folding) -> None:
    start = run.wait.start_id
    outcome = run.apply(AttemptProgress(run.wait.task_id, "w"), 1.5)
    assert cancelled(outcome) == {start}
    (event,) = outcome.events
    assert event == TaskStarted("work", run.wait.task_id, run.wait.node, 1, "w", 1500.0)
    assert run.apply(TimerFired(start), 4).code == "RESULT_STALE"
    assert run.apply(AttemptProgress(run.wait.task_id, "w"), 5).events == []
    assert outcome.actor == "w"


def test_progress_is_kept_for_the_attempts_that_follow(run: Folding) -> None:
    run.apply(AttemptProgress(run.wait.task_id, "w", msgspec.Raw(b'{"row":3}')), 1)
    assert run.state is not None
    assert waiting_for(run.state) == 'task work (attempt 1) with worker w, which has come to {"row":3}'
    run.apply(AttemptProgress(run.wait.task_id, "w"), 2)
    outcome = run.breaks(3)
    (task,) = (effect for effect in outcome.effects if isinstance(effect, DispatchTask))
    assert bytes(task.progress or b"") == b'{"row":3}'
    assert run.wait.worker == ""
    assert waiting_for(run.state) == 'task work (attempt 2) on queue timed, which has come to {"row":3}'


def test_progress_of_an_attempt_that_is_over_is_refused(run: Folding) -> None:
    first = run.wait.task_id
    run.breaks(1)
    assert run.apply(AttemptProgress(first, "w"), 2).code == "RESULT_STALE"
    assert run.apply(AttemptProgress("nonsense", "w"), 2).code == "RESULT_STALE"


@pytest.mark.limit("protocol.commands.PROGRESS_BYTES_MAX")
def test_progress_has_its_limit(run: Folding) -> None:
    most = msgspec.Raw(b'"' + b"x" * (PROGRESS_BYTES_MAX - 2) + b'"')
    assert run.apply(AttemptProgress(run.wait.task_id, "w", most), 1).code is None
    more = msgspec.Raw(b'"' + b"x" * (PROGRESS_BYTES_MAX - 1) + b'"')
    refused = run.apply(AttemptProgress(run.wait.task_id, "w", more), 1)
    assert refused.code == "PROGRESS_INVALID"
    assert "limit progress-size" in refused.message
    assert bytes(run.wait.progress or b"") == bytes(most)


def test_a_timeout_is_tried_again_and_then_a_timeout(run: Folding) -> None:
    late = FailureInfo("attempt-timeout", "too long", "timeout")
    for attempt in (1, 2):
        run.apply(TaskResult(run.wait.task_id, BY, error=late), attempt * 3)
    run.apply(TaskResult(run.wait.task_id, BY, error=late), 9)
    assert run.output == "late: too long (task work, attempt 3 of 4)"


def test_who_begins_an_attempt_has_it_and_who_had_it_before_is_refused(run: Folding) -> None:
    attempt = run.wait.task_id
    run.apply(AttemptProgress(attempt, "a", msgspec.Raw(b"1")), 1)
    outcome = run.apply(AttemptProgress(attempt, "b", begins=True), 2)
    assert outcome.events == [TaskStarted("work", attempt, run.wait.node, 1, "b", 2000.0)]
    late = run.apply(AttemptProgress(attempt, "a", msgspec.Raw(b"2")), 3)
    assert late.code == "ATTEMPT_TAKEN"
    assert run.apply(AttemptProgress(attempt, "b", msgspec.Raw(b"3")), 3).code is None
    assert bytes(run.wait.progress or b"") == b"3"
    # Whoever is done first has done it.
    assert run.apply(TaskResult(attempt, WorkerInfo("a", 1.0), msgspec.Raw(b"5")), 4).code is None
    assert run.output == "5"


def test_who_tells_of_progress_has_a_name(run: Folding) -> None:
    refused = run.apply(AttemptProgress(run.wait.task_id, "", msgspec.Raw(b"1")), 1)
    assert refused.code == "PROGRESS_INVALID"


def test_progress_counts_in_the_state_with_and_without_a_worker(run: Folding) -> None:
    long = msgspec.Raw(b'"' + b"x" * 10_000 + b'"')
    run.apply(AttemptProgress(run.wait.task_id, "w", long), 1)
    run.breaks(2)
    assert run.state is not None
    assert run.wait.worker == ""
    _, rest = thread_bytes(run.state.threads[0])
    assert rest > 10_000


@pytest.mark.parametrize("never", ["TaskTimeout", "TimeoutError", "OSError", "Exception"])
def test_a_timeout_need_not_be_tried_again(never: str) -> None:
    task = msgspec.structs.replace(worked.spec.tasks[0], retry=RetryOptions(5, never=(never,)))
    run = Folding(msgspec.structs.replace(worked.spec, tasks=(task,)))
    run.begin()
    late = FailureInfo("attempt-timeout", "too long", "timeout")
    run.apply(TaskResult(run.wait.task_id, BY, error=late), 1)
    assert run.output == "late: too long (task work, attempt 1 of 6)"


# -- what workers are told ------------------------------------------------------------------------------
def over(run: Folding, task_id: str = "") -> set[str]:
    assert run.before is not None
    assert run.last is not None
    return {wait.task_id for wait in stopped(run.before, run.last, task_id)}


def test_an_attempt_is_over_with_its_deadline_its_run_or_its_race(run: Folding) -> None:
    attempt = run.wait.task_id
    run.apply(TimerFired(run.wait.deadline_id), 10)
    assert over(run) == {attempt}

    other = Folding(worked.spec)
    other.begin()
    attempt = other.wait.task_id
    other.apply(CancelRun("c"), 1)
    assert over(other) == {attempt}

    race = Folding(raced.spec)
    begun = race.begin()
    attempt, timers = race.wait.task_id, {race.wait.deadline_id, race.wait.start_id}
    (asleep,) = {each.timer_id for each in begun.effects if isinstance(each, SetTimer)} - timers
    assert cancelled(race.apply(TimerFired(asleep), 1)) == timers
    assert over(race) == {attempt}


def test_an_attempt_is_not_over_that_has_ended_or_goes_on(run: Folding) -> None:
    run.apply(AttemptProgress(run.wait.task_id, "w", msgspec.Raw(b"1")), 1)
    assert over(run) == set()
    attempt = run.wait.task_id
    run.done(5, 2)
    assert over(run, attempt) == set()


# -- what a worker says of itself -----------------------------------------------------------------------
def test_of_a_log_that_is_too_long_the_end_is_kept(run: Folding) -> None:
    by = WorkerInfo("w", 1.0, "1.4", "x" * LOG_CHARS_MAX)
    kept = run.apply(TaskResult(run.wait.task_id, by, error=FailureInfo("OSError", "", "task-error")), 1)
    more = msgspec.structs.replace(by, log="y" + by.log)
    cut = run.apply(TaskResult(run.wait.task_id, more, error=FailureInfo("OSError", "", "task-error")), 4)
    for outcome in (kept, cut):
        (failed,) = (event for event in outcome.events if isinstance(event, TaskFailed))
        assert (failed.build, failed.log) == ("1.4", "x" * LOG_CHARS_MAX)


def test_of_the_classes_of_an_error_a_few_are_kept(run: Folding) -> None:
    family = ("x" * 10_000, *(f"E{number}" for number in range(1000)))
    error = FailureInfo("OSError", "down", "task-error", family=family)
    outcome = run.apply(TaskResult(run.wait.task_id, BY, error=error), 1)
    (failed,) = (event for event in outcome.events if isinstance(event, TaskFailed))
    assert failed.failure.family == tuple(f"E{number}" for number in range(FAMILY_NAMES_MAX - 1))
