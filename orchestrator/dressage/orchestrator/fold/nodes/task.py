"""Calling a task: dispatch, result, business failure, retry with backoff."""

from __future__ import annotations

import zlib

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import DispatchTask
from dressage.orchestrator.fold.limits import bounded, limit_details, too_large
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.state import RunThread, TaskWait
from dressage.protocol.commands import FailureInfo, TaskResult
from dressage.protocol.errors import BadValue
from dressage.protocol.events import TaskCompleted, TaskFailed, TaskScheduled
from dressage.protocol.names import is_name
from dressage.protocol.spec import ANY_ERROR, TASK_ERROR, Retry, TaskNode, effective_retry

TASK_FAMILY = (TASK_ERROR, ANY_ERROR)
"""By what a technical error of a task can be caught."""


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, TaskNode)
    args = {name: advance.evaluate(ready, name) for name in node.args}
    task = advance.definition.task(node.task)
    wire_args = advance.definition.task_params[task.name].encode(args)
    if len(wire_args) > advance.definition.limits.value_bytes:
        raise too_large(
            "arguments-size", f"the arguments of task {task.name}", wire_args, advance.definition.limits
        )
    wait = TaskWait(
        task_id=advance.attempt_id(thread, thread.node, 1),
        call_id=advance.begun_id(thread, thread.node),
        task=task.name,
        queue=task.queue,
        node=thread.node,
        attempt=1,
        scheduled_ms=advance.state.time_ms,
        args=msgspec.Raw(wire_args),
    )
    _dispatch(advance, thread, wait)


def _dispatch(advance: Advance, thread: RunThread, wait: TaskWait, delay_ms: int = 0) -> None:
    thread.wait = wait
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
        )
    )
    advance.emit(
        TaskScheduled(wait.task, wait.task_id, wait.node, wait.attempt, wait.queue, delay_s=delay_ms / 1000)
    )


def on_result(advance: Advance, result: TaskResult) -> None:
    """Applies the result of the attempt that a thread waits for; any other is stale and changes nothing."""
    thread = advance.threads.of_step(result.task_id)
    wait = None if thread is None else thread.wait
    if thread is not None and isinstance(wait, TaskWait) and wait.task_id == result.task_id:
        thread = advance.threads.own(thread)
        advance.turn_to(thread)
        _apply(advance, thread, wait, result)
        return
    raise RefuseCommand(
        "RESULT_STALE",
        f"run {advance.state.run_id!r} does not wait for attempt {result.task_id!r}: its result was applied before, "
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
        _report_failure(advance, wait, result, failure, retry=False)
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
    known = error.kind in ("task-error", "type-error", "limit")
    return FailureInfo(error.name, error.message, error.kind if known else "task-error", error.details)


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
        )
    )
    advance.go_on_with(thread, wait.node, node.next, node.target, value)


def _errored(
    advance: Advance, thread: RunThread, wait: TaskWait, result: TaskResult, error: FailureInfo
) -> None:
    """A technical error: another attempt while the policy allows it; a wrong type is wrong every time."""
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, TaskNode)
    retry = effective_retry(advance.definition.spec, node, advance.definition.task(wait.task))
    again = error.kind == "task-error" and wait.attempt <= retry.retries and not advance.history_full
    _report_failure(advance, wait, result, error, retry=again)
    if not again:
        where = f"task {wait.task}, attempt {wait.attempt} of {retry.retries + 1}"
        family = () if error.kind == "limit" else TASK_FAMILY
        told = msgspec.structs.replace(error, message=f"{error.message} ({where})", family=family)
        advance.fail(thread, told, wait.node)
        return
    delay_ms = backoff_ms(retry, wait.attempt, f"{advance.state.run_id}/{wait.task_id}")
    following = msgspec.structs.replace(
        wait,
        task_id=advance.attempt_id(thread, wait.node, wait.attempt + 1),
        attempt=wait.attempt + 1,
        scheduled_ms=advance.state.time_ms + delay_ms,
        timer_id=advance.begun_id(thread, wait.node),
    )
    _dispatch(advance, thread, following, delay_ms)


def _report_failure(
    advance: Advance, wait: TaskWait, result: TaskResult, failure: FailureInfo, *, retry: bool
) -> None:
    advance.emit(
        TaskFailed(
            wait.task,
            wait.task_id,
            wait.node,
            wait.attempt,
            result.by.worker,
            result.by.duration_ms,
            advance.state.time_ms - wait.scheduled_ms,
            failure,
            retry,
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
