"""What all apps have in common: they connect when their server begins, or with the first request."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from dressage.brokers.interface import Broker
from dressage.brokers.jetstream import JetStreamBroker
from dressage.connectors.http.exchange import Receive, Scope, Send
from dressage.connectors.http.link import Link
from dressage.protocol.names import check_name


class LinkedApp:
    """An ASGI app. It connects when its server says that it begins, or with the first request, and disconnects when
    the server says that it ends, or by `close`."""

    def __init__(self, server: str | Broker, namespace: str, what: str) -> None:
        """`what` it is that connects, for its log. Raises `BadName`."""
        broker: Broker = JetStreamBroker(server) if isinstance(server, str) else server
        self._link = Link(broker, check_name(namespace, "namespace"), what)

    async def __aenter__(self) -> Self:
        self._link.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def unready(self) -> str:
        """Why no request can be passed on now; empty if it can."""
        return self._link.unready()

    async def close(self) -> None:
        """Disconnects; what comes afterwards is answered with 503."""
        await self._link.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        raise NotImplementedError

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            self._link.begin()
            await send({"type": "lifespan.startup.complete"})
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})
