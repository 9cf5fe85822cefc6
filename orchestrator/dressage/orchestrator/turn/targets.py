"""What JetStream knows of the streams behind users' subjects: is there one, and does it have this message already?

Within its duplicate window a stream drops a repeat itself. Whoever takes over later than that, or could not reach it
for so long, looks through the last messages of the stream for the id. A stream that has removed them by then, because
they were consumed, or that has taken in too many others, cannot tell; the event's own id still does.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, Message
from dressage.protocol.commands import MSG_ID_HEADER
from dressage.protocol.errors import BrokerError, DressageError
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.orchestrator")

SEARCHED_MAX: Final = 10_000
"""So many of a stream's last messages are looked through."""

CLOCKS_S: Final = 10.0
"""The clocks of two servers may differ by so much."""

ANSWER_S: Final = 5.0
FRESH_S: Final = 5.0
"""For so long what is known of a stream is not asked again: at a take-over there may be thousands of messages."""

FACTS_MAX: Final = 1_000


class _Config(msgspec.Struct):
    duplicate_window: int = 0


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0


class _Info(msgspec.Struct):
    ts: str = ""
    created: str = ""
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)


class _Error(msgspec.Struct):
    description: str = ""


class _Names(msgspec.Struct):
    streams: list[str] | None = None
    error: _Error | None = None


_info = msgspec.json.Decoder(_Info)
_stream_names = msgspec.json.Decoder(_Names)


@dataclass(slots=True)
class _Seen:
    """The ids of this namespace on one subject, as far as it was looked through."""

    ids: set[str] = field(default_factory=set[str])
    next_seq: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Targets:
    """Asks about streams of somebody else's."""

    def __init__(self, names: Names) -> None:
        self._prefix = f"{names.namespace}."
        self._seen: dict[tuple[str, str, str], _Seen] = {}
        self._facts: dict[str, tuple[float, bytes]] = {}
        """The last answers, with when they were asked for."""

    async def published(self, connection: Connection, message: Message, since_ns: int | None = None) -> bool:
        """Whether the message is known to be stored.

        It was not published before `since_ns`; None if a look is wanted in any case. False also if nobody can tell.
        """
        try:
            return await self._published(connection, message, since_ns)
        except (DressageError, msgspec.MsgspecError, ValueError) as error:
            _log.debug("looking for %s on %s: %s", message.msg_id, message.subject, error)
            return False

    async def none_captures(self, connection: Connection, subject: str) -> bool:
        """Whether it is known that no stream captures this subject; one that has no leader now is a stream."""
        try:
            return not await self._streams(connection, subject)
        except (DressageError, msgspec.MsgspecError) as error:
            _log.debug("looking for a stream of %s: %s", subject, error)
            return False

    async def _streams(self, connection: Connection, subject: str) -> list[str]:
        body = msgspec.json.encode({"subject": subject})
        _, answer = await self._fact(connection, "$JS.API.STREAM.NAMES", body)
        found = _stream_names.decode(answer)
        if found.error is not None:
            raise BrokerError(f"the streams of {subject}: {found.error.description}")
        return found.streams or []

    async def _published(self, connection: Connection, message: Message, since_ns: int | None) -> bool:
        for stream in await self._streams(connection, message.subject):
            about = f"$JS.API.STREAM.INFO.{stream}"
            age_s, answer = await self._fact(connection, about, b"")
            if since_ns is not None and _is_remembered(_info.decode(answer), age_s, since_ns):
                continue
            info = _info.decode(await connection.request(about, b"", ANSWER_S))
            seen = self._seen.setdefault((stream, info.created, message.subject), _Seen())
            async with seen.reading:
                await self._look(connection, stream, message.subject, info.state, seen)
            if message.msg_id in seen.ids:
                return True
        return False

    async def _fact(self, connection: Connection, subject: str, body: bytes) -> tuple[float, bytes]:
        """An answer of JetStream's, and how old it is in seconds."""
        key, now = f"{subject} {body.decode()}", asyncio.get_running_loop().time()
        asked_at, answer = self._facts.get(key, (0.0, b""))
        if not answer or now - asked_at > FRESH_S:
            if len(self._facts) >= FACTS_MAX:
                self._facts.clear()
            asked_at, answer = now, await connection.request(subject, body, ANSWER_S)
            self._facts[key] = asked_at, answer
        return now - asked_at, answer

    async def _look(
        self, connection: Connection, stream: str, subject: str, state: _State, seen: _Seen
    ) -> None:
        seq = max(seen.next_seq, state.first_seq, state.last_seq - SEARCHED_MAX + 1)
        while seq <= state.last_seq:
            found = await connection.next_message(stream, seq, subject)
            if found is None:
                break
            msg_id = (found.headers or {}).get(MSG_ID_HEADER, "")
            if msg_id.startswith(self._prefix):
                seen.ids.add(msg_id)
            seq = found.seq + 1
        seen.next_seq = max(seen.next_seq, state.last_seq + 1)


def _is_remembered(info: _Info, age_s: float, since_ns: int) -> bool:
    """Whether the stream, of which this was known `age_s` ago, certainly remembers the ids of all that came since."""
    if not info.ts:
        return False
    passed_s = datetime.fromisoformat(info.ts).timestamp() + age_s - since_ns / 1e9
    return passed_s + CLOCKS_S < info.config.duplicate_window / 1e9
