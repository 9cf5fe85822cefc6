"""One connection to JetStream: pipelined publishes with one inbox, atomic batches, leader reads, pulls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from dressage.brokers.interface import (
    BATCH_MESSAGES_MAX,
    SERVERS_MISSING,
    ConsumerConfig,
    ConsumerState,
    Delivery,
    DeliveryCallback,
    EndCallback,
    HeardCallback,
    Message,
    RequestCallback,
    Stored,
    StoredMessage,
    StreamConfig,
    StreamState,
)
from dressage.brokers.jetstream import wire
from dressage.brokers.jetstream.hot import HotClient, publish_command
from dressage.brokers.jetstream.pulling import StandingPull
from dressage.brokers.jetstream.unserved import Unserved
from dressage.protocol.errors import (
    BadInput,
    BrokerError,
    DressageError,
    InvariantBroken,
    NoAnswer,
    NoLeader,
    OutcomeUnknown,
    PublishRefused,
    Unheard,
)

_log = logging.getLogger("dressage.brokers")

ANSWER_S: Final = 5.0
"""How long a write or a read may take before its outcome counts as unknown."""

SWEEP_S: Final = 0.25
FLUSH_S: Final = 1.0
"""How long a closing connection waits for the server to know that its pulls are gone."""

FLUSHES: Final = 10
"""So often that is waited for by who begins to serve a subject, as long as there is a link."""

AGAIN_S: Final = 0.5
AGAIN_MAX: Final = 20
"""So many reads are asked again at a time: a server that is merely slow must not be slowed down further."""

OVERLAP: Final = 1_000
"""So many subjects of a long list are asked for a second time."""

_UNAVAILABLE: Final = b'"err_code":10008,'
"""JetStream has no leader that could answer."""

_ERROR_BYTES_MAX: Final = 500
_STREAM_NOT_FOUND: Final = 10059
_CONSUMER_NOT_FOUND: Final = 10014
_NOT_THERE: Final = ("no message found", "stream store EOF")
"""What a deletion is answered of a message that is not there, with a number that says that it failed."""
_SEQUENCE_NOT_FOUND: Final = 10043
"""The same of one that was there, and has others before and behind it."""

COUNTED_S: Final = 5.0
"""A consumer that counts, and was not deleted, is gone after so long."""

_NO_MESSAGE: Final = 10037
_STREAM_EXISTS: Final = 10058
_NO_PEERS: Final = 10005
"""A cluster without so many servers as a stream wants replicas: too small, or one of them is away."""

_UNSAFE: Final = re.compile("[ \\r\\n\\t]")

_T = TypeVar("_T")


class _Waiting(NamedTuple):
    """A request without an answer so far; `settle` decodes one into the future.

    It is `ours` if it needs a stream of the engine's own, so that no answer means that something is wrong.
    """

    future: asyncio.Future[Any]
    settle: Callable[[bytes], None]
    deadline: float
    write: bool
    ours: bool


class JetStreamConnection:
    """See `dressage.brokers.interface.Connection`."""

    def __init__(
        self, *, name: str, reconnect: bool, on_unserved: Callable[[str], None] = lambda _: None
    ) -> None:
        """`on_unserved` gets the address of a server that leaves requests without the answer of a leader."""
        self.nats = HotClient()
        self.lost = asyncio.Event()
        self._name = name
        self._reconnect = reconnect
        self._waiting: dict[str, _Waiting] = {}
        self._again: dict[str, tuple[bytes, float]] = {}
        self._next_token = 0
        self._inbox = ""
        self._pulls: set[StandingPull] = set()
        self._tasks: set[asyncio.Future[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._on_unserved = on_unserved
        self._unserved = Unserved()

    # -- life --------------------------------------------------------------------------------------
    async def open(self, servers: list[str]) -> None:
        await self.nats.connect(
            servers,
            name=self._name,
            allow_reconnect=self._reconnect,
            max_reconnect_attempts=-1 if self._reconnect else 0,
            reconnect_time_wait=0.2,
            dont_randomize=True,
            connect_timeout=3,
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=64 * 1024 * 1024,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_close,
            skip_subject_validation=True,
        )
        self._inbox = self.nats.new_inbox()
        await self.nats.subscribe_direct(f"{self._inbox}.*", self._on_answer)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._fail_waiting("the connection was closed")
        pulls = list(self._pulls)
        for pull in pulls:
            await pull.close()
        if pulls and self._reconnect and self.nats.is_connected:
            # Until the server knows, it gives messages to pulls that are gone; they would come again after an ack wait.
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await self.nats.flush(FLUSH_S)  # type: ignore[arg-type]  # seconds may be fractions
        self.lost.set()
        if not self.nats.is_closed:
            try:
                await self.nats.close()
            except Exception as error:
                _log.debug("closing %s: %s", self._name, error)

    @property
    def linked(self) -> bool:
        return self.nats.is_connected

    @property
    def payload_bytes_max(self) -> int:
        return self.nats.max_payload

    def new_inbox(self) -> str:
        return self.nats.new_inbox()

    async def _on_error(self, error: Exception) -> None:
        _log.debug("connection %s: %s", self._name, error)

    async def _on_disconnect(self) -> None:
        self._fail_waiting("the connection was lost")
        if not self._reconnect:
            self.lost.set()

    async def _on_reconnect(self) -> None:
        for pull in list(self._pulls):
            await pull.restart()

    async def _on_close(self) -> None:
        self._fail_waiting("the connection was closed")
        self.lost.set()

    # -- requests with one inbox -------------------------------------------------------------------
    def _expect(
        self, settle: Callable[[bytes, asyncio.Future[_T]], None], *, ours: bool = True
    ) -> tuple[str, asyncio.Future[_T]]:
        if self.lost.is_set():
            raise OutcomeUnknown(f"connection {self._name} is closed: nothing was sent")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._next_token += 1
        token = f"{self._inbox}.{self._next_token}"
        write = settle is _settle_ack
        deadline = loop.time() + ANSWER_S
        self._waiting[token] = _Waiting(future, lambda data: settle(data, future), deadline, write, ours)
        return token, future

    def _on_answer(self, subject: str, _reply: str, data: bytes, headers: bytes) -> None:
        unheard = not data and wire.status_of(headers)[0] == "503"
        entry = self._waiting.get(subject)
        if entry is not None and not entry.ours and not unheard and not wire.is_pub_ack(data):
            return  # Whoever else listens there may answer what he likes.
        self._waiting.pop(subject, None)
        self._again.pop(subject, None)
        if entry is None:
            return
        future, settle, _, write, ours = entry
        if future.done():
            return
        if unheard:
            if ours:
                self._note_unserved(write)
            future.set_exception(Unheard("nobody listens: the stream does not exist or has no leader"))
            return
        if _UNAVAILABLE in data and len(data) < _ERROR_BYTES_MAX:
            if ours:
                self._note_unserved(write)
            future.set_exception(NoLeader("JetStream has no leader that this server reaches at the moment"))
            return
        try:
            settle(data)
        except Exception as error:
            future.set_exception(BrokerError(f"unreadable answer from the server: {error}"))
        if ours and not self._unserved.certain:
            self._unserved.answered(stored=write and future.exception() is None)

    def _fail_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        self._again.clear()
        for entry in waiting.values():
            if not entry.future.done():
                entry.future.set_exception(OutcomeUnknown(why))
                entry.future.exception()

    async def _sweep(self) -> None:
        """One timer for all waiting futures: a timer for each would cost more than the publish itself."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            self._ask_again(now)
            overdue = [token for token, entry in self._waiting.items() if entry.deadline < now]
            for token in overdue:
                future, _, _, write, ours = self._waiting.pop(token)
                if not future.done():
                    future.set_exception(OutcomeUnknown(f"no answer from the server in {ANSWER_S:g} s"))
                    future.exception()
                if ours:
                    self._note_unserved(write)
            await self._leave_if_unserved(now)

    def _ask_again(self, now: float) -> None:
        """A read that reaches the server while its stream elects a leader is dropped, and nobody says so."""
        for token, (command, due) in list(self._again.items())[:AGAIN_MAX]:
            entry = self._waiting.get(token)
            if entry is None or entry.future.done():
                del self._again[token]
            elif due <= now:
                with contextlib.suppress(DressageError):
                    self.nats.write(command)
                self._again[token] = (command, now + AGAIN_S)

    def _note_unserved(self, write: bool) -> None:
        """A request got no answer of a leader. That is an election, or this server is cut off from the others."""
        self._unserved.failed(asyncio.get_running_loop().time(), write=write)
        if self.nats.connected_url is not None:
            self._on_unserved(self.nats.connected_url.netloc)

    async def _leave_if_unserved(self, now: float) -> None:
        """A server that is cut off from its cluster keeps its clients, who would be cut off for as long as it is."""
        if not self._unserved.too_long(now):
            return
        self._unserved.forget()
        if self._reconnect and len(self.nats.servers) > 1:
            _log.info("connection %s: going to another server, this one reaches no leader", self._name)
            await self.nats.force_reconnect()

    def _command(self, subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> bytes:
        """Raises `BadInput` for what the server would never take."""
        try:
            if len(data) + len(headers) > self.nats.max_payload:
                raise BadInput(
                    f"a message of {len(data) + len(headers)} bytes exceeds the server's max_payload of "
                    f"{self.payload_bytes_max}: make it smaller or raise max_payload (limit payload-size)",
                    code="PAYLOAD_TOO_LARGE",
                )
            if _UNSAFE.search(subject):
                raise BadInput(f"subject {subject!r} holds a space or a line break")
        except BadInput:
            self._waiting.pop(reply, None)
            raise
        return publish_command(subject, reply, data, headers)

    def write(self, subject: str, data: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Raises `OutcomeUnknown` without a connection, `BadInput` for what the server would never take."""
        self._send_command(self._command(subject, data, reply, headers), reply)

    def _send_command(self, command: bytes, reply: str) -> None:
        try:
            self.nats.write(command)
        except DressageError:
            self._waiting.pop(reply, None)
            raise

    # -- writing -----------------------------------------------------------------------------------
    def send(self, message: Message) -> asyncio.Future[Stored]:
        token, future = self._expect(_settle_ack)
        self.write(message.subject, message.data, token, wire.header_block(message))
        return future

    async def publish(self, message: Message) -> Stored:
        return await self.send(message)

    async def publish_elsewhere(self, message: Message) -> Stored:
        token, future = self._expect(_settle_ack, ours=False)
        self.write(message.subject, message.data, token, wire.header_block(message))
        return await future

    async def publish_batch(self, messages: Sequence[Message]) -> Stored:
        if not 0 < len(messages) <= BATCH_MESSAGES_MAX:
            raise InvariantBroken(
                f"a batch of {len(messages)} messages: 1 to {BATCH_MESSAGES_MAX} are possible"
            )
        if len(messages) == 1:
            return await self.publish(messages[0])
        # A batch id must never be used twice in the life of a stream: the server would join the parts of
        # two writers into one batch.
        batch_id = uuid.uuid4().hex
        commands: list[bytes] = []
        for number, message in enumerate(messages[:-1], 1):
            lines = wire.batch_lines(batch_id, number, commit=False)
            commands.append(
                self._command(message.subject, message.data, "", wire.header_block(message, lines))
            )
        last = messages[-1]
        lines = wire.batch_lines(batch_id, len(messages), commit=True)
        block = wire.header_block(last, lines)
        token, future = self._expect(_settle_ack)
        commands.append(self._command(last.subject, last.data, token, block))
        self._send_command(b"".join(commands), token)
        return await future

    # -- reading -----------------------------------------------------------------------------------
    async def _api(self, subject: str, body: object) -> bytes:
        token, future = self._expect(_settle_bytes)
        self.write(f"$JS.API.{subject}", msgspec.json.encode(body) if body is not None else b"", token)
        return await future

    def _read(
        self, subject: str, body: bytes, settle: Callable[[bytes, asyncio.Future[_T]], None]
    ) -> asyncio.Future[_T]:
        """A request that is asked again while nobody answers; see `_ask_again`."""
        token, future = self._expect(settle)
        command = self._command(f"$JS.API.{subject}", body, token)
        self._send_command(command, token)
        self._again[token] = (command, asyncio.get_running_loop().time() + AGAIN_S)
        return future

    def request_last(self, stream: str, subject: str) -> asyncio.Future[StoredMessage | None]:
        body = b'{"last_by_subj":"' + subject.encode() + b'"}'
        return self._read(f"STREAM.MSG.GET.{stream}", body, _settle_message)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        return await self.request_last(stream, subject)

    async def next_message(self, stream: str, seq: int, subject: str) -> StoredMessage | None:
        body = msgspec.json.encode({"seq": seq, "next_by_subj": subject})
        return await self._read(f"STREAM.MSG.GET.{stream}", body, _settle_message)

    # -- streams and consumers ---------------------------------------------------------------------
    async def ensure_stream(self, config: StreamConfig) -> None:
        body = _stream_body(config)
        reply = wire.plain_reply.decode(await self._api(f"STREAM.CREATE.{config.name}", body))
        if reply.error is not None and reply.error.err_code == _STREAM_EXISTS:
            reply = wire.plain_reply.decode(await self._api(f"STREAM.UPDATE.{config.name}", body))
        if reply.error is not None:
            raise stream_refused(config, reply.error)

    async def stream_state(self, stream: str, subjects: str | None = None) -> StreamState | None:
        reply = await self._stream_info(stream, subjects, 0)
        if reply is None:
            return None
        state, config = reply.state or wire.StreamStateReply(), reply.config or wire.StreamConfigReply()
        found = state.subjects or {}
        if subjects and len(found) < reply.total:
            found |= await self._further_subjects(stream, subjects, found)
        return StreamState(
            state.first_seq,
            state.last_seq,
            state.messages,
            config.num_replicas,
            found,
            wire.nanoseconds(reply.ts),
        )

    async def _further_subjects(self, stream: str, subjects: str, first: dict[str, int]) -> dict[str, int]:
        """Those that a first answer had no room for.

        Answers hold parts of a sorted list, and that may become shorter meanwhile. So the next one begins a bit before
        the end of the last one: where it does not reach back to it, something may be missing.
        """
        found: dict[str, int] = {}
        end, last, overlap = len(first), max(first), OVERLAP
        while True:
            offset = max(0, end - overlap)
            reply = await self._stream_info(stream, subjects, offset)
            page = {} if reply is None or reply.state is None else reply.state.subjects or {}
            if offset and (not page or min(page) > last):
                overlap *= 2
                continue
            found |= page
            if reply is None or offset + len(page) >= reply.total or not page:
                return found
            end, last, overlap = offset + len(page), max(page), OVERLAP

    async def _stream_info(self, stream: str, subjects: str | None, offset: int) -> wire.StreamReply | None:
        asked = {"subjects_filter": subjects, "offset": offset} if offset else {"subjects_filter": subjects}
        body = msgspec.json.encode(asked) if subjects else b""
        answer = await self._read(f"STREAM.INFO.{stream}", body, _settle_bytes)
        reply = wire.stream_reply.decode(answer)
        if reply.error is None:
            return reply
        if reply.error.err_code == _STREAM_NOT_FOUND:
            return None
        raise BrokerError(f"stream {stream}: {reply.error.description}")

    async def consumers(self, stream: str) -> list[str]:
        found: list[str] = []
        while True:
            body = msgspec.json.encode({"offset": len(found)})
            names = await self._read(f"CONSUMER.NAMES.{stream}", body, _settle_bytes)
            reply = wire.consumer_names_reply.decode(names)
            if reply.error is not None:
                raise BrokerError(f"consumers of stream {stream}: {reply.error.description}")
            found += reply.consumers or []
            if not reply.consumers or len(found) >= reply.total:
                return found

    async def consumer_stands(self, stream: str, consumer: str) -> bool:
        """False only if the server knows that there is none."""
        reply = wire.consumer_reply.decode(await self._api(f"CONSUMER.INFO.{stream}.{consumer}", None))
        return reply.error is None or reply.error.err_code not in (_CONSUMER_NOT_FOUND, _STREAM_NOT_FOUND)

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        reply = wire.consumer_reply.decode(await self._api(f"CONSUMER.INFO.{stream}.{consumer}", None))
        if reply.error is not None:
            raise BrokerError(f"consumer {consumer} of {stream}: {reply.error.description}")
        return ConsumerState(reply.ack_floor.stream_seq, reply.num_ack_pending, reply.delivered.stream_seq)

    async def count_behind(self, stream: str, subject: str, seq: int) -> int:
        # A server counts them for a consumer that it makes; what it goes on to count for one drifts behind purges.
        name = f"count_{uuid.uuid4().hex}"
        config = ConsumerConfig(
            *(name, [subject]),
            durable=False,
            explicit_ack=False,
            memory=True,
            inactive_s=COUNTED_S,
            start_seq=seq + 1,
        )
        body = {"stream_name": stream, "config": _consumer_body(config), "action": ""}
        reply = wire.consumer_reply.decode(await self._api(f"CONSUMER.CREATE.{stream}.{name}", body))
        if reply.error is not None:
            raise BrokerError(f"counting in stream {stream}: {reply.error.description}")
        await self.delete_consumer(stream, name)
        return reply.num_pending

    async def purge(self, stream: str, subjects: str, below: int) -> None:
        if below <= 1:
            return  # Nothing can stand there, and nats-server 2.12.1 would take it for everything.
        body = {"filter": subjects, "seq": below}
        reply = wire.plain_reply.decode(await self._api(f"STREAM.PURGE.{stream}", body))
        if reply.error is not None:
            raise BrokerError(f"purging {subjects} of {stream}: {reply.error.description}")

    async def delete_message(self, stream: str, seq: int) -> None:
        reply = wire.plain_reply.decode(await self._api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq}))
        if reply.error is None or reply.error.err_code == _SEQUENCE_NOT_FOUND:
            return
        if reply.error.description not in _NOT_THERE:
            raise BrokerError(f"deleting message {seq} of {stream}: {reply.error.description}")

    async def create_consumer(self, stream: str, config: ConsumerConfig) -> None:
        body = {"stream_name": stream, "config": _consumer_body(config), "action": ""}
        reply = wire.plain_reply.decode(await self._api(f"CONSUMER.CREATE.{stream}.{config.name}", body))
        if reply.error is not None:
            raise PublishRefused(
                f"consumer {config.name} of {stream}: {reply.error.description}",
                err_code=reply.error.err_code,
            )

    async def delete_consumer(self, stream: str, name: str) -> None:
        reply = wire.plain_reply.decode(await self._api(f"CONSUMER.DELETE.{stream}.{name}", None))
        if reply.error is not None and reply.error.err_code != _CONSUMER_NOT_FOUND:
            raise BrokerError(f"consumer {name} of {stream}: {reply.error.description}")

    async def pull(
        self, stream: str, consumer: str, window: int, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> StandingPull:
        pull = StandingPull(self, stream, consumer, window, on_delivery, on_end)
        self._pulls.add(pull)
        await pull.start()
        return pull

    def keep(self, task: asyncio.Future[None]) -> None:
        """Holds on to a task until it is done: the loop itself would not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget_pull(self, pull: StandingPull) -> None:
        self._pulls.discard(pull)

    async def ack(self, delivery: Delivery) -> None:
        await self.tell(delivery.reply, b"")

    async def nak(self, delivery: Delivery, delay_s: float = 0.0) -> None:
        await self.tell(delivery.reply, b'-NAK {"delay":%d}' % int(delay_s * 1e9))

    async def in_progress(self, delivery: Delivery) -> None:
        await self.tell(delivery.reply, b"+WPI")

    # -- outside the streams -----------------------------------------------------------------------
    async def tell(self, subject: str, data: bytes) -> None:
        self.write(subject, data)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        try:
            return (await self.nats.request(subject, data, timeout=timeout_s)).data
        except nats.errors.NoRespondersError as error:
            raise NoAnswer(
                f"nobody listens on {subject}: is an orchestrator running for this namespace?"
            ) from error
        except (TimeoutError, nats.errors.TimeoutError) as error:
            raise NoAnswer(f"no answer on {subject} in {timeout_s:g} s") from error
        except nats.errors.Error as error:
            raise NoAnswer(f"request on {subject} failed: {error}") from error

    async def serve(self, subject: str, callback: RequestCallback, queue: str = "") -> _Served:
        async def on_message(msg: Msg) -> None:
            await callback(msg.subject, msg.data, msg.reply)

        return await self._known(await self.nats.subscribe(subject, queue=queue, cb=on_message))

    async def listen(self, subject: str, callback: HeardCallback, queue: str = "") -> _Served:
        def on_message(subject: str, reply: str, data: bytes, headers: bytes) -> None:
            callback(Delivery(subject, data, wire.parse_headers(headers), 0, 0, 1, 0, reply))

        return await self._known(await self.nats.subscribe_direct(subject, on_message, queue))

    async def _known(self, subscription: NatsSubscription) -> _Served:
        """Once the server knows of it: a busy one may be slow to say so. Without a link it hears of it later."""
        for _ in range(FLUSHES):
            try:
                await self.nats.flush(FLUSH_S)  # type: ignore[arg-type]  # seconds may be fractions
                break
            except nats.errors.FlushTimeoutError:
                if not self.nats.is_connected:
                    break
        return _Served(self.nats, subscription)


class _Served:
    def __init__(self, client: HotClient, subscription: NatsSubscription) -> None:
        self._client = client
        self._subscription = subscription

    async def close(self) -> None:
        self._client.forget_direct(self._subscription)
        try:
            await self._subscription.unsubscribe()
        except nats.errors.Error as error:
            _log.debug("unsubscribing: %s", error)


def _settle_ack(data: bytes, future: asyncio.Future[Stored]) -> None:
    ack = wire.pub_ack.decode(data)
    if ack.error is not None:
        future.set_exception(
            PublishRefused(
                f"the server refused a publish: {ack.error.description} (err_code {ack.error.err_code})",
                err_code=ack.error.err_code,
            )
        )
    else:
        future.set_result(Stored(ack.seq, ack.duplicate))


def _settle_bytes(data: bytes, future: asyncio.Future[bytes]) -> None:
    future.set_result(data)


def _settle_message(data: bytes, future: asyncio.Future[StoredMessage | None]) -> None:
    reply = wire.message_reply.decode(data)
    if reply.message is not None:
        found = reply.message
        headers, time_ns = wire.parse_headers(found.hdrs), wire.nanoseconds(found.time)
        future.set_result(StoredMessage(found.subject, found.seq, found.data, headers, time_ns))
    elif reply.error is not None and reply.error.err_code == _NO_MESSAGE:
        future.set_result(None)
    else:
        description = reply.error.description if reply.error else "empty answer"
        future.set_exception(BrokerError(f"reading from a stream failed: {description}"))


def stream_refused(config: StreamConfig, error: wire.ApiError) -> BrokerError:
    """Why a stream is not as it must be, and what helps if the cluster has too few servers for it."""
    if error.err_code == _NO_PEERS:
        return BrokerError(
            f"stream {config.name} wants {config.replicas} replicas, and fewer servers of the cluster are up: start "
            f"the missing ones, or start the orchestrators with fewer --replicas ({error.description})",
            code=SERVERS_MISSING,
        )
    return BrokerError(
        f"stream {config.name} cannot be created or brought to its configuration: {error.description}",
        code="STREAM_UNSUITABLE",
    )


def _stream_body(config: StreamConfig) -> dict[str, object]:
    return {
        "name": config.name,
        "description": config.description,
        "subjects": list(config.subjects),
        "retention": "limits",
        "storage": "file",
        "num_replicas": config.replicas,
        # A stream with schedules cannot have "new"; having no limits either, it discards nothing.
        "discard": "new" if config.per_subject_max > 0 else "old",
        "max_msgs_per_subject": config.per_subject_max,
        "max_age": int(config.max_age_s * 1e9),
        "duplicate_window": int(config.duplicates_s * 1e9),
        "allow_atomic": True,
        "allow_msg_schedules": config.schedules,
        "allow_msg_ttl": config.message_ttl,
        "allow_rollup_hdrs": True,
        "allow_direct": config.direct_reads,
    }


def _consumer_body(config: ConsumerConfig) -> dict[str, object]:
    body: dict[str, object] = {
        "name": config.name,
        "filter_subjects": list(config.filters),
        "ack_policy": "explicit" if config.explicit_ack else "none",
        "ack_wait": int(config.ack_wait_s * 1e9),
        "max_ack_pending": config.max_ack_pending,
        "max_deliver": -1,
        "max_waiting": 512,
        "mem_storage": config.memory,
        "inactive_threshold": int(config.inactive_s * 1e9),
    }
    if config.memory:
        body["num_replicas"] = 1
    if config.durable:
        body["durable_name"] = config.name
    if config.start_seq is not None:
        body |= {"deliver_policy": "by_start_sequence", "opt_start_seq": config.start_seq}
    elif config.start_time is not None:
        body |= {"deliver_policy": "by_start_time", "opt_start_time": config.start_time}
    if not config.explicit_ack:
        del body["max_ack_pending"]
    return body
