"""The process that runs connectors: those of a file, or all that are deployed in the namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from dressage.brokers.interface import Broker
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors.connect.config import Connector
from dressage.connectors.connect.deployed import Deployed, Entry
from dressage.connectors.connect.kinds import tasks_of, work_of
from dressage.connectors.connect.metrics import ConnectorMetrics, Metrics
from dressage.connectors.connect.options import ConnectorFailed, ConnectorOptions, Setting
from dressage.connectors.tables import ConfigInvalid
from dressage.connectors.waiting import WAITS, connected, pause
from dressage.protocol.errors import BadInput, DressageError
from dressage.telemetry import Meters, NoMeters

_log = logging.getLogger("dressage.connectors")


class ConnectorRunner:
    """Runs connectors until `stop`.

    Any number of processes may run the same ones: they share the partitions of a source, and of a sink one writes while
    the others stand by. Without a list it runs what is deployed in the namespace, and follows what becomes of that.
    """

    def __init__(
        self,
        server: str | Broker,
        connectors: Sequence[Connector] | None,
        options: ConnectorOptions | None = None,
        meters: Meters | None = None,
    ) -> None:
        self._broker: Broker = JetStreamBroker(server) if isinstance(server, str) else server
        self._connectors = connectors
        self._options = options or ConnectorOptions()
        self._metrics = Metrics(meters or NoMeters())
        self._stop = asyncio.Event()
        self._client: Client | None = None
        self._beside: asyncio.Task[None] | None = None

    def unready(self) -> str:
        """Why nothing is led on now; empty if it is, as far as what it leads to and from is there."""
        if self._stop.is_set():
            return "it is ending"
        return "" if self._client is not None and self._client.connection.linked else WAITS

    def stop(self) -> None:
        """Asks for an orderly end: take no more, finish and commit what is under way."""
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
        """Returns after `stop`. What passes is waited for: the namespace, Kafka, workflows.

        A connector that fails leaves the others alone. Raises the first failure once none is left.
        """
        client = await connected(self._broker, self._options.namespace, self._stop, "connectors")
        if client is None:
            return
        self._client = client
        try:
            await (self._follow(client) if self._connectors is None else self._run(self._connectors, client))
        finally:
            await client.close()

    async def _run(self, connectors: Sequence[Connector], client: Client) -> None:
        running = [self._run_one(each, client, self._stop) for each in connectors]
        failures = [each for each in await asyncio.gather(*running) if each is not None]
        if failures and len(failures) == len(connectors):
            raise failures[0]

    async def _run_one(self, config: Connector, client: Client, stop: asyncio.Event) -> DressageError | None:
        """Until `stop`; what has made it fail, if that came first."""
        own = ConnectorMetrics(self._metrics, config.name)
        return await run_connector(config, Setting(client, self._broker, self._options, own), stop)

    # -- what is deployed --------------------------------------------------------------------------
    async def _follow(self, client: Client) -> None:
        deployed = Deployed(client.connection, client.names)
        running: dict[str, _Running] = {}
        try:
            while not self._stop.is_set():
                try:
                    await self._adjust(deployed, client, running)
                except DressageError as error:
                    _log.warning("what is deployed cannot be read: %s", error)
                await pause(self._stop, self._options.look_every_s)
        finally:
            await asyncio.gather(*(each.end() for each in running.values()))

    async def _adjust(self, deployed: Deployed, client: Client, running: dict[str, _Running]) -> None:
        """Ends what is not wanted as it runs, and begins what is. Raises a `DressageError` when nobody answers."""
        wanted = {name: each for name, each in (await deployed.all()).items() if each.state == "running"}
        for name, each in list(running.items()):
            if each.task.done() and (failure := await each.task) is not None:
                await deployed.fail(name, each.entry, str(failure))
                wanted.pop(name, None)
            if wanted.get(name) != each.entry:
                del running[name]
                await each.end()
        for name in wanted.keys() - running.keys():
            running[name] = self._begin(wanted[name], client)

    def _begin(self, entry: Entry, client: Client) -> _Running:
        stop = asyncio.Event()

        async def work() -> DressageError | None:
            try:
                config = entry.connector()
            except ConfigInvalid as error:
                return error
            return await self._run_one(config, client, stop)

        return _Running(entry, stop, asyncio.create_task(work()))


@dataclass(slots=True, frozen=True)
class _Running:
    """A connector that is deployed, as this process runs it."""

    entry: Entry
    stop: asyncio.Event
    task: asyncio.Task[DressageError | None]

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait({self.task})


async def run_connector(config: Connector, setting: Setting, stop: asyncio.Event) -> DressageError | None:
    """Runs one connector until `stop`; what has made it fail, if that came first."""
    own = setting.metrics
    own.failed.set(0)
    ended = asyncio.Event()

    async def follow() -> None:
        await stop.wait()
        ended.set()

    async def task() -> None:
        await work_of(config, setting).run(ended)

    following = asyncio.create_task(follow())
    tasks = [asyncio.create_task(task()) for _ in range(tasks_of(config))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        ended.set()
        for each in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(each, (ConnectorFailed, BadInput)):
                own.failed.set(1)
                _log.error("connector %r has failed: %s", config.name, each)
                return each
            if isinstance(each, BaseException):
                raise each
        return None
    finally:
        following.cancel()
        for left in tasks:
            left.cancel()
