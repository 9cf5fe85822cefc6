"""What authors of workflows and tasks import.

::

    from dressage.flow import App, Event, Exponential, Masked, Searchable, WorkflowFailure
    from dressage.flow import publish, sleep, task, workflow
"""

from dressage.flow.app import App, Handler
from dressage.flow.branches import first_completed, first_successful, gather
from dressage.flow.conditions import wait_until
from dressage.flow.describe import Large, Masked, Searchable
from dressage.flow.events import Event
from dressage.flow.failures import (
    BranchCancelled,
    ChildError,
    TaskError,
    TaskTimeout,
    UserTaskCancelled,
    WorkflowFailure,
)
from dressage.flow.inheriting import inherited
from dressage.flow.interrupts import Interrupt, interruptible
from dressage.flow.people import Assignment, UserTask
from dressage.flow.publishing import publish
from dressage.flow.rates import Rate
from dressage.flow.retries import Exponential
from dressage.flow.sagas import Saga
from dressage.flow.sleeping import sleep, sleep_until
from dressage.flow.tasks import Task, task
from dressage.flow.workflows import Workflow, workflow
from dressage.protocol.spec import Limits

__all__ = [
    "App",
    "Assignment",
    "BranchCancelled",
    "ChildError",
    "Event",
    "Exponential",
    "Handler",
    "Interrupt",
    "Large",
    "Limits",
    "Masked",
    "Rate",
    "Saga",
    "Searchable",
    "Task",
    "TaskError",
    "TaskTimeout",
    "UserTask",
    "UserTaskCancelled",
    "Workflow",
    "WorkflowFailure",
    "first_completed",
    "first_successful",
    "gather",
    "inherited",
    "interruptible",
    "publish",
    "sleep",
    "sleep_until",
    "task",
    "wait_until",
    "workflow",
]
