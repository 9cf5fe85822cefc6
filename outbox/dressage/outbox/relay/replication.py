"""PostgreSQL's log as a stream of our own entries, over the replication protocol: psycopg has it at its lowest level.

The plugin is pgoutput with a publication of no tables, so that the server sends our entries and nothing else of what
the database writes. The format of its messages is PostgreSQL's (protocol version 1, server 14 or newer).
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

import psycopg
from psycopg import conninfo, pq
from psycopg.pq.abc import PGconn

from dressage.outbox.names import LOG_PREFIX, PUBLICATION
from dressage.outbox.relay.faults import SlotTaken, StoreFault

CONNECT_S: Final = 5
_OBJECT_IN_USE: Final = b"55006"
_EPOCH_S: Final = 946_684_800
"""PostgreSQL counts from the year 2000."""

_DATA: Final = struct.Struct("!cQQq")
_KEEPALIVE: Final = struct.Struct("!cQqB")
_STATUS: Final = struct.Struct("!cQQQqB")
_BEGIN: Final = struct.Struct("!cQqI")
_COMMIT: Final = struct.Struct("!cBQQq")
_MESSAGE: Final = struct.Struct("!cBQ")


@dataclass(slots=True, frozen=True)
class Entry:
    """One of ours, in a transaction that has committed at `committed_ms`."""

    content: bytes
    committed_ms: int


@dataclass(slots=True, frozen=True)
class Committed:
    """All entries of a transaction are told: whoever has dealt with them may confirm `lsn`."""

    lsn: int


@dataclass(slots=True, frozen=True)
class Alive:
    """There is nothing before `lsn` that was not told. The server wants an answer if it `asks`."""

    lsn: int
    asks: bool


Told = Entry | Committed | Alive


class Decoder:
    """From bytes of the stream to what they tell."""

    def __init__(self) -> None:
        self._committed_ms = 0

    def decode(self, data: bytes) -> Told | None:
        """None for what says nothing to us. Raises `StoreFault` for what cannot be read."""
        try:
            return self._decode(data)
        except (struct.error, IndexError, ValueError) as error:
            raise StoreFault(f"PostgreSQL's log cannot be read: {error}") from error

    def _decode(self, data: bytes) -> Told | None:
        if data[:1] == b"k":
            _, lsn, _, asks = _KEEPALIVE.unpack_from(data)
            return Alive(lsn, bool(asks))
        if data[:1] != b"w":
            return None
        change = data[_DATA.size :]
        kind = change[:1]
        if kind == b"B":
            _, _, time_us, _ = _BEGIN.unpack_from(change)
            self._committed_ms = time_us // 1000 + _EPOCH_S * 1000
        elif kind == b"C":
            _, _, _, end_lsn, _ = _COMMIT.unpack_from(change)
            return Committed(end_lsn)
        elif kind == b"M":
            return self._entry(change)
        return None

    def _entry(self, change: bytes) -> Entry | None:
        _, flags, _ = _MESSAGE.unpack_from(change)
        end = change.index(b"\0", _MESSAGE.size)
        prefix = change[_MESSAGE.size : end]
        (size,) = struct.unpack_from("!I", change, end + 1)
        content = change[end + 5 : end + 5 + size]
        is_ours = prefix == LOG_PREFIX.encode() and flags & 1
        return Entry(content, self._committed_ms) if is_ours else None


class LogStream:
    """The stream of a slot, which one relay at a time can have."""

    def __init__(self, connection: PGconn) -> None:
        self._connection = connection
        self._decoder = Decoder()

    @classmethod
    async def open(cls, dsn: str, slot: str) -> Self:
        """From where was confirmed last. Raises `SlotTaken` while another relay has it, or another `StoreFault`."""
        return await asyncio.to_thread(cls._open, dsn, slot)

    @classmethod
    def _open(cls, dsn: str, slot: str) -> Self:
        with _told():
            address = conninfo.make_conninfo(
                dsn,
                replication="database",
                connect_timeout=CONNECT_S,
                application_name="dressage outbox relay",
                # The server listens for us while it has nothing to say, and so do we.
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
            )
            connection = pq.PGconn.connect(address.encode())
        if connection.status != pq.ConnStatus.OK:
            reason = connection.get_error_message()
            connection.finish()
            raise StoreFault(f"PostgreSQL: {reason}")
        options = f"proto_version '1', publication_names '{PUBLICATION}', messages 'true'"
        result = connection.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})".encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            reason = connection.get_error_message()
            is_taken = result.error_field(pq.DiagnosticField.SQLSTATE) == _OBJECT_IN_USE
            connection.finish()
            raise (SlotTaken if is_taken else StoreFault)(f"PostgreSQL: {reason}")
        connection.nonblocking = 1
        return cls(connection)

    def read(self) -> Told | None:
        """What has come already; None if that is nothing. Raises `StoreFault` when the stream has ended."""
        while True:
            with _told():
                size, data = self._connection.get_copy_data(1)
            if size == 0:
                return None
            if size < 0:
                raise StoreFault(f"PostgreSQL has ended the stream: {self._connection.get_error_message()}")
            told = self._decoder.decode(bytes(data))
            if told is not None:
                return told

    async def wait(self, timeout_s: float) -> None:
        """Returns when something has come, or after `timeout_s`."""
        loop = asyncio.get_running_loop()
        with _told():
            readable = asyncio.Event()
            loop.add_reader(self._connection.socket, readable.set)
            try:
                async with asyncio.timeout(timeout_s):
                    await readable.wait()
            except TimeoutError:
                return
            finally:
                loop.remove_reader(self._connection.socket)
            self._connection.consume_input()

    def confirm(self, lsn: int) -> None:
        """Tells the server that it need not keep what is before `lsn`, and that we are alive."""
        now_us = int((time.time() - _EPOCH_S) * 1_000_000)
        with _told():
            self._connection.put_copy_data(_STATUS.pack(b"r", lsn, lsn, lsn, now_us, 0))
            self._connection.flush()

    def close(self) -> None:
        self._connection.finish()


@contextmanager
def _told() -> Iterator[None]:
    """Errors of psycopg as ours."""
    try:
        yield
    except psycopg.Error as error:
        raise StoreFault(f"PostgreSQL: {str(error).partition(chr(10))[0]}") from error
