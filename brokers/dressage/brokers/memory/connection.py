"""One connection to the memory server, over asyncio: the same promises, errors and silences as the real one.

Whatever a method sends arrives later, never within the call, in the order of the calls; what comes back does so in
order too. `cut` and `kill` are for simulations: the link breaks, or the whole process dies, at that very instant.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from dressage.brokers.interface import (
    BATCH_MESSAGES_MAX,
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
from dressage.brokers.jetstream.wire import batch_lines
from dressage.brokers.memory.core import Subscribed
from dressage.brokers.memory.link import Arrive, Link
from dressage.brokers.memory.network import Network
from dressage.brokers.memory.pulling import MemoryPull
from dressage.brokers.memory.records import Publish, Record, arriving
from dressage.brokers.memory.refusals import CONSUMER_NOT_FOUND, NobodyListens, Refusal
from dressage.brokers.memory.server import PAYLOAD_BYTES_MAX, MemoryServer
from dressage.brokers.memory.serving import MemoryListening, MemoryServed
from dressage.protocol.errors import (
    BadInput,
    BrokerError,
    DressageError,
    InvariantBroken,
    NoAnswer,
    OutcomeUnknown,
    PublishRefused,
    Unheard,
)

_log = logging.getLogger("dressage.brokers")

ANSWER_S: Final = 5.0
"""How long a write or a read may take before its outcome counts as unknown."""

_UNSAFE: Final = re.compile("[ \\r\\n\\t]")

_T = TypeVar("_T")


class MemoryConnection:
    """See `dressage.brokers.interface.Connection`. `process` is what the broker was given as `writer`."""

    def __init__(
        self,
        server: MemoryServer,
        network: Network,
        process: object,
        name: str,
        *,
        reconnect: bool,
        reconnect_s: float,
        on_gone: Callable[[MemoryConnection], None],
    ) -> None:
        self.server = server
        self.network = network
        self.process = process
        self.name = name
        self.serial = server.next_serial()
        self.lost = asyncio.Event()
        self.linked = False
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._reconnect = reconnect
        self._reconnect_s = reconnect_s
        self._on_gone = on_gone
        self._dead = False
        self._out = Link(self._loop, contextvars.Context())
        self._in = Link(self._loop, self._context)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._requests: dict[str, asyncio.Future[bytes | None]] = {}
        self._answers = Subscribed(f"_INBOX.{self.serial}.answer.*", "", self._deliver_answer)
        self._numbers = 0
        self._pulls: dict[MemoryPull, None] = {}
        self._served: dict[MemoryServed, None] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"MemoryConnection({self.name!r}, {self.serial})"

    # -- life --------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Raises `OutcomeUnknown` when the server does not answer."""
        if not self.network.reachable(self):
            await asyncio.sleep(ANSWER_S)
            raise OutcomeUnknown("nobody answered in time")
        self.linked = True
        await self._ask("connect", self._attach)

    def _attach(self) -> None:
        if not self.linked:
            return
        self.server.core.add(self._answers)
        for served in self._served:
            served.on_subscribe()

    def _detach(self) -> None:
        """The server forgets what the connection has subscribed to and asked for."""
        self.server.core.remove(self._answers)
        for served in self._served:
            served.unlink()
        for pull in self._pulls:
            pull.unlink()

    async def close(self) -> None:
        """What was sent before still arrives."""
        if self.lost.is_set() or self._dead:
            return
        for pull in list(self._pulls):
            await pull.close()
        for served in list(self._served):
            await served.close()
            served.stop()
        if self.linked:
            self._out.put(0.0, self._on_leave)
        self.linked = False
        self._in.drop()
        self._fail_waiting("the connection was closed")
        self.lost.set()
        self._on_gone(self)

    def _on_leave(self, _took: float) -> None:
        self._detach()

    def cut(self) -> None:
        """The link breaks: nothing that is on its way arrives. It is made again later, if asked for at `connect`."""
        if not self.linked or self._dead:
            return
        self._unlink()
        self._fail_waiting("the connection was lost")
        if self._reconnect:
            self.call_later(self._reconnect_s, self._relink)
        else:
            self.lost.set()
            self._on_gone(self)

    def _unlink(self) -> None:
        self.linked = False
        self._out.drop()
        self._in.drop()
        self._detach()

    def _relink(self) -> None:
        if self._dead or self.lost.is_set():
            return
        if not self.network.reachable(self):
            self.call_later(self._reconnect_s, self._relink)
            return
        self.linked = True
        self._attach()
        for pull in list(self._pulls):
            pull.restart()

    def kill(self) -> None:
        """The process is dead: nothing of it is sent or called any more. What was on its way may still arrive."""
        if self._dead:
            return
        self._dead = True
        self.linked = False
        self._out.keep_while(lambda: self.network.survives(self))
        self._in.drop()
        self._detach()
        self._waiting.clear()
        self._requests.clear()
        self._on_gone(self)

    def _fail_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            _fail(future, OutcomeUnknown(why))

    @property
    def payload_bytes_max(self) -> int:
        return PAYLOAD_BYTES_MAX

    def new_inbox(self) -> str:
        self._numbers += 1
        return f"_INBOX.{self.serial}.{self._numbers}"

    # -- both directions ---------------------------------------------------------------------------
    def call_later(
        self, delay_s: float, callback: Callable[..., None], *arguments: Any
    ) -> asyncio.TimerHandle:
        """Calls in the client's context, unless the process is dead by then."""
        return self._loop.call_later(delay_s, self._unless_dead, callback, arguments, context=self._context)

    def _unless_dead(self, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._dead:
            callback(*arguments)

    def carry(self, kind: str, arrive: Arrive, *arguments: Any) -> bool:
        """Sends towards the server; False when it is lost on the way. Raises `OutcomeUnknown` without a link."""
        self._check_link()
        fate = self.network.outgoing(self, kind)
        if not fate.lost:
            self._out.put(fate.delay_s, arrive, *arguments)
        return not fate.lost

    def carry_always(self, kind: str, arrive: Arrive, *arguments: Any) -> None:
        """Sends what cannot get lost as long as there is a link; without one the server knows anyway."""
        if self.linked:
            self._out.put(self.network.outgoing(self, kind).delay_s, arrive, *arguments)

    def bring(self, kind: str, arrive: Arrive, *arguments: Any) -> bool:
        """Sends towards the client, called by the server; False when it is lost on the way."""
        if not self.linked:
            return False
        fate = self.network.incoming(self, kind)
        if not fate.lost:
            self._in.put(fate.delay_s, arrive, *arguments)
        return not fate.lost

    def _check_link(self) -> None:
        if self.lost.is_set() or self._dead:
            raise OutcomeUnknown(f"connection {self.name} is closed: nothing was sent")
        if not self.linked:
            raise OutcomeUnknown("there is no connection to the server: nothing was sent")

    # -- requests and their answers ----------------------------------------------------------------
    def _ask(self, kind: str, effect: Callable[..., _T], *arguments: Any) -> asyncio.Future[_T]:
        """`effect` happens at the server; the future gives what it returns or raises."""
        self._check_link()
        self._numbers += 1
        token = self._numbers
        future: asyncio.Future[_T] = self._loop.create_future()
        self._waiting[token] = future
        fate = self.network.outgoing(self, kind)
        if fate.lost:
            self.call_later(ANSWER_S, self._overdue, token)
            return future
        took = self._out.put(fate.delay_s, self._on_ask, token, effect, arguments)
        if took > ANSWER_S:
            self.call_later(ANSWER_S, self._overdue, token)
        return future

    def _on_ask(
        self, took: float, token: int, effect: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        """At the server."""
        answer: object
        try:
            answer = effect(*arguments)
        except NobodyListens:
            answer = Unheard("nobody listens: the stream does not exist or has no leader")
        except (Refusal, DressageError) as error:
            answer = error
        if not self.linked:
            return
        fate = self.network.incoming(self, "reply")
        left_s = max(0.0, ANSWER_S - took)
        silent = fate.lost or answer is _SILENCE
        if silent or self._in.put(fate.delay_s, self._settle, token, answer) > left_s:
            self.call_later(left_s, self._overdue, token)

    def _settle(self, _took: float, token: int, answer: object) -> None:
        future = self._waiting.pop(token, None)
        if future is None or future.done():
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _overdue(self, token: int) -> None:
        future = self._waiting.pop(token, None)
        if future is not None:
            _fail(future, OutcomeUnknown(f"no answer from the server in {ANSWER_S:g} s"))

    def _check_subject(self, subject: str, size: int) -> None:
        """Raises `BadInput` for what the server would never take."""
        if size > PAYLOAD_BYTES_MAX:
            raise BadInput(
                f"a message of {size} bytes exceeds the server's max_payload of {PAYLOAD_BYTES_MAX}: "
                "make it smaller or raise max_payload (limit payload-size)",
                code="PAYLOAD_TOO_LARGE",
            )
        if _UNSAFE.search(subject):
            raise BadInput(f"subject {subject!r} holds a space or a line break")

    # -- writing -----------------------------------------------------------------------------------
    def _arriving(self, message: Message, batch: str = "") -> Publish:
        publish = arriving(message, batch)
        self._check_subject(publish.subject, len(publish.data) + len(publish.block))
        return publish

    def send(self, message: Message) -> asyncio.Future[Stored]:
        self._check_link()
        return self._ask("send", self._on_send, self._arriving(message))

    def _on_send(self, publish: Publish) -> Stored:
        try:
            answer = self.server.publish(publish, self)
        except Refusal as refusal:
            raise _refused(refusal) from None
        return Stored(*answer) if answer is not None else _SILENCE

    async def publish(self, message: Message) -> Stored:
        return await self.send(message)

    async def publish_elsewhere(self, message: Message) -> Stored:
        return await self.send(message)

    async def publish_batch(self, messages: Sequence[Message]) -> Stored:
        if not 0 < len(messages) <= BATCH_MESSAGES_MAX:
            raise InvariantBroken(
                f"a batch of {len(messages)} messages: 1 to {BATCH_MESSAGES_MAX} are possible"
            )
        if len(messages) == 1:
            return await self.publish(messages[0])
        self._numbers += 1
        batch_id, last = f"{self.serial}-{self._numbers}", len(messages)
        batch = [
            self._arriving(message, batch_lines(batch_id, number, commit=number == last))
            for number, message in enumerate(messages, 1)
        ]
        return await self._ask("batch", self._on_batch, batch)

    def _on_batch(self, batch: list[Publish]) -> Stored:
        try:
            return Stored(self.server.publish_batch(batch, self))
        except Refusal as refusal:
            raise _refused(refusal) from None

    # -- reading -----------------------------------------------------------------------------------
    def request_last(self, stream: str, subject: str) -> asyncio.Future[StoredMessage | None]:
        return self._ask("read", self._on_read, self.server.last_message, stream, subject)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        return await self.request_last(stream, subject)

    async def next_message(self, stream: str, seq: int, subject: str) -> StoredMessage | None:
        return await self._ask("read", self._on_read, self.server.next_message, stream, seq, subject)

    @staticmethod
    def _on_read(read: Callable[..., Record | None], *arguments: Any) -> StoredMessage | None:
        try:
            found = read(*arguments)
        except Refusal as refusal:
            raise BrokerError(f"reading from a stream failed: {refusal.description}") from None
        if found is None:
            return None
        headers = found.headers
        return StoredMessage(
            found.subject, found.seq, found.data, dict(headers) if headers else None, found.time_ns
        )

    # -- streams and consumers ---------------------------------------------------------------------
    async def ensure_stream(self, config: StreamConfig) -> None:
        try:
            await self._ask("api", self.server.ensure_stream, config)
        except Refusal as refusal:
            raise BrokerError(
                f"stream {config.name} cannot be created or brought to its configuration: {refusal.description}",
                code="STREAM_UNSUITABLE",
            ) from None

    async def stream_state(self, stream: str, subjects: str | None = None) -> StreamState | None:
        return await self._ask("api", self.server.stream_state, stream, subjects)

    async def consumers(self, stream: str) -> list[str]:
        try:
            return await self._ask("api", lambda: sorted(self.server.stream(stream).consumers))
        except Refusal as refusal:
            raise BrokerError(f"consumers of stream {stream}: {refusal.description}") from None

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        try:
            return await self._ask("api", self.server.consumer_state, stream, consumer)
        except Refusal as refusal:
            raise BrokerError(f"consumer {consumer} of {stream}: {refusal.description}") from None

    async def count_behind(self, stream: str, subject: str, seq: int) -> int:
        try:
            return await self._ask("api", self.server.count_behind, stream, subject, seq)
        except Refusal as refusal:
            raise BrokerError(f"counting in stream {stream}: {refusal.description}") from None

    async def purge(self, stream: str, subjects: str, below: int) -> None:
        if below <= 1:
            return
        try:
            await self._ask("api", self.server.purge, stream, subjects, below, self)
        except Refusal as refusal:
            raise BrokerError(f"purging {subjects} of {stream}: {refusal.description}") from None

    async def delete_message(self, stream: str, seq: int) -> None:
        try:
            await self._ask("api", self.server.delete_message, stream, seq, self)
        except Refusal as refusal:
            raise BrokerError(f"deleting message {seq} of {stream}: {refusal.description}") from None

    async def create_consumer(self, stream: str, config: ConsumerConfig) -> None:
        try:
            await self._ask("api", self.server.create_consumer, stream, config)
        except Refusal as refusal:
            raise PublishRefused(
                f"consumer {config.name} of {stream}: {refusal.description}", err_code=refusal.err_code
            ) from None

    async def delete_consumer(self, stream: str, name: str) -> None:
        try:
            await self._ask("api", self.server.delete_consumer, stream, name)
        except Refusal as refusal:
            if refusal.err_code != CONSUMER_NOT_FOUND:
                raise BrokerError(f"consumer {name} of {stream}: {refusal.description}") from None

    async def pull(
        self, stream: str, consumer: str, window: int, on_delivery: DeliveryCallback, on_end: EndCallback
    ) -> MemoryPull:
        pull = MemoryPull(self, stream, consumer, window, on_delivery, on_end)
        self._pulls[pull] = None
        pull.start()
        return pull

    def keep(self, task: asyncio.Future[None]) -> None:
        """Holds on to a task until it is done: the loop itself would not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget_pull(self, pull: MemoryPull) -> None:
        self._pulls.pop(pull, None)

    async def ack(self, delivery: Delivery) -> None:
        self.carry("ack", self._on_ack, delivery.reply, "ack", None)

    async def nak(self, delivery: Delivery, delay_s: float = 0.0) -> None:
        self.carry("ack", self._on_ack, delivery.reply, "nak", int(delay_s * 1e9))

    async def in_progress(self, delivery: Delivery) -> None:
        self.carry("ack", self._on_ack, delivery.reply, "wpi", None)

    def _on_ack(self, _took: float, reply: str, verdict: str, delay_ns: int | None) -> None:
        self.server.acknowledge(reply, verdict, delay_ns)

    # -- outside the streams -----------------------------------------------------------------------
    async def tell(self, subject: str, data: bytes) -> None:
        self._check_subject(subject, len(data))
        self.carry("tell", self._on_tell, subject, data)

    def _on_tell(self, _took: float, subject: str, data: bytes) -> None:
        self.server.tell(subject, data, self)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self._numbers += 1
        reply = f"_INBOX.{self.serial}.answer.{self._numbers}"
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        self._requests[reply] = future
        try:
            self.carry("request", self._on_request, subject, data, reply)
            async with asyncio.timeout(timeout_s):
                answer = await future
        except OutcomeUnknown as error:
            raise NoAnswer(f"request on {subject} failed: {error.message}") from error
        except TimeoutError as error:
            raise NoAnswer(f"no answer on {subject} in {timeout_s:g} s") from error
        finally:
            self._requests.pop(reply, None)
        if answer is None:
            raise NoAnswer(f"nobody listens on {subject}: is an orchestrator running for this namespace?")
        return answer

    def _on_request(self, _took: float, subject: str, data: bytes, reply: str) -> None:
        try:
            answer = self.server.request(subject, data, reply, self)
        except NobodyListens:
            self.bring("message", self._answered, reply, None)
            return
        if answer is not None:
            self.bring("message", self._answered, reply, answer)

    def _deliver_answer(self, subject: str, data: bytes, _: str, __: bytes) -> None:
        self.bring("message", self._answered, subject, data)

    def _answered(self, _took: float, reply: str, answer: bytes | None) -> None:
        future = self._requests.get(reply)
        if future is not None and not future.done():
            future.set_result(answer)

    async def serve(self, subject: str, callback: RequestCallback, queue: str = "") -> MemoryServed:
        return self._begun(MemoryServed(self, subject, queue, callback))

    async def listen(self, subject: str, callback: HeardCallback, queue: str = "") -> MemoryServed:
        return self._begun(MemoryListening(self, subject, queue, callback))

    def _begun(self, served: MemoryServed) -> MemoryServed:
        self._served[served] = None
        self.carry_always("subscribe", served.on_subscribe)
        return served

    def forget_served(self, served: MemoryServed) -> None:
        self._served.pop(served, None)


_SILENCE: Final = Stored(0)
"""Stands for an answer that never comes."""


def _fail(future: asyncio.Future[Any], error: DressageError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()


def _refused(refusal: Refusal) -> PublishRefused:
    return PublishRefused(
        f"the server refused a publish: {refusal.description} (err_code {refusal.err_code})",
        err_code=refusal.err_code,
    )
