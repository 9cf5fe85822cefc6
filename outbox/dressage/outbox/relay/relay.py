"""The relay: sends what was committed, and writes down that it was sent once the engine has accepted it.

Whatever dies in between, and whenever: a row is pending until the engine has accepted its message, so it is sent again;
and its message carries the same id each time, which the run remembers. So a row that is committed has exactly one run,
or one event, and a row that is rolled back was never there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from dressage.brokers.interface import Broker
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.outbox.relay.bell import Bell
from dressage.outbox.relay.engine import Engine
from dressage.outbox.relay.fault import Fault
from dressage.outbox.relay.faults import StoreFault
from dressage.outbox.relay.metrics import RelayMetrics
from dressage.outbox.relay.store import Batch, Outcome, Row, Store, Taker, Verdict
from dressage.protocol.errors import DressageError
from dressage.telemetry import Meters, NoMeters

_log = logging.getLogger("dressage.outbox")

T = TypeVar("T")


RETRY_S: Final = 1.0
CLEAN_ROWS: Final = 1_000


@dataclass(slots=True, frozen=True)
class RelayOptions:
    """How a relay works.

    It takes up to `batch` rows at a time through each of `takers` connections to the database. `poll_s` is how long it
    rests where nothing tells it of new rows; rows that were sent are removed after `keep_sent_s`, those of the inbox
    after `keep_inbox_s`.
    """

    namespace: str = "default"
    batch: int = 500
    takers: int = 3
    poll_s: float = 1.0
    look_every_s: float = 5.0
    keep_sent_s: float = 3_600.0
    keep_inbox_s: float = 30 * 86_400.0


class Sends(Protocol):
    """What sends a message: `Engine`."""

    async def send(self, row: Row) -> Verdict | None: ...


Opens = Callable[[], Awaitable[Store]]
Beside = Callable[["Relay", Store, Sends], Awaitable[None]]
"""Another way that messages come by, as the log."""


class Relay:
    """Runs until `stop`: use `run`, or `async with` inside another process. Any number may run beside each other."""

    def __init__(
        self,
        server: str | Broker,
        store: Opens,
        options: RelayOptions | None = None,
        meters: Meters | None = None,
        *,
        beside: Beside | None = None,
    ) -> None:
        self._beside = beside
        self._broker: Broker = JetStreamBroker(server) if isinstance(server, str) else server
        self._opens = store
        self.options: Final = options or RelayOptions()
        self.metrics: Final = RelayMetrics(meters or NoMeters())
        self._stop = asyncio.Event()
        self._client: Client | None = None
        self._running: asyncio.Task[None] | None = None
        self.fault = Fault(self.metrics)

    def unready(self) -> str:
        """Why no messages are sent now; empty if they are."""
        if self._stop.is_set():
            return "it is ending"
        if self._client is None:
            return "it waits for the database, the server, or the namespace"
        if not self._client.connection.linked:
            return "it waits for the server"
        return f"it waits: {self.fault.code}" if self.fault.code else ""

    def stop(self) -> None:
        """Asks for an orderly end: take no more rows, finish those that are under way."""
        self._stop.set()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._running is not None:
            await self._running

    async def run(self) -> None:
        """Returns after `stop`. Raises what no waiting helps against, as `SchemaMissing`.

        Everything else is waited for: the database, the broker, the namespace, the engine.
        """
        store = await self._patiently(self._opens)
        if store is None:
            return
        try:
            client = await self._patiently(self._connected)
            if client is None:
                return
            self._client = client
            try:
                await self._work(store, Engine(client))
            finally:
                await client.close()
        finally:
            await store.close()

    async def _connected(self) -> Client:
        client = Client(self._broker, namespace=self.options.namespace)
        await client.connect()
        return client

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        while not self._stop.is_set():
            try:
                found = await ask()
                self.fault.end()
                return found
            except DressageError as error:
                if not error.retryable and error.code not in ("NAMESPACE_UNKNOWN", "NOT_FOUND"):
                    raise
                self.fault.begin(error)
            await self._pause(RETRY_S)
        return None

    async def _work(self, store: Store, sends: Sends) -> None:
        bell = Bell()
        beside = [
            asyncio.create_task(work)
            for work in (self._listen(store, bell), self._look(store), self._clean(store))
        ]
        if self._beside is not None:
            beside.append(asyncio.create_task(self._other_way(self._beside, store, sends)))
        takers = [asyncio.create_task(self._taking(store, sends, bell)) for _ in range(self.options.takers)]
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({stopped, *beside, *takers}, return_when=asyncio.FIRST_COMPLETED)
            self._stop.set()
            bell.close()
            await asyncio.gather(*takers)
        finally:
            for task in (stopped, *beside, *takers):
                task.cancel()
            for task in (stopped, *beside, *takers):
                with suppress(asyncio.CancelledError):
                    await task

    # -- one connection ----------------------------------------------------------------------------
    async def _taking(self, store: Store, sends: Sends, bell: Bell) -> None:
        """Takes batches, one after the other; a connection that fails is opened again, for as long as we live."""
        while not self._stop.is_set():
            try:
                taker = await store.taker()
                try:
                    while not self._stop.is_set():
                        if not await self._turn(taker, sends, bell):
                            await bell.wait(self.options.poll_s)
                finally:
                    await taker.close()
            except DressageError as error:
                if not error.retryable:
                    raise
                self.fault.begin(error)
                await self._pause(RETRY_S)

    async def _turn(self, taker: Taker, sends: Sends, bell: Bell) -> bool:
        """One batch; whether there may be more at once."""
        async with self.fault.passage(self.options.batch) as limit:
            batch = await taker.take(limit)
            self.fault.end(StoreFault.code)
            try:
                if not batch.rows:
                    return False
                if len(batch.rows) == limit:
                    bell.ring()
                outcome = await self.deal(batch.rows, sends)
                await batch.settle(outcome)
            finally:
                await _closed(batch)
        self.count(outcome)
        return bool(outcome.sent or outcome.dead)

    async def deal(self, rows: Sequence[Row], sends: Sends) -> Outcome:
        """Sends rows: those of a key one after the other, as they stand, and different keys at once."""
        outcome = Outcome()
        keys: dict[str, list[Row]] = {}
        for row in rows:
            keys.setdefault(row.ordering_key, []).append(row)
        await asyncio.gather(*(self._in_order(each, sends, outcome) for each in keys.values()))
        return outcome

    async def _in_order(self, rows: Sequence[Row], sends: Sends, outcome: Outcome) -> None:
        """What is dead holds nobody up; what is put off, or has no known outcome, holds up those behind it."""
        for row in rows:
            try:
                verdict = await sends.send(row)
            except DressageError as error:
                self.fault.begin(error)
                return
            self.fault.end()
            if verdict is None:
                outcome.sent.append(row)
            elif verdict.later_ms:
                outcome.later.append((row, verdict))
                return
            else:
                outcome.dead.append((row, verdict))

    def count(self, outcome: Outcome) -> None:
        self.metrics.sent.inc(len(outcome.sent))
        now_ms = time.time() * 1000
        for row in outcome.sent:
            if row.created_ms:
                self.metrics.lag.observe(max(0.0, now_ms - row.created_ms) / 1000)
        for row, verdict in outcome.dead:
            self.tell_dead(row, verdict)
        for row, verdict in outcome.later:
            self.tell_later(row, verdict)

    def tell_dead(self, row: Row, verdict: Verdict) -> None:
        self.metrics.dead_letters.labels(verdict.code).inc()
        _log.warning("message %s is dead: %s: %s", row.id, verdict.code, verdict.reason)

    def tell_later(self, row: Row, verdict: Verdict) -> None:
        self.metrics.retries.labels(verdict.code).inc()
        level = logging.WARNING if row.attempts == 0 else logging.INFO
        _log.log(level, "message %s waits: %s: %s", row.id, verdict.code, verdict.reason)

    # -- beside ------------------------------------------------------------------------------------
    async def _listen(self, store: Store, bell: Bell) -> None:
        while True:
            try:
                await store.wait(self.options.poll_s)
            except DressageError as error:
                self.fault.begin(error)
                await self._pause(RETRY_S)
            bell.ring()

    async def _look(self, store: Store) -> None:
        while True:
            try:
                depth = await store.depth()
            except DressageError as error:
                _log.debug("the outbox's depth cannot be told: %s", error)
            else:
                self.metrics.pending.set(depth.pending)
                self.metrics.oldest.set(depth.oldest_s)
                self.metrics.dead.set(depth.dead)
            await asyncio.sleep(self.options.look_every_s)

    async def _clean(self, store: Store) -> None:
        """In batches, so that no transaction is long."""
        while True:
            removed = 0
            try:
                removed = await store.clean(self.options.keep_sent_s, CLEAN_ROWS)
                removed += await store.clean_inbox(self.options.keep_inbox_s, CLEAN_ROWS)
            except DressageError as error:
                _log.debug("the outbox cannot be tidied: %s", error)
            await asyncio.sleep(0.05 if removed >= CLEAN_ROWS else self.options.look_every_s)

    async def _other_way(self, beside: Beside, store: Store, sends: Sends) -> None:
        await beside(self, store, sends)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


async def _closed(batch: Batch) -> None:
    """A connection that is gone has let go already."""
    with suppress(DressageError):
        await batch.close()
