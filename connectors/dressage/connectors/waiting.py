"""What the processes of connectors wait for before they begin."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from dressage.brokers.interface import Broker
from dressage.client import Client
from dressage.protocol.errors import DressageError

_log = logging.getLogger("dressage.connectors")

RETRY_S: Final = 1.0
"""Between two looks for what is not there: the namespace, the source."""


WAITS: Final = "it waits for the server, or for the namespace"
"""Why a process of connectors does nothing yet."""


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleeps, unless `stop` is set before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def connected(broker: Broker, namespace: str, stop: asyncio.Event, who: str) -> Client | None:
    """A connected client, once an orchestrator has brought the namespace about; None after `stop`."""
    told = ""
    while not stop.is_set():
        client = Client(broker, namespace=namespace)
        try:
            await client.connect()
        except DressageError as error:
            if error.code != told:
                _log.warning("%s wait: %s", who, error)
            told = error.code
        else:
            return client
        await pause(stop, RETRY_S)
    return None
