"""What a stream refuses to store, and why.

The checks come in the order of the real server (`stream.go` and `jetstream_batching.go`, 2.15.1), because two that
would both refuse must refuse with the same number: a single is checked for its fence first and for its id last,
a message of a batch the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dressage.brokers.interface import FENCE_IN_PROCESS, WRONG_LAST_SEQUENCE
from dressage.brokers.memory.records import Publish
from dressage.brokers.memory.refusals import (
    BATCH_DUPLICATE,
    ROLLUP_FAILED,
    SCHEDULE_TARGET,
    SCHEDULER_INVALID,
    SCHEDULES_DISABLED,
    TTL_DISABLED,
    Refusal,
)
from dressage.brokers.memory.schedules import instant_ns
from dressage.brokers.memory.subjects import is_publishable

if TYPE_CHECKING:
    from dressage.brokers.memory.stream import Stream


def check_single(stream: Stream, publish: Publish) -> int:
    """When the message is due if it is a timer, or 0. Raises `Refusal`."""
    _check_ttl(stream, publish)
    _check_expected(stream, publish)
    due_ns = _due_ns(stream, publish)
    _check_cancelled(stream, publish)
    return due_ns


class Staged:
    """A batch that is being checked: later messages must fit to the earlier ones, which are not stored yet."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._written: dict[str, bool] = {}
        """Subjects written so far, and whether the last message there is a timer."""
        self._ids: set[str] = set()

    def check(self, publish: Publish) -> int:
        """When the message is due if it is a timer, or 0. Raises `Refusal`, which refuses the whole batch."""
        stream = self._stream
        _check_ttl(stream, publish)
        if publish.msg_id:
            if publish.msg_id in self._ids or stream.known(publish.msg_id):
                raise Refusal(BATCH_DUPLICATE)
            self._ids.add(publish.msg_id)
        if publish.expect_seq >= 0 and publish.expect_subject in self._written:
            raise Refusal(FENCE_IN_PROCESS)
        _check_expected(stream, publish)
        due_ns = _due_ns(stream, publish)
        self._check_cancelled(publish)
        if (publish.rollup or due_ns) and publish.subject in self._written:
            raise Refusal(ROLLUP_FAILED, "batch rollup sub invalid")
        self._written[publish.subject] = bool(due_ns)
        return due_ns

    def _check_cancelled(self, publish: Publish) -> None:
        if publish.cancels and publish.cancels in self._written:
            _check_canceller(self._stream, publish)
            if not self._written[publish.cancels]:
                raise Refusal(SCHEDULER_INVALID)
        else:
            _check_cancelled(self._stream, publish)


def _check_ttl(stream: Stream, publish: Publish) -> None:
    if publish.never_expires and not stream.config.message_ttl:
        raise Refusal(TTL_DISABLED)


def _check_expected(stream: Stream, publish: Publish) -> None:
    if publish.expect_seq < 0:
        return
    last = stream.log.last_of(publish.expect_subject)
    seq = last.seq if last is not None else 0
    if seq != publish.expect_seq:
        raise Refusal(WRONG_LAST_SEQUENCE, f"wrong last sequence: {seq}")


def _due_ns(stream: Stream, publish: Publish) -> int:
    if publish.schedule_at is None:
        return 0
    if not stream.config.schedules:
        raise Refusal(SCHEDULES_DISABLED)
    due_ns = instant_ns(publish.schedule_at)
    target = publish.schedule_target
    if not is_publishable(target) or target == publish.subject or not stream.binds(target):
        raise Refusal(SCHEDULE_TARGET)
    return due_ns


def _check_cancelled(stream: Stream, publish: Publish) -> None:
    """What a message cancels must be a timer, if it is there at all."""
    if not publish.cancels:
        return
    _check_canceller(stream, publish)
    last = stream.log.last_of(publish.cancels)
    if last is not None and not last.due_ns:
        raise Refusal(SCHEDULER_INVALID)


def _check_canceller(stream: Stream, publish: Publish) -> None:
    if publish.cancels == publish.subject or not is_publishable(publish.cancels):
        raise Refusal(SCHEDULER_INVALID)
    if not stream.config.schedules:
        raise Refusal(SCHEDULES_DISABLED)
