"""Another run that begins where one that has ended stood, with what that knew: to try what would have come of it.

The run that has ended says what the other one begins with, as only its state has it, and stays as it is.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.expressions.large import is_stored_elsewhere
from dressage.expressions.limits import parts_of_value
from dressage.expressions.values import decode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.rescuing import (
    REFUSED,
    check_place,
    check_variables,
    refused,
    set_variables,
    where_rescued,
)
from dressage.orchestrator.fold.state import RunState
from dressage.protocol.commands import Fork, ForkRun, StartRun
from dressage.protocol.errors import BadRunId, BadValue
from dressage.protocol.names import check_run_id, run_token

OPEN: Final = "it has not ended: one that is still to do what the other one does would be done twice"


def fork(state: RunState, command: ForkRun, stamp: Stamp, definition: Definition | None) -> Outcome:
    """Starts the other run; the same command again starts the same one. Raises `RefuseCommand`."""
    try:
        check_run_id(command.run_id)
    except BadRunId as error:
        raise RefuseCommand("RUN_ID_INVALID", error.message) from error
    if not state.finished:
        raise RefuseCommand("RUN_OPEN", f"run {state.run_id!r}: {OPEN}")
    if definition is None:
        raise RefuseCommand(
            "WORKFLOW_UNKNOWN", f"workflow {state.workflow!r} has no version {state.version} any more"
        )
    known = where_rescued(state)
    number = command.node if command.node is not None else None if known is None else known.node
    if number is None:
        raise refused(state, "it has not failed: name the line where the other run is to begin")
    check_place(definition, number)
    after = Advance(state.copy(), definition, stamp)
    after.state.seq = stamp.seq
    try:
        given = definition.params.decode(bytes(state.input))
        set_variables(after, command.variables, REFUSED)
    except (BadValue, LimitExceeded) as error:
        raise refused(state, error.message) from error
    check_variables(after, state, number)
    variables = after.state.variables
    values = [*given.values(), *(decode_stored(raw, definition.types) for raw in variables.values())]
    if any(is_stored_elsewhere(value, parts_of_value) for value in values):
        raise refused(state, "it has large values, which go when it is deleted")
    start = StartRun(
        state.workflow,
        state.version,
        state.input,
        command.command_id,
        command.actor,
        keep_ms=command.keep_ms,
        fork=Fork(state.run_id, number, variables),
    )
    return Outcome(state, [SendCommand(run_token(command.run_id), start)])


def check_fork(definition: Definition, given: Fork) -> None:
    """Raises `RefuseCommand` for one that no engine has made."""
    try:
        check_run_id(given.run_id)
    except BadRunId as error:
        raise RefuseCommand("RUN_ID_INVALID", error.message) from error
    check_place(definition, given.node)


def tell_variables(advance: Advance) -> None:
    """What the run begins with is told as if it had just been set. Raises `BadValue` or `LimitExceeded` for what no
    engine has made."""
    definition = advance.definition
    given = {
        name: msgspec.Raw(raw)
        for name, raw in advance.state.variables.items()
        if name not in definition.temporaries
    }
    for name, raw in sorted(given.items()):
        advance.assign(name, decode_stored(raw, definition.types))
    advance.stored = True
    advance.check_sizes()
