"""Which shards this process has tried in vain, so that another member should have a go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

VAIN_S: Final = 5.0
"""A shard that was not served for so long, while this process could talk to the broker, is offered to others."""

UNABLE_S: Final = 10.0
UNABLE_S_MAX: Final = 300.0


@dataclass(slots=True)
class _Trial:
    """`vain_s` counts only time in which the broker answered. `next_s` is how long the next verdict will hold."""

    vain_s: float = 0.0
    until: float = -math.inf
    next_s: float = UNABLE_S


class Vain:
    """What the heartbeats of this process say about itself as `unable`. Longer each time, so that nothing flaps."""

    def __init__(self) -> None:
        self._trials: dict[int, _Trial] = {}

    def served(self, shard: int) -> None:
        self._trials.pop(shard, None)

    def tried(self, shard: int, now: float, seconds: float, *, hopeless: bool) -> None:
        """The shard was not served for `seconds` more. `hopeless` is a verdict of its owner's own."""
        trial = self._trials.setdefault(shard, _Trial())
        if now < trial.until:
            return
        trial.vain_s += seconds
        if hopeless or trial.vain_s >= VAIN_S:
            trial.until, trial.vain_s = now + trial.next_s, 0.0
            trial.next_s = min(UNABLE_S_MAX, trial.next_s * 2)

    def refused(self, shard: int) -> None:
        """A newer release has served it: no later trial of this one can succeed."""
        self._trials[shard] = _Trial(until=math.inf)

    def unable(self, now: float) -> set[int]:
        return {shard for shard, trial in self._trials.items() if now < trial.until}
