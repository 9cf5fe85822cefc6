"""What must hold after every fold. Stays on in production: a broken rule stops one run, loudly, not a shard."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dressage.orchestrator.fold.effects import (
    CancelTimer,
    DispatchTask,
    Effect,
    Publish,
    SendCommand,
    SetTimer,
)
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import (
    EventWait,
    GatherWait,
    Gone,
    Limiter,
    Mailbox,
    Marks,
    RunState,
    Schedule,
    State,
    TaskWait,
    Timetable,
    UserWait,
    Wait,
    begun_by,
)
from dressage.protocol.commands import (
    AskPermit,
    AwaitEvent,
    ChildEnded,
    DeferPermit,
    DeleteRun,
    ReturnEvent,
    ReturnPermit,
    ReviewRun,
    ScheduledEnded,
    StartRun,
)
from dressage.protocol.errors import InvariantBroken
from dressage.protocol.events import Published, RunDeleted, RunRescued


def check(before: State | None, outcome: Outcome) -> None:
    """Raises `InvariantBroken`."""
    broken = _broken(before, outcome)
    if broken:
        raise InvariantBroken(broken)


def _broken(before: State | None, outcome: Outcome) -> str:
    """The first rule that does not hold, in words; empty when all hold."""
    after = outcome.state
    if after is None or after is before:
        happened = outcome.events or not all(_returns(effect) for effect in outcome.effects)
        return "nothing changed, yet something happened" if happened else ""
    if isinstance(before, Mailbox | Marks | Schedule | Timetable | Limiter | Gone):
        early, before = before, None
        if after.seq <= early.seq or after.time_ms < early.time_ms:
            return "a command was folded twice, or time ran backwards"
    if isinstance(after, Gone):
        return _broken_deletion(before, after, outcome)
    if not isinstance(after, RunState):
        return ""
    counted = 0 if before is None else before.events
    if outcome.first_event != counted or after.events != counted + len(outcome.events):
        return "events were not counted, or do not follow the last one"
    if _published(outcome) != _told(outcome):
        return "what is published is not what the events tell"
    if before is not None:
        if after.seq <= before.seq:
            return "a command was folded twice"
        if after.time_ms < before.time_ms:
            return "the run's time ran backwards"
        if before.finished and not _rescued(outcome):
            return "" if _as_kept(before) == _as_kept(after) else "a finished run changed"
        if before.finished and before.status not in ("failed", "engine-fault"):
            return "a run was rescued that has not failed"
        if before.finished:
            return _broken_end(after) if after.finished else _broken_threads(None, outcome)
    if after.finished:
        return _broken_end(after) or _broken_cancel(before, outcome)
    return _broken_threads(before, outcome)


def _returns(effect: Effect) -> bool:
    """A run that has no wait for an event or a permit gives it back, one that is not started tells its parent or its
    schedule, and one whose time is over is to be deleted, or looked at again; of one another is made: none of that
    changes anything."""
    if isinstance(effect, SendCommand) and isinstance(effect.command, StartRun):
        return effect.command.fork is not None
    if isinstance(effect, SetTimer):
        return isinstance(effect.command, ReviewRun)
    return isinstance(effect, SendCommand) and isinstance(
        effect.command, ReturnEvent | ChildEnded | ScheduledEnded | ReturnPermit | DeferPermit | DeleteRun
    )


def _rescued(outcome: Outcome) -> bool:
    """Whether a run that had failed goes on: the one thing that can happen to one that has ended, and be told."""
    return bool(outcome.events) and isinstance(outcome.events[0], RunRescued)


def _as_kept(state: RunState) -> RunState:
    """All of a run that has ended but for what says how long it is kept."""
    return msgspec.structs.replace(
        state, seq=0, time_ms=0, events=0, stopping=(), held=None, keep_id="", doomed=None
    )


def _broken_deletion(before: RunState | None, after: Gone, outcome: Outcome) -> str:
    """Only what has ended is deleted, once, and not while it is held."""
    if before is None:
        return "" if after.forgotten and not outcome.events else "what was deleted was deleted once more"
    if not before.finished or before.held is not None or after.seq <= before.seq:
        return "a run was deleted that is open, or held, or by a command that was folded before"
    told = len(outcome.events) == 1 and isinstance(outcome.events[0], RunDeleted)
    return "" if told and outcome.first_event == before.events else "a deletion is not what the events tell"


def _published(outcome: Outcome) -> list[int]:
    return [effect.index for effect in outcome.effects if isinstance(effect, Publish)]


def _told(outcome: Outcome) -> list[int]:
    """The indexes of the output events that tell of something published."""
    numbered = enumerate(outcome.events, outcome.first_event)
    return [index for index, event in numbered if isinstance(event, Published)]


def _broken_end(after: RunState) -> str:
    if after.threads or after.ended_ms <= 0:
        return "a finished run has threads, or no end"
    if bool(after.output) != (after.status == "completed"):
        return "only a completed run has an output"
    return ""


def _broken_cancel(before: RunState | None, outcome: Outcome) -> str:
    """A cancelled run leaves no timer behind. (One that has tidied up may end by a timer that has fired.)"""
    after = outcome.state
    if not isinstance(after, RunState) or after.status != "cancelled":
        return ""
    if before is None:
        return ""
    pending = {timer_id for thread in before.threads for timer_id in thread.timers}
    left = pending - {effect.timer_id for effect in outcome.effects if isinstance(effect, CancelTimer)}
    return f"timers {left} outlive their run" if len(left) > before.cancelling else ""


def _broken_threads(before: RunState | None, outcome: Outcome) -> str:
    """Every thread waits; what began to wait in this fold has its effect, and every effect its wait.

    Only threads that changed are looked at: what held before still holds for the others.
    """
    after = outcome.run
    assert after is not None
    changes, count, last = outcome.threads, 0, -1
    if before is None or changes is None:  # All of them, as if they had just begun.
        changes = {place: (None, thread) for place, thread in enumerate(after.threads)}
    else:
        count, last = len(before.threads), before.threads_made - 1
    opened: dict[int, int] = {}
    gathers: dict[int, int] = {}
    begun: set[str] = set()
    for was, now in changes.values():
        if was is None:
            if now is None:
                continue  # It has begun and ended.
            if now.id <= last:
                return "two threads have one id, or stand out of order"
            last, count = now.id, count + 1
            if now.parent is not None:
                opened[now.parent] = opened.get(now.parent, 0) + 1
        else:
            if isinstance(was.wait, GatherWait):
                gathers[was.id] = gathers.get(was.id, 0) - _running(was.wait)
            if now is None:
                count -= 1
                if was.parent is not None:
                    opened[was.parent] = opened.get(was.parent, 0) - 1
                continue
        if now.wait is None:
            return "a thread neither moves nor waits"
        if isinstance(now.wait, GatherWait):
            if not _running(now.wait):
                return "a gather waits for branches that are not there"
            gathers[now.id] = gathers.get(now.id, 0) + _running(now.wait)
        elif (
            (was is not None and _is_moved(was.wait, now.wait))
            or isinstance(now.wait, UserWait)
            or begun_by(now.step_id, after.seq)
        ):
            begun |= _begun(now.wait, now.step_id, after.seq)
    if not after.threads:
        return "a running run has no threads"
    if count != len(after.threads) or last >= after.threads_made:
        return "two threads have one id, or one was not counted"
    if opened or gathers:
        broken = _broken_gathers(opened, gathers)
        if broken:
            return broken
    asked = set(filter(None, map(_asked, outcome.effects)))
    return "" if begun == asked else f"waits {begun} and effects {asked} do not match"


def _begun(wait: Wait, step_id: str, seq: int) -> set[str]:
    """What there must be for a wait that has just begun: attempt or timers, and word to a correlation key.

    A user task may have timers that were set later.
    """
    if isinstance(wait, TaskWait):
        # What is to ask for a permit later has a timer until then.
        first = wait.timer_id if wait.permit == "later" else step_id
        return {first} | {each for each in (wait.start_id, wait.deadline_id) if begun_by(each, seq)}
    if isinstance(wait, UserWait):
        return {each for each in wait.timers if begun_by(each, seq)}
    if isinstance(wait, EventWait):
        return {wait.timer_id, f"key {wait.wait_id}" if wait.key else ""} - {""}
    return {step_id}


def _is_moved(was: Wait | None, now: Wait) -> bool:
    """Whether the attempt is the same, and has come from asking later to asking, or to its permit, or back."""
    return (
        isinstance(was, TaskWait)
        and isinstance(now, TaskWait)
        and was.task_id == now.task_id
        and now.dead is None
        and was.permit != now.permit
    )


def _asked(effect: Effect) -> str:
    match effect:
        case DispatchTask():
            return effect.task_id
        case SetTimer():
            return effect.timer_id
        case SendCommand(command=AskPermit(task_id=task_id)):
            return task_id
        case SendCommand(command=AwaitEvent(wait_id=wait_id)):
            return f"key {wait_id}"
        case SendCommand(command=StartRun(command_id=wait_id)):
            return wait_id
        case _:
            return ""


def _broken_gathers(opened: Mapping[int, int], gathers: Mapping[int, int]) -> str:
    """`opened` is by how many the open branches of a thread are more, `gathers` by how many they should be."""
    if any(more and parent not in gathers for parent, more in opened.items()):
        return "a branch belongs to no gather"
    if any(opened.get(number, 0) != more for number, more in gathers.items()):
        return "a gather waits for branches that are not there"
    return ""


def _running(wait: GatherWait) -> int:
    """How many branches of a gather there must be at the moment."""
    return wait.branches - wait.ended - len(wait.given)
