"""Workflows: a function that is compiled, not executed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from dressage.flow.compiler import Compiled, compile_workflow
from dressage.flow.failures import wire_name
from dressage.flow.retries import Exponential, retry_options
from dressage.flow.runnable import Runnable
from dressage.flow.signatures import Signature
from dressage.flow.source import source_of
from dressage.protocol.errors import BadSpec, DefinitionError
from dressage.protocol.names import check_name
from dressage.protocol.spec import Limits, RetryOptions, WorkflowSpec
from dressage.protocol.spec_sizes import check_limits

P = ParamSpec("P")
R = TypeVar("R")


class Workflow(Runnable, Generic[P, R]):
    """A compiled workflow, made by `@workflow`; `spec` is what the engine runs.

    In another workflow `receipt = await bill(order)` starts a run of it, a child, and waits for its end. Elsewhere
    calling it runs the function itself as plain Python, for unit tests against fake tasks.
    """

    def __init__(
        self, function: Callable[P, Coroutine[Any, Any, R]], signature: Signature, compiled: Compiled
    ) -> None:
        self.function = function
        self.signature = signature
        self.spec: WorkflowSpec = compiled.spec
        self.tasks = compiled.tasks
        """The tasks that it calls, by name."""
        self.events = compiled.events
        """The external events that it waits for, by name."""
        self.children = compiled.children
        """The workflows that it starts runs of, by name."""
        self.classes = compiled.classes
        """The author's classes of the records and enums that the spec names."""
        update_wrapper(cast("Any", self), function)

    @property
    def name(self) -> str:
        return self.spec.name

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", await self.function(*args, **kwargs))

    def with_children(self) -> list[Workflow[..., Any]]:
        """This workflow behind all those that it starts runs of, in the order in which they can be registered."""
        found: dict[str, Workflow[..., Any]] = {}
        for child in self.children.values():
            found.update({each.name: each for each in cast("Workflow[..., Any]", child).with_children()})
        return [*found.values(), self]

    def encode_input(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """The input of a run with these arguments: a JSON object by name. Raises `BadValue`."""
        return self.signature.encode_args(args, kwargs)

    def decode_output(self, raw: bytes | msgspec.Raw) -> R:
        """A run's output, of the function's return type. Raises `BadValue`."""
        return cast("R", self.signature.decode_result(raw))

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class WorkflowDecorator(Protocol):
    """What `@workflow(...)` gives: a decorator of async functions."""

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    retries: int | None = None,
    backoff: Exponential | None = None,
    limits: Limits | None = None,
) -> WorkflowDecorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int | None = None,
    backoff: Exponential | None = None,
    limits: Limits | None = None,
) -> Any:
    """Compiles an async function to a `Workflow`. `retries` and `backoff` are the default of its tasks.

    `limits` are those of each of its runs. Raises `DefinitionError` for what the language cannot say, with file,
    line, caret and what to write instead, and for limits that no engine grants.
    """
    retry = retry_options(retries, backoff)
    try:
        check_limits(limits)
    except BadSpec as error:
        raise DefinitionError(error.message) from error
    # Limits that are all defaults say nothing, so they make no new version either.
    said = None if limits == Limits() else limits

    def decorate(function: Callable[..., Any]) -> Workflow[..., Any]:
        made = _make_workflow(function, name, retry)
        made.spec = msgspec.structs.replace(made.spec, limits=said)
        return made

    return decorate if function is None else decorate(function)


def _make_workflow(
    function: Callable[..., Any], name: str | None, retry: RetryOptions | None
) -> Workflow[..., Any]:
    source = source_of(function)
    if not inspect.iscoroutinefunction(function):
        raise source.refusal(source.node, "a workflow awaits its tasks", "write `async def`")
    signature = Signature(function)
    checked = check_name(wire_name(function.__name__) if name is None else name, "workflow")
    return Workflow(function, signature, compile_workflow(function, signature, source, checked, retry))
