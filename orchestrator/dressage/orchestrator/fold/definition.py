"""A registered workflow made ready to be folded: expressions compiled, types looked up, once per version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dressage.expressions.evaluate import compile_expression
from dressage.expressions.types import ParamsCodec, TypeTable
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    Node,
    RaiseNode,
    RegisteredWorkflow,
    ReturnNode,
    SleepNode,
    TaskDef,
    TaskNode,
    WorkflowSpec,
)
from dressage.protocol.spec_check import check_spec
from dressage.protocol.types import Named, RecordType

Evaluate = Callable[[Mapping[str, Any]], Any]


@dataclass(slots=True, frozen=True)
class ReadyNode:
    """A node with its expressions compiled, by the name of the field they stand in."""

    node: Node
    expressions: Mapping[str, Evaluate]


class Definition:
    """An immutable version of a workflow. Raises `BadSpec` for a spec that contradicts itself."""

    def __init__(self, registered: RegisteredWorkflow) -> None:
        spec = registered.spec
        check_spec(spec)
        self.spec = spec
        self.version = registered.version
        self.types = TypeTable(spec.types)
        self.params = ParamsCodec(spec.params, self.types)
        self.output = self.types.codec(spec.output)
        self.tasks = {task.name: task for task in spec.tasks}
        self.families = {failure.name: failure.family for failure in spec.failures}
        self.task_params = {task.name: ParamsCodec(task.params, self.types) for task in spec.tasks}
        self.task_outputs = {task.name: self.types.codec(task.output) for task in spec.tasks}
        self.views = {variable.name for variable in spec.variables if variable.view}
        self.temporaries = {variable.name for variable in spec.variables if variable.temporary}
        self.searchable = frozenset(_searchable(spec))
        self.nodes = [ReadyNode(node, self._compiled(node)) for node in spec.nodes]

    def _compiled(self, node: Node) -> dict[str, Evaluate]:
        return {name: compile_expression(expr, self.types) for name, expr in _expressions_of(node).items()}

    def task(self, name: str) -> TaskDef:
        return self.tasks[name]


def _expressions_of(node: Node) -> dict[str, Expr]:
    match node:
        case TaskNode():
            return node.args
        case AssignNode():
            return {"value": node.value}
        case BranchNode():
            return {"test": node.test}
        case SleepNode():
            return {"duration": node.duration}
        case RaiseNode():
            return _given({"message": node.message, "details": node.details})
        case ReturnNode():
            return _given({"value": node.value})


def _given(expressions: dict[str, Expr | None]) -> dict[str, Expr]:
    return {name: expr for name, expr in expressions.items() if expr is not None}


def _searchable(spec: WorkflowSpec) -> Iterator[str]:
    """Names of the searchable fields of the run's view."""
    views = {
        variable.type.name
        for variable in spec.variables
        if variable.view and isinstance(variable.type, Named)
    }
    for definition in spec.types:
        if isinstance(definition, RecordType) and definition.name in views:
            yield from (field.name for field in definition.fields if field.searchable)
