"""Stopping and resuming: what comes to a run thread that is stopped is kept, and counts when it goes on.

Nothing that is on its way is taken back, as in LittleHorse, whose threads wait for their task and then halt. There a
task that fails is tried again all the same; here it is not before it goes on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from dressage.expressions.frame import OPERATION_WORK
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.marks import mark_of
from dressage.orchestrator.fold.outcome import RefuseCommand, check_reason
from dressage.orchestrator.fold.state import ChildWait, HeldWait, RunState, RunThread, Stop
from dressage.protocol.commands import GoOn, Parent, ResumeRun, StoppedBy, StopRun
from dressage.protocol.events import RunResumed, RunStopped
from dressage.protocol.names import run_token

if TYPE_CHECKING:
    from dressage.orchestrator.fold.advance import Advance

RELEASED_AT_A_TIME: Final = 16
"""So many run threads go on with one command: each may have as much to do as after a command of its own."""

STOPPING_KEPT: Final = 16
"""Commands of people of which is remembered that they came: each is repeated for seconds."""

THREADS_NAMED: Final = 20
"""So many run threads are named where somebody has named one that there is not."""


def is_done(state: RunState, command: StopRun | ResumeRun) -> bool:
    """Whether somebody said just this before."""
    return command.parent is None and _mark(command) in state.stopping


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
    if advance.threads.find(command.thread) is None:
        known = [str(thread.id) for thread in state.threads]
        named = ", ".join(known[:THREADS_NAMED]) + (" and more" if len(known) > THREADS_NAMED else "")
        raise RefuseCommand(
            "THREAD_UNKNOWN", f"run {state.run_id!r} has no run thread {command.thread}: it has {named}"
        )
    before = _stopped_children(advance)
    state.stops.append(Stop(by, state.time_ms, command.thread, command.reason, command.actor))
    _tell(advance, RunStopped(by, command.thread, command.reason))
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
    _leave(advance, left, command.actor)
    _tell(advance, RunResumed(by, command.thread))
    go_on(advance)


def lift(advance: Advance, *, cancels: bool = False) -> None:
    """Nothing of the run is stopped any more; what was kept is still to go on. One that `cancels` its threads then
    cancels the child runs that these wait for, which are not to go on before."""
    if not advance.state.stops:
        return
    for each in advance.state.stops:
        _tell(advance, RunResumed(each.by, each.thread))
    ending = {
        thread.wait.wait_id
        for thread in advance.state.threads
        if cancels and isinstance(thread.wait, ChildWait) and not thread.cancel
    }
    _leave(advance, [], advance.state.actor, ending)


def hold_back(advance: Advance, thread: RunThread) -> None:
    """One that could go on, and is interrupted in the same moment."""
    advance.branches.unbegun.discard(thread.id)
    advance.hold(thread, HeldWait(thread.node, advance.stamp.seq, begins=True))


def go_on(advance: Advance) -> None:
    """Lets run threads go on that were stopped: first those that something came to first."""
    state = advance.state
    advance.scope.spend(OPERATION_WORK * len(state.threads))
    held = sorted(
        (thread.wait.seq, thread.id)
        for thread in state.threads
        if isinstance(thread.wait, HeldWait) and not advance.paused(thread)
    )
    ready = {thread.id for thread in advance.ready}
    advance.ready += [
        advance.thread(number) for _, number in held[:RELEASED_AT_A_TIME] if number not in ready
    ]
    if len(held) > RELEASED_AT_A_TIME:
        advance.effects.append(SendCommand(run_token(state.run_id), GoOn()))


def _begin(state: RunState, command: StopRun | ResumeRun) -> StoppedBy:
    """Who wants it; somebody's command is remembered. Raises `RefuseCommand`."""
    if command.parent is None:
        state.stopping = (*state.stopping, _mark(command))[-STOPPING_KEPT:]
        return "somebody"
    if not is_child(state, command.parent):
        raise RefuseCommand(
            "RESULT_STALE",
            f"run {state.run_id!r} was not started by run {command.parent.run_id!r}: it goes on",
        )
    return "parent"


def _mark(command: StopRun | ResumeRun) -> str:
    return mark_of(f"stop {command.command_id}")


def _leave(advance: Advance, stops: list[Stop], actor: str, ending: Collection[str] = ()) -> None:
    """Only these stops are left. Child runs that are `ending` are told so by others."""
    state, before = advance.state, _stopped_children(advance)
    state.stops = stops
    still = _stopped_children(advance)
    for wait_id, run_id in before.items():
        if wait_id not in still and wait_id not in ending:
            told = ResumeRun(wait_id, actor, parent=Parent(state.run_id, wait_id))
            advance.effects.append(SendCommand(run_token(run_id), told))
    advance.watches.look_again()


def _stopped_children(advance: Advance) -> dict[str, str]:
    """The child runs that are stopped with the run, by the waits that have started them: those that a thread waits
    for which is stopped, and those that end with the run, if all of it is."""
    state = advance.state
    if not state.stops:
        return {}
    children = {
        thread.wait.wait_id: thread.wait.run_id
        for thread in state.threads
        if isinstance(thread.wait, ChildWait) and not thread.wait.detached and advance.paused(thread)
    }
    if any(each.thread == 0 for each in state.stops):
        children |= {child.wait_id: child.run_id for child in state.children}
    return children


def _tell(advance: Advance, event: RunStopped | RunResumed) -> None:
    """A run that may tell nothing more can be stopped all the same."""
    if not advance.history_full:
        advance.emit(event)
