"""Waiting for an external event: the earliest unclaimed one is taken, and one event feeds one wait."""

from __future__ import annotations

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded, error_family
from dressage.expressions.values import decode_stored, encode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import CancelTimer, SendCommand, SetTimer
from dressage.orchestrator.fold.limits import POSTED_MAX, UNCLAIMED_BYTES_MAX, too_large, type_error
from dressage.orchestrator.fold.mailbox import is_alive
from dressage.orchestrator.fold.marks import mark_of_event, mark_of_given
from dressage.orchestrator.fold.nodes.sleep import due_ms_of
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.state import EventWait, Mailbox, RunState, RunThread, Taken, Unclaimed
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import (
    AwaitEvent,
    DeliverEvent,
    EndWait,
    FailureInfo,
    PostEvent,
    RefuseWait,
    ReturnEvent,
    TimerFired,
)
from dressage.protocol.errors import BadInput, BadValue
from dressage.protocol.events import (
    EventAwaited,
    EventExpired,
    EventPosted,
    EventReceived,
    EventRefused,
    EventTimedOut,
)
from dressage.protocol.names import check_key, key_token
from dressage.protocol.spec import EventNode, TurnNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, EventNode)
    # As in a call of Python's, all that is given is evaluated before any of it is looked at.
    given = None if node.key is None else advance.evaluate(ready, "key")
    timeout = None if node.timeout is None else advance.evaluate(ready, "timeout")
    key = "" if node.key is None else _key(given)
    due_ms = 0 if node.timeout is None else due_ms_of(advance, timeout, "timeout")
    found = None if key else _earliest(advance, node.event)
    if found is not None:
        advance.emit(EventReceived(thread.node, node.event, found.event_id))
        _take(advance, thread, thread.node, node, found)
        return
    state, begun_id = advance.state, advance.begun_id(thread, thread.node)
    timer_id, wait_id = begun_id if node.timeout is not None else "", begun_id if key else ""
    thread.wait = EventWait(node.event, thread.node, state.seq, state.time_ms, timer_id, due_ms, key, wait_id)
    if timer_id:
        advance.effects.append(SetTimer(timer_id, due_ms, TimerFired(timer_id)))
    if key:
        token = key_token(node.event, key)
        said = AwaitEvent(state.run_id, wait_id, state.seen.get(token, 0))
        advance.effects.append(SendCommand(token, said))
    until = rfc3339(due_ms) if timer_id else ""
    advance.emit(EventAwaited(thread.node, node.event, until, timer_id, key, thread.id))


def _key(value: object) -> str:
    """Raises `ExpressionFailed` for what is no correlation key."""
    try:
        return check_key(value)
    except BadInput as error:
        kind = "ValueError" if isinstance(value, str) else "TypeError"
        raise ExpressionFailed(f"{kind}: {error.message}") from error


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
    state.posted.append(mark_of_event(event, command.event_id))
    codec = advance.definition.events[event]
    value = decode_stored(payload, advance.definition.types)
    advance.emit(
        EventPosted(event, command.event_id, msgspec.Raw(codec.shown(bytes(command.payload), value)))
    )
    posted = Unclaimed(event, command.event_id, state.time_ms, payload)
    waiting = [
        each
        for each in state.threads
        if isinstance(each.wait, EventWait) and each.wait.event == event and not each.wait.key
    ]
    if not waiting:
        _keep(advance, posted)
        return
    _feed(advance, min(waiting, key=_begun), posted)


def _feed(advance: Advance, thread: RunThread, posted: Unclaimed, given: Taken | None = None) -> None:
    """Ends a wait with an event."""
    wait, state = thread.wait, advance.state
    assert isinstance(wait, EventWait)
    advance.effects += map(CancelTimer, thread.timers)
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, EventNode)
    waited_ms = float(state.time_ms - wait.since_ms)
    advance.emit(EventReceived(wait.node, posted.event, posted.event_id, waited_ms))
    _take(advance, thread, wait.node, node, posted, given)


# -- by way of a correlation key ---------------------------------------------------------------------
def waiter(state: RunState, command: DeliverEvent) -> RunThread | None:
    """The thread that waits at a correlation key for what comes from there; None if it does no more."""
    wanted = command.given.event, command.key, command.wait_id
    for thread in state.threads:
        wait = thread.wait
        if isinstance(wait, EventWait) and wait.key and (wait.event, wait.key, wait.wait_id) == wanted:
            return thread
    return None


def is_given(state: RunState, command: DeliverEvent) -> bool:
    """Whether this wait of the run has taken this event before."""
    return mark_of_given(command.given.event_id, command.wait_id) in state.posted


def give_back(run_id: str, command: DeliverEvent) -> SendCommand:
    """What becomes of an event that nobody waits for any more. Raises `RefuseCommand` for one that no key has sent."""
    try:
        token = key_token(command.given.event, command.key)
    except BadInput as error:
        raise RefuseCommand("EVENT_INVALID", error.message) from error
    return SendCommand(token, ReturnEvent(run_id, command.wait_id, command.given))


def on_deliver(advance: Advance, thread: RunThread, command: DeliverEvent) -> None:
    """A correlation key has an event for a thread that waits there. Raises `LimitExceeded`."""
    state, given, definition = advance.state, command.given, advance.definition
    if len(state.posted) >= POSTED_MAX:
        raise LimitExceeded(
            "posted-events",
            f"the run has had {POSTED_MAX} external events, all that are allowed: start another run for the rest",
        )
    state.posted.append(mark_of_given(given.event_id, command.wait_id))
    if given.lasting:
        state.seen[key_token(given.event, command.key)] = given.number
    advance.turn_to(thread)
    codec, data = definition.events[given.event], bytes(given.payload)
    wait = thread.wait
    assert isinstance(wait, EventWait)
    try:
        payload = msgspec.Raw(encode_stored(codec.decode(data)))
    except BadValue as wrong:
        # Posted by a definition of the event that is not the one of this workflow.
        advance.effects += map(CancelTimer, thread.timers)
        line = definition.spec.nodes[wait.node].line
        advance.fail(thread, type_error(wrong, line), wait.node)
        return
    shown = codec.shown(data, decode_stored(payload, definition.types))
    advance.emit(EventPosted(given.event, given.event_id, msgspec.Raw(shown), command.key))
    taken = Taken(given=given, key=command.key, wait_id=command.wait_id)
    _feed(advance, thread, Unclaimed(given.event, given.event_id, given.posted_ms, payload), taken)


def on_refused(advance: Advance, command: RefuseWait) -> None:
    """Too many wait at the key. Raises `RefuseCommand` for a wait that is over, and `LimitExceeded` for this one."""
    waits = [thread.wait for thread in advance.state.threads if isinstance(thread.wait, EventWait)]
    if not any(wait.key and wait.wait_id == command.wait_id for wait in waits):
        raise RefuseCommand("RESULT_STALE", f"no thread of run {advance.state.run_id!r} waits there")
    raise LimitExceeded("keyed-waits", command.message)


def take_over(advance: Advance, early: Mailbox) -> None:
    """What was posted before the run existed is its own now, if its workflow takes it. Raises `LimitExceeded`."""
    state, definition = advance.state, advance.definition
    state.posted = list(early.posted)
    for event in early.unclaimed:
        if not is_alive(event, state.time_ms):
            advance.emit(EventExpired(event.event, event.event_id))
            continue
        codec, data = definition.events.get(event.event), bytes(event.payload)
        try:
            if codec is None:
                raise BadValue(f"workflow {definition.spec.name!r} does not wait for it")
            payload = msgspec.Raw(encode_stored(codec.decode(data)))
        except (BadValue, LimitExceeded) as error:
            advance.emit(EventRefused(event.event, event.event_id, error.message))
            continue
        shown = codec.shown(data, decode_stored(payload, definition.types))
        advance.emit(EventPosted(event.event, event.event_id, msgspec.Raw(shown)))
        state.unclaimed.append(Unclaimed(event.event, event.event_id, event.posted_ms, payload))


def on_timeout(advance: Advance, thread: RunThread, wait: EventWait) -> None:
    """The time of a wait is over. At a correlation key something may be that is on its way, or that the key was not
    asked for yet: it tells whether there was."""
    advance.state.time_ms = max(advance.state.time_ms, wait.until_ms)
    if wait.key:
        advance.threads.own(thread).wait = msgspec.structs.replace(wait, asked=True)
        advance.withdraw(wait, asks=True)
        return
    _time_out(advance, thread, wait)


def on_ended(advance: Advance, command: EndWait) -> None:
    """Nothing had come to the key in time. Raises `RefuseCommand` for a wait that has ended otherwise."""
    thread = advance.threads.of_step(command.wait_id)
    match thread:
        case RunThread(wait=EventWait(wait_id=command.wait_id, asked=True) as wait):
            _time_out(advance, thread, wait)
        case _:
            raise RefuseCommand("RESULT_STALE", f"no thread of run {advance.state.run_id!r} waits there")


def _time_out(advance: Advance, thread: RunThread, wait: EventWait) -> None:
    advance.turn_to(thread)
    advance.emit(EventTimedOut(wait.node, wait.event, wait.timer_id))
    waited = (wait.until_ms - wait.since_ms) / 1000
    message = f"event {wait.event} did not come within {waited:g} s"
    failure = FailureInfo("timeout", message, "timeout", family=error_family("TimeoutError"))
    advance.fail(thread, failure, wait.node)


def is_posted(state: RunState, command: PostEvent) -> bool:
    """Whether this event has come to the run before."""
    return mark_of_event(command.event, command.event_id) in state.posted


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


def _take(
    advance: Advance,
    thread: RunThread,
    number: int,
    node: EventNode,
    posted: Unclaimed,
    given: Taken | None = None,
) -> None:
    value = decode_stored(posted.payload, advance.definition.types)
    advance.scope.spend(len(posted.payload))
    if isinstance(advance.definition.spec.nodes[node.next], TurnNode):
        thread = advance.threads.own(thread)
        thread.taken = given or Taken(posted)
    advance.go_on_with(thread, number, node.next, node.target, value)


def _begun(thread: RunThread) -> tuple[int, int]:
    assert isinstance(thread.wait, EventWait)
    return thread.wait.begun, thread.id
