"""What an orchestrator tells Prometheus, by shard, workflow and task."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]
from tests.acceptance.test_bad_commands import ids_of_all_shards  # pyright: ignore[reportMissingImports]

from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.client import RunFailed, RunHandle
from dressage.flow import App, WorkflowFailure, workflow
from dressage.protocol.errors import BrokerError
from dressage.protocol.names import shard_of

pytestmark = pytest.mark.anyio

Until = Callable[..., Awaitable[None]]

app = App("measured")
held = asyncio.Event()


class Odd(WorkflowFailure): ...


@app.task
async def halve(n: int) -> int:
    if n % 2:
        raise Odd(str(n))
    await asyncio.sleep(0.05)
    return n // 2


@workflow(name="measured")
async def measured(n: int) -> int:
    return await halve(n)


async def test_attempts_wait_until_there_is_a_worker_and_are_counted_by_task(
    scraped: Scraped, until: Until
) -> None:
    engine = scraped.engine
    client = await engine.registered(measured)
    ids = ids_of_all_shards(engine.shards)
    for number, run_id in enumerate(ids):
        await client.start(measured, {"n": 2 if number == 0 else 4}, run_id=run_id)
    odd = await client.start(measured, {"n": 3})

    def queued(state: str) -> float:
        return sum(
            scraped.value(f'dressage_queue_{state}{{queue="measured",shard="{shard}"}}')
            for shard in range(engine.shards)
        )

    await until(lambda: queued("waiting") == len(ids) + 1, "every attempt waits for a worker", 30)
    assert queued("taken") == 0
    await engine.worker(app)
    for run_id in ids:
        assert await client.handle(run_id).result(10) in (1, 2)
    with pytest.raises(RunFailed):
        await odd.result(10)
    await until(lambda: queued("waiting") + queued("taken") == 0, "nothing waits", 30)
    value = scraped.value
    assert value('dressage_tasks_total{outcome="completed",task="halve"}') == len(ids)
    assert value('dressage_tasks_total{outcome="failed",task="halve"}') == 1
    assert value('dressage_task_wait_seconds_count{task="halve"}') == len(ids)
    assert value('dressage_runs_total{status="completed",workflow="measured"}') == len(ids)
    assert value('dressage_runs_total{status="failed",workflow="measured"}') == 1
    assert value('dressage_run_seconds_count{status="completed",workflow="measured"}') == len(ids)
    # They were waited for until they were seen in the queue, which is looked at each second, and no run was faster.
    assert value('dressage_run_seconds_sum{status="completed",workflow="measured"}') > len(ids) * 0.05
    for shard in range(engine.shards):
        turns = value(f'dressage_turn_seconds_count{{shard="{shard}"}}')
        # A start and a result at least, and what registering is takes no turn.
        assert turns >= 2
        assert value(f'dressage_turn_commands_count{{shard="{shard}"}}') == turns
        assert value(f'dressage_turn_seconds_sum{{shard="{shard}"}}') > 0
    commands = sum(value(f'dressage_turn_commands_sum{{shard="{shard}"}}') for shard in range(engine.shards))
    assert commands == value('dressage_commands_total{outcome="accepted"}') == 2 * (len(ids) + 1)

    def behind() -> float:
        return sum(
            value(f'dressage_shard_{what}{{shard="{shard}"}}')
            for what in ("backlog", "lag_seconds", "events_behind", "uncovered")
            for shard in range(engine.shards)
        )

    await until(lambda: behind() == 0, "nothing is behind any more", 30)


@app.task
async def follow(n: int) -> int:
    if n == 0:
        await held.wait()
    return n


@workflow(name="followed")
async def followed(n: int) -> int:
    return await follow(n)


async def test_what_is_done_with_behind_an_attempt_that_takes_long_waits_for_nobody(
    scraped: Scraped, until: Until
) -> None:
    engine = scraped.engine
    client = await engine.registered(followed)
    await engine.worker(app, concurrency=2)
    numbers = itertools.count()
    names = (name for name in (f"r{n}" for n in numbers) if shard_of(name, engine.shards) == 0)

    async def start(n: int) -> RunHandle[int]:
        return await client.start(followed, {"n": n}, run_id=next(names))

    def queued() -> tuple[float, float]:
        labels = '{queue="measured",shard="0"}'
        return scraped.value(f"dressage_queue_waiting{labels}"), scraped.value(
            f"dressage_queue_taken{labels}"
        )

    held.clear()
    try:
        slow = [await start(0)]
        for n in range(1, 8):
            assert await (await start(n)).result(10) == n
        await until(lambda: queued() == (0, 1), "only the slow one is there", 30)
        slow.append(await start(0))
        behind = [await start(n) for n in range(1, 4)]
        await until(lambda: queued() == (3, 2), "three wait behind two that take long", 30)
    finally:
        held.set()
    assert [await run.result(10) for run in (*slow, *behind)] == [0, 0, 1, 2, 3]
    await until(lambda: queued() == (0, 0), "nothing is there", 30)


async def test_who_no_longer_serves_a_shard_tells_of_no_queue_of_it(scraped: Scraped, until: Until) -> None:
    engine = scraped.engine
    client = await engine.registered(measured)
    for run_id in ids_of_all_shards(engine.shards):
        await client.start(measured, {"n": 2}, run_id=run_id)

    def waiting(shard: int) -> float:
        return scraped.value(f'dressage_queue_waiting{{queue="measured",shard="{shard}"}}')

    def owned(shard: int) -> float:
        return scraped.value(f'dressage_shard_owned{{shard="{shard}"}}')

    shards = range(engine.shards)
    await until(lambda: all(waiting(shard) == 1 for shard in shards), "an attempt waits on each shard", 30)
    await engine.up()
    await until(
        lambda: engine.shards == 1 or sum(owned(shard) for shard in shards) < engine.shards,
        "another process serves a part of them",
        30,
    )
    await until(
        lambda: all(waiting(shard) == owned(shard) for shard in shards), "it tells of its own shards only", 30
    )


async def test_tasks_are_removed_although_those_that_wait_cannot_be_counted(
    engine: Engine, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    async def refused(_self: object, _stream: str, _subject: str, seq: int) -> int:
        asked.append(seq)
        raise BrokerError("there may be no more consumers")

    monkeypatch.setattr(JetStreamConnection, "count_behind", refused)
    client = await engine.registered(followed)
    held.clear()
    runs = [await client.start(followed, {"n": n}, run_id=f"r{n}") for n in (1, 2, 0, 3)]
    try:
        await engine.worker(app, concurrency=1)
        await until(lambda: bool(asked), "they are to be counted", 30)

        async def two_are_gone() -> bool:
            state = await client.connection.stream_state(engine.names.shard_stream(0), engine.names.tasks(0))
            return state is not None and sum(state.subjects.values()) == 2

        await until(two_are_gone, "what is done with is removed", 30)
    finally:
        held.set()
    assert [await run.result(10) for run in runs] == [1, 2, 0, 3]
    assert "removing what is done with" not in caplog.text
