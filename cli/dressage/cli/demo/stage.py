"""The demo's installation: a broker, and one process for each role, as a small production would have them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.brokers.provision import read_namespace
from dressage.cli.children import Child, dressage
from dressage.client.finding import QueryResult, query
from dressage.protocol.errors import DressageError, NoAnswer
from dressage.protocol.names import Names

NAMESPACE: Final = "shop"
STREAM: Final = "shop"
TRIGGER: Final = "shop-orders"
READY_S: Final = 30.0
POLL_S: Final = 0.05
ROWS_MAX: Final = 100_000
STOP_ORDER: Final = ("trigger", "worker", "orchestrator", "analytics")


@dataclass(frozen=True)
class StageConfig:
    """Where the example is, where data and logs go, and how much is published how fast."""

    examples: Path
    data: Path
    shards: int
    invoices: int | None
    rate: float


class Stage:
    """Use `open`; everything is stopped, in order, when the stack it was given unwinds."""

    def __init__(self, config: StageConfig, url: str, connection: JetStreamConnection) -> None:
        self._config = config
        self._url = url
        self.connection = connection
        self.names = Names(NAMESPACE)
        self._running: dict[str, Child] = {}

    @classmethod
    async def open(cls, config: StageConfig, stack: AsyncExitStack) -> Stage:
        """Starts the broker, then every role, and returns when all of them are ready."""
        config.data.mkdir(parents=True, exist_ok=True)
        server = await stack.enter_async_context(EmbeddedServer(config.data / "nats"))
        connection = await JetStreamBroker(server.url).connect("demo", reconnect=True)
        stack.push_async_callback(connection.close)
        stage = cls(config, server.url, connection)
        stack.push_async_callback(stage.stop)
        await stage._start()
        return stage

    async def _start(self) -> None:
        await self._keep_running(
            "orchestrator", *self._command("orchestrator", "--shards", str(self._config.shards))
        )
        await self._keep_running(
            "analytics", *self._command("analytics", "--db", str(self._config.data / "demo.duckdb"))
        )
        async with self._shop("prepare", "--prepare") as prepare:
            await self._until("the namespace is there", self._has_namespace)
            await self._keep_running("worker", *self._command("worker", "online_retail.worker:app"))
            deploy = self._child("deploy", *self._command("deploy", "online_retail.workflow"))
            async with deploy:
                await prepare.finished()
                await deploy.finished()
        triggers = str(self._config.examples / "online_retail" / "triggers.toml")
        await self._keep_running("trigger", *self._command("trigger", "run", triggers))
        await self._until("the trigger listens", self._is_listened_to)
        await self._until("analytics answers", self._analytics_answers)

    async def stop(self) -> None:
        """Stops each role before those that it feeds, so that nothing is left half done."""
        for name in STOP_ORDER:
            if name in self._running:
                await self._running.pop(name).stop()

    def publisher(self) -> Child:
        """The shop's own service: a plain program that speaks to the broker only."""
        some = [] if self._config.invoices is None else ["--invoices", str(self._config.invoices)]
        return self._shop("publisher", "--malformed", "--rate", f"{self._config.rate:g}", *some)

    async def ask(self, sql: str, *, not_before: int = 0) -> QueryResult:
        """Asks the analytics process; `not_before` is a sequence of EVENTS that the answer must reflect."""
        after = {self.names.events_stream: not_before} if not_before else {}
        return await query(self.connection, self.names, sql, limit_rows=ROWS_MAX, not_before=after)

    async def last_seq(self, stream: str) -> int:
        state = await self.connection.stream_state(stream)
        return state.last_seq if state else 0

    def check(self) -> None:
        """Raises `DressageError` if a process has ended that should be running."""
        for child in self._running.values():
            child.check()

    # -- starting ----------------------------------------------------------------------------------
    def _command(self, *arguments: str) -> list[str]:
        return [*dressage(*arguments), "--server", self._url, "--namespace", NAMESPACE]

    def _shop(self, name: str, *arguments: str) -> Child:
        return self._child(
            name, sys.executable, "-m", "online_retail.publish", "--server", self._url, *arguments
        )

    def _child(self, name: str, *command: str) -> Child:
        return Child(name, command, self._config.examples, self._config.data)

    async def _keep_running(self, name: str, *command: str) -> None:
        child = self._running[name] = self._child(name, *command)
        await child.start()

    async def _until(self, what: str, fact: Callable[[], Awaitable[bool]]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_S
        while not await fact():
            self.check()
            if loop.time() > deadline:
                raise DressageError(f"not within {READY_S:g} s: {what}", code="DEMO_NOT_READY")
            await asyncio.sleep(POLL_S)

    async def _has_namespace(self) -> bool:
        return await read_namespace(self.connection, self.names) is not None

    async def _is_listened_to(self) -> bool:
        return bool(await self.connection.consumers(STREAM))

    async def _analytics_answers(self) -> bool:
        try:
            await self.ask("SELECT 1")
        except NoAnswer:
            return False
        return True
