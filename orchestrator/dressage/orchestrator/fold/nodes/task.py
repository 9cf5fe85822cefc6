"""Calling a task: dispatch, result, business failure, retry with backoff, and what is not done in time."""

from __future__ import annotations

import math
import zlib
from typing import Final

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.orchestrator.fold import pausing
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import DispatchTask, SetTimer
from dressage.orchestrator.fold.limits import (
    ERROR_NAME_CHARS_MAX,
    FAMILY_NAMES_MAX,
    LOG_CHARS_MAX,
    bounded,
    limit_details,
    too_large,
)
from dressage.orchestrator.fold.nodes import permit
from dressage.orchestrator.fold.outcome import RefuseCommand, check_reason
from dressage.orchestrator.fold.state import HeldWait, RunThread, TaskWait
from dressage.protocol.commands import (
    PROGRESS_BYTES_MAX,
    AttemptProgress,
    FailureInfo,
    SettleTask,
    TaskResult,
    TimerFired,
    WorkerInfo,
)
from dressage.protocol.errors import BadValue
from dressage.protocol.events import (
    TaskCompleted,
    TaskDead,
    TaskFailed,
    TaskScheduled,
    TaskSettled,
    TaskStarted,
)
from dressage.protocol.names import is_name, queue_text
from dressage.protocol.spec import (
    ANY_ERROR,
    TASK_ERROR,
    TASK_TIMEOUT_FAMILY,
    Retry,
    TaskNode,
    TaskTimes,
    effective_retry,
    effective_times,
)

SETTLING_EVENTS: Final = 4
"""So many output events are left for what becomes of a dead call."""

TASK_FAMILY = (TASK_ERROR, ANY_ERROR)
"""By what a technical error of a task can be caught."""


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, TaskNode)
    key, priority = "", None
    if node.key is not None or node.priority is not None:
        key, priority = permit.chosen(advance, ready, node)
    args = {name: advance.evaluate(ready, name) for name in node.args}
    task = advance.definition.task(node.task)
    wire_args = advance.definition.task_params[task.name].encode(args)
    if len(wire_args) > advance.definition.limits.value_bytes:
        raise too_large(
            "arguments-size", f"the arguments of task {task.name}", wire_args, advance.definition.limits
        )
    call_id, now_ms = advance.begun_id(thread, thread.node), advance.state.time_ms
    times = effective_times(node.times, task.times)
    limited = times.call_s is not None
    wait = TaskWait(
        task_id=advance.attempt_id(thread, thread.node, 1),
        call_id=call_id,
        task=task.name,
        queue=advance.definition.queues[task.name],
        node=thread.node,
        attempt=1,
        scheduled_ms=now_ms,
        args=msgspec.Raw(wire_args),
        until_ms=now_ms + _ms(times.call_s) if limited else 0,
        deadline_id=f"{call_id}-deadline" if limited else "",
        key=key,
        priority=task.priority if priority is None else priority,
    )
    if limited:
        advance.effects.append(SetTimer(wait.deadline_id, wait.until_ms, TimerFired(wait.deadline_id)))
    _begin(advance, thread, wait, times)


def _ms(seconds: float | None) -> int:
    return math.ceil((seconds or 0.0) * 1000)


def _begin(advance: Advance, thread: RunThread, wait: TaskWait, times: TaskTimes, delay_ms: int = 0) -> None:
    """An attempt begins: it is dispatched, or asks the task's limiter for that, if there is one."""
    if times.start_s is not None:
        wait = msgspec.structs.replace(wait, start_id=f"{wait.task_id}-start")
        due_ms = wait.scheduled_ms + _ms(times.start_s)
        advance.effects.append(SetTimer(wait.start_id, due_ms, TimerFired(wait.start_id)))
    thread.wait = wait
    if len(advance.state.threads) > 1:
        advance.stored = True  # With others beside it what it holds may be too much.
    if advance.definition.limited and advance.definition.task(wait.task).limit is not None:
        permit.ask(advance, thread, wait, delay_ms)
    else:
        dispatch(advance, wait, times, delay_ms)


def dispatch(advance: Advance, wait: TaskWait, times: TaskTimes, delay_ms: int = 0) -> None:
    """Hands an attempt to workers."""
    advance.effects.append(
        DispatchTask(
            queue=wait.queue,
            task=wait.task,
            task_id=wait.task_id,
            call_id=wait.call_id,
            attempt=wait.attempt,
            args=wait.args,
            scheduled_ms=wait.scheduled_ms,
            not_before_ms=wait.scheduled_ms if delay_ms else 0,
            timer_id=wait.timer_id,
            times=times,
            progress=wait.progress,
        )
    )
    advance.emit(
        TaskScheduled(wait.task, wait.task_id, wait.node, wait.attempt, wait.queue, delay_s=delay_ms / 1000)
    )


def on_permit(advance: Advance, thread: RunThread, wait: TaskWait) -> None:
    """The limiter lets the attempt be dispatched that a thread waits with. Raises `LimitExceeded`."""
    advance.check_history()
    thread = advance.threads.own(thread)
    if wait.permit == "later":
        advance.drop_timer(wait.timer_id)
    queue = advance.definition.queues[wait.task]
    thread.wait = wait = msgspec.structs.replace(wait, permit="held", timer_id="", queue=queue)
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, TaskNode)
    dispatch(advance, wait, effective_times(node.times, advance.definition.task(wait.task).times))


def on_result(advance: Advance, result: TaskResult) -> None:
    """Applies the result of the attempt that a thread waits for; any other is stale and changes nothing."""
    thread, wait = _awaiting(advance, result.task_id)
    advance.turn_to(thread)
    _apply(advance, thread, wait, result)


def on_progress(advance: Advance, told: AttemptProgress) -> None:
    """A worker tells that it has an attempt, and how far it has come. Raises `RefuseCommand`, also for a stale one."""
    thread, wait = _awaiting(advance, told.task_id)
    if not told.worker:
        raise RefuseCommand("PROGRESS_INVALID", "who tells of progress has a name: give the worker's")
    if wait.worker not in ("", told.worker) and not told.begins:
        raise RefuseCommand(
            "ATTEMPT_TAKEN",
            f"worker {wait.worker} has begun attempt {wait.task_id} of run {advance.state.run_id!r} anew: "
            "what another one says of it counts no more",
        )
    progress = wait.progress if told.progress is msgspec.UNSET else msgspec.Raw(bytes(told.progress))
    size = len(progress) if progress else 0
    if size > PROGRESS_BYTES_MAX:
        raise RefuseCommand(
            "PROGRESS_INVALID",
            f"progress of task {wait.task} takes {size} bytes of {PROGRESS_BYTES_MAX} allowed (limit progress-size): "
            "keep it elsewhere, and tell where",
        )
    thread.wait = msgspec.structs.replace(wait, worker=told.worker, progress=progress, start_id="")
    try:
        advance.check_sizes()
    except LimitExceeded as error:
        if told.progress is not msgspec.UNSET:
            message = (
                f"run {advance.state.run_id!r} has no room for progress of task {wait.task}: {error.message}"
            )
            raise RefuseCommand("PROGRESS_INVALID", message) from error
        thread.wait = msgspec.structs.replace(wait, worker="", start_id="")
        advance.threads.own(thread)
        advance.drop_timer(wait.start_id)
        return
    advance.drop_timer(wait.start_id)
    if wait.worker != told.worker and not advance.history_full:
        waited_ms = float(advance.state.time_ms - wait.scheduled_ms)
        advance.emit(TaskStarted(wait.task, wait.task_id, wait.node, wait.attempt, told.worker, waited_ms))


def _awaiting(advance: Advance, task_id: str) -> tuple[RunThread, TaskWait]:
    """The thread that waits for this attempt, as this fold may change it. Raises `RefuseCommand`."""
    thread = advance.threads.of_step(task_id)
    wait = None if thread is None else thread.wait
    if (
        thread is not None
        and isinstance(wait, TaskWait)
        and wait.task_id == task_id
        and wait.dead is None
        and wait.permit in ("", "held")
    ):
        return advance.threads.own(thread), wait
    raise RefuseCommand(
        "RESULT_STALE",
        f"run {advance.state.run_id!r} does not wait for attempt {task_id!r}: its result was applied before, "
        "or another attempt took its place",
    )


def _apply(advance: Advance, thread: RunThread, wait: TaskWait, result: TaskResult) -> None:
    given = [
        part
        for part in (result.output, result.failure, result.error)
        if part is not None and part is not msgspec.UNSET
    ]
    if len(given) != 1:
        raise RefuseCommand("RESULT_MALFORMED", "a task result has exactly one of output, failure and error")
    advance.drop_timer(wait.start_id)
    if result.error is not None:
        _errored(advance, thread, wait, result, bounded(_technical(result.error)))
    elif result.failure is not None:
        if not is_name(result.failure.name):
            message = f"worker {result.by.worker} reported a failure under {result.failure.name!r}, which is no name"
            wrong = FailureInfo("result-malformed", message, "type-error")
            _errored(advance, thread, wait, result, wrong)
            return
        family = advance.definition.families.get(result.failure.name, result.failure.family)
        failure = msgspec.structs.replace(result.failure, kind="failure", family=family, causes=())
        odd = _wrong_details(advance, failure, result)
        if odd is not None:
            _errored(advance, thread, wait, result, odd)
            return
        failure = bounded(failure)
        _report_failure(advance, wait, result.by, failure, retry=False)
        advance.drop_timer(wait.deadline_id)
        advance.fail(thread, failure, wait.node)
    elif result.output:
        _completed(advance, thread, wait, result, bytes(result.output))


def _wrong_details(advance: Advance, failure: FailureInfo, result: TaskResult) -> FailureInfo | None:
    """What is wrong with the details of a failure whose fields the workflow knows."""
    codec = advance.definition.types.details_of(failure)
    if codec is None:
        return None
    details = bytes(failure.details) if isinstance(failure.details, msgspec.Raw) else b"{}"
    try:
        limit_details(details, f"failure {failure.name}")
        codec.decode(details)
    except LimitExceeded as error:
        return FailureInfo(error.name, error.message, error.kind)
    except BadValue as error:
        message = (
            f"worker {result.by.worker} reported failure {failure.name} with other fields than it declares: "
            f"{error.message}"
        )
        return FailureInfo("failure-type", message, "type-error")
    return None


def _technical(error: FailureInfo) -> FailureInfo:
    """What a worker reports as an error is one of its task, whatever else it says of it."""
    known = error.kind in ("task-error", "type-error", "limit", "timeout")
    kind = error.kind if known else "task-error"
    classes = [name for name in error.family[:FAMILY_NAMES_MAX] if len(name) <= ERROR_NAME_CHARS_MAX]
    return FailureInfo(error.name, error.message, kind, error.details, tuple(classes))


def _completed(
    advance: Advance, thread: RunThread, wait: TaskWait, result: TaskResult, output: bytes
) -> None:
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, TaskNode)
    limits = advance.definition.limits
    if len(output) > limits.value_bytes:
        error = too_large("result-size", f"the result of task {wait.task}", output, limits)
        _errored(advance, thread, wait, result, FailureInfo(error.name, error.message, error.kind))
        return
    try:
        value = advance.definition.task_outputs[wait.task].decode(output)
    except BadValue as wrong:
        message = (
            f"worker {result.by.worker} returned a value that is not of the task's type: {wrong.message}"
        )
        _errored(advance, thread, wait, result, FailureInfo("output-type", message, "type-error"))
        return
    advance.emit(
        TaskCompleted(
            wait.task,
            wait.task_id,
            wait.node,
            wait.attempt,
            result.by.worker,
            result.by.duration_ms,
            advance.state.time_ms - wait.scheduled_ms,
            msgspec.Raw(advance.definition.task_outputs[wait.task].shown(output, value)),
            result.by.build,
            result.by.log[-LOG_CHARS_MAX:],
        )
    )
    advance.drop_timer(wait.deadline_id)
    advance.go_on_with(thread, wait.node, node.next, node.target, value)


def _errored(
    advance: Advance, thread: RunThread, wait: TaskWait, result: TaskResult, error: FailureInfo
) -> None:
    """A technical error: another attempt while the policy allows it; a wrong type is wrong every time."""
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, TaskNode)
    task = advance.definition.task(wait.task)
    retry = effective_retry(advance.definition.spec, node, task)
    delay_ms = backoff_ms(retry, wait.attempt - wait.spent, f"{advance.state.run_id}/{wait.task_id}")
    again = (
        error.kind in ("task-error", "timeout")
        and wait.attempt - wait.spent <= retry.retries
        and not advance.history_full
        and not _classes(error) & set(retry.never)
        and not (wait.until_ms and advance.state.time_ms + delay_ms >= wait.until_ms)
    )
    _report_failure(advance, wait, result.by, error, retry=again)
    if not again:
        where = f"task {wait.task}, attempt {wait.attempt} of {wait.spent + retry.retries + 1}"
        family = {"limit": (), "timeout": TASK_TIMEOUT_FAMILY}.get(error.kind, TASK_FAMILY)
        told = msgspec.structs.replace(error, message=f"{error.message} ({where})", family=family)
        _exhausted(advance, thread, wait, retry, told)
        return
    if advance.holds(thread):
        advance.hold(thread, HeldWait(wait.node, advance.stamp.seq, again=wait, delay_ms=delay_ms))
        return
    try_again(advance, thread, wait, delay_ms)


def _exhausted(
    advance: Advance, thread: RunThread, wait: TaskWait, retry: Retry, failure: FailureInfo
) -> None:
    """There is no other attempt: the call fails, or is dead until somebody says what becomes of it."""
    failure = bounded(failure)
    if (
        retry.exhausted == "fail"
        or advance.state.events + SETTLING_EVENTS > advance.definition.limits.history_events
    ):
        advance.drop_timer(wait.deadline_id)
        advance.fail(thread, failure, wait.node)
        return
    thread.wait = msgspec.structs.replace(
        wait, dead=failure, dead_ms=advance.state.time_ms, timer_id="", start_id="", worker="", permit=""
    )
    advance.stored = True
    advance.emit(TaskDead(wait.task, wait.task_id, wait.node, wait.attempt, failure))


def on_settled(advance: Advance, command: SettleTask) -> None:
    """Somebody retries a dead call, or lets it fail. Raises `RefuseCommand`, and `LimitExceeded`."""
    state, thread = advance.state, advance.threads.of_step(command.task_id)
    wait = None if thread is None else thread.wait
    if (
        thread is None
        or not isinstance(wait, TaskWait)
        or wait.dead is None
        or wait.task_id != command.task_id
    ):
        raise RefuseCommand(
            "TASK_UNKNOWN",
            f"run {state.run_id!r} has no such dead task: it was settled before, or has not failed",
        )
    check_reason(command.reason)
    pausing.remember(state, command)
    advance.check_history()
    thread = advance.threads.own(thread)
    advance.turn_to(thread)
    advance.emit(TaskSettled(wait.task, wait.task_id, wait.node, command.do, command.reason))
    alive = msgspec.structs.replace(wait, dead=None, dead_ms=0, spent=wait.attempt)
    if command.do == "fail":
        advance.drop_timer(wait.deadline_id)
        advance.fail(thread, wait.dead, wait.node)
    elif advance.holds(thread):
        advance.hold(thread, HeldWait(wait.node, advance.stamp.seq, again=alive))
    else:
        try_again(advance, thread, alive, 0)


def try_again(advance: Advance, thread: RunThread, wait: TaskWait, delay_ms: int) -> None:
    """The attempt after that of `wait`."""
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, TaskNode)
    task = advance.definition.task(wait.task)
    following = msgspec.structs.replace(
        wait,
        task_id=advance.attempt_id(thread, wait.node, wait.attempt + 1),
        attempt=wait.attempt + 1,
        queue=advance.definition.queues[wait.task],
        scheduled_ms=advance.state.time_ms + delay_ms,
        timer_id=advance.begun_id(thread, wait.node) if delay_ms else "",
        start_id="",
        worker="",
        permit="",
    )
    _begin(advance, thread, following, effective_times(node.times, task.times), delay_ms)


def _classes(error: FailureInfo) -> set[str]:
    """What `not_retried` may call an error."""
    return {error.name, *error.family, *(TASK_TIMEOUT_FAMILY if error.kind == "timeout" else TASK_FAMILY)}


def on_timer(advance: Advance, thread: RunThread, wait: TaskWait, timer_id: str) -> None:
    """No worker has taken the attempt in its time, or the time of the call is over. Raises `LimitExceeded`."""
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, TaskNode)
    times = effective_times(node.times, advance.definition.task(wait.task).times)
    if timer_id == wait.deadline_id:
        name, due_ms = "deadline", wait.until_ms
        message = f"task {wait.task} was not done in {times.call_s or 0:g} s (attempt {wait.attempt})"
    else:
        name, due_ms = "start-timeout", wait.scheduled_ms + _ms(times.start_s)
        message = f"task {wait.task} had to wait for its limit for {times.start_s or 0:g} s (attempt {wait.attempt})"
    if timer_id != wait.deadline_id and wait.permit in ("", "held"):
        message = (
            f"no worker has taken task {wait.task} from queue {queue_text(wait.queue)} in {times.start_s or 0:g} s "
            f"(attempt {wait.attempt})"
        )
    advance.state.time_ms = max(advance.state.time_ms, due_ms)
    thread = advance.threads.own(thread)
    advance.turn_to(thread)
    failure = FailureInfo(name, message, "timeout", family=TASK_TIMEOUT_FAMILY)
    if wait.dead is None and not isinstance(thread.wait, HeldWait):
        _report_failure(advance, wait, None, failure, retry=False)  # Else the attempt has failed before.
    if timer_id != wait.deadline_id:
        advance.drop_timer(wait.timer_id)
        retry = effective_retry(advance.definition.spec, node, advance.definition.task(wait.task))
        _exhausted(advance, thread, wait, retry, failure)
        return
    for other in wait.timers:
        if other != timer_id:
            advance.drop_timer(other)
    if wait.dead is not None:
        advance.emit(TaskSettled(wait.task, wait.task_id, wait.node, "timeout"))
    advance.fail(thread, failure, wait.node)


def _report_failure(
    advance: Advance, wait: TaskWait, by: WorkerInfo | None, failure: FailureInfo, *, retry: bool
) -> None:
    """`by` is None where no worker has told of it."""
    advance.emit(
        TaskFailed(
            wait.task,
            wait.task_id,
            wait.node,
            wait.attempt,
            wait.worker if by is None else by.worker,
            0.0 if by is None else by.duration_ms,
            advance.state.time_ms - wait.scheduled_ms,
            failure,
            retry,
            "" if by is None else by.build,
            "" if by is None else by.log[-LOG_CHARS_MAX:],
        )
    )


def backoff_ms(retry: Retry, attempt: int, seed: str) -> int:
    """Delay before the attempt after `attempt`. The jitter comes from `seed`, so that a refold gives the same."""
    try:
        delay_s = min(retry.base_s * retry.factor ** (attempt - 1), retry.limit_s)
    except OverflowError:
        delay_s = retry.limit_s
    share = zlib.crc32(seed.encode()) / 0xFFFFFFFF * 2 - 1
    return max(1, round(delay_s * (1 + retry.jitter * share) * 1000))
