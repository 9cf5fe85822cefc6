"""A run that has failed goes on again, and the variables of one are set from outside.

LittleHorse rescues a run thread that has ended by a technical error, where it has failed or behind that, and climbs to
the runs above it. Here any failure is taken back, also one of the author's own, and a rescue goes down instead: the run
that nobody waits for is rescued, waits once more for the child run that it has failed with, and rescues that. So each
step is one turn of one run, and whoever dies in between has left nothing half done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.orchestrator.fold import pausing
from dressage.orchestrator.fold.advance import Advance, how_ended
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, SendCommand
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp, check_reason
from dressage.orchestrator.fold.state import ChildWait, HeldWait, Raised, RunState, RunThread, RunThreads
from dressage.orchestrator.fold.threads import Threads
from dressage.protocol.commands import EditVariables, Parent, RescueRun
from dressage.protocol.errors import BadValue
from dressage.protocol.events import ChildRescued, RunRescued, VariablesEdited
from dressage.protocol.names import run_token
from dressage.protocol.positions import step_text
from dressage.protocol.spec import AssignNode, Node

WITH_PARENT: Final = "its parent was rescued"
REFUSED: Final = "RESCUE_REFUSED"
NAMES_TOLD: Final = 40


def where_rescued(state: RunState) -> Raised | None:
    """Where a run goes on if it is rescued, and nothing else is said; None if it is not known, or is not to be."""
    if state.status == "engine-fault":
        main = next((thread for thread in state.threads if thread.id == 0), None)
        wait = None if main is None else main.wait
        if isinstance(wait, HeldWait):
            wait = wait.child
        child = wait if isinstance(wait, ChildWait) and not wait.detached else None
        return None if main is None else Raised(main.node, child)
    return state.raised if state.status == "failed" else None


def rescue(
    state: RunState, command: RescueRun, stamp: Stamp, definition: Definition | None, *, elsewhere: bool
) -> Advance | Outcome:
    """The fold in progress that lets the run go on, or what becomes of a command that changes nothing.

    A run that is `elsewhere` has ended where it was before the number of shards grew. Raises `RefuseCommand`.
    """
    check_reason(command.reason)
    parent = command.parent
    if parent is not None and not pausing.is_child(state, parent):
        raise RefuseCommand(
            "RESULT_STALE",
            f"run {state.run_id!r} was not started by run {parent.run_id!r}: it stays as it is",
        )
    if pausing.is_done(state, command):
        return Outcome(state, existing=True)
    if parent is not None and command.times <= state.times:
        return Outcome(state, existing=True)  # It comes once more.
    if parent is not None and state.status == "running":
        after = state.copy()
        after.seq, after.time_ms, after.times = stamp.seq, max(state.time_ms, stamp.time_ms), command.times
        return Outcome(after, first_event=state.events, existing=True, threads={})
    if parent is not None and state.status in ("completed", "cancelled"):
        return Outcome(state, [how_ended(state, parent, command.times)], existing=True)
    _check(state, parent, elsewhere=elsewhere)
    if definition is None:
        raise RefuseCommand(
            "WORKFLOW_UNKNOWN", f"workflow {state.workflow!r} has no version {state.version} any more"
        )
    if command.value and not command.skip:
        raise refused(
            state, "a value is what a step would have given that is skipped: say so, or leave it out"
        )
    number, child = _place(state, command)
    check_place(definition, number)
    advance = Advance(_revived(state, command, stamp), definition, stamp)
    if state.keep_id:
        advance.effects.append(CancelTimer(state.keep_id))
    try:
        advance.check_history()
        reason = command.reason if parent is None else WITH_PARENT
        advance.emit(RunRescued(number, state.status, command.skip, reason))
        _clear(advance, child)
        set_variables(advance, command.variables, REFUSED)
        at, given = _skip(advance, number, command) if command.skip else (number, None)
        check_variables(advance, state, at, given)
    except LimitExceeded as error:
        raise RefuseCommand(REFUSED, f"run {state.run_id!r}: {error.message}") from error
    if child is None:
        advance.begin(RunThread(0, at))
    else:
        _wait_for(advance, number, child, command)
    return advance


def edit(advance: Advance, command: EditVariables) -> None:
    """Raises `RefuseCommand`; it never is what ends a run."""
    check_reason(command.reason)
    pausing.remember(advance.state, command)
    advance.turn_to(pausing.find(advance, command.thread))
    try:
        advance.check_history()
        names = tuple(sorted(command.variables))
        advance.emit(VariablesEdited(names, command.thread, command.reason))
        set_variables(advance, command.variables, "EDIT_REFUSED")
        advance.check_history()
    except LimitExceeded as error:
        raise RefuseCommand("EDIT_REFUSED", f"run {advance.state.run_id!r}: {error.message}") from error
    pausing.check_room(advance)


# -- whether, and where ----------------------------------------------------------------------------------
def _check(state: RunState, parent: Parent | None, *, elsewhere: bool) -> None:
    """Raises `RefuseCommand` where the run is not one that can be rescued."""
    name, mine = f"run {state.run_id!r}", state.parent
    if state.status == "running":
        raise RefuseCommand(
            "RUN_OPEN", f"{name} has not ended: `dressage why` says what it waits for, and what would move it"
        )
    if state.status in ("completed", "cancelled"):
        raise RefuseCommand("RUN_FINISHED", f"{name} is {state.status}: only one that has failed is rescued")
    if state.doomed is not None:
        raise RefuseCommand("RUN_DELETED", f"{name} is about to be deleted with the run that has started it")
    if elsewhere:
        raise RefuseCommand(
            "RUN_ELSEWHERE",
            f"{name} has ended where it was before the number of shards grew: there it cannot be rescued",
        )
    if parent is None and state.status == "failed" and mine is not None and mine.told and not mine.detached:
        raise RefuseCommand(
            "RUN_OWNED",
            f"{name} has failed, and run {mine.run_id!r}, which waited for it, was told so: rescue that, if it has "
            "failed with it",
        )


def _place(state: RunState, command: RescueRun) -> tuple[int, ChildWait | None]:
    """The node that is meant, and the child run that is waited for there once more."""
    if command.node is not None:
        return command.node, None
    known = where_rescued(state)
    if known is None:
        raise refused(state, "it is not known where it has failed: name the line where it is to go on")
    return known.node, None if command.skip else known.child


def check_place(definition: Definition, number: int) -> None:
    lanes = definition.positions.lanes.get(number)
    if lanes is None:
        raise RefuseCommand(REFUSED, f"workflow {definition.spec.name!r} has no step {number}")
    if lanes:
        gather = definition.spec.nodes[lanes[0].gather]
        raise RefuseCommand(
            REFUSED,
            f"{_where(definition, number)} stands in a branch, and a run goes on as a whole: name line {gather.line}, "
            "where its branches begin",
        )


def _where(definition: Definition, number: int) -> str:
    node = definition.spec.nodes[number]
    return f"line {node.line} ({step_text(node)})" if node.line else step_text(node)


def refused(state: RunState, why: str) -> RefuseCommand:
    return RefuseCommand(REFUSED, f"run {state.run_id!r}: {why}")


def check_variables(advance: Advance, before: RunState, at: int, given: str | None = None) -> None:
    """What may be read from there on has a value, of now and not of something that is over. What might have been read
    without one where the run has failed may be so still, unless the largest were dropped. `given` was set just now."""
    positions = advance.definition.positions
    known = where_rescued(before)
    lived = frozenset[str]()
    if known is not None and not before.dropped:
        lived = positions.begins(known.node) | positions.waits(known.node)
    needed = positions.begins(at) - lived - {given}
    missing = needed - advance.state.variables.keys()
    named = sorted(name for name in missing if not name.startswith("$"))
    if named:
        raise refused(
            before,
            f"{_where(advance.definition, at)} needs {', '.join(named)}, which has no value: give one, or name an "
            "earlier line",
        )
    over = {name for name in needed if name.startswith("$")}
    if before.dropped and known is not None and known.node == at:
        over &= missing
    if missing or over:
        raise refused(
            before,
            f"{_where(advance.definition, at)} stands in the middle of something that is over: name the line where "
            "that begins",
        )


# -- what changes -----------------------------------------------------------------------------------------
def _revived(state: RunState, command: RescueRun, stamp: Stamp) -> RunState:
    after = state.copy()
    after.seq, after.time_ms = stamp.seq, max(state.time_ms, stamp.time_ms)
    after.status, after.failure, after.output = "running", None, msgspec.UNSET
    after.ended_ms, after.reason, after.raised, after.keep_id, after.dropped = 0, "", None, "", False
    if command.parent is not None:
        after.times = command.times
    pausing.remember(after, command)
    return after


def _clear(advance: Advance, child: ChildWait | None) -> None:
    """What a fault of the engine has left where it was is given up, but for a child run that is waited for on."""
    for thread in list(advance.state.threads):
        if thread.id == 0 and thread.wait == child:
            advance.threads.own(thread).wait = None
    if advance.state.threads:
        advance.give_up(at_once=True)
        advance.state.threads = RunThreads()
        advance.threads = Threads(advance.state)


def set_variables(advance: Advance, given: Mapping[str, msgspec.Raw], code: Any) -> None:
    """Raises `RefuseCommand`, and `LimitExceeded` for variables that would not fit."""
    definition = advance.definition
    types = definition.variable_types
    owned = frozenset[str]().union(*definition.branch_variables.values())
    for name, raw in sorted(given.items()):
        if name not in types:
            known = ", ".join(sorted(types)[:NAMES_TOLD]) or "none"
            raise RefuseCommand(
                code, f"workflow {definition.spec.name!r} has no variable {name[:80]!r}: it has {known}"
            )
        if name in owned and advance.owner_of(name) is None and name not in advance.state.variables:
            raise RefuseCommand(
                code, f"variable {name} is one of a branch: name the run thread, which its events tell"
            )
        try:
            advance.assign(name, definition.read(types[name], bytes(raw)))
        except (BadValue, ExpressionFailed) as error:
            raise RefuseCommand(code, f"variable {name}: {error}") from error
    if given:
        advance.check_sizes()


def _skip(advance: Advance, number: int, command: RescueRun) -> tuple[int, str | None]:
    """The node behind the one that is skipped, and the variable that has what that gives. Raises `RefuseCommand`."""
    definition = advance.definition
    node: Node = definition.spec.nodes[number]
    behind: int | None = getattr(node, "next", None)
    if behind is None:
        raise RefuseCommand(
            REFUSED,
            f"{_where(definition, number)} has nothing behind it that would follow: name the line where it is to go on",
        )
    target = (
        None if isinstance(node, AssignNode) and node.attribute is not None else getattr(node, "target", None)
    )
    if target is None:
        if command.value:
            raise RefuseCommand(
                REFUSED, f"nobody takes what {_where(definition, number)} gives: give no value"
            )
        return behind, None
    declared = definition.comes_to(node) or definition.variable_types.get(target)
    try:
        advance.assign(target, definition.read(declared, bytes(command.value) if command.value else b"null"))
    except (BadValue, ExpressionFailed) as error:
        raise RefuseCommand(
            REFUSED, f"what {_where(definition, number)} would have given, which is skipped: {error}"
        ) from error
    return behind, target


def _wait_for(advance: Advance, number: int, child: ChildWait, command: RescueRun) -> None:
    """The child run that has failed is waited for once more, and told to go on."""
    state = advance.state
    times = child.times + 1
    wait = msgspec.structs.replace(child, node=number, since_ms=state.time_ms, times=times)
    advance.threads.add(RunThread(0, number, wait))
    advance.emit(ChildRescued(number, child.workflow, child.run_id, child.wait_id))
    parent = Parent(state.run_id, child.wait_id)
    told = RescueRun(command.command_id, actor=command.actor, parent=parent, times=times)
    advance.effects.append(SendCommand(run_token(child.run_id), told))
