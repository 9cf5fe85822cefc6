"""The memory broker of one process."""

from __future__ import annotations

import asyncio
from typing import Final

from dressage.brokers.connect import CONNECT_TIMEOUT_S
from dressage.brokers.jetstream.broker import OWNER_TIMEOUT_S
from dressage.brokers.memory.clock import clock_of
from dressage.brokers.memory.connection import MemoryConnection
from dressage.brokers.memory.network import Network
from dressage.brokers.memory.server import MemoryServer
from dressage.protocol.errors import OutcomeUnknown, ServerUnreachable

RECONNECT_S: Final = 0.2


class MemoryBroker:
    """See `dressage.brokers.interface.Broker`. `writer` is handed through to all connections as their `process`."""

    def __init__(
        self,
        server: MemoryServer,
        network: Network | None = None,
        writer: object = None,
        *,
        reconnect_s: float = RECONNECT_S,
    ) -> None:
        self.server = server
        self.network = network or Network()
        self.writer = writer
        self._reconnect_s = reconnect_s
        self._open: dict[MemoryConnection, None] = {}

    @property
    def connections(self) -> list[MemoryConnection]:
        """Those that are open, also while they are being linked again."""
        return list(self._open)

    async def connect(self, name: str, *, reconnect: bool = False) -> MemoryConnection:
        """Raises `ServerUnreachable` when the server cannot be reached."""
        clock_of(self.server)
        connection = MemoryConnection(
            self.server,
            self.network,
            self.writer,
            name,
            reconnect=reconnect,
            reconnect_s=self._reconnect_s,
            on_gone=self._gone,
        )
        self._open[connection] = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S if reconnect else OWNER_TIMEOUT_S):
                await connection.open()
        except (TimeoutError, OutcomeUnknown) as error:
            await connection.close()
            raise ServerUnreachable("no connection to the memory server: nobody answered in time") from error
        except BaseException:
            await connection.close()
            raise
        return connection

    def _gone(self, connection: MemoryConnection) -> None:
        self._open.pop(connection, None)
