"""How connectors run, and how one of them ends that has failed."""

from __future__ import annotations

from dataclasses import dataclass

from dressage.brokers.interface import Broker
from dressage.client import Client
from dressage.connectors.connect.metrics import ConnectorMetrics
from dressage.protocol.errors import DressageError


class ConnectorFailed(DressageError):
    """A record or an event that nothing can be made of, where that is not tolerated; or an error that does not pass."""

    code = "CONNECTOR_FAILED"


@dataclass(slots=True, frozen=True)
class ConnectorOptions:
    """How a process runs its connectors.

    `in_flight` is how many records of one consumer, or events of one sink, are under way at a time. `answer_s` is how
    long a record waits for the engine before it is tried again, `drain_s` how long a stop, or a rebalance, waits for
    what is under way. A sink takes at most `batch_max` events at once, to Kafka in one transaction. What is deployed is
    looked at every `look_every_s`.
    """

    namespace: str = "default"
    in_flight: int = 2_000
    answer_s: float = 8.0
    drain_s: float = 5.0
    commit_every_s: float = 1.0
    lag_every_s: float = 5.0
    batch_max: int = 2_000
    look_every_s: float = 1.0


@dataclass(slots=True, frozen=True)
class Setting:
    """What a connector runs with. `broker` is for connections of its own."""

    client: Client
    broker: Broker
    options: ConnectorOptions
    metrics: ConnectorMetrics
