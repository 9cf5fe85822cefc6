"""What one process at a time does, while the others stand by."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from dressage.connectors.place import Lease, LeaseLost, Place
from dressage.connectors.waiting import pause
from dressage.protocol.errors import DressageError
from dressage.telemetry import Gauge

_log = logging.getLogger("dressage.connectors")

RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 10.0


class Active:
    """One process's part of it. `interrupted` is told of what passes, which is everything but a `fatal` error."""

    def __init__(
        self,
        lease: Lease,
        is_active: Gauge,
        interrupted: Callable[[DressageError], None],
        fatal: type[DressageError] | tuple[()] = (),
    ) -> None:
        self._lease = lease
        self._is_active = is_active
        self._interrupted = interrupted
        self._fatal = fatal

    async def run(self, work: Callable[[Place], Awaitable[None]], stop: asyncio.Event) -> None:
        """Does `work` whenever this process is the active one, from the place that it takes over; returns after `stop`.

        Whatever `work` raises has it done anew, but for what is fatal.
        """
        pause_s = RETRY_S
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            try:
                await self._stand_by(work, stop)
            except self._fatal:
                raise
            except LeaseLost as error:
                _log.info("%s", error.message)
            except DressageError as error:
                self._interrupted(error)
            except Exception as error:
                # A mistake of ours must not end what nobody would start again.
                _log.exception("%s is begun anew", self._lease.whose)
                self._interrupted(DressageError(str(error), code="INTERNAL"))
            if loop.time() - began > RETRY_MAX_S:
                pause_s = RETRY_S
            await pause(stop, pause_s)
            pause_s = min(RETRY_MAX_S, 2 * pause_s)

    async def _stand_by(self, work: Callable[[Place], Awaitable[None]], stop: asyncio.Event) -> None:
        """Waits to be the active one, and is it for as long as it may."""
        self._is_active.set(0)
        found = await self._lease.take(stop)
        if found is None:
            return
        self._is_active.set(1)
        try:
            await work(found)
        finally:
            self._is_active.set(0)
            # If this fails, others wait until the lease has ended.
            with contextlib.suppress(DressageError):
                await self._lease.release()
