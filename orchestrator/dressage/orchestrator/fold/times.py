"""Broker time as text: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001
_FIRST_MS = -62_135_596_800_000
_LAST_MS = 253_402_300_799_999
"""From the year 1 to 9999. What a zone, or rounding up, puts beyond that is written as the first or the last moment."""


def rfc3339(time_ms: int) -> str:
    time_ms = min(max(time_ms, _FIRST_MS), _LAST_MS)
    return f"{_whole_second(time_ms // 1000)}.{time_ms % 1000:03d}Z"


@lru_cache(maxsize=16)
def _whole_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()  # The year has four digits, whichever it is.
