"""PostgreSQL's log in place of a table: entries are sent as they are committed, and nothing is written for one.

The position that is confirmed to the server is that behind the last transaction all of whose entries, and all of those
before it, are settled. So what was not comes again after a restart, with the same ids.

What cannot be sent, for now or ever, is put into the table and counts as settled: there people see it, and the same
relay tries it again. What follows of the same key goes there, too, as long as something of it waits, so the
order is kept.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from dressage.outbox.messages import decode_message
from dressage.outbox.relay import slot as slots
from dressage.outbox.relay.faults import SlotTaken, StoreFault
from dressage.outbox.relay.postgres import PostgresStore
from dressage.outbox.relay.relay import RETRY_S, Relay, Sends
from dressage.outbox.relay.replication import Alive, Committed, Entry, LogStream
from dressage.outbox.relay.sql import Table
from dressage.outbox.relay.store import Outcome, Row, Store, Verdict
from dressage.protocol.errors import BadInput, DressageError

_log = logging.getLogger("dressage.outbox")

IN_FLIGHT_MAX: Final = 1_000
"""So many entries are held at a time: above that the log is not read on."""

CONFIRM_S: Final = 0.5
"""How often the server is told how far the relay has come; it would give the relay up after a minute without a word."""

SLOT_LAG_BYTES: Final = 1024 * 1024 * 1024
"""Above that the relay warns: the server keeps the log for it, on its disk."""

_MALFORMED: Final = "malformed"
_BEHIND: Final = Verdict("OUTBOX_KEY_WAITS", "an earlier message of its key waits", 1)


@dataclass(slots=True)
class _Transaction:
    """One whose entries are not all settled; `end_lsn` is 0 until all of them have come."""

    open: int = 0
    end_lsn: int = 0


class Window:
    """Which transactions are settled, in their order."""

    def __init__(self) -> None:
        self._transactions: deque[_Transaction] = deque([_Transaction()])
        self.confirmed = 0
        self.in_flight = 0

    def add(self) -> _Transaction:
        """An entry has come."""
        self._transactions[-1].open += 1
        self.in_flight += 1
        return self._transactions[-1]

    def settled(self, transaction: _Transaction) -> None:
        transaction.open -= 1
        self.in_flight -= 1
        self._advance()

    def committed(self, lsn: int) -> None:
        """The transaction's entries have all come."""
        self._transactions[-1].end_lsn = lsn
        self._transactions.append(_Transaction())
        self._advance()

    def nothing_before(self, lsn: int) -> None:
        """The server has told all there is up to `lsn`."""
        if len(self._transactions) == 1 and not self._transactions[0].open:
            self.confirmed = max(self.confirmed, lsn)

    def _advance(self) -> None:
        while self._transactions[0].end_lsn and not self._transactions[0].open:
            self.confirmed = max(self.confirmed, self._transactions.popleft().end_lsn)


class LogReader:
    """Reads the log, and sends what is in it: of a key one entry after the other."""

    def __init__(self, relay: Relay, store: PostgresStore, sends: Sends, dsn: str) -> None:
        self._relay = relay
        self._store = store
        self._sends = sends
        self._dsn = dsn
        self._table = Table("postgresql")
        self._keys: dict[str, deque[tuple[Row, _Transaction]]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._waiting_keys: set[str] = set()
        self._window = Window()

    async def run(self) -> None:
        """Until it is cancelled. Raises `SchemaMissing`; everything else is waited for, also that another relay has the
        slot."""
        stands_by = False
        while True:
            try:
                await self._read_once()
            except SlotTaken:
                # No fault: with one the relay would try a row at a time, after pauses, and so take over slowly.
                if not stands_by:
                    _log.info("another relay reads the log: this one stands by")
                stands_by = True
            except DressageError as error:
                if not error.retryable:
                    raise
                stands_by = False
                self._relay.fault.begin(error)
            await asyncio.sleep(RETRY_S)

    async def _read_once(self) -> None:
        async with self._store.beside.transaction() as db:
            slot = await slots.require(db)
            self._waiting_keys = await self._table.waiting_keys(db)
        stream = await LogStream.open(self._dsn, slot.name)
        self._relay.fault.end(StoreFault.code)
        self._window, self._keys = Window(), {}
        beside = [asyncio.create_task(each) for each in (self._watch(), self._confirm(stream))]
        try:
            await self._read(stream, beside)
        finally:
            for task in (*beside, *self._sending):
                task.cancel()
            for task in (*beside, *self._sending):
                with suppress(asyncio.CancelledError, DressageError):
                    await task
            with suppress(DressageError):
                stream.confirm(self._window.confirmed)
            stream.close()

    async def _read(self, stream: LogStream, beside: list[asyncio.Task[None]]) -> None:
        while True:
            for task in beside:
                if task.done():
                    task.result()
            told = stream.read() if self._window.in_flight < IN_FLIGHT_MAX else None
            if isinstance(told, Entry):
                self._take(told)
            elif isinstance(told, Committed):
                self._window.committed(told.lsn)
            elif isinstance(told, Alive):
                self._window.nothing_before(told.lsn)
                if told.asks:
                    stream.confirm(self._window.confirmed)
            elif self._window.in_flight < IN_FLIGHT_MAX:
                await stream.wait(CONFIRM_S)
            else:
                await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED, timeout=CONFIRM_S)

    def _take(self, entry: Entry) -> None:
        transaction = self._window.add()
        row = row_of(entry)
        waiting = self._keys.get(row.ordering_key)
        if waiting is not None:
            waiting.append((row, transaction))
            return
        self._keys[row.ordering_key] = deque([(row, transaction)])
        task = asyncio.create_task(self._send_key(row.ordering_key))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_key(self, key: str) -> None:
        waiting = self._keys[key]
        while waiting:
            row, transaction = waiting[0]
            await self._settle(row)
            waiting.popleft()
            self._window.settled(transaction)
        del self._keys[key]

    async def _settle(self, row: Row) -> None:
        """Returns once it is sent, or in the table."""
        while True:
            try:
                if row.ordering_key in self._waiting_keys:
                    await self._put(row, _BEHIND)
                    return
                verdict = await self._try(row)
                if verdict is not None:
                    await self._put(row, verdict)
                return
            except DressageError as error:
                self._relay.fault.begin(error)

    async def _try(self, row: Row) -> Verdict | None:
        async with self._relay.fault.passage(1):
            verdict = await self._sends.send(row)
            self._relay.fault.end()
        if verdict is None:
            self._relay.count(Outcome(sent=[row]))
        elif verdict.later_ms:
            self._relay.tell_later(row, verdict)
        else:
            self._relay.tell_dead(row, verdict)
        return verdict

    async def _put(self, row: Row, verdict: Verdict) -> None:
        async with self._store.beside.transaction() as db:
            await self._table.put(db, row, verdict, dead=not verdict.later_ms)
        if verdict.later_ms:
            self._waiting_keys.add(row.ordering_key)

    # -- beside ------------------------------------------------------------------------------------
    async def _confirm(self, stream: LogStream) -> None:
        while True:
            await asyncio.sleep(CONFIRM_S)
            stream.confirm(self._window.confirmed)

    async def _watch(self) -> None:
        """What the slot keeps, and which keys have nothing more in the table."""
        while True:
            try:
                async with self._store.beside.transaction() as db:
                    slot = await slots.require(db)
                    # While we look nothing is put there, as that takes a transaction of this connection, too.
                    self._waiting_keys &= await self._table.waiting_keys(db)
            except DressageError as error:
                if not error.retryable:
                    raise
                _log.debug("the slot cannot be looked at: %s", error)
            else:
                self._relay.metrics.slot_lag.set(slot.lag_bytes)
                if slot.lag_bytes > SLOT_LAG_BYTES:
                    _log.warning(
                        "the slot keeps %d MiB of PostgreSQL's log for this relay: look at what it waits for, and at "
                        "the server's disk",
                        slot.lag_bytes // (1024 * 1024),
                    )
            await asyncio.sleep(self._relay.options.look_every_s)


def row_of(entry: Entry) -> Row:
    """An entry as the table would have it. One that cannot be read keeps what it says, for people to see."""
    text = entry.content.decode(errors="replace")
    try:
        message = decode_message(entry.content)
    except BadInput:
        # Its own digest is its id, so that it is in the table once however often it comes.
        return Row(0, f"malformed-{zlib.crc32(entry.content):08x}", _MALFORMED, text, entry.committed_ms)
    return Row(0, message.id, message.ordering_key, text, entry.committed_ms)


def reading(dsn: str) -> Callable[[Relay, Store, Sends], Awaitable[None]]:
    """For a `Relay` that reads the log beside the table."""

    async def read(relay: Relay, store: Store, sends: Sends) -> None:
        assert isinstance(store, PostgresStore), "the store of the same address"
        await LogReader(relay, store, sends, dsn).run()

    return read
