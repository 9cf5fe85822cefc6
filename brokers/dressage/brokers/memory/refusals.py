"""What JetStream answers when it refuses: its own numbers and words."""

from __future__ import annotations

from typing import Final

CONSUMER_CREATE: Final = 10012
CONSUMER_NOT_FOUND: Final = 10014
STREAM_INVALID: Final = 10052
MESSAGE_DELETE: Final = 10057
STREAM_NOT_FOUND: Final = 10059
SUBJECTS_OVERLAP: Final = 10065
STORE_FAILED: Final = 10077
ROLLUP_FAILED: Final = 10111
FILTERS_OVERLAP: Final = 10138
TTL_DISABLED: Final = 10166
BATCH_INCOMPLETE: Final = 10176
SCHEDULES_DISABLED: Final = 10188
SCHEDULE_PATTERN: Final = 10189
SCHEDULE_TARGET: Final = 10190
BATCH_TOO_LARGE: Final = 10199
BATCH_DUPLICATE: Final = 10201
SCHEDULER_INVALID: Final = 10212

_WORDS: Final = {
    CONSUMER_NOT_FOUND: "consumer not found",
    STREAM_NOT_FOUND: "stream not found",
    SUBJECTS_OVERLAP: "subjects overlap with an existing stream",
    STORE_FAILED: "maximum bytes exceeded",
    FILTERS_OVERLAP: "consumer subject filters cannot overlap",
    10164: "wrong last sequence",
    TTL_DISABLED: "per-message TTL is disabled",
    BATCH_INCOMPLETE: "atomic publish batch is incomplete",
    SCHEDULES_DISABLED: "message schedules is disabled",
    SCHEDULE_PATTERN: "message schedules pattern is invalid",
    SCHEDULE_TARGET: "message schedules target is invalid",
    BATCH_DUPLICATE: "atomic publish batch contains duplicate message id",
    SCHEDULER_INVALID: "message schedules invalid scheduler",
}


class Refusal(Exception):
    """The server says no. `err_code` and `description` are those of the real one."""

    def __init__(self, err_code: int, description: str = "") -> None:
        self.err_code = err_code
        self.description = description or _WORDS.get(err_code, "refused")
        super().__init__(f"{self.description} ({err_code})")


class NobodyListens(Exception):
    """No stream stores the subject and nobody has subscribed to it (status 503)."""
