"""A stream: it stores, it removes, and it tells its consumers of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from dressage.brokers.interface import BATCH_MESSAGES_MAX, ConsumerConfig, StreamConfig
from dressage.brokers.memory.checks import Staged, check_single
from dressage.brokers.memory.consumer import Consumer
from dressage.brokers.memory.log import MessageLog
from dressage.brokers.memory.records import Publish, Record
from dressage.brokers.memory.refusals import (
    BATCH_TOO_LARGE,
    CONSUMER_CREATE,
    CONSUMER_NOT_FOUND,
    FILTERS_OVERLAP,
    MESSAGE_DELETE,
    STORE_FAILED,
    STREAM_INVALID,
    Refusal,
)
from dressage.brokers.memory.schedules import Timetable, fired, with_rollup
from dressage.brokers.memory.subjects import overlap, within

if TYPE_CHECKING:
    from dressage.brokers.memory.server import MemoryServer

_CACHE_MAX: Final = 20_000


class Stream:
    """`full` makes it refuse whatever would be stored (10077), as a stream at its limit of bytes does."""

    def __init__(self, server: MemoryServer, config: StreamConfig) -> None:
        check_config(config)
        self._server = server
        self.config = config
        self.name = config.name
        self.now_ns: Callable[[], int] = server.now_ns
        self.note_due: Callable[[int], None] = server.note_due
        self.log = MessageLog()
        self.messages = self.log.messages
        self.created_ns = server.now_ns()
        self._full = False
        self.refused = 0
        """How many publishes and batches found it full."""
        self.consumers: dict[str, Consumer] = {}
        self._timers = Timetable(self)
        self._ids: dict[str, tuple[int, int]] = {}
        self._aging: deque[Record] = deque()
        self._expiring: list[tuple[int, int]] = []
        """When messages go that say so themselves, with their sequences: a heap."""
        self._wanting: dict[str, tuple[Consumer, ...]] = {}
        self._concerned: dict[str, list[tuple[Consumer, bool]]] = {}

    @property
    def full(self) -> bool:
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        self._full = full
        if not full:
            # Timers that came due meanwhile waited for room.
            self.note_due(self.now_ns())

    # -- configuration -----------------------------------------------------------------------------
    def reconfigure(self, config: StreamConfig) -> None:
        check_config(config)
        ages = not self.config.max_age_s and config.max_age_s
        self.config = config
        if ages:
            self._aging = deque(record for record in self.messages.values() if not record.never_expires)
        if self._aging:
            self.note_due(self._aging[0].time_ns + self._max_age_ns)
        if config.per_subject_max > 0:
            for subject in list(self.log.subjects):
                self._limit(subject)

    @property
    def _max_age_ns(self) -> int:
        return int(self.config.max_age_s * 1e9)

    @property
    def window_ns(self) -> int:
        """For how long message ids are remembered."""
        return int(self.config.duplicates_s * 1e9)

    # -- publishing --------------------------------------------------------------------------------
    def publish(self, publish: Publish, writer: object) -> tuple[int, bool]:
        """Gives the sequence, and whether the id was known. Raises `Refusal`."""
        due_ns = 0
        if publish.block:
            due_ns = check_single(self, publish)
            known = self.known(publish.msg_id) if publish.msg_id else 0
            if known:
                return known, True
        self._check_room([publish])
        for consumer in self._store(publish, writer, due_ns):
            consumer.pump()
        return self.log.last_seq, False

    def publish_batch(self, batch: Sequence[Publish], writer: object) -> int:
        """Stores all in one block of sequences, or nothing; gives the last. Raises `Refusal`."""
        if len(batch) > BATCH_MESSAGES_MAX:
            raise Refusal(BATCH_TOO_LARGE, f"atomic publish batch is too large: {BATCH_MESSAGES_MAX}")
        staged = Staged(self)
        dues = [staged.check(publish) for publish in batch]
        self._check_room(batch)
        waking: dict[Consumer, None] = {}
        for publish, due_ns in zip(batch, dues, strict=True):
            for consumer in self._store(publish, writer, due_ns):
                waking[consumer] = None
        # The consumers of the real server may be ahead of the rest of the batch; readers never are.
        for consumer in waking:
            consumer.pump()
        return self.log.last_seq

    def _check_room(self, batch: Sequence[Publish]) -> None:
        if self._full:
            self.refused += 1
            raise Refusal(STORE_FAILED)
        if self._server.refusing is not None:
            err_code = self._server.refusing(self.name, batch)
            if err_code is not None:
                raise Refusal(err_code)

    def known(self, msg_id: str) -> int:
        """The sequence of a message that the duplicate window remembers; 0 for none."""
        found = self._ids.get(msg_id)
        if found is None or self.now_ns() - found[1] >= self.window_ns:
            return 0
        return found[0]

    def _remember(self, msg_id: str, seq: int, now_ns: int) -> None:
        ids, window = self._ids, self.window_ns
        ids.pop(msg_id, None)
        ids[msg_id] = seq, now_ns
        while (oldest := next(iter(ids))) != msg_id and now_ns - ids[oldest][1] >= window:
            del ids[oldest]

    def forget_ids(self) -> None:
        """What a restart does to ids of messages that are no longer there (PROTOCOL.md, F8)."""
        self._ids = {msg_id: known for msg_id, known in self._ids.items() if known[0] in self.messages}

    def binds(self, subject: str) -> bool:
        return any(within(subject, pattern) for pattern in self.config.subjects)

    # -- storing -----------------------------------------------------------------------------------
    def _store(self, publish: Publish, writer: object, due_ns: int = 0) -> tuple[Consumer, ...]:
        """Gives the consumers that have it to deliver now."""
        now = self.now_ns()
        log, subject = self.log, publish.subject
        block = with_rollup(publish.block) if due_ns and not publish.rollup else publish.block
        record = Record(self.name, log.last_seq + 1, publish, block, now, writer, due_ns)
        log.append(record)
        if publish.msg_id:
            self._remember(publish.msg_id, record.seq, now)
        if self.config.max_age_s and not publish.never_expires and not publish.expires_s:
            self._aging.append(record)
            self.note_due(now + self._max_age_ns)
        if publish.expires_s:
            heappush(self._expiring, (now + publish.expires_s * 1_000_000_000, record.seq))
            self.note_due(self._expiring[0][0])
        if self.config.per_subject_max > 0:
            self._limit(subject)
        wanted = self._wanted_by(subject)
        for consumer in wanted:
            consumer.arrived(record.seq)
        if due_ns:
            self._timers.add(record)
            self.note_due(due_ns)
        if publish.rollup or due_ns:
            self._roll_up(subject)
        if publish.cancels:
            self.purge(publish.cancels, None)
        self._server.stored(record)
        return wanted

    def _limit(self, subject: str) -> None:
        for removed in self.log.keep_last(subject, self.config.per_subject_max):
            self._limited(removed)

    def _limited(self, removed: Record) -> None:
        for consumer in self._wanted_by(removed.subject):
            consumer.removed(removed.seq)

    def _roll_up(self, subject: str) -> None:
        self._tell_purge(subject, self.log.keep_last(subject, 1))

    def _wanted_by(self, subject: str) -> tuple[Consumer, ...]:
        found = self._wanting.get(subject)
        if found is None:
            if len(self._wanting) >= _CACHE_MAX:
                self._wanting.clear()
            found = tuple(consumer for consumer in self.consumers.values() if consumer.wants(subject))
            self._wanting[subject] = found
        return found

    # -- removing ----------------------------------------------------------------------------------
    def purge(self, subjects: str, below: int | None) -> list[Record]:
        """Removes what stands below a sequence (None: everything) on matching subjects."""
        removed = self.log.remove_below(subjects, below)
        self._tell_purge(subjects, removed)
        return removed

    def delete(self, seq: int) -> Record:
        """Removes one message. Raises `Refusal` where it is not there."""
        record = self.messages.get(seq)
        if record is None:
            raise Refusal(MESSAGE_DELETE, "no message found")
        self.log.remove(record)
        self._limited(record)
        return record

    def _tell_purge(self, subjects: str, removed: Sequence[Record]) -> None:
        if len(removed) == 1:
            for consumer in self._wanted_by(subjects):
                consumer.removed(removed[0].seq)
        elif removed:
            first = self.log.first_seq
            for consumer in self.consumers.values():
                consumer.forget_attempts_below(first)
        self._purge_consumers(subjects)

    def _purge_consumers(self, subjects: str) -> None:
        """Which consumers a purge concerns, and how, is the real server's (`purgeLocked`)."""
        concerned = self._concerned.get(subjects)
        if concerned is None:
            if len(self._concerned) >= _CACHE_MAX:
                self._concerned.clear()
            concerned = self._concerned[subjects] = self._concerned_by(subjects)
        if not concerned:
            return
        log = self.log
        first_of_all = log.first_seq
        first = min((seqs[0] for seqs in log.matching(subjects)), default=0)
        for consumer, wider in concerned:
            consumer.purged(first_of_all if wider else first, log.last_seq, wider=wider)

    def _concerned_by(self, subjects: str) -> list[tuple[Consumer, bool]]:
        """With each consumer, whether it has other subjects too."""
        concerned: list[tuple[Consumer, bool]] = []
        for consumer in self.consumers.values():
            filters = consumer.config.filters
            if any(within(each, subjects) for each in filters):
                concerned.append((consumer, not all(within(each, subjects) for each in filters)))
            elif not filters or any(within(subjects, each) for each in filters):
                concerned.append((consumer, True))
        return concerned

    # -- consumers ---------------------------------------------------------------------------------
    def create_consumer(self, config: ConsumerConfig) -> None:
        """Creates it, or brings it to the configuration. Raises `Refusal`."""
        self._check_filters(config)
        existing = self.consumers.get(config.name)
        if existing is None:
            self.consumers[config.name] = consumer = Consumer(self, config)
            due = consumer.idle_due_ns()
            if due is not None:
                self.note_due(due)
        elif existing.config != config:
            _check_update(existing.config, config)
            existing.reconfigure(config)
        self._forget_plans()

    def _forget_plans(self) -> None:
        self._wanting.clear()
        self._concerned.clear()

    def _check_filters(self, config: ConsumerConfig) -> None:
        for place, pattern in enumerate(config.filters):
            if any(within(pattern, other) or within(other, pattern) for other in config.filters[:place]):
                raise Refusal(FILTERS_OVERLAP)

    def consumer(self, name: str) -> Consumer:
        """Raises `Refusal` when there is none."""
        found = self.consumers.get(name)
        if found is None:
            raise Refusal(CONSUMER_NOT_FOUND)
        return found

    def delete_consumer(self, name: str) -> None:
        self.consumer(name)
        consumer = self.consumers.pop(name)
        self._forget_plans()
        consumer.end()

    # -- time --------------------------------------------------------------------------------------
    def next_due_ns(self) -> int | None:
        dues = [consumer.next_due_ns() for consumer in self.consumers.values()]
        if not self._full:
            dues.append(self._timers.next_due_ns())
        aging = self._aging
        while aging and aging[0].seq not in self.messages:
            aging.popleft()
        if aging and self.config.max_age_s:
            dues.append(aging[0].time_ns + self._max_age_ns)
        if self._expiring:
            dues.append(self._expiring[0][0])
        return min((due for due in dues if due is not None), default=None)

    def advance(self) -> None:
        """Does what is due by now: ages, timers, redeliveries, idle consumers."""
        now = self.now_ns()
        self._expire(now)
        if not self._full:
            for timer in self._timers.take_due(now):
                if timer.seq in self.messages:
                    self._fire(timer)
        for consumer in list(self.consumers.values()):
            consumer.advance(now)
            idle = consumer.idle_due_ns()
            if idle is not None and idle <= now:
                self.delete_consumer(consumer.name)

    def _expire(self, now_ns: int) -> None:
        aging, messages = self._aging, self.messages
        oldest = now_ns - self._max_age_ns
        while (
            aging and self.config.max_age_s and (aging[0].seq not in messages or aging[0].time_ns <= oldest)
        ):
            record = aging.popleft()
            if record.seq in messages:
                self.log.remove(record)
                self._limited(record)

        while self._expiring and self._expiring[0][0] <= now_ns:
            _, seq = heappop(self._expiring)
            if seq in messages:
                self.delete(seq)

    def _fire(self, timer: Record) -> None:
        for consumer in self._store(fired(timer), None):
            consumer.pump()


def check_config(config: StreamConfig) -> None:
    """Raises `Refusal` for what a real server would not make."""
    if config.schedules and config.per_subject_max > 0:
        raise Refusal(STREAM_INVALID, "message scheduling cannot use discard new")
    for place, pattern in enumerate(config.subjects):
        if any(overlap(pattern, other) for other in config.subjects[:place]):
            raise Refusal(STREAM_INVALID, "duplicate subjects detected")


def _check_update(old: ConsumerConfig, new: ConsumerConfig) -> None:
    if _begins_by(old) != _begins_by(new):
        raise Refusal(CONSUMER_CREATE, "deliver policy can not be updated")
    if old.memory != new.memory:
        raise Refusal(CONSUMER_CREATE, "storage type can not be updated")
    if old.start_seq != new.start_seq:
        raise Refusal(CONSUMER_CREATE, "start sequence can not be updated")
    if old.start_time != new.start_time:
        raise Refusal(CONSUMER_CREATE, "start time can not be updated")
    if old.explicit_ack != new.explicit_ack:
        raise Refusal(CONSUMER_CREATE, "ack policy can not be updated")


def _begins_by(config: ConsumerConfig) -> tuple[bool, bool]:
    """What the real server calls the deliver policy."""
    return config.start_seq is not None, config.start_time is not None
