"""Starting a run of another workflow and waiting for its end."""

from __future__ import annotations

import msgspec

from dressage.expressions.errors import LimitExceeded
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.branches import CANCELLED
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import Effect, SendCommand
from dressage.orchestrator.fold.limits import CHILD_DEPTH_MAX, bounded, too_large
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.state import ChildWait, RunThread
from dressage.protocol.commands import ChildEnded, Command, FailureInfo, Parent, StartRun
from dressage.protocol.errors import BadRunId, BadValue
from dressage.protocol.events import ChildCompleted, ChildFailed, ChildStarted
from dressage.protocol.names import RUN_ID_BYTES_MAX, child_id, run_token
from dressage.protocol.spec import ANY_ERROR, CHILD_ERROR, ChildNode

CHILD_FAMILY = (CHILD_ERROR, ANY_ERROR)
"""By what it can be caught that a child run did not do what it was to."""


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node, state, definition = ready.node, advance.state, advance.definition
    assert isinstance(node, ChildNode)
    args = {name: advance.evaluate(ready, name) for name in node.args}
    given = definition.child_params[node.workflow].encode(args)
    if len(given) > definition.limits.value_bytes:
        raise too_large("arguments-size", f"the input of workflow {node.workflow}", given, definition.limits)
    depth = 1 if state.parent is None else state.parent.depth + 1
    wait_id = advance.begun_id(thread, thread.node)
    run_id = child_id(state.run_id, wait_id)
    if depth > CHILD_DEPTH_MAX:
        raise LimitExceeded(
            "child-depth", f"{depth} runs would wait for each other, of {CHILD_DEPTH_MAX} that may"
        )
    size = len(run_id.encode())
    if size > RUN_ID_BYTES_MAX:
        raise LimitExceeded(
            "run-id-size",
            f"the id of the child run, {run_id!r}, takes {size} bytes of {RUN_ID_BYTES_MAX} allowed: give the run "
            "itself a shorter one",
        )
    version = definition.children[node.workflow]
    thread.wait = ChildWait(run_id, wait_id, node.workflow, thread.node, state.time_ms)
    start = StartRun(
        node.workflow,
        version,
        msgspec.Raw(given),
        wait_id,
        state.actor,
        Parent(state.run_id, wait_id, depth),
    )
    advance.effects.append(SendCommand(run_token(run_id), start))
    advance.emit(ChildStarted(thread.node, node.workflow, version, run_id, wait_id))


def on_ended(advance: Advance, command: ChildEnded) -> None:
    """Applies the end of the child run that a thread waits for. Raises `RefuseCommand` where none does."""
    found = advance.threads.of_step(command.wait_id)
    if found is None or not isinstance(found.wait, ChildWait) or found.wait.wait_id != command.wait_id:
        raise RefuseCommand("RESULT_STALE", f"run {advance.state.run_id!r} does not wait for this child run")
    thread, wait = advance.threads.own(found), found.wait
    advance.turn_to(thread)
    if thread.cancel == "asked":
        thread.cancel = "raised"
        failure = command.failure
        cut = failure is None or failure.kind == "cancelled"
        _tell_failure(advance, wait, CANCELLED if failure is None else failure)
        advance.fail(thread, CANCELLED if failure is None or cut else _raised(wait, failure), wait.node)
    elif command.failure is not None:
        _tell_failure(advance, wait, command.failure)
        advance.fail(thread, _raised(wait, command.failure), wait.node)
    else:
        _completed(
            advance, thread, wait, b"null" if command.output is msgspec.UNSET else bytes(command.output)
        )


def _completed(advance: Advance, thread: RunThread, wait: ChildWait, output: bytes) -> None:
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, ChildNode)
    codec = advance.definition.child_outputs[wait.workflow]
    try:
        value = codec.decode(output)
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
    """Tells the parent of a run that it cannot be started; nothing for any other command."""
    if not isinstance(command, StartRun) or command.parent is None:
        return []
    try:
        token = run_token(command.parent.run_id)
    except BadRunId:
        return []  # No engine has sent it.
    failure = FailureInfo(code.lower().replace("_", "-"), message, "task-error", family=CHILD_FAMILY)
    return [SendCommand(token, ChildEnded(command.parent.wait_id, failure=failure))]
