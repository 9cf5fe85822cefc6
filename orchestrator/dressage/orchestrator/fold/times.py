"""Broker time as text: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001


def rfc3339(time_ms: int) -> str:
    return f"{_whole_second(time_ms // 1000)}.{time_ms % 1000:03d}Z"


@lru_cache(maxsize=16)
def _whole_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()  # The year has four digits, whichever it is.
