"""Tasks: what workflows call and workers execute."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from dressage.flow.failures import TaskError, TaskTimeout, WorkflowFailure, wire_name
from dressage.flow.retries import NOTHING_SAID, CallOptions, Said, TaskOptions, said_by, said_by_call
from dressage.flow.signatures import Signature
from dressage.flow.watching import apart, branch_of, end_of, free, holding
from dressage.protocol.names import check_name
from dressage.protocol.spec import TaskDef, effective_times

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
        call: Said = NOTHING_SAID,
    ) -> None:
        """`call` are the options of one call."""
        self.function = function
        self.signature = signature
        self.definition = definition
        self.call = call
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
        times = effective_times(self.call.times, self.definition.times)
        limit_s = min((each for each in (times.attempt_s, times.call_s) if each is not None), default=None)
        if limit_s is None:
            return await apart(self._called(*args, **kwargs))
        try:
            async with within(limit_s) as limit:
                return await limit.of(self._called(*args, **kwargs))
        except TimeoutError as error:
            raise TaskTimeout(f"task {self.name} was not done in {limit_s:g} s") from error

    async def _called(self, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result: object = self.body(*args, **kwargs)
            if inspect.isawaitable(result):
                return await cast("Awaitable[R]", result)
            return cast("R", result)
        except (WorkflowFailure, NotImplementedError):
            raise
        except Exception as error:
            raise TaskError(f"{error} (task {self.name}, attempt 1 of 1)") from error

    def options(self, **options: Unpack[CallOptions]) -> Task[P, R]:
        """The same task with options of this call, which go before the definition's and the workflow's."""
        return Task(self.function, self.signature, self.definition, said_by_call(options, self.definition))

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


class Limited:
    """What is done in a time: by the caller itself, or apart from it where that may be held meanwhile."""

    def __init__(self) -> None:
        self.expired = False
        self.apart: asyncio.Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None

    async def of(self, call: Coroutine[Any, Any, R]) -> R:
        if not holding():
            return await call
        task = self.apart = free(branch_of(call))
        task.add_done_callback(self._done)
        return await end_of(task)

    def _done(self, _: asyncio.Future[Any]) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def expire(self, task: asyncio.Task[Any]) -> None:
        self.expired = True
        (self.apart or task).cancel()

    def is_over(self, task: asyncio.Task[Any], before: int) -> bool:
        """Whether it was cancelled for its time, and for nothing else."""
        return self.expired and (task.cancelling() if self.apart else task.uncancel()) <= before


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[Limited]:
    """Gives what is done in it so many seconds, where a workflow's function is run as plain Python.

    Before Python 3.11.3 `asyncio.timeout` raises `CancelledError` instead of `TimeoutError` in a task that was
    cancelled before, as one is that tidies up (python/cpython#102780).
    """
    task = asyncio.current_task()
    assert task is not None, "a workflow's function runs in a task"
    before, limit = task.cancelling(), Limited()
    limit.timer = asyncio.get_running_loop().call_later(seconds, limit.expire, task)
    try:
        yield limit
    except asyncio.CancelledError as error:
        if limit.is_over(task, before):
            raise TimeoutError from error
        raise
    finally:
        limit.timer.cancel()


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
    said: Said,
) -> Task[..., Any]:
    """The task of a function. Raises `DefinitionError` for its types, `BadName` for its names."""
    signature = Signature(function)
    for each in signature.inherited:
        raise signature.refusal(each, "a task inherits nothing", "give it at each call, or a default")
    definition = TaskDef(
        name=check_name(wire_name(function.__name__) if name is None else name, "task"),
        params=signature.params,
        output=signature.output,
        queue=check_name(queue or DEFAULT_QUEUE, "queue"),
        retry=said.retry,
        times=said.times,
        limit=said.limit,
        priority=said.priority,
    )
    return Task(function, signature, definition)


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *, name: str | None = None, queue: str | None = None, **options: Unpack[TaskOptions]
) -> TaskDecorator: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    **options: Unpack[TaskOptions],
) -> Any:
    """Declares a task. Its contract is the function's signature; the options are those of `TaskOptions`.

    A function whose body is `raise NotImplementedError` is a contract alone: a worker registers the handler with
    `App.handles`. Technical errors are retried, a `WorkflowFailure` never is.
    """
    said = said_by(options)

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        return make_task(function, name, queue, said)

    return decorate if function is None else decorate(function)
