"""The connections and sessions that an application has, known by their types; no library of theirs is imported for it.

What is done with one is a script: a generator that yields statements, is sent their rows, and returns what comes of it.
The same script runs at once through a connection that blocks, and as a coroutine through one that is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from dressage.protocol.errors import BadInput

T = TypeVar("T")

Dialect = Literal["postgresql", "sqlite", "mysql"]
DIALECTS: Final[tuple[Dialect, ...]] = ("postgresql", "sqlite", "mysql")

Row = Sequence[Any]
Rows = Sequence[Row]


class AsyncConnection(Protocol):
    """One whose `execute` is awaited: of psycopg, asyncpg, aiosqlite, or SQLAlchemy's connection or session."""

    @property
    def execute(self) -> Callable[..., Awaitable[Any]]: ...


class SyncConnection(Protocol):
    """One that blocks and has `execute`: of psycopg, sqlite3, or SQLAlchemy's connection or session."""

    @property
    def execute(self) -> Callable[..., Any]: ...


class CursorConnection(Protocol):
    """One that blocks and has cursors: `django.db.connection`, or of pymysql or mysqlclient."""

    @property
    def cursor(self) -> Callable[..., Any]: ...


@dataclass(slots=True, frozen=True)
class Statement:
    """SQL with a `?` for each of its values."""

    sql: str
    values: Sequence[Any] = ()
    gives_rows: bool = False


Script = Generator[Statement, Rows, T]


@dataclass(slots=True, frozen=True)
class Bound:
    """A connection, and how it is spoken to; `execute` gives the rows, or what is awaited for them."""

    dialect: Dialect
    is_async: bool
    execute: Callable[[Statement], Any]

    def run(self, script: Script[T]) -> T | Awaitable[T]:
        """What the script returns, or what is awaited for it."""
        return self._later(script) if self.is_async else self._now(script)

    def _now(self, script: Script[T]) -> T:
        rows: Rows | None = None
        while True:
            try:
                statement = next(script) if rows is None else script.send(rows)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            rows = self.execute(statement)

    async def _later(self, script: Script[T]) -> T:
        rows: Rows | None = None
        while True:
            try:
                statement = next(script) if rows is None else script.send(rows)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            rows = await self.execute(statement)


def bind(connection: object) -> Bound:
    """Raises `BadInput`: OUTBOX_CONNECTION_UNKNOWN, or OUTBOX_NO_TRANSACTION for one that commits each statement."""
    for kind in type(connection).__mro__:
        binder = _BINDERS.get(kind.__module__.partition(".")[0])
        if binder is not None:
            bound = binder(connection)
            if bound is not None:
                return bound
    raise BadInput(
        f"{type(connection).__module__}.{type(connection).__qualname__} is no connection that is known: give a "
        "connection or session of SQLAlchemy, psycopg, asyncpg, sqlite3, aiosqlite, Django, pymysql or mysqlclient",
        code="OUTBOX_CONNECTION_UNKNOWN",
    )


def dialect_of(name: str) -> Dialect:
    """The dialect that a library calls `name`. Raises `BadInput` (OUTBOX_DIALECT_UNKNOWN)."""
    known = _DIALECT_NAMES.get(name)
    if known is None:
        raise BadInput(
            f"{name!r} is no database that the outbox knows: PostgreSQL, SQLite, MySQL and MariaDB are",
            code="OUTBOX_DIALECT_UNKNOWN",
        )
    return known


_DIALECT_NAMES: Final[dict[str, Dialect]] = {
    "postgresql": "postgresql",
    "sqlite": "sqlite",
    "mysql": "mysql",
    "mariadb": "mysql",
}


def _require_transaction(is_open: bool, advice: str) -> None:
    if not is_open:
        raise BadInput(
            f"this connection commits each statement by itself, so nothing ties the message to what you "
            f"write: {advice}",
            code="OUTBOX_NO_TRANSACTION",
        )


# -- one kind each ---------------------------------------------------------------------------------
def _sqlite3(connection: Any) -> Bound | None:
    if not hasattr(connection, "execute"):
        return None
    _require_sqlite(connection)

    def execute(statement: Statement) -> Rows:
        return connection.execute(statement.sql, statement.values).fetchall()  # type: ignore[no-any-return]

    return Bound("sqlite", False, execute)


def _aiosqlite(connection: Any) -> Bound:
    _require_sqlite(connection)

    async def execute(statement: Statement) -> Rows:
        async with connection.execute(statement.sql, statement.values) as cursor:
            return await cursor.fetchall()  # type: ignore[no-any-return]

    return Bound("sqlite", True, execute)


def _require_sqlite(connection: Any) -> None:
    commits = connection.isolation_level is None or getattr(connection, "autocommit", False) is True
    _require_transaction(connection.in_transaction or not commits, "execute BEGIN before")


def _psycopg(connection: Any) -> Bound | None:
    if not hasattr(connection, "info"):
        return None
    is_idle = int(connection.info.transaction_status) == 0
    _require_transaction(not (connection.autocommit and is_idle), "use `with connection.transaction():`")

    def execute(statement: Statement) -> Rows:
        cursor = connection.execute(statement.sql.replace("?", "%s"), statement.values)
        return cursor.fetchall() if statement.gives_rows else ()

    async def execute_async(statement: Statement) -> Rows:
        cursor = await connection.execute(statement.sql.replace("?", "%s"), statement.values)
        return await cursor.fetchall() if statement.gives_rows else ()

    is_async = any(kind.__name__ == "AsyncConnection" for kind in type(connection).__mro__)
    return Bound("postgresql", is_async, execute_async if is_async else execute)


def _asyncpg(connection: Any) -> Bound | None:
    if not hasattr(connection, "is_in_transaction"):
        return None
    _require_transaction(connection.is_in_transaction(), "use `async with connection.transaction():`")

    async def execute(statement: Statement) -> Rows:
        head, *rest = statement.sql.split("?")
        sql = head + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
        return await connection.fetch(sql, *statement.values)  # type: ignore[no-any-return]

    return Bound("postgresql", True, execute)


def _sqlalchemy(connection: Any) -> Bound | None:
    if not hasattr(connection, "execute"):
        return None
    from sqlalchemy import text

    if hasattr(connection, "dialect"):
        dialect = connection.dialect
    else:  # a session
        dialect = connection.get_bind().dialect

    def written(statement: Statement) -> tuple[Any, dict[str, Any]]:
        head, *rest = statement.sql.split("?")
        sql = head + "".join(f":v{number}{part}" for number, part in enumerate(rest))
        return text(sql), {f"v{number}": value for number, value in enumerate(statement.values)}

    def execute(statement: Statement) -> Rows:
        found = connection.execute(*written(statement))
        return found.fetchall() if statement.gives_rows else ()

    async def execute_async(statement: Statement) -> Rows:
        found = await connection.execute(*written(statement))
        return found.fetchall() if statement.gives_rows else ()

    is_async = any(kind.__module__.startswith("sqlalchemy.ext.asyncio") for kind in type(connection).__mro__)
    return Bound(dialect_of(dialect.name), is_async, execute_async if is_async else execute)


def _django(connection: Any) -> Bound | None:
    if not hasattr(connection, "vendor"):
        return None
    _require_transaction(
        connection.in_atomic_block or not connection.get_autocommit(), "use `with transaction.atomic():`"
    )
    return Bound(dialect_of(connection.vendor), False, _by_cursor(connection))


def _mysql(connection: Any) -> Bound | None:
    if not hasattr(connection, "get_autocommit"):
        return None
    in_transaction = 1
    is_open = not connection.get_autocommit() or bool(
        getattr(connection, "server_status", 0) & in_transaction
    )
    _require_transaction(is_open, "call `connection.begin()` before")
    return Bound("mysql", False, _by_cursor(connection))


def _by_cursor(connection: Any) -> Callable[[Statement], Rows]:
    def execute(statement: Statement) -> Rows:
        with connection.cursor() as cursor:
            cursor.execute(statement.sql.replace("?", "%s"), list(statement.values))
            return cursor.fetchall() if statement.gives_rows else ()

    return execute


_BINDERS: Final[dict[str, Callable[[Any], Bound | None]]] = {
    "sqlite3": _sqlite3,
    "aiosqlite": _aiosqlite,
    "psycopg": _psycopg,
    "asyncpg": _asyncpg,
    "sqlalchemy": _sqlalchemy,
    "django": _django,
    "pymysql": _mysql,
    "MySQLdb": _mysql,
}
"""By the package that a class is from."""
