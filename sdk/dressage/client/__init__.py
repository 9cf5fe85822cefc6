"""Starting runs, waiting for them, following and reading them, and registering definitions."""

from dressage.client.client import Client, RunCancelled, RunFailed, RunHandle
from dressage.client.history import EventsGone
from dressage.client.waiting import RunEnded

__all__ = ["Client", "EventsGone", "RunCancelled", "RunEnded", "RunFailed", "RunHandle"]
