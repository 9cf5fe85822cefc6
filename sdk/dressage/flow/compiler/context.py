"""What the compilation of one function carries from statement to statement."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dressage.flow.compiler.graph import Graph, Label
from dressage.flow.compiler.names import Names
from dressage.flow.compiler.scope import FlowScope
from dressage.flow.events import Event
from dressage.flow.failures import WorkflowFailure
from dressage.flow.members import Unsupported
from dressage.flow.people import UserTask
from dressage.flow.runnable import Runnable
from dressage.flow.signatures import Signature
from dressage.flow.source import Function, Source
from dressage.flow.tasks import Task
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Expr, Name
from dressage.protocol.spec import AssignNode, ChildNode, EventNode, FailureDef, Node, TaskNode, UserTaskNode
from dressage.protocol.types import Scalar, TypeRef

Block = Callable[["Context", list[ast.stmt]], None]


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
class Final:
    """A `finally` body around the current place, with what surrounds its `try`."""

    body: list[ast.stmt]
    scope: int | None
    clauses: list[Clause]
    caught: list[str]


@dataclass
class Undo:
    """A step of a saga that a task undoes, with the names of what it is given; `place` is where it is registered."""

    task: Task[..., Any]
    names: tuple[str, ...]
    place: ast.AST


@dataclass
class Steps:
    """A saga around the current place: `variable` lists the steps that are done, each by its number in `undos`."""

    variable: str
    undos: list[Undo] = field(default_factory=list[Undo])


@dataclass
class Augmented:
    """An augmented assignment, which Python does in place if the target's type has a way to."""

    node: ast.AugAssign
    target: Expr


@dataclass
class Inlined:
    """A function that is compiled where it is called: its result goes to `target`, and control to `end`.

    `around` are the functions whose calls this one is inside of, itself included.
    """

    target: str | None
    end: Label
    around: tuple[Function, ...]
    called_at: int | None = None
    """The line of the workflow's file that calls it, if it is in another file."""


def record_of(kind: type[WorkflowFailure]) -> str | None:
    """The record that the fields of a failure are, by name."""
    declared = kind.declared()
    return declared.record if declared is not None else None


@dataclass
class Context:
    """One workflow under compilation."""

    source: Source
    signature: Signature
    names: Names
    scope: FlowScope
    function: Callable[..., Any]
    """Whose closure and module the names around are: a workflow's, or a function's that it awaits."""

    block: Block
    """Compiles statements in their order."""

    hoist: Callable[[Context, ast.expr], ast.expr]
    """Compiles the awaits inside an expression, and gives the expression without them."""

    wait: Callable[[Context, ast.Await, str | None], None]
    """Compiles an await, whose result goes to a variable of the run."""

    graph: Graph = field(default_factory=Graph)
    tasks: dict[str, Task[..., Any]] = field(default_factory=dict[str, Task[..., Any]])
    failures: dict[str, type[WorkflowFailure]] = field(default_factory=dict[str, type[WorkflowFailure]])
    caught: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The records of the failures that a variable may hold, by its name."""

    events: dict[str, Event[Any]] = field(default_factory=dict[str, Event[Any]])
    user_tasks: dict[str, UserTask[Any]] = field(default_factory=dict[str, UserTask[Any]])
    children: dict[str, Runnable] = field(default_factory=dict[str, Runnable])
    declared: dict[str, TypeRef] = field(default_factory=dict[str, TypeRef])
    augmented: list[Augmented] = field(default_factory=list[Augmented])
    frames: list[Loop | Final] = field(default_factory=list["Loop | Final"])
    """What `return`, `break` and `continue` leave, or pass, from the outside in."""

    in_final: int = 0
    """How many `finally` bodies are around the current place."""

    sagas: dict[str, Steps] = field(default_factory=dict[str, Steps])
    """By the variable of the source."""

    clauses: list[Clause] = field(default_factory=list[Clause])
    functions: dict[str, ast.AsyncFunctionDef] = field(default_factory=dict[str, ast.AsyncFunctionDef])
    """The nested functions that are defined where control now is."""

    inlined: Inlined | None = None
    """Set while a function is compiled where it is called."""

    outer: Context | None = None
    """Of a nested function: what it is nested in."""

    awaited: list[tuple[ast.AST, Source]] = field(default_factory=list["tuple[ast.AST, Source]"])
    """The functions that were compiled where they are called, each with the file that it is in."""

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        return self._source_of(node).refusal(node, what, advice)

    def _source_of(self, node: ast.AST) -> Source:
        """The file in which a place is: what is checked when all nodes are known may be in that of a function."""
        for function, source in self.awaited:
            if any(each is node for each in ast.walk(function)):
                return source
        return self.source

    def translate(self, node: ast.expr, *, consumed: bool = False) -> Expr:
        """The expression tree of `node`. What it awaits is compiled here, before whatever takes the value."""
        return self.scope.translate(self.hoist(self, node), consumed=consumed)

    def temporary(self) -> str:
        """A variable of the compiler's own, by a name that no Python variable has."""
        self.graph.temporaries += 1
        return f"${self.graph.temporaries}"

    def variable(self, name: str) -> str:
        """What a variable of the source is called in the run."""
        return self.scope.variable_name(name)

    def set(self, place: ast.AST, name: str, value: Expr) -> None:
        """Sets a variable of the run as a whole."""
        self.graph.emit(AssignNode, place, target=name, value=value, attribute=None)

    def hold(self, node: ast.expr) -> Expr:
        """The value of an expression here and now, awaited if it says so, in a variable of the compiler's own."""
        held = self.temporary()
        if isinstance(node, ast.Await):
            self.wait(self, node, held)
        else:
            self.set(node, held, self.translate(node))
        return Name(held)

    def view(self, name: str) -> type | None:
        """The class of the run's view, if that is what a variable of the run is. (An awaited function has none.)"""
        context: Context | None = self
        while context is not None:
            if context.inlined is None:
                return context.names.views.get(name)
            context = context.outer
        return None

    def is_view(self, name: str) -> bool:
        """Whether a variable of the run is, or would be, its view."""
        context: Context | None = self
        while context is not None:
            if context.inlined is None:
                return name in context.names.views
            context = context.outer
        return False

    def results(self) -> dict[str, tuple[str, ...]]:
        """By the variable that takes the results of a gather, those that hold the results of its branches."""
        return {
            draft.fields["target"]: tuple(branch.result for branch in draft.fields["branches"])
            for draft in self.graph.drafts
            if "branches" in draft.fields and draft.fields["target"]
        }

    def is_of_branch(self, result: Expr) -> bool:
        """Whether a value that is returned is what a branch comes to, and not the workflow."""
        return isinstance(result, Name) and any(
            branch.result == result.name
            for draft in self.graph.drafts
            for branch in draft.fields.get("branches", ())
        )

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

    def use_event(self, node: ast.AST, event: Event[Any]) -> None:
        """Takes an event into the spec, with its type."""
        known = self.events.setdefault(event.name, event)
        if known.definition != event.definition:
            raise self.refusal(
                node, f"two events are named {event.name}, and differ", "give one of them another name"
            )
        try:
            self.scope.book.merge(event.book)
        except Unsupported as error:
            raise self.refusal(node, error.what, error.advice) from error

    def use_user_task(self, node: ast.AST, user_task: UserTask[Any]) -> None:
        """Takes a user task into the spec, with the types of its form."""
        known = self.user_tasks.setdefault(user_task.name, user_task)
        if known.definition != user_task.definition:
            raise self.refusal(
                node,
                f"two user tasks are named {user_task.name}, and differ",
                "give one of them another name",
            )
        try:
            self.scope.book.merge(user_task.book)
        except Unsupported as error:
            raise self.refusal(node, error.what, error.advice) from error

    def use_child(self, node: ast.AST, child: Runnable) -> None:
        """Takes a workflow of which a run is started into the spec, with its types."""
        known = self.children.setdefault(child.spec.name, child)
        if known is not child:
            raise self.refusal(
                node,
                f"two workflows are named {child.spec.name}, and differ",
                "give one of them another name",
            )
        try:
            self.scope.book.merge(child.signature.book)
        except Unsupported as error:
            raise self.refusal(node, error.what, error.advice) from error

    def output_of(self, node: Node) -> TypeRef | None:
        """The type of what a node waits for and gives to a variable."""
        match node:
            case TaskNode():
                return self.tasks[node.task].definition.output
            case EventNode():
                return self.events[node.event].definition.type
            case UserTaskNode():
                return self.user_tasks[node.user_task].type
            case ChildNode():
                return Scalar("str") if node.detached else self.children[node.workflow].spec.output
            case _:
                return None

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
            try:
                if (declared := each.declared()) is not None:
                    self.scope.book.merge(declared.book)
            except Unsupported as error:
                raise self.refusal(node, error.what, error.advice) from error
            except DefinitionError as error:
                what, _, advice = str(error).partition("\n")
                raise self.refusal(node, what, advice) from error

    def failure_definitions(self) -> tuple[FailureDef, ...]:
        return tuple(FailureDef(name, kind.family, record_of(kind)) for name, kind in self.failures.items())
