"""What is kept for a correlation key: external events that nobody has claimed, and runs that wait for one.

Either side may come first. A run that waits says so here, and is given what is posted; it may have stopped waiting by
then (its time was over, it lost a race, it was cancelled), and gives the event back. Commands from other shards may
come twice: a wait that is announced again when it was served already is given an event in vain, and gives it back, too;
and an event comes back only from the waits that it was given to last, and only once from each. So of each event one of
these holds: it is unclaimed, it is on its way to a wait, or it was taken. docs/decisions/0032 has the cases.

What was posted before is posted no more, however late it comes again: of so many events as a state has room for the key
knows that itself, of earlier ones it asks the entries to which their marks have moved (`archive`). Until it has the
answer the event is held, and so is what comes behind it and depends on it: events that are new, and the ends of waits.

A mailbox is also kept for a run that does not exist yet, with what was posted to it; the start takes it over.
"""

from __future__ import annotations

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.orchestrator.fold import archive
from dressage.orchestrator.fold.definition import EventDefinition
from dressage.orchestrator.fold.effects import Effect, SendCommand
from dressage.orchestrator.fold.limits import (
    GIVEN_MAX,
    KEPT_BYTES_MAX,
    KEYED_BYTES_MAX,
    MARKS_MAX,
    POSTED_MAX,
    REMEMBERED_MAX,
    RETURNED_BYTES_MAX,
    UNCLAIMED_BYTES_MAX,
    WAITS_BYTES_MAX,
    WAITS_MAX,
    kept_bytes,
)
from dressage.orchestrator.fold.marks import mark_of_event, mark_of_wait
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.state import MAILBOX_FORMAT, Held, KeyedWait, Mailbox, State
from dressage.protocol.commands import (
    AwaitEvent,
    Command,
    DeliverEvent,
    EndWait,
    KeyedEvent,
    MarksKept,
    PostEvent,
    RefuseWait,
    ReturnEvent,
    TellMark,
    WithdrawWait,
)
from dressage.protocol.errors import BadRunId, BadValue
from dressage.protocol.names import check_run_id, marks_of, run_token


def fold_key(
    state: State | None, command: Command, token: str, stamp: Stamp, definition: EventDefinition | None
) -> Outcome:
    """Applies one command to one correlation key, or to a part of its marks.

    `definition` is the version of the event's that a `PostEvent` names; None if there is no such version. The state
    that is passed in is never changed.
    """
    event, key, path = marks_of(token)
    before = state if isinstance(state, Mailbox) else None
    after = _next(before, event, key, stamp)
    try:
        if path:
            return archive.fold_marks(state, command, token, stamp)
        match command:
            case PostEvent():
                if command.event != event:
                    raise RefuseCommand(
                        "EVENT_INVALID",
                        f"event {command.event!r} was posted to a correlation key of event {event!r}",
                    )
                return _post(before, after, command, definition)
            case AwaitEvent():
                return _await(before, after, command)
            case WithdrawWait():
                return _withdraw(before, after, command)
            case ReturnEvent():
                return _return(before, after, command)
            case TellMark():
                return _told(before, after, command)
            case MarksKept():
                return _forget(before, after, command)
            case _:
                raise RefuseCommand(
                    "RUN_UNKNOWN", f"{key!r} is a correlation key of event {event!r}, and no run"
                )
    except RefuseCommand as refusal:
        return Outcome(state, code=refusal.code, message=refusal.message)


def post_early(
    state: Mailbox | None, command: PostEvent, run_id: str, stamp: Stamp, definition: EventDefinition | None
) -> Outcome:
    """Keeps an external event for a run that does not exist yet. Raises `RefuseCommand`."""
    if definition is None:
        raise RefuseCommand(
            "RUN_UNKNOWN",
            f"there is no run {run_id!r}, and the post names no version of event {command.event!r}",
        )
    outcome = _post(state, _next(state, "", run_id, stamp), command, definition)
    outcome.early = True
    return outcome


def is_alive(event: KeyedEvent, time_ms: int) -> bool:
    """Whether its time is not over."""
    return not event.until_ms or event.until_ms > time_ms


def _next(before: Mailbox | None, event: str, key: str, stamp: Stamp) -> Mailbox:
    if before is None:
        return Mailbox(MAILBOX_FORMAT, event, key, stamp.seq, stamp.time_ms)
    after = before.copy()
    after.seq, after.time_ms = stamp.seq, max(before.time_ms, stamp.time_ms)
    after.unclaimed = [each for each in before.unclaimed if is_alive(each, after.time_ms)]
    return after


def _post(
    before: Mailbox | None, after: Mailbox, command: PostEvent, definition: EventDefinition | None
) -> Outcome:
    if not command.event_id:
        raise RefuseCommand("EVENT_INVALID", "an external event has an id: give it one that no other has")
    mark = mark_of_event(command.event, command.event_id)
    if mark in after.posted or any(_event_id(held) == command.event_id for held in after.held):
        return Outcome(before, existing=True)
    if definition is None:
        raise RefuseCommand(
            "EVENT_UNKNOWN",
            f"event {command.event!r} has no version {command.version}: register a workflow that waits for it first",
        )
    _check(command, definition)
    if after.event == "" and len(after.posted) >= POSTED_MAX:
        raise RefuseCommand(
            "EVENTS_FULL",
            f"run {after.key!r}, which does not exist yet, has had {POSTED_MAX} external events, all that are allowed "
            "(limit posted-events)",
        )
    until_ms = 0 if definition.keep_ms is None else after.time_ms + definition.keep_ms
    event = KeyedEvent(
        command.event,
        command.event_id,
        after.number + 1,
        after.time_ms,
        command.payload,
        until_ms,
        definition.lasting,
        command.actor,
    )
    if event.lasting or after.archived or not after.waits:
        _limit_kept(after, event)
    if after.archived:
        after.asked += 1
        after.held.append(Held(after.asked, after.seq, event))
        return Outcome(after, [archive.ask(after.asked, mark, after.event, after.key)], actor=command.actor)
    return Outcome(after, _accept(after, event, mark, after.seq), actor=command.actor)


def _accept(after: Mailbox, event: KeyedEvent, mark: str, posted: int) -> list[Effect]:
    """An event that is new here, and was posted by the command with this sequence."""
    after.number = event.number
    after.posted.append(mark)
    effects = _hand_out(after, event, posted)
    if after.event and len(after.posted) - after.leaving > MARKS_MAX:
        begin, after.leaving = after.leaving, after.leaving + MARKS_MAX // 2
        after.archived = True
        effects += archive.move(after.posted[begin : after.leaving], after.event, after.key)
    return effects


def _told(before: Mailbox | None, after: Mailbox, command: TellMark) -> Outcome:
    """Whether a held event is new is known now; and so is what to do with all that was held behind it alone."""
    for place, held in enumerate(after.held):
        if held.number == command.number != 0 and not held.new:
            if command.known:
                del after.held[place]
            else:
                after.held[place] = msgspec.structs.replace(held, new=True)
            break
    else:
        return Outcome(before, existing=True)
    effects: list[Effect] = []
    while after.held and (after.held[0].wait or after.held[0].new):
        held = after.held.pop(0)
        if held.event is None:
            effects += _end(after, held.wait)
            continue
        event = msgspec.structs.replace(held.event, number=after.number + 1)
        effects += _accept(after, event, mark_of_event(event.event, event.event_id), held.seq)
    return Outcome(after, effects)


def _end(after: Mailbox, wait: str) -> list[Effect]:
    """Ends a wait of which this is the mark, if it was given nothing."""
    for each in after.waits:
        if mark_of_wait(each.run_id, each.wait_id) == wait:
            after.waits = [other for other in after.waits if other is not each]
            return [SendCommand(run_token(each.run_id), EndWait(each.wait_id))]
    return []


def _forget(before: Mailbox | None, after: Mailbox, command: MarksKept) -> Outcome:
    kept = set(command.marks)
    leaving, staying = after.posted[: after.leaving], after.posted[after.leaving :]
    left = [mark for mark in leaving if mark not in kept]
    if len(left) == len(leaving):
        return Outcome(before, existing=True)
    after.posted, after.leaving = [*left, *staying], len(left)
    return Outcome(after)


def _limit_kept(after: Mailbox, event: KeyedEvent) -> None:
    """Raises `RefuseCommand` for an event that there is no room to keep."""
    kept = _kept(after)
    whose = f"of {after.key!r}" if after.event else f"for run {after.key!r}, which does not exist yet,"
    if sum(len(each.payload) for each in kept) + len(event.payload) > UNCLAIMED_BYTES_MAX:
        what = f"unclaimed events {whose} take {UNCLAIMED_BYTES_MAX} bytes"
    elif kept_bytes([*kept, event]) > KEPT_BYTES_MAX:
        what = f"unclaimed events {whose} take with their ids {KEPT_BYTES_MAX} bytes"
    elif after.leaving and len(after.posted) + len(after.held) >= REMEMBERED_MAX:
        raise RefuseCommand(
            "EVENTS_FULL",
            f"events {whose} come faster than the marks of earlier ones are stored, {REMEMBERED_MAX} are in the key's "
            "state: post it again in some seconds",
        )
    else:
        return
    raise RefuseCommand(
        "EVENTS_FULL",
        f"{what}, all that are allowed (limit unclaimed-events): post it again when some are taken",
    )


def _check(command: PostEvent, definition: EventDefinition) -> None:
    """Raises `RefuseCommand` for a payload that is not of the event's type."""
    data = bytes(command.payload)
    if len(data) > KEYED_BYTES_MAX:
        raise RefuseCommand(
            "EVENT_INVALID",
            f"payload of event {command.event!r}: it takes {len(data)} bytes of {KEYED_BYTES_MAX} allowed "
            "(limit keyed-event-size): pass a reference to it",
        )
    try:
        definition.codec.decode(data)
    except (BadValue, LimitExceeded) as error:
        raise RefuseCommand(
            "EVENT_INVALID", f"payload of event {command.event!r}: {error.message}"
        ) from error


def _await(before: Mailbox | None, after: Mailbox, command: AwaitEvent) -> Outcome:
    try:
        check_run_id(command.run_id)
    except BadRunId as error:
        raise RefuseCommand("RUN_ID_INVALID", error.message) from error
    wait = KeyedWait(command.run_id, command.wait_id, command.seen, after.seq)
    if any(_is_same(each, command) for each in after.waits):
        return Outcome(before, existing=True)
    for event in after.unclaimed:
        if event.number > wait.seen:
            if not event.lasting:
                after.unclaimed.remove(event)
            return Outcome(after, _give(after, event, [wait]))
    count = len(after.waits)
    if count >= WAITS_MAX or kept_bytes([*after.waits, wait]) > WAITS_BYTES_MAX:
        message = (
            f"{count} runs wait for event {after.event!r} at key {after.key!r}, all that may: "
            "use keys of which fewer runs wait"
        )
        return Outcome(before, [SendCommand(run_token(wait.run_id), RefuseWait(wait.wait_id, message))])
    after.waits.append(wait)
    return Outcome(after)


def _withdraw(before: Mailbox | None, after: Mailbox, command: WithdrawWait) -> Outcome:
    """What the wait was given before is told before its end is, and so is in time, however late it comes."""
    if command.asks:
        try:
            check_run_id(command.run_id)
        except BadRunId as error:
            raise RefuseCommand("RUN_ID_INVALID", error.message) from error
        if after.held and any(_is_same(each, command) for each in after.waits):
            ends = Held(wait=mark_of_wait(command.run_id, command.wait_id))
            if ends in after.held:
                return Outcome(before, existing=True)
            after.held.append(ends)
            return Outcome(after)
        after.waits = [each for each in after.waits if not _is_same(each, command)]
        return Outcome(after, [SendCommand(run_token(command.run_id), EndWait(command.wait_id))])
    left = [each for each in after.waits if not _is_same(each, command)]
    if len(left) == len(after.waits):
        return Outcome(before, existing=True)
    after.waits = left
    return Outcome(after)


def _return(before: Mailbox | None, after: Mailbox, command: ReturnEvent) -> Outcome:
    event = command.given
    mark, holder = mark_of_event(event.event, event.event_id), mark_of_wait(command.run_id, command.wait_id)
    holders = after.given.get(mark, ())
    if holder not in holders:
        return Outcome(before, existing=True)
    left = tuple(each for each in holders if each != holder)
    if left:
        after.given[mark] = left
    else:
        del after.given[mark]
    if left or event.lasting or not is_alive(event, after.time_ms):
        return Outcome(
            after
        )  # Another one has taken it, or will give it back; or it is here; or nobody may have it.
    if kept_bytes([*_kept(after), event]) > RETURNED_BYTES_MAX:
        return Outcome(after)
    return Outcome(after, _hand_out(after, event))


def _hand_out(after: Mailbox, event: KeyedEvent, posted: int | None = None) -> list[Effect]:
    """Gives an event to all that wait, or keeps it at its place among the unclaimed.

    One that was `posted` before it was known to be new goes to those that waited then, or else to the first since.
    """
    waits = after.waits
    if posted is not None and not event.lasting:
        waits = [each for each in after.waits if each.seq < posted] or after.waits[:1]
        if waits and waits[0].seq > posted and not is_alive(event, after.time_ms):
            return []
    after.waits = [each for each in after.waits if each not in waits] if len(waits) < len(after.waits) else []
    if event.lasting or not waits:
        after.unclaimed.append(event)
        if len(after.unclaimed) > 1 and after.unclaimed[-2].number > event.number:
            after.unclaimed.sort(key=lambda each: each.number)
    return _give(after, event, waits)


def _give(after: Mailbox, event: KeyedEvent, waits: list[KeyedWait]) -> list[Effect]:
    if waits and not event.lasting:
        # Behind all others: what was given last is remembered longest. A lasting one is here whatever comes back.
        mark = mark_of_event(event.event, event.event_id)
        after.given.pop(mark, None)
        after.given[mark] = tuple(mark_of_wait(wait.run_id, wait.wait_id) for wait in waits)
        remembered = sum(map(len, after.given.values()))
        while remembered > GIVEN_MAX and len(after.given) > 1:
            remembered -= len(after.given.pop(next(iter(after.given))))
    return [
        SendCommand(run_token(wait.run_id), DeliverEvent(wait.wait_id, after.key, event)) for wait in waits
    ]


def _kept(after: Mailbox) -> list[KeyedEvent]:
    """The events that nobody has taken, with those that may be new."""
    return [*after.unclaimed, *(held.event for held in after.held if held.event is not None)]


def _event_id(held: Held) -> str | None:
    return None if held.event is None else held.event.event_id


def _is_same(wait: KeyedWait, command: AwaitEvent | WithdrawWait) -> bool:
    return (wait.run_id, wait.wait_id) == (command.run_id, command.wait_id)
