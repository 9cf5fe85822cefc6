"""Calls the server when something is due: a timer of the event loop that is set anew as that changes."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Final

from dressage.brokers.memory.server import MemoryServer

_SLACK_S: Final = 1e-6
"""Fractions of a second are not exact: rather a moment late than called again for the same nanosecond."""


class MemoryClock:
    """Drives one server on one event loop, in a context that belongs to no process."""

    def __init__(self, server: MemoryServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self.loop = loop
        self._context = contextvars.Context()
        self._handle: asyncio.TimerHandle | None = None
        self.set()

    def set(self) -> None:
        """Sets the timer for what is due first; to be called when the server's clock has jumped."""
        self._server.due_sooner = self._sooner
        due = self._server.next_due_ns()
        if due is not None:
            self._sooner(due)

    def _sooner(self, due_ns: int) -> None:
        self.stop()
        delay_s = max(0.0, (due_ns - self._server.now_ns()) / 1e9) + _SLACK_S
        self._handle = self.loop.call_later(delay_s, self._advance, context=self._context)

    def _advance(self) -> None:
        self._handle = None
        self._server.advance()
        self.set()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def clock_of(server: MemoryServer) -> MemoryClock:
    """The clock that drives the server on the running loop; a server follows the loop that used it last."""
    loop = asyncio.get_running_loop()
    clock = server.driver
    if not isinstance(clock, MemoryClock) or clock.loop is not loop:
        clock = server.driver = MemoryClock(server, loop)
    return clock
