"""Sleeping: a durable timer, set once, which fires into the run as a command."""

from __future__ import annotations

import math
from datetime import timedelta

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import SetTimer
from dressage.orchestrator.fold.state import RunThread, SleepWait
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import TimerFired
from dressage.protocol.events import SleepEnded, SleepStarted
from dressage.protocol.spec import SleepNode, SleepUntilNode

SLEEP_S_MAX = 100 * 365 * 86_400
"""A century: beyond it a duration is a mistake, and the date of its end may not exist."""


TIME_MS_MAX = 221_845_392_000_000
"""The year 9000, long before Python's dates end. A run's time runs ahead of the clock when a timer is fired by hand."""


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, SleepNode)
    until = due_ms_of(advance, advance.evaluate(ready, "duration"), "sleep")
    timer_id = advance.begun_id(thread, thread.node)
    thread.wait = SleepWait(timer_id, thread.node, until)
    advance.effects.append(SetTimer(timer_id, until, TimerFired(timer_id)))
    advance.emit(SleepStarted(thread.node, timer_id, rfc3339(until)))


def awake(advance: Advance, thread: RunThread, wait: SleepWait) -> None:
    """Also the end of a sleep until a moment."""
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, SleepNode | SleepUntilNode)
    advance.state.time_ms = max(advance.state.time_ms, wait.until_ms)
    advance.go_on(thread, node.next)
    advance.emit(SleepEnded(wait.node, wait.timer_id))


def due_ms_of(advance: Advance, duration: object, what: str) -> int:
    """When a `what` of this duration that begins now ends. Raises `ExpressionFailed` or `LimitExceeded`."""
    return ending(advance.state.time_ms + _milliseconds(duration, what), what)


def ending(due_ms: int, what: str) -> int:
    """When a `what` ends. Raises `LimitExceeded` where there is no such date."""
    if due_ms > TIME_MS_MAX:
        raise LimitExceeded(
            "sleep-length", f"the {what} would end after the year 9000, which is no date any more"
        )
    return due_ms


def limit_length(seconds: float, what: str) -> None:
    """Refuses a `what` that lasts so long."""
    if seconds > SLEEP_S_MAX:
        raise LimitExceeded(
            "sleep-length", f"a {what} may last {SLEEP_S_MAX} s, a century: this one is longer"
        )


def _milliseconds(duration: object, what: str) -> int:
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, float) and math.isnan(duration):
        raise ExpressionFailed(f"ValueError: {what} takes a duration, not nan")
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        # An int of any size can be compared with a float, but not always be made one.
        seconds = float(min(duration, SLEEP_S_MAX + 1)) if duration > 0 else 0.0
    else:
        raise ExpressionFailed(
            f"TypeError: {what} takes a timedelta or seconds, not {type(duration).__name__}"
        )
    limit_length(seconds, what)
    return max(0, math.ceil(seconds * 1000))
