"""Opens connections to one nats-server or cluster."""

from __future__ import annotations

import asyncio
import random
from typing import Final
from urllib.parse import urlsplit

import nats.errors

from dressage.brokers.connect import CONNECT_TIMEOUT_S, addresses
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.protocol.errors import ServerUnreachable

OWNER_TIMEOUT_S: Final = 1.5
"""How long one server may take. An owner's connection is tried again by its owner, so what hangs is given up soon."""

AVOID_S: Final = 15.0


class JetStreamBroker:
    """See `dressage.brokers.interface.Broker`.

    A server of a cluster that could not be reached, or left requests unanswered, is tried last for a while. One that
    hangs, or is cut off from the others, takes connections as if nothing were wrong: an owner needs four of them, and
    would hardly ever get four good ones by chance.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._avoided: dict[str, float] = {}

    async def connect(self, name: str, *, reconnect: bool = False) -> JetStreamConnection:
        """Raises `ServerUnreachable` when no server answers."""
        ordered = self._ordered()
        # nats-py gives up at the first server that answers wrongly, unless it may reconnect for ever.
        attempts = [ordered] if reconnect else [[address] for address in ordered]
        cause = "nobody answered in time"
        failed: Exception | None = None
        for servers in attempts:
            connection = JetStreamConnection(name=name, reconnect=reconnect, on_unserved=self._avoid)
            try:
                # nats-py would try for ever, as it should only once it has been connected.
                async with asyncio.timeout(CONNECT_TIMEOUT_S if reconnect else OWNER_TIMEOUT_S):
                    await connection.open(servers)
            except (OSError, nats.errors.Error) as error:
                await connection.close()
                self._avoid(_netloc(servers[0]))
                failed, cause = error, str(error) or cause
            except BaseException:
                await connection.close()
                raise
            else:
                return connection
        raise ServerUnreachable(
            f"no connection to {self.url}: {cause}. Is nats-server running there?"
        ) from failed

    def _ordered(self) -> list[str]:
        """In random order; those that are avoided come last, the one that was longest ago before the others."""
        known = addresses(self.url)
        random.shuffle(known)
        return sorted(known, key=lambda address: self._avoided_at(_netloc(address)))

    def _avoided_at(self, netloc: str) -> float:
        at = self._avoided.get(netloc, 0.0)
        return at if at + AVOID_S > asyncio.get_running_loop().time() else 0.0

    def _avoid(self, netloc: str) -> None:
        self._avoided[netloc] = asyncio.get_running_loop().time()


def _netloc(address: str) -> str:
    return urlsplit(address if "://" in address else f"nats://{address}").netloc
