"""The semantics of NATS and JetStream as Dressage uses them, in memory: no asyncio, and no clock of its own.

Written after the real server's sources (2.15.1), and held to it by the tests in `tests/contract`, which run on both.
What differs, by purpose:

- one server and one copy of each stream. `replicas` is remembered and means nothing: elections, lagging replicas and
  the refusal 10164 of several fenced writes in flight (PROTOCOL.md, F1) are not modelled. `refusing` can play them;
- a timer fires, and a message expires, at its very time, where the real server looks up to 250 ms later;
- nothing is forgotten by a restart, because there is none, and a stream has no limits but `full`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dressage.brokers.interface import ConsumerConfig, ConsumerState, StreamConfig, StreamState
from dressage.brokers.memory import api
from dressage.brokers.memory.consumer import Puller
from dressage.brokers.memory.core import Subscriptions
from dressage.brokers.memory.records import Publish, Record
from dressage.brokers.memory.refusals import (
    BATCH_INCOMPLETE,
    MESSAGE_DELETE,
    STREAM_NOT_FOUND,
    SUBJECTS_OVERLAP,
    NobodyListens,
    Refusal,
)
from dressage.brokers.memory.stream import Stream, check_config
from dressage.brokers.memory.subjects import has_wildcard, overlap, within

PAYLOAD_BYTES_MAX = 1024 * 1024
_CACHE_MAX = 20_000
_ACK_PARTS = 9


class MemoryServer:
    """All calls take effect at once. `now_ns` may jump in either direction; nothing here corrects it.

    `ledger` keeps every message ever stored, unless `keep_ledger` is off. The hooks are called while the operation
    is under way: `on_stored` with each message (those of a timer have no writer), `on_removed` with what a purge
    took, `on_tell` with what was published to whoever listens. `refusing` is asked before anything is stored, with
    the stream and the messages of the batch; a number it gives is the refusal.
    """

    def __init__(self, now_ns: Callable[[], int], *, keep_ledger: bool = True) -> None:
        self.now_ns = now_ns
        self.streams: dict[str, Stream] = {}
        self.core = Subscriptions()
        self.ledger: list[Record] = []
        self.on_stored: list[Callable[[Record], None]] = []
        self.on_removed: list[Callable[[str, list[Record], object], None]] = []
        self.on_tell: list[Callable[[str, bytes, object], None]] = []
        self.refusing: Callable[[str, Sequence[Publish]], int | None] | None = None
        self.due_sooner: Callable[[int], None] | None = None
        """Told the time of something that is due before everything it was told of since it last asked."""
        self.driver: object | None = None
        """Whatever calls `advance` in time."""
        self._keep_ledger = keep_ledger
        self._earliest_ns: int | None = None
        self._serials = 0
        self._homes: dict[str, Stream | None] = {}

    def next_serial(self) -> int:
        """A number for a connection."""
        self._serials += 1
        return self._serials

    # -- time --------------------------------------------------------------------------------------
    def next_due_ns(self) -> int | None:
        """When `advance` has something to do; None if nothing is ever due."""
        dues = [stream.next_due_ns() for stream in self.streams.values()]
        self._earliest_ns = min((due for due in dues if due is not None), default=None)
        return self._earliest_ns

    def advance(self) -> None:
        """Does everything that is due by now: timers, redeliveries, expiry."""
        for stream in list(self.streams.values()):
            stream.advance()

    def note_due(self, due_ns: int) -> None:
        """Called by the parts of the server when they set a time."""
        if self._earliest_ns is None or due_ns < self._earliest_ns:
            self._earliest_ns = due_ns
            if self.due_sooner is not None:
                self.due_sooner(due_ns)

    # -- streams -----------------------------------------------------------------------------------
    def ensure_stream(self, config: StreamConfig) -> None:
        """Creates it, or brings it to the configuration. Raises `Refusal`."""
        check_config(config)
        for other in self.streams.values():
            if other.name != config.name and _overlap(other.config.subjects, config.subjects):
                raise Refusal(SUBJECTS_OVERLAP)
        existing = self.streams.get(config.name)
        if existing is None:
            self.streams[config.name] = Stream(self, config)
        elif existing.config != config:
            existing.reconfigure(config)
        self._homes.clear()

    def delete_stream(self, name: str) -> None:
        """Raises `Refusal`."""
        stream = self.stream(name)
        for consumer in list(stream.consumers):
            stream.delete_consumer(consumer)
        del self.streams[name]
        self._homes.clear()

    def stream(self, name: str) -> Stream:
        """Raises `Refusal` when there is none."""
        found = self.streams.get(name)
        if found is None:
            raise Refusal(STREAM_NOT_FOUND)
        return found

    def stream_of(self, subject: str) -> Stream | None:
        """The stream that stores what is published there."""
        homes = self._homes
        if subject in homes:
            return homes[subject]
        if subject.startswith("_INBOX."):
            return None
        if len(homes) >= _CACHE_MAX:
            homes.clear()
        found = next((stream for stream in self.streams.values() if stream.binds(subject)), None)
        homes[subject] = found
        return found

    def stream_state(self, name: str, subjects: str | None = None) -> StreamState | None:
        stream = self.streams.get(name)
        if stream is None:
            return None
        log = stream.log
        counts: dict[str, int] = {}
        if subjects and not has_wildcard(subjects):
            if subjects in log.subjects:
                counts[subjects] = len(log.subjects[subjects])
        elif subjects:
            counts = {each: len(seqs) for each, seqs in log.subjects.items() if within(each, subjects)}
        return StreamState(
            log.first_seq, log.last_seq, len(log.messages), stream.config.replicas, counts, self.now_ns()
        )

    def last_message(self, stream: str, subject: str) -> Record | None:
        """Raises `Refusal` when there is no such stream."""
        return self.stream(stream).log.last_of(subject)

    def next_message(self, stream: str, seq: int, subject: str) -> Record | None:
        """Raises `Refusal` when there is no such stream."""
        return self.stream(stream).log.next_of(seq, subject)

    def purge(self, stream: str, subjects: str, below: int | None, writer: object) -> int:
        """Removes what stands below `below` (None: everything); returns how many. Raises `Refusal`."""
        removed = self.stream(stream).purge(subjects, below)
        if removed:
            for hook in self.on_removed:
                hook(stream, removed, writer)
        return len(removed)

    def delete_message(self, stream: str, seq: int, writer: object) -> None:
        """Removes one message; one that is not there is no error. Raises `Refusal`."""
        try:
            removed = self.stream(stream).delete(seq)
        except Refusal as refusal:
            if refusal.err_code != MESSAGE_DELETE:
                raise
            return
        for hook in self.on_removed:
            hook(stream, [removed], writer)

    # -- writing -----------------------------------------------------------------------------------
    def publish(self, publish: Publish, writer: object) -> tuple[int, bool] | None:
        """Gives the sequence, and whether the message id was known. Raises `Refusal` or `NobodyListens`.

        None when somebody listens, but no stream stores it: then nobody answers.
        """
        stream = self.stream_of(publish.subject)
        heard = self.core.route(publish.subject, publish.data, block=publish.block)
        if stream is not None:
            return stream.publish(publish, writer)
        if not heard:
            raise NobodyListens
        return None

    def publish_batch(self, batch: Sequence[Publish], writer: object) -> int:
        """Gives the sequence of the last. Raises `Refusal` or `NobodyListens`.

        A message for another stream than the last one's would leave a gap in the batch: it is refused.
        """
        stream = self.stream_of(batch[-1].subject)
        if stream is None:
            raise NobodyListens
        for publish in batch:
            self.core.route(publish.subject, publish.data, block=publish.block)
        if any(self.stream_of(publish.subject) is not stream for publish in batch):
            raise Refusal(BATCH_INCOMPLETE)
        return stream.publish_batch(batch, writer)

    def stored(self, record: Record) -> None:
        """Called by a stream for each message it has stored."""
        if self._keep_ledger:
            self.ledger.append(record)
        for hook in self.on_stored:
            hook(record)

    def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        """Raises `Refusal`."""
        found = self.stream(stream).consumer(consumer)
        found.notice_ghosts()
        return ConsumerState(found.ack_floor, found.ack_pending, found.delivered[0])

    def count_behind(self, stream: str, subject: str, seq: int) -> int:
        """Raises `Refusal`."""
        return sum(each > seq for each in self.stream(stream).log.subjects.get(subject, ()))

    # -- consumers ---------------------------------------------------------------------------------
    def create_consumer(self, stream: str, config: ConsumerConfig) -> None:
        """Raises `Refusal`."""
        self.stream(stream).create_consumer(config)

    def delete_consumer(self, stream: str, name: str) -> None:
        """Raises `Refusal`."""
        self.stream(stream).delete_consumer(name)

    def ask(self, stream: str, consumer: str, puller: Puller, count: int) -> None:
        """`puller` takes so many messages more. Raises `NobodyListens` when there is no such consumer."""
        try:
            found = self.stream(stream).consumer(consumer)
        except Refusal:
            raise NobodyListens from None
        found.ask(puller, count)

    def forget(self, stream: str, consumer: str, puller: Puller) -> None:
        """`puller` listens no longer."""
        found = self.streams.get(stream)
        if found is not None and consumer in found.consumers:
            found.consumers[consumer].forget(puller)

    def acknowledge(self, reply: str, verdict: str, delay_ns: int | None = None) -> None:
        """`reply` is a delivery's; `verdict` is `ack`, `nak` or `wpi`. What concerns no consumer does nothing."""
        parts = reply.split(".")
        if len(parts) != _ACK_PARTS or parts[0] != "$JS" or parts[1] != "ACK":
            return
        stream = self.streams.get(parts[2])
        consumer = stream.consumers.get(parts[3]) if stream is not None else None
        if consumer is None:
            return
        if verdict == "ack":
            consumer.ack(int(parts[5]))
        elif verdict == "nak":
            consumer.nak(int(parts[5]), int(parts[6]), delay_ns)
        else:
            consumer.in_progress(int(parts[5]))

    # -- outside the streams -----------------------------------------------------------------------
    def tell(self, subject: str, data: bytes, writer: object) -> None:
        """Publishes to whoever listens; a stream that binds the subject stores it, and nobody is told."""
        for hook in self.on_tell:
            hook(subject, data, writer)
        stream = self.stream_of(subject)
        self.core.route(subject, data)
        if stream is not None:
            try:
                stream.publish(Publish(subject, data), writer)
            except Refusal:
                return

    def request(self, subject: str, data: bytes, reply: str, writer: object) -> bytes | None:
        """The answer of the server's own API; None when somebody else may answer on `reply`.

        Raises `NobodyListens`.
        """
        if subject.startswith(api.PREFIX):
            return api.answer(self, subject, data, writer)
        stream = self.stream_of(subject)
        if not self.core.route(subject, data, reply) and stream is None:
            raise NobodyListens
        if stream is None:
            return None
        return api.publish_answer(stream, Publish(subject, data), writer)


def _overlap(some: Sequence[str], others: Sequence[str]) -> bool:
    return any(overlap(one, other) for one in some for other in others)
