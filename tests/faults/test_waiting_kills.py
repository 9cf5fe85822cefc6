"""`kill -9` of the owner between a wait and what it waits for, while the losers of races tidy up, and while it has
published what is not removed yet."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.faults import waiting_app  # pyright: ignore[reportMissingImports]
from tests.faults.outside import Outside  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family, connected  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import StreamConfig
from dressage.client import Client
from dressage.flow import Workflow
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(240)]

RUNS = 240
LANES = 24
KILLS = 6
HERE = Path(__file__).parent


@pytest.mark.parametrize("shards", [1, 3])
async def test_no_event_is_lost_or_counts_twice_and_none_is_published_twice(
    shards: int, tmp_path: Path
) -> None:
    async def published(client: Client) -> None:
        assert await _told(client) == {n: waiting_app.told(n) for n in range(RUNS)}

    await _under_kills(shards, tmp_path, waiting_app.waiting, _all_posted, waiting_app.expected, published)


@pytest.mark.parametrize("shards", [1, 3])
async def test_no_event_of_a_key_is_lost_and_none_counts_twice(shards: int, tmp_path: Path) -> None:
    """Also one that comes before its run exists. Of half of the runs the events come first."""
    await _under_kills(
        shards, tmp_path, waiting_app.correlated, _all_correlated, waiting_app.expected_correlated
    )


async def _under_kills(
    shards: int,
    tmp_path: Path,
    workflow: Workflow[..., int],
    post: Callable[[Client], Awaitable[dict[str, int]]],
    expected: Callable[[int], int],
    also: Callable[[Client], Awaitable[None]] | None = None,
) -> None:
    folder = tmp_path / "nats"
    async with EmbeddedServer(folder) as server:
        with Family(tmp_path / "logs") as family:
            at = ("--server", server.url)
            orchestrator = family.dressage("orchestrator", "orchestrator", *at, "--shards", str(shards))
            worker = family.dressage("worker", "worker", "waiting_app:app", *at, cwd=HERE)
            try:
                orchestrator.start()
                client = await connected(server.url)
                await client.connection.ensure_stream(StreamConfig("waiting", ["waiting.>"]))
                await client.register(workflow)
                worker.start()
                posting = asyncio.ensure_future(post(client))
                for _ in range(KILLS):
                    await asyncio.sleep(0.7)
                    await orchestrator.kill()
                    orchestrator.start()
                assert not posting.done(), "the owner was killed when everything was over"
                started = await posting
                outside = Outside(client.connection, Names(), shards, expected)
                (await outside.check(started, settle_s=120)).require()
                if also is not None:
                    await also(client)
                await client.close()
            except BaseException:
                print(family.logs())
                raise
    shutil.rmtree(folder, ignore_errors=True)


async def _all_posted(client: Client) -> dict[str, int]:
    """Starts every run, and posts each of its events twice, whatever dies meanwhile."""
    numbers = iter(range(RUNS))

    async def lane() -> None:
        for n in numbers:
            run_id = f"run-{n}"
            await _persistently(client.start, waiting_app.waiting, {"n": n}, run_id=run_id)
            for place, (event, payload) in enumerate(waiting_app.posts(n)):
                for _ in range(2):
                    await _persistently(client.post, run_id, event, payload, event_id=f"{place}")
                    await asyncio.sleep(0.1)

    await asyncio.gather(*(lane() for _ in range(LANES)))
    return {f"run-{n}": n for n in range(RUNS)}


async def _all_correlated(client: Client) -> dict[str, int]:
    """As `_all_posted`, to keys; and one event to each run itself."""
    numbers = iter(range(RUNS))

    async def events(n: int) -> None:
        for number, payload in waiting_app.CORRELATED:
            for _ in range(2):
                await _persistently(
                    client.post_by_key, waiting_app.approved, f"order {n}", payload, event_id=f"{number}"
                )
                await asyncio.sleep(0.05)
        for _ in range(2):
            await _persistently(client.post, f"run-{n}", waiting_app.refused, 3, event_id="direct")

    async def lane() -> None:
        for n in numbers:
            if n % 2:
                await events(n)
            await _persistently(client.start, waiting_app.correlated, {"n": n}, run_id=f"run-{n}")
            if not n % 2:
                await events(n)

    await asyncio.gather(*(lane() for _ in range(LANES)))
    return {f"run-{n}": n for n in range(RUNS)}


async def _told(client: Client) -> dict[int, list[list[int]]]:
    """What the user's stream has, by the number of the run."""
    found: dict[int, list[list[int]]] = {}
    seq = 1
    while (message := await client.connection.next_message("waiting", seq, "waiting.>")) is not None:
        data: list[int] = msgspec.json.decode(message.data)["data"]
        found.setdefault(data[0], []).append(data)
        seq = message.seq + 1
    return dict(sorted(found.items()))


async def _persistently(ask: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> None:
    while True:
        with contextlib.suppress(DressageError):
            await ask(*args, **options)
            return
        await asyncio.sleep(0.05)
