"""What authors of workflows and tasks import.

::

    from dressage.flow import App, Exponential, Searchable, WorkflowFailure, sleep, task, workflow
"""

from dressage.flow.app import App, Handler
from dressage.flow.describe import Searchable
from dressage.flow.failures import WorkflowFailure
from dressage.flow.retries import Exponential
from dressage.flow.sleeping import sleep
from dressage.flow.tasks import Task, task
from dressage.flow.workflows import Workflow, workflow

__all__ = [
    "App",
    "Exponential",
    "Handler",
    "Searchable",
    "Task",
    "Workflow",
    "WorkflowFailure",
    "sleep",
    "task",
    "workflow",
]
