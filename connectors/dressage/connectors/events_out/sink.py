"""A sink to users: waits to be the active process, and then reads the stream of output events and has each delivered.

Who takes over goes on from the place that is stored, so it delivers some events again, under the same ids. After any
doubt all that is in memory is thrown away.
"""

from __future__ import annotations

import asyncio
import logging

from dressage.brokers.event_feed import BatchLimits, EventFeed, stream_info
from dressage.connectors.active import Active
from dressage.connectors.connect.options import ConnectorFailed
from dressage.connectors.events_out.under_way import SinkParts, UnderWay
from dressage.connectors.lanes import ROOM_S
from dressage.connectors.place import Lease, Place
from dressage.protocol.errors import DressageError

_log = logging.getLogger("dressage.connectors")


class EventSink:
    """One process's part of a sink."""

    def __init__(self, parts: SinkParts) -> None:
        self._parts = parts
        self._config = parts.config
        self._client = parts.setting.client
        self._metrics = parts.setting.metrics
        self._faults = parts.faults
        key = self._client.names.connector_place_key(self._config.name)
        whose = f"connector {self._config.name!r}"
        self._lease = Lease(self._client.connection, self._client.names, key, whose)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`. Raises `ConnectorFailed` for an error that somebody has to look at."""

        async def work(found: Place) -> None:
            async with self._parts.delivery:
                await self._deliver_on(found, stop)

        active = Active(self._lease, self._metrics.active, self._interrupted, ConnectorFailed)
        await active.run(work, stop)

    def _interrupted(self, error: DressageError) -> None:
        self._metrics.retry(error.code)
        self._faults.begin("stream", error.code, error.message)

    async def _deliver_on(self, found: Place, stop: asyncio.Event) -> None:
        connection, names = self._client.connection, self._client.names
        info = await stream_info(connection, names.events_stream)
        reached = self._first(found, info.created, info.state.last_seq)
        if found.created == info.created and info.state.first_seq > reached + 1:
            _log.warning(
                "connector %r: events up to %d may be lost to it: the stream begins with %d, and it had come to %d",
                *(self._config.name, info.state.first_seq - 1, info.state.first_seq, reached),
            )
        if found.created != info.created:
            # Where it begins is asked once: who dies before the first event is dealt with does not ask again.
            await self._lease.store(info.created, reached)
        options = self._parts.setting.options
        limits = BatchLimits(
            events_max=max(1, min(options.batch_max, options.in_flight // 2)), pause_s=0.0, idle_s=ROOM_S
        )
        feed = await EventFeed.open(
            connection,
            names.events_stream,
            [names.all_events()],
            reached + 1,
            limits,
            f"sink_{self._config.name}",
        )
        self._faults.end("stream")
        under_way = UnderWay(self._parts, self._lease, reached, info.created)
        try:
            await under_way.work(feed, limits.events_max, stop)
        finally:
            await under_way.end()
            await feed.close()

    def _first(self, found: Place, created: str, last_seq: int) -> int:
        """The sequence behind which it begins."""
        if found.created == created:
            return found.seq
        return last_seq if not found.created and self._config.start == "new" else 0
