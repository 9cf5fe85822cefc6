"""A standing pull: keeps a window of deliveries asked for or held, and notices when it stands no longer.

`fetch()` of nats-py costs 45 us a message and a timer for each; this costs one request for half a window.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec
import nats.errors
from nats.aio.subscription import Subscription as NatsSubscription

from dressage.brokers.interface import CONSUMER_DELETED, DeliveryCallback, EndCallback
from dressage.brokers.jetstream.wire import delivery_of, parse_headers, status_of
from dressage.protocol.errors import BrokerError, OutcomeUnknown

if TYPE_CHECKING:
    from dressage.brokers.jetstream.connection import JetStreamConnection

EXPIRES_S: Final = 30.0
HEARTBEAT_S: Final = 2.0
SILENCE_S: Final = 3 * HEARTBEAT_S
LEADERLESS_S: Final = 10.0
"""For how long a consumer may be without a leader. A new one has none for a moment, and for as long as an election
takes when a server of its stream was lost: who gave it up for another new one would wait all the longer."""

ASK_AGAIN_S: Final = 0.2
LOOK_S: Final = 1.0

_GONE: Final = frozenset({CONSUMER_DELETED, "Consumer is push based"})


class StandingPull:
    """One subscription that the server delivers to, and the requests that keep it fed."""

    def __init__(
        self,
        connection: JetStreamConnection,
        stream: str,
        consumer: str,
        window: int,
        on_delivery: DeliveryCallback,
        on_end: EndCallback,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._window = window
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._inbox = connection.new_inbox()
        self._asked = 0
        self._held = 0
        self._heard_at = 0.0
        self._closed = False
        self._subscription: NatsSubscription | None = None
        self._watch: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._leaderless_since: float | None = None

    async def start(self) -> None:
        self._subscription = await self._connection.nats.subscribe_direct(self._inbox, self._on_message)
        self._refill_if_due()
        self._watch = asyncio.create_task(self._watch_silence())

    async def restart(self) -> None:
        """Asks anew for the whole window; needed after a reconnect, when the server forgot the old requests."""
        self._asked = 0
        self._refill_if_due()

    async def taken(self, count: int = 1) -> None:
        """Tells that `count` deliveries are dealt with, which makes room for others."""
        self._held -= count
        self._refill_if_due()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._connection.forget_pull(self)
        if self._watch is not None:
            self._watch.cancel()
        if self._look is not None:
            self._look.cancel()
        if self._subscription is not None:
            self._connection.nats.forget_direct(self._subscription)
        if self._subscription is not None and not self._connection.lost.is_set():
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    def _refill_if_due(self) -> None:
        """Asks for half a window at a time, or for what there is room for when nothing is asked any more."""
        room = self._window - self._asked - self._held
        if self._closed or room <= 0 or (self._asked and room * 2 < self._window):
            return
        self._ask(room)

    def _ask(self, wanted: int) -> None:
        self._asked += wanted
        self._heard_at = asyncio.get_running_loop().time()
        request = {"batch": wanted, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        try:
            self._connection.write(self._subject, msgspec.json.encode(request), self._inbox)
        except OutcomeUnknown:
            self._asked -= wanted  # There is no connection; `restart` asks again when there is one.

    def _on_message(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if not reply.startswith("$JS.ACK."):
            self._on_status(headers)
            return
        self._leaderless_since = None
        self._asked -= 1
        self._held += 1
        dealt = self._on_delivery(delivery_of(subject, data, headers, reply))
        if dealt is not None:
            self._connection.keep(asyncio.ensure_future(dealt))

    def _on_status(self, block: bytes) -> None:
        status, text = status_of(block)
        headers = parse_headers(block) or {}
        if status == "100" or self._closed:
            self._leaderless_since = None
            return
        if status == "503":
            self._look_if_idle()
            return
        if text in _GONE:
            self._end(text)
            return
        self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", "0") or "0"))
        if status == "409" and "Nats-Pending-Messages" not in headers:
            self._asked = 0
        self._refill_if_due()

    def _look_if_idle(self) -> None:
        self._asked = 0
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._ask_again_if_it_stands())

    async def _ask_again_if_it_stands(self) -> None:
        """Nobody listens: either the consumer is gone for good, or it has no leader at the moment."""
        now = asyncio.get_running_loop().time()
        if self._leaderless_since is None:
            self._leaderless_since = now
        stands = True
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(LOOK_S):
                stands = await self._connection.consumer_stands(self._stream, self._consumer)
        if not stands or now - self._leaderless_since > LEADERLESS_S:
            self._end("no responders: the consumer does not exist or has no leader")
            return
        await asyncio.sleep(ASK_AGAIN_S)
        self._refill_if_due()

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._on_end(reason)

    async def _watch_silence(self) -> None:
        """Idle heartbeats come every `HEARTBEAT_S`; without them the requests are lost, whatever the client thinks."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            await asyncio.sleep(HEARTBEAT_S)
            if loop.time() - self._heard_at > SILENCE_S and self._connection.nats.is_connected:
                self._end("no heartbeat from the server")
                self._heard_at = loop.time()
