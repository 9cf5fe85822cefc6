"""SQLite in WAL mode: one relay at a time, which looks whether the file has changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from dressage.outbox.relay.beside import Beside
from dressage.outbox.relay.blocking import ThreadDb
from dressage.outbox.relay.faults import DsnInvalid, SchemaMissing, StoreFault
from dressage.outbox.relay.sql import SqlBatch, Table, take_behind
from dressage.outbox.relay.store import Batch, Outcome, Row, Taker

BUSY_S: Final = 5.0
LOOK_S: Final = 0.01
"""Between two looks whether somebody has written; one is a read of shared memory."""


class _Calls:
    def __init__(self, path: str) -> None:
        with _told():
            self._connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")

    def execute(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        with _told():
            return self._connection.execute(sql, values).fetchall()

    def commit(self) -> None:
        with _told():
            self._connection.commit()

    def rollback(self) -> None:
        with _told():
            self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


def path_of(dsn: str) -> str:
    """Of `sqlite:///relative.db` or `sqlite:////absolute.db`. Raises `DsnInvalid`."""
    parts = urlsplit(dsn)
    path = unquote(parts.path[1:])
    if parts.netloc or not path or path == ":memory:":
        raise DsnInvalid(
            "give the file as sqlite:///relative.db or sqlite:////absolute.db: a relay needs a file"
        )
    return path


async def open_db(dsn: str) -> ThreadDb:
    """Raises `StoreFault`, `DsnInvalid`."""
    return await ThreadDb.open(partial(_Calls, path_of(dsn)))


class SqliteStore:
    """The table of a file. SQLite has no locks on rows, so the relay holds one for all of them, which ends with it."""

    def __init__(self, dsn: str, lock: sqlite3.Connection, looking: ThreadDb) -> None:
        self._dsn = dsn
        self._lock = lock
        self._looking = looking
        self._seen: Any = None
        self._one_at_a_time = asyncio.Lock()
        self._table = Table("sqlite")
        self.beside = Beside(self._table, lambda: open_db(dsn))
        self.depth = self.beside.depth
        self.clean = self.beside.clean
        self.clean_inbox = self.beside.clean_inbox

    @classmethod
    async def open(cls, dsn: str) -> Self:
        """Raises `StoreFault` while another relay has the file."""
        lock = _lock(f"{path_of(dsn)}-relay")
        try:
            return cls(dsn, lock, await open_db(dsn))
        except BaseException:
            lock.close()
            raise

    async def taker(self) -> Taker:
        return _Taker(self._table, await open_db(self._dsn), self._one_at_a_time)

    async def wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while loop.time() < deadline:
            ((version,),) = await self._looking.execute("PRAGMA data_version")
            if version != self._seen:
                self._seen = version
                return
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        await self.beside.close()
        await self._looking.close()
        self._lock.close()


class _Taker:
    """Rows are read, and not locked: a transaction that is open while they are sent would keep everybody from writing.

    So only one taker has rows at a time; the others find nothing meanwhile.
    """

    def __init__(self, table: Table, db: ThreadDb, one_at_a_time: asyncio.Lock) -> None:
        self._table = table
        self._db = db
        self._one_at_a_time = one_at_a_time

    async def take(self, limit: int) -> Batch:
        await self._one_at_a_time.acquire()
        try:
            rows = await take_behind(self._table, self._db, limit)
            await self._db.rollback()
        except BaseException:
            self._one_at_a_time.release()
            raise
        return _Batch(SqlBatch(self._table, self._db, rows), self._one_at_a_time)

    async def close(self) -> None:
        await self._db.close()


class _Batch:
    """Rows that nobody else has, as nobody else takes any until it is closed."""

    def __init__(self, batch: SqlBatch, taking: asyncio.Lock) -> None:
        self._batch = batch
        self._taking = taking

    @property
    def rows(self) -> Sequence[Row]:
        return self._batch.rows

    async def settle(self, outcome: Outcome) -> None:
        await self._batch.settle(outcome)

    async def close(self) -> None:
        try:
            await self._batch.close()
        finally:
            self._taking.release()


def _lock(path: str) -> sqlite3.Connection:
    """A lock on a file of its own, which ends with the process however that ends. Raises `StoreFault`."""
    with _told():
        lock = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            raise StoreFault(f"another relay has {path}: {error}") from error
    return lock


@contextmanager
def _told() -> Iterator[None]:
    """Errors of sqlite3 as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "no such column" in str(error):
            raise SchemaMissing(
                f"{error}: run what `dressage outbox schema --dialect sqlite` prints"
            ) from error
        raise StoreFault(f"SQLite: {error}") from error
    except sqlite3.Error as error:
        raise StoreFault(f"SQLite: {error}") from error
