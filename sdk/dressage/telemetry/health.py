"""Whether a process lives, and whether it does its work: for supervisors, which ask over HTTP.

The HTTP server has a thread of its own, so it answers also while the event loop is stuck. What the loop's objects say
is asked in the loop, at each beat, and only read by that thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

BEAT_S: Final = 1.0
STUCK_S: Final = 30.0
"""A loop that has not come round for so long does no work: who supervises the process should start it anew."""

Unready = Callable[[], str]
"""Why no work can be done now; empty if it can."""


class Health:
    """Of one process."""

    def __init__(self) -> None:
        self._beaten_at = 0.0
        self._why = "it is starting"

    @contextlib.contextmanager
    def shown(self, unready: Unready) -> Iterator[None]:
        """Within the block it is told whether this process does its work. Behind it that it is ending."""
        beating = asyncio.create_task(self._beat(unready))
        try:
            yield
        finally:
            beating.cancel()
            self._beaten_at, self._why = 0.0, "it is ending"

    def dead(self) -> str:
        """Why the process should be started anew; empty while it lives."""
        still_s = time.monotonic() - self._beaten_at if self._beaten_at else 0.0
        return f"its event loop is stuck, for {still_s:.0f} s" if still_s > STUCK_S else ""

    def unready(self) -> str:
        """Why the process does no work now; empty while it does."""
        return self.dead() or self._why

    async def _beat(self, unready: Unready) -> None:
        while True:
            self._why = unready()
            self._beaten_at = time.monotonic()
            await asyncio.sleep(BEAT_S)
