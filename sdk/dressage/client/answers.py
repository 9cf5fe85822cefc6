"""What owners answer to the commands of one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from dressage.brokers.interface import Connection
from dressage.protocol.commands import Answer

_log = logging.getLogger("dressage.client")


class Answers:
    """Each command has a reply subject of its own, below one that is listened to."""

    def __init__(self) -> None:
        self._inbox = ""
        self._next = 0
        self._awaited: dict[str, asyncio.Future[Answer]] = {}

    async def open(self, connection: Connection) -> None:
        """Listens from now on."""
        self._inbox = connection.new_inbox()
        await connection.serve(f"{self._inbox}.*", self._on_answer)

    @contextmanager
    def one(self) -> Iterator[tuple[str, asyncio.Future[Answer]]]:
        """The reply subject of a command, and what its answer comes as; behind the block nobody waits for it."""
        self._next += 1
        reply = f"{self._inbox}.{self._next}"
        future = self._awaited[reply] = asyncio.get_running_loop().create_future()
        try:
            yield reply, future
        finally:
            del self._awaited[reply]

    async def _on_answer(self, subject: str, data: bytes, _: str) -> None:
        future = self._awaited.get(subject)
        if future is not None and not future.done():
            try:
                future.set_result(_decoder.decode(data))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                _log.warning("an answer does not decode: %s", error)


_decoder = msgspec.json.Decoder(Answer)
