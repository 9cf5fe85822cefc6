"""Waiting for an external event: the earliest unclaimed one is taken, and one event feeds one wait."""

from __future__ import annotations

import base64
import hashlib

import msgspec

from dressage.expressions.errors import LimitExceeded, error_family
from dressage.expressions.values import decode_stored, encode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import CancelTimer, SetTimer
from dressage.orchestrator.fold.limits import POSTED_MAX, UNCLAIMED_BYTES_MAX, too_large
from dressage.orchestrator.fold.nodes.sleep import due_ms_of
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.state import EventWait, RunState, RunThread, Unclaimed
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import FailureInfo, PostEvent, TimerFired
from dressage.protocol.errors import BadValue
from dressage.protocol.events import EventAwaited, EventExpired, EventPosted, EventReceived, EventTimedOut
from dressage.protocol.spec import EventNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, EventNode)
    due_ms = 0
    if node.timeout is not None:
        due_ms = due_ms_of(advance, advance.evaluate(ready, "timeout"), "timeout")
    found = _earliest(advance, node.event)
    if found is not None:
        advance.emit(EventReceived(thread.node, node.event, found.event_id))
        _take(advance, thread, thread.node, node, found)
        return
    timer_id = advance.begun_id(thread, thread.node) if node.timeout is not None else ""
    wait = EventWait(node.event, thread.node, advance.state.seq, advance.state.time_ms, timer_id, due_ms)
    thread.wait = wait
    if timer_id:
        advance.effects.append(SetTimer(timer_id, due_ms, TimerFired(timer_id)))
    until = rfc3339(due_ms) if timer_id else ""
    advance.emit(EventAwaited(thread.node, node.event, until, timer_id))


def on_post(advance: Advance, command: PostEvent) -> None:
    """Checks an event, and hands it to the earliest wait for it, or keeps it. Raises `RefuseCommand`."""
    state, event = advance.state, command.event
    if not command.event_id:
        raise RefuseCommand("EVENT_INVALID", "an external event has an id: give it one that no other has")
    payload = _payload(advance, command)
    if advance.history_full:
        raise RefuseCommand(
            "EVENTS_FULL",
            f"run {state.run_id!r} has all the output events that it may have (limit history-limit)",
        )
    if len(state.posted) >= POSTED_MAX:
        raise RefuseCommand(
            "EVENTS_FULL",
            f"run {state.run_id!r} has had {POSTED_MAX} external events, all that are allowed (limit posted-events): "
            "start another run for the rest",
        )
    state.posted.append(mark_of(command.event_id))
    codec = advance.definition.events[event]
    value = decode_stored(payload, advance.definition.types)
    advance.emit(
        EventPosted(event, command.event_id, msgspec.Raw(codec.shown(bytes(command.payload), value)))
    )
    posted = Unclaimed(event, command.event_id, state.time_ms, payload)
    waiting = [
        each for each in state.threads if isinstance(each.wait, EventWait) and each.wait.event == event
    ]
    if not waiting:
        _keep(advance, posted)
        return
    thread = min(waiting, key=_begun)
    wait = thread.wait
    assert isinstance(wait, EventWait)
    if wait.timer_id:
        advance.effects.append(CancelTimer(wait.timer_id))
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, EventNode)
    advance.emit(EventReceived(wait.node, event, command.event_id, float(state.time_ms - wait.since_ms)))
    _take(advance, thread, wait.node, node, posted)


def on_timeout(advance: Advance, thread: RunThread, wait: EventWait) -> None:
    advance.state.time_ms = max(advance.state.time_ms, wait.until_ms)
    advance.turn_to(thread)
    advance.emit(EventTimedOut(wait.node, wait.event, wait.timer_id))
    waited = (wait.until_ms - wait.since_ms) / 1000
    message = f"event {wait.event} did not come within {waited:g} s"
    failure = FailureInfo("timeout", message, "timeout", family=error_family("TimeoutError"))
    advance.fail(thread, failure, wait.node)


def is_posted(state: RunState, command: PostEvent) -> bool:
    """Whether this event has come to the run before."""
    return mark_of(command.event_id) in state.posted


def mark_of(event_id: str) -> str:
    """What is remembered of an event's id: 96 bits of its hash, whatever its length."""
    return base64.b64encode(hashlib.sha256(event_id.encode()).digest()[:12]).decode()


def _payload(advance: Advance, command: PostEvent) -> msgspec.Raw:
    """The payload in stored form. Raises `RefuseCommand`."""
    definition, event, data = advance.definition, command.event, bytes(command.payload)
    codec = definition.events.get(event)
    if codec is None:
        known = ", ".join(definition.events) or "no event"
        raise RefuseCommand(
            "EVENT_UNKNOWN",
            f"workflow {definition.spec.name!r} version {definition.version} does not wait for event {event!r}: it "
            f"waits for {known}",
        )
    try:
        if len(data) > definition.limits.value_bytes:
            raise too_large("event-size", "the payload", data, definition.limits)
        return msgspec.Raw(encode_stored(codec.decode(data)))
    except (BadValue, LimitExceeded) as error:
        raise RefuseCommand("EVENT_INVALID", f"payload of event {event!r}: {error.message}") from error


def _keep(advance: Advance, posted: Unclaimed) -> None:
    state = advance.state
    size = len(posted.payload) + sum(len(each.payload) for each in state.unclaimed)
    if size > UNCLAIMED_BYTES_MAX:
        raise RefuseCommand(
            "EVENTS_FULL",
            f"unclaimed events of run {state.run_id!r} take {size} bytes of {UNCLAIMED_BYTES_MAX} allowed "
            "(limit unclaimed-events): post it again when the run has taken some",
        )
    state.unclaimed.append(posted)
    try:
        advance.check_sizes()
    except LimitExceeded as error:
        raise RefuseCommand(
            "EVENTS_FULL", f"run {state.run_id!r} has no room for it: {error.message}"
        ) from error


def _earliest(advance: Advance, event: str) -> Unclaimed | None:
    """Takes the earliest unclaimed event of this name out of the state; those whose time is over are dropped."""
    state, keep_ms = advance.state, advance.definition.expiries.get(event)
    for posted in [each for each in state.unclaimed if each.event == event]:
        state.unclaimed.remove(posted)
        if keep_ms is None or posted.posted_ms + keep_ms > state.time_ms:
            return posted
        advance.emit(EventExpired(event, posted.event_id))
    return None


def _take(advance: Advance, thread: RunThread, number: int, node: EventNode, posted: Unclaimed) -> None:
    value = decode_stored(posted.payload, advance.definition.types)
    advance.scope.spend(len(posted.payload))
    advance.go_on_with(thread, number, node.next, node.target, value)


def _begun(thread: RunThread) -> tuple[int, int]:
    assert isinstance(thread.wait, EventWait)
    return thread.wait.begun, thread.id
