"""A command is sent once, however long it waits to be folded, and again if its answer got lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import client as client_module
from dressage.flow import workflow
from dressage.orchestrator.turn.committing import Committer
from dressage.orchestrator.turn.tenure import Tenure
from dressage.orchestrator.turn.turn import Turn

pytestmark = pytest.mark.anyio


@workflow
async def echo(n: int) -> int:
    return n


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 0.1)


async def commands_in(engine: Engine) -> int:
    """Commands that stand in the shard's stream."""
    manager = (await engine.nats()).jsm()
    info = await manager.stream_info(engine.names.shard_stream(0), subjects_filter=engine.names.commands(0))
    return sum((info.state.subjects or {}).values())


@pytest.mark.usefixtures("impatient")
async def test_a_start_that_nobody_folds_is_not_sent_again_and_again(engine: Engine) -> None:
    client = await engine.registered(echo)
    await engine.down()
    starts = [asyncio.create_task(client.start(echo, {"n": n}, run_id=f"r-{n}")) for n in range(5)]
    await until(lambda: _holds(engine, 5), "the starts are stored")
    await asyncio.sleep(1.0)
    assert await commands_in(engine) == 5
    await engine.up()
    for n, handle in enumerate(await asyncio.gather(*starts)):
        assert (await handle.result(5), handle.existing) == (n, False)


async def _holds(engine: Engine, count: int) -> bool:
    return await commands_in(engine) == count


@pytest.mark.usefixtures("impatient")
async def test_a_start_that_waits_long_with_its_owner_is_not_sent_again_and_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await engine.registered(echo)
    gate, sent = asyncio.Event(), 0
    commit, publish = Committer.commit, client._publish  # pyright: ignore[reportPrivateUsage]

    async def held(self: Committer, turn: Turn) -> None:
        await gate.wait()
        await commit(self, turn)

    async def counted(*args: Any) -> Any:
        nonlocal sent
        sent += 1
        return await publish(*args)

    monkeypatch.setattr(Committer, "commit", held)
    monkeypatch.setattr(client, "_publish", counted)
    start = asyncio.create_task(client.start(echo, {"n": 1}, run_id="r"))
    await asyncio.sleep(2.0)
    assert (sent, start.done()) == (1, False)
    gate.set()
    assert await (await start).result(5) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_start_whose_answer_got_lost_is_sent_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await engine.registered(echo)
    lost: list[Any] = []
    tell = Tenure._tell  # pyright: ignore[reportPrivateUsage]

    async def silent(self: Tenure, intake: Any, stages: Any, turn: Turn) -> None:
        if not lost:
            lost.extend(turn.answers)
            turn.answers.clear()
        await tell(self, intake, stages, turn)

    monkeypatch.setattr(Tenure, "_tell", silent)
    handle = await client.start(echo, {"n": 1}, run_id="r", timeout_s=5)
    assert len(lost) == 1
    assert (await handle.result(5), handle.existing) == (1, False)
