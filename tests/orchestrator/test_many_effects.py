"""A command with more effects than a batch can hold: it spans turns, and a death between them repeats none."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import App, workflow
from dressage.orchestrator.fold.effects import DispatchTask
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.orchestrator.turn import committing, folding
from dressage.protocol.commands import StartRun, TaskMessage
from dressage.protocol.names import Names

pytestmark = pytest.mark.anyio

app = App("many")
EFFECTS = 2300


@app.task
async def one(n: int) -> int:
    return n


@workflow(name="many")
async def many(n: int) -> int:
    return await one(n)


@pytest.fixture(autouse=True)
def wide_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No construct fans out yet, so the outcome of a start is widened: one dispatch becomes many."""

    def widened(*arguments: Any, **options: Any) -> Outcome:
        outcome = fold(*arguments, **options)
        (first,) = outcome.effects or (None,)
        if isinstance(first, DispatchTask):
            outcome.effects += [
                DispatchTask(first.queue, first.task, f"x-{number}", "x", 1, first.args, first.scheduled_ms)
                for number in range(EFFECTS - 1)
            ]
        return outcome

    monkeypatch.setattr(folding, "fold", widened)


async def tasks_in_stream(connection: Connection, names: Names) -> list[str]:
    found: list[str] = []
    seq = 1
    while True:
        message = await connection.next_message(names.shard_stream(0), seq, names.task(0, "many"))
        if message is None:
            return found
        found.append(msgspec.json.decode(message.data, type=TaskMessage).task_id)
        seq = message.seq + 1


async def start(client: Client) -> None:
    version = (await client.register(many)).version
    await client.send("wide", StartRun("many", version, msgspec.Raw(b'{"n":1}'), "c"))


async def committed(connection: Connection, names: Names) -> list[str]:
    while len(found := await tasks_in_stream(connection, names)) < EFFECTS:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    return await tasks_in_stream(connection, names) if found else []


async def test_all_effects_are_committed_once(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace))
    async with Client(broker, namespace=namespace) as client:
        await start(client)
        found = await asyncio.wait_for(committed(connection, Names(namespace)), 30)
        assert (await client.get("wide")).status == "running"
    orchestrator.stop()
    await task
    assert len(found) == len(set(found)) == EFFECTS


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_death_between_the_parts_repeats_none(
    broker: JetStreamBroker,
    connection: Connection,
    namespace: str,
    parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(namespace)
    cut = asyncio.Event()
    certain = committing.certain
    turns = 0

    async def mortal(*arguments: Any) -> Any:
        nonlocal turns
        is_turn = arguments[1][-1].subject == names.cursor(0)
        if is_turn and turns == parts:
            cut.set()
            await asyncio.Future()
        turns += is_turn
        return await certain(*arguments)

    monkeypatch.setattr(committing, "certain", mortal)
    _, first = await run_beside(broker, OrchestratorConfig(namespace, member="same"))
    async with Client(broker, namespace=namespace) as client:
        await start(client)
        await asyncio.wait_for(cut.wait(), 30)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        half = len(await tasks_in_stream(connection, names))
        monkeypatch.setattr(committing, "certain", certain)
        heir, second = await run_beside(broker, OrchestratorConfig(namespace, member="same"))
        found = await asyncio.wait_for(committed(connection, names), 30)
    heir.stop()
    await second
    assert 0 < half < EFFECTS
    assert len(found) == len(set(found)) == EFFECTS
