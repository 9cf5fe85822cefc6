"""Why an owner stops: it was replaced, or it cannot know what became of a write."""

from __future__ import annotations


class Doubt(Exception):
    """Something makes this owner's memory unsafe: forget it all and take over again, as if it had died."""


class Replaced(Exception):
    """A higher epoch was seen: another process owns the shard."""
