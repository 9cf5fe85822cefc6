"""Checks along every path of the finished graph: each variable has a value where it is read, each clause a use."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from dressage.expressions.errors import error_family
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.walk import Flow, expressions_of, set_when, subexpressions
from dressage.protocol.expressions import Const, Expr, ListOfExpr, Name, TupleOfExpr
from dressage.protocol.spec import (
    ANY_ERROR,
    ANY_FAILURE,
    BRANCH_CANCELLED,
    CANCELLED_ERROR,
    CHILD_ERROR,
    GROUP_ERROR,
    TASK_ERROR,
    TASK_TIMEOUT,
    TASK_TIMEOUT_FAMILY,
    TIMEOUT_ERROR,
    USER_TASK_CANCELLED,
    AssignNode,
    BranchNode,
    ChildNode,
    ConditionNode,
    EventNode,
    FailureDef,
    GatherNode,
    Node,
    PublishNode,
    RaiseNode,
    ReturnNode,
    Scope,
    SleepNode,
    SleepUntilNode,
    TaskDef,
    TaskNode,
    TaskTimes,
    TurnNode,
    UserTaskNode,
    effective_times,
)

_FAILURES: Final = "any-failure"
"""Stands for whatever business failures a task may end with."""

_ERRORS: Final = "AnyError"
"""Stands for whatever errors of Python's own an expression may end with."""

_TIMEOUTS: Final = frozenset({TASK_TIMEOUT, TIMEOUT_ERROR, "OSError"})
_OF_WAITS: Final = (
    frozenset({TASK_ERROR, CHILD_ERROR, BRANCH_CANCELLED, GROUP_ERROR, CANCELLED_ERROR}) | _TIMEOUTS
)
"""What comes of waiting: no expression raises it."""

_CANCELLED: Final = frozenset({CANCELLED_ERROR})
"""What may come wherever a thread waits: its run is cancelled, or it loses a race."""

Catch = tuple[int, int]
"""An except clause: number of its scope, and its place there."""


class Paths:
    """Where control goes from each node, and which variables have a value there on every way."""

    def __init__(
        self,
        nodes: Sequence[Node],
        scopes: Sequence[Scope],
        failures: Sequence[FailureDef],
        declared: Collection[str],
        tasks: Iterable[TaskDef],
    ) -> None:
        self.nodes = nodes
        self.scopes = scopes
        self.families = {each.name: each.family for each in failures}
        self.times = {each.name: each.times for each in tasks}
        self.declared = declared
        """The variables that take values of their declared type only."""

        self.taken: set[Catch] = set()
        """The clauses to which some failure leads."""

    def assigned(self, params: frozenset[str]) -> list[frozenset[str] | None]:
        """For each node the variables that have a value whenever control gets there; None where it never does."""
        known: list[frozenset[str] | None] = [None] * len(self.nodes)
        known[0] = params
        waiting = [0]
        while waiting:
            number = waiting.pop()
            before = known[number]
            assert before is not None
            node = self.nodes[number]
            evaluated = Flow(node, before).known
            # A failure that is caught may have come before all was evaluated.
            ways = [
                (clause, before | gained) for clause, gained in self._caught(node.scope, self._raised(node))
            ]
            ways += [(successor, evaluated | gained) for successor, gained in self._successors(node)]
            for successor, after in ways:
                seen = known[successor]
                merged = after if seen is None else seen & after
                if merged != seen:
                    known[successor] = merged
                    waiting.append(successor)
        return known

    def _successors(self, node: Node) -> Iterator[tuple[int, frozenset[str]]]:
        nothing: frozenset[str] = frozenset()
        match node:
            case TaskNode() | EventNode() | UserTaskNode() | ChildNode():
                yield node.next, frozenset({node.target}) if node.target else nothing
            case GatherNode():
                names = frozenset[str]() if node.each is None else frozenset(node.each.names)
                for branch in node.branches:
                    yield branch.entry, names.union(branch.args)
                yield node.next, frozenset({node.target}) if node.target else nothing
            case AssignNode():
                yield node.next, frozenset({node.target})
            case SleepNode() | PublishNode() | SleepUntilNode() | ConditionNode() | TurnNode():
                yield node.next, nothing
            case BranchNode():
                yield node.then, set_when(node.test, True)
                yield node.otherwise, set_when(node.test, False)
            case RaiseNode() | ReturnNode():
                return

    def _raised(self, node: Node) -> frozenset[str]:
        """What a node may raise: wire names of failures, and Python's classes of errors."""
        raised: set[str] = set()
        target = (
            node.target
            if isinstance(node, TaskNode | EventNode | UserTaskNode | ChildNode | AssignNode | GatherNode)
            else None
        )
        if target in self.declared or any(_may_fail(expr) for expr in expressions_of(node)):
            raised.add(_ERRORS)
        match node:
            case TaskNode():
                raised |= {_FAILURES, TASK_ERROR} | _CANCELLED
                if not (node.key is node.priority is None):
                    raised.add(_ERRORS)
                if effective_times(node.times, self.times.get(node.task)) != TaskTimes():
                    raised.add(TASK_TIMEOUT)
            case ChildNode(detached=True):
                raised |= {CHILD_ERROR} | _CANCELLED | ({_ERRORS} if node.run_id is not None else set[str]())
            case ChildNode():
                raised |= {
                    _FAILURES,
                    _ERRORS,
                    TASK_ERROR,
                    TASK_TIMEOUT,
                    CHILD_ERROR,
                    USER_TASK_CANCELLED,
                    BRANCH_CANCELLED,
                    GROUP_ERROR,
                    TIMEOUT_ERROR,
                } | _CANCELLED
            case UserTaskNode():
                raised |= {_ERRORS, USER_TASK_CANCELLED} | _CANCELLED
                if "timeout" in node.args:
                    raised.add(TIMEOUT_ERROR)
            case EventNode() | ConditionNode():
                raised |= ({TIMEOUT_ERROR} if node.timeout is not None else set[str]()) | _CANCELLED
                if isinstance(node, EventNode) and node.key is not None:
                    raised.add(_ERRORS)
            case SleepNode() | TurnNode():
                raised |= _CANCELLED
            case PublishNode():
                raised.add(_ERRORS)
            case SleepUntilNode():
                # A moment without a time zone is none.
                raised |= {_ERRORS} | _CANCELLED
            case GatherNode():
                raised |= {GROUP_ERROR} | _CANCELLED
                if node.until in ("completed", "interrupted"):
                    raised |= {
                        _FAILURES,
                        _ERRORS,
                        TASK_ERROR,
                        TASK_TIMEOUT,
                        CHILD_ERROR,
                        USER_TASK_CANCELLED,
                        BRANCH_CANCELLED,
                        TIMEOUT_ERROR,
                    }
            case RaiseNode():
                raised.add(GROUP_ERROR if node.group is not None else node.failure or _FAILURES)
                if node.reraise is not None:
                    raised |= self.reraised(node.reraise)
            case _:
                pass
        return frozenset(raised)

    def reraised(self, bind: str) -> set[str]:
        """What the clauses that hold a failure under this name may have caught, as far as it is not a failure's."""
        found: set[str] = set()
        for scope in self.scopes:
            for handler in scope.handlers:
                if handler.bind == bind:
                    found |= {name for name in handler.names if name[:1].isupper()}
        if found & _TIMEOUTS or ANY_ERROR in found:
            found.add(TIMEOUT_ERROR)
        if found & {TASK_ERROR, *_TIMEOUTS}:
            found.add(TASK_TIMEOUT)
        if ANY_ERROR in found:
            found |= {_ERRORS, TASK_ERROR, CHILD_ERROR, GROUP_ERROR}
        elif found - _OF_WAITS:
            found.add(_ERRORS)
        return found - {ANY_ERROR}

    def _caught(self, scope: int | None, raised: frozenset[str]) -> Iterator[tuple[int, frozenset[str]]]:
        """The clauses that what is raised at this place may get to."""
        left, passed = set(raised), set[str]()
        while scope is not None and left:
            for place, handler in enumerate(self.scopes[scope].handlers):
                names = set(handler.names)
                if any(self._takes(names, passed, each) for each in left):
                    self.taken.add((scope, place))
                    yield handler.node, frozenset({handler.bind} if handler.bind else ())
                left = {each for each in left if not self._takes_all(names, each)}
                passed |= names
            scope = self.scopes[scope].parent

    def _takes(self, names: set[str], passed: set[str], raised: str) -> bool:
        """Whether a clause of these names may get this, behind clauses of the names that were passed."""
        if raised == _FAILURES:
            if names & {ANY_FAILURE, ANY_ERROR}:
                return not passed & {ANY_FAILURE, ANY_ERROR}
            business = {name for name in names if not name[:1].isupper()}
            return any(not self._with_family(name) & passed for name in business)
        if raised == _ERRORS:
            errors = {name for name in names if name[:1].isupper()} - _OF_WAITS
            return bool(errors) and ANY_ERROR not in passed
        return bool(self._family_of(raised) & names)

    def _takes_all(self, names: set[str], raised: str) -> bool:
        """Whether nothing of this passes a clause of these names."""
        if raised == _FAILURES:
            return bool(names & {ANY_FAILURE, ANY_ERROR})
        if raised == _ERRORS:
            return ANY_ERROR in names
        return bool(self._family_of(raised) & names)

    def _family_of(self, raised: str) -> set[str]:
        if raised == CANCELLED_ERROR:
            return {raised}
        if raised == TASK_TIMEOUT:
            return set(TASK_TIMEOUT_FAMILY)
        return {raised, *error_family(raised)} if raised[:1].isupper() else self._with_family(raised)

    def _with_family(self, failure: str) -> set[str]:
        return {failure, *self.families.get(failure, ()), ANY_FAILURE, ANY_ERROR}


def _may_fail(expr: Expr) -> bool:
    """Whether the evaluation of an expression can raise an error of Python's own."""
    return any(not isinstance(each, Const | Name | ListOfExpr | TupleOfExpr) for each in subexpressions(expr))


def check_paths(context: Context, nodes: Sequence[Node], scopes: Sequence[Scope]) -> None:
    """Refuses a variable that may have no value when it is read, and a clause that nothing can reach."""
    tasks = [each.definition for each in context.tasks.values()]
    paths = Paths(nodes, scopes, context.failure_definitions(), context.declared, tasks)
    known = paths.assigned(context.names.params)
    for number, scope in enumerate(context.graph.scopes):
        for place, handler in enumerate(scope.handlers):
            if (number, place) not in paths.taken and not handler.passing:
                raise context.refusal(
                    handler.place,
                    "no failure gets to this except clause",
                    "remove it, or put it before the clause that catches the same",
                )
    for node, draft, before in zip(nodes, context.graph.drafts, known, strict=True):
        if before is None:
            continue
        for name in sorted(Flow(node, before).missing):
            written = name.rpartition(".")[2]
            raise context.refusal(
                _place_of(written, draft.place),
                f"{written} may have no value here",
                f"assign {written} on every way that leads here, also where a failure is caught",
            )


def _place_of(name: str, place: ast.AST) -> ast.AST:
    """Where in the syntax the variable is read."""
    found = [each for each in ast.walk(place) if isinstance(each, ast.Name) and each.id == name]
    return next((each for each in found if isinstance(each.ctx, ast.Load)), found[0] if found else place)
