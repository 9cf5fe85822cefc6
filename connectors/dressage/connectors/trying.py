"""A dry run: what triggers would ask the engine for, given events that were recorded. Needs no server."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from dressage.brokers.interface import Delivery
from dressage.brokers.memory.subjects import within
from dressage.connectors.config import PostTarget, StartTarget, TriggerConfig
from dressage.connectors.mapping import EventMapping, Post, Start, Unmappable
from dressage.connectors.source import event_id
from dressage.protocol.errors import BadInput

Would = Literal["start", "post", "skip", "dead-letter", "nothing"]


class Recorded(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a file of events: `data` is JSON; `payload` is a text, or `payload_base64` bytes, as they were sent."""

    subject: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload: str | None = None
    payload_base64: str | None = None
    headers: dict[str, str] = {}
    stream: str = ""
    sequence: int = 0
    time_ns: int = 0


@dataclass(slots=True, frozen=True)
class Tried:
    """What a trigger would do with the event of a line: `says` has it in words."""

    line: int
    trigger: str
    would: Would
    says: str


_decode = msgspec.json.Decoder(Recorded).decode


def try_events(triggers: Sequence[TriggerConfig], lines: Iterable[bytes]) -> Iterator[Tried]:
    """What each trigger would do with each event, line by line, an event to a line in JSON; empty ones are passed over.

    A trigger is asked if its source has the event's subject, and its stream where the line names one. Raises `BadInput`
    (EVENT_UNREADABLE) for a line that is no event.
    """
    mappings = [(each, EventMapping(each)) for each in triggers]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        event, stream = _event(line, number)
        asked = [pair for pair in mappings if _is_of(pair[0], event.subject, stream)]
        if not asked:
            yield Tried(number, "", "nothing", f"no trigger takes {event.subject}")
        for trigger, mapping in asked:
            yield _tried(number, trigger, mapping, event, stream)


def _tried(line: int, trigger: TriggerConfig, mapping: EventMapping, event: Delivery, stream: str) -> Tried:
    at = event_id(stream or trigger.source.stream or "STREAM", event.stream_seq or line, event.time_ns)
    try:
        request = mapping.asked_by(event, at)
    except Unmappable as error:
        return Tried(line, trigger.name, "dead-letter", f"{error.code}: {error.message}")
    match request, trigger.target:
        case Start(run_id=run_id, input=given), StartTarget(workflow=workflow):
            return Tried(line, trigger.name, "start", f"run {run_id} of {workflow} with {given.decode()}")
        case Post(event=name, run_id=run_id, key=key, payload=payload), PostTarget():
            whom = f"run {run_id}" if run_id else f"key {key}"
            return Tried(line, trigger.name, "post", f"event {name} to {whom} with {payload.decode()}")
        case _:
            return Tried(line, trigger.name, "skip", "`when` leaves it out")


def _event(line: bytes, number: int) -> tuple[Delivery, str]:
    try:
        recorded = _decode(line)
        data = _payload(recorded)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadInput(
            f"line {number} is no recorded event: {error}. Write one JSON object to a line, with subject, and data or "
            "payload",
            code="EVENT_UNREADABLE",
        ) from error
    event = Delivery(recorded.subject, data, recorded.headers, recorded.sequence, 0, 1, recorded.time_ns, "")
    return event, recorded.stream


def _payload(recorded: Recorded) -> bytes:
    if recorded.payload is not None:
        return recorded.payload.encode()
    if recorded.payload_base64 is not None:
        return b64decode(recorded.payload_base64, validate=True)
    return b"" if recorded.data is msgspec.UNSET else bytes(recorded.data)


def _is_of(trigger: TriggerConfig, subject: str, stream: str) -> bool:
    source = trigger.source
    if stream and source.stream and stream != source.stream:
        return False
    return source.subject is None or within(subject, source.subject)
