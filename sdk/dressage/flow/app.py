"""The worker application: which tasks a process executes, and with which functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

import msgspec

from dressage.flow.retries import TaskOptions, said_by
from dressage.flow.signatures import Signature
from dressage.flow.tasks import Task, TaskDecorator, make_task
from dressage.protocol.errors import DefinitionError
from dressage.protocol.names import check_actor, check_name
from dressage.protocol.spec import TaskDef
from dressage.protocol.types import TypeDef

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Handler:
    """The function that executes a task. A plain function may block: a worker runs it in a thread."""

    definition: TaskDef
    function: Callable[..., Any]
    signature: Signature
    is_async: bool

    def decode_args(self, raw: bytes | msgspec.Raw) -> dict[str, Any]:
        """The arguments by name, of the annotated types. Raises `BadValue`."""
        return self.signature.decode_args(raw)

    @property
    def types(self) -> tuple[TypeDef, ...]:
        """The records and enums of the parameters and of the result."""
        return tuple(self.signature.book.definitions.values())

    def encode_result(self, value: Any) -> bytes:
        """The result as JSON. Raises `BadValue` for what is not of the return type."""
        return self.signature.encode_result(value)


class App:
    """A worker application. Its name is the queue of the tasks that it declares::

    app = App("payments")

    @app.task(retries=3)
    async def charge_card(order: Order, price: Decimal) -> Receipt: ...

    @app.handles(send_invoice)        # a task that another package declares
    def send(order: Order) -> None: ...
    """

    def __init__(self, name: str, version: str = "") -> None:
        """`version` is that of the code, in whatever form: each attempt's output event has it."""
        self.name = check_name(name, "application")
        self.version = check_actor(version, "version of an application")
        self._handlers: dict[str, Handler] = {}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handlers by the names of their tasks."""
        return self._handlers

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that a worker of this application consumes, sorted."""
        return tuple(sorted({handler.definition.queue for handler in self._handlers.values()}))

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """Declares a task whose body is its handler, and whose queue is the application's name by default."""
        said = said_by(options)

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            made = make_task(function, name, queue or self.name, said)
            self.register(made, function)
            return made

        return decorate if function is None else decorate(function)

    def handles(self, task: Task[P, R]) -> Handles[P, R]:
        """Registers the decorated function, async or plain, as the handler of a task that is declared elsewhere."""
        return Handles(self, task)

    def register(self, task: Task[..., Any], function: Callable[..., Any]) -> None:
        """Makes `function` the handler of `task`. Raises `DefinitionError` for a second one, or other parameters."""
        definition = task.definition
        if definition.name in self._handlers:
            raise DefinitionError(
                f"application {self.name} already handles task {definition.name}\nregister each task once"
            )
        expected = list(inspect.signature(task.function).parameters)
        given = list(inspect.signature(function).parameters)
        if given != expected:
            raise DefinitionError(
                f"{function.__qualname__}({', '.join(given)}) cannot handle task {definition.name}\n"
                f"give it the task's parameters: {', '.join(expected)}"
            )
        is_async = inspect.iscoroutinefunction(function)
        self._handlers[definition.name] = Handler(definition, function, task.signature, is_async)


class Handles(Generic[P, R]):
    """The decorator that `App.handles` gives; it leaves the function as it is."""

    def __init__(self, app: App, task: Task[P, R]) -> None:
        self._app = app
        self._task = task

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Any]:
        self._app.register(self._task, function)
        return function
