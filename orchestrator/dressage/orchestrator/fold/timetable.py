"""A timetable: at which moments schedules are due, with one timer for all that are due at the same one.

The server stores every timer that is due with an fsync of its own. A moment that schedules share costs one, and what
they are told then goes into the commit of a turn, hundreds of them with a few. A schedule has one timetable, by its
name, and asks it for each moment; what it is told is what its own timer would have told it. So a timetable knows
nothing of calendars, and what comes too late, or twice, is stale there.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from dressage.orchestrator.fold.effects import CancelTimer, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.state import TIMETABLE_FORMAT, Moment, State, Timetable
from dressage.protocol.commands import Command, DropMoment, KeepMoment, TimerFired, TimetableFull
from dressage.protocol.names import is_name, schedule_token, timetable_token

KEPT_MAX: Final = 1_000
"""What one timetable keeps. Schedules above that have timers of their own."""


def fold_timetable(state: State | None, command: Command, token: str, stamp: Stamp) -> Outcome:
    """Applies one command to one timetable. The state that is passed in is never changed."""
    before = state if isinstance(state, Timetable) else None
    after = Timetable(TIMETABLE_FORMAT, 0, 0) if before is None else before.copy()
    after.seq, after.time_ms = stamp.seq, max(after.time_ms, stamp.time_ms)
    try:
        match command:
            case KeepMoment():
                _check(command, token)
                return _keep(after, command)
            case DropMoment():
                _check(command, token)
                return _drop(before, after, command)
            case TimerFired():
                return _fire(after, command)
            case _:
                raise RefuseCommand("RUN_UNKNOWN", f"{token!r} stands for a timetable, and for no run")
    except RefuseCommand as refusal:
        return Outcome(state, code=refusal.code, message=refusal.message)


def _check(command: KeepMoment | DropMoment, token: str) -> None:
    """Raises `RefuseCommand` for what no schedule of this timetable has sent."""
    if not is_name(command.schedule) or timetable_token(command.schedule) != token:
        raise RefuseCommand("SCHEDULE_UNKNOWN", f"schedule {command.schedule!r} has another timetable")


def _keep(after: Timetable, command: KeepMoment) -> Outcome:
    due, name = command.due_ms, command.schedule
    moment = after.moments.get(due)
    if due <= after.time_ms:
        return Outcome(after, [_told(name, command.timer_id)])
    is_new = moment is None or name not in moment.schedules
    if is_new and after.kept >= KEPT_MAX:
        return Outcome(after, [SendCommand(schedule_token(name), TimetableFull(command.timer_id))])
    effects: list[Effect] = []
    if moment is None:
        moment = Moment(f"0-0-{after.seq}", {})
        effects.append(SetTimer(moment.timer_id, due, TimerFired(moment.timer_id)))
    after.moments[due] = replace(moment, schedules={**moment.schedules, name: command.timer_id})
    after.kept += is_new
    return Outcome(after, effects)


def _drop(before: Timetable | None, after: Timetable, command: DropMoment) -> Outcome:
    moment = after.moments.get(command.due_ms)
    if moment is None or moment.schedules.get(command.schedule) != command.timer_id:
        return Outcome(before, existing=True)
    after.kept -= 1
    left = {name: timer for name, timer in moment.schedules.items() if name != command.schedule}
    if left:
        after.moments[command.due_ms] = replace(moment, schedules=left)
        return Outcome(after)
    del after.moments[command.due_ms]
    return Outcome(after, [CancelTimer(moment.timer_id)])


def _fire(after: Timetable, command: TimerFired) -> Outcome:
    due = next((due for due, each in after.moments.items() if each.timer_id == command.timer_id), None)
    if due is None:
        raise RefuseCommand("RESULT_STALE", "this timetable does not wait for this timer")
    moment = after.moments.pop(due)
    if due > after.time_ms:  # Somebody else has sent it.
        again = replace(moment, timer_id=f"0-0-{after.seq}")
        after.moments[due] = again
        timer = SetTimer(again.timer_id, due, TimerFired(again.timer_id))
        return Outcome(after, [CancelTimer(moment.timer_id), timer])
    after.kept -= len(moment.schedules)
    return Outcome(after, [_told(name, timer_id) for name, timer_id in moment.schedules.items()])


def _told(schedule: str, timer_id: str) -> Effect:
    return SendCommand(schedule_token(schedule), TimerFired(timer_id))
