"""Going on with what came to a run thread while it was stopped."""

from __future__ import annotations

from dressage.expressions.values import decode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.nodes import task
from dressage.orchestrator.fold.state import HeldWait, RunThread
from dressage.protocol.errors import InvariantBroken
from dressage.protocol.spec import (
    BranchNode,
    ChildNode,
    EventNode,
    GatherNode,
    RaiseNode,
    ReturnNode,
    TaskNode,
    UserTaskNode,
)


def release(advance: Advance, thread: RunThread, wait: HeldWait) -> None:
    """Raises `LimitExceeded`."""
    thread = advance.threads.own(thread)
    advance.turn_to(thread)
    if wait.begins:
        advance.go_on(thread, wait.node)
    elif wait.again is not None:
        task.try_again(advance, thread, wait.again, wait.delay_ms)
    elif wait.failure is not None:
        advance.fail(thread, wait.failure, wait.node, wait.child)
    else:
        _go_on(advance, thread, wait)


def _go_on(advance: Advance, thread: RunThread, wait: HeldWait) -> None:
    node = advance.definition.spec.nodes[wait.node]
    match node:
        case TaskNode() | ChildNode() | EventNode() | UserTaskNode() | GatherNode() if wait.value:
            value = decode_stored(wait.value, advance.definition.types)
            advance.go_on_with(thread, wait.node, node.next, node.target, value)
        case RaiseNode() | ReturnNode() | BranchNode():
            raise InvariantBroken(f"run thread {thread.id} waited at node {wait.node}, where nothing waits")
        case _:
            advance.go_on(thread, node.next)
