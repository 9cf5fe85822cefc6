"""Whoever starts while a cluster elects leaders waits for the end of it, and does not give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dressage.brokers.interface import Broker
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.errors import NoLeader

pytestmark = pytest.mark.anyio

ASKING = ("ensure_stream", "stream_state")


class Electing:
    """A broker whose first answers are that there is nobody who could answer."""

    def __init__(self, broker: Broker, unanswered: int) -> None:
        self._broker = broker
        self.left = unanswered

    async def connect(self, name: str, *, reconnect: bool = False) -> Any:
        connection = await self._broker.connect(name, reconnect=reconnect)
        for asking in ASKING:
            setattr(connection, asking, self._at_first_unanswered(getattr(connection, asking)))
        return connection

    def _at_first_unanswered(self, ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*given: Any, **named: Any) -> Any:
            if self.left:
                self.left -= 1
                raise NoLeader("JetStream has no leader that this server reaches at the moment")
            return await ask(*given, **named)

        return asked


async def test_an_orchestrator_waits(broker: JetStreamBroker, namespace: str) -> None:
    electing = Electing(broker, unanswered=3)
    orchestrator, task = await run_beside(electing, OrchestratorConfig(namespace))
    assert electing.left == 0
    assert orchestrator.shards == {0}
    orchestrator.stop()
    await task


async def test_a_client_waits(broker: JetStreamBroker, namespace: str) -> None:
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace))
    electing = Electing(broker, unanswered=3)
    async with Client(electing, namespace=namespace):
        assert electing.left == 0
    orchestrator.stop()
    await task
