"""MySQL and MariaDB through pymysql: rows are locked, and looked for again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pymysql

from dressage.outbox.relay.beside import Beside
from dressage.outbox.relay.blocking import ThreadDb
from dressage.outbox.relay.faults import DsnInvalid, SchemaMissing, StoreFault
from dressage.outbox.relay.sql import SqlTaker, Table
from dressage.outbox.relay.store import Taker

CONNECT_S: Final = 5
ANSWER_S: Final = 30
LOOK_S: Final = 0.02
"""Between two looks for rows: nothing tells of them."""

_NO_TABLE: Final = {1054, 1142, 1146}


class _Calls:
    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        if not parts.hostname or not parts.path.strip("/"):
            raise DsnInvalid("give the address as mysql://user:password@host:3306/database")
        with _told():
            self._connection: Any = pymysql.connect(
                host=parts.hostname,
                port=parts.port or 3306,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                database=unquote(parts.path.strip("/")),
                charset="utf8mb4",
                connect_timeout=CONNECT_S,
                read_timeout=ANSWER_S,
                autocommit=False,
                # A look behind the locks has to see what was committed meanwhile.
                init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            )

    def execute(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        with _told(), self._connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), list(values) or None)
            return cursor.fetchall() if cursor.description else ()

    def commit(self) -> None:
        with _told():
            self._connection.commit()

    def rollback(self) -> None:
        with _told():
            self._connection.rollback()

    def close(self) -> None:
        with suppress(pymysql.Error):
            self._connection.close()


async def open_db(dsn: str) -> ThreadDb:
    """Raises `StoreFault`, `DsnInvalid`."""
    return await ThreadDb.open(partial(_Calls, dsn))


class MysqlStore:
    """The table of a database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._table = Table("mysql")
        self.beside = Beside(self._table, lambda: open_db(dsn))
        self.depth = self.beside.depth
        self.clean = self.beside.clean
        self.clean_inbox = self.beside.clean_inbox

    async def taker(self) -> Taker:
        return SqlTaker(self._table, await open_db(self._dsn))

    async def wait(self, timeout_s: float) -> None:
        await asyncio.sleep(min(LOOK_S, timeout_s))

    async def close(self) -> None:
        await self.beside.close()


@contextmanager
def _told() -> Iterator[None]:
    """Errors of pymysql as ours."""
    try:
        yield
    except pymysql.Error as error:
        if error.args and error.args[0] in _NO_TABLE:
            raise SchemaMissing(
                f"{error.args[-1]}: run what `dressage outbox schema --dialect mysql` prints, and let the relay's user "
                "read, update and delete there"
            ) from error
        raise StoreFault(f"MySQL: {error.args[-1] if error.args else error}") from error
