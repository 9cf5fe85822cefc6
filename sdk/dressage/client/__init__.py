"""Starting runs, waiting for them, following and reading them, and registering definitions."""

from dressage.client.client import Client, RunCancelled, RunFailed, RunHandle
from dressage.client.history import EventsGone
from dressage.client.schedules import At, Cron, Every, ScheduleHandle, upcoming
from dressage.client.waiting import RunEnded

__all__ = [
    "At",
    "Client",
    "Cron",
    "EventsGone",
    "Every",
    "RunCancelled",
    "RunEnded",
    "RunFailed",
    "RunHandle",
    "ScheduleHandle",
    "upcoming",
]
