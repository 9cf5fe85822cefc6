"""The permit of an attempt: asking the task's limiter for it, and giving it back when nobody waits for the attempt."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from dressage.expressions.errors import ExpressionFailed
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.state import RunState, RunThread, TaskWait
from dressage.protocol.commands import AskPermit, DeferPermit, GivePermit, ReturnPermit, TimerFired
from dressage.protocol.errors import BadInput
from dressage.protocol.events import PermitAwaited
from dressage.protocol.names import LIMIT_KEY, check_key, limiter_token
from dressage.protocol.permits import wrong_with_priority
from dressage.protocol.spec import TaskNode
from dressage.protocol.spec_sizes import TASK_KEY, TASK_PRIORITY


def chosen(advance: Advance, ready: ReadyNode, node: TaskNode) -> tuple[str, int | None]:
    """The key and the priority that a call names. Raises `ExpressionFailed` for what is none."""
    key = "" if node.key is None else _key(advance.evaluate(ready, TASK_KEY))
    return key, None if node.priority is None else _priority(advance.evaluate(ready, TASK_PRIORITY))


def _key(value: Any) -> str:
    try:
        return check_key(value, LIMIT_KEY)
    except BadInput as error:
        kind = "ValueError" if isinstance(value, str) else "TypeError"
        raise ExpressionFailed(f"{kind}: {error.message}") from error


def _priority(value: Any) -> int:
    if wrong := wrong_with_priority(value):
        raise ExpressionFailed(f"{'ValueError' if type(value) is int else 'TypeError'}: {wrong}")
    return int(value)


def ask(advance: Advance, thread: RunThread, wait: TaskWait, delay_ms: int) -> None:
    """An attempt that has begun waits for its permit, and asks for it behind its backoff."""
    if delay_ms:
        thread.wait = wait = replace(wait, permit="later")
        _ask_at(advance, wait, wait.scheduled_ms)
    else:
        thread.wait = wait = replace(wait, permit="asked")
        advance.effects.append(_asking(advance, wait))
    advance.emit(
        PermitAwaited(
            wait.task, wait.task_id, wait.node, wait.attempt, wait.key, wait.priority, delay_ms / 1000
        )
    )


def ask_now(advance: Advance, thread: RunThread, wait: TaskWait) -> None:
    """The backoff is over, or the time of one that was deferred."""
    thread = advance.threads.own(thread)
    thread.wait = replace(wait, permit="asked", timer_id="")
    advance.effects.append(_asking(advance, wait))


def on_deferred(advance: Advance, command: DeferPermit) -> None:
    """Too many wait at the limiter. Raises `RefuseCommand` where nothing is asked of it."""
    thread = advance.threads.of_step(command.task_id)
    wait = None if thread is None else thread.wait
    if thread is None or not isinstance(wait, TaskWait) or wait.task_id != command.task_id:
        raise _stale(advance, command.task_id)
    if wait.permit != "asked":
        raise _stale(advance, command.task_id)
    thread = advance.threads.own(thread)
    wait = replace(wait, permit="later", timer_id=advance.begun_id(thread, wait.node))
    thread.wait = wait
    _ask_at(advance, wait, advance.state.time_ms + max(1, command.again_ms))


def _stale(advance: Advance, task_id: str) -> RefuseCommand:
    return RefuseCommand(
        "RESULT_STALE", f"run {advance.state.run_id!r} does not ask for a permit for {task_id!r}"
    )


def _ask_at(advance: Advance, wait: TaskWait, due_ms: int) -> None:
    advance.effects.append(SetTimer(wait.timer_id, due_ms, TimerFired(wait.timer_id)))


def _asking(advance: Advance, wait: TaskWait) -> SendCommand:
    definition = advance.definition
    limit = definition.task(wait.task).limit
    assert limit is not None
    said = AskPermit(advance.state.run_id, wait.task_id, limit, definition.registered_at, wait.priority)
    return SendCommand(limiter_token(wait.task, wait.key), said)


def waiter(state: RunState, command: GivePermit) -> tuple[RunThread, TaskWait] | None:
    """The thread whose attempt a permit is for, with its wait; None if it waits no more."""
    for thread in state.threads:
        wait = thread.wait
        if (
            isinstance(wait, TaskWait)
            and wait.permit
            and (wait.task_id, wait.task, wait.key) == (command.task_id, command.task, command.key)
        ):
            return thread, wait
    return None


def returned(advance: Advance) -> list[Effect]:
    """What is given back at the end of a fold: every permit that was held or asked for, for an attempt that nobody
    waits for any more, in whatever way that came."""
    before: dict[str, str] = {}
    kept: set[str] = set()
    for was, now in advance.threads.changed.values():
        if was is not None:
            before |= _permit(was)
        if now is not None and not advance.state.finished:
            kept |= _permit(now).keys()
    for thread in advance.ended:
        before |= _permit(thread)
    for effect in advance.effects:
        if isinstance(effect, SendCommand) and isinstance(effect.command, AskPermit):
            before[effect.command.task_id] = effect.token
    run_id = advance.state.run_id
    return [
        SendCommand(token, ReturnPermit(run_id, task_id))
        for task_id, token in before.items()
        if task_id not in kept
    ]


def _permit(thread: RunThread) -> dict[str, str]:
    """The limiter that knows of the attempt that a thread waits for, by the id of that."""
    wait = thread.wait
    if isinstance(wait, TaskWait) and wait.permit in ("asked", "held"):
        return {wait.task_id: limiter_token(wait.task, wait.key)}
    return {}
