"""Every kind of connection: a message goes with its transaction, and a task's own effect happens once."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from tests.outbox.conftest import greet, noted  # pyright: ignore[reportMissingImports]

from dressage import outbox
from dressage.outbox import inbox, schema
from dressage.outbox.messages import MESSAGE_BYTES_MAX, Post, Start, decode_message
from dressage.outbox.relay import slot as slots
from dressage.outbox.relay.dsn import open_db
from dressage.protocol.errors import BadInput, BadRunId, BadValue

UNKNOWN: Any = object()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An SQLite file with the tables of the outbox."""
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    for statement in schema.statements("sqlite"):
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def sqlite_file(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(file)
    yield connection
    connection.close()


def sent_rows(connection: sqlite3.Connection) -> list[Any]:
    return [
        decode_message(row[0])
        for row in connection.execute("SELECT message FROM dressage_outbox ORDER BY seq")
    ]


# -- who blocks ------------------------------------------------------------------------------------
class Sync:
    """What a test of a connection that blocks needs to know of its kind."""

    def __init__(self, connection: Any, commit: Any, rollback: Any) -> None:
        self.connection = connection
        self.commit = commit
        self.rollback = rollback


def _sqlalchemy_url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["psycopg", "session", "scoped", "connection", "sqlite3", "sqlite-session"])
def sync(request: pytest.FixtureRequest) -> Iterator[Sync]:
    kind = request.param
    if kind == "sqlite3":
        connection = request.getfixturevalue("sqlite_file")
        yield Sync(connection, connection.commit, connection.rollback)
        return
    if kind == "psycopg":
        with psycopg.connect(request.getfixturevalue("dsn")) as plain:
            yield Sync(plain, plain.commit, plain.rollback)
        return
    url = (
        f"sqlite:///{request.getfixturevalue('file')}"
        if kind == "sqlite-session"
        else _sqlalchemy_url(request.getfixturevalue("dsn"))
    )
    engine = create_engine(url)
    opened: Any = {
        "session": lambda: Session(engine),
        "sqlite-session": lambda: Session(engine),
        "scoped": lambda: scoped_session(sessionmaker(engine)),
        "connection": engine.connect,
    }[kind]()
    yield Sync(opened, opened.commit, opened.rollback)
    opened.close()
    engine.dispose()


def count(connection: Any, table: str = "dressage_outbox") -> int:
    statement: Any = f"SELECT count(*) FROM {table}"
    if isinstance(connection, Session | scoped_session | Connection):
        statement = text(statement)
    found: Any = connection.execute(statement).fetchone()
    return int(found[0])


def test_a_message_goes_with_its_transaction(sync: Sync) -> None:
    sent = outbox.start(sync.connection, greet, {"name": "Ada"})
    sync.rollback()
    assert count(sync.connection) == 0
    sent = outbox.start(sync.connection, greet, {"name": "Ada"}, run_id="ada%?:x")
    outbox.post(sync.connection, noted, 7, run_id="ada%?:x")
    sync.commit()
    assert count(sync.connection) == 2
    assert sent.run_id == "ada%?:x"


def test_an_effect_happens_once(sync: Sync) -> None:
    first = inbox.once(sync.connection, "m%?:1")
    assert first
    sync.rollback()
    first = inbox.once(sync.connection, "m%?:1")
    assert first
    first.keep({"booking": [1, "ü"]})
    sync.commit()
    again = inbox.once(sync.connection, "m%?:1")
    assert not again
    assert again.result == {"booking": [1, "ü"]}
    assert not inbox.once(sync.connection, "m%?:1")
    assert inbox.once(sync.connection, "m2").result is None
    sync.commit()


# -- who is awaited --------------------------------------------------------------------------------
KINDS = ["psycopg", "asyncpg", "session", "connection", "aiosqlite", "sqlite-session"]


@pytest.fixture(params=KINDS)
async def awaited(request: pytest.FixtureRequest) -> AsyncIterator[Sync]:
    """`commit` ends a transaction, and so does `rollback`; the next statement begins another one."""
    kind = request.param
    if kind == "aiosqlite":
        async with aiosqlite.connect(request.getfixturevalue("file")) as lite:
            yield Sync(lite, lite.commit, lite.rollback)
    elif kind == "psycopg":
        async with await psycopg.AsyncConnection.connect(request.getfixturevalue("dsn")) as plain:
            yield Sync(plain, plain.commit, plain.rollback)
    elif kind == "asyncpg":
        async with _asyncpg(request.getfixturevalue("dsn")) as sync:
            yield sync
    else:
        url = (
            f"sqlite+aiosqlite:///{request.getfixturevalue('file')}"
            if kind == "sqlite-session"
            else _sqlalchemy_url(request.getfixturevalue("dsn"))
        )
        engine = create_async_engine(url)
        opened: AsyncSession | AsyncConnection
        opened = await engine.connect() if kind == "connection" else AsyncSession(engine)
        yield Sync(opened, opened.commit, opened.rollback)
        await opened.close()
        await engine.dispose()


@asynccontextmanager
async def _asyncpg(dsn: str) -> AsyncIterator[Sync]:
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()

    async def end(*, commit: bool) -> None:
        nonlocal transaction
        await (transaction.commit() if commit else transaction.rollback())
        transaction = connection.transaction()
        await transaction.start()

    async def commit() -> None:
        await end(commit=True)

    async def rollback() -> None:
        await end(commit=False)

    yield Sync(connection, commit, rollback)
    await transaction.rollback()
    await connection.close()


async def acount(connection: Any) -> int:
    statement: Any = "SELECT count(*) FROM dressage_outbox"
    if hasattr(connection, "fetchval"):
        return int(await connection.fetchval(statement))
    if isinstance(connection, AsyncSession | AsyncConnection):
        found: Any = await connection.execute(text(statement))
        return int(found.fetchone()[0])
    cursor = await connection.execute(statement)
    return int((await cursor.fetchone())[0])


async def test_a_message_goes_with_its_transaction_where_that_is_awaited(awaited: Sync) -> None:
    await outbox.start(awaited.connection, greet, {"name": "Ada"})
    await awaited.rollback()
    assert await acount(awaited.connection) == 0
    sent = await outbox.start(awaited.connection, greet, {"name": "Ada"}, run_id="ada%?:x")
    await outbox.post(awaited.connection, noted, 7, key="k")
    await awaited.commit()
    assert await acount(awaited.connection) == 2
    assert sent.run_id == "ada%?:x"


async def test_an_effect_happens_once_where_that_is_awaited(awaited: Sync) -> None:
    assert await inbox.once(awaited.connection, "m1")
    await awaited.rollback()
    first = await inbox.once(awaited.connection, "m1")
    assert first
    await first.keep(41)
    await awaited.commit()
    again = await inbox.once(awaited.connection, "m1")
    assert not again
    assert again.result == 41
    await awaited.commit()


async def test_two_that_come_at_once_are_one_effect(dsn: str) -> None:
    async def book(connection: psycopg.AsyncConnection[Any]) -> bool:
        once = await inbox.once(connection, "m1")
        await asyncio.sleep(0.05)
        await connection.commit()
        return bool(once)

    async with (
        await psycopg.AsyncConnection.connect(dsn) as one,
        await psycopg.AsyncConnection.connect(dsn) as two,
    ):
        assert sorted(await asyncio.gather(book(one), book(two))) == [False, True]


async def test_the_log_is_written_by_every_kind(awaited: Sync, request: pytest.FixtureRequest) -> None:
    if "lite" in request.node.name:
        with pytest.raises(BadInput, match="only PostgreSQL"):
            await outbox.log.start(awaited.connection, greet, {"name": "Ada"})
        return
    with pytest.raises(outbox.SlotMissing):
        await outbox.log.start(awaited.connection, greet, {"name": "Ada"})
    await awaited.rollback()
    db = await open_db(request.getfixturevalue("dsn"))
    await slots.create(db)
    sent = await outbox.log.start(awaited.connection, greet, {"name": "Ada"})
    await awaited.commit()
    assert sent.run_id == sent.id
    await slots.drop(db)
    await db.close()


# -- what is refused -------------------------------------------------------------------------------
def test_a_message_says_what_was_asked_for(sqlite_file: sqlite3.Connection) -> None:
    start = outbox.start(sqlite_file, "greet@2.x", {"name": "Ada"}, run_id="ada", actor="shop")
    post = outbox.post(sqlite_file, "noted", {"n": 1}, key="k-1")
    one, two = sent_rows(sqlite_file)
    assert isinstance(one, Start)
    assert (one.id, one.workflow, one.version, one.run_id, one.actor) == (
        start.id,
        "greet",
        "2.x",
        "ada",
        "shop",
    )
    assert bytes(one.input) == b'{"name":"Ada"}'
    assert isinstance(two, Post)
    assert (two.id, two.event, two.key, two.run_id) == (post.id, "noted", "k-1", "")
    assert two.ordering_key != one.ordering_key


@pytest.mark.parametrize("given", [{"nom": "Ada"}, {"name": 1}, {}, {"name": "Ada", "more": 1}])
def test_an_input_that_does_not_fit_is_refused_at_once(sqlite_file: sqlite3.Connection, given: Any) -> None:
    with pytest.raises(BadValue, match="greet"):
        outbox.start(sqlite_file, greet, given)
    assert sent_rows(sqlite_file) == []


def test_a_payload_that_does_not_fit_is_refused_at_once(sqlite_file: sqlite3.Connection) -> None:
    with pytest.raises(BadValue, match="noted"):
        outbox.post(sqlite_file, noted, "seven", run_id="r")  # type: ignore[misc]


def test_what_else_is_refused(sqlite_file: sqlite3.Connection) -> None:
    refused: list[tuple[str, Any]] = [
        ("OUTBOX_TARGET_INVALID", lambda: outbox.post(sqlite_file, noted, 1)),
        ("OUTBOX_TARGET_INVALID", lambda: outbox.post(sqlite_file, noted, 1, run_id="r", key="k")),
        ("RUN_ID_INVALID", lambda: outbox.start(sqlite_file, greet, {"name": "a"}, run_id="x" * 200)),
        ("NAME_INVALID", lambda: outbox.start(sqlite_file, "No Name", {})),
        ("VERSION_INVALID", lambda: outbox.start(sqlite_file, "greet@2", {}, version=3)),
        ("KEY_INVALID", lambda: outbox.post(sqlite_file, noted, 1, key="")),
        ("INPUT_INVALID", lambda: outbox.start(sqlite_file, "greet", {"name": object()})),
        ("OUTBOX_CONNECTION_UNKNOWN", lambda: outbox.start(UNKNOWN, greet, {"name": "a"})),
        ("INBOX_ID_INVALID", lambda: inbox.once(sqlite_file, "")),
        ("NO_TASK", lambda: inbox.once(sqlite_file)),
    ]
    for code, ask in refused:
        with pytest.raises(BadInput) as error:
            ask()
        assert error.value.code == code
    assert issubclass(BadRunId, BadInput)


async def test_a_connection_that_commits_each_statement_is_refused(dsn: str, file: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(BadInput, match="with connection"):
            outbox.start(connection, greet, {"name": "Ada"})
        with connection.transaction():
            outbox.start(connection, greet, {"name": "Ada"})
    pg = await asyncpg.connect(dsn)
    with pytest.raises(BadInput, match="with connection"):
        await outbox.start(pg, greet, {"name": "Ada"})
    await pg.close()
    lite = sqlite3.connect(file, isolation_level=None)
    with pytest.raises(BadInput, match="BEGIN"):
        outbox.start(lite, greet, {"name": "Ada"})
    lite.execute("BEGIN")
    outbox.start(lite, greet, {"name": "Ada"})
    lite.close()


@pytest.mark.limit("outbox.messages.MESSAGE_BYTES_MAX")
def test_a_message_of_the_largest_size_and_one_beyond(
    sqlite_file: sqlite3.Connection,
) -> None:
    outbox.start(sqlite_file, "greet", {"name": ""}, run_id="r")
    ((size,),) = sqlite_file.execute("SELECT length(message) FROM dressage_outbox").fetchall()
    outbox.start(sqlite_file, "greet", {"name": "x" * (MESSAGE_BYTES_MAX - size)}, run_id="r")
    with pytest.raises(BadInput, match="limit outbox-message-size"):
        outbox.start(sqlite_file, "greet", {"name": "x" * (MESSAGE_BYTES_MAX - size + 1)}, run_id="r")


@pytest.mark.limit("outbox.inbox.MESSAGE_ID_BYTES_MAX")
def test_a_message_id_of_the_largest_size_and_one_beyond(sqlite_file: sqlite3.Connection) -> None:
    assert inbox.once(sqlite_file, "x" * inbox.MESSAGE_ID_BYTES_MAX)
    with pytest.raises(BadInput, match="limit inbox-id-size"):
        inbox.once(sqlite_file, "x" * (inbox.MESSAGE_ID_BYTES_MAX + 1))


@pytest.mark.limit("outbox.inbox.RESULT_BYTES_MAX")
def test_a_result_of_the_largest_size_and_one_beyond(sqlite_file: sqlite3.Connection) -> None:
    once = inbox.once(sqlite_file, "m")
    once.keep("x" * (inbox.RESULT_BYTES_MAX - 2))
    with pytest.raises(BadInput, match="limit inbox-result-size"):
        once.keep("x" * (inbox.RESULT_BYTES_MAX - 1))


def test_who_sends_imports_no_driver() -> None:
    names = ["sqlalchemy", "psycopg", "asyncpg", "aiosqlite", "django", "pymysql", "alembic"]
    code = "import sys; from dressage import outbox; from dressage.outbox import inbox; "
    code += f"print([name for name in {names} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
