"""One node kind, one file: what entering it does, and what its result, its timer or its end do."""

from __future__ import annotations

from collections.abc import Callable

from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.nodes import (
    assign,
    branch,
    child,
    condition,
    event,
    gather,
    publish,
    raising,
    returning,
    sleep,
    sleep_until,
    task,
    turn,
    user_task,
)
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    ChildNode,
    ConditionNode,
    EventNode,
    GatherNode,
    Node,
    PublishNode,
    RaiseNode,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    TurnNode,
    UserTaskNode,
)

Act = Callable[[Advance, RunThread, ReadyNode], None]

ENTER: dict[type[Node], Act] = {
    TaskNode: task.enter,
    AssignNode: assign.enter,
    BranchNode: branch.enter,
    SleepNode: sleep.enter,
    PublishNode: publish.enter,
    SleepUntilNode: sleep_until.enter,
    ConditionNode: condition.enter,
    EventNode: event.enter,
    UserTaskNode: user_task.enter,
    ChildNode: child.enter,
    RaiseNode: raising.enter,
    ReturnNode: returning.enter,
    GatherNode: gather.enter,
    TurnNode: turn.enter,
}

LOOK: dict[type[Node], Act] = {ConditionNode: condition.look, SleepUntilNode: sleep_until.look}
"""What a thread does that waits at such a node when variables have changed that it reads."""
