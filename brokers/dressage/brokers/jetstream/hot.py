"""nats-py's client with a short way in and out for the messages that the engine's speed depends on.

Per message nats-py builds a dict of headers, a `Msg`, a queue entry and a task switch, and checks every header it
writes with a regular expression: measured 25 us in and 12 us out, where a whole task should cost 150. The two
methods here keep its connection, parser, reconnects and authentication, and replace only what happens per message.
They rest on names that nats-py does not promise to keep (`_process_msg`, `_pending`, `_flush_queue`), so its minor
version is pinned, and every test that has a broker runs through them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from dressage.protocol.errors import OutcomeUnknown

_log = logging.getLogger("dressage.brokers")

_T = TypeVar("_T")

DirectCallback = Callable[[str, str, bytes, bytes], None]
"""Gets subject, reply subject, data and the raw header block (empty without headers). Must not block."""


_MESSAGES: Final = (b"MSG", b"HMSG")


def publish_command(subject: str, reply: str, data: bytes, headers: bytes) -> bytes:
    """The protocol's line for one message; `headers` is a complete header block, or empty."""
    where = f"{subject} {reply}" if reply else subject
    if headers:
        total = len(headers) + len(data)
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (where.encode(), len(headers), total, headers, data)
    return b"PUB %b %d\r\n%b\r\n" % (where.encode(), len(data), data)


def _readable(raw: bytes) -> bytes:
    """Bytes that nats-py can decode; of what is no UTF-8 enough is left to say what it was."""
    return raw if raw.isascii() else raw.decode("utf-8", "backslashreplace").encode()


class HotParser(Parser):
    """nats-py's parser with a shorter way for messages; everything else it leaves to the original.

    The original matches two regular expressions and awaits a coroutine for each message.
    """

    nc: HotClient

    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        buffer = self.buf
        buffer.extend(data)
        done = 0
        while (end := buffer.find(b"\r\n", done)) >= 0:
            # At spaces only: other white space may stand in a subject, and nats-py's own pattern would split it.
            fields = bytes(buffer[done:end]).split(b" ")
            if fields[0] not in _MESSAGES:
                break
            begin, size = end + 2, int(fields[-1])
            if begin + size + 2 > len(buffer):
                del buffer[:done]
                return
            payload = bytes(buffer[begin : begin + size])
            done = begin + size + 2
            await self._message(fields, payload)
        del buffer[:done]
        if buffer:
            await super().parse()

    async def _message(self, fields: list[bytes], payload: bytes) -> None:
        """`MSG subject sid [reply] size` or `HMSG subject sid [reply] header-size size`."""
        block = b""
        sizes = 1
        if fields[0] == b"HMSG":
            sizes = 2
            header = int(fields[-2])
            block, payload = payload[:header], payload[header:]
        reply = fields[3] if len(fields) == 4 + sizes else b""
        sid = int(fields[2])
        callback = self.nc.direct.get(sid)
        if callback is None:
            await self.nc._process_msg(sid, fields[1], reply, payload, block)  # pyright: ignore[reportPrivateUsage]
        else:
            _deliver(callback, fields[1], reply, payload, block)


def _deliver(callback: DirectCallback, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
    """A subject that is no UTF-8 keeps its bytes as surrogates, which no name and no token has."""
    try:
        callback(
            subject.decode("utf-8", "surrogateescape"),
            reply.decode("utf-8", "surrogateescape"),
            data,
            headers,
        )
    except Exception:
        _log.exception("a message on %r could not be taken", subject)


async def _heeded(awaitable: Awaitable[_T]) -> _T:
    """Raises `CancelledError` where the task was cancelled meanwhile and nobody minded.

    nats-py passes over a cancellation while it flushes, and `asyncio.wait_for`, which it waits with, does so before
    Python 3.12 when what it waits for comes at the same moment (https://github.com/python/cpython/issues/86296). A
    tenure that has ended would go on publishing.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    result = await awaitable
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


class HotClient(Client):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, DirectCallback] = {}
        self._ps = HotParser(self)

    # -- what nats-py may take a cancellation for ----------------------------------------------------
    async def connect(self, *arguments: Any, **options: Any) -> None:
        await _heeded(super().connect(*arguments, **options))

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        return await _heeded(super().request(*arguments, **options))

    async def subscribe(self, *arguments: Any, **options: Any) -> Subscription:
        return await _heeded(super().subscribe(*arguments, **options))

    # -- the short way -------------------------------------------------------------------------------
    async def subscribe_direct(self, subject: str, callback: DirectCallback, queue: str = "") -> Subscription:
        """A subscription whose messages are handed over in the read loop itself, in order, without a queue."""

        async def never(_: Msg) -> None:
            return None

        subscription = await self.subscribe(subject, queue=queue, cb=never)
        self.direct[subscription._id] = callback  # pyright: ignore[reportPrivateUsage]
        return subscription

    def forget_direct(self, subscription: Subscription) -> None:
        self.direct.pop(subscription._id, None)  # pyright: ignore[reportPrivateUsage]

    def write(self, command: bytes) -> None:
        """Sends what `publish_command` made, one or many of them joined, without suspending.

        Raises `OutcomeUnknown` while there is no connection: what is buffered then could come out much later.
        """
        if not self.is_connected:
            raise OutcomeUnknown("there is no connection to the server: nothing was sent")
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Nothing that a sender can put into a message may end the read loop, with everybody else's messages."""
        callback = self.direct.get(sid)
        if callback is not None:
            _deliver(callback, subject, reply, data, headers or b"")
            return
        try:
            await super()._process_msg(sid, _readable(subject), _readable(reply), data, headers)
        except Exception:
            _log.exception("a message on %r could not be taken", subject)
