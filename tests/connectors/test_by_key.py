"""A trigger with `order_by` takes the events of one key in the order of the stream, and those of others beside them."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.connectors.conftest import QUICK, eventually  # pyright: ignore[reportMissingImports]
from tests.connectors.stepping import publish, started, were_posted  # pyright: ignore[reportMissingImports]

from dressage.connectors import parse_triggers
from dressage.connectors.definitions import Definitions
from dressage.connectors.place import read_place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

RUNS = 5


CONFIG = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>" }
order_by = "event['run']"
event = "step"
run_id = "event['run']"
"""

PROCESS = """
import asyncio, sys
from pathlib import Path
from dressage.connectors import TriggerOptions, TriggerRunner, load_triggers
asyncio.run(TriggerRunner(sys.argv[1], load_triggers(Path(sys.argv[2])), TriggerOptions(in_flight=40)).run())
"""


@dataclass
class Family:
    """Processes of the trigger."""

    shop: Shop
    file: Path
    running: list[asyncio.subprocess.Process]

    async def start(self) -> asyncio.subprocess.Process:
        program = (sys.executable, "-c", PROCESS, self.shop.server.url, str(self.file))
        self.running.append(await asyncio.create_subprocess_exec(*program))
        return self.running[-1]

    async def active(self) -> asyncio.subprocess.Process:
        """The one that takes the events."""
        key = self.shop.names.trigger_place_key("orders", 0)
        found: list[asyncio.subprocess.Process] = []

        async def there() -> bool:
            place, _ = await read_place(self.shop.connection, self.shop.names, key)
            pid = place.holder.split("/")[1] if place is not None and place.holder else ""
            found[:] = [each for each in self.running if each.returncode is None and str(each.pid) == pid]
            return bool(found)

        await eventually(there, "a process is the active one")
        return found[0]


@pytest.fixture
async def family(shop: Shop, tmp_path: Path) -> AsyncIterator[Family]:
    file = tmp_path / "triggers.toml"
    file.write_text(CONFIG)
    family = Family(shop, file, [])
    yield family
    for each in family.running:
        if each.returncode is None:
            each.kill()
        await each.wait()


async def test_events_of_a_key_are_posted_in_the_order_of_the_stream(
    shop: Shop, trigger: StartTrigger
) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 60)
        await publish(shop, RUNS, 60)
        began = time.monotonic()
        running = [trigger(CONFIG), trigger(CONFIG)]
        await were_posted(shop, RUNS, range(1, 60 + 1))
        print(f"{60 * RUNS / (time.monotonic() - began):.0f} events/s with {RUNS} keys")
        assert sum(each.metric("active") for each in running) == 1, "one process takes the events"
        taking = max(running, key=lambda each: each.metric("active"))
        await taking.reaches("lag", 0)
        assert taking.metric("posted_total") == 60 * RUNS


async def test_what_passes_is_waited_for_in_order(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        running = trigger(CONFIG, replace(QUICK, answer_s=1.0))
        await publish(shop, RUNS, 3)
        await running.reaches("faulty", 1)
        await started(client, RUNS, 3)
        await were_posted(shop, RUNS, range(1, 3 + 1))


async def test_a_dead_letter_holds_up_nothing(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 3)
        trigger(CONFIG)
        await publish(shop, RUNS, 1)
        await shop.publish(b"no json")
        await shop.publish({"run": 7, "number": 1})
        await shop.publish({"run": "r0", "number": "two"})
        await publish(shop, RUNS, 2, first=2)
        await were_posted(shop, RUNS, range(1, 3 + 1))
        letters = [(each.headers or {})["Dressage-Code"] for each in await shop.dead_letters()]
        assert sorted(letters) == ["EVENT_INVALID", "EVENT_NOT_JSON", "KEY_INVALID"]


async def test_it_goes_on_where_it_was(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 4)
        first = trigger(CONFIG)
        await publish(shop, RUNS, 2)
        await were_posted(shop, RUNS, range(1, 2 + 1))
        await first.stop()
        await publish(shop, RUNS, 2, first=3)
        second = trigger(CONFIG)
        await were_posted(shop, RUNS, range(1, 4 + 1))
        assert second.metric("existing_total") == 0, "what was done before a stop is not asked for again"
        assert second.metric("events_total") == 2 * RUNS


async def test_where_it_begins_is_asked_once(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 9)
        await publish(shop, RUNS, 1)
        config = CONFIG.replace("[[trigger]]", '[[trigger]]\nstart = "new"')
        first = trigger(config)
        key = shop.names.trigger_place_key("orders", 0)

        async def is_placed() -> bool:
            place, _ = await read_place(shop.connection, shop.names, key)
            return place is not None and place.seq == RUNS

        await eventually(is_placed, "the place is stored")
        await first.stop()
        await publish(shop, RUNS, 2, first=2)
        trigger(config)
        await were_posted(shop, RUNS, range(2, 4))


async def test_it_begins_at_a_time(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 9)
        await publish(shop, RUNS, 1)
        await asyncio.sleep(1.1)
        await publish(shop, RUNS, 2, first=2)
        (moment,) = [each.time_ns for each in await shop.stored("ORDERS", "orders.>") if each.seq == RUNS + 1]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment // 1_000_000_000))
        config = CONFIG.replace(', subject = "orders.>"', "")  # All of the stream.
        trigger(config.replace("[[trigger]]", f"[[trigger]]\nstart = {stamp}"))
        await were_posted(shop, RUNS, range(2, 4))


async def test_a_stream_that_was_made_anew_is_taken_from_its_beginning(
    shop: Shop, trigger: StartTrigger
) -> None:
    async with shop.engine() as client:
        await started(client, RUNS, 9)
        trigger(CONFIG)
        await publish(shop, RUNS, 2)
        await were_posted(shop, RUNS, range(1, 2 + 1))
        await shop.delete_stream()
        await shop.create_stream()
        await publish(shop, RUNS, 1, first=3)
        await were_posted(shop, RUNS, range(1, 3 + 1))


async def test_a_stream_that_removes_what_is_acknowledged_is_refused(
    shop: Shop, trigger: StartTrigger, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.delete_stream()
    body = {"name": "ORDERS", "subjects": ["orders.>"], "retention": "workqueue", "storage": "file"}
    await shop.connection.request("$JS.API.STREAM.CREATE.ORDERS", msgspec.json.encode(body), 5.0)
    async with shop.engine():
        running = trigger(CONFIG)
        await running.reaches("faulty", 1)
        assert "SOURCE_REFUSED" in caplog.text
        assert "use source.ordered" in caplog.text


async def test_what_no_rule_is_certain_for_does_not_keep_it_from_stopping(
    shop: Shop, trigger: StartTrigger
) -> None:
    """A change is asked for, and the events wait: a stop comes first."""
    async with shop.engine() as client:
        await started(client, RUNS, 2)
        definitions = Definitions(client.connection, client.names)
        (config,) = parse_triggers(CONFIG)
        await definitions.deploy(config, "me")
        other = CONFIG.replace("order_by = \"event['run']\"", 'order_by = "subject"')
        await definitions.deploy(parse_triggers(other)[0], "me")
        running = trigger(None)
        await publish(shop, RUNS, 1)
        await asyncio.sleep(0.1)
        await asyncio.wait_for(running.stop(), 20)


@pytest.mark.faults
async def test_kill_9_changes_nothing_of_the_order(shop: Shop, family: Family) -> None:
    """The active process is killed, or stands still for longer than its lease and comes back."""
    chance = random.Random(3)
    count, strikes = 40, 0
    async with shop.engine() as client:
        await started(client, RUNS, count)
        await family.start()
        await family.start()
        publishing = asyncio.create_task(publish(shop, RUNS, count))
        stopped: asyncio.subprocess.Process | None = None
        while strikes < 4:
            victim = await family.active()
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            if strikes % 2:
                os.kill(victim.pid, SIGSTOP)
                stopped = victim
                await asyncio.sleep(7.0)
                os.kill(victim.pid, SIGCONT)
            else:
                victim.kill()
                await victim.wait()
                await family.start()
            strikes += 1
        assert stopped is not None
        await publishing
        await were_posted(shop, RUNS, range(1, count + 1))
        print(f"{strikes} strikes, {count * RUNS} events in the order of {RUNS} keys")
