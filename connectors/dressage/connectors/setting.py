"""What all triggers of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import Connection
from dressage.client import Client
from dressage.connectors.config import TriggerConfig
from dressage.connectors.engine import engine_of
from dressage.connectors.mapping import EventMapping
from dressage.connectors.metrics import Metrics
from dressage.connectors.rules import Rule
from dressage.connectors.source import Source

CANCEL_AGAIN_S: Final = 0.5

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0


@dataclass(slots=True, frozen=True)
class TriggerOptions:
    """How a process runs its triggers.

    `in_flight` is how many events of one trigger are held at a time: from half of it to all are under way. An
    event of a process that died goes to another one `ack_wait_s` after its last sign of life. `pending_max` bounds
    what all processes of a trigger hold or have put back. `answer_s` is how long an event waits for the engine
    before it is put back, `drain_s` how long a stop waits for the events in flight.
    """

    namespace: str = "default"
    in_flight: int = 400
    ack_wait_s: float = 30.0
    pending_max: int = 5_000
    answer_s: float = 8.0
    drain_s: float = 10.0
    lag_every_s: float = 5.0

    @property
    def taken_at_once(self) -> int:
        """How many events a trigger takes from its stream at once that takes them in turn."""
        return max(1, min(200, self.in_flight // 2))


@dataclass(slots=True, frozen=True)
class Setting:
    """What all triggers of a process share."""

    connection: Connection
    client: Client
    options: TriggerOptions
    metrics: Metrics

    def rule(self, name: str) -> Callable[[TriggerConfig], Rule]:
        """What makes rules of the trigger `name`."""

        def make(config: TriggerConfig) -> Rule:
            engine = engine_of(
                config.target, self.client, actor=f"trigger/{name}", answer_s=self.options.answer_s
            )
            mapping = EventMapping(config, config.order_by, in_batches=config.batch is not None)
            return Rule(mapping, engine, config.batch)

        return make

    def source(self, config: TriggerConfig, incarnation: int = 0) -> Source:
        return Source(
            self.connection,
            self.client.names,
            config,
            ack_wait_s=self.options.ack_wait_s,
            pending_max=self.options.pending_max,
            incarnation=incarnation,
        )


def backoff_s(attempts: int) -> float:
    """How long an event that was delivered so often stays away."""
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempts - 1, 10))


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels and awaits what still runs; again and again, because `wait_for` of Python 3.11 may swallow it once."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
