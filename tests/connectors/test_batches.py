"""A trigger with batches: many events are one start, and which ones they are outlives whoever had them."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.connectors.conftest import QUICK, STREAM, eventually, order  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.client import Client
from dressage.connectors import parse_triggers
from dressage.connectors.batches import BATCH_BYTES_MAX
from dressage.connectors.config import BATCH_EVENTS_MAX, BATCH_S_MAX
from dressage.connectors.definitions import Definitions
from dressage.connectors.place import Gathered, Lease, read_place
from dressage.connectors.source import event_id
from dressage.connectors.tables import ConfigInvalid
from dressage.flow import Event, workflow
from dressage.protocol.errors import BadInput
from dressage.protocol.events import KIND, RunStarted

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

CONFIG = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>" }
when = "event['total'] >= 0"
batch = { size = 10, within = "0.5s" }
workflow = "invoice"
run_id = "f'invoice-{batch}'"

[trigger.input]
ids = "[each['id'] for each in events]"
"""


@workflow(name="invoice")
async def invoice(ids: list[int]) -> int:
    return len(ids)


async def batches(shop: Shop) -> list[list[Any]]:
    """The orders of each run."""
    subject = f"{shop.names.root}.events.*.*.{KIND[RunStarted]}.*"
    found = await shop.stored(shop.names.events_stream, subject)
    return [msgspec.json.decode(each.data)["data"]["input"]["ids"] for each in found]


async def all_are_in(shop: Shop, count: int) -> list[list[int]]:
    """Each order is in one batch, and each batch is of orders that follow one another."""

    async def all_started() -> bool:
        return sum(map(len, await batches(shop))) >= count

    await eventually(all_started, f"{count} orders are in batches")
    found = sorted(await batches(shop))
    assert [each for batch in found for each in batch] == list(range(count))
    return found


async def test_batches_are_of_so_many(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(invoice)
        await shop.publish_orders(40)
        running = [trigger(CONFIG), trigger(CONFIG)]
        assert [len(each) for each in await all_are_in(shop, 40)] == [10] * 4
        taking = max(running, key=lambda each: each.metric("active"))
        await taking.reaches("lag", 0)
        assert sum(each.metric("started_total") for each in running) == 40


async def test_what_came_within_the_time_is_a_batch(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(invoice)
        trigger(CONFIG)
        await shop.publish_orders(3)
        assert await all_are_in(shop, 3) == [[0, 1, 2]]
        await shop.publish_orders(1, first=3)
        assert await all_are_in(shop, 4) == [[0, 1, 2], [3]]


async def test_what_is_not_meant_is_in_none(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(invoice)
        for number in range(5):
            await shop.publish(order(number))
            await shop.publish(order(100 + number, total=-1.0))
            await shop.publish(b"no json")
        trigger(CONFIG)
        assert await all_are_in(shop, 5) == [list(range(5))]
        codes = Counter((each.headers or {})["Dressage-Code"] for each in await shop.dead_letters())
        assert codes == {"EVENT_NOT_JSON": 5}


async def test_a_batch_that_is_refused_is_a_dead_letter_for_each_event(
    shop: Shop, trigger: StartTrigger, tmp_path: Path
) -> None:
    """Each can be replayed, as a batch of its own."""
    file = tmp_path / "triggers.toml"
    file.write_text(CONFIG)
    async with shop.engine() as client:
        await client.register(invoice)
        trigger(CONFIG.replace("each['id']", "each.get('key', each['id'])"))
        await shop.publish_orders(2)
        await shop.publish({"id": 2, "key": "no number", "total": 1.0})
        await eventually(lambda: has_letters(shop, 3), "three dead letters")
        assert {(each.headers or {})["Dressage-Code"] for each in await shop.dead_letters()} == {
            "INPUT_INVALID"
        }
        arguments = ["trigger", "replay", "orders", "--all", "--file", str(file), "--server", shop.server.url]
        result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert result.exit_code == 0, result.output
        assert await all_are_in(shop, 3) == [[0], [1], [2]]
        assert await shop.dead_letters() == []


async def has_letters(shop: Shop, count: int) -> bool:
    return len(await shop.dead_letters()) == count


@pytest.mark.limit("connectors.batches.BATCH_BYTES_MAX")
async def test_a_batch_is_no_larger_than_a_workflow_takes(shop: Shop, trigger: StartTrigger) -> None:
    config = CONFIG.replace("size = 10", "size = 500").replace("[each['id'] for each in events]", "events")

    @workflow(name="invoice")
    async def carry(ids: list[dict[str, Any]]) -> int:
        return len(ids)

    async with shop.engine() as client:
        await client.register(carry)
        sizes = [BATCH_BYTES_MAX // 2 - 100] * 3 + [BATCH_BYTES_MAX + 1_000, 10]
        for number, size in enumerate(sizes):
            await shop.publish(order(number, text="x" * size))
        trigger(config)

        async def all_started() -> bool:
            return sum(map(len, await batches(shop))) == len(sizes)

        await eventually(all_started, "all are in batches")
        found = sorted([each["id"] for each in batch] for batch in await batches(shop))
        assert found == [[0, 1], [2], [3], [4]]
        assert await shop.dead_letters() == []


async def test_a_batch_is_an_external_event(shop: Shop, trigger: StartTrigger) -> None:
    config = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>" }
batch = { size = 3, within = "10s" }
event = "came"
run_id = "'collector'"
"""
    came = Event("came", of=list[dict[str, Any]])

    @workflow(name="collector")
    async def collect() -> int:
        return len(await came.wait())

    async with shop.engine() as client:
        await client.register(collect)
        run = await client.start(collect, run_id="collector")
        await shop.publish_orders(3)
        trigger(config)
        assert await run.result(timeout_s=20) == 3


async def test_a_stop_leaves_what_is_gathered_to_the_next(shop: Shop, trigger: StartTrigger) -> None:
    config = CONFIG.replace('within = "0.5s"', 'within = "60s"')
    async with shop.engine() as client:
        await client.register(invoice)
        first = trigger(config)
        await shop.publish_orders(4)
        await first.reaches("events_total", 4)
        await first.stop()
        assert await batches(shop) == []
        trigger(config)
        await shop.publish_orders(6, first=4)
        assert await all_are_in(shop, 10) == [list(range(10))]


async def decided(shop: Shop, until: int, count: int) -> None:
    """Somebody has decided on the first batch, and died: nobody knows whether it was asked for."""
    names, key = shop.names, shop.names.trigger_place_key("orders", 0)
    answer = await shop.connection.request(f"$JS.API.STREAM.INFO.{STREAM}", b"", 5.0)
    first = await shop.connection.next_message(STREAM, 1, "orders.>")
    assert first is not None
    lease = Lease(shop.connection, names, key, "it")
    assert await lease.take(asyncio.Event()) is not None
    batch = Gathered(until, event_id(STREAM, first.seq, first.time_ns), count)
    await lease.store(msgspec.json.decode(answer)["created"], 0, batch)
    await lease.release()


async def test_who_takes_over_asks_for_the_same_batch(shop: Shop, trigger: StartTrigger) -> None:
    """More events came since."""
    async with shop.engine() as client:
        await client.register(invoice)
        await shop.publish_orders(7)
        await decided(shop, until=3, count=3)
        trigger(CONFIG)
        assert await all_are_in(shop, 7) == [[0, 1, 2], [3, 4, 5, 6]]


async def test_a_batch_does_not_wait_for_an_event_that_is_gone(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(invoice)
        await shop.publish_orders(4)
        await decided(shop, until=4, count=4)
        await shop.connection.delete_message(STREAM, 4)
        trigger(CONFIG)
        assert await all_are_in(shop, 3) == [[0, 1, 2]]


@pytest.mark.parametrize("gone", [1, 2, 3])
async def test_what_is_left_of_a_batch_that_was_accepted_counts_in_no_other(
    shop: Shop, trigger: StartTrigger, gone: int
) -> None:
    """It was asked for, who did it died before it could say so, and then the stream dropped some of its events."""
    async with shop.engine() as client:
        await client.register(invoice)
        await shop.publish_orders(3)
        first = trigger(CONFIG)
        await all_are_in(shop, 3)
        await first.stop()
        await decided(shop, until=3, count=3)
        await shop.connection.delete_message(STREAM, gone)
        await shop.publish_orders(2, first=3)
        second = trigger(CONFIG)
        assert await all_are_in(shop, 5) == [[0, 1, 2], [3, 4]]
        await second.reaches("existing_total", 2)
        assert await shop.dead_letters() == []


async def test_a_change_is_a_border_of_batches(shop: Shop, trigger: StartTrigger) -> None:
    """An event has the definition of where it is stored; so no batch has two."""
    async with shop.engine() as client:
        await client.register(invoice)
        definitions = Definitions(client.connection, client.names)
        await definitions.deploy(parse_triggers(CONFIG.replace("0.5s", "60s"))[0], "me")
        trigger(None)
        await shop.publish_orders(4)
        await definitions.deploy(parse_triggers(CONFIG)[0], "me")

        async def is_in_force() -> bool:
            return (await definitions.get("orders")).entry.asked is None

        await eventually(is_in_force, "the change is in force")
        await shop.publish_orders(3, first=4)
        assert await all_are_in(shop, 7) == [[0, 1, 2, 3], [4, 5, 6]]


async def test_a_mistake_is_mended_for_what_waits(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(invoice)
        definitions = Definitions(client.connection, client.names)
        await definitions.deploy(parse_triggers(CONFIG.replace('"invoice"', '"invoices"'))[0], "me")
        running = trigger(None, replace(QUICK, answer_s=1.0))
        await shop.publish_orders(3)
        await running.reaches("faulty", 1)
        await definitions.deploy(parse_triggers(CONFIG)[0], "me", waiting=True)
        assert await all_are_in(shop, 3) == [[0, 1, 2]]


async def test_a_batch_that_is_not_meant_any_more_starts_nothing(shop: Shop, trigger: StartTrigger) -> None:
    async with shop.engine() as client:
        await client.register(invoice)
        definitions = Definitions(client.connection, client.names)
        await definitions.deploy(parse_triggers(CONFIG.replace('"invoice"', '"invoices"'))[0], "me")
        running = trigger(None, replace(QUICK, answer_s=1.0))
        await shop.publish_orders(3)
        await running.reaches("faulty", 1)
        strict = CONFIG.replace(">= 0", "> 100")
        await definitions.deploy(parse_triggers(strict)[0], "me", waiting=True)
        await running.reaches("skipped_total", 3)
        await running.reaches("lag", 0)
        assert await batches(shop) == []
        assert await shop.dead_letters() == []


async def test_deployed_anew_as_another_kind_it_leaves_nothing_on_the_stream(
    shop: Shop, trigger: StartTrigger
) -> None:
    """No process ran when it was removed, so who clears up knows only the new one."""
    plain = CONFIG.replace('batch = { size = 10, within = "0.5s" }\n', "").replace(
        "[each['id'] for each in events]", "[event['id']]"
    )
    plain = plain.replace("f'invoice-{batch}'", "str(event['id'])")
    async with shop.engine() as client:
        await client.register(invoice)
        definitions = Definitions(client.connection, client.names)
        await definitions.deploy(parse_triggers(plain)[0], "me")
        first = trigger(None)
        await shop.publish_orders(1)
        await first.reaches("started_total", 1)
        await first.stop()
        assert len(await shop.connection.consumers(STREAM)) == 1
        await definitions.remove("orders", "me")
        await definitions.deploy(parse_triggers(CONFIG)[0], "me")
        second = trigger(None)
        await second.reaches("started_total", 1)
        (left,) = await shop.connection.consumers(STREAM)
        assert left.startswith("dressage_default_trigger_orders_2_"), (
            "that of the process that takes the events"
        )


async def test_removed_and_deployed_again_it_begins_anew(shop: Shop, trigger: StartTrigger) -> None:
    again = CONFIG.replace("'invoice-{batch}'", "'again-{batch}'")
    async with shop.engine() as client:
        await client.register(invoice)
        definitions = Definitions(client.connection, client.names)
        await definitions.deploy(parse_triggers(CONFIG)[0], "me")
        trigger(None)
        await shop.publish_orders(2)
        await all_are_in(shop, 2)
        await definitions.remove("orders", "me")
        key = shop.names.trigger_place_key("orders", 1)

        async def has_no_place() -> bool:
            return (await read_place(shop.connection, shop.names, key))[0] is None

        await eventually(has_no_place, "its place is removed")
        await definitions.deploy(parse_triggers(again)[0], "me")

        async def all_started() -> bool:
            return await batches(shop) == [[0, 1], [0, 1]]

        await eventually(all_started, "it took the stream from its beginning")


async def test_what_keeps_its_place_elsewhere_is_another_trigger(shop: Shop, client: Client) -> None:
    definitions = Definitions(client.connection, client.names)
    await definitions.deploy(parse_triggers(CONFIG)[0], "me")
    plain = CONFIG.replace('batch = { size = 10, within = "0.5s" }\n', "").replace(
        "[each['id'] for each in events]", "[event['id']]"
    )
    plain = plain.replace("f'invoice-{batch}'", "str(event['id'])")
    with pytest.raises(BadInput) as caught:
        await definitions.deploy(parse_triggers(plain)[0], "me")
    assert (caught.value.code, "another batch" in caught.value.message) == ("SOURCE_CHANGED", True)
    found, changed = await definitions.deploy(
        parse_triggers(CONFIG.replace("size = 10", "size = 11"))[0], "me"
    )
    assert changed
    assert found.entry.asked is not None


# -- the file --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("size = 10", "size = 0", "batch.size", "must be 1 to 1000, not 0 (limit trigger-batch)"),
        ("size = 10", "size = 1001", "batch.size", "(limit trigger-batch)"),
        ('within = "0.5s"', "within = 0", "batch.within", "(limit trigger-batch-age)"),
        ('within = "0.5s"', 'within = "61m"', "batch.within", "(limit trigger-batch-age)"),
        ('size = 10, within = "0.5s"', "size = 10", "batch.within", "is missing"),
        ('size = 10, within = "0.5s"', 'within = "1s"', "batch.size", "is missing"),
        ("size = 10", "sise = 10", "batch.sise", "did you mean 'size'?"),
        ("f'invoice-{batch}'", "event['id']", "run_id", "event"),
        (
            "when = \"event['total'] >= 0\"",
            "order_by = \"event['id']\"",
            "order_by",
            "leave it out, or batch",
        ),
        (
            'subject = "orders.>" }',
            'subject = "orders.>", ordered = true }',
            "source.ordered",
            "leave it out",
        ),
        (
            '{ stream = "ORDERS", subject = "orders.>" }',
            '{ subject = "a.b", core = true }',
            "batch",
            "no stream",
        ),
    ],
)
def test_what_is_wrong_is_told(old: str, new: str, key: str, says: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_triggers(CONFIG.replace(old, new))
    found = [each for each in caught.value.problems if each.key.endswith(f": {key}")]
    assert found, caught.value.problems
    assert any(says in each.message for each in found), found


@pytest.mark.limit("connectors.config.BATCH_EVENTS_MAX")
@pytest.mark.limit("connectors.config.BATCH_S_MAX")
def test_a_batch_has_bounds() -> None:
    (largest,) = parse_triggers(
        CONFIG.replace("size = 10", f"size = {BATCH_EVENTS_MAX}").replace('"0.5s"', f"{BATCH_S_MAX}")
    )
    assert largest.batch is not None
    assert (largest.batch.size, largest.batch.within_s) == (BATCH_EVENTS_MAX, BATCH_S_MAX)
    for old, new in (("size = 10", f"size = {BATCH_EVENTS_MAX + 1}"), ('"0.5s"', f"{BATCH_S_MAX + 0.5}")):
        with pytest.raises(ConfigInvalid, match="limit trigger-batch"):
            parse_triggers(CONFIG.replace(old, new))


# -- whatever dies in between ----------------------------------------------------------------------
PROCESS = """
import asyncio, sys
from pathlib import Path
from dressage.connectors import TriggerOptions, TriggerRunner, load_triggers
asyncio.run(TriggerRunner(sys.argv[1], load_triggers(Path(sys.argv[2])), TriggerOptions()).run())
"""


@dataclass
class Family:
    shop: Shop
    file: Path
    running: list[asyncio.subprocess.Process]

    async def start(self) -> None:
        program = (sys.executable, "-c", PROCESS, self.shop.server.url, str(self.file))
        self.running.append(await asyncio.create_subprocess_exec(*program))

    async def kill_one(self, chance: random.Random) -> None:
        victim = chance.choice([each for each in self.running if each.returncode is None])
        victim.kill()
        await victim.wait()


@pytest.fixture
async def family(shop: Shop, tmp_path: Path) -> AsyncIterator[Family]:
    file = tmp_path / "triggers.toml"
    file.write_text(CONFIG.replace("size = 10", "size = 7").replace("0.5s", "0.2s"))
    family = Family(shop, file, [])
    yield family
    for each in family.running:
        if each.returncode is None:
            each.kill()
        await each.wait()


@pytest.mark.faults
async def test_kill_9_puts_no_order_into_two_batches(shop: Shop, family: Family) -> None:
    chance = random.Random(5)
    count = 400
    async with shop.engine() as client:
        await client.register(invoice)
        await family.start()
        await family.start()

        async def publish() -> None:
            for number in range(count):
                await shop.publish(order(number))
                await asyncio.sleep(chance.uniform(0.0, 0.04))

        publishing, kills = asyncio.create_task(publish()), 0
        while not publishing.done():
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            await family.kill_one(chance)
            await family.start()
            kills += 1
        await publishing
        found = await all_are_in(shop, count)
        assert all(len(each) <= 7 for each in found)
        assert all(left[-1] < right[0] for left, right in pairwise(found))
        print(f"{kills} kills, {count} orders in {len(found)} batches")
