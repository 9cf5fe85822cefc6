"""The fold as a function: given state and commands, these effects and events; nothing else is read or done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.flow import App, Exponential, Searchable, WorkflowFailure, sleep, workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.nodes.task import backoff_ms
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import (
    RunState,
    SleepWait,
    TaskWait,
    decode_state,
    encode_state,
)
from dressage.protocol.commands import (
    REASON_BYTES_MAX,
    CancelRun,
    Command,
    FailureInfo,
    StartRun,
    TaskResult,
    TimerFired,
    WorkerInfo,
)
from dressage.protocol.events import (
    KIND,
    FailureCaught,
    RunCancelled,
    RunFailed,
    TaskScheduled,
    VariableChanged,
)
from dressage.protocol.spec import RegisteredWorkflow, Retry

app = App("fold")
BY = WorkerInfo("w", 1.0)


class Declined(WorkflowFailure): ...


class Stolen(Declined): ...


@dataclass
class View:
    status: Searchable[str] = "NEW"
    note: str = ""


@app.task(retries=2, backoff=Exponential(base=timedelta(seconds=1), factor=2.0, jitter=0.0))
async def work(n: int) -> int:
    return n


@workflow(name="looped")
async def looped(n: int, bonus: int = 5) -> int:
    view = View()
    total = bonus
    while total < n:
        try:
            got = await work(total)
            total = got
        except Declined as declined:
            view.note = declined.message
            await sleep(2.5)
            total = total + 1
    view.status = "DONE"
    return total


DEFINITION = Definition(RegisteredWorkflow(looped.spec, 1, looped.spec.digest()))


def start(**given: Any) -> StartRun:
    return StartRun("looped", 1, msgspec.Raw(msgspec.json.encode(given)), "start-1", "ann")


def done(state: RunState | None, value: object) -> TaskResult:
    return TaskResult(waiting(state).task_id, BY, msgspec.Raw(msgspec.json.encode(value)))


def failed(state: RunState | None, name: str = "declined") -> TaskResult:
    return TaskResult(waiting(state).task_id, BY, failure=FailureInfo(name, "no cover"))


def errored(state: RunState | None) -> TaskResult:
    return TaskResult(waiting(state).task_id, BY, error=FailureInfo("OSError", "gone", "task-error"))


def waiting(state: RunState | None) -> TaskWait:
    assert state is not None
    wait = state.threads[0].wait
    assert isinstance(wait, TaskWait)
    return wait


def apply(state: RunState | None, command: Command, seq: int, time_ms: int | None = None) -> Outcome:
    return fold(state, command, "r", Stamp(seq, 1000 * seq if time_ms is None else time_ms), DEFINITION)


def kinds(outcome: Outcome) -> list[str]:
    return [KIND[type(event)] for event in outcome.events]


def test_a_start_dispatches_the_first_task() -> None:
    outcome = apply(None, start(n=9), 7)
    (effect,) = outcome.effects
    assert isinstance(effect, DispatchTask)
    assert (effect.task, bytes(effect.args), effect.attempt) == ("work", b'{"n":5}', 1)
    assert kinds(outcome)[0] == "run-started"


def test_the_same_start_again_changes_nothing() -> None:
    state = apply(None, start(n=9), 7).run
    again = apply(state, start(n=9), 8)
    assert again.run is state
    assert (again.code, again.effects, again.events, again.existing) == (None, [], [], False)


def test_another_start_with_the_same_input_finds_the_run() -> None:
    state = apply(None, start(n=9), 7).run
    other = msgspec.structs.replace(start(n=9, bonus=5), command_id="start-2")
    assert apply(state, other, 8).existing


def test_other_input_is_a_conflict() -> None:
    state = apply(None, start(n=9), 7).run
    assert apply(state, start(n=10), 8).code == "RUN_ID_CONFLICT"


def test_a_result_moves_the_run_on() -> None:
    state = apply(None, start(n=9), 7).run
    outcome = apply(state, done(state, 9), 8)
    assert outcome.run is not None
    assert (outcome.run.status, outcome.run.output and bytes(outcome.run.output)) == ("completed", b"9")


def test_point_9_a_result_applied_before_is_stale() -> None:
    state = apply(None, start(n=9), 7).run
    result = done(state, 8)
    after = apply(state, result, 8).run
    assert apply(after, result, 9).code == "RESULT_STALE"


def test_a_result_for_a_finished_run_is_refused() -> None:
    state = apply(None, start(n=9), 7).run
    result = done(state, 9)
    assert apply(apply(state, result, 8).run, result, 9).code == "RUN_FINISHED"


def test_a_result_without_a_run_is_refused() -> None:
    assert apply(None, TaskResult("0-0-1-1", BY, msgspec.Raw(b"1")), 7).code == "RUN_UNKNOWN"


def test_a_technical_error_is_retried_with_backoff_and_the_same_arguments() -> None:
    state = apply(None, start(n=9), 7).run
    first = waiting(state)
    outcome = apply(state, errored(state), 8)
    (effect,) = outcome.effects
    assert isinstance(effect, DispatchTask)
    assert (effect.attempt, effect.not_before_ms, bytes(effect.args)) == (2, 9000, bytes(first.args))
    assert effect.call_id == first.call_id
    assert effect.task_id != first.task_id


def test_the_last_attempt_that_errors_fails_the_run_by_name() -> None:
    outcome = apply(None, start(n=9), 7)
    for seq in (8, 9, 10):
        outcome = apply(outcome.run, errored(outcome.run), seq)
    failure = outcome.events[-1]
    assert isinstance(failure, RunFailed)
    assert (failure.failure.name, failure.failure.kind) == ("OSError", "task-error")


def test_a_business_failure_is_caught_by_its_family_and_not_retried() -> None:
    state = apply(None, start(n=9), 7).run
    result = TaskResult(waiting(state).task_id, BY, failure=FailureInfo("stolen", "", family=("declined",)))
    outcome = apply(state, result, 8)
    assert any(isinstance(event, FailureCaught) for event in outcome.events)
    assert not any(isinstance(event, TaskScheduled) for event in outcome.events)


def test_a_sleep_sets_a_timer_and_ends_by_it_alone() -> None:
    state = apply(None, start(n=9), 7).run
    asleep = apply(state, failed(state), 8)
    (timer,) = asleep.effects
    assert isinstance(timer, SetTimer)
    assert timer.due_ms == 8000 + 2500
    assert apply(asleep.run, TimerFired("0-0-1"), 9).code == "RESULT_STALE"
    awake = apply(asleep.run, TimerFired(timer.timer_id), 10)
    assert "sleep-ended" in kinds(awake)
    assert apply(awake.run, TimerFired(timer.timer_id), 11).code == "RESULT_STALE"


CANCEL = CancelRun("cancel-1", "no longer wanted", "bob")


def test_a_cancel_ends_the_run_with_its_reason_and_its_actor() -> None:
    state = apply(None, start(n=9), 7).run
    outcome = apply(state, CANCEL, 9)
    assert outcome.run is not None
    assert (outcome.run.status, outcome.run.reason, outcome.run.ended_ms) == (
        "cancelled",
        "no longer wanted",
        9000,
    )
    assert outcome.events == [RunCancelled(2000.0, "no longer wanted")]
    assert (outcome.actor, outcome.existing) == ("bob", False)


def test_a_cancel_takes_the_timer_of_a_sleep_back() -> None:
    state = apply(None, start(n=9), 7).run
    asleep = apply(state, failed(state), 8)
    (timer,) = asleep.effects
    assert isinstance(timer, SetTimer)
    cancelled = apply(asleep.run, CANCEL, 9)
    assert cancelled.effects == [CancelTimer(timer.timer_id)]
    assert apply(cancelled.run, TimerFired(timer.timer_id), 10).code == "RUN_FINISHED"


def test_a_cancel_takes_the_delay_of_a_retry_back() -> None:
    state = apply(None, start(n=9), 7).run
    retried = apply(state, errored(state), 8)
    (delayed,) = retried.effects
    assert isinstance(delayed, DispatchTask)
    cancelled = apply(retried.run, CANCEL, 9)
    assert cancelled.effects == [CancelTimer(delayed.timer_id)]
    assert apply(cancelled.run, done(retried.run, 6), 10).code == "RUN_FINISHED"


def test_a_cancel_of_a_run_that_waits_for_a_first_attempt_has_no_effect_to_ask_for() -> None:
    state = apply(None, start(n=9), 7).run
    assert apply(state, CANCEL, 8).effects == []


def test_a_run_that_fails_by_its_last_attempt_takes_back_no_timer_that_has_fired() -> None:
    outcome = apply(None, start(n=9), 7)
    for seq in (8, 9, 10):
        outcome = apply(outcome.run, errored(outcome.run), seq)
    assert kinds(outcome)[-1] == "run-failed"
    assert outcome.effects == []


@pytest.mark.parametrize("other", [CANCEL, CancelRun("cancel-2"), CancelRun("3", "x" * REASON_BYTES_MAX * 2)])
def test_a_cancelled_run_takes_every_further_cancel_and_changes_nothing(other: CancelRun) -> None:
    state = apply(apply(None, start(n=9), 7).run, CANCEL, 8).run
    again = apply(state, other, 9)
    assert again.run is state
    assert (again.code, again.existing, again.effects, again.events) == (None, True, [], [])


def test_a_cancel_of_what_is_not_there_or_has_ended_is_refused() -> None:
    assert apply(None, CANCEL, 7).code == "RUN_UNKNOWN"
    state = apply(None, start(n=9), 7).run
    assert apply(apply(state, done(state, 9), 8).run, CANCEL, 9).code == "RUN_FINISHED"


def test_a_reason_is_bounded_in_bytes() -> None:
    state = apply(None, start(n=9), 7).run
    assert apply(state, CancelRun("c", "é" * (REASON_BYTES_MAX // 2)), 8).code is None
    refused = apply(state, CancelRun("c", "é" * (REASON_BYTES_MAX // 2) + "e"), 8)
    assert (refused.code, refused.state) == ("REASON_TOO_LONG", state)


def test_the_runs_time_never_goes_backwards() -> None:
    state = apply(None, start(n=9), 7, time_ms=5000).run
    outcome = apply(state, done(state, 6), 8, time_ms=3000)
    assert outcome.run is not None
    assert outcome.run.time_ms == 5000


def test_a_searchable_attribute_is_marked_in_its_event() -> None:
    changes = [event for event in apply(None, start(n=9), 7).events if isinstance(event, VariableChanged)]
    assert {change.name: change.searchable for change in changes} == {
        "status": True,
        "note": False,
        "total": False,
    }


def test_a_result_of_another_type_fails_without_a_retry() -> None:
    state = apply(None, start(n=9), 7).run
    outcome = apply(state, done(state, "nine"), 8)
    failure = outcome.events[-1]
    assert isinstance(failure, RunFailed)
    assert failure.failure.kind == "type-error"


def test_the_state_that_is_passed_in_is_never_changed() -> None:
    state = apply(None, start(n=9), 7).run
    assert state is not None
    before = encode_state(state)
    apply(state, done(state, 7), 8)
    apply(state, errored(state), 8)
    assert encode_state(state) == before


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 5, 2000])
def test_backoff_grows_to_its_limit_and_jitters_within_its_share(attempt: int) -> None:
    retry = Retry(retries=9, base_s=1.0, factor=2.0, limit_s=10.0, jitter=0.2)
    plain = min(2.0 ** min(attempt - 1, 50), 10.0) * 1000
    waits = {backoff_ms(retry, attempt, f"seed-{number}") for number in range(200)}
    assert all(0.8 * plain - 1 <= wait <= 1.2 * plain + 1 for wait in waits)
    assert len(waits) > 100


def test_backoff_is_the_same_when_it_is_folded_again() -> None:
    assert backoff_ms(Retry(), 3, "r/1") == backoff_ms(Retry(), 3, "r/1")


steps = st.lists(
    st.sampled_from(["done", "failed", "errored", "stale", "timer", "start", "cancel"]), max_size=25
)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_replay_equals_state_with_a_restart_after_every_step(history: list[str]) -> None:
    """Live, through storage at each step, and folded again from the commands: the same states, effects and events."""
    commands: list[Command] = [start(n=8)]
    state = apply(None, commands[0], 1).run
    live: list[Outcome] = [apply(None, commands[0], 1)]
    for seq, step in enumerate(history, 2):
        assert state is not None
        command = _command(step, state)
        outcome = apply(state, command, seq)
        commands.append(command)
        live.append(outcome)
        stored = decode_state(encode_state(outcome.run)) if outcome.run is not None else None
        assert isinstance(stored, RunState | None)
        state = stored
    again: RunState | None = None
    for seq, (command, before) in enumerate(zip(commands, live, strict=True), 1):
        replayed = apply(again, command, seq)
        assert replayed.effects == before.effects
        assert replayed.events == before.events
        assert (replayed.run is None) == (before.state is None)
        if replayed.run is not None and before.state is not None:
            assert encode_state(replayed.run) == encode_state(before.state)
        again = replayed.run


def _command(step: str, state: RunState) -> Command:
    if step == "cancel":
        return CANCEL
    wait = state.threads[0].wait if state.threads else None
    if step == "start" or wait is None:
        return start(n=8)
    if isinstance(wait, TaskWait):
        match step:
            case "done":
                return done(state, 6)
            case "failed":
                return failed(state)
            case "errored":
                return errored(state)
            case _:
                return TaskResult("0-0-999-1", BY, msgspec.Raw(b"1"))
    assert isinstance(wait, SleepWait)
    return TimerFired(wait.timer_id if step in ("timer", "done") else "0-0-999")
