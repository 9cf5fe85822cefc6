"""Processes of a sink die by SIGKILL under load, or stand still, and others take over: nothing lost, nothing twice
where a stream can tell, and each run in its order."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fastapi import Response
from tests.connecting import eventually, run_orders  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    SHOP,
    SUBJECT_SINK,
    WEBHOOK_SINK,
    Got,
    make_stream,
)

from dressage.client import Client
from dressage.connectors.place import LEASE_S, read_place

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver  # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]

KILLS = 3

Told = Callable[[], Coroutine[Any, Any, list[bytes]]]
"""All that has been told so far."""


class Processes:
    """Processes of `dressage connect run`."""

    def __init__(self, place: Place, client: Client, file: Path, connector: str) -> None:
        self.place = place
        self.client = client
        self.file = file
        self.connector = connector
        self.running: dict[int, asyncio.subprocess.Process] = {}

    async def start(self) -> int:
        program = (sys.executable, "-m", "dressage.cli.main", "connect", "run", str(self.file))
        process = await asyncio.create_subprocess_exec(
            *program, "--server", self.place.server.url, stderr=asyncio.subprocess.DEVNULL
        )
        self.running[process.pid] = process
        return process.pid

    async def active(self, *, other_than: int = 0) -> int:
        """The one that is active, once one is that lives."""
        found = 0

        async def there() -> bool:
            nonlocal found
            key = self.place.names.connector_place_key(self.connector)
            place, _ = await read_place(self.client.connection, self.place.names, key)
            found = int(place.holder.split("/")[1]) if place is not None and place.holder else 0
            return found in self.running and found != other_than

        await eventually(there, "a process is active")
        return found

    async def kill(self, pid: int) -> None:
        process = self.running.pop(pid)
        process.kill()
        assert await process.wait() == -SIGKILL

    async def end(self) -> None:
        for pid in list(self.running):
            await self.kill(pid)


@asynccontextmanager
async def processes(
    place: Place, client: Client, tmp_path: Path, config: str, connector: str
) -> AsyncIterator[Processes]:
    file = tmp_path / "sink.toml"
    file.write_text(config)
    found = Processes(place, client, file, connector)
    try:
        yield found
    finally:
        await found.end()


@asynccontextmanager
async def load(client: Client) -> AsyncIterator[list[int]]:
    """Runs that are started all the time; the numbers of those that have ended."""
    ended: list[int] = []
    over = asyncio.Event()

    async def start(first: int) -> None:
        number = first
        while not over.is_set():
            await run_orders(client, 1, first=number)
            ended.append(number)
            number += 4
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        for first in range(4):
            group.create_task(start(first))
        yield ended
        over.set()


async def killed_under_load(place: Place, client: Client, tmp_path: Path, config: str, told: Told) -> int:
    """Kills the active one again and again; how many runs there were."""
    async with processes(place, client, tmp_path, config, "out") as found, load(client) as ended:
        await found.start()
        await found.start()
        for _ in range(KILLS):
            active, before = await found.active(), len(await told())

            async def works(before: int = before) -> bool:
                return len(await told()) > before + 20

            await eventually(works, "it delivers while runs come")
            await found.kill(active)
            await found.start()
            await found.active(other_than=active)
    return len(ended)


async def all_events(place: Place, runs: int) -> list[bytes]:
    return [each.data for each in await place.events(runs)]


def in_order(told: Sequence[bytes]) -> bool:
    """Whether the events of each run come in their order, when only the first time counts that each comes."""
    of_run: dict[str, list[int]] = defaultdict(list)
    for each in dict.fromkeys(told):
        event: dict[str, Any] = msgspec.json.decode(each)
        of_run[event["subject"]].append(event["index"])
    return all(indexes == list(range(len(indexes))) for indexes in of_run.values())


async def delivered(
    place: Place,
    client: Client,
    tmp_path: Path,
    config: str,
    told: Told,
    runs: int,
) -> list[bytes]:
    """What has been told once everything has been, by one process that is left alone."""
    wanted = set(await all_events(place, runs))
    async with processes(place, client, tmp_path, config, "out") as found:
        await found.start()

        async def all_told() -> bool:
            return wanted <= set(await told())

        await eventually(all_told, "every event is told")
    return await told()


async def test_a_subject_sink_that_is_killed_under_load_publishes_every_event_once(
    place: Place, client: Client, tmp_path: Path
) -> None:
    await make_stream(place.server)
    config = SUBJECT_SINK.format(name="out")

    async def told() -> list[bytes]:
        return [each.data for each in await place.stored(SHOP, "shop.>")]

    runs = await killed_under_load(place, client, tmp_path, config, told)

    found = await delivered(place, client, tmp_path, config, told, runs)
    assert Counter(found) == Counter(await all_events(place, runs))
    assert in_order(found)


async def test_a_webhook_sink_that_is_killed_under_load_brings_every_event(
    place: Place, client: Client, receiver: Receiver, tmp_path: Path
) -> None:
    # It answers late, and now and then that it has not taken something, so that there are always some under way.
    receiver.delay_s = 0.2
    receiver.answer = lambda got, count: (
        Response(status_code=500) if count == 1 and hash(got.id) % 10 == 0 else None
    )
    config = WEBHOOK_SINK.format(name="out", url=receiver.url)

    async def told() -> list[bytes]:
        return [each.body for each in receiver.taken]

    runs = await killed_under_load(place, client, tmp_path, config, told)

    found = await delivered(place, client, tmp_path, config, told, runs)
    wanted = await all_events(place, runs)
    assert set(found) == set(wanted)
    assert in_order(found)
    ids: dict[str, set[bytes]] = defaultdict(set)
    for each in receiver.got:
        ids[each.id].add(each.body)
    assert len(ids) == len(wanted)
    assert all(len(bodies) == 1 for bodies in ids.values()), "what comes again has the id that it had"
    assert len(found) > len(wanted), "some were under way when their sender was killed"
    print(f"\n{runs} runs, {len(wanted)} events, {len(found) - len(wanted)} came again")


async def test_who_stood_still_delivers_nothing_more_once_another_is_active(
    place: Place, client: Client, receiver: Receiver, tmp_path: Path
) -> None:
    requests = 2
    slow = True

    def refuse(got: Got, count: int) -> Response | None:
        # The one that stands still later has all of them in memory, and none of them taken.
        return Response(status_code=500) if slow else None

    receiver.answer = refuse
    await run_orders(client, 30)
    wanted = await all_events(place, 30)
    config = WEBHOOK_SINK.format(name="out", url=receiver.url) + f"requests.max = {requests}\n"
    async with processes(place, client, tmp_path, config, "out") as found:
        await found.start()
        still = await found.active()

        async def trying() -> bool:
            return len({each.id for each in receiver.got}) >= 30

        await eventually(trying, "it tries the first events of all runs")
        os.kill(still, SIGSTOP)
        slow = False
        await found.start()
        began = asyncio.get_running_loop().time()
        await found.active(other_than=still)
        print(
            f"\ntaken over {asyncio.get_running_loop().time() - began:.1f} s after the start, lease {LEASE_S} s"
        )
        await receiver.has_taken(len(wanted))
        before = len(receiver.got)
        os.kill(still, SIGCONT)
        key = place.names.connector_place_key("out")
        _, seq = await read_place(client.connection, place.names, key)

        async def renewed() -> bool:
            return (await read_place(client.connection, place.names, key))[1] >= seq + 3

        await eventually(renewed, "some seconds are over")
        assert await found.active() != still
        assert len(receiver.got) - before <= requests, (
            "what was under way when it was stopped, and nothing else"
        )
    assert in_order([each.body for each in receiver.taken])
