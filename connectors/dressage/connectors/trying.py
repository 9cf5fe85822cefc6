"""A dry run: what triggers would ask the engine for, given events that were recorded. Needs no server."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from dressage.brokers.interface import Delivery
from dressage.brokers.memory.subjects import within
from dressage.connectors.config import StartTarget, TriggerConfig
from dressage.connectors.mapping import EventMapping, Post, Start, Unmappable, Variables
from dressage.connectors.source import event_id
from dressage.protocol.errors import BadInput

Would = Literal["start", "post", "skip", "joins", "dead-letter", "nothing"]


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
    trials = [_Trial(each) for each in triggers]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        event, stream = _event(line, number)
        asked = [each for each in trials if _is_of(each.trigger, event.subject, stream)]
        if not asked:
            yield Tried(number, "", "nothing", f"no trigger takes {event.subject}")
        for trial in asked:
            yield from trial.take(number, event, stream)
    for trial in trials:
        yield from trial.end()


class _Trial:
    """One trigger, and the batch that is open. Lines know of no time, so a batch is full or the last one."""

    def __init__(self, trigger: TriggerConfig) -> None:
        self.trigger = trigger
        self._mapping = EventMapping(trigger, trigger.order_by, in_batches=trigger.batch is not None)
        self._open: list[Variables] = []
        self._batch_id = ""
        self._line = 0

    def take(self, line: int, event: Delivery, stream: str) -> Iterator[Tried]:
        name = stream or self.trigger.source.stream or "STREAM"
        at = event_id(name, event.stream_seq or line, event.time_ns)
        try:
            variables = self._mapping.meant(event)
            if variables is None:
                yield Tried(line, self.trigger.name, "skip", "`when` leaves it out")
                return
            if self.trigger.order_by is not None:
                self._mapping.order_of(variables)
            if self.trigger.batch is None:
                yield self._asked(line, self._mapping.asked(variables, at))
                return
        except Unmappable as error:
            yield self._dead(line, error)
            return
        self._batch_id = self._batch_id or at
        self._open.append(variables)
        self._line = line
        if len(self._open) == self.trigger.batch.size:
            yield from self.end()
        else:
            yield Tried(line, self.trigger.name, "joins", f"number {len(self._open)} of a batch")

    def end(self) -> Iterator[Tried]:
        """What the open batch asks for."""
        if self._open:
            try:
                yield self._asked(self._line, self._mapping.asked_of(self._open, self._batch_id))
            except Unmappable as error:
                yield self._dead(self._line, error)
            self._open, self._batch_id = [], ""

    def _dead(self, line: int, error: Unmappable) -> Tried:
        return Tried(line, self.trigger.name, "dead-letter", f"{error.code}: {error.message}")

    def _asked(self, line: int, request: Start | Post) -> Tried:
        name, target = self.trigger.name, self.trigger.target
        if isinstance(request, Start):
            assert isinstance(target, StartTarget), "a start is of a workflow"
            with_what = f"of {target.workflow} with {request.input.decode()}"
            return Tried(line, name, "start", f"run {request.run_id} {with_what}")
        whom = f"run {request.run_id}" if request.run_id else f"key {request.key}"
        return Tried(line, name, "post", f"event {request.event} to {whom} with {request.payload.decode()}")


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
