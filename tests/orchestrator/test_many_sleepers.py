"""A take-over reads as much beside two thousand sleeping runs as beside ten: a handful of messages, and no state."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.client import Client
from dressage.flow import sleep, workflow
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.orchestrator.turn.tenure import Tenure, TenureConfig
from dressage.protocol.names import Names
from dressage.protocol.shardmap import ShardMap

FEW: Final = 10
MANY: Final = 2_000
DEADLINE_S: Final = 60.0


@workflow
async def nap(seconds: float) -> None:
    await sleep(seconds)


class CountingBroker(JetStreamBroker):
    """Counts what its connections ask the server's JetStream API."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: Counter[str] = Counter()

    async def connect(self, name: str, *, reconnect: bool = False) -> JetStreamConnection:
        connection = await super().connect(name, reconnect=reconnect)
        write: Any = connection.write

        def counted(subject: str, *args: Any, **keywords: Any) -> None:
            if subject.startswith("$JS.API.") and ".MSG.NEXT." not in subject:
                self.asked[".".join(subject.split(".")[2:5])] += 1
            write(subject, *args, **keywords)

        connection.write = counted  # type: ignore[method-assign]
        return connection


async def put_to_sleep(broker: JetStreamBroker, names: Names, count: int) -> None:
    """Returns once all of them are stored, and their commands are gone."""
    orchestrator, task = await run_beside(broker, OrchestratorConfig(names.namespace, shards=1))
    async with Client(broker, namespace=names.namespace) as client:
        await client.register(nap)
        for first in range(0, count, 500):
            numbers = range(first, min(count, first + 500))
            await asyncio.gather(*(client.start(nap, {"seconds": 3600}, run_id=f"nap-{n}") for n in numbers))
    orchestrator.stop()
    await task


async def take_over(broker: CountingBroker, names: Names) -> None:
    """With empty memory, until the shard is served."""
    tenure = Tenure(broker, names, 0, TenureConfig(), EngineMetrics(), ShardMap)
    stop = asyncio.Event()
    serving = asyncio.create_task(tenure.serve(stop))
    await asyncio.wait_for(tenure.serving.wait(), DEADLINE_S)
    stop.set()
    await serving


async def states(connection: Connection, names: Names) -> int:
    found = await connection.stream_state(names.runs_stream(), subjects=names.run_keys(0))
    return len(found.subjects) if found else 0


async def test_a_take_over_reads_no_more_beside_many_sleeping_runs(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    asked: dict[int, Counter[str]] = {}
    for count in (FEW, MANY):
        names = Names(f"{namespace}-{count}")
        await put_to_sleep(broker, names, count)
        assert await states(connection, names) == count
        counting = CountingBroker(broker.url)
        await take_over(counting, names)
        asked[count] = counting.asked
    assert asked[MANY].total() <= asked[FEW].total() + 5, (asked[FEW], asked[MANY])
    assert asked[MANY]["STREAM.MSG.GET"] == asked[FEW]["STREAM.MSG.GET"]
