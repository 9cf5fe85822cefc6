"""From one output event to the record that tells of it: pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dressage.connectors.connect.event_mapping import JSON, STRUCTURED, EventOutput, Output
from dressage.connectors.kafka.config import SinkConnector
from dressage.connectors.mapping import Unmappable
from dressage.protocol.events import decode_event
from dressage.protocol.traces import TRACEPARENT

Headers = list[tuple[str, str | bytes | None]]

_CONTENT_TYPES: Final[dict[str, Headers]] = {
    each: [("content-type", each.encode())] for each in (JSON, STRUCTURED)
}
JSON_HEADERS: Final = _CONTENT_TYPES[JSON]


class Produced(msgspec.Struct, frozen=True, gc=False):
    """A record to be written. The run's id is its key, so all of a run is in one partition."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


class Told(msgspec.Struct, frozen=True, gc=False):
    """An event that came from the stream: of which run, of which kind, and its record unless a filter left it out."""

    run_id: str
    kind: str
    record: Produced | None


class EventRecords:
    """What one sink makes of output events."""

    def __init__(self, config: SinkConnector) -> None:
        self._topic = config.topic
        self._output = EventOutput(config.transforms, config.value_format, "topic", config.topic_of)

    def told(self, payload: bytes) -> Told:
        """Raises `Unmappable`; `msgspec.MsgspecError` for what is no output event."""
        event = decode_event(payload)
        output = self._output.of(event, payload)
        record = None if output is None else self._record(event.subject.encode(), output)
        return Told(event.subject, event.kind, record)

    def _record(self, key: bytes, output: Output) -> Produced:
        headers = _CONTENT_TYPES[output.content_type]
        if output.traceparent:
            headers = [*headers, (TRACEPARENT, output.traceparent.encode())]
        if output.attributes:
            # The Kafka binding of CloudEvents, in binary mode.
            headers = [
                *headers,
                *((f"ce_{name}", value.encode()) for name, value in output.attributes.items()),
            ]
        return Produced(self._topic or _usable(output.target), key, output.value, headers)


def _usable(topic: Any) -> str:
    if isinstance(topic, str) and topic:
        return topic
    raise Unmappable(f"topic: it gives {topic!r}, which is no name of a topic", code="VALUE_INVALID")
