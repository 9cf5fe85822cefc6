"""A driver that blocks, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from dressage.protocol.errors import DressageError

T = TypeVar("T")


class Calls(Protocol):
    """What a driver does, blocking. Everything of it raises `StoreFault`, or `SchemaMissing`."""

    def execute(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class ThreadDb:
    """One connection: what is asked of it happens in its thread, one after the other."""

    def __init__(self, calls: Calls, thread: ThreadPoolExecutor) -> None:
        self._calls = calls
        self._thread = thread

    @classmethod
    async def open(cls, connect: Callable[[], Calls]) -> ThreadDb:
        thread = ThreadPoolExecutor(1, "dressage-outbox")
        try:
            calls = await asyncio.get_running_loop().run_in_executor(thread, connect)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(calls, thread)

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        return await self.call(lambda: self._calls.execute(sql, values))

    async def commit(self) -> None:
        await self.call(self._calls.commit)

    async def rollback(self) -> None:
        await self.call(self._calls.rollback)

    async def close(self) -> None:
        with suppress(DressageError):
            await self.call(self._calls.close)
        self._thread.shutdown(wait=False)

    async def call(self, what: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, what)
