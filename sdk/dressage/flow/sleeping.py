"""Waiting inside a workflow."""

from __future__ import annotations

import asyncio
from datetime import timedelta


async def sleep(duration: timedelta | float) -> None:
    """Waits for `duration`, a timedelta or seconds. In a run the wait is durable, and costs nothing however long.

    Where the workflow's function is run as plain Python, it is `asyncio.sleep`.
    """
    await asyncio.sleep(duration.total_seconds() if isinstance(duration, timedelta) else duration)
