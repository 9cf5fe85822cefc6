"""Which database an address names. The driver is imported when it is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from dressage.outbox.connections import Dialect
from dressage.outbox.relay.faults import DsnInvalid
from dressage.outbox.relay.sql import Db
from dressage.outbox.relay.store import Store

_SCHEMES: Final[dict[str, Dialect]] = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}


def dialect_of_dsn(dsn: str) -> Dialect:
    """Raises `DsnInvalid`. An address as SQLAlchemy has it, with a driver behind a `+`, will do."""
    scheme = dsn.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise DsnInvalid(
            "the address of the database begins with postgresql://, mysql://, mariadb:// or sqlite:///: this one "
            f"begins with {scheme[:20]!r}"
        )
    return _SCHEMES[scheme]


def plain_dsn(dsn: str) -> str:
    """The address without the driver that SQLAlchemy names."""
    scheme, colon, rest = dsn.partition(":")
    return scheme.partition("+")[0] + colon + rest


def store_of(dsn: str) -> Callable[[], Awaitable[Store]]:
    """Opens the store that `dsn` names. Raises `DsnInvalid`."""
    dialect, address = dialect_of_dsn(dsn), plain_dsn(dsn)

    async def postgres() -> Store:
        from dressage.outbox.relay.postgres import PostgresStore

        return PostgresStore(address)

    async def sqlite() -> Store:
        from dressage.outbox.relay.sqlite import SqliteStore

        return await SqliteStore.open(address)

    async def mysql() -> Store:
        from dressage.outbox.relay.mysql import MysqlStore

        return MysqlStore(address)

    return {"postgresql": postgres, "sqlite": sqlite, "mysql": mysql}[dialect]


async def open_db(dsn: str) -> Db:
    """One connection, for what people ask. Raises `DsnInvalid`, or `StoreFault`."""
    dialect, address = dialect_of_dsn(dsn), plain_dsn(dsn)
    if dialect == "postgresql":
        from dressage.outbox.relay import postgres

        return await postgres.open_db(address)
    if dialect == "mysql":
        from dressage.outbox.relay import mysql

        return await mysql.open_db(address)
    from dressage.outbox.relay import sqlite

    return await sqlite.open_db(address)
