"""How long a run is kept when it has ended, what keeps it from being deleted, and its deletion.

A deletion leaves a small entry behind, `Gone`, for as long as something of the run may still come: a repeat of the
command that started it, of the deletion itself, or of what is in the stream when somebody else takes the shard over. By
it they are told from what is meant for another run of the same id.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.orchestrator.fold.effects import CancelTimer, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp, check_reason
from dressage.orchestrator.fold.pausing import is_child, is_done, remember
from dressage.orchestrator.fold.state import GONE_FORMAT, Deletion, Gone, Hold, RunState, State
from dressage.protocol.commands import (
    Command,
    DeleteRun,
    ForgetRun,
    HoldRun,
    Parent,
    PostEvent,
    ReleaseRun,
    ReviewRun,
    StartRun,
)
from dressage.protocol.events import RunDeleted, RunHeld, RunReleased
from dressage.protocol.names import child_id, run_token

FORGET_MS: Final = 10 * 60_000
"""So long it is known of a run that was deleted: whoever repeats a command has given up long before."""

REVIEW_MS: Final = 86_400_000
"""After so long a run is looked at again that was to be deleted, and is to be kept after all, or for longer."""

OWNED_BYTES_MAX: Final = 16 * 1024
"""Bytes of the ids of child runs that a run remembers, so that they are deleted with it: of a thousand or so."""

DELETIONS_KEPT: Final = 16
"""Of so many deletions of one id is known that what they leave to do may still be done."""

Asked = DeleteRun | HoldRun | ReleaseRun | ReviewRun | ForgetRun


class Keeping(msgspec.Struct, frozen=True):
    """What is to be known of how long a run is kept, looked up when its command is folded: what the fold makes of it
    changes no state, so that it does not matter if it is another one when the command is folded again.

    `keep_ms` is for how long it is kept by what holds of its workflow now; None: for ever. `events` says whether its
    output events go with it. A run that lives `elsewhere` by the newest shard map is not deleted here.
    """

    keep_ms: int | None = None
    events: bool = False
    elsewhere: bool = False


UNKNOWN: Final = Keeping()


def change(state: State | None, command: Asked, run_id: str, stamp: Stamp, keeping: Keeping) -> Outcome:
    """Applies one of these commands. Raises `RefuseCommand`."""
    if isinstance(command, DeleteRun) and isinstance(state, Gone | RunState):
        if any(each.command_id == command.command_id for each in state.deletions):
            return Outcome(state, existing=True)  # It has deleted another run of this id.
    if isinstance(state, Gone):
        return _late(state, command, stamp)
    if not isinstance(state, RunState):
        raise _unknown(run_id)
    match command:
        case DeleteRun():
            return _delete(state, command, stamp, keeping)
        case HoldRun() | ReleaseRun() if keeping.elsewhere and state.finished:
            raise _elsewhere(run_id, "held or released")
        case HoldRun():
            return _hold(state, command, stamp)
        case ReleaseRun():
            return _release(state, command, stamp)
        case ReviewRun():
            return _review(state, command, stamp, keeping)
        case ForgetRun():
            raise RefuseCommand("RESULT_STALE", f"run {run_id!r} is another one than the deleted one")


def was_deleted(gone: Gone | None, command_id: str) -> bool:
    """Whether this command, which comes again, has started a run of this id that was deleted."""
    return gone is not None and any(each.begun_by == command_id for each in gone.deletions)


def is_of_deleted(state: State | None, command: Command) -> bool:
    """Whether the command was meant for a run that was deleted here: to be known where the next one of its id is to
    live on another shard, which has not heard of the deletion."""
    if not isinstance(state, Gone) or state.forgotten:
        return False
    match command:
        case StartRun():
            return was_deleted(state, command.command_id)
        case DeleteRun():
            return any(each.command_id == command.command_id for each in state.deletions)
        case _:
            return isinstance(command, PostEvent)


def after_deletion(state: State | None, command: Command, run_id: str) -> Outcome | None:
    """What becomes of a command that was meant for a run that was deleted on another shard; None: what would become of
    any other. Raises `RefuseCommand`."""
    if isinstance(command, DeleteRun):
        return Outcome(state, existing=True)
    if isinstance(state, RunState):
        return None
    if isinstance(command, PostEvent):
        raise nothing_kept(run_id)
    raise started_deleted(run_id)


def nothing_kept(run_id: str) -> RefuseCommand:
    return RefuseCommand("RUN_DELETED", f"run {run_id!r} was deleted a moment ago: nothing is kept for it")


def started_deleted(run_id: str) -> RefuseCommand:
    return RefuseCommand("RUN_DELETED", f"run {run_id!r}, which this has started, was deleted")


def own(state: RunState, run_id: str, wait_id: str) -> None:
    """Remembers a child run that is to be deleted with this one."""
    state.owned.append(wait_id if run_id == child_id(state.run_id, wait_id) else f"{wait_id} {run_id}")
    while sum(len(each.encode()) for each in state.owned) > OWNED_BYTES_MAX:
        del state.owned[0]
        state.disowned += 1


def at_end(state: RunState) -> list[Effect]:
    """What is to be done, when the run has ended, for its deletion."""
    if state.held is not None:
        return []
    if state.doomed is not None:
        return [SendCommand(run_token(state.run_id), state.doomed)]
    return _arm(state)


def _arm(state: RunState) -> list[Effect]:
    """Sets the timer for the end of the time for which an ended run is kept, if there is one."""
    if state.keep_ms is None:
        return []
    state.keep_id = f"keep-0-{state.seq}"
    due_ms = max(state.time_ms, state.ended_ms + state.keep_ms)
    return [SetTimer(state.keep_id, due_ms, ReviewRun(state.keep_id))]


def _delete(state: RunState, command: DeleteRun, stamp: Stamp, keeping: Keeping) -> Outcome:
    check_reason(command.reason)
    parent = command.parent
    if command.policy and parent is None and command.command_id != f"retention {state.keep_id}":
        raise RefuseCommand("RESULT_STALE", f"run {state.run_id!r} was rescued since its time was over")
    if parent is not None and not is_child(state, parent):
        raise RefuseCommand(
            "RESULT_STALE", f"run {state.run_id!r} was not started by run {parent.run_id!r}: it stays"
        )
    mine = state.parent
    if parent is None and not command.orphan and mine is not None and mine.told:
        raise RefuseCommand(
            "RUN_OWNED",
            f"run {state.run_id!r} belongs to run {mine.run_id!r}, and is deleted with it: delete that",
        )
    if not state.finished or state.held is not None:
        if parent is None:
            raise _not_now(state)
        return _doom(state, command, stamp)
    if keeping.elsewhere:
        if command.policy and parent is None:
            return Outcome(state, [_look_again(state, stamp)])
        raise _elsewhere(state.run_id, "deleted")
    return _gone(state, command, stamp)


def _not_now(state: RunState) -> RefuseCommand:
    if state.held is not None:
        why = f" for {state.held.reason!r}" if state.held.reason else ""
        return RefuseCommand(
            "RUN_HELD", f"run {state.run_id!r} is held{why}: nobody deletes it until it is released"
        )
    return RefuseCommand(
        "RUN_OPEN", f"run {state.run_id!r} has not ended: cancel it first, and delete it when it has"
    )


def _doom(state: RunState, command: DeleteRun, stamp: Stamp) -> Outcome:
    if state.doomed is not None:
        return Outcome(state, existing=True)
    after = _changed(state, stamp)
    after.doomed = command
    return Outcome(after, first_event=state.events, threads={})


def _gone(state: RunState, command: DeleteRun, stamp: Stamp) -> Outcome:
    time_ms = max(state.time_ms, stamp.time_ms)
    gone = Gone(
        GONE_FORMAT,
        state.run_id,
        state.workflow,
        state.version,
        stamp.seq,
        time_ms,
        (*state.deletions, Deletion(stamp.seq, command.command_id, state.command_id))[-DELETIONS_KEPT:],
        state.abandons,
        owned=[each for each in state.owned if " " not in each],
        disowned=state.disowned,
        late=state.doomed is not None,
    )
    effects: list[Effect] = [
        SetTimer(f"keep-0-{stamp.seq}", time_ms + FORGET_MS, ForgetRun(stamp.seq)),
    ]
    if state.keep_id:
        effects.append(CancelTimer(state.keep_id))
    for each in state.owned:
        wait_id, _, chosen = each.partition(" ")
        told = msgspec.structs.replace(command, parent=Parent(state.run_id, wait_id), orphan=False)
        effects.append(SendCommand(run_token(chosen or child_id(state.run_id, wait_id)), told))
    deleted = RunDeleted(command.reason, command.policy, command.events, state.disowned)
    return Outcome(gone, effects, [deleted], state.events, actor=command.actor)


def _hold(state: RunState, command: HoldRun, stamp: Stamp) -> Outcome:
    check_reason(command.reason)
    if is_done(state, command) or state.held is not None:
        return Outcome(state, existing=True)
    after = _changed(state, stamp)
    remember(after, command)
    after.held = Hold(after.time_ms, command.reason, command.actor)
    after.events += 1
    effects: list[Effect] = [CancelTimer(after.keep_id)] if after.keep_id else []
    after.keep_id = ""
    return Outcome(after, effects, [RunHeld(command.reason)], state.events, actor=command.actor, threads={})


def _release(state: RunState, command: ReleaseRun, stamp: Stamp) -> Outcome:
    if is_done(state, command) or state.held is None:
        return Outcome(state, existing=True)
    after = _changed(state, stamp)
    remember(after, command)
    after.held = None
    after.events += 1
    effects = at_end(after) if after.finished else []
    return Outcome(after, effects, [RunReleased()], state.events, actor=command.actor, threads={})


def _review(state: RunState, command: ReviewRun, stamp: Stamp, keeping: Keeping) -> Outcome:
    """Nothing changes here, whatever holds now: so it may be decided again, and in another way."""
    if command.timer_id != state.keep_id or not state.finished:
        raise RefuseCommand("RESULT_STALE", f"run {state.run_id!r} does not wait for this timer")
    over_ms = None if keeping.keep_ms is None else state.ended_ms + keeping.keep_ms
    if keeping.elsewhere or over_ms is None or over_ms > stamp.time_ms:
        return Outcome(state, [_look_again(state, stamp, over_ms)])
    delete = DeleteRun(f"retention {state.keep_id}", "", "retention", events=keeping.events, policy=True)
    return Outcome(state, [SendCommand(run_token(state.run_id), delete)])


def _look_again(state: RunState, stamp: Stamp, over_ms: int | None = None) -> SetTimer:
    due_ms = stamp.time_ms + REVIEW_MS
    if over_ms is not None and over_ms > stamp.time_ms:
        due_ms = min(due_ms, over_ms)
    return SetTimer(state.keep_id, due_ms, ReviewRun(state.keep_id))


def _late(state: Gone, command: Asked, stamp: Stamp) -> Outcome:
    match command:
        case ForgetRun() if command.deletion == state.deletions[-1].seq and not state.forgotten:
            time_ms = max(state.time_ms, stamp.time_ms)
            return Outcome(msgspec.structs.replace(state, seq=stamp.seq, time_ms=time_ms, forgotten=True))
        case _:
            raise _unknown(state.run_id)


def _changed(state: RunState, stamp: Stamp) -> RunState:
    after = state.copy()
    after.seq, after.time_ms = stamp.seq, max(state.time_ms, stamp.time_ms)
    if after.finished and after.status != "engine-fault":
        after.threads = []  # As an end leaves them.
    return after


def _unknown(run_id: str) -> RefuseCommand:
    return RefuseCommand("RUN_UNKNOWN", f"there is no run {run_id!r}")


def _elsewhere(run_id: str, what: str) -> RefuseCommand:
    return RefuseCommand(
        "RUN_ELSEWHERE",
        f"run {run_id!r} has ended where it was before the number of shards grew: there it cannot be {what}",
    )
