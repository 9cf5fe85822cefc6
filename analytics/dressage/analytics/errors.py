"""What can go wrong between EVENTS, the file and those who ask.

::

    DressageError
    |- AnalyticsError
    |  |- FILE_BUSY            another process writes the file (retryable)
    |  |- FILE_UNUSABLE        not an analytics file, damaged, or of a newer release
    |  |- STREAM_REPLACED      the file belongs to another stream of the same name
    |  '- STREAM_REWOUND       the stream ends before what the file has read of it
    '- QueryError
       |- QUERY_INVALID        DuckDB refuses the statement; its own message says why
       |- QUERY_NOT_READ_ONLY  anything but one statement that only reads
       |- QUERY_TIMEOUT        it took longer than allowed (retryable)
       |- QUERY_TOO_LARGE      one row exceeds a message, or the query the memory it may use
       |- QUERY_BEHIND         the position asked for was not reached in time (retryable)
       |- QUERY_BUSY           too many queries wait already (retryable)
       '- QUERY_MALFORMED      the request itself cannot be read
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


class QueryError(DressageError):
    """A query was not answered; `code` is one of the codes above."""

    code = "QUERY_INVALID"


RETRYABLE: Final = frozenset({"QUERY_TIMEOUT", "QUERY_BEHIND", "QUERY_BUSY"})
"""Codes of `QueryError` under which the same query may succeed later."""
