"""One node kind, one file: what entering it does, and what its result, its timer or its end do."""

from __future__ import annotations

from collections.abc import Callable

from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.nodes import (
    assign,
    branch,
    event,
    gather,
    publish,
    raising,
    returning,
    sleep,
    task,
)
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    EventNode,
    GatherNode,
    Node,
    PublishNode,
    RaiseNode,
    ReturnNode,
    SleepNode,
    TaskNode,
)

ENTER: dict[type[Node], Callable[[Advance, RunThread, ReadyNode], None]] = {
    TaskNode: task.enter,
    AssignNode: assign.enter,
    BranchNode: branch.enter,
    SleepNode: sleep.enter,
    PublishNode: publish.enter,
    EventNode: event.enter,
    RaiseNode: raising.enter,
    ReturnNode: returning.enter,
    GatherNode: gather.enter,
}
