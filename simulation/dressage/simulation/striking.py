"""Whether a fault did anything: one that finds no living process, or no message to lose, does not count."""

from __future__ import annotations

from contextvars import ContextVar


class Strike:
    """One fault under way. `hits` is how often it did something, counted where it is done."""

    def __init__(self) -> None:
        self.hits = 0

    def hit(self) -> None:
        self.hits += 1


_now: ContextVar[Strike | None] = ContextVar("strike", default=None)


def begin() -> Strike:
    """From here on what this task does to the world is this fault's doing."""
    strike = Strike()
    _now.set(strike)
    return strike


def strike() -> Strike:
    """The fault whose doing it is; one that nobody counts, if it is no fault's."""
    return _now.get() or Strike()
