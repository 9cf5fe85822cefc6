"""Starting a run of another workflow and waiting for its end."""

from __future__ import annotations

from typing import Any

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.large import is_stored_elsewhere
from dressage.expressions.limits import parts_of_value
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.branches import CANCELLED
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import Effect, SendCommand
from dressage.orchestrator.fold.limits import CHILD_DEPTH_MAX, OPEN_CHILDREN_MAX, bounded, too_large
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.retention import own
from dressage.orchestrator.fold.state import ChildWait, OpenChild, RunState, RunThread
from dressage.protocol.commands import (
    ChildBegun,
    ChildEnded,
    Command,
    FailureInfo,
    Parent,
    RescueRun,
    StartRun,
)
from dressage.protocol.errors import BadRunId, BadValue
from dressage.protocol.events import ChildBegun as EventBegun
from dressage.protocol.events import ChildCompleted, ChildFailed, ChildStarted
from dressage.protocol.names import RUN_ID_BYTES_MAX, check_run_id, child_id, root_of, run_token
from dressage.protocol.spec import ANY_ERROR, CHILD_ERROR, ChildNode
from dressage.protocol.spec_sizes import CHILD_ID

GONE = ("RUN_UNKNOWN", "RUN_DELETED", "RESULT_STALE")
"""How a child run refuses a rescue that is not there, or not that of this parent. Any other may be rescued later."""

CHILD_FAMILY = (CHILD_ERROR, ANY_ERROR)
"""By what it can be caught that a child run did not do what it was to."""


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node, state, definition = ready.node, advance.state, advance.definition
    assert isinstance(node, ChildNode)
    chosen = None if node.run_id is None else advance.evaluate(ready, CHILD_ID)
    args = {name: advance.evaluate(ready, name) for name in node.args}
    given = definition.child_params[node.workflow].encode(args)
    if len(given) > definition.limits.value_bytes:
        raise too_large("arguments-size", f"the input of workflow {node.workflow}", given, definition.limits)
    wait_id = advance.begun_id(thread, thread.node)
    run_id = child_id(state.run_id, wait_id) if chosen is None else _checked(chosen)
    _check_root(state, run_id, args)
    size = len(run_id.encode())
    if size > RUN_ID_BYTES_MAX:
        raise LimitExceeded(
            "run-id-size",
            f"the id of the child run, {run_id!r}, takes {size} bytes of {RUN_ID_BYTES_MAX} allowed: give the run "
            "itself a shorter one",
        )
    told = not node.detached or node.close != "abandon"
    parent = Parent(state.run_id, wait_id, _depth(state, node), node.detached, told)
    if told:
        own(state, run_id, wait_id)
    else:
        state.abandons = True
    if node.detached and told:
        _keep(advance, OpenChild(run_id, wait_id, node.close))
    version = definition.children[node.workflow]
    thread.wait = ChildWait(run_id, wait_id, node.workflow, thread.node, state.time_ms, node.detached)
    keep_ms = None if told else state.keep_ms
    start = StartRun(
        *(node.workflow, version, msgspec.Raw(given), wait_id, state.actor, parent),
        keep_ms=keep_ms,
        traceparent=state.traceparent,
    )
    advance.effects.append(SendCommand(run_token(run_id), start))
    advance.emit(ChildStarted(thread.node, node.workflow, version, run_id, wait_id))


def _checked(run_id: object) -> str:
    """Raises `ExpressionFailed` for what is no run id."""
    if not isinstance(run_id, str):
        raise ExpressionFailed(f"ValueError: a run id is a text, not {type(run_id).__name__}")
    try:
        return check_run_id(run_id)
    except BadRunId as error:
        raise ExpressionFailed(f"ValueError: {error.message}") from error


def _check_root(state: RunState, run_id: str, args: dict[str, Any]) -> None:
    """What is stored for the runs of one root is not found by another's. Raises `ExpressionFailed`."""
    if root_of(run_id) != root_of(state.run_id) and is_stored_elsewhere([*args.values()], parts_of_value):
        raise ExpressionFailed(
            f"ValueError: run {run_id!r} would not find a large value of this run: leave the child run its own id"
        )


def _depth(state: RunState, node: ChildNode) -> int:
    """How many runs wait for the child's end, one for the other. Raises `LimitExceeded`."""
    if node.detached:
        return 0
    depth = 1 if state.parent is None else state.parent.depth + 1
    if depth > CHILD_DEPTH_MAX:
        raise LimitExceeded(
            "child-depth", f"{depth} runs would wait for each other, of {CHILD_DEPTH_MAX} that may"
        )
    return depth


def _keep(advance: Advance, child: OpenChild) -> None:
    children = advance.state.children
    if len(children) >= OPEN_CHILDREN_MAX:
        raise LimitExceeded(
            "open-children",
            f"{OPEN_CHILDREN_MAX} child runs are open that are to be cancelled with this one, all that are allowed: "
            "let some end, or abandon them",
        )
    children.append(child)


def on_begun(advance: Advance, command: ChildBegun) -> None:
    """A detached child run is there. Raises `RefuseCommand` where no thread waits for that."""
    thread, wait = _waiting(advance, command.wait_id)
    if thread is None or wait is None or not wait.detached:
        raise _nobody(advance)
    thread = advance.threads.own(thread)
    advance.turn_to(thread)
    _begun(advance, thread, wait)


def _begun(advance: Advance, thread: RunThread, wait: ChildWait) -> None:
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, ChildNode)
    waited_ms = float(advance.state.time_ms - wait.since_ms)
    advance.emit(EventBegun(wait.node, wait.workflow, wait.run_id, wait.wait_id, waited_ms))
    advance.go_on_with(thread, wait.node, node.next, node.target, wait.run_id)


def on_ended(advance: Advance, command: ChildEnded) -> None:
    """Applies the end of a child run: that a thread waits for, or that would have ended with this run. Raises
    `RefuseCommand` for any other."""
    known = advance.forget_child(command.wait_id)
    found, wait = _waiting(advance, command.wait_id)
    if found is None or wait is None:
        if known:
            return
        raise _nobody(advance)
    if command.times != wait.times:
        raise _nobody(advance)  # It says once more how the child had ended before it was rescued.
    thread = advance.threads.own(found)
    advance.turn_to(thread)
    # One that was cancelled, or is not there, is not rescued with this run: it is started anew.
    failure = command.failure
    lives = failure is not None and not command.absent and failure.kind != "cancelled"
    if not wait.detached and (lives or failure is None):
        advance.child = wait
    if thread.cancel == "asked":
        thread.cancel = "raised"
        cut = failure is None or failure.kind == "cancelled"
        _tell_failure(advance, wait, CANCELLED if failure is None else failure)
        raised = CANCELLED if failure is None or cut else _raised(wait, failure)
        advance.fail(thread, raised, wait.node, wait if lives else None)
    elif command.failure is not None:
        _tell_failure(advance, wait, command.failure)
        advance.fail(thread, _raised(wait, command.failure), wait.node, wait if lives else None)
    elif wait.detached:
        _begun(advance, thread, wait)  # Only an older engine tells of the end and not of the begin.
    else:
        _completed(
            advance, thread, wait, b"null" if command.output is msgspec.UNSET else bytes(command.output)
        )


def _waiting(advance: Advance, wait_id: str) -> tuple[RunThread | None, ChildWait | None]:
    found = advance.threads.of_step(wait_id)
    if found is None or not isinstance(found.wait, ChildWait) or found.wait.wait_id != wait_id:
        return None, None
    return found, found.wait


def _nobody(advance: Advance) -> RefuseCommand:
    return RefuseCommand("RESULT_STALE", f"run {advance.state.run_id!r} does not wait for this child run")


def _completed(advance: Advance, thread: RunThread, wait: ChildWait, output: bytes) -> None:
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, ChildNode)
    codec = advance.definition.child_outputs[wait.workflow]
    try:
        value = codec.decode(output)
        if root_of(wait.run_id) != root_of(advance.state.run_id) and is_stored_elsewhere(
            value, parts_of_value
        ):
            raise BadValue("it is stored for the runs of another root")
    except BadValue as wrong:
        # Only a version that nobody has compiled together with this one gives such an output.
        message = f"child run {wait.run_id} gave a value that is not of its type: {wrong.message}"
        failure = FailureInfo("output-type", message, "type-error", family=CHILD_FAMILY)
        _tell_failure(advance, wait, failure)
        advance.fail(thread, failure, wait.node)
        return
    waited_ms = float(advance.state.time_ms - wait.since_ms)
    shown = msgspec.Raw(codec.shown(output, value))
    advance.emit(ChildCompleted(wait.node, wait.workflow, wait.run_id, wait.wait_id, waited_ms, shown))
    advance.go_on_with(thread, wait.node, node.next, node.target, value)


def _tell_failure(advance: Advance, wait: ChildWait, failure: FailureInfo) -> None:
    waited_ms = float(advance.state.time_ms - wait.since_ms)
    told = bounded(failure)
    advance.emit(ChildFailed(wait.node, wait.workflow, wait.run_id, wait.wait_id, waited_ms, told))


def _raised(wait: ChildWait, failure: FailureInfo) -> FailureInfo:
    """What a child failed with is raised as it was; that it was cancelled, or passed a limit, is another error."""
    if failure.kind not in ("cancelled", "limit"):
        return failure
    what = (
        f"was cancelled: {failure.message}" if failure.kind == "cancelled" else f"failed: {failure.message}"
    )
    return FailureInfo(failure.name, f"child run {wait.run_id} {what}", "task-error", family=CHILD_FAMILY)


def refused(command: Command, code: str, message: str) -> list[Effect]:
    """Tells the parent of a run that it cannot be started, or rescued; nothing for any other command."""
    if not isinstance(command, StartRun | RescueRun) or command.parent is None:
        return []
    try:
        token = run_token(command.parent.run_id)
    except BadRunId:
        return []  # No engine has sent it.
    failure = FailureInfo(code.lower().replace("_", "-"), message, "task-error", family=CHILD_FAMILY)
    again = isinstance(command, RescueRun)
    absent, times = not again or code in GONE, command.times if isinstance(command, RescueRun) else 0
    return [
        SendCommand(token, ChildEnded(command.parent.wait_id, failure=failure, absent=absent, times=times))
    ]
