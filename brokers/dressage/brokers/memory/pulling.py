"""A standing pull on the memory broker, with the bookkeeping of the real one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from dressage.brokers.interface import Delivery, DeliveryCallback, EndCallback
from dressage.brokers.memory.records import Record
from dressage.brokers.memory.refusals import NobodyListens
from dressage.protocol.errors import OutcomeUnknown

if TYPE_CHECKING:
    from dressage.brokers.memory.connection import MemoryConnection

SILENCE_S: Final = 6.0
"""The real pull takes so long without a heartbeat for a sign that its requests are lost."""


class MemoryPull:
    """Keeps up to `window` deliveries asked for or held. See `dressage.brokers.interface.Pull`."""

    def __init__(
        self,
        connection: MemoryConnection,
        stream: str,
        consumer: str,
        window: int,
        on_delivery: DeliveryCallback,
        on_end: EndCallback,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._window = window
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._asked = 0
        self._held = 0
        self._unheard = 0
        """Of what was asked for, what will never come because something was lost on the way."""
        self._closed = False
        self._silence: asyncio.TimerHandle | None = None

    # -- the client's end --------------------------------------------------------------------------
    def start(self) -> None:
        self._refill_if_due()

    def restart(self) -> None:
        """Asks anew for the whole window: with the link the server lost the old requests."""
        self._asked = self._unheard = 0
        self._hush()
        self._refill_if_due()

    async def taken(self, count: int = 1) -> None:
        """Tells that `count` deliveries are dealt with, which makes room for others."""
        self._held -= count
        self._refill_if_due()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._hush()
        self._connection.forget_pull(self)
        self._connection.carry_always("subscribe", self._on_close)

    def _refill_if_due(self) -> None:
        """Asks for half a window at a time, or for what there is room for when nothing is asked any more."""
        room = self._window - self._asked - self._held
        if self._closed or room <= 0 or (self._asked and room * 2 < self._window):
            return
        try:
            carried = self._connection.carry("pull", self._on_ask, room)
        except OutcomeUnknown:
            return  # There is no connection; `restart` asks again when there is one.
        self._asked += room
        if not carried:
            self._lose(room)

    def _arrived(self, _took: float, delivery: Delivery) -> None:
        if self._closed:
            return
        self._asked -= 1
        self._held += 1
        self._watch_silence()
        dealt = self._on_delivery(delivery)
        if dealt is not None:
            self._connection.keep(asyncio.ensure_future(dealt))

    def _told_end(self, _took: float, reason: str) -> None:
        if not self._closed:
            self._on_end(reason)

    def _told_nobody(self, _took: float) -> None:
        """What was asked for will not be answered; whoever tells that something was dealt with asks again."""
        self._asked = self._unheard = 0
        self._hush()
        self._told_end(0.0, "no responders: the consumer does not exist or has no leader")

    def _watch_silence(self) -> None:
        """Where nothing stands with the server there are no heartbeats, and their absence shows."""
        if self._closed or not self._unheard or self._asked > self._unheard:
            self._hush()
        elif self._silence is None:
            self._silence = self._connection.call_later(SILENCE_S, self._fell_silent)

    def _fell_silent(self) -> None:
        self._silence = None
        if not self._closed and self._connection.linked and 0 < self._unheard >= self._asked:
            self._on_end("no heartbeat from the server")

    def _hush(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _lose(self, count: int) -> None:
        if self._connection.linked:
            self._unheard += count
            self._watch_silence()

    # -- the server's end --------------------------------------------------------------------------
    def _on_ask(self, _took: float, count: int) -> None:
        if self._closed or not self._connection.linked:
            return
        try:
            self._connection.server.ask(self._stream, self._consumer, self, count)
        except NobodyListens:
            if not self._connection.bring("message", self._told_nobody):
                self._lose(count)

    def _on_close(self, _took: float) -> None:
        self.unlink()

    def unlink(self) -> None:
        """Nobody listens here any more."""
        self._connection.server.forget(self._stream, self._consumer, self)

    def deliver(self, record: Record, attempts: int, consumer_seq: int, reply: str) -> bool:
        """See `consumer.Puller`."""
        delivery = Delivery(
            record.subject,
            record.data,
            record.headers,
            record.seq,
            consumer_seq,
            attempts,
            record.time_ns,
            reply,
        )
        connection = self._connection
        if not connection.bring("delivery", self._arrived, delivery):
            self._lose(1)
        return connection.network.duplicate_delivery(connection)

    def ended(self, reason: str, unanswered: int) -> None:
        """See `consumer.Puller`."""
        if not self._connection.bring("message", self._told_end, reason):
            self._lose(unanswered)
