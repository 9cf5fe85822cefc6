"""What the engine needs of a broker, and nothing more.

Two implementations share this interface and one contract: `jetstream` talks to a real nats-server; the
simulated one lives in memory. A `Connection` is what dies with its process: once it is closed or lost nothing
more of it takes effect, and everything that was in flight on it fails with `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec

BATCH_MESSAGES_MAX: Final = 1000
"""JetStream refuses a larger atomic batch (err_code 10199)."""

WRONG_LAST_SEQUENCE: Final = 10071
"""The compare-and-set failed: somebody else has written. (ADR-50 uses the same code for batches.)"""

FENCE_IN_PROCESS: Final = 10164
"""The subject of the compare-and-set has a write in process: no verdict, send again."""

SERVERS_MISSING: Final = "SERVERS_MISSING"
"""Code of the error that a stream cannot have as many replicas as it wants, because a server of its cluster is away
or does not exist: the former passes."""

CONSUMER_DELETED: Final = "Consumer Deleted"
"""Why a pull ended whose consumer somebody removed."""


class Expect(msgspec.Struct, frozen=True, gc=False):
    """Compare-and-set: the last message on `subject` must have sequence `seq` (0: none yet).

    `subject` None means the subject of the message itself.
    """

    seq: int
    subject: str | None = None


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """Turns the message into a timer: at `at` (RFC 3339) the server publishes its data to `target`."""

    at: str
    target: str


class Message(msgspec.Struct, gc=False):
    """Something to publish.

    `lines` are further headers, already written as `name: value` with a CRLF behind each, for the hot path.
    `never_expires` exempts it from the stream's age limit; the server removes one that `expires_s` after so long, which
    is 1 s at least.
    `rollup` keeps this message as the only one on its subject. `cancels` names a timer's subject: storing this
    message removes the timer. That is harmless when it is not there, and a message that is refused removes nothing;
    but it needs a message on another subject than the timer's, and one without `rollup` and `schedule`: 2.12.1
    ignores it beside them. `msg_id` makes the server drop a repeat within its duplicate window, which is
    an optimisation and never a guarantee.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str] | None = None
    lines: str = ""
    expect: Expect | None = None
    rollup: bool = False
    schedule: Schedule | None = None
    cancels: str | None = None
    msg_id: str | None = None
    never_expires: bool = False
    expires_s: int = 0


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Where a publish ended up. `duplicate` means the server knew the message id: no proof of ownership."""

    seq: int
    duplicate: bool = False


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """`time_ns` is when the stream's leader stored it."""

    subject: str
    seq: int
    data: bytes
    headers: Mapping[str, str] | None
    time_ns: int = 0


class Delivery(msgspec.Struct, gc=False):
    """A message from a consumer, or one that was heard. `time_ns` is when the stream's leader stored it."""

    subject: str
    data: bytes
    headers: Mapping[str, str] | None
    stream_seq: int
    consumer_seq: int
    attempts: int
    time_ns: int
    reply: str


@dataclass(slots=True, frozen=True)
class StreamConfig:
    """`duplicate_window_s` is for how long message ids are remembered; a stream with an age limit below it, so long."""

    name: str
    subjects: Sequence[str]
    replicas: int = 1
    schedules: bool = False
    message_ttl: bool = False
    direct_reads: bool = False
    per_subject_max: int = -1
    max_age_s: float = 0.0
    duplicate_window_s: float = 120.0
    description: str = ""

    @property
    def duplicates_s(self) -> float:
        """For how long message ids are remembered in the end."""
        return min(self.duplicate_window_s, self.max_age_s or self.duplicate_window_s)


@dataclass(slots=True, frozen=True)
class ConsumerConfig:
    """A pull consumer. `max_ack_pending` -1 is unlimited; redelivery is always unlimited.

    It begins with the stream's first message, or at sequence `start_seq`, or with what was stored at `start_time` (RFC
    3339) or later; never both.

    `memory` keeps it in the memory of one server, whatever the stream's replicas: it is lost with that server.
    """

    name: str
    filters: Sequence[str]
    durable: bool = True
    ack_wait_s: float = 60.0
    max_ack_pending: int = -1
    explicit_ack: bool = True
    start_seq: int | None = None
    start_time: str | None = None
    memory: bool = False
    inactive_s: float = 0.0


@dataclass(slots=True, frozen=True)
class StreamState:
    """`subjects` has all that were asked for, with how many messages each has; `time_ns` is the time by the stream's
    leader."""

    first_seq: int
    last_seq: int
    messages: int
    replicas: int
    subjects: Mapping[str, int] = field(default_factory=dict[str, int])
    time_ns: int = field(default=0, compare=False)


class ConsumerState(NamedTuple):
    """`floor` is the stream sequence up to which every message of this consumer is acknowledged, and `delivered` that
    of its last delivery; `out` is how many are delivered, and not acknowledged."""

    floor: int
    out: int
    delivered: int = 0


class Subscription(Protocol):
    async def close(self) -> None: ...


class Pull(Subscription, Protocol):
    """Deliveries that were asked for and those that are held never exceed the window: it bounds memory."""

    async def taken(self, count: int = 1) -> None:
        """Tells that `count` deliveries are dealt with."""
        ...


DeliveryCallback = Callable[[Delivery], Awaitable[None] | None]
"""Called in order of delivery; what it awaits runs beside the next deliveries."""
EndCallback = Callable[[str], None]
HeardCallback = Callable[[Delivery], None]
"""Called in the order in which messages come."""
RequestCallback = Callable[[str, bytes, str], Awaitable[None]]
"""Gets subject, data and the subject to answer on (empty if nobody waits)."""


async def all_of(waiting: Sequence[asyncio.Future[Stored]]) -> list[Stored]:
    """Every acknowledgement, awaited to the last even when one fails; then raises the first failure."""
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if isinstance(each, Stored)]


class Connection(Protocol):
    """One connection of one process."""

    @property
    def lost(self) -> asyncio.Event:
        """Set once the connection is closed or lost for good."""
        ...

    @property
    def linked(self) -> bool:
        """Whether there is a server at its other end now."""
        ...

    # -- writing: raises PublishRefused, or OutcomeUnknown when no answer came ---------------------
    def send(self, message: Message) -> asyncio.Future[Stored]:
        """Publishes without waiting; the future gives the acknowledgement. Order on one connection is kept."""
        ...

    async def publish(self, message: Message) -> Stored: ...

    async def publish_elsewhere(self, message: Message) -> Stored:
        """Publishes to a stream that is somebody else's, and may not be there: then it raises `Unheard`.

        What becomes of it says nothing about this server. What is answered by others than a stream does not count.
        """
        ...

    async def publish_batch(self, messages: Sequence[Message]) -> Stored:
        """Stores all messages in one block of the stream, or none; gives the sequence of the last."""
        ...

    # -- reading, from the stream's leader ---------------------------------------------------------
    def request_last(self, stream: str, subject: str) -> asyncio.Future[StoredMessage | None]:
        """Like `last_message`, without waiting."""
        ...

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None: ...

    async def next_message(self, stream: str, seq: int, subject: str) -> StoredMessage | None:
        """The first message at or after `seq` on a subject that matches."""
        ...

    # -- streams and consumers ---------------------------------------------------------------------
    async def ensure_stream(self, config: StreamConfig) -> None:
        """Raises `BrokerError`: STREAM_UNSUITABLE, or SERVERS_MISSING, which may pass."""
        ...

    async def stream_state(self, stream: str, subjects: str | None = None) -> StreamState | None: ...

    async def consumers(self, stream: str) -> list[str]: ...

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        """Raises `BrokerError` also where there is no such consumer."""
        ...

    async def count_behind(self, stream: str, subject: str, seq: int) -> int:
        """How many messages of a subject stand behind a sequence."""
        ...

    async def purge(self, stream: str, subjects: str, below: int) -> None:
        """Removes what stands below sequence `below` on matching subjects, in one write however much it is."""
        ...

    async def delete_message(self, stream: str, seq: int) -> None:
        """Removes one message, and overwrites what it held; one that is not there is no error."""
        ...

    async def create_consumer(self, stream: str, config: ConsumerConfig) -> None: ...

    async def delete_consumer(self, stream: str, name: str) -> None: ...

    async def pull(
        self, stream: str, consumer: str, window: int, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> Pull:
        """Keeps up to `window` deliveries asked for or held; `on_end` is told why no more will come."""
        ...

    async def ack(self, delivery: Delivery) -> None: ...

    async def nak(self, delivery: Delivery, delay_s: float = 0.0) -> None: ...

    async def in_progress(self, delivery: Delivery) -> None: ...

    # -- outside the streams -----------------------------------------------------------------------
    async def tell(self, subject: str, data: bytes) -> None:
        """Publishes to whoever listens now; nothing is stored or acknowledged."""
        ...

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Raises `NoAnswer` when nobody listens or nobody answers in time."""
        ...

    async def serve(self, subject: str, callback: RequestCallback, queue: str = "") -> Subscription:
        """Who asks after it has returned finds it, unless the link is down: then once it is up again."""
        ...

    async def listen(self, subject: str, callback: HeardCallback, queue: str = "") -> Subscription:
        """As `serve`, with headers, and without waiting for what the callback begins.

        What comes has no place in a stream: its numbers are 0, and its `reply` is for who waits for an answer.
        """
        ...

    def new_inbox(self) -> str: ...

    @property
    def payload_bytes_max(self) -> int: ...

    async def close(self) -> None: ...


class Broker(Protocol):
    async def connect(self, name: str, *, reconnect: bool = False) -> Connection:
        """A new connection. Without `reconnect` it is lost at the first interruption, as an owner needs it."""
        ...
