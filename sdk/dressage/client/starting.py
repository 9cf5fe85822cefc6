"""What a refused start says of whoever asked for it."""

from __future__ import annotations

from typing import Final

PASSING: Final = frozenset(
    {
        "WORKFLOW_UNKNOWN",
        "ALIAS_UNKNOWN",
        "VERSION_RETIRED",
        "WORKFLOW_ARCHIVED",
        "SPEC_INVALID",
        "OPEN_RUNS",
    }
)
"""Refusals that say nothing about what is asked for: the definition is missing, is not for new runs, or was written by
a newer release; or so many runs are open that the start has to wait."""
