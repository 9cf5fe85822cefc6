"""Workflows: a function that is compiled, not executed."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Coroutine, Mapping
from functools import update_wrapper
from types import FrameType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from dressage.flow.compiler import Compiled, compile_workflow
from dressage.flow.failures import wire_name
from dressage.flow.inheriting import caller, with_inherited
from dressage.flow.retries import Exponential, retry_options
from dressage.flow.runnable import Runnable
from dressage.flow.signatures import Signature
from dressage.flow.source import source_of
from dressage.flow.watching import apart, free, settled
from dressage.protocol.errors import BadRunId, BadSpec, DefinitionError
from dressage.protocol.names import check_name, check_run_id
from dressage.protocol.spec import Exhausted, Limits, ParentClose, RetryOptions, WorkflowSpec
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
        self.user_tasks = compiled.user_tasks
        """The user tasks that it gives to people, by name."""
        self.children = compiled.children
        """The workflows that it starts runs of, by name."""
        self.classes = compiled.classes
        """The author's classes of the records and enums that the spec names."""
        update_wrapper(cast("Any", self), function)

    @property
    def name(self) -> str:
        return self.spec.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R]:
        return _called(self, args, _given(self, args, kwargs, caller()))

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, str]:
        """In another workflow: starts a child run that nobody waits for, and gives its id, once it has begun.

        In plain Python the function runs beside its caller, and what it fails with goes nowhere.
        """
        return _started(self, None, args, _given(self, args, kwargs, caller()))

    def options(self, *, run_id: str | None = None, parent_close: ParentClose = "abandon") -> ChildOf[P, R]:
        """For a call in another workflow: `run_id` is the child run's id.

        What becomes of one that is started, and not awaited, when its parent ends is said by `parent_close`: "abandon"
        lets it go on, "request" cancels it so that it tidies up, and "cancel" ends it at once.
        """
        return ChildOf(self, run_id)

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


class ChildOf(Generic[P, R]):
    """A workflow with options of one call."""

    def __init__(self, workflow: Workflow[P, R], run_id: str | None) -> None:
        self._workflow = workflow
        self._run_id = run_id

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R]:
        return _called(self._workflow, args, _given(self._workflow, args, kwargs, caller()), self._run_id)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, str]:
        """As `Workflow.start`."""
        return _started(self._workflow, self._run_id, args, _given(self._workflow, args, kwargs, caller()))


def _given(
    workflow: Workflow[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any], frame: FrameType
) -> dict[str, Any]:
    """The keywords of a call, which `frame` makes, with what is inherited. Raises `TypeError`."""
    return with_inherited(workflow.function, workflow.signature.inherited, args, keywords, frame)


async def _called(
    workflow: Workflow[..., R], args: tuple[Any, ...], keywords: Mapping[str, Any], run_id: str | None = None
) -> R:
    _check(run_id)
    return cast("R", await apart(workflow.function(*args, **keywords)))


async def _started(
    workflow: Workflow[..., Any], run_id: str | None, args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> str:
    _check(run_id)
    await settled()  # A run is told that it is there when all of its branches wait.
    beside(_called(workflow, args, keywords))
    return f"plain~{next(_numbers)}" if run_id is None else run_id


def _check(run_id: str | None) -> None:
    if not isinstance(cast("Any", run_id), str | None):
        raise ValueError(f"a run id is a text, not {type(run_id).__name__}")
    try:
        if run_id is not None:
            check_run_id(run_id)
    except BadRunId as error:
        raise ValueError(error.message) from error


def beside(run: Coroutine[Any, Any, Any]) -> None:
    """Lets a run go on beside its caller, in plain Python."""
    task = free(run)
    _beside.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Future[Any]) -> None:
    _beside.discard(task)
    if not task.cancelled():
        task.exception()  # Nobody waits for it.


_beside: set[asyncio.Future[Any]] = set()
_numbers = itertools.count()


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
    exhausted: Exhausted | None = None,
    limits: Limits | None = None,
) -> WorkflowDecorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int | None = None,
    backoff: Exponential | None = None,
    exhausted: Exhausted | None = None,
    limits: Limits | None = None,
) -> Any:
    """Compiles an async function to a `Workflow`. `retries`, `backoff` and `exhausted` are the default of its
    tasks.

    `limits` are those of each of its runs. Raises `DefinitionError` for what the language cannot say, with file,
    line, caret and what to write instead, and for limits that no engine grants.
    """
    retry = retry_options(retries, backoff, exhausted=exhausted)
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
