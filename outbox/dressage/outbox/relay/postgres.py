"""PostgreSQL through psycopg: rows are locked, and NOTIFY says that there are some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import errors

from dressage.outbox.names import CHANNEL
from dressage.outbox.relay.beside import Beside
from dressage.outbox.relay.faults import SchemaMissing, StoreFault
from dressage.outbox.relay.sql import SqlTaker, Table
from dressage.outbox.relay.store import Taker

CONNECT_S: Final = 5


class PostgresDb:
    """A connection that is a transaction until it commits."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        self._connection = connection

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        async with _told():
            cursor = await self._connection.execute(sql.replace("?", "%s").encode(), values or None)
            return await cursor.fetchall() if cursor.description else ()

    async def commit(self) -> None:
        async with _told():
            await self._connection.commit()

    async def rollback(self) -> None:
        async with _told():
            await self._connection.rollback()

    async def close(self) -> None:
        with suppress(psycopg.Error):
            await self._connection.close()


async def open_db(dsn: str) -> PostgresDb:
    """Raises `StoreFault` if nobody is there."""
    async with _told():
        return PostgresDb(await _connected(dsn))


async def _connected(dsn: str, *, autocommit: bool = False) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(
        dsn,
        autocommit=autocommit,
        connect_timeout=CONNECT_S,
        application_name="dressage outbox relay",
        # A database that has gone without a word is noticed within half a minute.
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )


class PostgresStore:
    """The table of a PostgreSQL database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._table = Table("postgresql")
        self._listening: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self.beside = Beside(self._table, lambda: open_db(dsn))
        self.depth = self.beside.depth
        self.clean = self.beside.clean
        self.clean_inbox = self.beside.clean_inbox

    async def taker(self) -> Taker:
        return SqlTaker(self._table, await open_db(self._dsn))

    async def wait(self, timeout_s: float) -> None:
        async with _told():
            if self._listening is None or self._listening.closed:
                self._listening = await _connected(self._dsn, autocommit=True)
                await self._listening.execute(f"LISTEN {CHANNEL}")
                return
            async for _ in self._listening.notifies(timeout=timeout_s, stop_after=1):
                pass

    async def close(self) -> None:
        if self._listening is not None:
            with suppress(psycopg.Error):
                await self._listening.close()
        await self.beside.close()


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Errors of psycopg as ours."""
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege) as error:
        raise SchemaMissing(
            f"{_first_line(error)}: run what `dressage outbox schema --dialect postgresql` prints, and let the relay's "
            "user read, update and delete there"
        ) from error
    except psycopg.Error as error:
        raise StoreFault(f"PostgreSQL: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
