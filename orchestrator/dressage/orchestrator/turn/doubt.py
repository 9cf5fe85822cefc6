"""Why an owner stops: it was replaced, or it cannot know what became of a write."""

from __future__ import annotations


class Doubt(Exception):
    """Something makes this owner's memory unsafe: forget it all and take over again, as if it had died.

    `contested` says that somebody else took the shard: then it is worth a look at who should have it before it is
    taken back.
    """

    def __init__(self, message: str, *, contested: bool = False) -> None:
        super().__init__(message)
        self.contested = contested


class Replaced(Exception):
    """A higher epoch was seen: another process owns the shard."""
