"""Stopping and resuming: what comes to a run thread that is stopped is kept, and counts when it goes on.

Nothing that is on its way is taken back, as in LittleHorse, whose threads wait for their task and then halt. There a
task that fails is tried again all the same; here it is not before it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.frame import OPERATION_WORK
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.marks import mark_of
from dressage.orchestrator.fold.outcome import RefuseCommand, check_reason
from dressage.orchestrator.fold.state import (
    ChildWait,
    ConditionWait,
    GatherWait,
    HeldWait,
    RunState,
    RunThread,
    SleepWait,
    Stop,
    TurnWait,
)
from dressage.protocol.commands import (
    CancelRun,
    CancelThread,
    EditVariables,
    GoOn,
    HoldRun,
    MigrateRun,
    Parent,
    ReleaseRun,
    RescueRun,
    ResumeRun,
    SettleTask,
    StoppedBy,
    StopRun,
)
from dressage.protocol.events import BranchCancelling, RunResumed, RunStopped
from dressage.protocol.names import run_token

if TYPE_CHECKING:
    from dressage.orchestrator.fold.advance import Advance

INTERRUPTED_AT_A_TIME: Final = 16
"""So many run threads go on with the command by which an interrupt has ended. Of what was stopped it is one with each
command: each may have as much to do as after a command of its own."""

STOPPING_KEPT: Final = 16
"""Commands of people of which is remembered that they came: each is repeated for seconds."""

SETTLED_KEPT: Final = 100
"""The same of those that settle dead tasks: many branches may have one."""

ROOM_BYTES: Final = 64 * 1024
"""So many bytes of a state are left when somebody has stopped it, or has cancelled a branch."""

THREADS_NAMED: Final = 20
"""So many run threads are named where somebody has named one that there is not."""


Said = (
    StopRun
    | ResumeRun
    | CancelRun
    | CancelThread
    | SettleTask
    | MigrateRun
    | RescueRun
    | EditVariables
    | HoldRun
    | ReleaseRun
)


def is_done(state: RunState, command: Said) -> bool:
    """Whether somebody said just this before."""
    if isinstance(command, SettleTask):
        return _mark(command) in state.settled
    return _is_somebodys(command) and _mark(command) in state.stopping


def remember(state: RunState, command: Said) -> None:
    """Somebody has said this. (What a parent says comes once.)"""
    if isinstance(command, SettleTask):
        state.settled = (*state.settled, _mark(command))[-SETTLED_KEPT:]
    elif _is_somebodys(command):
        state.stopping = (*state.stopping, _mark(command))[-STOPPING_KEPT:]


def _is_somebodys(command: Said) -> bool:
    """Whether a person has said it, and no parent."""
    return isinstance(
        command, CancelThread | HoldRun | ReleaseRun | MigrateRun | EditVariables | SettleTask
    ) or (command.parent is None)


def is_child(state: RunState, parent: Parent) -> bool:
    """Whether the run was started by this wait."""
    mine = state.parent
    return mine is not None and (mine.run_id, mine.wait_id) == (parent.run_id, parent.wait_id)


def stop(advance: Advance, command: StopRun) -> None:
    """Raises `RefuseCommand`."""
    state = advance.state
    check_reason(command.reason)
    by = _begin(state, command)
    if any((each.thread, each.by) == (command.thread, by) for each in state.stops):
        return
    find(advance, command.thread)
    before = _stopped_children(advance)
    state.stops.append(Stop(by, state.time_ms, command.thread, command.reason, command.actor))
    check_room(advance)
    tell(advance, RunStopped(by, command.thread, command.reason))
    for wait_id, run_id in _stopped_children(advance).items():
        if wait_id not in before:
            told = StopRun(wait_id, command.reason, command.actor, parent=Parent(state.run_id, wait_id))
            advance.effects.append(SendCommand(run_token(run_id), told))


def resume(advance: Advance, command: ResumeRun) -> None:
    """Raises `RefuseCommand`."""
    state = advance.state
    by = _begin(state, command)
    left = [each for each in state.stops if (each.thread, each.by) != (command.thread, by)]
    if len(left) == len(state.stops):
        return
    resume_children(advance, _keep(advance, left), command.actor)
    go_on(advance)


def find(advance: Advance, number: int) -> RunThread:
    """The run thread that somebody has named. Raises `RefuseCommand`."""
    found, state = advance.threads.find(number), advance.state
    if found is not None:
        return found
    known = [str(thread.id) for thread in state.threads]
    named = ", ".join(known[:THREADS_NAMED]) + (" and more" if len(known) > THREADS_NAMED else "")
    ended = " any more" if 0 < number < state.threads_made else ""
    raise RefuseCommand(
        "THREAD_UNKNOWN", f"run {state.run_id!r} has no run thread {number}{ended}: it has {named}"
    )


def check_room(advance: Advance) -> None:
    """What somebody says of a run never is what ends it. Raises `RefuseCommand`."""
    try:
        advance.check_sizes(bytes(ROOM_BYTES))
    except LimitExceeded as error:
        raise RefuseCommand(
            "REASON_TOO_LONG", f"run {advance.state.run_id!r} has no room for it: {error.message}"
        ) from error


def lift(advance: Advance, within: RunThread | None = None) -> Mapping[str, str]:
    """Nothing of the run is stopped any more, or nothing `within` this thread by a stop of its own; what was kept is
    still to go on, and so are these child runs, by the waits that have started them."""
    left = (
        []
        if within is None
        else [each for each in advance.state.stops if not _is_within(advance, each, within)]
    )
    return _keep(advance, left)


def _is_within(advance: Advance, stop: Stop, thread: RunThread) -> bool:
    stopped = advance.threads.find(stop.thread)
    return stopped is not None and any(each.id == thread.id for each in advance.with_parents(stopped))


def _keep(advance: Advance, left: list[Stop]) -> Mapping[str, str]:
    """Of all stops only these are left; the child runs that go on, by the waits that have started them."""
    state, before, paused = advance.state, _stopped_children(advance), watchers(advance)
    for each in state.stops:
        if each not in left:
            tell(advance, RunResumed(each.by, each.thread))
    state.stops = left
    advance.watches.look_again(paused)
    still = _stopped_children(advance)
    return {wait_id: run_id for wait_id, run_id in before.items() if wait_id not in still}


def resume_children(advance: Advance, children: Mapping[str, str], actor: str = "") -> None:
    """Lets these child runs go on, as far as they were not cancelled meanwhile."""
    cancelled = {
        effect.command.parent.wait_id
        for effect in advance.effects
        if isinstance(effect, SendCommand)
        and isinstance(effect.command, CancelRun)
        and effect.command.parent is not None
    }
    for wait_id, run_id in children.items():
        if wait_id not in cancelled:
            told = ResumeRun(
                wait_id, actor or advance.state.actor, parent=Parent(advance.state.run_id, wait_id)
            )
            advance.effects.append(SendCommand(run_token(run_id), told))


def watchers(advance: Advance) -> list[int]:
    """The run threads that are paused, and look at variables when they are not."""
    state = advance.state
    if not (state.stops or advance.definition.interruptible):
        return []
    return [
        thread.id
        for thread in state.threads
        if isinstance(thread.wait, ConditionWait | SleepWait) and thread.wait.begun and advance.paused(thread)
    ]


def hold_back(advance: Advance, thread: RunThread) -> None:
    """One that could go on, and is interrupted in the same moment."""
    advance.branches.unbegun.discard(thread.id)
    advance.hold(thread, HeldWait(thread.node, advance.stamp.seq, begins=True))


def go_on(advance: Advance, at_a_time: int = 1) -> None:
    """Lets run threads go on that were held: first those that something came to first, and others with another
    command."""
    state = advance.state
    advance.scope.spend(OPERATION_WORK * len(state.threads))
    held = sorted(
        (thread.wait.seq if isinstance(thread.wait, HeldWait) else 0, thread.id)
        for thread in state.threads
        if (isinstance(thread.wait, HeldWait) or _has_turn(advance, thread)) and not advance.paused(thread)
    )
    queued = set(advance.releasing)
    advance.releasing += [number for _, number in held[:at_a_time] if number not in queued]
    if len(held) > at_a_time:
        advance.effects.append(SendCommand(run_token(state.run_id), GoOn()))


def _has_turn(advance: Advance, thread: RunThread) -> bool:
    """Whether it is to begin a handler with this command, as another one has begun with the command before."""
    if not isinstance(thread.wait, TurnWait) or thread.parent is None:
        return False
    parent = advance.threads.find(thread.parent)
    return parent is not None and isinstance(parent.wait, GatherWait) and parent.wait.handler == thread.id


def _begin(state: RunState, command: StopRun | ResumeRun) -> StoppedBy:
    """Who wants it; somebody's command is remembered. Raises `RefuseCommand`."""
    if command.parent is None:
        remember(state, command)
        return "somebody"
    if not is_child(state, command.parent):
        raise RefuseCommand(
            "RESULT_STALE",
            f"run {state.run_id!r} was not started by run {command.parent.run_id!r}: it goes on",
        )
    return "parent"


def _mark(command: Said) -> str:
    match command:
        case CancelRun() | CancelThread():
            what = "cancel"
        case SettleTask():
            what = f"{command.do} {command.task_id}"
        case MigrateRun():
            what = "migrate"
        case RescueRun():
            what = "rescue"
        case EditVariables():
            what = "edit"
        case _:
            what = "stop"
    return mark_of(f"{what} {command.command_id}")


def _stopped_children(advance: Advance) -> dict[str, str]:
    """The child runs that are stopped with the run, by the waits that have started them: those that a thread waits
    for which is stopped, and those that end with the run, if all of it is."""
    state = advance.state
    if not state.stops:
        return {}
    children = {
        thread.wait.wait_id: thread.wait.run_id
        for thread in state.threads
        if isinstance(thread.wait, ChildWait) and not thread.wait.detached and advance.stopped(thread)
    }
    if any(each.thread == 0 for each in state.stops):
        children |= {child.wait_id: child.run_id for child in state.children}
    return children


def tell(advance: Advance, event: RunStopped | RunResumed | BranchCancelling) -> None:
    """A run that may tell nothing more can be stopped all the same, and a branch of it be cancelled."""
    if not advance.history_full:
        advance.emit(event)
