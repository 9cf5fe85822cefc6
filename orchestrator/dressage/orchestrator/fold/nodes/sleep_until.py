"""Sleeping until a moment. One that is watched is computed again when variables change, and its timer set anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import structs

from dressage.expressions.errors import ExpressionFailed
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import SetTimer
from dressage.orchestrator.fold.limits import failure_of
from dressage.orchestrator.fold.nodes.sleep import ending, limit_length
from dressage.orchestrator.fold.state import RunThread, SleepWait
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import TimerFired
from dressage.protocol.events import SleepEnded, SleepMoved, SleepStarted
from dressage.protocol.spec import SleepUntilNode

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, SleepUntilNode)
    until = moment_ms(advance, advance.evaluate(ready, "moment"), "sleep")
    if until <= advance.state.time_ms:
        thread.node = node.next
        return
    timer_id = advance.timer_id(thread)
    thread.wait = SleepWait(timer_id, thread.node, until, advance.state.events if node.watched else 0)
    if node.watched:
        advance.watches.add(thread)
    advance.effects.append(SetTimer(timer_id, until, TimerFired(timer_id)))
    advance.emit(SleepStarted(thread.node, timer_id, rfc3339(until)))


def look(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    """The moment may be another one now."""
    node, wait = ready.node, thread.wait
    assert isinstance(node, SleepUntilNode)
    assert isinstance(wait, SleepWait)
    until = moment_ms(advance, advance.evaluate(ready, "moment"), "sleep")
    if until == wait.until_ms:
        return
    advance.drop_timer(wait.timer_id)
    if until <= advance.state.time_ms:
        advance.emit(SleepMoved(wait.node, wait.timer_id, rfc3339(until)))
        advance.go_on(thread, node.next)
        advance.emit(SleepEnded(wait.node, wait.timer_id))
        return
    timer_id = advance.timer_id(thread)
    thread.wait = structs.replace(wait, timer_id=timer_id, until_ms=until)
    advance.effects.append(SetTimer(timer_id, until, TimerFired(timer_id)))
    advance.emit(SleepMoved(wait.node, wait.timer_id, rfc3339(until), timer_id))


def is_moved(advance: Advance, thread: RunThread, wait: SleepWait) -> bool:
    """Whether a thread that is paused, and whose time has come, is to sleep for longer by now, or cannot say."""
    ready = advance.definition.nodes[wait.node]
    if not wait.begun:
        return False
    advance.state.time_ms = max(advance.state.time_ms, wait.until_ms)
    thread = advance.threads.own(thread)
    advance.turn_to(thread)
    before = thread.wait
    try:
        look(advance, thread, ready)
    except ExpressionFailed as error:
        advance.fail(thread, failure_of(error, ready.node.line), wait.node)
    return thread.wait is not before


def moment_ms(advance: Advance, moment: Any, what: str) -> int:
    """The first millisecond at which a moment has come, which ends a `what`.

    Raises `ExpressionFailed` or `LimitExceeded`.
    """
    due_ms = ms_of(moment, _of(what))
    limit_length((due_ms - advance.state.time_ms) / 1000, what)
    return ending(due_ms, what)


def ms_of(moment: Any, what: str) -> int:
    """The first millisecond at which a moment has come. Raises `ExpressionFailed` for what is none."""
    if not isinstance(moment, datetime):
        raise ExpressionFailed(f"TypeError: {what} takes a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ExpressionFailed(
            f"ValueError: {what} of a datetime without a time zone depends on the machine: give it one"
        )
    return -((_EPOCH - moment) // _MILLISECOND)


def _of(what: str) -> str:
    return "sleep_until" if what == "sleep" else what
