"""Dead letters of a trigger or a webhook, and asking for them once more, by the mapping as it is now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dressage.brokers.interface import Connection, Delivery, StoredMessage
from dressage.connectors.dead_letter import ORIGINAL
from dressage.connectors.engine import Engine
from dressage.connectors.mapping import EventMapping
from dressage.connectors.source import event_id
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.names import Names

Outcome = Literal["accepted", "existing", "skipped", "kept"]


@dataclass(slots=True, frozen=True)
class Letter:
    """A dead letter. `seq` is its place among dead letters; the event in it has the id that it had at its source."""

    seq: int
    code: str
    reason: str
    time: str
    stream: str
    event: Delivery
    is_cut: bool
    kept_id: str = ""
    """The event's id where it was not stored: that of a webhook."""

    @property
    def event_id(self) -> str:
        return self.kept_id or event_id(self.stream, self.event.stream_seq, self.event.time_ns)


@dataclass(slots=True, frozen=True)
class Replayed:
    """What became of a letter: the engine has *accepted* what it asks for, or knew it (*existing*), and the letter is
    gone; or it is there still, because `when` leaves it out now (*skipped*), or for the code and reason that are
    given (*kept*)."""

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
    """The dead letters on a subject, the oldest first; those at `seqs` only, if any are given."""
    seq = 1
    while True:
        message = await connection.next_message(names.dead_stream, seq, subject)
        if message is None:
            return
        if not seqs or message.seq in seqs:
            yield _letter(message)
        seq = message.seq + 1


async def replay(
    connection: Connection, names: Names, letter: Letter, mapping: EventMapping, engine: Engine
) -> Replayed:
    """Asks the engine for what the letter's event asks for, and removes the letter if that was accepted.

    The ids are those that the event would have given at its source: so it counts once, also when its letter could not
    be removed, or comes twice.
    """
    try:
        if letter.is_cut:
            raise BadInput(
                "only a part of its payload is kept, which was too large: have the event sent again",
                code="PAYLOAD_TOO_LARGE",
            )
        request = mapping.asked_by(letter.event, letter.event_id)
        if request is None:
            return Replayed(letter, "skipped")
        existing = await engine.ask(request)
    except DressageError as error:
        return Replayed(letter, "kept", error.code, error.message)
    await connection.delete_message(names.dead_stream, letter.seq)
    return Replayed(letter, "existing" if existing else "accepted")


def _letter(message: StoredMessage) -> Letter:
    headers = message.headers or {}
    originals = {
        name.removeprefix(ORIGINAL): value for name, value in headers.items() if name.startswith(ORIGINAL)
    }
    time = headers.get("Dressage-Time", "")
    event = Delivery(
        subject=headers.get("Dressage-Subject", ""),
        data=message.data,
        headers=originals,
        stream_seq=int(headers.get("Dressage-Sequence", "0")),
        consumer_seq=0,
        attempts=1,
        time_ns=_time_ns(time),
        reply="",
    )
    return Letter(
        message.seq,
        headers.get("Dressage-Code", ""),
        headers.get("Dressage-Reason", ""),
        time,
        headers.get("Dressage-Stream", ""),
        event,
        "Dressage-Payload-Bytes" in headers,
        headers.get("Dressage-Event-Id", ""),
    )


def _time_ns(time: str) -> int:
    """The milliseconds of a time in RFC 3339, exactly, in nanoseconds."""
    moment = datetime.fromisoformat(time) if time else datetime.fromtimestamp(0, UTC)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
