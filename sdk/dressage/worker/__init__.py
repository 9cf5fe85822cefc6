"""Workers: pull a task, run its handler, report the result."""

from dressage.worker.context import TaskContext, current_task
from dressage.worker.worker import Worker, WorkerConfig

__all__ = ["TaskContext", "Worker", "WorkerConfig", "current_task"]
