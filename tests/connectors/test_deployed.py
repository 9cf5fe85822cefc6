"""Triggers that are deployed: added, changed, paused and removed while processes run and die."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.connectors.conftest import CONFIG, CONSUMER, eventually, order, orders, workflow  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Message
from dressage.client import Client
from dressage.connectors import parse_triggers
from dressage.connectors.config import TriggerConfig
from dressage.connectors.definitions import VERSIONS_MAX, Definitions, Entry, Version
from dressage.connectors.deployed import in_force, settle
from dressage.connectors.engine import engine_of
from dressage.connectors.mapping import EventMapping
from dressage.connectors.rules import Lease, Rule, Rules
from dressage.connectors.source import Source, consumer_name
from dressage.protocol.errors import BadInput, BrokerError, DressageError, NotFound

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

FIRST = consumer_name("default", "orders", 1)


def config(text: str = CONFIG) -> TriggerConfig:
    (trigger,) = parse_triggers(text)
    return trigger


def prefixed(prefix: str) -> TriggerConfig:
    """Run ids begin with it, so that an event that counts for two versions would have two runs."""
    return config(CONFIG.replace("'order-'", f"'{prefix}-'"))


@pytest.fixture
def definitions(shop: Shop, client: Client) -> Definitions:
    shop.watched = FIRST
    return Definitions(shop.connection, shop.names)


def source(shop: Shop) -> Source:
    return Source(shop.connection, shop.names, config(), ack_wait_s=1.5, pending_max=5_000, incarnation=1)


async def is_in_force(definitions: Definitions) -> None:
    """Without our doing anything for it."""

    async def nothing_asked() -> bool:
        return (await definitions.get("orders")).entry.asked is None

    await eventually(nothing_asked, "the change is in force")


async def consumers(shop: Shop) -> list[str]:
    return await shop.connection.consumers("ORDERS")


# -- what is stored --------------------------------------------------------------------------------
async def test_the_same_definition_again_changes_nothing(definitions: Definitions) -> None:
    first, changed = await definitions.deploy(config(), "me")
    assert (changed, first.entry.versions[0].number, first.entry.actor) == (True, 1, "me")
    assert await definitions.deploy(config(), "you") == (first, False)


async def test_a_change_is_asked_for_first(definitions: Definitions) -> None:
    await definitions.deploy(config(), "me")
    found, changed = await definitions.deploy(prefixed("b"), "me")
    assert changed
    assert found.entry.asked is not None
    assert (len(found.entry.versions), found.entry.asked.number) == (1, 2)


async def test_two_who_deploy_at_once_are_one_after_the_other(definitions: Definitions) -> None:
    await definitions.deploy(config(), "me")
    await asyncio.gather(*(definitions.deploy(prefixed(f"p{number}"), "me") for number in range(5)))
    latest = (await definitions.get("orders")).entry.latest
    assert latest.number == 6


async def test_another_source_is_refused(definitions: Definitions) -> None:
    await definitions.deploy(config(), "me")
    with pytest.raises(BadInput) as caught:
        await definitions.deploy(config(CONFIG.replace("orders.>", "orders.new")), "me")
    assert caught.value.code == "SOURCE_CHANGED"


async def test_one_that_is_removed_is_unknown(definitions: Definitions) -> None:
    await definitions.deploy(config(), "me")
    await definitions.remove("orders", "me")
    for asked in (definitions.get("orders"), definitions.pause("orders", "me"), definitions.get("other")):
        with pytest.raises(NotFound) as caught:
            await asked
        assert caught.value.code == "TRIGGER_UNKNOWN"


async def test_a_change_holds_behind_the_last_event(shop: Shop, definitions: Definitions) -> None:
    await definitions.deploy(config(), "me")
    await shop.publish_orders(3)
    found, _ = await definitions.deploy(prefixed("b"), "me")
    settled = await settle(definitions, found, source(shop))
    assert settled is not None
    assert [each.first_seq for each in settled.entry.versions] == [0, 4]
    assert await settle(definitions, found, source(shop)) is None


@pytest.mark.limit("connectors.definitions.VERSIONS_MAX")
async def test_so_many_versions_may_have_events_that_wait(shop: Shop, definitions: Definitions) -> None:
    await definitions.deploy(config(), "me")
    for number in range(1, VERSIONS_MAX):
        await shop.publish(order(number))
        found, _ = await definitions.deploy(prefixed(f"p{number}"), "me")
        await settle(definitions, found, source(shop))
    with pytest.raises(BadInput) as caught:
        await definitions.deploy(prefixed("more"), "me")
    assert caught.value.code == "TRIGGER_BUSY"


# -- what processes make of it ---------------------------------------------------------------------
async def test_a_trigger_is_added_under_way(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    trigger(None)
    await shop.publish_orders(5)
    await definitions.deploy(config(), "me")
    await shop.has_started(*orders(5))


async def test_a_change_is_for_what_comes_behind_it(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(), "me")
    await shop.publish_orders(2)
    await definitions.deploy(prefixed("b"), "me")
    trigger(None)
    await is_in_force(definitions)
    await shop.publish_orders(2, first=2)
    await shop.has_started("order-0", "order-1", "b-2", "b-3")


async def test_with_waiting_a_change_is_for_all_that_wait(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(CONFIG.replace("take-order", "unknown")), "me")
    process = trigger(None)
    await shop.publish_orders(3)
    await process.reaches("faulty", 1)
    await definitions.deploy(config(), "me", waiting=True)
    await shop.has_started(*orders(3))


async def test_one_that_is_paused_takes_nothing_until_it_is_resumed(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(), "me")
    process = trigger(None)
    await shop.publish(order(1))
    await shop.has_started("order-1")
    await definitions.pause("orders", "me")
    await eventually(lambda: is_idle(shop), "nobody asks for events")
    await shop.publish(order(2))
    await definitions.resume("orders", "me")
    await shop.has_started("order-1", "order-2")
    assert process.metric("events_total") == 2


async def is_idle(shop: Shop) -> bool:
    return (await shop.consumer()).get("num_waiting") == 0


async def test_one_that_is_removed_leaves_no_consumer(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(), "me")
    trigger(None)
    trigger(None)
    await shop.publish(order(1))
    await shop.has_started("order-1")
    await definitions.remove("orders", "me")

    async def cleared() -> bool:
        return not await consumers(shop)

    await eventually(cleared, "its consumer is gone")


async def test_what_was_removed_while_nobody_ran_is_cleared_away(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(), "me")
    process = trigger(None)
    await shop.publish(order(1))
    await shop.has_started("order-1")
    await process.stop()
    await definitions.remove("orders", "me")
    assert await consumers(shop) == [FIRST]
    trigger(None)

    async def cleared() -> bool:
        return not await consumers(shop)

    await eventually(cleared, "its consumer is gone")


async def test_one_that_is_removed_and_deployed_anew_begins_anew(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(), "me")
    trigger(None)
    await shop.publish(order(1))
    await shop.has_started("order-1")
    await definitions.remove("orders", "me")
    await definitions.deploy(prefixed("again"), "me")
    await shop.has_started("order-1", "again-1")

    async def only_the_second() -> bool:
        return await consumers(shop) == [consumer_name("default", "orders", 2)]

    await eventually(only_the_second, "the first consumer is gone")


async def test_a_definition_of_another_release_harms_no_other(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    next_format = Entry(2, "next", (Version(1, dict(config(CONFIG.replace('"orders"', '"next"')).table)),))
    await shop.connection.publish(Message(shop.names.trigger_key("next"), msgspec.json.encode(next_format)))
    newer = Entry(1, "newer", (Version(1, {"name": "newer", "source": {"tape": 9}}),))
    await shop.connection.publish(Message(shop.names.trigger_key("newer"), msgspec.json.encode(newer)))
    await shop.connection.publish(Message(shop.names.trigger_key("broken"), b"{"))
    await definitions.deploy(config(), "me")
    trigger(None)
    await shop.publish(order(1))
    await shop.has_started("order-1")
    with pytest.raises(BrokerError) as caught:
        await definitions.get("next")
    assert caught.value.code == "RECORD_UNREADABLE"


@pytest.mark.faults
async def test_the_server_may_be_killed_while_a_trigger_changes(
    shop: Shop, definitions: Definitions, trigger: StartTrigger, server: EmbeddedServer
) -> None:
    await definitions.deploy(prefixed("a"), "me")
    process = trigger(None)
    await shop.publish_orders(200)
    await definitions.deploy(prefixed("b"), "me")
    server.kill()
    await server.wait()
    await server.start()

    async def is_back() -> bool:
        with contextlib.suppress(DressageError):
            await definitions.get("orders")
            return True
        return False

    await eventually(is_back, "our own connection is back")
    await is_in_force(definitions)
    await shop.publish_orders(200, first=200)
    await shop.done()
    wanted = [f"a-{number}" for number in range(200)] + [f"b-{number}" for number in range(200, 400)]
    await shop.has_started(*wanted)
    assert process.metric("started_total") + process.metric("existing_total") >= 400


# -- which version an event has --------------------------------------------------------------------
DIES = """
import asyncio, os, signal, sys
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.connectors import TriggerOptions, TriggerRunner

async def die(self, *args):
    os.kill(os.getpid(), signal.SIGKILL)

JetStreamConnection.ack = die
asyncio.run(TriggerRunner(sys.argv[1], None, TriggerOptions(ack_wait_s=1.5)).run())
"""
"""Runs triggers, and dies when it first comes to an acknowledgement."""


async def test_an_event_that_was_under_way_is_dealt_with_as_it_began(
    shop: Shop, definitions: Definitions, trigger: StartTrigger
) -> None:
    await definitions.deploy(config(), "me")
    await shop.publish(order(1))
    victim = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, shop.server.url)
    assert await victim.wait() == -SIGKILL
    await shop.has_started("order-1")
    await definitions.deploy(prefixed("b"), "me")
    await in_force(definitions, "orders", lambda _: source(shop))
    process = trigger(None)
    await process.reaches("existing_total", 1)
    await shop.publish(order(2))
    await shop.has_started("order-1", "b-2")


def rules(lease: Lease, client: Client) -> Rules:
    def make(config: TriggerConfig) -> Rule:
        return Rule(EventMapping(config), engine_of(config.target, client, actor="", answer_s=1.0))

    return Rules(make, lease)


def entry(*versions: tuple[int, str], asked: bool = False) -> Entry:
    """Versions from these sequences of streams that were made then."""
    table: dict[str, Any] = dict(config().table)
    found = tuple(Version(number, table, *each) for number, each in enumerate(versions, 1))
    return Entry(1, "orders", found, Version(99, table) if asked else None)


@pytest.mark.parametrize(
    ("stream", "seq", "number"),
    [("a", 1, 1), ("a", 9, 1), ("a", 10, 2), ("a", 99, 2), ("b", 1, 2), ("b", 19, 2), ("b", 20, 3)],
)
async def test_the_version_of_an_event_is_a_matter_of_where_it_is_stored(
    client: Client, stream: str, seq: int, number: int
) -> None:
    versions = [(0, ""), (10, "a"), (20, "b")]
    given = rules(Lease(math.inf), client)
    given.set(entry(*(versions if stream == "b" else versions[:2])))
    assert (await given.of(stream, seq)).number == number


@pytest.mark.parametrize("asked", [True, False])
async def test_no_event_has_a_version_while_it_is_uncertain(client: Client, *, asked: bool) -> None:
    """A change is asked for, or what was read last is too old to act by."""
    loop = asyncio.get_running_loop()
    lease = Lease(math.inf if asked else loop.time() - 1)
    given = rules(lease, client)
    given.set(entry((0, ""), asked=asked))
    waiting = asyncio.create_task(given.of("a", 1))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    lease.until = math.inf
    given.set(entry((0, "")))
    assert (await waiting).number == 1


# -- under load, with deaths -----------------------------------------------------------------------
CHANGES = 3

PROCESS = """
import asyncio, sys
from dressage.connectors import TriggerOptions, TriggerRunner
asyncio.run(TriggerRunner(sys.argv[1], None, TriggerOptions(in_flight=100, ack_wait_s=1.5)).run())
"""


@pytest.fixture
async def processes(shop: Shop) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    running: list[asyncio.subprocess.Process] = []
    yield running
    for each in running:
        if each.returncode is None:
            each.kill()
        await each.wait()


@pytest.mark.faults
async def test_kill_9_while_a_trigger_changes_leaves_one_run_for_each_event(
    shop: Shop, processes: list[asyncio.subprocess.Process]
) -> None:
    """Each version gives run ids of its own: an event that counted for two of them would have two runs."""
    chance = random.Random(11)
    shop.watched = FIRST

    async def start() -> None:
        processes.append(await asyncio.create_subprocess_exec(sys.executable, "-c", PROCESS, shop.server.url))

    published, changes_done = 0, asyncio.Event()

    async def publish() -> None:
        nonlocal published
        while not changes_done.is_set():
            await shop.publish_orders(50, published)
            published += 50
            await asyncio.sleep(0.1)

    async def change(definitions: Definitions) -> None:
        for number in range(1, CHANGES + 1):
            await definitions.deploy(prefixed(f"v{number}"), "me")
            await in_force(definitions, "orders", lambda _: source(shop))
        changes_done.set()

    async def kill() -> int:
        kills = 0
        while not changes_done.is_set():
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            victim = chance.choice([each for each in processes if each.returncode is None])
            victim.kill()
            await victim.wait()
            kills += 1
            await start()
        return kills

    async with shop.engine(workflow()):
        definitions = Definitions(shop.connection, shop.names)
        await definitions.deploy(prefixed("v0"), "me")
        for _ in range(4):
            await start()
        _, _, kills = await asyncio.gather(publish(), change(definitions), kill())
        await shop.done()
    started = await shop.starts()
    by_order = Counter(run_id.partition("-")[2] for run_id in started)
    by_version = Counter(run_id.partition("-")[0] for run_id in started)
    print(f"{published} events, {kills} kills, runs by version: {dict(by_version)}")
    assert by_order == dict.fromkeys(map(str, range(published)), 1)
    assert set(started.values()) == {1}
    assert len(by_version) > 2, "changes must fall between the events"
    assert not await shop.dead_letters()


def test_a_trigger_that_is_deployed_shares_no_consumer_with_one_of_a_file() -> None:
    assert consumer_name("default", "orders") == CONSUMER != FIRST
