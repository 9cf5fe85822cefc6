"""How many runs may be open: exactly the limit, and what was refused once is refused for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest

from dressage.brokers.interface import Broker, Connection, Message, Stored
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import (
    OPEN_RUNS_MAX,
    Namespace,
    limit_open_runs,
    provision,
    read_namespace,
)
from dressage.client import Client
from dressage.flow import sleep, workflow
from dressage.orchestrator.growth import grow
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.orchestrator.turn.records import Cursor, decode_cursor
from dressage.orchestrator.turn.starting import REFUSED_KEPT_MAX, Starts, share_of
from dressage.orchestrator.turn.tenure import Tenure, TenureConfig
from dressage.protocol.errors import BadInput, DressageError, NotFound, OutcomeUnknown, Refused
from dressage.protocol.names import Names, run_token, shard_of
from dressage.protocol.shardmap import ShardMap

DEADLINE_S: Final = 20.0


@workflow
async def nap(seconds: float) -> None:
    await sleep(seconds)


@pytest.fixture
def names(namespace: str) -> Names:
    return Names(namespace)


@asynccontextmanager
async def owned(
    broker: Broker, names: Names, share: int | None, *, crash: bool = False
) -> AsyncIterator[Tenure]:
    """One tenure of shard 0 that stores no states by itself, so that a crash leaves everything to be folded again."""
    config = TenureConfig(states_linger_s=3600.0, drain_s=0.0)
    tenure = Tenure(broker, names, 0, config, EngineMetrics(), ShardMap, lambda: share)
    stop = asyncio.Event()
    serving = asyncio.create_task(tenure.serve(stop))
    await asyncio.wait_for(tenure.serving.wait(), DEADLINE_S)
    yield tenure
    if crash:
        serving.cancel()
    stop.set()
    await asyncio.gather(serving, return_exceptions=True)


async def cursor_of(connection: Connection, names: Names) -> Cursor:
    found = await connection.last_message(names.shard_stream(0), names.cursor(0))
    assert found is not None
    return decode_cursor(found.data)


async def commands_in_stream(connection: Connection, names: Names) -> int:
    state = await connection.stream_state(names.shard_stream(0), names.commands(0))
    assert state is not None
    return sum(state.subjects.values())


async def started(client: Client, run_id: str) -> str:
    """The code of the refusal; empty if the run was let in."""
    refused: Refused | None = None
    try:
        await client.start(nap, {"seconds": 3600}, run_id=run_id, timeout_s=DEADLINE_S)
    except Refused as error:
        refused = error
    if refused is None:
        return ""
    assert refused.retryable
    assert "dressage shards limit" in refused.message
    assert refused.message.endswith("(limit open-runs)")
    return refused.code


@pytest.mark.limit("brokers.provision.OPEN_RUNS_MAX")
async def test_as_many_runs_as_the_limit_says(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    await provision(connection, names, shards=1, replicas=1)
    await limit_open_runs(connection, names, 3)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(names.namespace))
    async with Client(broker, namespace=names.namespace) as client:
        await client.register(nap)
        assert [await started(client, f"nap-{n}") for n in range(3)] == ["", "", ""]
        assert await started(client, "nap-3") == "OPEN_RUNS"
        with pytest.raises(NotFound):
            await client.get("nap-3")
        assert await started(client, "nap-0") == "", "a run that exists is no new one"
        await client.cancel("nap-1")
        assert await started(client, "nap-3") == ""
        assert await started(client, "nap-4") == "OPEN_RUNS"
        await limit_open_runs(connection, names, 4)
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while await started(client, "nap-4"):
            assert asyncio.get_running_loop().time() < deadline, "the new limit is followed"
        await limit_open_runs(connection, names, 0)
        while await started(client, "nap-5"):
            assert asyncio.get_running_loop().time() < deadline, "any number is allowed again"
    orchestrator.stop()
    await task


async def test_a_refused_start_is_refused_again_by_who_folds_it_again(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    """By then fewer runs may be open, or the limit may be another: the second time it would be let in."""
    await provision(connection, names, shards=1, replicas=1)
    async with Client(broker, namespace=names.namespace) as client:
        async with owned(broker, names, 1, crash=True):
            await client.register(nap)
            assert await started(client, "first") == ""
            assert await started(client, "second") == "OPEN_RUNS"
            await client.cancel("first")
            assert await started(client, "third") == ""
        (refused,) = (await cursor_of(connection, names)).refused
        async with owned(broker, names, None, crash=True):
            with pytest.raises(NotFound):
                await client.get("second")
            assert (await client.get("first")).status == "cancelled"
            assert (await client.get("third")).status == "running"
            assert await started(client, "second") == "", "another start is another decision"
        assert (await cursor_of(connection, names)).refused == (refused,)


async def test_an_accepted_start_is_accepted_again_by_who_folds_it_again(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    await provision(connection, names, shards=1, replicas=1)
    async with Client(broker, namespace=names.namespace) as client:
        async with owned(broker, names, None, crash=True):
            await client.register(nap)
            for n in range(3):
                assert await started(client, f"nap-{n}") == ""
        async with owned(broker, names, 1):
            for n in range(3):
                assert (await client.get(f"nap-{n}")).status == "running"
            assert await started(client, "nap-3") == "OPEN_RUNS"


async def test_starts_that_wait_for_a_new_shard_meet_its_limit(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    await provision(connection, names, shards=1, replicas=1)
    async with Client(broker, namespace=names.namespace) as client:
        await client.register(nap)
        waiting = [asyncio.create_task(started(client, f"early-{n}")) for n in range(4)]
        async with asyncio.timeout(DEADLINE_S):
            while await commands_in_stream(connection, names) < len(waiting):
                await asyncio.sleep(0.05)
        async with owned(broker, names, 1):
            codes = await asyncio.gather(*waiting)
    assert sorted(codes) == ["", "OPEN_RUNS", "OPEN_RUNS", "OPEN_RUNS"]


class Forgetful:
    """A broker whose cursor writes get lost once `losing` is set: what was sent before them is stored."""

    def __init__(self, inner: JetStreamBroker) -> None:
        self._inner = inner
        self.losing = False

    async def connect(self, name: str, *, reconnect: bool = False) -> Connection:
        connection = await self._inner.connect(name, reconnect=reconnect)
        if name.endswith("-turns"):
            publish_batch = connection.publish_batch

            async def losing(messages: Sequence[Message]) -> Stored:
                if self.losing:
                    raise OutcomeUnknown("the write got lost")
                return await publish_batch(messages)

            connection.publish_batch = losing  # type: ignore[method-assign]
        return connection


async def test_a_start_that_shows_already_is_let_in_whatever_the_limit_has_become(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    """Its timer is stored, its cursor is not, and the limit is lowered: the next owner decides by the old one."""
    await provision(connection, names, shards=1, replicas=1)
    forgetful = Forgetful(broker)
    async with Client(broker, namespace=names.namespace) as client:
        await client.register(nap)
        async with owned(forgetful, names, 5) as tenure:
            assert await started(client, "first") == ""
            forgetful.losing = True
            starting = asyncio.create_task(started(client, "second"))
            async with asyncio.timeout(DEADLINE_S):
                while tenure.serving.is_set():
                    await asyncio.sleep(0.01)
        state = await connection.stream_state(names.shard_stream(0), names.timer(0, run_token("second"), "*"))
        assert state is not None
        assert len(state.subjects) == 1
        async with owned(broker, names, 1):
            assert await starting == ""
            assert await started(client, "third") == "OPEN_RUNS"
            assert (await client.get("second")).status == "running"
    assert (await cursor_of(connection, names)).share == 1


async def test_the_cursor_forgets_refusals_whose_commands_are_gone(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    await provision(connection, names, shards=1, replicas=1)
    await limit_open_runs(connection, names, 1)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(names.namespace, states_linger_s=0.05))
    async with Client(broker, namespace=names.namespace) as client:
        await client.register(nap)
        assert await started(client, "first") == ""
        await asyncio.gather(*(started(client, f"refused-{n}") for n in range(50)))
        assert len((await cursor_of(connection, names)).refused) == 50
        async with asyncio.timeout(DEADLINE_S):
            while await commands_in_stream(connection, names):
                await asyncio.sleep(0.05)
        assert await started(client, "another") == "OPEN_RUNS"
        assert len((await cursor_of(connection, names)).refused) == 1
    orchestrator.stop()
    await task


async def test_the_limit_of_a_namespace_is_shared_by_its_shards(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    await provision(connection, names, shards=3, replicas=1)
    await limit_open_runs(connection, names, 7)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(names.namespace))
    async with Client(broker, namespace=names.namespace) as client:
        await client.register(nap)
        codes: dict[int, list[str]] = {0: [], 1: [], 2: []}
        for n in range(40):
            codes[shard_of(f"nap-{n}", 3)].append(await started(client, f"nap-{n}"))
    assert all(each[:3] == ["", "", ""] and set(each[3:]) == {"OPEN_RUNS"} for each in codes.values())
    orchestrator.stop()
    await task


async def test_a_growth_keeps_the_limit(
    broker: JetStreamBroker, connection: Connection, names: Names
) -> None:
    await provision(connection, names, shards=1, replicas=1)
    await limit_open_runs(connection, names, 7)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(names.namespace))
    await grow(connection, names, 2)
    namespace = await read_namespace(connection, names)
    assert namespace is not None
    assert (namespace.shards, namespace.open_runs_max) == (2, 7)
    orchestrator.stop()
    await task


@pytest.mark.limit("brokers.provision.OPEN_RUNS_MAX")
async def test_a_limit_that_is_none_is_refused(connection: Connection, names: Names) -> None:
    with pytest.raises(DressageError) as unknown:
        await limit_open_runs(connection, names, 5)
    assert unknown.value.code == "NAMESPACE_UNKNOWN"
    for most in (-1, OPEN_RUNS_MAX + 1):
        with pytest.raises(BadInput, match=rf"0 to {OPEN_RUNS_MAX} \(limit open-runs\)$"):
            await limit_open_runs(connection, names, most)
    await provision(connection, names, shards=1, replicas=1)
    assert (await limit_open_runs(connection, names, OPEN_RUNS_MAX)).open_runs_max == OPEN_RUNS_MAX


def test_the_share_of_a_shard_is_rounded_up() -> None:
    assert share_of(Namespace(3, open_runs_max=7)) == 3
    assert share_of(Namespace(3, open_runs_max=6)) == 2
    assert share_of(Namespace(3, open_runs_max=1)) == 1
    assert share_of(Namespace(3)) is None
    assert share_of(None) is None


def test_where_nobody_counted_nobody_is_refused() -> None:
    assert Starts(0, 0, (), None, 1, lambda: 1, lambda: 0).refusal(5) == ""


@pytest.mark.limit("orchestrator.turn.starting.REFUSED_KEPT_MAX")
def test_so_many_refusals_are_held_and_no_more() -> None:
    removed = 0
    starts = Starts(0, 0, (), 1, 1, lambda: 1, lambda: removed)
    for seq in range(1, REFUSED_KEPT_MAX + 1):
        assert not starts.full
        assert starts.refusal(seq)
    assert starts.full
    removed = 10
    assert not starts.full
    assert starts.kept[0] == 11
