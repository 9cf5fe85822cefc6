"""A trigger with an ordered source takes one event after the other, whatever dies in between."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.connectors.conftest import QUICK, eventually  # pyright: ignore[reportMissingImports]
from tests.connectors.stepping import publish, started, were_posted  # pyright: ignore[reportMissingImports]

if TYPE_CHECKING:
    from pathlib import Path

    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

RUNS = 3


CONFIG = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>", ordered = true }
event = "step"
run_id = "event['run']"
"""

PROCESS = """
import asyncio, sys
from pathlib import Path
from dressage.connectors import TriggerOptions, TriggerRunner, load_triggers
options = TriggerOptions(ack_wait_s=1.0)
asyncio.run(TriggerRunner(sys.argv[1], load_triggers(Path(sys.argv[2])), options).run())
"""


@pytest.fixture
async def process(shop: Shop, tmp_path: Path) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    (tmp_path / "triggers.toml").write_text(CONFIG)
    running: list[asyncio.subprocess.Process] = []
    yield running
    for each in running:
        if each.returncode is None:
            each.kill()
        await each.wait()


async def test_events_are_posted_in_the_order_of_their_stream(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 50)
        await publish(shop, RUNS, 50)
        began = time.monotonic()
        trigger(CONFIG)
        trigger(CONFIG)
        await shop.done()
        print(f"{50 * RUNS / (time.monotonic() - began):.0f} events/s, one after the other")
        await were_posted(shop, RUNS, range(1, 50 + 1))


async def test_an_event_that_has_to_wait_holds_up_those_behind_it(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        trigger(CONFIG, replace(QUICK, answer_s=1.0))
        await publish(shop, RUNS, 5)
        await eventually(lambda: is_held(shop), "the first event waits for a workflow")
        await started(client, RUNS, 5)
        await shop.done()
        await were_posted(shop, RUNS, range(1, 5 + 1))


async def is_held(shop: Shop) -> bool:
    info = await shop.consumer()
    return bool(info.get("num_ack_pending") == 1 and info["num_redelivered"] == 1)


@pytest.mark.faults
async def test_kill_9_changes_nothing_of_the_order(
    shop: Shop, process: list[asyncio.subprocess.Process], tmp_path: Path
) -> None:
    chance = random.Random(3)
    count = 60

    async def start() -> None:
        program = (sys.executable, "-c", PROCESS, shop.server.url, str(tmp_path / "triggers.toml"))
        process.append(await asyncio.create_subprocess_exec(*program))

    async with shop.engine() as client:
        await started(client, RUNS, count)
        await start()
        await start()
        await eventually(lambda: is_there(shop), "the consumer is there")
        publishing, kills = asyncio.create_task(publish(shop, RUNS, count)), 0
        while not await shop.is_done() or not publishing.done():
            await asyncio.sleep(chance.uniform(0.2, 0.8))
            if kills < 6:
                victim = chance.choice([each for each in process if each.returncode is None])
                victim.kill()
                await victim.wait()
                kills += 1
                await start()
        await publishing
        await were_posted(shop, RUNS, range(1, count + 1))
        print(f"{kills} kills, {count * RUNS} events in order")


async def is_there(shop: Shop) -> bool:
    return "error" not in await shop.consumer()
