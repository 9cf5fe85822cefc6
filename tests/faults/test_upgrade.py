"""Today's engine on the state that an earlier commit left when it was killed: everything goes on, and ends right.

The states are kept in tests/fixtures, whose README says how they were made.
"""

from __future__ import annotations

import importlib.util
import sys
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import pytest
from tests.faults.outside import Outside, by_run, read_stream  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection
from dressage.client import Client
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.names import Names, run_token, shard_of

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(180)]

FIXTURES: Final = Path(__file__).resolve().parents[1] / "fixtures"
STATES: Final = sorted(FIXTURES.glob("state-*.tar.xz"))
PATIENCE_S: Final = 90.0


class Run(msgspec.Struct):
    run_id: str
    workflow: str
    version: int
    n: int
    events: int
    stood: str


class Manifest(msgspec.Struct):
    commit: str
    server: str
    shards: int
    commands: int
    stood: dict[str, int]
    runs: list[Run]


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("upgrade_app", FIXTURES / "upgrade_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["upgrade_app"] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def upgraded(packed: Path, folder: Path) -> AsyncIterator[tuple[Manifest, Client]]:
    """Today's orchestrator and workers on the unpacked state."""
    data = folder / "data"
    with tarfile.open(packed) as archive:
        if hasattr(tarfile, "data_filter"):  # Debian 12's Python is older than filters
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(data)
    manifest = msgspec.json.decode((data / "manifest.json").read_bytes(), type=Manifest)
    async with EmbeddedServer(data) as server:
        with Family(folder / "logs") as family:
            at = ("--server", server.url)
            family.dressage("orchestrator", "-v", "orchestrator", *at).start()
            for app in ("app", "late"):
                family.dressage(app, "-v", "worker", f"upgrade_app:{app}", *at, cwd=FIXTURES).start()
            try:
                async with Client(server.url) as client:
                    yield manifest, client
            except BaseException:
                print(family.logs())
                raise


@pytest.mark.parametrize("packed", STATES, ids=lambda path: path.name.removesuffix(".tar.xz"))
async def test_every_run_of_an_earlier_commit_goes_on_and_ends_right(
    packed: Path, tmp_path: Path, app: ModuleType
) -> None:
    async with upgraded(packed, tmp_path) as (manifest, client):
        await _answer(client, app, manifest.runs)
        ended = {run.run_id: run for run in manifest.runs if _expected(app, run) != app.SLEEPING}
        for run in ended.values():
            view = await client.wait(run.run_id, timeout_s=PATIENCE_S)
            expected = _expected(app, run)
            assert view.status == ("failed" if expected == app.FAILED else "completed"), run
            assert expected == app.FAILED or msgspec.json.encode(view.output) == b"%d" % expected, run
        asleep = [run for run in manifest.runs if run.run_id not in ended]
        for run in asleep:
            assert (await client.get(run.run_id)).status == "running", run
        await _new_runs(client, app)
        await _check_streams(client, manifest, asleep)
        print(f"from {manifest.commit} on {manifest.server}: {manifest.stood}, {manifest.commands} commands")


async def _answer(client: Client, app: ModuleType, runs: Sequence[Run]) -> None:
    """The event that came before the upgrade comes again, and another one comes."""
    for run in runs:
        if run.workflow == "expecting":
            again = await client.post(run.run_id, "answered", app.FIRST, event_id="answered")
            assert again.existing, run
            await client.post(run.run_id, "answered", app.SECOND, event_id="another")


def _expected(app: ModuleType, run: Run) -> Any:
    return app.expected(run.workflow, run.version, run.n)


async def _new_runs(client: Client, app: ModuleType) -> None:
    """Stored definitions take another version, and still serve new runs of theirs."""
    assert (await client.register(app.order_v1)).version > 1
    for version in (1, 2):
        handle = await client.start("order", {"n": 5}, run_id=f"new-{version}", version=version)
        assert await handle.result(PATIENCE_S) == app.expected("order", version, 5)


async def _check_streams(client: Client, manifest: Manifest, asleep: Sequence[Run]) -> None:
    names, connection = client.names, client.connection
    events = by_run(await read_stream(connection, names.events_stream, names.all_events()))
    for run in manifest.runs:
        _check_events(run, events.get(run.run_id, []), (await client.get(run.run_id)).events)
    outside = Outside(connection, names, manifest.shards, lambda _: None)
    timers = await _timers(connection, names, asleep, manifest.shards)
    left = await outside.left(timers, PATIENCE_S)
    assert left == []


def _check_events(run: Run, events: Sequence[ReceivedEvent], count: int) -> None:
    """The server has removed the oldest events of a state that is older than what EVENTS keeps, and no others."""
    indexes = [event.index for event in events]
    assert indexes == list(range(count - len(indexes), count)), run
    assert len(indexes) >= count - run.events, run


async def _timers(
    connection: Connection, names: Names, asleep: Sequence[Run], shards: int
) -> Mapping[str, int]:
    """The timer of each sleeping run, by its subject; there is one of each."""
    found: dict[str, int] = {}
    for run in asleep:
        shard = shard_of(run.run_id, shards)
        pattern = names.timer(shard, run_token(run.run_id), "*")
        state = await connection.stream_state(names.shard_stream(shard), subjects=pattern)
        assert state is not None
        assert list(state.subjects.values()) == [1], run
        found.update(state.subjects)
    return found
