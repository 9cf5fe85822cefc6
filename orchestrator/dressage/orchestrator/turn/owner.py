"""Keeps a shard served: one tenure after another, each with empty memory, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Final

from dressage.orchestrator.membership import BEAT_S, ShardFigures
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.doubt import Doubt, Replaced
from dressage.orchestrator.turn.takeover import FOLD_VERSION_NEWER
from dressage.orchestrator.turn.tenure import Tenure
from dressage.protocol.errors import BrokerError

_log = logging.getLogger("dressage.orchestrator")

PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 2.0
CONTESTED_S: Final = 2 * BEAT_S
"""Longer than a heartbeat of the membership: by then it is known whether the shard still falls to this process."""

BUGS_MAX: Final = 3
"""So many unexpected errors in a row, and somebody else should try."""

RATE_OVER_S: Final = 5.0


class Owner:
    """Tries to own one shard. That two processes try at once is safe: the cursor decides who may.

    `changed` is called whenever it begins to serve, stops serving, or finds that it cannot.
    """

    def __init__(
        self,
        shard: int,
        tenure: Callable[[], Tenure],
        metrics: EngineMetrics,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.shard = shard
        self._make = tenure
        self._metrics = metrics
        self._changed = changed
        self._stop = asyncio.Event()
        self._tenure: Tenure | None = None
        self._commands, self._tasks = Rate(), Rate()
        self._bugs = 0
        self.serving = asyncio.Event()
        self.refused = False
        """A newer release has served the shard: this one never can again."""

    def stop(self) -> None:
        """Asks for an orderly end: drain, then return from `run`."""
        self._stop.set()

    @property
    def hopeless(self) -> bool:
        """Somebody else should try: this process fails for a reason of its own."""
        return self._bugs >= BUGS_MAX

    def figures(self) -> ShardFigures:
        """What a heartbeat says of the shard."""
        now = asyncio.get_running_loop().time()
        tenure, serving = self._tenure, self.serving.is_set()
        if tenure is None or not serving:
            return ShardFigures("draining" if self._stop.is_set() else "trying")
        progress = tenure.progress
        return ShardFigures(
            "draining" if self._stop.is_set() else "serving",
            tenure.epoch,
            progress.seq,
            progress.position,
            progress.open_runs,
            progress.uncovered,
            progress.backlog,
            progress.behind,
            commands_s=round(self._commands.at(now, progress.commands), 1),
            tasks_s=round(self._tasks.at(now, progress.tasks), 1),
        )

    async def run(self) -> None:
        pause_s = PAUSE_S_MIN
        while not self._stop.is_set():
            tenure = self._tenure = self._make()
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
                self.refused = error.code == FOLD_VERSION_NEWER
                pause_s = PAUSE_S_MIN if tenure.epoch else min(PAUSE_S_MAX, pause_s * 2)
                _log.warning("shard %d: taking over again: %s", self.shard, error)
            except Exception:
                # A bug of ours must not take the process with it: empty memory and a pause are the best cure we have.
                _log.exception("shard %d: taking over again after an unexpected error", self.shard)
                self._bugs += 1
                pause_s = min(PAUSE_S_MAX, pause_s * 2)
            finally:
                mirror.cancel()
                self.serving.clear()
                self._changed()
            self._metrics.tenures.inc()
            if not self._stop.is_set():
                await _pause(self._stop, pause_s)

    async def _mirror(self, tenure: Tenure) -> None:
        await tenure.serving.wait()
        self.serving.set()
        self._changed()
        await asyncio.sleep(PAUSE_S_MAX)
        self._bugs = 0  # It serves for longer than any pause: whatever it was, it is over.


class Rate:
    """How fast a total rises, over some seconds; the total may begin again at 0."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._total = 0
        self._rate = 0.0

    def at(self, now: float, total: int) -> float:
        before, self._at = self._at, now
        risen, self._total = max(0, total - self._total), total
        if before is not None and now > before:
            weight = 1 - math.exp((before - now) / RATE_OVER_S)
            self._rate += weight * (risen / (now - before) - self._rate)
        return self._rate


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
