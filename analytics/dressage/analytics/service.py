"""One analytics process: its own file, its own consumer, and a share of the queries."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.to_thread

from dressage.analytics.errors import AnalyticsError
from dressage.analytics.ingest import Ingest
from dressage.analytics.metrics import Metrics
from dressage.analytics.query import QueryResponder
from dressage.analytics.store import Store, StoreConfig
from dressage.brokers.event_feed import BatchLimits
from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.protocol.names import Names

BUSY_PATIENCE_S: Final = 5.0
"""How long to wait for somebody who has the file open to read it."""


class AnalyticsService:
    """Ingests and answers, as an async context manager or by `run()`.

    Several may run for one namespace, each with a file of its own. `position` is how far this one has come.
    """

    def __init__(
        self,
        server_url: str,
        namespace: str,
        db_path: Path,
        *,
        limits: BatchLimits | None = None,
        store: StoreConfig | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.names = Names(namespace)
        self._server_url = server_url
        self._db_path = db_path
        self._limits = limits
        self._store_config = store
        self._metrics = metrics
        self._cleanup = contextlib.AsyncExitStack()
        self._ingest: Ingest | None = None
        self._following: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    @property
    def position(self) -> int:
        """Everything up to this sequence of EVENTS is in the file; 0 before the start."""
        return self._ingest.position if self._ingest is not None else 0

    def unready(self) -> str:
        """Why no question is answered now; empty if they are."""
        if self._following is None or self._connection is None:
            return "the file is not open yet"
        if self._following.done():
            return "it has come to its end"
        return "" if self._connection.linked else "it waits for the server"

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Waits until the file reflects `position`; False when that takes longer."""
        return self._ingest is not None and await self._ingest.reached(position, timeout_s)

    async def run(self) -> None:
        """Starts, works until `stop()`, and ends in good order. Raises what `__aenter__` and `wait` raise."""
        async with self:
            await self.wait()

    async def wait(self) -> None:
        """Returns after `stop()`. Raises `AnalyticsError` when the file cannot go on with the stream."""
        if self._following is not None:
            await asyncio.shield(self._following)

    def stop(self) -> None:
        """Makes `wait` and `run` return once the batch at hand is written."""
        if self._ingest is not None:
            self._ingest.stop()

    async def __aenter__(self) -> Self:
        """Raises `ServerUnreachable`, and `AnalyticsError` when the file cannot be used."""
        async with contextlib.AsyncExitStack() as stack:
            store = await self._open_store()
            stack.push_async_callback(anyio.to_thread.run_sync, store.close)
            connection: Connection = await JetStreamBroker(self._server_url).connect(
                "analytics", reconnect=True
            )
            self._connection = connection
            stack.push_async_callback(connection.close)
            ingest = Ingest(connection, self.names, store, limits=self._limits, metrics=self._metrics)
            responder = QueryResponder(connection, self.names, store, ingest.reached, metrics=self._metrics)
            await responder.start()
            stack.push_async_callback(responder.stop)
            self._ingest = ingest
            self._following = asyncio.create_task(ingest.run())
            stack.push_async_callback(self._stop_following)
            self._cleanup = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    async def _stop_following(self) -> None:
        self.stop()
        if self._following is not None:
            await asyncio.wait([self._following])
            # Whoever calls `wait` hears of it; here it must not hide another error.
            with contextlib.suppress(asyncio.CancelledError):
                self._following.exception()

    async def _open_store(self) -> Store:
        prefix = self.names.all_events().removesuffix(">")
        deadline = asyncio.get_running_loop().time() + BUSY_PATIENCE_S
        while True:
            try:
                return await anyio.to_thread.run_sync(
                    Store.open, self._db_path, self.names.events_stream, prefix, self._store_config
                )
            except AnalyticsError as error:
                if not error.retryable or asyncio.get_running_loop().time() > deadline:
                    raise
            await anyio.sleep(0.1)
