"""Tasks: what workflows call and workers execute."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from dressage.flow.failures import TaskError, WorkflowFailure, wire_name
from dressage.flow.retries import Exponential, retry_options
from dressage.flow.signatures import Signature
from dressage.protocol.names import check_name
from dressage.protocol.spec import RetryOptions, TaskDef

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUEUE = "default"

_fakes: dict[str, Callable[..., Any]] = {}
"""Process-wide, and not a context variable: a fixture and the async test that uses it often run in two contexts."""


class Task(Generic[P, R]):
    """A named, typed unit of work, made by `@task`.

    In a workflow: `receipt = await charge_card(order, price)`. Outside of one the same call runs the task's own
    body, or the fake that a test put in its place (`faked`), once; what it raises, apart from business failures, comes
    as `TaskError`, as in a run.
    """

    def __init__(
        self,
        function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]],
        signature: Signature,
        definition: TaskDef,
        call_retry: RetryOptions | None = None,
    ) -> None:
        self.function = function
        self.signature = signature
        self.definition = definition
        self.call_retry = call_retry
        self.__name__ = getattr(function, "__name__", definition.name)
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def body(self) -> Callable[P, object]:
        """What a call runs outside of a workflow: the function of the definition, or the fake in its place."""
        return cast("Callable[P, object]", _fakes.get(self.name, self.function))

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result: object = self.body(*args, **kwargs)
            if inspect.isawaitable(result):
                return await cast("Awaitable[R]", result)
            return cast("R", result)
        except (WorkflowFailure, NotImplementedError):
            raise
        except Exception as error:
            raise TaskError(f"{error} (task {self.name}, attempt 1 of 1)") from error

    def options(self, *, retries: int | None = None, backoff: Exponential | None = None) -> Task[P, R]:
        """The same task with options of this call, which go before the definition's and the workflow's."""
        said = retry_options(retries, backoff)
        return Task(self.function, self.signature, self.definition, said)

    @contextmanager
    def faked(self, function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]]) -> Iterator[None]:
        """Inside the `with` block, calls of this task run `function`, in the whole process: for unit tests."""
        before = _fakes.get(self.name)
        _fakes[self.name] = function
        try:
            yield
        finally:
            if before is None:
                del _fakes[self.name]
            else:
                _fakes[self.name] = before

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class TaskDecorator(Protocol):
    """What `@task(...)` gives: a decorator of async and of plain functions."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


def make_task(
    function: Callable[..., Any],
    name: str | None,
    queue: str | None,
    retry: RetryOptions | None,
) -> Task[..., Any]:
    """The task of a function. Raises `DefinitionError` for its types, `BadName` for its names."""
    signature = Signature(function)
    definition = TaskDef(
        name=check_name(wire_name(function.__name__) if name is None else name, "task"),
        params=signature.params,
        output=signature.output,
        queue=check_name(queue or DEFAULT_QUEUE, "queue"),
        retry=retry,
    )
    return Task(function, signature, definition)


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int | None = None,
    backoff: Exponential | None = None,
    queue: str | None = None,
) -> TaskDecorator: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int | None = None,
    backoff: Exponential | None = None,
    queue: str | None = None,
) -> Any:
    """Declares a task. Its contract is the function's signature; `retries` counts attempts after the first.

    A function whose body is `raise NotImplementedError` is a contract alone: a worker registers the handler with
    `App.handles`. Technical errors are retried, a `WorkflowFailure` never is.
    """
    retry = retry_options(retries, backoff)

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        return make_task(function, name, queue, retry)

    return decorate if function is None else decorate(function)
