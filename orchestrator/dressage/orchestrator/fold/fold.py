"""The fold: (state, command, definition) to (state, effects, events). Pure: no clock, no I/O, no randomness."""

from __future__ import annotations

import msgspec

from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.values import encode_stored
from dressage.orchestrator.fold.advance import VALUE_BYTES_MAX, Advance
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.invariants import check
from dressage.orchestrator.fold.nodes import ENTER
from dressage.orchestrator.fold.nodes.sleep import on_timer
from dressage.orchestrator.fold.nodes.task import on_result
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.state import STATE_FORMAT, RunState, RunThread
from dressage.protocol.commands import Command, FailureInfo, StartRun, TaskResult, TimerFired
from dressage.protocol.errors import BadValue
from dressage.protocol.events import RunFaulted, RunStarted

FOLD_VERSION = 1
"""Changes whenever the same state and command may fold to something else; recorded in the cursor."""

STEPS_PER_COMMAND_MAX = 10_000
"""Nodes that one command may pass before the run must wait for something: a guard against endless loops."""

VARIABLES_BYTES_MAX = 256 * 1024
"""Stored size of a run's variables, summed; more fails that run by name."""

INPUT_BYTES_MAX = VALUE_BYTES_MAX


def fold(
    state: RunState | None, command: Command, run_id: str, stamp: Stamp, definition: Definition | None
) -> Outcome:
    """Applies one command to one run.

    `definition` is the version that the state names, or for a start the one that the command names; None if
    there is no such version. The state that is passed in is never changed.
    """
    try:
        if isinstance(command, StartRun):
            outcome = _start(state, command, run_id, stamp, definition)
        else:
            outcome = _go_on(state, command, run_id, stamp, definition)
    except RefuseCommand as refusal:
        return Outcome(state, code=refusal.code, message=refusal.message)
    check(state, outcome)
    return outcome


def fault(state: RunState, stamp: Stamp, error: str) -> Outcome:
    """What becomes of a run when folding its command raised: it stops where it was, and says so."""
    faulted = state.copy()
    faulted.seq, faulted.time_ms = stamp.seq, max(state.time_ms, stamp.time_ms)
    faulted.status = "engine-fault"
    faulted.ended_ms = faulted.time_ms
    faulted.events += 1
    return Outcome(
        faulted,
        events=[RunFaulted(stamp.seq, error)],
        first_event=state.events,
        actor="orchestrator",
        code="ENGINE_FAULT",
        message=f"the engine failed on this command; the run is kept for rescue: {error.splitlines()[-1]}",
    )


def _start(
    state: RunState | None, command: StartRun, run_id: str, stamp: Stamp, definition: Definition | None
) -> Outcome:
    if definition is None:
        raise RefuseCommand(
            "WORKFLOW_UNKNOWN",
            f"workflow {command.workflow!r} has no version {command.version}: register it first",
        )
    if len(bytes(command.input)) > INPUT_BYTES_MAX:
        raise RefuseCommand(
            "INPUT_INVALID",
            f"the input takes {len(bytes(command.input))} bytes of {INPUT_BYTES_MAX} allowed: pass a reference to it",
        )
    try:
        arguments = definition.params.decode(bytes(command.input))
    except BadValue as error:
        raise RefuseCommand(
            "INPUT_INVALID", f"input of workflow {command.workflow!r}: {error.message}"
        ) from error
    given = msgspec.Raw(msgspec.json.encode(arguments, order="sorted"))
    if state is not None:
        return _start_again(state, command, given)
    fresh = RunState(
        format=STATE_FORMAT,
        run_id=run_id,
        workflow=command.workflow,
        version=command.version,
        seq=stamp.seq,
        time_ms=stamp.time_ms,
        started_ms=stamp.time_ms,
        command_id=command.command_id,
        input=given,
        actor=command.actor,
        threads=[RunThread(id=0, node=definition.spec.entry)],
        variables={name: msgspec.Raw(encode_stored(value)) for name, value in arguments.items()},
    )
    advance = Advance(fresh, definition, stamp)
    advance.emit(RunStarted(given))
    return _finish(advance, command.actor)


def _start_again(state: RunState, command: StartRun, given: msgspec.Raw) -> Outcome:
    """The same id is the same run, whoever asks and however often; other input is a conflict."""
    if state.workflow != command.workflow or bytes(state.input) != bytes(given):
        what = "workflow" if state.workflow != command.workflow else "input"
        raise RefuseCommand(
            "RUN_ID_CONFLICT",
            f"run {state.run_id!r} of workflow {state.workflow!r} exists with another {what}: choose another run id",
        )
    return Outcome(state, existing=state.command_id != command.command_id)


def _go_on(
    state: RunState | None,
    command: TaskResult | TimerFired,
    run_id: str,
    stamp: Stamp,
    definition: Definition | None,
) -> Outcome:
    advance = _begin(state, run_id, stamp, definition)
    if isinstance(command, TimerFired):
        on_timer(advance, command)
        return _finish(advance, command.actor)
    on_result(advance, command)
    return _finish(advance, command.actor or command.by.worker)


def _begin(state: RunState | None, run_id: str, stamp: Stamp, definition: Definition | None) -> Advance:
    if state is None:
        raise RefuseCommand("RUN_UNKNOWN", f"there is no run {run_id!r}")
    if state.finished:
        raise RefuseCommand(
            "RUN_FINISHED", f"run {run_id!r} is {state.status}: nothing can change it any more"
        )
    if definition is None:
        raise LookupError(f"definition {state.workflow} version {state.version} is missing")
    changed = state.copy()
    changed.seq = stamp.seq
    changed.time_ms = max(state.time_ms, stamp.time_ms)
    return Advance(changed, definition, stamp)


def _finish(advance: Advance, actor: str) -> Outcome:
    """Moves every thread on until it waits, then hands everything over."""
    for thread in advance.state.threads:
        _move(advance, thread)
    return Outcome(advance.state, advance.effects, advance.events, advance.first_event, actor=actor)


def _move(advance: Advance, thread: RunThread) -> None:
    nodes = advance.definition.nodes
    steps = 0
    while thread.wait is None and not advance.state.finished:
        steps += 1
        if steps > STEPS_PER_COMMAND_MAX:
            advance.fail_run(
                _limit("steps-per-command", f"more than {STEPS_PER_COMMAND_MAX} steps without waiting")
            )
            return
        number = thread.node
        ready = nodes[number]
        try:
            ENTER[type(ready.node)](advance, thread, ready)
        except ExpressionFailed as error:
            advance.fail(
                thread,
                FailureInfo(error.kind, f"line {ready.node.line}: {error.message}", error.kind),
                number,
            )
        except BadValue as error:
            advance.fail(
                thread,
                FailureInfo("type-error", f"line {ready.node.line}: {error.message}", "type-error"),
                number,
            )
    size = advance.variable_bytes()
    if size > VARIABLES_BYTES_MAX and not advance.state.finished:
        advance.fail_run(
            _limit("variables-size", f"variables take {size} bytes of {VARIABLES_BYTES_MAX} allowed")
        )


def _limit(name: str, message: str) -> FailureInfo:
    return FailureInfo(name, message, "limit")
