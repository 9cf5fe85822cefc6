"""From one output event to what a sink tells of it: pure.

What is masked has been hidden by the engine, before the event was stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from dressage.connectors.connect.reading import SinkFormat
from dressage.connectors.connect.transforms import TransformConfig, Variables, compiled_steps, passes
from dressage.connectors.mapping import compiled, evaluated, written
from dressage.connectors.tables import Expression
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.traces import TRACEPARENT

STRUCTURED: Final = "application/cloudevents+json; charset=UTF-8"
JSON: Final = "application/json"

_PRINTABLE: Final = "".join(chr(each) for each in range(0x21, 0x7F) if chr(each) not in '"%')
"""What stands for itself in a header; a space, a quote, a percent sign and everything else is encoded."""

_decode = msgspec.json.Decoder().decode


class Output(msgspec.Struct, frozen=True, gc=False):
    """What is told of an event. `attributes` are those of CloudEvents by name, where they do not stand in `value`;
    `target` is what the expression gives that says where it goes, `traceparent` the W3C trace context of its run."""

    value: bytes
    content_type: str
    attributes: Mapping[str, str]
    target: Any = None
    traceparent: str = ""


class EventOutput:
    """What one sink makes of output events."""

    def __init__(
        self,
        transforms: tuple[TransformConfig, ...],
        value_format: SinkFormat,
        what: str = "",
        target: Expression | None = None,
    ) -> None:
        """`target` is the expression of the key `what`."""
        self._steps = compiled_steps(transforms)
        self._format: SinkFormat = value_format
        self._what = what
        self._target = compiled(target) if target else None
        self._as_it_is = not transforms and target is None and value_format == "cloudevents"

    def of(self, event: ReceivedEvent, payload: bytes) -> Output | None:
        """None if a filter leaves it out; `payload` is the event as it came from the stream. Raises `Unmappable`."""
        if self._as_it_is:
            return Output(payload, STRUCTURED, {}, traceparent=event.traceparent)
        variables: Variables = {
            "value": _flat(event) if self._format == "json" else _decode(event.data),
            "key": event.subject,
            "kind": event.kind,
            "workflow": event.workflow,
        }
        return self._written(event, payload, variables) if passes(self._steps, variables) else None

    def _written(self, event: ReceivedEvent, payload: bytes, variables: Variables) -> Output:
        value = written(variables["value"], "payload")
        target = evaluated(self._what, self._target, variables) if self._target else None
        match self._format:
            case "json":
                return Output(value, JSON, {}, target, event.traceparent)
            case "cloudevents-binary":
                return Output(value, JSON, _attributes(event), target, event.traceparent)
            case "cloudevents":
                whole = msgspec.json.encode({**_decode(payload), "data": msgspec.Raw(value)})
                return Output(whole, STRUCTURED, {}, target, event.traceparent)


def headers_of(output: Output) -> dict[str, str]:
    """As the bindings of CloudEvents to NATS and to HTTP have them."""
    attributes = {f"ce-{name}": quote(value, safe=_PRINTABLE) for name, value in output.attributes.items()}
    trace = {TRACEPARENT: output.traceparent} if output.traceparent else {}
    return {"content-type": output.content_type, **attributes, **trace}


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


def _attributes(event: ReceivedEvent) -> dict[str, str]:
    """The context attributes of a CloudEvent in binary mode."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
        "subject": event.subject,
        "workflow": event.workflow,
        "version": str(event.version),
        "index": str(event.index),
        "command": event.command,
        **({"actor": event.actor} if event.actor else {}),
        **({TRACEPARENT: event.traceparent} if event.traceparent else {}),
    }
