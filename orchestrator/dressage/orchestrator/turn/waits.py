"""What a run waits for: in a line for people, and of each run thread with all that is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.state import (
    ChildWait,
    ConditionWait,
    EventWait,
    GatherWait,
    HeldWait,
    RunState,
    RunThread,
    SleepWait,
    TaskWait,
    TurnWait,
    UserWait,
)
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import FailureInfo, WaitKind, WaitView
from dressage.protocol.names import queue_text
from dressage.protocol.spec import ConditionNode

WAITS_SHOWN: Final = 20
"""Of more different things that a run waits for, the number is told."""

PROGRESS_SHOWN: Final = 200
"""Characters of a task's progress that are told with what a run waits for."""

THREADS_SHOWN: Final = 50
"""Of so many run threads it is told what each waits for; of the others their number."""


def waiting_for(state: RunState, definition: Definition | None = None) -> str:
    """What the run waits for, in words for people: of each of its branches, the same ones together."""
    waits = Counter[str]()
    threads = {thread.id: thread for thread in state.threads}
    for thread in state.threads:
        paused = ", and is interrupted" if _is_interrupted(thread, threads) else ""
        match thread.wait:
            case TaskWait(dead=FailureInfo()) as wait:
                waits[
                    f"somebody who retries task {wait.task} (attempt {wait.attempt}), or lets it fail{paused}"
                ] += 1
            case TaskWait(permit="asked" | "later") as wait:
                of = f", key {wait.key}" if wait.key else ""
                waits[
                    f"its turn at the limit of task {wait.task}{of} (attempt {wait.attempt}){_progress(wait)}{paused}"
                ] += 1
            case TaskWait() as wait:
                at = f"with worker {wait.worker}" if wait.worker else f"on queue {queue_text(wait.queue)}"
                waits[f"task {wait.task} (attempt {wait.attempt}) {at}{_progress(wait)}{paused}"] += 1
            case SleepWait() as wait:
                waits[f"time {rfc3339(wait.until_ms)}{paused}"] += 1
            case ConditionWait() as wait:
                waits[f"condition {_condition(wait, definition)}{_until(wait)}{paused}"] += 1
            case EventWait() as wait:
                at = f" at key {wait.key}" if wait.key else ""
                waits[f"event {wait.event}{at}{_until(wait)}{paused}"] += 1
            case UserWait() as wait:
                waits[f"user task {wait.user_task} {_with_people(wait)}{_until(wait)}{paused}"] += 1
            case HeldWait():
                waits["going on with what has come, which it may not yet"] += 1
            case ChildWait(detached=True) as wait:
                waits[f"the begin of run {wait.run_id} of workflow {wait.workflow}"] += 1
            case ChildWait() as wait:
                waits[f"run {wait.run_id} of workflow {wait.workflow}{paused}"] += 1
            case GatherWait(limit=limit) as wait if limit:
                waits[f"branches, of which {wait.ended} of {wait.branches} have ended"] += 1
            case TurnWait():
                waits["its turn to interrupt"] += 1
            case GatherWait() | None:
                # What it waits for are its branches, which wait themselves.
                pass
    told = [f"{what}, {count} times" if count > 1 else what for what, count in waits.items()]
    more = [f"{len(told) - WAITS_SHOWN} more"] if len(told) > WAITS_SHOWN else []
    return "; ".join(told[:WAITS_SHOWN] + more)


def _is_interrupted(thread: RunThread, threads: Mapping[int, RunThread]) -> bool:
    """Whether a handler runs for which it pauses, or what has started it does."""
    while thread.parent is not None:
        parent = threads[thread.parent]
        wait = parent.wait
        if isinstance(wait, GatherWait) and wait.interrupts(thread.branch):
            return True
        thread = parent
    return False


def _progress(wait: TaskWait) -> str:
    if wait.progress is msgspec.UNSET:
        return ""
    said = bytes(wait.progress).decode(errors="replace")
    return f", which has come to {said if len(said) <= PROGRESS_SHOWN else said[:PROGRESS_SHOWN] + '...'}"


def _with_people(wait: UserWait) -> str:
    """Who has it."""
    of = f"group {wait.group}" if wait.group else ""
    if not wait.user:
        return f"for {of}"
    return f"with user {wait.user}" + (f" of {of}" if of else "")


def _until(wait: ConditionWait | EventWait | UserWait) -> str:
    return f" until {rfc3339(wait.until_ms)}" if wait.timer_id else ""


def _condition(wait: ConditionWait, definition: Definition | None) -> str:
    """As its author has written it, or where it stands in a spec that no compiler of ours has written."""
    node = None if definition is None else definition.spec.nodes[wait.node]
    if not isinstance(node, ConditionNode):
        return f"of node {wait.node}"
    return node.text or f"of line {node.line}"


def waits_of(state: RunState, definition: Definition | None) -> tuple[tuple[WaitView, ...], int]:
    """What each run thread waits for, at most `THREADS_SHOWN` of them, and how many more there are.

    Those that wait for nothing but their branches are not among them.
    """
    if state.finished:
        return (), 0
    views = list(_views(state, definition))
    return tuple(views[:THREADS_SHOWN]), max(0, len(views) - THREADS_SHOWN)


def _views(state: RunState, definition: Definition | None) -> Iterator[WaitView]:
    threads = {thread.id: thread for thread in state.threads}
    for thread in state.threads:
        view = _wait_view(thread, definition)
        if view is not None:
            line = 0 if definition is None else definition.spec.nodes[view.node].line
            interrupted = _is_interrupted(thread, threads)
            yield msgspec.structs.replace(view, thread=thread.id, line=line, interrupted=interrupted)


def _wait_view(thread: RunThread, definition: Definition | None) -> WaitView | None:
    match thread.wait:
        case TaskWait(dead=FailureInfo()) as wait:
            return _task_view("dead-task", wait, wait.dead_ms)
        case TaskWait(permit="asked" | "later") as wait:
            return _task_view("limit", wait, wait.scheduled_ms)
        case TaskWait() as wait:
            return _task_view("task", wait, wait.scheduled_ms)
        case SleepWait() as wait:
            return WaitView("sleep", wait.node, until=rfc3339(wait.until_ms))
        case ConditionWait() as wait:
            text = _condition(wait, definition)
            return WaitView("condition", wait.node, text, rfc3339(wait.since_ms), _time(wait.until_ms))
        case EventWait() as wait:
            since, until = rfc3339(wait.since_ms), _time(wait.until_ms)
            return WaitView("event", wait.node, wait.event, since, until, key=wait.key)
        case UserWait() as wait:
            since, until = rfc3339(wait.since_ms), _time(wait.until_ms)
            return WaitView(
                *("user-task", wait.node, wait.user_task, since, until),
                id=wait.wait_id,
                who=_with_people(wait),
            )
        case ChildWait() as wait:
            kind: WaitKind = "child-begin" if wait.detached else "child"
            return WaitView(kind, wait.node, wait.workflow, rfc3339(wait.since_ms), id=wait.run_id)
        case HeldWait() as wait:
            return WaitView("held", wait.node)
        case TurnWait() as wait:
            return WaitView("turn", wait.node)
        case GatherWait() | None:
            return None


def _task_view(kind: Literal["dead-task", "limit", "task"], wait: TaskWait, since_ms: int) -> WaitView:
    return WaitView(
        *(kind, wait.node, wait.task, rfc3339(since_ms)),
        until=_time(wait.until_ms),
        id=wait.task_id,
        key=wait.key,
        attempt=wait.attempt,
        queue=wait.queue,
        worker=wait.worker,
    )


def _time(ms: int) -> str:
    return rfc3339(ms) if ms else ""
