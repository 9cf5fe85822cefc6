"""The connection of an app, made when it is first needed: a server of ASGI need not say that an app begins."""

from __future__ import annotations

import asyncio

from dressage.brokers.interface import Broker
from dressage.client import Client
from dressage.connectors.waiting import WAITS, connected
from dressage.protocol.errors import ServerUnreachable


class Link:
    """Connects once, and goes on trying until it is closed."""

    def __init__(self, broker: Broker, namespace: str, what: str) -> None:
        """`what` it is that connects, for its log."""
        self._what = what
        self._broker = broker
        self._namespace = namespace
        self._stop = asyncio.Event()
        self._connecting: asyncio.Task[Client | None] | None = None

    def begin(self) -> None:
        """Begins to connect, unless that was begun before."""
        if self._connecting is None:
            connecting = connected(self._broker, self._namespace, self._stop, self._what)
            self._connecting = asyncio.create_task(connecting)

    def unready(self) -> str:
        """Why no request can be passed on now; empty if it can."""
        if self._stop.is_set():
            return "it is ending"
        done = self._connecting is not None and self._connecting.done() and not self._connecting.cancelled()
        client = self._connecting.result() if self._connecting is not None and done else None
        return "" if client is not None and client.connection.linked else WAITS

    async def client(self) -> Client:
        """Waits for as long as it takes. Raises `ServerUnreachable` once the link is closed."""
        self.begin()
        assert self._connecting is not None
        client = await asyncio.shield(self._connecting)
        if client is None:
            raise ServerUnreachable("this process ends, and takes no more requests")
        return client

    async def close(self) -> None:
        self._stop.set()
        if self._connecting is not None:
            client = await self._connecting
            if client is not None:
                await client.close()
