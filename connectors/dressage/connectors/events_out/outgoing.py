"""One output event on its way to users, and why it may not get there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, Self

import msgspec

from dressage.brokers.interface import Message
from dressage.connectors.connect.event_mapping import Output
from dressage.connectors.dead_letter import REASON_CHARS_MAX, fitted, safe_value
from dressage.connectors.mapping import Unmappable
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.names import Names

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


def dead_event(
    names: Names, connector: str, outgoing: Outgoing, code: str, reason: str, payload_bytes_max: int
) -> Message:
    """The message for the namespace's dead-letter stream: the event as it was stored, and why it is one."""
    headers: Mapping[str, str] = {
        "Dressage-Code": safe_value(code, 100),
        "Dressage-Reason": safe_value(reason, REASON_CHARS_MAX),
        "Dressage-Connector": connector,
        "Dressage-Event": safe_value(outgoing.event.id, _ID_CHARS),
        "Dressage-Stream": names.events_stream,
        "Dressage-Sequence": str(outgoing.seq),
        "Dressage-Time": outgoing.event.time,
    }
    letter = Message(
        names.dead_connector(connector), outgoing.payload, headers, msg_id=f"connector-{outgoing.id}"
    )
    return fitted(letter, (), payload_bytes_max)
