"""What names mean to an expression of a workflow: the `Scope` that `dressage.expressions.parse` asks."""

from __future__ import annotations

import ast
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from dressage.expressions.parse import translate
from dressage.flow.compiler import calls
from dressage.flow.compiler.names import MISSING, Names
from dressage.flow.describe import TypeBook
from dressage.flow.members import Unsupported
from dressage.flow.source import Source
from dressage.flow.tasks import Task
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Const, Expr, Name

_BUILTINS: list[tuple[Callable[..., Any], str]] = [
    (len, "len"),
    (bool, "bool"),
    (str, "str"),
    (abs, "abs"),
    (int, "int"),
    (float, "float"),
    (Decimal, "Decimal"),
    (round, "round"),
    (min, "min"),
    (max, "max"),
    (sum, "sum"),
    (range, "range"),
    (list, "list"),
    (enumerate, "enumerate"),
    (zip, "zip"),
    (reversed, "reversed"),
    (timedelta, "timedelta"),
]


class FlowScope:
    """The names of a workflow's function, at the place that is being compiled."""

    def __init__(
        self,
        source: Source,
        names: Names,
        book: TypeBook,
        outer: FlowScope | None = None,
        prefix: str = "",
    ) -> None:
        self.source = source
        self.names = names
        self.book = book
        self.outer = outer
        """Of a nested function: the names around it, which it reads."""

        self.prefix = prefix
        """What a run puts in front of the names of these variables."""

        self.caught: list[str] = []
        """The failure variables of the except clauses around this place."""

    def translate(self, node: ast.expr) -> Expr:
        """The expression tree of `node`. Raises `DefinitionError`."""
        return translate(node, self)

    def iterable(self, node: ast.expr) -> Expr:
        """The expression tree of what is gone through at once."""
        return translate(node, self)

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        return self.source.refusal(node, what, advice)

    def variable(self, node: ast.Name) -> Expr:
        if node.id in self.names.functions:
            raise self.refusal(node, f"function {node.id} is no value", f"call it: `await {node.id}(...)`")
        if node.id in self.names.locals:
            self._check_local(node)
            return Name(self.prefix + node.id)
        if self.outer is not None and self.outer.has_variable(node.id):
            return self.outer.variable(node)
        found = self.names.object(node)
        if found is MISSING:
            advice = "define it above the workflow, or take it as a parameter"
            raise self.refusal(node, f"name {node.id} is not known", advice)
        return self._frozen(node, found)

    def has_variable(self, name: str) -> bool:
        """Whether a name is a variable here, or around."""
        return name in self.names.locals or (self.outer is not None and self.outer.has_variable(name))

    def variable_name(self, name: str) -> str:
        """What a variable is called in the run."""
        if name in self.names.locals or self.outer is None:
            return self.prefix + name
        return self.outer.variable_name(name)

    def _check_local(self, node: ast.Name) -> None:
        if node.id in self.names.views and id(node) not in self.names.view_uses:
            raise self.refusal(
                node,
                f"{node.id} is the run's view, which changes; it cannot be shared as a value",
                f"use its fields, as {node.id}.status, or build another record of them",
            )
        if node.id in self.names.failures and node.id not in self.caught:
            raise self.refusal(
                node,
                f"{node.id} has no value after its except clause",
                "keep what you need of it in a variable: `reason = error.message`",
            )
        if node.id in self.names.failures and id(node) not in self.names.failure_uses:
            raise self.refusal(
                node, f"{node.id} is a failure, no value", f"use {node.id}.message, .name or .details"
            )

    def constant(self, node: ast.Attribute) -> Expr | None:
        found = self.names.object(node)
        if found is not MISSING:
            return self._frozen(node, found)
        if self.names.is_object(node.value):
            raise self.refusal(
                node,
                f"{ast.unparse(node)} is not a constant of a module or a member of an enum",
                "put the value into a module constant",
            )
        return None

    def _frozen(self, node: ast.expr, found: Any) -> Const:
        """The value of a constant, as it is now."""
        name = ast.unparse(node)
        if isinstance(found, Task):
            raise self.refusal(node, f"task {name} is no value", f"call it: `result = await {name}(...)`")
        if self.names.is_object(node):
            raise self.refusal(node, f"{name} is no value", "a workflow computes with values only")
        try:
            return Const(msgspec.Raw(self.book.frozen(found)))
        except Unsupported as error:
            raise self.refusal(node, f"{name}: {error.what}", error.advice) from error

    def is_object(self, node: ast.expr) -> bool:
        return self.names.is_object(node)

    def builtin(self, node: ast.expr) -> str | None:
        found = self.names.object(node)
        return next((name for function, name in _BUILTINS if function is found), None)

    def call(self, node: ast.Call) -> Expr:
        return calls.record(node, self)
