"""Group commit for whoever publishes commands: one write in flight for each stream, what arrives meanwhile is the next.

With fsync before the acknowledgement one publish costs one fsync, and so does a batch of 500. An idle publisher
sends at once; a busy one sends large batches, and waits a moment where that makes them larger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import Connection, Message, Stored
from dressage.protocol.errors import DressageError, OutcomeUnknown

_log = logging.getLogger("dressage.brokers")

SINGLES_MAX: Final = 8
"""Up to so many messages go as pipelined singles: below it the cost of staging a batch exceeds their fsyncs."""

COMPANY_WANTED: Final = 150
COMPANY_S: Final = 0.004
"""A batch smaller than this waits so long for company: staging and syncing it costs more than the wait, whatever its
size, and there is load, or it would not be a batch."""

BATCH_MAX: Final = 500
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
IN_FLIGHT_MAX: Final = 50
RETRY_S: Final = 0.1


@dataclass(slots=True)
class _Waiting:
    message: Message
    done: asyncio.Future[Stored]


class _Lane:
    """The messages for one stream, in order."""

    def __init__(self, connection: Connection, patience_s: float | None) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._waiting: list[_Waiting] = []
        self._taken: list[_Waiting] = []
        self._closed = False
        self._worker: asyncio.Task[None] | None = None

    def add(self, message: Message) -> asyncio.Future[Stored]:
        waiting = _Waiting(message, asyncio.get_running_loop().create_future())
        if self._closed:
            _fail(waiting, OutcomeUnknown("the publisher is closed"))
            return waiting.done
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return waiting.done

    def cancel(self) -> None:
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
        for waiting in (*self._taken, *self._waiting):
            if not waiting.done.done():
                _fail(waiting, OutcomeUnknown("the publisher is closed"))
                waiting.done.exception()  # Nobody may be there any more to hear of it.

    async def _work(self) -> None:
        while self._waiting:
            if SINGLES_MAX < len(self._waiting) < COMPANY_WANTED:
                await asyncio.sleep(COMPANY_S)
            group = self._taken = self._take()
            if len(group) > SINGLES_MAX and await self._batch(group):
                continue
            for start in range(0, len(group), IN_FLIGHT_MAX):
                await self._singles(group[start : start + IN_FLIGHT_MAX])

    def _take(self) -> list[_Waiting]:
        size = count = 0
        while count < min(len(self._waiting), BATCH_MAX) and size < BATCH_BYTES_MAX:
            size += len(self._waiting[count].message.data)
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _batch(self, group: Sequence[_Waiting]) -> bool:
        """False when the batch was refused or its outcome is unknown: then each message goes on its own.

        A known message id refuses the whole batch, and only a single publish says which one it was.
        """
        try:
            last = await self._connection.publish_batch([waiting.message for waiting in group])
        except DressageError as error:
            _log.debug("a batch of %d goes as singles: %s", len(group), error)
            return False
        for offset, waiting in enumerate(reversed(group)):
            _settle(waiting, Stored(last.seq - offset))
        return True

    async def _singles(self, group: Sequence[_Waiting]) -> None:
        pending = list(group)
        loop = asyncio.get_running_loop()
        deadline = None if self._patience_s is None else loop.time() + self._patience_s
        while pending:
            sent = [(waiting, self._send(waiting)) for waiting in pending]
            pending = []
            for waiting, future in sent:
                try:
                    _settle(waiting, await future)
                except OutcomeUnknown as unknown:
                    if deadline is not None and loop.time() >= deadline:
                        _fail(waiting, unknown)
                    else:
                        pending.append(waiting)
                except DressageError as error:
                    _fail(waiting, error)
            if pending:
                await asyncio.sleep(RETRY_S)

    def _send(self, waiting: _Waiting) -> asyncio.Future[Stored]:
        try:
            return self._connection.send(waiting.message)
        except DressageError as error:
            failed: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed


class GroupPublisher:
    """Publishes messages, grouped by stream; every message must be harmless when it is stored twice.

    An unknown outcome is tried again for `patience_s` seconds (None: for ever, as a worker must), so a lost reply
    or a restarted server costs time and nothing else.
    """

    def __init__(self, connection: Connection, *, patience_s: float | None) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._lanes: dict[str, _Lane] = {}

    def publish(self, stream: str, message: Message) -> asyncio.Future[Stored]:
        """The future gives the place in the stream. It raises `PublishRefused`, `BadInput`, or `OutcomeUnknown`."""
        lane = self._lanes.get(stream)
        if lane is None:
            lane = self._lanes[stream] = _Lane(self._connection, self._patience_s)
        return lane.add(message)

    def close(self) -> None:
        for lane in self._lanes.values():
            lane.cancel()


def _settle(waiting: _Waiting, stored: Stored) -> None:
    if not waiting.done.done():
        waiting.done.set_result(stored)


def _fail(waiting: _Waiting, error: DressageError) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)
