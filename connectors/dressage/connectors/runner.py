"""The process that runs triggers: those of a file, or those that are deployed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from dressage.brokers.interface import Broker
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors.config import TriggerConfig
from dressage.connectors.deployed import Deployed
from dressage.connectors.metrics import Metrics
from dressage.connectors.rules import Lease, Rules
from dressage.connectors.setting import Setting, TriggerOptions
from dressage.connectors.trigger import Running, trigger_of
from dressage.connectors.waiting import WAITS, connected
from dressage.protocol.names import Names
from dressage.telemetry import Meters, NoMeters

_log = logging.getLogger("dressage.connectors")


class TriggerRunner:
    """Runs triggers until `stop`. Use `run`, or `async with` inside another process.

    Without `triggers` it runs those that are deployed, and follows what becomes of them. Any number of processes may
    run the same triggers: they share the events.
    """

    def __init__(
        self,
        server: str | Broker,
        triggers: Sequence[TriggerConfig] | None,
        options: TriggerOptions | None = None,
        meters: Meters | None = None,
    ) -> None:
        self._broker: Broker = JetStreamBroker(server) if isinstance(server, str) else server
        self._triggers = triggers
        self._options = options or TriggerOptions()
        self._names = Names(self._options.namespace)
        self._metrics = Metrics(meters or NoMeters())
        self._stop = asyncio.Event()
        self._client: Client | None = None
        self._beside: asyncio.Task[None] | None = None

    def unready(self) -> str:
        """Why no events are taken now; empty if they are, as far as there is what they come from."""
        if self._stop.is_set():
            return "it is ending"
        return "" if self._client is not None and self._client.connection.linked else WAITS

    def stop(self) -> None:
        """Asks for an orderly end: take no more events, finish those in flight, put back the rest."""
        self._stop.set()

    async def __aenter__(self) -> Self:
        self._beside = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._beside is not None:
            await self._beside

    async def run(self) -> None:
        """Returns after `stop`. Raises `ServerUnreachable` if there is no server to begin with.

        Everything else is waited for: the namespace, the workflows, the streams.
        """
        connection = await self._broker.connect(f"dressage-trigger-{self._names.namespace}", reconnect=True)
        client: Client | None = None
        try:
            client = await connected(self._broker, self._names.namespace, self._stop, "triggers")
            if client is not None:
                self._client = client
                await self._serve(Setting(connection, client, self._options, self._metrics))
        finally:
            if client is not None:
                await client.close()
            await connection.close()

    async def _serve(self, setting: Setting) -> None:
        if self._triggers is None:
            await Deployed(setting).serve(self._stop)
            return
        await asyncio.gather(*(_of_a_file(each, setting).run(self._stop) for each in self._triggers))


def _of_a_file(config: TriggerConfig, setting: Setting) -> Running:
    """It never changes, so nothing has to be asked before it acts."""
    rules = Rules(setting.rule(config.name), Lease(math.inf))
    rules.always(config)
    return trigger_of(config, rules, setting)
