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
    RetryOptions,
    ReturnNode,
    SleepNode,
    TaskDef,
    TaskNode,
    WorkflowSpec,
)

NODES_MAX: Final = 10_000
RETRIES_MAX: Final = 10_000
BACKOFF_S_MAX: Final = 366 * 86_400.0


def check_spec(spec: WorkflowSpec) -> None:
    """Raises `BadSpec` or `BadName` for a spec that contradicts itself.

    No compiler of ours writes one, but a spec may come from elsewhere.
    """
    _check_names(spec)
    nodes, scopes = len(spec.nodes), len(spec.scopes)
    tasks = {task.name: task for task in spec.tasks}
    for number, node in enumerate(spec.nodes):
        for target in _targets(node):
            if not 0 <= target < nodes:
                raise BadSpec(
                    f"node {number} leads to node {target}, but the spec has nodes 0 to {nodes - 1}"
                )
        if node.scope is not None and not 0 <= node.scope < scopes:
            raise BadSpec(f"node {number} names scope {node.scope}, but the spec has {scopes} scopes")
        if isinstance(node, TaskNode):
            _check_call(number, node, tasks.get(node.task))
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


def _check_call(number: int, node: TaskNode, task: TaskDef | None) -> None:
    if task is None:
        raise BadSpec(f"node {number} calls task {node.task!r}, which the spec does not define")
    params = {param.name: param for param in task.params}
    for name in node.args:
        if name not in params:
            raise BadSpec(
                f"node {number} gives task {task.name!r} an argument {name!r}, which it does not have"
            )
    for name, param in params.items():
        if param.required and name not in node.args:
            raise BadSpec(f"node {number} calls task {task.name!r} without its argument {name!r}")
    _check_retry(f"node {number}", node.retry)


def _check_retry(where: str, options: RetryOptions | None) -> None:
    if options is None:
        return
    if options.retries is not None and not 0 <= options.retries <= RETRIES_MAX:
        raise BadSpec(f"{where}: retries is {options.retries}: give 0 to {RETRIES_MAX}")
    backoff = options.backoff
    if backoff is None:
        return
    for name, value, low, high in (
        ("base_s", backoff.base_s, 0.0, BACKOFF_S_MAX),
        ("factor", backoff.factor, 1.0, 1000.0),
        ("limit_s", backoff.limit_s, 0.0, BACKOFF_S_MAX),
        ("jitter", backoff.jitter, 0.0, 1.0),
    ):
        if not low <= value <= high:
            raise BadSpec(f"{where}: {name} of its backoff is {value}: give {low:g} to {high:g}")


def _check_names(spec: WorkflowSpec) -> None:
    check_name(spec.name, "workflow")
    for task in spec.tasks:
        check_name(task.name, "task")
        check_name(task.queue, f"queue of task {task.name}:")
        _check_retry(f"task {task.name!r}", task.retry)
    _check_retry("the workflow", spec.retry)
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
