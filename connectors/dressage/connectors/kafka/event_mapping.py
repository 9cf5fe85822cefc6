"""From one output event to the record that tells of it: pure.

What is masked has been hidden by the engine, before the event was stored.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dressage.connectors.kafka.config import SinkConnector
from dressage.connectors.kafka.transforms import Variables, compiled_steps, passes
from dressage.connectors.mapping import Unmappable, compiled, evaluated, written
from dressage.protocol.events import ReceivedEvent, decode_event

Headers = list[tuple[str, str | bytes | None]]

STRUCTURED: Final[Headers] = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
JSON: Final[Headers] = [("content-type", b"application/json")]

_decode = msgspec.json.Decoder().decode


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


class EventOutput:
    """What one sink makes of output events."""

    def __init__(self, config: SinkConnector) -> None:
        self._config = config
        self._steps = compiled_steps(config.transforms)
        self._topic = compiled(config.topic_of) if config.topic_of else None

    def told(self, payload: bytes) -> Told:
        """Raises `Unmappable`; `msgspec.MsgspecError` for what is no output event."""
        event = decode_event(payload)
        if not self._steps and self._topic is None and self._config.value_format == "cloudevents":
            as_it_is = Produced(self._config.topic, event.subject.encode(), payload, STRUCTURED)
            return Told(event.subject, event.kind, as_it_is)
        plain = self._config.value_format == "json"
        variables: Variables = {
            "value": _flat(event) if plain else _decode(event.data),
            "key": event.subject,
            "kind": event.kind,
            "workflow": event.workflow,
        }
        record = self._written(event, payload, variables) if passes(self._steps, variables) else None
        return Told(event.subject, event.kind, record)

    def _written(self, event: ReceivedEvent, payload: bytes, variables: Variables) -> Produced:
        value = written(variables["value"], "payload")
        topic = (
            self._config.topic if self._topic is None else _usable(evaluated("topic", self._topic, variables))
        )
        key = event.subject.encode()
        match self._config.value_format:
            case "json":
                return Produced(topic, key, value, JSON)
            case "cloudevents-binary":
                return Produced(topic, key, value, [*JSON, *_attributes(event)])
            case "cloudevents":
                whole = msgspec.json.encode({**_decode(payload), "data": msgspec.Raw(value)})
                return Produced(topic, key, whole, STRUCTURED)


def _flat(event: ReceivedEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "kind": event.kind,
        "time": event.time,
        "run_id": event.subject,
        "workflow": event.workflow,
        "version": event.version,
        "index": event.index,
        "actor": event.actor,
        "data": _decode(event.data),
    }


def _attributes(event: ReceivedEvent) -> Headers:
    """The context attributes of the Kafka binding of CloudEvents, in binary mode."""
    values = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": event.source,
        "ce_type": event.type,
        "ce_time": event.time,
        "ce_subject": event.subject,
        "ce_workflow": event.workflow,
        "ce_version": str(event.version),
        "ce_index": str(event.index),
        "ce_command": event.command,
        **({"ce_actor": event.actor} if event.actor else {}),
    }
    return [(name, value.encode()) for name, value in values.items()]


def _usable(topic: Any) -> str:
    if isinstance(topic, str) and topic:
        return topic
    raise Unmappable(f"topic: it gives {topic!r}, which is no name of a topic", code="VALUE_INVALID")
