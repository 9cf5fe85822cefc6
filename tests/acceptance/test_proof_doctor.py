"""`dressage doctor` on a real cluster: what it counts is what the servers say, and it warns before exiting with 0."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nats
import pytest
from tests.faults.cluster import Servers  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import App, workflow

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

SHARDS: Final = 2

app = App("doctored")


@app.task
async def do() -> None:
    return


@workflow
async def done() -> None:
    await do()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Family(tmp_path) as family:
        servers = Servers(family)
        servers.start()
        yield servers


@pytest.mark.slow
async def test_it_counts_the_raft_groups_of_a_cluster_and_warns_of_too_many(
    servers: Servers, start: Start, until: Callable[..., Awaitable[None]]
) -> None:
    async def doctor(*options: str) -> tuple[int, dict[str, Any]]:
        program = start("doctor", "--server", servers.url, "--json", *options)
        code = await asyncio.to_thread(program.ended)
        return code, json.loads(program.said)

    async def formed() -> bool:
        """It has a leader: before that, all that can be said is that it does not answer."""
        return {each["code"] for each in (await doctor())[1]["findings"]} == {"NAMESPACE_UNKNOWN"}

    await until(formed, "the cluster has formed", timeout_s=40)
    orchestrator = start(
        "-v", "orchestrator", "--server", servers.url, "--shards", str(SHARDS), "--replicas", "3"
    )

    async def well() -> bool:
        assert orchestrator.process.poll() is None, orchestrator.said
        return (await doctor())[0] == 0

    await until(well, "everything is served", timeout_s=40)
    async with Client(servers.url) as client:
        await client.register(done)
    _, found = await doctor()
    counts = found["counts"]
    connection = await nats.connect(servers.url.split(","))
    try:
        stream = connection.jetstream()
        streams = [
            each for each in await stream.streams_info() if "dressage_default" in str(each.config.name)
        ]
        consumers = [
            consumer for each in streams for consumer in await stream.consumers_info(str(each.config.name))
        ]
    finally:
        await connection.close()
    assert {each.config.num_replicas for each in streams} == {3}
    # A consumer of which nothing is said has as many replicas as its stream.
    replicated = [each for each in consumers if each.config.num_replicas != 1]
    assert len(replicated) == SHARDS, "that of the queue, in each shard"
    assert counts["streams"] == len(streams)
    assert counts["consumers"] == len(consumers) > 0
    assert counts["raft_groups"] == len(streams) + len(replicated)
    assert "RAFT_GROUPS_MANY" not in {each["code"] for each in found["findings"]}
    most = counts["account_raft_groups"]
    _, found = await doctor("--raft-groups-max", str(most))
    assert "RAFT_GROUPS_MANY" not in {each["code"] for each in found["findings"]}
    code, found = await doctor("--raft-groups-max", str(most - 1))
    levels = {each["code"]: each["level"] for each in found["findings"]}
    assert levels["RAFT_GROUPS_MANY"] == "warning"
    assert code == 0, "a warning is no failure"
