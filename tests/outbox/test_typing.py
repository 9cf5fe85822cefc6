"""What a type checker makes of a call: plain where the connection blocks, awaited where it is awaited."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, assert_type

import aiosqlite
import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from dressage import outbox
from dressage.flow import Event, workflow
from dressage.outbox import Sent, inbox
from dressage.outbox.inbox import AsyncOnce, Once

noted = Event("noted", of=int)


@workflow
async def greet(name: str) -> str:
    return name


if TYPE_CHECKING:

    def plain(
        session: Session, core: Connection, pg: psycopg.Connection[Any], lite: sqlite3.Connection
    ) -> None:
        assert_type(outbox.start(session, greet, {"name": "Ada"}), Sent)
        assert_type(outbox.start(core, "greet"), Sent)
        assert_type(outbox.post(pg, noted, 1, run_id="r"), Sent)
        assert_type(outbox.log.start(pg, greet, {"name": "Ada"}), Sent)
        assert_type(inbox.once(lite), Once)

    async def awaited(
        session: AsyncSession,
        core: AsyncConnection,
        pg: psycopg.AsyncConnection[tuple[str]],
        lite: aiosqlite.Connection,
    ) -> None:
        assert_type(await outbox.start(session, greet, {"name": "Ada"}), Sent)
        assert_type(await outbox.start(core, "greet"), Sent)
        assert_type(await outbox.post(pg, noted, 1, key="k"), Sent)
        assert_type(await outbox.start(pg, greet, {"name": "Ada"}), Sent)
        assert_type(await outbox.log.post(lite, noted, 1, run_id="r"), Sent)
        assert_type(await inbox.once(core), AsyncOnce)


def test_the_checkers_look_at_this_file() -> None:
    assert not TYPE_CHECKING
