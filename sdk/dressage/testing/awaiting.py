"""Running async functions from plain ones: a test, whether it is async or not, calls `run` without await."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def await_here(awaitable: Awaitable[Any]) -> Any:
    """What `awaitable` gives. It gets an event loop of its own, in another thread where this one runs a loop."""

    async def wait() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1, thread_name_prefix="dressage-test") as thread:
        context = contextvars.copy_context()
        return thread.submit(lambda: context.run(asyncio.run, wait())).result()
