"""`kill -9` of the orchestrator, of a worker and of the server, ten times each, while hundreds of runs are open.

What must hold is checked from the outside afterwards: by raw reads of the EVENTS stream, and DuckDB by key.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import msgspec
import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.protocol.commands import StartRun
from dressage.protocol.errors import DressageError
from dressage.protocol.events import ReceivedEvent, decode_event
from dressage.protocol.names import Names

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(420)]

KILLS = 10
OPEN_WANTED = 400
OPEN_MIN = 200
ENDED_BETWEEN_KILLS = 100
TERMINAL = ("run-completed", "run-failed", "run-faulted")


@dataclass
class Moment:
    """What stood open when a process was killed."""

    ended: int
    open_runs: int
    unacknowledged: int


class Load:
    """Keeps hundreds of runs open, whatever dies meanwhile."""

    def __init__(self, client: Client, names: Names, shards: int, version: int) -> None:
        self._client = client
        self._names = names
        self._shards = shards
        self._version = version
        self.started = 0
        self.ended = 0

    async def run(self) -> None:
        while True:
            with contextlib.suppress(DressageError):
                self.ended = await self.count_ended()
                missing = OPEN_WANTED - (self.started - self.ended)
                await asyncio.gather(*(self._start() for _ in range(max(0, missing))))
            await asyncio.sleep(0.02)

    async def _start(self) -> None:
        n, self.started = self.started, self.started + 1
        command = StartRun("killed", self._version, msgspec.Raw(b'{"n":%d}' % n), f"start-{n}")
        while True:
            with contextlib.suppress(DressageError):
                await self._client.send(f"run-{n}", command)
                return

    async def count_ended(self) -> int:
        return sum(
            [
                await self._count(self._names.events_stream, f"{self._names.root}.events.*.*.{kind}.*")
                for kind in TERMINAL
            ]
        )

    async def _count(self, stream: str, subjects: str) -> int:
        state = await self._client.connection.stream_state(stream, subjects=subjects)
        return sum(state.subjects.values()) if state else 0

    async def moment(self, ended_before: int) -> Moment:
        """Waits until work has gone on and enough is open, then tells how much; called right before the kill."""
        while True:
            with contextlib.suppress(DressageError):
                ended = await self.count_ended()
                if ended - ended_before < ENDED_BETWEEN_KILLS:
                    await asyncio.sleep(0.01)
                    continue
                commands = [
                    await self._count(self._names.shard_stream(shard), self._names.commands(shard))
                    for shard in range(self._shards)
                ]
                moment = Moment(ended, self.started - ended, sum(commands))
                if moment.open_runs >= OPEN_MIN and moment.unacknowledged > 0:
                    return moment
            await asyncio.sleep(0.01)


async def read_events(connection: Connection, names: Names) -> dict[str, list[ReceivedEvent]]:
    """Every output event by run, through raw stream reads, a few ranges at a time."""
    state = await connection.stream_state(names.events_stream)
    assert state is not None

    async def read(first: int, last: int) -> list[ReceivedEvent]:
        found: list[ReceivedEvent] = []
        while first <= last:
            message = await connection.next_message(names.events_stream, first, names.all_events())
            if message is None or message.seq > last:
                break
            found.append(decode_event(message.data))
            first = message.seq + 1
        return found

    step = -(-state.last_seq // 16)
    parts = await asyncio.gather(
        *(read(first, first + step - 1) for first in range(1, state.last_seq + 1, step))
    )
    runs: dict[str, list[ReceivedEvent]] = defaultdict(list)
    for event in (event for part in parts for event in part):
        runs[event.subject].append(event)
    return runs


def check_runs(runs: dict[str, list[ReceivedEvent]], started: int, app: ModuleType) -> None:
    """Every run is there, finished as it must, its events numbered without gap or double."""
    assert set(runs) == {f"run-{n}" for n in range(started)}
    for n in range(started):
        events = runs[f"run-{n}"]
        assert [event.index for event in events] == list(range(len(events))), f"run-{n}"
        ends = [event for event in events if event.kind in TERMINAL]
        assert len(ends) == 1, f"run-{n}"
        assert ends[0] is events[-1], f"run-{n}"
        assert ends[0].kind == ("run-completed" if app.expected(n) is not None else "run-failed"), f"run-{n}"
        if ends[0].kind == "run-completed":
            assert msgspec.json.decode(ends[0].data)["output"] == app.expected(n), f"run-{n}"


def read_duckdb(path: Path) -> set[tuple[str, int, str]]:
    with duckdb.connect(str(path), read_only=True) as database:
        return set(database.execute("select run_id, idx, kind from events").fetchall())


@pytest.mark.parametrize("victim", ["orchestrator", "worker", "server"])
@pytest.mark.parametrize("shards", [1, 3])
async def test_nothing_is_lost_or_doubled_by_kills(
    victim: str, shards: int, tmp_path: Path, make_process: Callable[..., Any], kill_app: ModuleType
) -> None:
    names = Names()
    folder = tmp_path / "nats"
    server = EmbeddedServer(folder)
    await server.start()
    database = tmp_path / "events.duckdb"
    orchestrator = make_process("orchestrator", "--server", server.url, "--shards", str(shards))
    worker = make_process("worker", "kill_app:app", "--server", server.url)
    analytics = make_process("analytics", "--server", server.url, "--db", str(database))
    processes = {"orchestrator": orchestrator, "worker": worker, "analytics": analytics}
    try:
        await orchestrator.start()
        client = await connected(server.url)
        version = (await client.register(kill_app.killed)).version
        await worker.start()
        await analytics.start()
        load = Load(client, names, shards, version)
        loading = asyncio.create_task(load.run())
        ended = 0
        for number in range(1, KILLS + 1):
            moment = await asyncio.wait_for(load.moment(ended), 60)
            ended = moment.ended
            if victim == "server":
                server.kill()
                await server.wait()
                await server.start()
            else:
                await processes[victim].end(signal.SIGKILL)
                await processes[victim].start()
            print(
                f"kill {number} of {victim}: {moment.open_runs} runs open, "
                f"{moment.unacknowledged} commands unacknowledged"
            )
            assert moment.open_runs >= OPEN_MIN
            assert moment.unacknowledged > 0
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        runs = await asyncio.wait_for(all_ended(client, names, load.started), 120)
        check_runs(runs, load.started, kill_app)
        keys = {(run, event.index, event.kind) for run, events in runs.items() for event in events}
        await asyncio.wait_for(ingested(client, names, analytics, database, keys), 60)
        print(f"{load.started} runs, {len(keys)} events, all accounted for")
        await client.close()
    except BaseException:
        for name, process in processes.items():
            print(f"---- log of {name}:\n{process.log()[-3000:]}")
        raise
    finally:
        for process in processes.values():
            if process.alive:
                await process.end(signal.SIGKILL)
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def connected(url: str) -> Client:
    """A client, once the orchestrator has made the namespace."""
    while True:
        client = Client(JetStreamBroker(url))
        try:
            await client.connect()
        except DressageError:
            await asyncio.sleep(0.1)
        else:
            return client


async def all_ended(client: Client, names: Names, started: int) -> dict[str, list[ReceivedEvent]]:
    load = Load(client, names, 1, 0)
    while True:
        with contextlib.suppress(DressageError):
            if await load.count_ended() >= started:
                return await read_events(client.connection, names)
        await asyncio.sleep(0.1)


async def ingested(
    client: Client, names: Names, analytics: Any, database: Path, keys: set[tuple[str, int, str]]
) -> None:
    """Analytics has come to the end of the stream, and its file holds exactly these events."""
    state = await client.connection.stream_state(names.events_stream)
    assert state is not None
    while True:
        await asyncio.sleep(0.3)
        await analytics.end(signal.SIGTERM)
        stored = read_duckdb(database)
        if len(stored) >= len(keys):
            assert stored == keys
            return
        await analytics.start()
