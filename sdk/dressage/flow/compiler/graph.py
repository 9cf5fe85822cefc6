"""The graph while it grows: nodes whose successors are labels, resolved to numbers at the end."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from dressage.protocol.expressions import Expr
from dressage.protocol.spec import Branch, Each, GatherNode, Handler, Node, Scope


class Label:
    """A place in the graph that may be known only later: the node that is emitted after `Graph.mark`."""

    def __init__(self) -> None:
        self.node: int | None = None
        self.same_as: Label | None = None
        self.used = False

    def resolved(self) -> int | None:
        """The number of the node; None if it is not known yet, or if `is_circular`."""
        return None if self.is_circular() else self._last().node

    def is_circular(self) -> bool:
        """Whether control that gets here goes round for ever without passing any node."""
        return self._last().same_as is not None

    def _last(self) -> Label:
        """The label that this one in the end is the same as, or one in a circle of them."""
        label, seen = self, {id(self)}
        while label.same_as is not None:
            label = label.same_as
            if id(label) in seen:
                break
            seen.add(id(label))
        return label


@dataclass
class Draft:
    """A node without its successors; `place` is the syntax it came from."""

    kind: type[Node]
    fields: dict[str, Any]
    edges: dict[str, Label]
    place: ast.AST
    called_at: int | None = None
    """The line of the call, where the place is in another file than the workflow."""


@dataclass
class BranchDraft:
    """A branch of a gather: where it begins, what it is given, which variables are its own, and which of them holds
    its result."""

    label: Label
    args: dict[str, Expr]
    result: str
    variables: tuple[str, ...] = ()


@dataclass
class HandlerDraft:
    """An except clause; `place` is its syntax."""

    names: tuple[str, ...]
    label: Label
    bind: str | None
    place: ast.AST
    passing: bool = False


@dataclass
class ScopeDraft:
    """The body of a try."""

    parent: int | None
    handlers: list[HandlerDraft] = field(default_factory=list[HandlerDraft])


class Graph:
    """Emits nodes one after the other. `live` says whether control can get to the next one."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.scopes: list[ScopeDraft] = []
        self.scope: int | None = None
        self.live = True
        self.temporaries = 0
        self.called_at: int | None = None
        """While a function of another file is compiled: the line of the workflow's own file that calls it."""

        self._pending: list[Label] = []

    def emit(
        self, kind: type[Node], place: ast.AST, edges: dict[str, Label] | None = None, **fields: Any
    ) -> None:
        """Adds a node where control now is. Without `edges` it goes on to whatever is emitted next."""
        for label in self._pending:
            label.node = len(self.drafts)
        self._pending = []
        if edges is None:
            edges = {"next": Label()}
            self._pending = [edges["next"]]
        for label in edges.values():
            label.used = True
        self.live = bool(self._pending)
        self.drafts.append(Draft(kind, {**fields, "scope": self.scope}, edges, place, self.called_at))

    def mark(self, label: Label) -> None:
        """Lets `label` be where control now is; control gets here if something leads to it."""
        if self.live:
            label.used = True
        if label.used:
            self.live = True
            self._pending.append(label)

    def jump(self, target: Label) -> None:
        """Lets control go on at `target`, and nothing follow here."""
        if self.live:
            for label in self._pending:
                label.same_as = target
            target.used = True
        self._pending = []
        self.live = False

    def open_scope(self) -> int:
        """Enters the body of a try: nodes emitted from now on belong to it, until `close_scope`."""
        self.scopes.append(ScopeDraft(self.scope))
        self.scope = len(self.scopes) - 1
        return self.scope

    def close_scope(self) -> None:
        assert self.scope is not None
        self.scope = self.scopes[self.scope].parent

    def targets(self, first: int = 0) -> Iterator[str]:
        """The variables that the nodes from number `first` on set as a whole, once for each of them."""
        for draft in self.drafts[first:]:
            for branch in cast("list[BranchDraft]", draft.fields.get("branches", [])):
                yield from branch.args
            if (each := cast("Each | None", draft.fields.get("each"))) is not None:
                yield from each.names
            if draft.fields.get("target") and draft.fields.get("attribute") is None:
                yield draft.fields["target"]

    def nodes(self) -> tuple[Node, ...]:
        """The finished nodes."""
        return tuple(_node(draft) for draft in self.drafts)

    def finished_scopes(self) -> tuple[Scope, ...]:
        return tuple(
            Scope(
                tuple(
                    Handler(each.names, each.label.resolved() or 0, each.bind, each.passing)
                    for each in scope.handlers
                ),
                scope.parent,
            )
            for scope in self.scopes
        )


def _node(draft: Draft) -> Node:
    edges = {name: label.resolved() for name, label in draft.edges.items()}
    fields = dict(draft.fields)
    if draft.kind is GatherNode:
        fields["branches"] = tuple(_branch(each) for each in fields["branches"])
    line = draft.called_at or getattr(draft.place, "lineno", 0)
    return cast("Callable[..., Node]", draft.kind)(**fields, **edges, line=line)


def _branch(draft: BranchDraft) -> Branch:
    return Branch(draft.label.resolved() or 0, draft.args, draft.variables)
