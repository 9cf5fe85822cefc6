"""A pull consumer: what it has delivered, what is unacknowledged, and who waits for more.

It follows the real server's `consumer.go` (2.15.1) step by step where that shows from the outside: the order of
redeliveries, both acknowledgement floors, what a purge does to them. There are no heartbeats, and a request for
messages stands until it is answered or its connection is gone: what a client would notice by their absence
`MemoryPull` notices by knowing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, Protocol

from dressage.brokers.interface import CONSUMER_DELETED, ConsumerConfig
from dressage.brokers.memory.records import Record
from dressage.brokers.memory.schedules import instant_ns
from dressage.brokers.memory.subjects import within

if TYPE_CHECKING:
    from dressage.brokers.memory.stream import Stream

EPHEMERAL_INACTIVE_NS: Final = 5_000_000_000
"""How long an ephemeral consumer without a threshold of its own outlives its last request."""


class Puller(Protocol):
    """The end that asked. It answers whether the message shall come once more, as if its ack wait had run out."""

    def deliver(self, record: Record, attempts: int, consumer_seq: int, reply: str) -> bool: ...

    def ended(self, reason: str, unanswered: int) -> None: ...


class _Request:
    __slots__ = ("count", "puller")

    def __init__(self, puller: Puller, count: int) -> None:
        self.puller = puller
        self.count = count


class _Pending:
    """A delivery that is not acknowledged. `since_ns` is when its ack wait began."""

    __slots__ = ("consumer_seq", "since_ns")

    def __init__(self, consumer_seq: int, since_ns: int) -> None:
        self.consumer_seq = consumer_seq
        self.since_ns = since_ns


class Consumer:
    """See the module's docstring. Names in comments are those of the real server's fields."""

    def __init__(self, stream: Stream, config: ConsumerConfig) -> None:
        self._stream = stream
        self.name = config.name
        self._configure(config)
        self._next_seq = self._first_wanted()  # sseq
        self._ahead = deque(stream.log.seqs_from(self._next_seq, self.wants))
        self._next_consumer_seq = 1  # dseq
        self._floor, self._consumer_floor = self._next_seq - 1, 0  # asflr, adflr
        self._pending: dict[int, _Pending] = {}
        self._redelivered: dict[int, int] = {}  # rdc
        self._again: OrderedDict[int, None] = OrderedDict()  # rdq
        self._deadlines: list[tuple[int, int]] = []
        self._requests: deque[_Request] = deque()
        self._active_ns = stream.now_ns()
        self._swept = (0, 0)
        self._ghosts = False
        """Whether nobody listens to those who asked last, and the server has not noticed yet."""
        # What the real server keeps in the consumer's store, and reports as the acknowledgement floor.
        self._told_delivered, self._told_consumer_delivered = 0, 0
        self._told_floor, self._told_consumer_floor = self._next_seq - 1, 0

    def _configure(self, config: ConsumerConfig) -> None:
        self.config = config
        self._ack_wait_ns = int(config.ack_wait_s * 1e9)
        self._pending_max = config.max_ack_pending if config.explicit_ack else 0

    def _first_wanted(self) -> int:
        first, last = self._stream.log.first_seq, self._stream.log.last_seq
        wanted = self.config.start_seq
        if wanted is None and self.config.start_time is not None:
            wanted = self._stream.log.seq_since(instant_ns(self.config.start_time))
        if not wanted:
            return min(first, last + 1) if first else 1
        return max(wanted, first)

    def wants(self, subject: str) -> bool:
        filters = self.config.filters
        return not filters or any(within(subject, pattern) for pattern in filters)

    # -- what is asked about it --------------------------------------------------------------------
    @property
    def ack_floor(self) -> int:
        return self._told_floor

    @property
    def delivered(self) -> tuple[int, int]:
        """Stream and consumer sequence of the last delivery."""
        return self._told_delivered, self._told_consumer_delivered

    @property
    def consumer_floor(self) -> int:
        return self._told_consumer_floor

    @property
    def ack_pending(self) -> int:
        return len(self._pending)

    @property
    def waiting(self) -> int:
        return sum(request.count for request in self._requests)

    @property
    def undelivered(self) -> int:
        return sum(1 for seq in self._ahead if seq >= self._next_seq and seq in self._stream.log.messages)

    # -- delivering --------------------------------------------------------------------------------
    def ask(self, puller: Puller, count: int) -> None:
        self._requests.append(_Request(puller, count))
        self.pump()

    def forget(self, puller: Puller) -> None:
        """Whoever asked listens no longer."""
        if any(request.puller is puller for request in self._requests):
            self._requests = deque(request for request in self._requests if request.puller is not puller)
            self._ghosts = not self._requests
            self._touch()

    def _touch(self) -> None:
        self._active_ns = self._stream.now_ns()
        due = self.idle_due_ns()
        if due is not None:
            self._stream.note_due(due)

    def arrived(self, seq: int) -> None:
        """A message that this consumer wants was stored; `pump` delivers it."""
        self._ahead.append(seq)

    def pump(self) -> None:
        """Delivers while there is something to deliver and somebody waits; requests take turns."""
        requests = self._requests
        if self._ghosts and not requests:
            self._look_ahead()
        self._ghosts = False
        while requests and (found := self._next()) is not None:
            request = requests.popleft()
            request.count -= 1
            if request.count:
                requests.append(request)
            self._deliver(request.puller, *found)
            if not requests:
                self._touch()

    def _look_ahead(self) -> None:
        """The real server finds out that nobody listens any more only when it has a message at hand for them."""
        if self._again:
            self._again.move_to_end(next(iter(self._again)))
            return
        if self._stalled:
            return
        following = self._following()
        self._next_seq = max(
            self._next_seq, self._stream.log.last_seq + 1 if following is None else following
        )

    def notice_ghosts(self) -> None:
        """Whoever asks about the consumer makes the server look who still listens."""
        self._ghosts = False

    @property
    def _stalled(self) -> bool:
        return 0 < self._pending_max <= len(self._pending)

    def _following(self) -> int | None:
        """The sequence of the next message that was never delivered."""
        ahead, messages = self._ahead, self._stream.log.messages
        while ahead and (ahead[0] < self._next_seq or ahead[0] not in messages):
            ahead.popleft()
        return ahead[0] if ahead else None

    def _next(self) -> tuple[Record, int] | None:
        messages = self._stream.log.messages
        while self._again:
            seq, _ = self._again.popitem(last=False)
            record = messages.get(seq)
            if record is not None:
                self._redelivered[seq] = self._redelivered.get(seq, 0) + 1
                return record, self._redelivered[seq] + 1
            if seq in self._pending:
                self._acknowledged(seq)
        if 0 < self._pending_max <= len(self._pending):
            return None
        following = self._following()
        if following is None:
            self._next_seq = max(self._next_seq, self._stream.log.last_seq + 1)
            return None
        self._ahead.popleft()
        self._next_seq = following + 1
        return messages[following], 1

    def _deliver(self, puller: Puller, record: Record, attempts: int) -> None:
        seq, consumer_seq = record.seq, self._next_consumer_seq
        self._next_consumer_seq += 1
        self._told_consumer_delivered = consumer_seq
        self._told_delivered = max(self._told_delivered, seq)
        if self.config.explicit_ack:
            self._track(seq, consumer_seq)
        else:
            self._floor = self._told_floor = seq
            self._consumer_floor = self._told_consumer_floor = consumer_seq
        reply = (
            f"$JS.ACK.{self._stream.name}.{self.name}.{attempts}.{seq}.{consumer_seq}.{record.time_ns}."
            f"{len(self._ahead)}"
        )
        if puller.deliver(record, attempts, consumer_seq, reply) and seq in self._pending:
            self._again[seq] = None

    def _track(self, seq: int, consumer_seq: int) -> None:
        now = self._stream.now_ns()
        pending = self._pending.get(seq)
        if pending is None:
            self._pending[seq] = _Pending(consumer_seq, now)
        else:
            # A redelivery keeps the consumer sequence of the first delivery.
            pending.since_ns = now
        self._set_deadline(seq, now + self._ack_wait_ns)

    def _set_deadline(self, seq: int, due_ns: int) -> None:
        deadlines = self._deadlines
        heappush(deadlines, (due_ns, seq))
        if len(deadlines) > 4 * len(self._pending) + 1000:
            wait = self._ack_wait_ns
            self._deadlines = [(each.since_ns + wait, seq) for seq, each in self._pending.items()]
            heapify(self._deadlines)
        self._stream.note_due(due_ns)

    # -- acknowledging -----------------------------------------------------------------------------
    def ack(self, seq: int) -> None:
        if seq >= self._next_seq or not self.config.explicit_ack:
            return
        stalled = self._stalled
        self._acknowledged(seq)
        if stalled:
            self.pump()

    def _acknowledged(self, seq: int) -> None:
        pending = self._pending.pop(seq, None)
        if pending is not None:
            self._move_floor(seq, pending.consumer_seq)
            self._move_told_floor(seq, pending.consumer_seq)
        self._redelivered.pop(seq, None)
        self._again.pop(seq, None)

    def _move_floor(self, seq: int, consumer_seq: int) -> None:
        if not self._pending:
            self._floor, self._consumer_floor = self._next_seq - 1, self._next_consumer_seq - 1
        elif consumer_seq == self._consumer_floor + 1:
            self._floor, self._consumer_floor = self._floor_above(seq, consumer_seq, self._next_seq)

    def _move_told_floor(self, seq: int, consumer_seq: int) -> None:
        if consumer_seq <= self._told_consumer_floor:
            return
        if not self._pending:
            self._told_floor, self._told_consumer_floor = self._told_delivered, self._told_consumer_delivered
        elif consumer_seq == self._told_consumer_floor + 1:
            self._told_floor, self._told_consumer_floor = self._floor_above(
                seq, consumer_seq, self._told_delivered + 1
            )

    def _floor_above(self, seq: int, consumer_seq: int, end: int) -> tuple[int, int]:
        """The floor goes up to just below the next delivery that is still open."""
        for other in range(seq + 1, end):
            if (pending := self._pending.get(other)) is not None:
                return other - 1, pending.consumer_seq - 1
        return seq, consumer_seq

    def nak(self, seq: int, consumer_seq: int, delay_ns: int | None) -> None:
        """Not now: again after the delay, or at once without one."""
        pending = self._pending.get(seq)
        if pending is None or not self._consumer_floor < consumer_seq <= self._next_consumer_seq:
            return
        if delay_ns is None:
            self._again[seq] = None
            self.pump()
            return
        self._again.pop(seq, None)
        now = self._stream.now_ns()
        pending.since_ns = now - self._ack_wait_ns + delay_ns
        self._set_deadline(seq, now + delay_ns)

    def in_progress(self, seq: int) -> None:
        pending = self._pending.get(seq)
        if pending is not None:
            pending.since_ns = self._stream.now_ns()
            self._set_deadline(seq, pending.since_ns + self._ack_wait_ns)

    # -- time --------------------------------------------------------------------------------------
    def next_due_ns(self) -> int | None:
        deadlines = self._deadlines
        while deadlines and not self._stands(*deadlines[0]):
            heappop(deadlines)
        due = deadlines[0][0] if deadlines else None
        idle = self.idle_due_ns()
        return due if idle is None else idle if due is None else min(due, idle)

    def _stands(self, due_ns: int, seq: int) -> bool:
        pending = self._pending.get(seq)
        return (
            pending is not None and pending.since_ns + self._ack_wait_ns == due_ns and seq not in self._again
        )

    def advance(self, now_ns: int) -> None:
        """Queues what nobody acknowledged in time for another delivery, in the order of the stream."""
        deadlines, late = self._deadlines, set[int]()
        if not deadlines or deadlines[0][0] > now_ns:
            return
        self._sweep()
        while deadlines and deadlines[0][0] <= now_ns:
            due, seq = heappop(deadlines)
            if self._stands(due, seq):
                late.add(seq)
        if not late:
            return
        expired = sorted(late)
        offset = now_ns - self._pending[expired[0]].since_ns
        for seq in expired:
            self._again[seq] = None
            self._pending[seq].since_ns += offset
        self.pump()

    def _sweep(self) -> None:
        """Closes what is open, though it has left the stream at its beginning."""
        first = self._stream.log.first_seq
        if self._swept == (first, self._floor):
            return
        gone = [seq for seq in self._pending if seq < first or seq <= self._floor]
        for seq in gone:
            pending = self._pending.pop(seq)
            self._redelivered.pop(seq, None)
            self._again.pop(seq, None)
            self._floor = max(self._floor, seq)
            self._consumer_floor = max(self._consumer_floor, pending.consumer_seq)
        if not self._pending:
            self._again.clear()
            self._floor, self._consumer_floor = self._next_seq - 1, self._next_consumer_seq - 1
        if gone:
            self._tell_all()
        self._swept = first, self._floor

    def idle_due_ns(self) -> int | None:
        """When it is removed unless somebody asks before; None for one that stays."""
        threshold = int(self.config.inactive_s * 1e9)
        if not threshold and not self.config.durable:
            threshold = EPHEMERAL_INACTIVE_NS
        if not threshold or self._requests:
            return None
        due = self._active_ns + threshold
        if self._pending:
            latest = max(pending.since_ns for pending in self._pending.values())
            due = max(due, latest + self._ack_wait_ns + threshold)
        return due

    # -- what becomes of the stream ----------------------------------------------------------------
    def removed(self, seq: int) -> None:
        """A limit of the stream, or a purge of just this one, took a message: as good as acknowledged."""
        if seq in self._pending:
            self.ack(seq)
        else:
            self._redelivered.pop(seq, None)

    def forget_attempts_below(self, first: int) -> None:
        """Several messages were purged at once."""
        for seq in [seq for seq in self._redelivered if seq < first]:
            del self._redelivered[seq]
            if seq in self._again:
                self._drop_redelivery(seq)

    def _drop_redelivery(self, seq: int) -> None:
        """It waits for redelivery no longer; while it is open, its ack wait brings it back."""
        del self._again[seq]
        if seq in self._pending:
            self._set_deadline(seq, self._pending[seq].since_ns + self._ack_wait_ns)

    def purged(self, first: int, last: int, *, wider: bool) -> None:
        """A purge: `first` is the first message left of what was purged (0: none), `last` the stream's last.

        `wider` says that the consumer has other subjects too, of which `first` tells nothing.
        """
        if first == 0 and not wider:
            first = last + 1
        self._next_seq = max(self._next_seq, first)
        if self._floor < first:
            self._floor = first - 1
            messages = self._stream.log.messages
            for seq, pending in list(self._pending.items()):
                if seq <= self._floor or (wider and seq not in messages):
                    self._consumer_floor = max(self._consumer_floor, pending.consumer_seq)
                    del self._pending[seq]
                    self._redelivered.pop(seq, None)
                    self._move_told_floor(seq, pending.consumer_seq)
        if not self._pending:
            self._redelivered.clear()
            self._floor, self._consumer_floor = self._next_seq - 1, self._next_consumer_seq - 1
        # The real server forgets here what waited for redelivery.
        for seq in [seq for seq in self._again if seq < self._next_seq]:
            self._drop_redelivery(seq)
        self._tell_all()

    def _tell_all(self) -> None:
        """Writes everything into the consumer's store, which takes neither nonsense nor what is older."""
        delivered, consumer_delivered = self._next_seq - 1, self._next_consumer_seq - 1
        if self._floor > delivered or self._consumer_floor > consumer_delivered:
            return
        if consumer_delivered < self._told_consumer_delivered or self._floor < self._told_floor:
            return
        if any(not self._floor < seq <= delivered for seq in self._pending):
            return
        self._told_floor, self._told_consumer_floor = self._floor, self._consumer_floor
        self._told_delivered, self._told_consumer_delivered = delivered, consumer_delivered

    def reconfigure(self, config: ConsumerConfig) -> None:
        filters_differ = list(config.filters) != list(self.config.filters)
        self._configure(config)
        if filters_differ:
            self._ahead = deque(self._stream.log.seqs_from(self._next_seq, self.wants))
        for seq, pending in self._pending.items():
            self._set_deadline(seq, pending.since_ns + self._ack_wait_ns)
        self.pump()

    def end(self) -> None:
        """It is deleted: whoever waits is told."""
        requests, self._requests = self._requests, deque()
        unanswered: dict[Puller, int] = {}
        for request in requests:
            unanswered[request.puller] = unanswered.get(request.puller, 0) + request.count
        for puller, count in unanswered.items():
            puller.ended(CONSUMER_DELETED, count)
