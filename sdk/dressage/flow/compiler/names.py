"""What the names of a workflow's function stand for, found before any statement is compiled."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from enum import Enum
from types import ModuleType
from typing import Any, Final, cast

from dressage.flow.describe import SEARCHABLE
from dressage.flow.signatures import closure_of
from dressage.flow.source import Function


class _Missing:
    """The type of `MISSING`: a name that stands for nothing known."""


MISSING: Final = _Missing()


def chosen(place: ast.expr, found: Any) -> ast.Name:
    """Stands in the syntax, where `place` was, for one of the workflows or tasks that a dict holds.

    It is a plain name, that of its function, so that messages show it as one.
    """
    name = ast.copy_location(ast.Name(found.function.__name__, ast.Load()), place)
    vars(name)[_CHOSEN] = found
    return name


_CHOSEN: Final = "dressage_chosen"


def callables_in(found: Any) -> Collection[Any] | None:
    """What a collection of the module holds, where that can be called; None for any other object."""
    if not isinstance(found, Mapping | list | tuple):
        return None
    items = cast("Collection[Any]", found.values() if isinstance(found, Mapping) else found)
    return items if any(map(callable, items)) else None


class Names:
    """The names of one function: its parameters, its variables, and the objects around it, found by identity."""

    def __init__(self, function: Callable[..., Any], node: Function, outer: Names | None = None) -> None:
        self.outer = outer
        """Of a nested function: the names around it."""

        self._called: dict[tuple[Function, Names | None], Names] = {}
        self._free = frozenset(function.__code__.co_freevars)
        self._closure = closure_of(function)
        self._around = [function.__globals__, vars(builtins)]
        nodes = list(_own(node.body))
        self.functions = frozenset(each.name for each in nodes if isinstance(each, _NESTED))
        within = [each for statement in node.body for each in ast.walk(statement)]
        arguments = node.args
        self.params = frozenset(
            each.arg for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        )
        self.locals = self.params | _assigned(nodes)
        self.failures = frozenset(
            each.name for each in nodes if isinstance(each, ast.ExceptHandler) and each.name
        )
        self.views = self._views(nodes, within)
        self.view_uses = _view_uses(within)
        self.failure_uses = _failure_uses(within)
        self.key_uses = _key_uses(within)

    def of(self, function: Callable[..., Any], node: Function, outer: Names | None) -> Names:
        """The names of a function that is called here. They are found once, however often it is called."""
        found = self._called.get((node, outer))
        if found is None:
            found = self._called[node, outer] = Names(function, node, outer)
            found._called = self._called
        return found

    def around(self, names: Collection[str]) -> Names:
        """The names inside of a comprehension or lambda that has variables of these names."""
        inner = copy(self)
        inner.locals = self.locals.union(names)
        inner.failures = self.failures.difference(names)
        inner.views = {name: kind for name, kind in self.views.items() if name not in names}
        return inner

    # -- objects of the source ---------------------------------------------------------------------
    def object(self, node: ast.expr) -> Any:
        """The object that a name, plain or dotted through modules and enums, stands for; else `MISSING`."""
        if isinstance(node, ast.Name):
            if _CHOSEN in vars(node):
                return vars(node)[_CHOSEN]
            if node.id in self.locals:
                return MISSING
            if self.outer is not None:
                return self.outer.object(node)
            if node.id in self._free:
                # Without a value yet it is unknown: a global of the same name is another thing.
                return self._closure.get(node.id, MISSING)
            return next((names[node.id] for names in self._around if node.id in names), MISSING)
        if isinstance(node, ast.Attribute):
            owner = self.object(node.value)
            if isinstance(owner, ModuleType):
                return getattr(owner, node.attr, MISSING)
            if isinstance(owner, type) and issubclass(owner, Enum):
                return owner.__members__.get(node.attr, MISSING)
        return MISSING

    def is_object(self, node: ast.expr) -> bool:
        """Whether `node` names a module, class or function, or something inside one, rather than a value."""
        found = self.object(node)
        if found is not MISSING:
            return isinstance(found, ModuleType) or callable(found)
        return isinstance(node, ast.Attribute) and self.is_object(node.value)

    # -- the view ----------------------------------------------------------------------------------
    def _views(self, nodes: list[ast.AST], within: list[ast.AST]) -> dict[str, type | None]:
        """The variables whose fields are assigned or searchable, with the class each is made of, if it is seen.

        A nested function may assign the fields, too: it is `within`.
        """
        made: dict[str, type] = {}
        for name, value in _assignments(nodes):
            kind = self.object(value.func) if isinstance(value, ast.Call) else MISSING
            if isinstance(kind, type):
                made.setdefault(name, kind)
        views: dict[str, type | None] = {
            name: kind for name, kind in made.items() if name not in self.params and _is_searchable(kind)
        }
        for each in within:
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                if isinstance(each.value, ast.Name) and each.value.id in self.locals:
                    views[each.value.id] = made.get(each.value.id)
        return views


def _assigned(nodes: list[ast.AST]) -> frozenset[str]:
    names: set[str] = set()
    # What a comprehension sets is its own.
    own = {
        id(name) for each in nodes if isinstance(each, ast.comprehension) for name in ast.walk(each.target)
    }
    for each in nodes:
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store | ast.Del) and id(each) not in own:
            names.add(each.id)
        elif isinstance(each, _NAMING) and each.name:
            names.add(each.name)
        elif isinstance(each, ast.MatchMapping) and each.rest:
            names.add(each.rest)
    return frozenset(names)


_NAMING = (ast.ExceptHandler, ast.FunctionDef, ast.AsyncFunctionDef, ast.MatchAs, ast.MatchStar)
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef)


def _own(statements: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """The syntax of a function without what is inside of nested functions."""
    waiting = list(reversed(statements))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _NESTED):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def _assignments(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Each variable with each value it is assigned, as far as the source shows it."""
    for each in nodes:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value:
            yield each.target.id, each.value
        elif isinstance(each, ast.Assign):
            for target in each.targets:
                yield from _pairs(target, each.value)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, its_value in zip(target.elts, value.elts, strict=False):
            yield from _pairs(one, its_value)


def _view_uses(nodes: list[ast.AST]) -> frozenset[int]:
    """The identities of the names that may stand for a view: before a dot, and alone after `return`."""
    uses: set[int] = set()
    for each in nodes:
        if isinstance(each, ast.Attribute | ast.Return) and isinstance(each.value, ast.Name):
            uses.add(id(each.value))
    return frozenset(uses)


def _failure_uses(nodes: list[ast.AST]) -> frozenset[int]:
    """The identities of the names that may stand for a caught failure: before a dot, or where its text is meant."""
    uses: set[int] = set()
    for each in nodes:
        if isinstance(each, ast.Attribute | ast.FormattedValue) and isinstance(each.value, ast.Name):
            uses.add(id(each.value))
        elif isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "str":
            uses.update(id(arg) for arg in each.args)
    return frozenset(uses)


def _key_uses(nodes: list[ast.AST]) -> frozenset[int]:
    """The identities of what stands behind `in`, where only the keys of a dict matter."""
    return frozenset(
        id(right)
        for each in nodes
        if isinstance(each, ast.Compare)
        for operator, right in zip(each.ops, each.comparators, strict=True)
        if isinstance(operator, ast.In | ast.NotIn)
    )


def _is_searchable(kind: type) -> bool:
    annotations = getattr(kind, "__annotations__", {})
    return any(
        SEARCHABLE in getattr(each, "__metadata__", ()) or (isinstance(each, str) and "Searchable[" in each)
        for each in annotations.values()
    )
