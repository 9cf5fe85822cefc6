"""For how long runs are kept that have ended."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.protocol.errors import BadInput

KEEP_S_MAX: Final = 36_500 * 86_400.0
"""Seconds that a run can be kept, beside for ever: a hundred years."""


class Retention(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run is deleted `keep_s` seconds after it has ended, with its output events in the stream if it says so; without
    a time it is kept for ever."""

    keep_s: float | None = None
    events: bool = False

    @property
    def keep_ms(self) -> int | None:
        return None if self.keep_s is None else round(self.keep_s * 1000)


def check_retention(retention: Retention) -> Retention:
    """Returns `retention` if it can hold. Raises `BadInput` (RETENTION_INVALID)."""
    if retention.keep_s is not None and not 0 <= retention.keep_s <= KEEP_S_MAX:
        raise BadInput(
            f"a run cannot be kept for {retention.keep_s:g} s: give 0 to {KEEP_S_MAX:.0f} s, or keep it for ever "
            "(limit keep-time)",
            code="RETENTION_INVALID",
        )
    return retention
