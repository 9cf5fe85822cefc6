"""A trigger process dies at any instant, and still each event has exactly one run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest
from tests.connectors.conftest import CONFIG, eventually, order, orders, workflow  # pyright: ignore[reportMissingImports]
from tests.connectors.test_core import CORE, asked, listens  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.protocol.errors import NoAnswer

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

EVENTS = 3_000
KILLS = 6

PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.connectors import TriggerOptions, TriggerRunner, load_triggers

async def die(self, *args):
    os.kill(os.getpid(), signal.SIGKILL)

if len(sys.argv) > 3:
    setattr(JetStreamConnection, sys.argv[3], die)
options = TriggerOptions(in_flight=200, ack_wait_s=1.5)
asyncio.run(TriggerRunner(sys.argv[1], load_triggers(Path(sys.argv[2])), options).run())
"""
"""A program that runs a trigger, and dies by SIGKILL when it first comes to the named step."""

StartProcess = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def process(shop: Shop, tmp_path: Path) -> AsyncIterator[StartProcess]:
    """Starts trigger processes of their own, which are killed at the end."""
    config = tmp_path / "triggers.toml"
    config.write_text(CONFIG)
    running: list[asyncio.subprocess.Process] = []

    async def start(*dies_at: str) -> asyncio.subprocess.Process:
        program = (sys.executable, "-c", PROCESS, shop.server.url, str(config), *dies_at)
        running.append(await asyncio.create_subprocess_exec(*program))
        return running[-1]

    yield start
    for each in running:
        await kill(each)


async def kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def died(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        assert await process.wait() == -SIGKILL


async def test_death_after_the_start_and_before_the_acknowledgement_is_no_second_run(
    shop: Shop, client: Client, process: StartProcess, trigger: StartTrigger
) -> None:
    await shop.publish(order(1))
    await died(await process("ack"))
    await shop.has_started("order-1")
    second = trigger()
    await shop.done()
    assert second.metric("existing_total") == 1
    await shop.has_started("order-1")


async def test_death_after_the_dead_letter_and_before_the_acknowledgement_is_no_second_one(
    shop: Shop, client: Client, process: StartProcess, trigger: StartTrigger
) -> None:
    await shop.publish(b"no json")
    await died(await process("ack"))
    assert len(await shop.dead_letters()) == 1
    trigger()
    await shop.done()
    assert len(await shop.dead_letters()) == 1


async def test_death_before_the_dead_letter_loses_no_event(
    shop: Shop, client: Client, process: StartProcess, trigger: StartTrigger
) -> None:
    await shop.publish(b"no json")
    await died(await process("publish"))
    assert not await shop.dead_letters()
    trigger()
    await shop.done()
    assert len(await shop.dead_letters()) == 1


async def test_death_after_the_start_and_before_the_answer_is_no_second_run(
    shop: Shop, client: Client, process: StartProcess, trigger: StartTrigger, tmp_path: Path
) -> None:
    """Of a subject without a stream: who got no answer asks again."""
    (tmp_path / "triggers.toml").write_text(CORE)
    dying = await process("tell")
    while dying.returncode is None:
        with contextlib.suppress(NoAnswer):
            raise AssertionError(f"it was answered: {await asked(shop, order(1), 0.2)}")
    await shop.has_started("order-1")
    second = trigger(CORE)
    await listens(shop, second)
    assert await asked(shop, order(1)) == {"ok": True, "run_id": "order-1", "existing": True}
    await shop.has_started("order-1")


async def in_the_middle(shop: Shop, at_least: int) -> int:
    """Waits until so many events are acknowledged; returns how many are held without acknowledgement."""
    held = 0

    async def reached() -> bool:
        nonlocal held
        info = await shop.consumer()
        held = info.get("num_ack_pending", 0)
        return "error" not in info and held > 0 and EVENTS - info["num_pending"] - held >= at_least

    await eventually(reached, f"{at_least} of {EVENTS} events are acknowledged, and some are held")
    return held


@pytest.mark.faults
async def test_kill_9_under_load_leaves_exactly_one_run_for_each_event(
    shop: Shop, process: StartProcess
) -> None:
    chance = random.Random(7)
    async with shop.engine(workflow()):
        await shop.publish_orders(EVENTS)
        for number in range(1, KILLS + 1):
            running = await process()
            held = await in_the_middle(shop, number * EVENTS // (KILLS + 2))
            await asyncio.sleep(chance.random() * 0.02)
            await kill(running)
            print(f"kill {number}: {held} events are held and not acknowledged")
            assert not await shop.is_done(), "the kill must fall into the middle of the stream"
        await process()
        await shop.done()
    # The engine has ended in good order, so every output event that will ever come is there.
    assert await shop.starts() == dict.fromkeys(orders(EVENTS), 1)


@pytest.mark.faults
async def test_of_two_processes_one_may_die_under_load(shop: Shop, process: StartProcess) -> None:
    async with shop.engine(workflow()):
        await shop.publish_orders(EVENTS)
        victim, _ = await process(), await process()
        await in_the_middle(shop, EVENTS // 4)
        await kill(victim)
        assert not await shop.is_done(), "the kill must fall into the middle of the stream"
        await shop.done()
    assert await shop.starts() == dict.fromkeys(orders(EVENTS), 1)
