"""Workers: pull a task, run its handler, report the result."""

from dressage.worker.context import TaskContext, TaskLog, current_task
from dressage.worker.worker import Worker, WorkerConfig

__all__ = ["TaskContext", "TaskLog", "Worker", "WorkerConfig", "current_task"]
