"""What a handler may know about the attempt it runs."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from dressage.protocol.commands import TaskMessage
from dressage.protocol.errors import BadInput


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

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of this call, and for nothing else."""
        return f"{self.run_id}/{self.call_id}"


_current: ContextVar[TaskContext] = ContextVar("dressage_task")


def current_task() -> TaskContext:
    """The attempt that runs here, in async and in sync handlers. Raises `BadInput` outside of a handler."""
    try:
        return _current.get()
    except LookupError:
        raise BadInput("current_task() was called outside of a task handler", code="NO_TASK") from None


def enter_task(message: TaskMessage) -> None:
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
        )
    )
