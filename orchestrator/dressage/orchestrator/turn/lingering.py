"""Waiting for company while the shard is served, and no longer once it is let go."""

from __future__ import annotations

import asyncio
from typing import Final

DRAINING_S: Final = 0.01
"""How long is lingered while the shard drains: who takes it over waits for it."""


class Lingering:
    def __init__(self) -> None:
        self._draining = False
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        """Returns after so long, or as soon as `drain` is called. One task at a time may wait."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(min(seconds, DRAINING_S) if self._draining else seconds, self._end)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def drain(self) -> None:
        self._draining = True
        self._end()

    def _end(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
