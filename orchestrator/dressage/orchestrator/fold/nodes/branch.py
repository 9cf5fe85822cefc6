"""A choice between two ways by Python's truth."""

from __future__ import annotations

from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.spec import BranchNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, BranchNode)
    thread.node = node.then if advance.evaluate(ready, "test") else node.otherwise
