"""`kill -9` of the orchestrator, of a worker and of the server, ten times each, while hundreds of runs are open.

What must hold is checked from the outside afterwards: by raw reads of the streams, and DuckDB by key.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pytest
from tests.faults import kill_app  # pyright: ignore[reportMissingImports]
from tests.faults.load import Demand, Load, Moment, hits  # pyright: ignore[reportMissingImports]
from tests.faults.outside import Outside, Raw, keys_of  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family, Process, connected  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.protocol.names import Names

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(420)]

KILLS = 10
KILLS_ON_ONE_SHARD = 10 if os.environ.get("FAULTS_LONG") else 4
"""The many are for three shards, where a kill meets more states of the engine at a time."""

OPEN_WANTED = 400
OPEN_MIN = 200
ENDED_BETWEEN_KILLS = 100
HERE = Path(__file__).parent


@pytest.mark.parametrize("victim", ["orchestrator", "worker", "server"])
@pytest.mark.parametrize("shards", [1, 3])
async def test_nothing_is_lost_or_doubled_by_kills(victim: str, shards: int, tmp_path: Path) -> None:
    kills = KILLS if shards > 1 else KILLS_ON_ONE_SHARD
    folder = tmp_path / "nats"
    database = tmp_path / "events.duckdb"
    server = EmbeddedServer(folder)
    await server.start()
    try:
        with Family(tmp_path / "logs") as family:
            at = ("--server", server.url)
            orchestrator = family.dressage("orchestrator", "orchestrator", *at, "--shards", str(shards))
            worker = family.dressage("worker", "worker", "kill_app:app", *at, cwd=HERE)
            analytics = family.dressage("analytics", "analytics", *at, "--db", str(database))
            try:
                orchestrator.start()
                client = await connected(server.url)
                load = Load(client, shards, await client.register(kill_app.killed), Demand(OPEN_WANTED))
                worker.start()
                analytics.start()
                await load.begin()
                moments = [await kill(number, victim, load, server, family) for number in range(1, kills + 1)]
                hits(moments, OPEN_MIN)
                started = await load.end()
                outside = Outside(client.connection, Names(), shards, kill_app.expected)
                found = await outside.check(started, settle_s=120)
                found.require()
                await asyncio.wait_for(ingested(analytics, database, found.events), 60)
                print(f"{len(started)} runs, {len(found.events)} events, all accounted for")
                await client.close()
            except BaseException:
                print(family.logs())
                raise
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def kill(number: int, victim: str, load: Load, server: EmbeddedServer, family: Family) -> Moment:
    """Waits until work has gone on and enough is open, then kills, and starts again at once."""
    moment = await load.loaded(OPEN_MIN, number * ENDED_BETWEEN_KILLS)
    if victim == "server":
        server.kill()
        await server.wait()
        await server.start()
    else:
        await family.processes[victim].kill()
        family.processes[victim].start()
    print(f"kill {number} of {victim}: {moment}")
    return moment


async def ingested(analytics: Process, database: Path, events: Iterable[Raw]) -> None:
    """Analytics comes to the end of the stream, and its file holds exactly these events."""
    keys = keys_of(events)
    while True:
        await asyncio.sleep(0.3)
        await analytics.end(signal.SIGTERM)
        stored = read_duckdb(database)
        if len(stored) >= len(keys):
            assert stored == keys
            return
        analytics.start()


def read_duckdb(path: Path) -> set[tuple[str, int, str]]:
    with duckdb.connect(str(path), read_only=True) as database:
        return set(database.execute("select run_id, idx, kind from events").fetchall())
