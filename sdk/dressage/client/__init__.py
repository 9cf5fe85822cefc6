"""Starting runs, waiting for them, reading them, and registering definitions."""

from dressage.client.client import Client, RunFailed, RunHandle

__all__ = ["Client", "RunFailed", "RunHandle"]
