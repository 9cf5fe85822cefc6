"""One direction of a link: first in, first out, each not before its time."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any, Final

AT_ONCE: Final = float("-inf")

Arrive = Callable[..., None]
"""Called with the seconds that it took, and with the arguments given to `put`."""


class Link:
    """Whoever sends and whoever receives may see different clocks, so only times of one end are ever compared."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """`context` is the one that arrivals run in."""
        self._loop = loop
        self._context = context
        self._parcels: deque[tuple[float, float, Arrive, tuple[Any, ...]]] = deque()
        """When each is due and when it was sent, by the sender's clock, or twice `AT_ONCE`."""
        self._last_due = AT_ONCE
        self._handle: asyncio.Handle | None = None
        self._arriving = False

    def put(self, delay_s: float, arrive: Arrive, *arguments: Any) -> float:
        """`arrive` is called at the other end. Returns how long it will take."""
        parcels = self._parcels
        if not parcels:
            self._last_due = AT_ONCE
        if delay_s <= 0 and self._last_due == AT_ONCE:
            parcels.append((AT_ONCE, AT_ONCE, arrive, arguments))
            if self._handle is None and not self._arriving:
                self._handle = self._loop.call_soon(self._arrive, AT_ONCE, context=self._context)
            return 0.0
        now = self._loop.time()
        due = self._last_due = max(self._last_due, now + delay_s)
        parcels.append((due, now, arrive, arguments))
        if self._handle is None and not self._arriving:
            self._arm(due, now)
        return due - now

    def _arm(self, due: float, now: float) -> None:
        if due <= now:
            self._handle = self._loop.call_soon(self._arrive, due, context=self._context)
        else:
            self._handle = self._loop.call_later(due - now, self._arrive, due, context=self._context)

    def _arrive(self, now: float) -> None:
        """Everything whose time has come, in one go."""
        self._handle = None
        parcels = self._parcels
        self._arriving = True
        try:
            while parcels and parcels[0][0] <= now:
                due, sent, arrive, arguments = parcels.popleft()
                arrive(0.0 if due == AT_ONCE else due - sent, *arguments)
        finally:
            self._arriving = False
            if parcels and self._handle is None:
                due, sent = parcels[0][:2]
                self._arm(due, max(now, sent))

    def keep_while(self, survives: Callable[[], bool]) -> None:
        """Drops the first parcel of which this says no, and everything behind it."""
        kept = 0
        while kept < len(self._parcels) and survives():
            kept += 1
        while len(self._parcels) > kept:
            self._parcels.pop()
        self._disarm_if_empty()

    def drop(self) -> None:
        """Nothing of what is on its way arrives."""
        self._parcels.clear()
        self._disarm_if_empty()

    def _disarm_if_empty(self) -> None:
        if not self._parcels and self._handle is not None:
            self._handle.cancel()
            self._handle = None
