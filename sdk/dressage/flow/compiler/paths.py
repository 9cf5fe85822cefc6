"""Checks along every path of the finished graph: each variable has a value where it is read, each clause a use."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from dressage.flow.compiler.context import Context
from dressage.flow.compiler.walk import Flow, set_when
from dressage.protocol.spec import (
    ANY_FAILURE,
    AssignNode,
    BranchNode,
    FailureDef,
    Node,
    RaiseNode,
    Scope,
    SleepNode,
    TaskNode,
)

Catch = tuple[int, int]
"""An except clause: number of its scope, and its place there."""


class Paths:
    """Where control goes from each node, and which variables have a value there on every way."""

    def __init__(
        self, nodes: Sequence[Node], scopes: Sequence[Scope], failures: Sequence[FailureDef]
    ) -> None:
        self.nodes = nodes
        self.scopes = scopes
        self.families = {each.name: each.family for each in failures}
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
            for successor, gained in self._successors(node):
                # A failure that is caught may have come before all was evaluated.
                caught = isinstance(node, TaskNode) and successor != node.next
                after = (before if caught else evaluated) | gained
                seen = known[successor]
                merged = after if seen is None else seen & after
                if merged != seen:
                    known[successor] = merged
                    waiting.append(successor)
        return known

    def _successors(self, node: Node) -> Iterator[tuple[int, frozenset[str]]]:
        nothing: frozenset[str] = frozenset()
        match node:
            case TaskNode():
                yield node.next, frozenset({node.target}) if node.target else nothing
                yield from self._caught(node.scope, None)
            case AssignNode():
                yield node.next, frozenset({node.target})
            case SleepNode():
                yield node.next, nothing
            case BranchNode():
                yield node.then, set_when(node.test, True)
                yield node.otherwise, set_when(node.test, False)
            case RaiseNode():
                yield from self._caught(node.scope, node.failure)
            case _:
                return

    def _caught(self, scope: int | None, failure: str | None) -> Iterator[tuple[int, frozenset[str]]]:
        """The clauses that a failure at this place may get to: of a known one the first that names it."""
        passed: set[str] = set()
        while scope is not None:
            for place, handler in enumerate(self.scopes[scope].handlers):
                names = set(handler.names)
                hit = bool(self._with_family(failure) & names) if failure else not self._covers(passed, names)
                if hit:
                    self.taken.add((scope, place))
                    yield handler.node, frozenset({handler.bind} if handler.bind else ())
                    if failure:
                        return
                passed |= names
            if ANY_FAILURE in passed:
                return
            scope = self.scopes[scope].parent

    def _with_family(self, failure: str) -> set[str]:
        return {failure, *self.families.get(failure, ()), ANY_FAILURE}

    def _covers(self, passed: set[str], names: set[str]) -> bool:
        """Whether whatever `names` would catch was already caught by `passed`."""
        return all(self._with_family(name) & passed for name in names)


def check_paths(context: Context, nodes: Sequence[Node], scopes: Sequence[Scope]) -> None:
    """Refuses a variable that may have no value when it is read, and a clause that nothing can reach."""
    paths = Paths(nodes, scopes, context.failure_definitions())
    known = paths.assigned(context.names.params)
    for number, scope in enumerate(context.graph.scopes):
        for place, handler in enumerate(scope.handlers):
            if (number, place) not in paths.taken:
                raise context.refusal(
                    handler.place,
                    "no failure gets to this except clause",
                    "remove it, or put it before the clause that catches the same",
                )
    for node, draft, before in zip(nodes, context.graph.drafts, known, strict=True):
        if before is None:
            continue
        for name in sorted(Flow(node, before).missing):
            raise context.refusal(
                _place_of(name, draft.place),
                f"{name} may have no value here",
                f"assign {name} on every way that leads here, also where a failure is caught",
            )


def _place_of(name: str, place: ast.AST) -> ast.AST:
    """Where in the syntax the variable is read."""
    found = [each for each in ast.walk(place) if isinstance(each, ast.Name) and each.id == name]
    return next((each for each in found if isinstance(each.ctx, ast.Load)), found[0] if found else place)
