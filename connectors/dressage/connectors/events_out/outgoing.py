"""One output event on its way to users, and why it may not get there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, Self

import msgspec

from dressage.brokers.interface import Message
from dressage.connectors.connect.event_mapping import EventOutput, Output
from dressage.connectors.dead_letter import REASON_CHARS_MAX, fitted, safe_value
from dressage.connectors.mapping import Unmappable
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.events import ReceivedEvent, decode_event
from dressage.protocol.names import Names, run_token

EVENT_HEADER: Final = "Dressage-Event"
"""Of a dead letter that is an output event: its id."""

RECEIVER: Final = "receiver"
"""The part of a connector whose fault it is that a receiver is away, or overloaded."""

_ID_CHARS: Final = 1_000

Sure = Callable[[], Awaitable[None]]
"""Returns while this process is certainly the active one."""


class NotDelivered(DressageError):
    """It did not get there now; not to be tried again before `after_s`. The code says why."""

    retryable = True

    def __init__(self, message: str, *, code: str, after_s: float = 0.0) -> None:
        super().__init__(message, code=code)
        self.after_s = after_s


class Undeliverable(BadInput):
    """This event will never be taken, however often it is tried; the code says why."""

    code = "UNDELIVERABLE"


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """An event with what is told of it; or why nothing can be. `id` is the same whenever this connector tells of it."""

    seq: int
    id: str
    event: ReceivedEvent
    payload: bytes
    output: Output | None
    refused: Unmappable | None = None

    @property
    def told(self) -> Output:
        assert self.output is not None, "an event of which nothing can be told is not delivered"
        return self.output


def received(names: Names, connector: str, seq: int, payload: bytes) -> Outgoing:
    """An event as it came from the stream, before anything is told of it.

    Raises `msgspec.MsgspecError`, or `BadRunId`, for what is no output event.
    """
    event = decode_event(payload)
    output_id = names.output_id(connector, run_token(event.subject), event.index, event.command)
    return Outgoing(seq, output_id, event, payload, None)


class Delivery(Protocol):
    """Delivers the events of one sink, many at a time."""

    deadline_s: float | None
    """For so long one event is tried; None for as long as it takes."""

    def check(self, output: Output) -> None:
        """Raises `Unmappable` for what can go nowhere."""
        ...

    async def deliver(self, outgoing: Outgoing, sure: Sure) -> None:
        """Returns once it is there; `sure` is asked just before it is sent, and what that raises goes on.

        Raises `NotDelivered`, `Undeliverable`, or `ConnectorFailed`.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


def with_output(outgoing: Outgoing, tell: EventOutput, delivery: Delivery) -> Outgoing | None:
    """The event with what is told of it; None if a filter leaves it out. Raises `Unmappable`."""
    output = tell.of(outgoing.event, outgoing.payload)
    if output is None:
        return None
    delivery.check(output)
    return msgspec.structs.replace(outgoing, output=output)


def dead_event(
    names: Names, connector: str, outgoing: Outgoing, code: str, reason: str, payload_bytes_max: int
) -> Message:
    """The message for the namespace's dead-letter stream: the event as it was stored, and why it is one."""
    headers: Mapping[str, str] = {
        "Dressage-Code": safe_value(code, 100),
        "Dressage-Reason": safe_value(reason, REASON_CHARS_MAX),
        "Dressage-Connector": connector,
        EVENT_HEADER: safe_value(outgoing.event.id, _ID_CHARS),
        "Dressage-Stream": names.events_stream,
        "Dressage-Sequence": str(outgoing.seq),
        "Dressage-Time": outgoing.event.time,
    }
    letter = Message(
        names.dead_connector(connector), outgoing.payload, headers, msg_id=f"connector-{outgoing.id}"
    )
    return fitted(letter, (), payload_bytes_max)
