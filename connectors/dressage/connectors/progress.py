"""How far something is dealt with that is taken in its order, and done in any."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Which records of a partition, or events of a stream, are under way. Offsets may have gaps: what is not there
    needs no work."""

    position: int
    """Behind the last one that was taken."""
    committed: int = -1
    """What has been confirmed to be stored of the watermark."""
    waiting: set[int] = field(default_factory=set[int])
    _oldest: list[int] = field(default_factory=list[int])

    def take(self, offset: int) -> None:
        """They are taken in their order."""
        self.position = offset + 1
        self.waiting.add(offset)
        heapq.heappush(self._oldest, offset)

    def done(self, offset: int) -> None:
        self.waiting.discard(offset)

    @property
    def watermark(self) -> int:
        """Everything below is dealt with: what is stored, and where another process goes on."""
        while self._oldest and self._oldest[0] not in self.waiting:
            heapq.heappop(self._oldest)
        return self._oldest[0] if self._oldest else self.position

    @property
    def span(self) -> int:
        """How far the last one that was taken is ahead of what can be stored."""
        return self.position - self.watermark
