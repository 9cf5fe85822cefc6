"""The checks from the outside can fail: each of them on what it is there to find."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.faults.disk import SmallDisk  # pyright: ignore[reportMissingImports]
from tests.faults.outside import (  # pyright: ignore[reportMissingImports]
    Raw,
    Watch,
    late_positions,
    late_turns,
    longest_gap_s,
    persistently,
    read_stream,
    wrong_events,
    wrong_state,
)
from tests.faults.processes import Family  # pyright: ignore[reportMissingImports]
from tests.faults.proxy import Links  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection, Delivery, Message, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.protocol.events import ReceivedEvent

pytestmark = pytest.mark.anyio


def event(run: str, index: int, kind: str, **data: object) -> ReceivedEvent:
    raw = msgspec.Raw(msgspec.json.encode(data))
    return ReceivedEvent(f"{run}/{index}", "s", f"dressage.{kind}", "", run, "w", 1, index, "1", raw)


def run_of(*events: ReceivedEvent) -> dict[str, list[ReceivedEvent]]:
    return {"r": list(events)}


STARTED = event("r", 0, "run-started")
COMPLETED = event("r", 1, "run-completed", output=2)


def test_what_is_right_is_right() -> None:
    assert wrong_events(run_of(STARTED, COMPLETED), {"r": 1}, lambda n: 2 * n) == []


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ((STARTED, event("r", 2, "run-completed", output=2)), "event indexes"),
        ((STARTED, STARTED, COMPLETED), "event indexes"),
        ((COMPLETED, STARTED), "event indexes"),
        ((STARTED,), "ends"),
        ((STARTED, COMPLETED, event("r", 2, "run-completed", output=2)), "ends"),
        ((STARTED, COMPLETED, event("r", 2, "variable-changed")), "last event"),
        ((STARTED, event("r", 1, "run-completed", output=3)), "gave 3"),
        ((STARTED, event("r", 1, "run-failed")), "must be run-completed"),
        ((STARTED, event("r", 1, "run-faulted")), "must be run-completed"),
    ],
)
def test_events_that_are_wrong_are_found(events: tuple[ReceivedEvent, ...], found: str) -> None:
    wrong = wrong_events(run_of(*events), {"r": 1}, lambda n: 2 * n)
    assert any(found in each for each in wrong), wrong


def test_a_lost_run_and_one_that_nobody_started_are_found() -> None:
    assert "is not there" in wrong_events({}, {"r": 1}, lambda n: n)[0]
    assert "nobody started" in wrong_events(run_of(STARTED, COMPLETED), {}, lambda n: n)[0]
    assert wrong_events(run_of(STARTED, COMPLETED), {}, lambda n: n, unsure=["r"]) == []


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (None, "no state"),
        ({"status": "completed", "events": 1, "output": 2}, "the stream says"),
        ({"events": 2}, "the stream says"),
        ({"status": "completed", "events": 2, "output": 3}, "another output"),
    ],
)
def test_a_state_that_is_not_that_of_the_last_event_is_found(
    state: dict[str, object] | None, found: str
) -> None:
    raw = None if state is None else Raw(1, "", 0.0, json.dumps(state).encode())
    assert found in (wrong_state("r", raw, [STARTED, COMPLETED]) or "")


def test_the_state_of_the_last_event_is_right() -> None:
    raw = Raw(1, "", 0.0, b'{"status":"completed","events":2,"output":2}')
    assert wrong_state("r", raw, [STARTED, COMPLETED]) is None


def stored(seq: int, **record: object) -> Delivery:
    return Delivery("cursor", json.dumps(record).encode(), None, seq, seq, 1, 0, "")


def test_a_turn_behind_the_fence_of_a_later_owner_is_found() -> None:
    fence, late = stored(9, epoch=3, fence=True), stored(10, epoch=3)
    assert late_turns([stored(3, fence=True), stored(5, epoch=3), fence, stored(11, epoch=9)]) == []
    assert "epoch 3 stands at 10, behind the fence at 9" in late_turns([fence, late])[0]


def test_events_of_an_earlier_epoch_behind_those_of_a_later_one_are_found() -> None:
    assert late_positions([stored(1, epoch=3), stored(2, epoch=9), stored(3, epoch=9)]) == []
    assert late_positions([stored(1, epoch=9), stored(2, epoch=3)])


def test_the_longest_gap_counts_from_the_fault_and_to_the_end() -> None:
    events = [Raw(n, "", at, b"") for n, at in enumerate((1.0, 2.0, 2.5, 6.0, 6.5))]
    assert longest_gap_s(events, 2.1, 7.0) == pytest.approx(3.5)
    assert longest_gap_s(events, 3.0, 20.0) == pytest.approx(13.5)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    opened = await JetStreamBroker(server.url).connect("outside", reconnect=True)
    await opened.ensure_stream(StreamConfig("s", ["s.>"]))
    yield opened
    await opened.close()


async def test_a_stream_is_read_whole_and_in_order(connection: Connection) -> None:
    for n in range(40):
        await connection.publish(Message(f"s.{n % 2}", b"%d" % n))
    found = await read_stream(connection, "s", "s.1", first=5)
    assert [int(raw.data) for raw in found] == list(range(5, 40, 2))
    assert sorted(raw.time_s for raw in found) == [raw.time_s for raw in found]


async def test_a_watch_sees_everything_once_although_its_consumer_is_lost(
    server: EmbeddedServer, connection: Connection
) -> None:
    seen: list[bytes] = []
    watch = Watch(connection, "s", ["s.>"], lambda delivery: seen.append(delivery.data))
    await watch.begin()
    for n in range(600):
        await connection.publish(Message("s.a", b"%d" % n))
        if n == 300:
            server.kill()
            await server.wait()
            await server.start()
            await persistently(lambda: connection.stream_state("s"))
    async with asyncio.timeout(30):
        while len(seen) < 600:
            await asyncio.sleep(0.05)
    await watch.end()
    assert [int(data) for data in seen] == list(range(600))


async def test_a_link_carries_delays_holds_and_refuses(server: EmbeddedServer) -> None:
    with Links() as links:
        link = links.link("to the server", server.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        assert (await reader.readline()).startswith(b"INFO")
        link.spoil("frozen")
        writer.write(b"PING\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.3)
        link.heal()
        assert b"PONG" in await asyncio.wait_for(reader.readline(), 10)
        link.spoil("slow")
        writer.write(b"PING\r\n")
        assert b"PONG" in await asyncio.wait_for(reader.readline(), 10)
        link.spoil("cut")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


def _mounts() -> str:
    return Path("/proc/mounts").read_text()


async def test_a_small_disk_fills_empties_and_dies_with_the_tests(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        disk = SmallDisk(family, tmp_path / "small", size_mb=64)
        await disk.mount()
        if disk.why_not:
            pytest.skip(disk.why_not)
        assert disk.free_bytes > 0
        disk.fill()
        assert disk.free_bytes == 0
        assert list(disk.folder.iterdir()) == []
        disk.free()
        assert disk.free_bytes > 0
        mounted = family.program("mounted", *disk.inside("grep", str(disk.folder), "/proc/mounts"))
        mounted.start()
        assert await mounted.ended() == 0
    assert str(disk.folder) not in _mounts()


async def test_a_paused_process_dies_with_its_family(tmp_path: Path) -> None:
    with Family(tmp_path) as family:
        sleeping = family.program("sleeping", "sleep", "600")
        sleeping.start()
        sleeping.pause()
        pid = sleeping.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
