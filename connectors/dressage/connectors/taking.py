"""What the two ways to take events in turn have in common."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dressage.brokers.event_feed import EventFeed
from dressage.brokers.interface import Delivery
from dressage.connectors.dealing import Dealing
from dressage.connectors.metrics import TriggerMetrics
from dressage.connectors.place import Lease
from dressage.connectors.rules import LOOK_S, Rule, Rules
from dressage.connectors.setting import TriggerOptions
from dressage.connectors.source import Begin
from dressage.protocol.errors import DressageError

_log = logging.getLogger("dressage.connectors")


@dataclass(slots=True, frozen=True)
class Parts:
    """What a trigger is made of."""

    name: str
    lease: Lease
    rules: Rules
    dealing: Dealing
    metrics: TriggerMetrics
    options: TriggerOptions


class Stopped(Exception):
    """The trigger is asked to end."""


class Taking(abc.ABC):
    """What the active process has in memory."""

    def __init__(self, parts: Parts, begin: Begin) -> None:
        self._lease = parts.lease
        self._rules = parts.rules
        self._dealing = parts.dealing
        self._metrics = parts.metrics
        self._options = parts.options
        self._name = parts.name
        self._stream = begin.stream
        self._created = begin.created
        self._lag_at = 0.0
        self._stop = asyncio.Event()

    async def work(self, feed: EventFeed, messages: Sequence[Delivery], stop: asyncio.Event) -> None:
        """Takes these events and those of the feed until `stop`, and finishes what can be. Raises a `DressageError`
        when it has to be done anew, from the place that is stored."""
        self._stop = stop
        try:
            while not stop.is_set():
                self._metrics.events.inc(len(messages))
                for message in messages:
                    if stop.is_set():
                        break
                    await self._take(message)
                messages = await self._more(feed)
                await self._watch_lag(feed)
        except Stopped:
            pass
        await self._finish()

    @abc.abstractmethod
    async def _take(self, delivery: Delivery) -> None:
        """Takes one event, in the order of the stream. Raises `Stopped`."""

    @abc.abstractmethod
    async def _more(self, feed: EventFeed) -> Sequence[Delivery]:
        """What comes next; may be nothing."""

    @abc.abstractmethod
    async def _finish(self) -> None:
        """Finishes what is under way, if that takes no longer than `drain_s`."""

    @abc.abstractmethod
    async def end(self) -> None:
        """Throws away what is not done, and says how far it is."""

    @property
    @abc.abstractmethod
    def _held(self) -> int:
        """How many events are under way."""

    async def _rule(self, delivery: Delivery) -> Rule:
        """The rule of an event, once that is certain. Raises `Stopped`."""
        while (rule := self._rules.now(self._created, delivery.stream_seq)) is None:
            if self._stop.is_set():
                raise Stopped
            await asyncio.sleep(LOOK_S)
        return rule

    async def _watch_lag(self, feed: EventFeed) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._lag_at:
            self._lag_at = now + self._options.lag_every_s
            try:
                self._metrics.lag.set(await feed.behind() + self._held)
            except DressageError as error:
                _log.debug("trigger %r: its lag cannot be told: %s", self._name, error)
