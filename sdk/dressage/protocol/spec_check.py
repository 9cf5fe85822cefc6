"""Whether a spec makes sense in itself, before anything is compiled from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dressage.protocol.errors import BadSpec
from dressage.protocol.names import check_name
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    Node,
    RaiseNode,
    ReturnNode,
    SleepNode,
    TaskNode,
    WorkflowSpec,
)

NODES_MAX: Final = 10_000


def check_spec(spec: WorkflowSpec) -> None:
    """Raises `BadSpec` or `BadName` for a spec that contradicts itself.

    No compiler of ours writes one, but a spec may come from elsewhere.
    """
    _check_names(spec)
    nodes, scopes = len(spec.nodes), len(spec.scopes)
    tasks = {task.name for task in spec.tasks}
    for number, node in enumerate(spec.nodes):
        for target in _targets(node):
            if not 0 <= target < nodes:
                raise BadSpec(
                    f"node {number} leads to node {target}, but the spec has nodes 0 to {nodes - 1}"
                )
        if node.scope is not None and not 0 <= node.scope < scopes:
            raise BadSpec(f"node {number} names scope {node.scope}, but the spec has {scopes} scopes")
        if isinstance(node, TaskNode) and node.task not in tasks:
            raise BadSpec(f"node {number} calls task {node.task!r}, which the spec does not define")
    if not 0 <= spec.entry < nodes:
        raise BadSpec(f"entry is node {spec.entry}, but the spec has {nodes} nodes")
    for number, scope in enumerate(spec.scopes):
        if scope.parent is not None and not 0 <= scope.parent < number:
            raise BadSpec(f"scope {number} has parent {scope.parent}: a parent comes before its children")
        for handler in scope.handlers:
            if not 0 <= handler.node < nodes:
                raise BadSpec(
                    f"a handler of scope {number} leads to node {handler.node}, which does not exist"
                )


def _targets(node: Node) -> tuple[int, ...]:
    match node:
        case TaskNode() | AssignNode() | SleepNode():
            return (node.next,)
        case BranchNode():
            return (node.then, node.otherwise)
        case RaiseNode() | ReturnNode():
            return ()


def _check_names(spec: WorkflowSpec) -> None:
    check_name(spec.name, "workflow")
    for task in spec.tasks:
        check_name(task.name, "task")
        check_name(task.queue, f"queue of task {task.name}:")
    for failure in spec.failures:
        check_name(failure.name, "failure")
    if not 0 < len(spec.nodes) <= NODES_MAX:
        raise BadSpec(f"a spec has 1 to {NODES_MAX} nodes, not {len(spec.nodes)}")
    _refuse_twice("task", (task.name for task in spec.tasks))
    _refuse_twice("parameter", (param.name for param in spec.params))
    _refuse_twice("variable", (variable.name for variable in spec.variables))


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadSpec(f"{what} {name!r} is defined twice")
        seen.add(name)
