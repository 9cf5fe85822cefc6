"""Wakes one of those who wait for rows."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Bell:
    """A ring that nobody hears is heard by the next who waits."""

    def __init__(self) -> None:
        self._rung = False
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def ring(self) -> None:
        """Wakes one."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._rung = True

    def close(self) -> None:
        """Wakes all, from now on."""
        self._closed = True
        while self._waiting:
            self.ring()

    async def wait(self, timeout_s: float) -> None:
        if self._rung or self._closed:
            self._rung = False
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await future
