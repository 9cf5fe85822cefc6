"""What a fault does to a relay: it is told once, and the relay goes on with one row at a time until it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from dressage.outbox.relay.metrics import RelayMetrics
from dressage.protocol.errors import DressageError

_log = logging.getLogger("dressage.outbox")

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0


class Fault:
    """Of the database, the broker or the engine: something that is expected to pass.

    Without it every row would be tried again and again, and each try leaves a command in a stream that nobody empties
    while there is no orchestrator.
    """

    def __init__(self, metrics: RelayMetrics) -> None:
        self._metrics = metrics
        self._code = ""
        self._pause_s = PAUSE_MIN_S
        self._one_at_a_time = asyncio.Lock()

    @property
    def code(self) -> str:
        """Of the fault that there is; empty while all is well."""
        return self._code

    def begin(self, error: DressageError) -> None:
        """Logged once for each change, however often it is told."""
        self._metrics.faults.labels(error.code).inc()
        if self._code != error.code:
            _log.warning("the relay waits: %s", error)
        self._code = error.code

    def end(self, code: str = "") -> None:
        """Something works; if a `code` is given, what shows only that a fault of this code is over."""
        if self._code and code in ("", self._code):
            _log.info("the relay goes on: %s is over", self._code)
            self._code, self._pause_s = "", PAUSE_MIN_S

    @asynccontextmanager
    async def passage(self, limit: int) -> AsyncIterator[int]:
        """How many rows may be taken now, after a pause that grows while the fault lasts."""
        if self._code:
            async with self._one_at_a_time:
                if self._code:
                    await asyncio.sleep(self._pause_s)
                    self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)
                    yield 1
                    return
        yield limit
