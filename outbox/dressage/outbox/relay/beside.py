"""What is done to the table beside the sending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from dressage.outbox.relay.sql import Db, Table
from dressage.outbox.relay.store import Depth


class Beside:
    """What is done beside the sending, in a transaction each, over a connection that is opened when it is needed."""

    def __init__(self, table: Table, connect: Callable[[], Awaitable[Db]]) -> None:
        self._table = table
        self._connect = connect
        self._db: Db | None = None
        self._asking = asyncio.Lock()

    async def depth(self) -> Depth:
        async with self.transaction() as db:
            return await self._table.depth(db)

    async def clean(self, kept_s: float, limit: int) -> int:
        async with self.transaction() as db:
            return await self._table.clean(db, kept_s, limit)

    async def clean_inbox(self, kept_s: float, limit: int) -> int:
        async with self.transaction() as db:
            return await self._table.clean_inbox(db, kept_s, limit)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Db]:
        """One at a time; it commits at the end of the block. Whatever goes wrong, the next one has a new connection."""
        async with self._asking:
            if self._db is None:
                self._db = await self._connect()
            try:
                yield self._db
                await self._db.commit()
            except BaseException:
                db, self._db = self._db, None
                await db.close()
                raise

    async def close(self) -> None:
        if self._db is not None:
            await self._db.close()
