"""Connectors that are deployed in a namespace: stored beside its other definitions, and run by every process that is
told no file.

What is stored is what the file says; secrets are in it by name only, and are looked up where a connector runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dressage.brokers.interface import Connection, Expect, Message
from dressage.connectors.connect.config import Connector, connector_of
from dressage.protocol.errors import NotFound, PublishRefused
from dressage.protocol.names import Names


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connector. `restarts` counts how often somebody wanted it begun anew; `failure` is what has stopped it."""

    table: dict[str, Any]
    paused: bool = False
    restarts: int = 0
    failure: str = ""

    @property
    def state(self) -> str:
        return "failed" if self.failure else "paused" if self.paused else "running"

    def connector(self) -> Connector:
        """Raises `ConfigInvalid` for what a later release has written."""
        return connector_of(self.table, "the namespace")


_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class Deployed:
    """The connectors of one namespace."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def all(self) -> dict[str, Entry]:
        """Every connector by name."""
        found: dict[str, Entry] = {}
        stream, keys, seq = self._names.definitions_stream(), self._names.connector_keys(), 1
        while (message := await self._connection.next_message(stream, seq, keys)) is not None:
            found[message.subject.rpartition(".")[2]] = _decode(message.data)
            seq = message.seq + 1
        return dict(sorted(found.items()))

    async def get(self, name: str) -> Entry:
        """Raises `NotFound`."""
        entry, _ = await self._get(name)
        if entry is None:
            raise _unknown(name)
        return entry

    async def deploy(self, name: str, table: Mapping[str, Any]) -> bool:
        """Stores a connector, paused as it was before; whether that changes anything. What had failed begins anew."""
        while True:
            entry, seq = await self._get(name)
            wanted = (
                Entry(dict(table))
                if entry is None
                else msgspec.structs.replace(entry, table=dict(table), failure="")
            )
            if entry == wanted:
                return False
            if await self._put(name, wanted, seq):
                return True

    async def pause(self, name: str) -> None:
        await self._change(name, lambda entry: msgspec.structs.replace(entry, paused=True))

    async def resume(self, name: str) -> None:
        await self._change(name, lambda entry: msgspec.structs.replace(entry, paused=False, failure=""))

    async def restart(self, name: str) -> None:
        """Every process begins it anew, also where it had failed."""
        await self._change(
            name, lambda entry: msgspec.structs.replace(entry, restarts=entry.restarts + 1, failure="")
        )

    async def fail(self, name: str, seen: Entry, failure: str) -> None:
        """Stops a connector everywhere, unless somebody has changed it meanwhile."""
        await self._change(
            name, lambda entry: msgspec.structs.replace(entry, failure=failure) if entry == seen else entry
        )

    async def delete(self, name: str) -> None:
        """Its place is kept: one of the same name goes on there. Raises `NotFound`."""
        entry, seq = await self._get(name)
        if entry is None:
            raise _unknown(name)
        await self._connection.delete_message(self._names.definitions_stream(), seq)

    async def _change(self, name: str, change: Callable[[Entry], Entry]) -> None:
        """Safe to repeat, and to race. Raises `NotFound`."""
        while True:
            entry, seq = await self._get(name)
            if entry is None:
                raise _unknown(name)
            changed = change(entry)
            if changed == entry or await self._put(name, changed, seq):
                return

    async def _get(self, name: str) -> tuple[Entry | None, int]:
        key = self._names.connector_key(name)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        return (None, 0) if found is None else (_decode(found.data), found.seq)

    async def _put(self, name: str, entry: Entry, seq: int) -> bool:
        """False if somebody else was faster."""
        try:
            await self._connection.publish(
                Message(self._names.connector_key(name), _encode(entry), expect=Expect(seq))
            )
        except PublishRefused:
            if (await self._get(name))[1] == seq:
                raise
            return False
        return True


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"no connector {name!r} is deployed: look at `dressage connect status`, or deploy it",
        code="CONNECTOR_UNKNOWN",
    )
