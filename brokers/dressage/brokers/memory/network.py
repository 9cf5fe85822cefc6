"""How long a message takes on a link, and whether it arrives: what a simulation decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dressage.brokers.memory.connection import MemoryConnection


@dataclass(slots=True, frozen=True)
class Fate:
    """`delay_s` until it arrives, though never before what went the same way on the same link earlier.

    `lost`: it never arrives. A request then has no effect and no reply; of a lost reply the effect has happened; a
    lost delivery is a gap in the consumer's sequence.
    """

    delay_s: float = 0.0
    lost: bool = False


AT_ONCE: Final = Fate()


class Network:
    """Everything arrives after 0 s. A subclass decides otherwise.

    `kind` outwards: "connect", "send", "batch", "read", "api", "pull" (asking a consumer for more), "subscribe"
    (and its end, and that of a pull: only ever delayed), "ack" (nak and in-progress too), "tell", "request".
    Inwards: "reply" (to connect, send, batch, read, api), "delivery", "message" (to a subscription, the answer to a
    request, the end of a pull).
    """

    def outgoing(self, connection: MemoryConnection, kind: str) -> Fate:
        return AT_ONCE

    def incoming(self, connection: MemoryConnection, kind: str) -> Fate:
        return AT_ONCE

    def duplicate_delivery(self, connection: MemoryConnection) -> bool:
        """Whether what is being delivered comes once more, with a consumer sequence of its own."""
        return False

    def survives(self, connection: MemoryConnection) -> bool:
        """Whether one more operation that is on its way when its process is killed still arrives.

        Asked in their order until the first that does not; those behind it are lost too.
        """
        return True

    def reachable(self, connection: MemoryConnection) -> bool:
        """Whether a link can be made now; asked at each attempt."""
        return True
