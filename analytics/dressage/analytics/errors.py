"""What can go wrong between EVENTS and the file.

::

    DressageError
    '- AnalyticsError
       |- FILE_BUSY            another process writes the file (retryable)
       |- FILE_UNUSABLE        not an analytics file, damaged, or of a newer release
       |- STREAM_REPLACED      the file belongs to another stream of the same name
       '- STREAM_REWOUND       the stream ends before what the file has read of it
"""

from __future__ import annotations

from typing import Final

from dressage.protocol.errors import DressageError

EVENTS_LOST: Final = "EVENTS_LOST"
"""Code of the alarm for events that the stream dropped before they could be read. It is logged, counted and
recorded in the table `gaps`; it stops nothing, because waiting would only lose more."""


class AnalyticsError(DressageError):
    """The analytics file cannot be used, or not with this stream."""

    code = "FILE_UNUSABLE"
