"""What was published before, for when its stream no longer remembers the message ids.

Within its duplicate window a stream drops a repeat itself. Whoever takes over later than that, or could not reach it for
so long, looks through the last messages of the stream for the id. A stream that has removed them by then, because they
were consumed, or that has taken in too many others, cannot tell; the event's own id still does.
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
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.orchestrator")

SEARCHED_MAX: Final = 10_000
"""So many of a stream's last messages are looked through."""

CLOCKS_S: Final = 10.0
"""The clocks of two servers may differ by so much."""

ANSWER_S: Final = 5.0


class _Config(msgspec.Struct):
    duplicate_window: int = 0


class _State(msgspec.Struct):
    first_seq: int = 0
    last_seq: int = 0


class _Info(msgspec.Struct):
    ts: str = ""
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)


class _Names(msgspec.Struct):
    streams: list[str] | None = None


_info = msgspec.json.Decoder(_Info)
_stream_names = msgspec.json.Decoder(_Names)


@dataclass(slots=True)
class _Seen:
    """The ids of this namespace on one subject, as far as it was looked through."""

    ids: set[str] = field(default_factory=set[str])
    next_seq: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Earlier:
    """Looks for messages that nobody here knows to be stored."""

    def __init__(self, names: Names) -> None:
        self._prefix = f"{names.namespace}."
        self._seen: dict[str, _Seen] = {}

    async def published(self, connection: Connection, message: Message, since_ns: int | None = None) -> bool:
        """Whether the message is known to be stored.

        It was not published before `since_ns`; None if a look is wanted in any case. False also if nobody can tell.
        """
        try:
            return await self._published(connection, message, since_ns)
        except (DressageError, msgspec.MsgspecError, ValueError) as error:
            _log.debug("looking for %s on %s: %s", message.msg_id, message.subject, error)
            return False

    async def _published(self, connection: Connection, message: Message, since_ns: int | None) -> bool:
        body = msgspec.json.encode({"subject": message.subject})
        answer = await connection.request("$JS.API.STREAM.NAMES", body, ANSWER_S)
        for stream in _stream_names.decode(answer).streams or []:
            info = _info.decode(await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", ANSWER_S))
            if since_ns is not None and _is_remembered(info, since_ns):
                continue
            seen = self._seen.setdefault(f"{stream} {message.subject}", _Seen())
            async with seen.reading:
                await self._look(connection, stream, message.subject, info.state, seen)
            if message.msg_id in seen.ids:
                return True
        return False

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


def _is_remembered(info: _Info, since_ns: int) -> bool:
    """Whether the stream certainly remembers the ids of all that came since."""
    if not info.ts:
        return False
    age_s = datetime.fromisoformat(info.ts).timestamp() - since_ns / 1e9
    return age_s + CLOCKS_S < info.config.duplicate_window / 1e9
