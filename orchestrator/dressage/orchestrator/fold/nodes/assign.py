"""An assignment: a variable, or one attribute of the run's view."""

from __future__ import annotations

from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.spec import AssignNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, AssignNode)
    value = advance.evaluate(ready, "value")
    if node.attribute is None:
        if thread.parent is None:
            advance.state.caught.pop(node.target, None)
        advance.assign(node.target, value)
    else:
        advance.assign_attribute(node.target, node.attribute, value)
    thread.node = node.next
