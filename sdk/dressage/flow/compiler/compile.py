"""The whole compilation of one function, in its order."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dressage.expressions.evaluate import compile_expression
from dressage.expressions.searching import searchable_paths
from dressage.flow.compiler.awaits import emit_await
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.hoisting import hoist
from dressage.flow.compiler.inference import Types
from dressage.flow.compiler.meaning import check_meaning
from dressage.flow.compiler.names import Names
from dressage.flow.compiler.paths import check_paths
from dressage.flow.compiler.scope import FlowScope
from dressage.flow.compiler.statements import admits_none, block
from dressage.flow.compiler.walk import expressions_of, targets_of
from dressage.flow.describe import TypeBook
from dressage.flow.events import Event
from dressage.flow.people import UserTask
from dressage.flow.runnable import Runnable
from dressage.flow.signatures import Signature
from dressage.flow.source import Source
from dressage.flow.tasks import Task
from dressage.protocol.errors import BadSpec
from dressage.protocol.spec import Node, RetryOptions, ReturnNode, Variable, WorkflowSpec


class Compiled(NamedTuple):
    """A spec, and the objects of the source that its names stand for: tasks, events, workflows, and classes."""

    spec: WorkflowSpec
    tasks: Mapping[str, Task[..., Any]]
    events: Mapping[str, Event[Any]]
    user_tasks: Mapping[str, UserTask[Any]]
    children: Mapping[str, Runnable]
    classes: Mapping[str, type]


def compile_workflow(
    function: Callable[..., Any],
    signature: Signature,
    source: Source,
    name: str,
    retry: RetryOptions | None,
) -> Compiled:
    """The spec of a workflow's function, with what it refers to.

    Raises `DefinitionError` for what the language cannot say.
    """
    _check_definition(source)
    names = Names(function, source.node)
    book = TypeBook(signature.book.namespace)
    book.merge(signature.book)
    _check_views(source, names)
    context = Context(
        source, signature, names, FlowScope(source, names, book), function, block, hoist, emit_await
    )
    _compile_body(context)
    nodes = context.graph.nodes()
    check_paths(context, nodes, context.graph.finished_scopes())
    types = _types(context, nodes)
    check_meaning(context, nodes, types)
    _check_searchable(context)
    _check_expressions(context, nodes)
    spec = WorkflowSpec(
        format=1,
        name=name,
        params=signature.params,
        output=signature.output,
        nodes=nodes,
        scopes=context.graph.finished_scopes(),
        variables=_variables(context, nodes, types),
        tasks=tuple(task.definition for task in context.tasks.values()),
        failures=context.failure_definitions(),
        events=tuple(event.definition for event in context.events.values()),
        user_tasks=tuple(each.definition for each in context.user_tasks.values()),
        children=tuple(each.child for each in context.children.values()),
        types=tuple(book.definitions.values()),
        retry=retry,
        module=function.__module__,
        source=source.text,
        first_line=source.first_line,
        description=inspect.getdoc(function) or "",
    )
    return Compiled(
        spec,
        dict(context.tasks),
        dict(context.events),
        dict(context.user_tasks),
        dict(context.children),
        dict(book.classes),
    )


def _check_definition(source: Source) -> None:
    decorators = source.node.decorator_list
    if len(decorators) > 1:
        raise source.refusal(
            decorators[1], "another decorator would not be run", "decorate a workflow with @workflow alone"
        )


def _check_views(source: Source, names: Names) -> None:
    """Refuses a second view: what readers see of a run is one record."""
    first, *others = [name for name, kind in names.views.items() if kind is not None] or [""]
    for name in others:
        stored = (each for each in ast.walk(source.node) if isinstance(each, ast.Name) and each.id == name)
        raise source.refusal(
            next(stored), f"a run has one view, and {first} is it", "put all fields into one dataclass"
        )


def _check_searchable(context: Context) -> None:
    """Refuses marks inside the view's fields that no search could get to."""
    for name, kind in context.names.views.items():
        try:
            searchable_paths(context.scope.book.definitions, kind.__name__ if kind else "")
        except BadSpec as error:
            stored = (each for each in ast.walk(context.source.node) if isinstance(each, ast.Name))
            place = next(each for each in stored if each.id == name)
            raise context.refusal(
                place, error.message, "mark fields of the view, or of records in it"
            ) from error


def _compile_body(context: Context) -> None:
    block(context, context.source.node.body)
    if not context.graph.live:
        return
    last = context.source.node.body[-1]
    if not admits_none(context):
        advice = "return a value on every way"
        if isinstance(last, ast.Match):
            advice = "add `case _:` at its end, or return a value behind it"
        raise context.refusal(last, "after this statement the function ends without a value", advice)
    context.graph.emit(ReturnNode, last, {})


def _types(context: Context, nodes: tuple[Node, ...]) -> Types:
    params = {field.name: field.type for field in context.signature.params}
    binds = frozenset(
        handler.bind for scope in context.graph.scopes for handler in scope.handlers if handler.bind
    )
    failures = {name: context.caught.get(name, ()) for name in binds}
    types = Types(context.scope.book.definitions, context.declared, failures)
    reassigned = _reassigned(nodes)
    types.variables.update(
        {
            name: kind
            for name, kind in params.items()
            if name not in reassigned and name not in context.declared
        }
    )
    fixed = frozenset(types.variables) | binds
    for name in reassigned & params.keys():
        types.start(name, params[name])
    types.derive(nodes, context.output_of, context.results(), fixed)
    return types


def _reassigned(nodes: tuple[Node, ...]) -> frozenset[str]:
    return frozenset(name for node in nodes for name in targets_of(node))


def _variables(context: Context, nodes: tuple[Node, ...], types: Types) -> tuple[Variable, ...]:
    names = [name for node in nodes for name in targets_of(node)]
    binds = [handler.bind for scope in context.graph.scopes for handler in scope.handlers if handler.bind]
    return tuple(
        Variable(
            name,
            types.variables.get(name) if name not in types.failures else None,
            view=name in context.names.views,
            temporary=name.startswith("$"),
            declared=name in context.declared,
        )
        for name in dict.fromkeys([*names, *binds])
        if name not in context.names.params
    )


def _check_expressions(context: Context, nodes: tuple[Node, ...]) -> None:
    """What the engine will do with the expressions: a spec that left here must not fail there."""
    table = context.scope.book.table()
    for node, draft in zip(nodes, context.graph.drafts, strict=True):
        for expr in expressions_of(node):
            try:
                compile_expression(expr, table)
            except BadSpec as error:
                raise context.refusal(draft.place, error.message, "write it in another way") from error
