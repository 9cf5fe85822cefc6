"""Triggers as definitions: each is an entry of its namespace's bucket, written by compare-and-set.

A change is first *asked for*, and comes into force once no process can act by what stood there before: for the events
that are stored from then on. So each event has one definition, whoever takes it and however often it comes, and one
that was under way while a trigger was changed neither starts a second run nor conflicts with its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from dressage.brokers.interface import WRONG_LAST_SEQUENCE, Connection, Expect, Message
from dressage.connectors.config import TriggerConfig, read_trigger
from dressage.protocol.errors import BadInput, BrokerError, NotFound, PublishRefused
from dressage.protocol.names import Names, check_actor, check_name

LEASE_S: Final = 2.0
"""For how long a process may act by what it has read, counted from before it asked."""

SETTLE_S: Final = LEASE_S + 0.5
"""How long after a change was asked for nobody acts any more by what stood there before."""

FORMAT: Final = 1

VERSIONS_MAX: Final = 10
"""Versions of a trigger for which there may still be events."""


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a trigger does for events of its stream from `first_seq` on, until the next version.

    `created` is when that stream was made: for another one of the same name the latest version holds from its first
    event on. `table` is what a file says of the trigger.
    """

    number: int
    table: dict[str, Any]
    first_seq: int = 0
    created: str = ""

    @property
    def config(self) -> TriggerConfig:
        """Raises `ConfigInvalid` for one that a newer release has stored."""
        return read_trigger(self.table)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trigger as it is stored. `versions` are those in force, the oldest first; `asked` comes behind them.

    `incarnation` tells it from triggers of the same name that were removed before.
    """

    format: int
    name: str
    versions: tuple[Version, ...]
    asked: Version | None = None
    paused: bool = False
    removed: bool = False
    incarnation: int = 1
    actor: str = ""
    changed_at: str = ""

    @property
    def latest(self) -> Version:
        """What was deployed last, in force or not yet."""
        return self.asked or self.versions[-1]


class Found(msgspec.Struct, frozen=True):
    """An entry, and where it is stored."""

    entry: Entry
    seq: int


_log = logging.getLogger("dressage.connectors")

_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class Definitions:
    """Reads and writes the triggers of one namespace. Everything is safe to repeat, and to race."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._stream = names.definitions_stream()

    # -- changing ----------------------------------------------------------------------------------
    async def deploy(self, config: TriggerConfig, actor: str, *, waiting: bool = False) -> tuple[Found, bool]:
        """Stores a trigger; gives it, and whether that changed anything. What changes one is asked for only.

        With `waiting` it is in force at once, and for all events that wait: one that is under way meanwhile may then be
        taken by both versions. Raises `BadInput` (SOURCE_CHANGED, TRIGGER_BUSY).
        """
        table: dict[str, Any] = msgspec.json.decode(_encode(config.table))

        def change(entry: Entry | None) -> Entry:
            if entry is None or entry.removed:
                before = entry.incarnation if entry else 0
                return Entry(FORMAT, config.name, (Version(1, table),), incarnation=before + 1)
            latest = entry.latest
            if latest.table == table and not (waiting and (entry.asked or len(entry.versions) > 1)):
                return entry
            _check_source(entry.name, latest.table, table)
            wanted = latest if latest.table == table else Version(latest.number + 1, table)
            if waiting:
                return msgspec.structs.replace(entry, versions=(wanted,), asked=None)
            if len(entry.versions) >= VERSIONS_MAX:
                raise BadInput(
                    f"trigger {entry.name!r} has events that wait for each of its last {VERSIONS_MAX} versions: change "
                    "it when they are dealt with (limit trigger-versions)",
                    code="TRIGGER_BUSY",
                )
            return msgspec.structs.replace(entry, asked=wanted)

        return await self._change(config.name, actor, change)

    async def pause(self, name: str, actor: str) -> tuple[Found, bool]:
        """Raises `NotFound` (TRIGGER_UNKNOWN), as `resume` and `remove` do."""
        return await self._change(
            name, actor, lambda entry: msgspec.structs.replace(_there(name, entry), paused=True)
        )

    async def resume(self, name: str, actor: str) -> tuple[Found, bool]:
        return await self._change(
            name, actor, lambda entry: msgspec.structs.replace(_there(name, entry), paused=False)
        )

    async def remove(self, name: str, actor: str) -> tuple[Found, bool]:
        """Its entry stays, and says so: whoever has not heard of it yet finds what to clear away."""
        return await self._change(
            name, actor, lambda entry: msgspec.structs.replace(_there(name, entry), removed=True)
        )

    async def settle(self, found: Found, created: str, last_seq: int, done_seq: int) -> Found | None:
        """Brings into force what `found` asks for, behind `last_seq` of the stream that was `created` then; None if
        somebody else was faster. Nobody needs versions any more that end at or below `done_seq`."""
        entry, asked = found.entry, found.entry.asked
        assert asked is not None, "the caller has seen that"
        first = last_seq + 1 if created else 0
        versions = (*entry.versions, msgspec.structs.replace(asked, first_seq=first, created=created))
        settled = msgspec.structs.replace(entry, versions=_needed(versions, created, done_seq), asked=None)
        seq = await self._put(settled, found.seq)
        return None if seq is None else Found(settled, seq)

    async def _change(
        self, name: str, actor: str, change: Callable[[Entry | None], Entry]
    ) -> tuple[Found, bool]:
        check_actor(actor)
        while True:
            found = await self._read(name)
            before = found.entry if found else None
            after = change(before)
            if found is not None and after == before:
                return found, False
            after = msgspec.structs.replace(after, actor=actor, changed_at=_now())
            seq = await self._put(after, found.seq if found else 0)
            if seq is not None:
                return Found(after, seq), True

    async def _put(self, entry: Entry, expected_seq: int) -> int | None:
        """Where it is stored; None if another one stands there meanwhile."""
        key = self._names.trigger_key(entry.name)
        try:
            stored = await self._connection.publish(Message(key, _encode(entry), expect=Expect(expected_seq)))
        except PublishRefused as refused:
            if refused.err_code != WRONG_LAST_SEQUENCE:
                raise
            return None
        return stored.seq

    # -- reading -----------------------------------------------------------------------------------
    async def get(self, name: str) -> Found:
        """Raises `NotFound` (TRIGGER_UNKNOWN)."""
        found = await self._read(name)
        if found is None or found.entry.removed:
            raise _unknown(name)
        return found

    async def all(self) -> list[Found]:
        """Those that are deployed, by name."""
        found, _ = await self.since(0)
        return sorted(
            (each for each in found if each.entry.format and not each.entry.removed),
            key=lambda each: each.entry.name,
        )

    async def since(self, seq: int) -> tuple[list[Found], int]:
        """All entries that were written behind `seq`, removed ones too, and where the last of them is stored."""
        found: list[Found] = []
        while True:
            message = await self._connection.next_message(self._stream, seq + 1, self._names.trigger_keys())
            if message is None:
                return found, seq
            seq = message.seq
            try:
                entry = _read_entry(message.data)
            except BrokerError as error:
                # It harms no other trigger.
                name = message.subject.rpartition(".")[2]
                entry = Entry(0, name, (Version(0, {}),))
                _log.error("trigger %r: %s", name, error)
            found.append(Found(entry, seq))

    async def _read(self, name: str) -> Found | None:
        key = self._names.trigger_key(check_name(name, "trigger"))
        message = await self._connection.last_message(self._stream, key)
        return None if message is None else Found(_read_entry(message.data), message.seq)


def _read_entry(data: bytes) -> Entry:
    try:
        entry = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokerError(f"a trigger's entry is unreadable: {error}", code="RECORD_UNREADABLE") from error
    if entry.format != FORMAT:
        raise BrokerError(
            f"the entry of trigger {entry.name!r} has format {entry.format}, and this release reads {FORMAT}: "
            "upgrade it",
            code="RECORD_UNREADABLE",
        )
    return entry


def _needed(versions: tuple[Version, ...], created: str, done_seq: int) -> tuple[Version, ...]:
    """Without those of which every event is dealt with, or was of a stream that is no more."""
    ends = [behind.created != created or behind.first_seq <= done_seq + 1 for behind in versions[1:]]
    return tuple(each for each, over in zip(versions, [*ends, False], strict=True) if not over)


def _check_source(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    changed = [key for key in ("source", "start") if before.get(key) != after.get(key)]
    # Where its place is kept depends on whether it has them, and not on what they say.
    changed += [key for key in ("order_by", "batch") if (key in before) != (key in after)]
    if changed:
        raise BadInput(
            f"trigger {name!r} has another {changed[0]} now, and its place in the stream means nothing there: give it "
            "another name, or remove it first and deploy it anew",
            code="SOURCE_CHANGED",
        )


def _there(name: str, entry: Entry | None) -> Entry:
    if entry is None or entry.removed:
        raise _unknown(name)
    return entry


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"there is no trigger {name!r}: dressage trigger list shows those that are deployed",
        code="TRIGGER_UNKNOWN",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
