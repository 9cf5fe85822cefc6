"""A trigger that takes its events in the order of the stream: by a key, or in batches. One process at a time does.

Two processes that both believe to be the active one do no harm: each asks for the events of a key in their order, from
one on that is not behind what was accepted, and what the engine is asked for a second time counts once. So what counts
is in order. Which events are a batch is stored, by compare-and-set, before it is asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import nan

from dressage.brokers.event_feed import BatchLimits, EventFeed
from dressage.brokers.interface import Delivery
from dressage.connectors.active import Active
from dressage.connectors.batches import Batches
from dressage.connectors.by_key import ByKey
from dressage.connectors.config import TriggerConfig
from dressage.connectors.dealing import Dealing
from dressage.connectors.lanes import ROOM_S
from dressage.connectors.metrics import TriggerMetrics
from dressage.connectors.place import Place
from dressage.connectors.rules import Rules
from dressage.connectors.setting import Setting
from dressage.connectors.source import Begin, Source
from dressage.connectors.taking import Parts, Taking
from dressage.protocol.errors import DressageError


class TurnTrigger:
    """One trigger of this process."""

    def __init__(self, config: TriggerConfig, source: Source, rules: Rules, setting: Setting) -> None:
        self._config = config
        self._source = source
        self._connection = setting.connection
        self._metrics = metrics = TriggerMetrics(setting.metrics, config.name)
        self._dealing = dealing = Dealing(config.name, setting, metrics)
        self._lease = source.lease()
        self._parts = Parts(config.name, self._lease, rules, dealing, metrics, setting.options)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`, with what is under way dealt with if that takes no longer than `drain_s`."""

        async def work(found: Place) -> None:
            await self._work(found, stop)

        await Active(self._lease, self._metrics.active, self._interrupted).run(work, stop)

    def _interrupted(self, error: DressageError) -> None:
        self._dealing.faults.begin("source", error.code, error.message)

    async def _work(self, found: Place, stop: asyncio.Event) -> None:
        begin = await self._source.begin(found)
        feed = await self._open(begin)
        self._dealing.faults.end("source")
        try:
            messages: list[Delivery] = []
            if begin.time:
                messages = await self._first(feed, stop)
                if not messages:
                    return
                begin = replace(begin, reached=messages[0].stream_seq - 1)
            if found.created != begin.created:
                # Where it begins is asked once: who dies before the first event is dealt with does not ask again.
                await self._lease.store(begin.created, begin.reached)
            taking = self._taking(begin, found)
            try:
                await taking.work(feed, messages, stop)
            finally:
                await taking.end()
        finally:
            # Another process knows it from here on.
            self._metrics.lag.set(nan)
            await feed.close()

    async def _open(self, begin: Begin) -> EventFeed:
        batch = self._config.batch
        idle_s = ROOM_S if batch is None else min(ROOM_S, batch.within_s)
        return await EventFeed.open(
            self._connection,
            begin.stream,
            self._source.filters,
            begin.time or begin.reached + 1,
            BatchLimits(events_max=self._parts.options.taken_at_once, pause_s=0.0, idle_s=idle_s),
            self._source.consumer,
        )

    async def _first(self, feed: EventFeed, stop: asyncio.Event) -> list[Delivery]:
        """The first events; none after `stop`."""
        while not stop.is_set():
            await self._lease.sure()
            messages = await feed.take(0.0)
            if messages:
                return messages
        return []

    def _taking(self, begin: Begin, found: Place) -> Taking:
        if self._config.batch is None:
            return ByKey(self._parts, begin)
        return Batches(self._parts, begin, found.batch if found.created == begin.created else None)
