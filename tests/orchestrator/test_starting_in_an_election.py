"""Whoever starts while a cluster elects leaders, or lacks a server, waits for the end of it, and does not give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dressage.brokers.interface import SERVERS_MISSING, Broker, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker, wire
from dressage.brokers.jetstream.connection import stream_refused
from dressage.client import Client
from dressage.orchestrator import service
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside
from dressage.protocol.errors import BrokerError, NoLeader

pytestmark = pytest.mark.anyio

ASKING = ("ensure_stream", "stream_state")


ELECTION = NoLeader("JetStream has no leader that this server reaches at the moment")
ANSWER = (
    b'{"error":{"code":400,"err_code":10005,"description":"no suitable peers for placement, peer offline"}}'
)
"""What JetStream says to a stream of three replicas when one of three servers is away."""


def too_few() -> BrokerError:
    refusal = wire.plain_reply.decode(ANSWER).error
    assert refusal is not None
    return stream_refused(StreamConfig("dressage_default_0", (), replicas=3), refusal)


TOO_FEW = too_few()


class Electing:
    """A broker whose first answers are that there is nobody who could answer, or not enough servers."""

    def __init__(self, broker: Broker, unanswered: int, error: BrokerError = ELECTION) -> None:
        self._broker = broker
        self._error = error
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
                raise self._error
            return await ask(*given, **named)

        return asked


@pytest.mark.parametrize("error", [ELECTION, TOO_FEW], ids=["election", "too-few-servers"])
async def test_an_orchestrator_waits(broker: JetStreamBroker, namespace: str, error: BrokerError) -> None:
    electing = Electing(broker, unanswered=3, error=error)
    orchestrator, task = await run_beside(electing, OrchestratorConfig(namespace))
    assert electing.left == 0
    assert orchestrator.shards == {0}
    orchestrator.stop()
    await task


async def test_an_orchestrator_says_in_the_end_that_there_are_too_few_servers(
    broker: JetStreamBroker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SERVERS_MISSING_S", 0.1)
    short = Electing(broker, unanswered=1_000, error=TOO_FEW)
    with pytest.raises(BrokerError, match=SERVERS_MISSING) as given_up:
        await Orchestrator(short, OrchestratorConfig(namespace)).run()
    assert given_up.value.code == SERVERS_MISSING


def test_what_is_said_of_too_few_servers_names_the_cure() -> None:
    told = str(TOO_FEW)
    assert "dressage_default_0 wants 3 replicas" in told
    assert "start the missing ones" in told
    assert "fewer --replicas" in told
    assert "no suitable peers" in told


async def test_a_client_waits(broker: JetStreamBroker, namespace: str) -> None:
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace))
    electing = Electing(broker, unanswered=3)
    async with Client(electing, namespace=namespace):
        assert electing.left == 0
    orchestrator.stop()
    await task
