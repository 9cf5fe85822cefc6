"""Starting runs, waiting for them, reading them, and registering definitions."""

from dressage.client.client import Client, RunCancelled, RunFailed, RunHandle

__all__ = ["Client", "RunCancelled", "RunFailed", "RunHandle"]
