"""Keeps a shard served: one tenure after another, each with empty memory, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.doubt import Doubt, Replaced
from dressage.orchestrator.turn.tenure import Tenure
from dressage.protocol.errors import BrokerError

_log = logging.getLogger("dressage.orchestrator")

PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 2.0
CONTESTED_S: Final = 1.0
"""Longer than a heartbeat of the membership: by then it is known whether the shard still falls to this process."""


class Owner:
    """Tries to own one shard. That two processes try at once is safe: the cursor decides who may."""

    def __init__(self, shard: int, tenure: Callable[[], Tenure], metrics: EngineMetrics) -> None:
        self.shard = shard
        self._tenure = tenure
        self._metrics = metrics
        self._stop = asyncio.Event()
        self.serving = asyncio.Event()

    def stop(self) -> None:
        """Asks for an orderly end: drain, then return from `run`."""
        self._stop.set()

    async def run(self) -> None:
        pause_s = PAUSE_S_MIN
        while not self._stop.is_set():
            tenure = self._tenure()
            mirror = asyncio.ensure_future(self._mirror(tenure))
            try:
                await tenure.serve(self._stop)
            except Replaced as replaced:
                _log.warning("shard %d: replaced: %s", self.shard, replaced)
                pause_s = PAUSE_S_MAX
            except Doubt as doubt:
                pause_s = CONTESTED_S if doubt.contested else PAUSE_S_MIN
                _log.warning("shard %d: taking over again: %s", self.shard, doubt)
            except BrokerError as error:
                pause_s = PAUSE_S_MIN if tenure.epoch else min(PAUSE_S_MAX, pause_s * 2)
                _log.warning("shard %d: taking over again: %s", self.shard, error)
            except Exception:
                # A bug of ours must not take the process with it: empty memory and a pause are the best cure we have.
                _log.exception("shard %d: taking over again after an unexpected error", self.shard)
                pause_s = min(PAUSE_S_MAX, pause_s * 2)
            finally:
                mirror.cancel()
                self.serving.clear()
            self._metrics.tenures.inc()
            if not self._stop.is_set():
                await _pause(self._stop, pause_s)

    async def _mirror(self, tenure: Tenure) -> None:
        await tenure.serving.wait()
        self.serving.set()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
