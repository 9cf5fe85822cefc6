"""Waiting for a condition on variables, which other run threads change."""

from __future__ import annotations

from dressage.expressions.errors import ExpressionFailed, error_family
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import SetTimer
from dressage.orchestrator.fold.limits import failure_of
from dressage.orchestrator.fold.nodes.sleep import due_ms_of
from dressage.orchestrator.fold.state import ConditionWait, RunThread
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import FailureInfo, TimerFired
from dressage.protocol.events import ConditionAwaited, ConditionMet, ConditionTimedOut
from dressage.protocol.spec import ConditionNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node, state = ready.node, advance.state
    assert isinstance(node, ConditionNode)
    due_ms = 0
    if node.timeout is not None:
        due_ms = due_ms_of(advance, advance.evaluate(ready, "timeout"), "timeout")
    if advance.evaluate(ready, "condition"):
        advance.emit(ConditionMet(thread.node, node.text))
        thread.node = node.next
        return
    timer_id = advance.timer_id(thread) if node.timeout is not None else ""
    thread.wait = ConditionWait(thread.node, state.events, state.time_ms, timer_id, due_ms)
    advance.watches.add(thread)
    if timer_id:
        advance.effects.append(SetTimer(timer_id, due_ms, TimerFired(timer_id)))
    until = rfc3339(due_ms) if timer_id else ""
    advance.emit(ConditionAwaited(thread.node, node.text, until, timer_id))


def look(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    """What it waits for may hold now."""
    node, wait = ready.node, thread.wait
    assert isinstance(node, ConditionNode)
    assert isinstance(wait, ConditionWait)
    if not advance.evaluate(ready, "condition"):
        return
    advance.drop_timer(wait.timer_id)
    advance.go_on(thread, node.next)
    advance.emit(ConditionMet(wait.node, node.text, float(advance.state.time_ms - wait.since_ms)))


def on_timeout(advance: Advance, thread: RunThread, wait: ConditionWait) -> None:
    """Raises `LimitExceeded`."""
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, ConditionNode)
    advance.state.time_ms = max(advance.state.time_ms, wait.until_ms)
    thread = advance.threads.own(thread)
    advance.turn_to(thread)
    if advance.paused(thread):
        # It has not looked since it was; whether it holds in time is what counts.
        ready = advance.definition.nodes[wait.node]
        try:
            look(advance, thread, ready)
        except ExpressionFailed as error:
            advance.fail(thread, failure_of(error, node.line), wait.node)
        if thread.wait is not wait:
            return
    advance.emit(ConditionTimedOut(wait.node, node.text, wait.timer_id))
    what = f"condition {node.text}" if node.text else f"the condition of line {node.line}"
    waited = (wait.until_ms - wait.since_ms) / 1000
    failure = FailureInfo(
        "timeout", f"{what} did not hold within {waited:g} s", "timeout", family=error_family("TimeoutError")
    )
    advance.fail(thread, failure, wait.node)
