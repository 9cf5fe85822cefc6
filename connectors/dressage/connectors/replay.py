"""Dead letters of triggers, webhooks and connectors, and asking for them once more, as they are declared now."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dressage.brokers.interface import Connection, Delivery, StoredMessage
from dressage.connectors.dead_letter import ORIGINAL
from dressage.connectors.engine import Engine
from dressage.connectors.mapping import EventMapping, Post, Start
from dressage.connectors.source import event_id
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.connectors")

Taken = Literal["accepted", "existing", "skipped"]
Outcome = Taken | Literal["kept"]


@dataclass(slots=True, frozen=True)
class Letter:
    """A dead letter. `seq` is its place among dead letters; `headers` say why it is one, and where it came from."""

    seq: int
    headers: Mapping[str, str]
    payload: bytes

    @property
    def code(self) -> str:
        return self.headers.get("Dressage-Code", "")

    @property
    def reason(self) -> str:
        return self.headers.get("Dressage-Reason", "")

    @property
    def time(self) -> str:
        """When the event was stored, or came, in RFC 3339."""
        return self.headers.get("Dressage-Time", "")

    @property
    def stream(self) -> str:
        return self.headers.get("Dressage-Stream", "")

    @property
    def is_cut(self) -> bool:
        return "Dressage-Payload-Bytes" in self.headers

    @property
    def originals(self) -> dict[str, str]:
        """The event's own headers."""
        return {
            name.removeprefix(ORIGINAL): value
            for name, value in self.headers.items()
            if name.startswith(ORIGINAL)
        }

    @property
    def event(self) -> Delivery:
        """The event of a trigger or a webhook, as it came."""
        return Delivery(
            subject=self.headers.get("Dressage-Subject", ""),
            data=self.payload,
            headers=self.originals,
            stream_seq=int(self.headers.get("Dressage-Sequence", "0")),
            consumer_seq=0,
            attempts=1,
            time_ns=_time_ns(self.time),
            reply="",
        )

    @property
    def event_id(self) -> str:
        """The id that the event of a trigger or a webhook had; a webhook's is kept, as it was not stored anywhere."""
        kept = self.headers.get("Dressage-Event-Id", "")
        return kept or event_id(self.stream, self.event.stream_seq, self.event.time_ns)


Again = Callable[[Letter], Awaitable[Taken]]
"""Asks for what a letter stands for, or delivers it, under the ids that it had at first: whether that is *accepted*
now, was there before (*existing*), or is left out now, by `when` or by a filter (*skipped*). Raises a `DressageError`
where it is not taken."""


@dataclass(slots=True, frozen=True)
class Replayed:
    """What became of a letter: it was taken, and is gone; or it is there still, because it is left out now (*skipped*),
    or for the code and reason that are given (*kept*)."""

    letter: Letter
    outcome: Outcome
    code: str = ""
    reason: str = ""

    @property
    def is_gone(self) -> bool:
        return self.outcome in ("accepted", "existing")


async def dead_letters(
    connection: Connection, names: Names, subject: str, seqs: Collection[int] = ()
) -> AsyncIterator[Letter]:
    """The dead letters that a subject has now, the oldest first; those at `seqs` only, if any are given.

    Each is read when it is asked for: one that somebody else has taken meanwhile does not come.
    """
    last = await connection.last_message(names.dead_stream, subject)
    seq, end = 1, last.seq if last is not None else 0
    while seq <= end:
        message = await connection.next_message(names.dead_stream, seq, subject)
        if message is None or message.seq > end:
            return
        if not seqs or message.seq in seqs:
            yield _letter(message)
        seq = message.seq + 1


async def replay(connection: Connection, names: Names, letter: Letter, again: Again) -> Replayed:
    """Asks for a letter once more, and removes it if it was taken.

    The ids are those that it had at first: so it counts once, also when it could not be removed, or comes twice.
    """
    try:
        if letter.is_cut:
            raise BadInput(
                "only a part of its payload is kept, which was too large: have it sent again",
                code="PAYLOAD_TOO_LARGE",
            )
        outcome = await again(letter)
    except DressageError as error:
        return Replayed(letter, "kept", error.code, error.message)
    except Exception as error:
        # One that fails for a reason of ours must not keep those behind it. (Its text may have a secret in an address.)
        _log.exception("replaying dead letter %d failed", letter.seq)
        return Replayed(letter, "kept", "INTERNAL", type(error).__name__)
    if outcome != "skipped":
        try:
            await connection.delete_message(names.dead_stream, letter.seq)
        except DressageError as error:
            return Replayed(letter, "kept", error.code, f"it was taken, and is not removed: {error.message}")
    return Replayed(letter, outcome)


def by_mapping(mapping: EventMapping, engine: Engine) -> Again:
    """How letters of a trigger or a webhook are asked for."""

    async def again(letter: Letter) -> Taken:
        return await asked(engine, mapping.asked_by(letter.event, letter.event_id))

    return again


async def asked(engine: Engine, request: Start | Post | None) -> Taken:
    """Asks the engine for what a mapping gives. Raises as `Engine.ask` does."""
    if request is None:
        return "skipped"
    return "existing" if await engine.ask(request) else "accepted"


def _letter(message: StoredMessage) -> Letter:
    return Letter(message.seq, message.headers or {}, message.data)


def _time_ns(time: str) -> int:
    """The milliseconds of a time in RFC 3339, exactly, in nanoseconds."""
    moment = datetime.fromisoformat(time) if time else datetime.fromtimestamp(0, UTC)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
