"""Sends between shards arrive in the order of the commit, once, also when the owner changes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from dressage.brokers.interface import Connection, Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside
from dressage.orchestrator.sharing import weight
from dressage.protocol.commands import StartRun, encoder
from dressage.protocol.names import Names, run_token, shard_of

pytestmark = pytest.mark.anyio

SENDS = 120


@workflow(name="sent")
async def sent(n: int) -> int:
    return n


def runs_of(shard: int) -> list[str]:
    found = (f"s{number}" for number in range(100_000))
    return [
        run for run, _ in zip((run for run in found if shard_of(run, 2) == shard), range(SENDS), strict=False)
    ]


async def commit_sends(connection: Connection, names: Names, version: int, runs: list[str]) -> None:
    """What a turn of shard 0 that sends to shard 1 leaves in its stream."""
    await connection.publish_batch(
        [
            Message(
                names.send(0, 1, run_token(run)),
                encoder.encode(
                    StartRun("sent", version, msgspec.Raw(b'{"n":%d}' % number), f"send-{number}")
                ),
            )
            for number, run in enumerate(runs)
        ]
    )


async def started_in_order(
    connection: Connection, names: Names, audit: Callable[..., Awaitable[Any]]
) -> list[str]:
    while True:
        found = await audit(connection, names)
        if len(found.finished) >= SENDS:
            assert found.wrong() == []
            order = sorted(found.runs, key=lambda run: int(found.runs[run][0].command))
            return list(order)
        await asyncio.sleep(0.05)


async def emptied(connection: Connection, names: Names) -> None:
    while True:
        state = await connection.stream_state(names.shard_stream(0), subjects=names.sends(0))
        if state is not None and not state.subjects:
            return
        await asyncio.sleep(0.05)


async def test_sends_arrive_in_order_and_leave_the_stream(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Callable[..., Awaitable[Any]]
) -> None:
    names, runs = Names(namespace), runs_of(1)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace, shards=2))
    async with Client(broker, namespace=namespace) as client:
        version = (await client.register(sent)).version
        await commit_sends(connection, names, version, runs)
        order = await asyncio.wait_for(started_in_order(connection, names, audit), 30)
        await asyncio.wait_for(emptied(connection, names), 10)
    orchestrator.stop()
    await task
    assert order == runs


async def test_sends_arrive_in_order_when_the_owner_changes(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Callable[..., Awaitable[Any]]
) -> None:
    names, runs = Names(namespace), runs_of(1)
    # A member that gives up the sending shard, not the other one, as soon as there is a second member.
    giver = next(f"m{n}" for n in range(100) if weight(0, f"m{n}") < weight(1, f"m{n}"))
    first, first_task = await run_beside(broker, OrchestratorConfig(namespace, shards=2, member=giver))
    async with Client(broker, namespace=namespace) as client:
        version = (await client.register(sent)).version
        await commit_sends(connection, names, version, runs)
        second = Orchestrator(broker, OrchestratorConfig(namespace))
        second_task = asyncio.create_task(second.run())
        order = await asyncio.wait_for(started_in_order(connection, names, audit), 30)
    for orchestrator, task in ((first, first_task), (second, second_task)):
        orchestrator.stop()
        await task
    assert order == runs


async def test_what_an_earlier_owner_has_forwarded_already_does_not_hold_up_the_rest(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Callable[..., Awaitable[Any]]
) -> None:
    """The server refuses a whole batch for one message that it knows; nothing of it is lost or doubled."""
    names, runs = Names(namespace), runs_of(1)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace, shards=2))
    async with Client(broker, namespace=namespace) as client:
        version = (await client.register(sent)).version
    orchestrator.stop()
    await task
    await commit_sends(connection, names, version, runs)
    first = await connection.next_message(names.shard_stream(0), 1, names.sends(0))
    assert first is not None
    known = Message(names.command(1, run_token(runs[0])), first.data, msg_id=f"send-0-{first.seq}")
    await connection.publish(known)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace))
    order = await asyncio.wait_for(started_in_order(connection, names, audit), 30)
    await asyncio.wait_for(emptied(connection, names), 10)
    orchestrator.stop()
    await task
    assert order == runs
