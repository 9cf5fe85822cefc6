"""What names mean to an expression of a workflow: the `Scope` that `dressage.expressions.parse` asks."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection
from copy import copy
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from dressage.expressions.builtins import BUILTINS
from dressage.expressions.parse import translate
from dressage.expressions.spelling import text_of
from dressage.expressions.time_methods import UTC_NAME
from dressage.flow.compiler import calls, helpers
from dressage.flow.compiler.helpers import Helper
from dressage.flow.compiler.names import MISSING, Names, callables_in
from dressage.flow.describe import TypeBook
from dressage.flow.events import Event
from dressage.flow.members import Unsupported
from dressage.flow.people import UserTask
from dressage.flow.source import Source
from dressage.flow.tasks import Task
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Call, Const, Expr, Name

_BUILTINS: list[tuple[Any, str]] = [
    (getattr(builtins, name), name) for name in BUILTINS if hasattr(builtins, name) and name != "isinstance"
] + [(kind, kind.__name__) for kind in (Decimal, timedelta, datetime, date, UUID)]
_CLASS_METHODS: list[tuple[type, str]] = [(datetime, "fromisoformat"), (date, "fromisoformat")]


class Held(ast.Name):
    """Stands in the syntax for a value that is in a variable of the compiler's own."""

    value: Expr

    @classmethod
    def at(cls, place: ast.expr, value: Expr) -> Held:
        """Where `place` was."""
        held = ast.copy_location(cls("$", ast.Load()), place)
        held.value = value
        return held


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

        self.helpers: dict[str, Helper] = {}
        """The nested functions without `async` that are defined where control now is."""

        self.helping: tuple[ast.AST, ...] = ()
        """The functions without `async` whose calls this place is inside of."""

        self.caught: list[str] = []
        """The failure variables of the except clauses around this place."""

    def translate(self, node: ast.expr, *, consumed: bool = False) -> Expr:
        """The expression tree of `node`, which may be a range or a view where it is `consumed` at once.

        Raises `DefinitionError`.
        """
        return translate(node, self, consumed=consumed)

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        return self.source.refusal(node, what, advice)

    def variable(self, node: ast.Name) -> Expr:
        if isinstance(node, Held):
            return node.value
        if node.id in self.names.functions:
            called = f"{node.id}(...)" if node.id in self.helpers else f"await {node.id}(...)"
            raise self.refusal(node, f"function {node.id} is no value", f"call it: `{called}`")
        if node.id in self.names.locals:
            self._check_local(node)
            return Name(node.id if node.id in self.comprehended else self.prefix + node.id)
        if self.outer is not None and self.outer.has_variable(node.id):
            return self.outer.variable(node)
        found = self.names.object(node)
        if found is MISSING:
            advice = "define it above the workflow, or take it as a parameter"
            raise self.refusal(node, f"name {node.id} is not known", advice)
        if found is UTC:
            return Call(UTC_NAME)
        return self._frozen(node, found)

    def has_variable(self, name: str) -> bool:
        """Whether a name is a variable here, or around."""
        return name in self.names.locals or (self.outer is not None and self.outer.has_variable(name))

    def is_function(self, name: str) -> bool:
        """Whether a name is a nested function here, or around."""
        return name in self.names.functions or (self.outer is not None and self.outer.is_function(name))

    def helper(self, name: str) -> Helper | None:
        """The nested function without `async` of this name, here or around."""
        if name in self.comprehended:
            return None
        if name in self.names.locals or self.outer is None:
            return self.helpers.get(name)
        return self.outer.helper(name)

    def is_undefined_helper(self, name: str) -> bool:
        """Whether a name is a nested function without `async` that is defined later, here or around."""
        if name not in self.names.functions:
            return self.outer is not None and self.outer.is_undefined_helper(name)
        body = self.source.node.body
        return any(isinstance(each, ast.FunctionDef) and each.name == name for each in body)

    def of_helper(self, helper: Helper) -> FlowScope:
        """The scope inside of a function without `async`, whose parameters are variables of an expression."""
        outer = helper.outer
        names = self.names.of(helper.function, helper.node, outer.names if outer else None)
        inner = FlowScope(helper.source, names, self.book, outer, f"{helper.name}.")
        inner.inside = True
        inner.helping = (*self.helping, helper.node)
        return inner

    def variable_name(self, name: str) -> str:
        """What a variable is called in the run."""
        if name in self.names.locals or self.outer is None:
            return self.prefix + name
        return self.outer.variable_name(name)

    inside = False
    """Whether this is the scope of a comprehension or lambda."""

    comprehended: frozenset[str] = frozenset()
    """The variables of the comprehensions and lambdas around this place."""

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
                node, f"{node.id} is a failure, no value", f"use {node.id}.message, .name, or a field of it"
            )

    def constant(self, node: ast.Attribute) -> Expr | None:
        found = self.names.object(node)
        if found is UTC or (node.attr == "utc" and self.names.object(node.value) is timezone):
            return Call(UTC_NAME)
        if found is not MISSING:
            return self._frozen(node, found)
        if self.names.is_object(node.value):
            raise self.refusal(
                node,
                f"{text_of(node)} is not a constant of a module or a member of an enum",
                "put the value into a module constant",
            )
        return None

    def _frozen(self, node: ast.expr, found: Any) -> Const:
        """The value of a constant, as it is now."""
        name = text_of(node)
        if isinstance(found, Task):
            raise self.refusal(node, f"task {name} is no value", f"call it: `result = await {name}(...)`")
        if isinstance(found, Event):
            raise self.refusal(node, f"event {name} is no value", f"await it: `await {name}.wait()`")
        if isinstance(found, UserTask):
            advice = f"give it to somebody: `await {name}.assign(user=...)`"
            raise self.refusal(node, f"user task {name} is no value", advice)
        if self.names.is_object(node):
            raise self.refusal(node, f"{name} is no value", "a workflow computes with values only")
        if callables_in(found) is not None:
            if not isinstance(found, dict) or id(node) not in self.names.key_uses:
                what = f"{name} holds what can be called, and is no value"
                advice = f"call what it holds at once, `await {name}[key](...)`, or ask `key in {name}`"
                raise self.refusal(node, what, advice)
            keys: dict[Any, Any] = found
            found = dict.fromkeys(keys)
        try:
            return Const(msgspec.Raw(self.book.frozen(found)))
        except Unsupported as error:
            raise self.refusal(node, f"{name}: {error.what}", error.advice) from error

    def is_object(self, node: ast.expr) -> bool:
        return self.names.is_object(node)

    def builtin(self, node: ast.expr) -> str | None:
        found = self.names.object(node)
        if found is MISSING and isinstance(node, ast.Attribute):
            owner = self.names.object(node.value)
            return next(
                (
                    f"{kind.__name__}.{name}"
                    for kind, name in _CLASS_METHODS
                    if kind is owner and name == node.attr
                ),
                None,
            )
        return next((name for function, name in _BUILTINS if function is found), None)

    def bound(self, node: ast.NamedExpr) -> str:
        if self.inside:
            raise self.refusal(
                node,
                "a variable cannot be set inside a comprehension, a lambda, or a function that is not async",
                "set it in a statement of its own",
            )
        self._check_local(node.target)
        return self.variable_name(node.target.id)

    def locally(self, names: Collection[str]) -> FlowScope:
        inner = copy(self)
        inner.names = self.names.around(names)
        inner.inside = True
        inner.comprehended = self.comprehended.union(names)
        return inner

    def call(self, node: ast.Call) -> Expr:
        helper = helpers.helper_of(node.func, self)
        return calls.record(node, self) if helper is None else helpers.called(node, helper, self)
