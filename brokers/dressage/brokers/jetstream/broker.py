"""Opens connections to one nats-server or cluster."""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors

from dressage.brokers.connect import CONNECT_TIMEOUT_S, addresses
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.protocol.errors import ServerUnreachable

OWNER_TIMEOUT_S: Final = 1.5


class JetStreamBroker:
    """See `dressage.brokers.interface.Broker`."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self, name: str, *, reconnect: bool = False) -> JetStreamConnection:
        """Raises `ServerUnreachable` when no server answers."""
        connection = JetStreamConnection(name=name, reconnect=reconnect)
        try:
            # nats-py would try for ever, as it should only once it has been connected.
            # An owner's connection is tried again by its owner, so an attempt that hangs is given up soon.
            async with asyncio.timeout(CONNECT_TIMEOUT_S if reconnect else OWNER_TIMEOUT_S):
                await connection.open(addresses(self.url))
        except (OSError, nats.errors.Error) as error:
            await connection.close()
            cause = str(error) or "nobody answered in time"
            raise ServerUnreachable(
                f"no connection to {self.url}: {cause}. Is nats-server running there?"
            ) from error
        return connection
