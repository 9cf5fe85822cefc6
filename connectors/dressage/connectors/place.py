"""Which process of a sink, or of a trigger that takes events in turn, is the active one, and how far it is: one entry
beside the definition.

The active process writes the entry at least every `RENEW_S`, each time under compare-and-set on what it last wrote. Who
stands by takes it over when it has not changed for `LEASE_S` by its own clock; the active one counts its lease from
before it sent its last write, so it ends there first. Nothing depends on what clocks say, only on how fast they go.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, Expect, Message
from dressage.connectors.gate import Faults
from dressage.connectors.waiting import pause
from dressage.protocol.errors import BrokerError, DressageError, PublishRefused
from dressage.protocol.names import Names

LEASE_S: Final = 5.0
RENEW_S: Final = 1.0
LOOK_S: Final = 0.5
"""How often who stands by looks."""

MARGIN_S: Final = 1.0
"""So long before its lease ends the active process begins nothing more: a request that is on its way takes time."""

_AGAIN_S: Final = 0.05


class LeaseLost(BrokerError):
    """Another process is the active one now: what this one has in memory counts no more."""

    code = "LEASE_LOST"
    retryable = True


class Gathered(msgspec.Struct, frozen=True):
    """A batch that is decided: it ends at sequence `until`, has so many events, and an id that is that of its first
    event, which may be gone when somebody else asks for it."""

    until: int
    id: str
    count: int


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """`holder` is a process, as `<host>/<pid>/<id>`, empty for none. `seq` is the sequence in the stream up to which
    everything is dealt with; `created` tells the stream from another one of the same name, and is empty before anything
    was dealt with. `batch` begins behind `seq`, and may have been asked for."""

    holder: str = ""
    created: str = ""
    seq: int = 0
    batch: Gathered | None = None


_decode = msgspec.json.Decoder(Place).decode
_encode = msgspec.json.Encoder().encode


async def read_place(connection: Connection, names: Names, key: str) -> tuple[Place | None, int]:
    """What stands at a key, with its sequence in the bucket."""
    found = await connection.last_message(names.definitions_stream(), key)
    return (None, 0) if found is None else (_decode(found.data), found.seq)


class Lease:
    """One process's part of it."""

    def __init__(self, connection: Connection, names: Names, key: str, whose: str) -> None:
        """`whose` is what it belongs to, in words."""
        self._connection = connection
        self._names = names
        self._key = key
        self.whose: Final = whose
        self._me = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex}"
        self._place = Place()
        self._seq = 0
        self._until = 0.0
        self._writing = asyncio.Lock()

    async def take(self, stop: asyncio.Event) -> Place | None:
        """Waits until this process is the active one; what it takes over, or None after `stop`.

        Raises a `DressageError` when the broker does not answer.
        """
        loop = asyncio.get_running_loop()
        seen, since = -1, loop.time()
        while not stop.is_set():
            found, seq = await self._read()
            if seq != seen:
                seen, since = seq, loop.time()
            free = found is None or found.holder in ("", self._me) or loop.time() - since >= LEASE_S
            if free and await self._claimed(found or Place(), seq):
                return self._place
            await pause(stop, LOOK_S)
        return None

    async def store(self, created: str, seq: int, batch: Gathered | None = None) -> None:
        """Says how far it is, which renews the lease. Raises `LeaseLost`; another `DressageError` if nobody answers."""
        async with self._writing:
            await self._put(Place(self._me, created, seq, batch))

    async def renew(self) -> None:
        """Renews the lease. Raises as `store`."""
        async with self._writing:
            await self._put(self._place)

    async def sure(self) -> None:
        """Returns while this process is certainly the active one; one that stood still looks. Raises as `store`."""
        if self._holds:
            return
        async with self._writing:
            if not self._holds:
                await self._put(self._place)

    async def release(self) -> None:
        """Lets another process begin at once. Raises as `store`."""
        async with self._writing:
            await self._put(msgspec.structs.replace(self._place, holder=""))
            self._until = 0.0

    @property
    def _holds(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    async def _read(self) -> tuple[Place | None, int]:
        return await read_place(self._connection, self._names, self._key)

    async def _claimed(self, found: Place, seq: int) -> bool:
        wanted = msgspec.structs.replace(found, holder=self._me)
        try:
            await self._write(wanted, seq)
        except PublishRefused:
            return False
        return True

    async def _put(self, wanted: Place) -> None:
        """A write whose answer was lost may stand there: it is this process's own, so it goes on behind it."""
        while True:
            try:
                await self._write(wanted, self._seq)
            except PublishRefused:
                found, seq = await self._read()
                if found is None or found.holder != self._me:
                    raise LeaseLost(f"another process of {self.whose} is the active one") from None
                self._seq = seq
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def _write(self, wanted: Place, seq: int) -> None:
        asked_at = asyncio.get_running_loop().time()
        stored = await self._connection.publish(Message(self._key, _encode(wanted), expect=Expect(seq)))
        self._place, self._seq = wanted, stored.seq
        self._until = asked_at + LEASE_S - MARGIN_S


class Keeping:
    """Stores the place again and again, which renews the lease, until that is lost."""

    def __init__(
        self, store: Callable[[], Awaitable[None]], faults: Faults, every_s: float = RENEW_S
    ) -> None:
        self._store = store
        self._faults = faults
        self._every_s = min(RENEW_S, every_s)
        self._task = asyncio.create_task(self._keep())

    def check(self) -> None:
        """Raises `LeaseLost`."""
        if self._task.done():
            self._task.result()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._faults.end("place")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._store()
            except LeaseLost:
                raise
            except DressageError as error:
                self._faults.begin("place", error.code, error.message)
            else:
                self._faults.end("place")
