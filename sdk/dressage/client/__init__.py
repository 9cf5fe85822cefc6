"""Starting runs, waiting for them, following and reading them, and registering definitions."""

from dressage.client.children import ChildRun
from dressage.client.client import Client, Rescued, RunCancelled, RunFailed, RunHandle
from dressage.client.finding import Counted, FoundRun, FoundRuns, QueryError, QueryResult, RunQuery, condition
from dressage.client.history import EventsGone
from dressage.client.schedules import At, Cron, Every, ScheduleHandle, upcoming
from dressage.client.waiting import RunEnded

__all__ = [
    "At",
    "ChildRun",
    "Client",
    "Counted",
    "Cron",
    "EventsGone",
    "Every",
    "FoundRun",
    "FoundRuns",
    "QueryError",
    "QueryResult",
    "Rescued",
    "RunCancelled",
    "RunEnded",
    "RunFailed",
    "RunHandle",
    "RunQuery",
    "ScheduleHandle",
    "condition",
    "upcoming",
]
