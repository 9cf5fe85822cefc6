"""Which workflows use a task, an event, a queue, a user task or another workflow: read from their specs."""

from __future__ import annotations

from typing import Literal

import msgspec

from dressage.protocol.spec import ChildNode, EventNode, Node, TaskNode, UserTaskNode, WorkflowSpec

Used = Literal["task", "event", "queue", "user-task", "workflow"]
"""What can be used; a workflow is, as a child."""


class Use(msgspec.Struct, frozen=True):
    """A version of a workflow that uses it, at these lines of its file; none where it was not compiled from one. One
    that is `unread` was written by a later release, and may use it or not."""

    workflow: str
    version: int
    label: str
    lines: tuple[int, ...] = ()
    unread: bool = False


def uses_of(spec: WorkflowSpec, what: Used, name: str) -> tuple[int, ...] | None:
    """The lines at which a spec uses it, each once; None if it does not."""
    named = {each.name for each in spec.tasks if each.queue == name} if what == "queue" else {name}
    nodes = [node for node in spec.nodes if _used(node, what) in named]
    return tuple(sorted({node.line for node in nodes if node.line})) if nodes else None


def _used(node: Node, what: Used) -> str | None:
    match what, node:
        case (("task" | "queue"), TaskNode()):
            return node.task
        case "event", EventNode():
            return node.event
        case "user-task", UserTaskNode():
            return node.user_task
        case "workflow", ChildNode():
            return node.workflow
        case _:
            return None
