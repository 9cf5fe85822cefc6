"""What the compilation of one function carries from statement to statement."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from dressage.flow.compiler.graph import Graph, Label
from dressage.flow.compiler.names import Names
from dressage.flow.compiler.scope import FlowScope
from dressage.flow.failures import WorkflowFailure
from dressage.flow.members import Unsupported
from dressage.flow.signatures import Signature
from dressage.flow.source import Source
from dressage.flow.tasks import Task
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import FailureDef
from dressage.protocol.types import TypeRef


@dataclass
class Loop:
    """Where `continue` and `break` go."""

    again: Label
    out: Label


@dataclass
class Clause:
    """An except clause around the current place; `bind` holds the failure that a bare `raise` raises again."""

    bind: str | None


@dataclass
class Augmented:
    """An augmented assignment, which Python does in place if the target's type has a way to."""

    node: ast.AugAssign
    target: Expr


@dataclass
class Context:
    """One workflow under compilation."""

    source: Source
    signature: Signature
    names: Names
    scope: FlowScope
    graph: Graph = field(default_factory=Graph)
    tasks: dict[str, Task[..., Any]] = field(default_factory=dict[str, Task[..., Any]])
    failures: dict[str, type[WorkflowFailure]] = field(default_factory=dict[str, type[WorkflowFailure]])
    declared: dict[str, TypeRef] = field(default_factory=dict[str, TypeRef])
    augmented: list[Augmented] = field(default_factory=list[Augmented])
    loops: list[Loop] = field(default_factory=list[Loop])
    clauses: list[Clause] = field(default_factory=list[Clause])
    temporaries: int = 0

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        return self.source.refusal(node, what, advice)

    def translate(self, node: ast.expr) -> Expr:
        return self.scope.translate(node)

    def temporary(self) -> str:
        """A variable of the compiler's own, by a name that no Python variable has."""
        self.temporaries += 1
        return f"${self.temporaries}"

    def use_task(self, node: ast.AST, task: Task[..., Any]) -> None:
        """Takes a task into the spec, with its types."""
        known = self.tasks.setdefault(task.name, task)
        if known.definition != task.definition:
            raise self.refusal(
                node, f"two tasks are named {task.name}, and differ", "give one of them another name"
            )
        try:
            self.scope.book.merge(task.signature.book)
        except Unsupported as error:
            raise self.refusal(node, error.what, error.advice) from error

    def use_failure(self, node: ast.AST, kind: type[WorkflowFailure]) -> None:
        """Takes a failure and its ancestors into the spec."""
        for each in kind.__mro__:
            if not issubclass(each, WorkflowFailure) or each is WorkflowFailure:
                continue
            known = self.failures.setdefault(each.name, each)
            if known is not each:
                raise self.refusal(
                    node,
                    f"failures {known.__qualname__} and {each.__qualname__} have one name, {each.name}",
                    "give one of them another class attribute `name`",
                )

    def failure_definitions(self) -> tuple[FailureDef, ...]:
        return tuple(FailureDef(name, kind.family) for name, kind in self.failures.items())
