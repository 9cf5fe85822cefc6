"""A subscription whose messages are dealt with one after the other, as nats-py does it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from dressage.brokers.interface import Delivery, HeardCallback, RequestCallback
from dressage.brokers.jetstream.wire import parse_headers
from dressage.brokers.memory.core import Subscribed

if TYPE_CHECKING:
    from dressage.brokers.memory.connection import MemoryConnection

_log = logging.getLogger("dressage.brokers")


class MemoryServed:
    """See `dressage.brokers.interface.Subscription`."""

    def __init__(
        self, connection: MemoryConnection, subject: str, queue: str, callback: RequestCallback
    ) -> None:
        self._connection = connection
        self._callback = callback
        self._waiting: deque[tuple[str, bytes, str]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.closed = False
        self._subscribed = Subscribed(subject, queue, self._deliver)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._waiting.clear()
        self._connection.forget_served(self)
        self._connection.carry_always("subscribe", self._on_close)

    def _arrived(self, _took: float, subject: str, data: bytes, reply: str, block: bytes) -> None:
        if self.closed:
            return
        self._waiting.append((subject, data, reply))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            subject, data, reply = self._waiting.popleft()
            try:
                await self._callback(subject, data, reply)
            except Exception as error:
                _log.debug("connection %s: %s", self._connection.name, error)

    def stop(self) -> None:
        """The connection is closed: what waits is not dealt with."""
        self.closed = True
        self._waiting.clear()

    # -- the server's end --------------------------------------------------------------------------
    def _deliver(self, subject: str, data: bytes, reply: str, block: bytes) -> None:
        self._connection.bring("message", self._arrived, subject, data, reply, block)

    def on_subscribe(self, _took: float = 0.0) -> None:
        """From here on the server delivers."""
        if not self.closed and self._connection.linked:
            self._connection.server.core.add(self._subscribed)

    def _on_close(self, _took: float) -> None:
        self.unlink()

    def unlink(self) -> None:
        """Nobody listens here any more."""
        self._connection.server.core.remove(self._subscribed)


class MemoryListening(MemoryServed):
    """A subscription that hands over what comes at once."""

    def __init__(
        self, connection: MemoryConnection, subject: str, queue: str, callback: HeardCallback
    ) -> None:
        super().__init__(connection, subject, queue, _never)
        self._heard = callback

    def _arrived(self, _took: float, subject: str, data: bytes, reply: str, block: bytes) -> None:
        if self.closed:
            return
        try:
            self._heard(Delivery(subject, data, parse_headers(block), 0, 0, 1, 0, reply))
        except Exception as error:
            _log.debug("a message on %r could not be taken: %s", subject, error)


async def _never(_: str, __: bytes, ___: str) -> None:
    return None
