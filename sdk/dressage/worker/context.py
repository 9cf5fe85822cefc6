"""What a handler may know about the attempt it runs, and what it may tell of it."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from dressage.expressions.limits import VALUE_MAX_DEPTH
from dressage.flow.models import from_plain, to_plain
from dressage.protocol.commands import PROGRESS_BYTES_MAX, Json, TaskMessage
from dressage.protocol.errors import BadInput, BadValue
from dressage.protocol.nesting import nests_deeper

T = TypeVar("T")


class Telling(Protocol):
    """Where what a handler tells goes to."""

    @property
    def ending(self) -> str: ...

    def beat(self, progress: msgspec.Raw | None) -> None: ...

    async def keep(self, progress: msgspec.Raw) -> None: ...

    def keep_from_thread(self, progress: msgspec.Raw) -> None: ...

    def note(self, text: object) -> None: ...


@dataclass(slots=True, frozen=True)
class TaskContext:
    """One attempt. A task is executed at least once, so what it does elsewhere should carry `idempotency_key`."""

    run_id: str
    workflow: str
    version: int
    task: str
    attempt: int
    task_id: str
    call_id: str
    progress: Json = msgspec.UNSET
    """What was kept last of how far the call had come, in JSON."""

    _telling: Telling | None = field(default=None, repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of this call, and for nothing else."""
        return f"{self.run_id}/{self.call_id}"

    @property
    def stopped(self) -> str:
        """Why the handler is to end: its run waits for it no more, or its time is over. Empty as long as it is not.

        An async handler is cancelled, too. A plain one that takes long looks here now and then.
        """
        return "" if self._telling is None else self._telling.ending

    def resumed(self, kind: type[T]) -> T | None:
        """What an execution of this call before this one has kept by `checkpoint` or `heartbeat`; None if nothing.

        Raises `BadValue` for what is not of this type.
        """
        if self.progress is msgspec.UNSET:
            return None
        try:
            return msgspec.json.decode(self.progress, type=kind, dec_hook=from_plain)
        except msgspec.ValidationError as error:
            raise BadValue(f"the progress of task {self.task!r} is not of type {kind!r}: {error}") from error

    def heartbeat(self, progress: object = msgspec.UNSET) -> None:
        """A sign of life, for a task with a `heartbeat`. Call it as often as you like, in async and in plain handlers.

        `progress` is any value that JSON can say. It is kept with the run about once a second, and readers see it.
        Raises `BadValue` for one that is too large, and in a plain handler `asyncio.CancelledError` when it is to end.
        """
        if self._telling is not None:
            self._check()
            self._telling.beat(None if progress is msgspec.UNSET else _encoded(progress, self.task))

    async def checkpoint(self, progress: object) -> None:
        """Keeps how far the handler has come, and returns when that is stored: whoever executes the call next, after a
        failure or when this worker is lost, gets it from `resumed`. Raises `BadValue`."""
        if self._telling is not None:
            await self._telling.keep(_encoded(progress, self.task))

    def checkpoint_blocking(self, progress: object) -> None:
        """`checkpoint` for a plain handler. Raises also `asyncio.CancelledError` when it is to end."""
        if self._telling is not None:
            self._check()
            self._telling.keep_from_thread(_encoded(progress, self.task))

    def log(self, text: object) -> None:
        """Keeps a line with the attempt: its output event has it, for who looks at the run. Of many the last ones.

        `TaskLog` does so with what is logged by `logging`. Nothing is masked.
        """
        if self._telling is not None:
            self._telling.note(text)

    def _check(self) -> None:
        if self.stopped and not _in_a_loop():
            raise asyncio.CancelledError(self.stopped)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _encoded(progress: object, task: str) -> msgspec.Raw:
    try:
        data = msgspec.json.encode(progress, enc_hook=to_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"progress of task {task!r} cannot be said in JSON: {error}") from error
    if nests_deeper(data, VALUE_MAX_DEPTH):
        raise BadValue(f"progress of task {task!r} nests deeper than {VALUE_MAX_DEPTH} levels")
    if len(data) > PROGRESS_BYTES_MAX:
        raise BadValue(
            f"progress of task {task!r} takes {len(data)} bytes of {PROGRESS_BYTES_MAX} allowed (limit progress-size): "
            "keep it elsewhere, and tell where"
        )
    return msgspec.Raw(data)


class TaskLog(logging.Handler):
    """Keeps what is logged inside of a handler with its attempt::

    logging.getLogger("payments").addHandler(TaskLog())
    """

    def emit(self, record: logging.LogRecord) -> None:
        context = _current.get(None)
        if context is not None:
            try:
                context.log(self.format(record))
            except Exception:
                self.handleError(record)


_current: ContextVar[TaskContext] = ContextVar("dressage_task")


def current_task() -> TaskContext:
    """The attempt that runs here, in async and in sync handlers. Raises `BadInput` outside of a handler."""
    try:
        return _current.get()
    except LookupError:
        raise BadInput("current_task() was called outside of a task handler", code="NO_TASK") from None


def enter_task(message: TaskMessage, telling: Telling | None = None) -> None:
    """Makes `message` the current attempt of this context."""
    _current.set(
        TaskContext(
            run_id=message.run_id,
            workflow=message.workflow,
            version=message.version,
            task=message.task,
            attempt=message.attempt,
            task_id=message.task_id,
            call_id=message.call_id,
            progress=message.progress,
            _telling=telling,
        )
    )
