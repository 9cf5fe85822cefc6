"""An ingesting process is killed at any instant, and the file still holds each event exactly once."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dressage.brokers.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.analytics.conftest import EventsStream, Start  # pyright: ignore[reportMissingImports]

KILLS = 12
ORDERS = 600

INGESTING = """
import asyncio, sys
from pathlib import Path
from dressage.analytics import AnalyticsService, BatchLimits, StoreConfig
from dressage.analytics.metrics import NoMetrics

class Told(NoMetrics):
    def ingested(self, events):
        print(events, flush=True)

async def main():
    service = AnalyticsService(
        sys.argv[1], "shop", Path(sys.argv[2]), metrics=Told(),
        # Small batches and a small log, so that commits and checkpoints are what gets interrupted.
        limits=BatchLimits(events_max=40, pause_s=0.0), store=StoreConfig(checkpoint_bytes=100_000),
    )
    await service.run()

asyncio.run(main())
"""
"""A program that ingests, and tells how many events each of its transactions held."""


async def killed_after(server_url: str, db_path: Path, batches: int, delay_s: float) -> int:
    """Starts the program, kills it shortly after so many transactions; returns how many events those held."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", INGESTING, server_url, str(db_path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    ingested = 0
    async with asyncio.timeout(20):
        for _ in range(batches):
            ingested += int(await process.stdout.readline())
    await asyncio.sleep(delay_s)
    process.kill()
    await process.wait()
    return ingested


@pytest.mark.faults
async def test_kill_9_in_the_middle_of_the_stream_neither_loses_nor_doubles(
    events: EventsStream, start: Start, server: EmbeddedServer, db_path: Path
) -> None:
    last = await events.publish_orders(ORDERS)
    chance = random.Random(7)
    for kill in range(KILLS):
        # Up to the length of a transaction later, so that the kill falls into any part of one.
        ingested = await killed_after(server.url, db_path, chance.randint(1, 6), chance.random() * 0.01)
        process = start()
        position = process.store.position
        process.ingest.stop()
        await process.stop()
        print(f"kill {kill + 1}: after {ingested} events, position {position} of {last}")
        assert 0 < position < last, "the kill must fall into the middle of the stream"
    process = start()
    await process.until(await events.publish_orders(10, ORDERS))
    held = [(seq, run, index) for seq, run, index, _ in await events.in_stream()]
    assert process.rows("SELECT stream_seq, run_id, idx FROM events ORDER BY stream_seq") == held
    assert process.rows("FROM index_breaks") == []
    assert process.rows("FROM gaps") == []
    assert process.rows("SELECT count(*) FROM run_starts") == [(ORDERS + 10,)]
    assert process.rows("SELECT count(*) FROM run_ends") == [(ORDERS + 10,)]
