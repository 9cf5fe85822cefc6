"""Heartbeats: who is alive, who is believed, and what moves when somebody joins, dies, or cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from dressage.brokers.interface import Connection, Message, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import MEMBER_TTL_S, provision
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.membership import (
    BEAT_S,
    REST_S,
    SILENT_S,
    STEADY_S,
    Heartbeat,
    Membership,
    Rest,
    ShardFigures,
    Watch,
    decode_heartbeat,
    read_members,
)
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside
from dressage.orchestrator.trying import UNABLE_S, VAIN_S, Vain
from dressage.orchestrator.turn.records import Cursor, decode_cursor, encode
from dressage.protocol.names import Names

pytestmark = pytest.mark.anyio


# -- who is alive ------------------------------------------------------------------------------------
def looks(watch: Watch, entries: list[dict[str, int]], every_s: float = BEAT_S) -> list[set[str]]:
    return [watch.look(entry, number * every_s) for number, entry in enumerate(entries)]


def test_a_member_is_gone_after_three_looks_at_an_unchanged_entry() -> None:
    alive = looks(Watch(), [{"a": 7, "b": n} for n in range(5)])
    assert alive == [{"a", "b"}, {"a", "b"}, {"a", "b"}, {"b"}, {"b"}]


def test_one_that_beats_again_is_alive_again() -> None:
    alive = looks(Watch(), [{"a": 7}, {"a": 7}, {"a": 7}, {"a": 7}, {"a": 8}])
    assert alive[-2:] == [set(), {"a"}]


def test_a_look_that_took_long_makes_nobody_dead() -> None:
    """The broker stood still, or we did: that says nothing about the others."""
    assert looks(Watch(), [{"a": 7}, {"a": 7}, {"a": 7}], every_s=100 * SILENT_S)[-1] == {"a"}


def test_looking_often_makes_nobody_dead_sooner() -> None:
    watch, often = Watch(), BEAT_S / 10
    alive = looks(watch, [{"a": 7}] * int(SILENT_S / often), often)
    assert all(alive)


def test_an_entry_that_cannot_be_read_is_a_member_that_says_nothing() -> None:
    assert decode_heartbeat(b"{}") == decode_heartbeat(b"\xff no json") == Heartbeat()


# -- one that was away ---------------------------------------------------------------------------------
def test_one_that_was_away_rests_and_longer_each_time() -> None:
    rest = Rest()
    now = 0.0
    rest.beaten(now)
    assert not rest.resting(now)
    for length_s in (REST_S, 2 * REST_S, 4 * REST_S):
        now += 2 * SILENT_S
        rest.beaten(now)
        assert rest.resting(now + length_s - 0.1)
        assert not rest.resting(now + length_s)


def test_a_steady_member_is_as_good_as_new() -> None:
    rest = Rest()
    now = 0.0
    for _ in range(3):
        now += 2 * SILENT_S
        rest.beaten(now)
    for _ in range(int((4 * REST_S + STEADY_S) / BEAT_S) + 2):
        now += BEAT_S
        rest.beaten(now)
    now += 2 * SILENT_S
    rest.beaten(now)
    assert not rest.resting(now + REST_S)


# -- one that cannot -----------------------------------------------------------------------------------
def test_a_shard_that_is_tried_in_vain_is_offered_to_others_for_a_while_and_longer_each_time() -> None:
    vain = Vain()
    now = 0.0
    for length_s in (UNABLE_S, 2 * UNABLE_S):
        while not vain.unable(now):
            now += BEAT_S
            vain.tried(3, now, BEAT_S, hopeless=False)
        assert vain.unable(now + length_s - 0.1) == {3}
        now += length_s
        assert vain.unable(now) == set()
    vain.served(3)
    vain.tried(3, now, VAIN_S, hopeless=False)
    assert vain.unable(now + UNABLE_S) == set(), "serving it forgot the earlier trials"


def test_time_without_the_broker_counts_against_nobody() -> None:
    vain = Vain()
    for now in range(100):
        vain.tried(3, float(now), 0.0, hopeless=False)
    assert vain.unable(100.0) == set()


# -- on a server ---------------------------------------------------------------------------------------
@asynccontextmanager
async def running(broker: JetStreamBroker, *configs: OrchestratorConfig) -> AsyncIterator[list[Orchestrator]]:
    orchestrators: list[Orchestrator] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for config in configs:
            orchestrator, task = await run_beside(broker, config)
            orchestrators.append(orchestrator)
            tasks.append(task)
        yield orchestrators
    finally:
        for orchestrator in orchestrators:
            orchestrator.stop()
        await asyncio.gather(*tasks)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not fact():
            await asyncio.sleep(0.02)


async def test_sixteen_shards_on_four_orchestrators_are_four_each(
    broker: JetStreamBroker, namespace: str
) -> None:
    configs = [OrchestratorConfig(namespace, shards=16), *[OrchestratorConfig(namespace)] * 3]
    async with running(broker, *configs) as members:
        await until(lambda: [len(member.shards) for member in members] == [4, 4, 4, 4])
        assert set().union(*(member.shards for member in members)) == set(range(16))


async def test_the_shards_of_one_that_dies_without_a_word_go_to_the_others(
    broker: JetStreamBroker, namespace: str
) -> None:
    mortal, task = await run_beside(broker, OrchestratorConfig(namespace, shards=4, member="mortal"))
    async with running(broker, OrchestratorConfig(namespace), OrchestratorConfig(namespace)) as (one, other):
        await until(lambda: sorted(map(len, (mortal.shards, one.shards, other.shards))) == [1, 1, 2])
        kept = one.shards, other.shards
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: len(one.shards) == len(other.shards) == 2)
        assert kept[0] <= one.shards
        assert kept[1] <= other.shards


async def test_one_that_leaves_is_forgotten_at_once(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    async with running(broker, OrchestratorConfig(namespace, member="here")):
        async with running(broker, OrchestratorConfig(namespace, member="gone")):
            assert (await read_members(connection, Names(namespace))).keys() == {"here", "gone"}
        assert (await read_members(connection, Names(namespace))).keys() == {"here"}


async def test_what_a_newer_release_has_served_goes_to_a_member_of_that_release(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names, newer = Names(namespace), FOLD_VERSION + 1
    await provision(connection, names, shards=3, replicas=1)
    for shard in (0, 1):
        await connection.publish(
            Message(names.cursor(shard), encode(Cursor(fold_version=newer)), rollup=True)
        )
    old = Orchestrator(broker, OrchestratorConfig(namespace))
    task = asyncio.create_task(old.run())
    await until(lambda: old.shards == {2})
    async with running(broker, OrchestratorConfig(namespace, fold_version=newer)) as (new,):
        await until(lambda: new.shards == {0, 1} and old.shards == {2})
        old.stop()
        await task
        await until(lambda: new.shards == {0, 1, 2})


async def test_an_upgraded_orchestrator_writes_its_version_into_the_cursor(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    async with running(broker, OrchestratorConfig(namespace, fold_version=FOLD_VERSION + 5)):
        await connection.publish(Message(names.command(0, "nobody"), b"no command"))
        async with asyncio.timeout(10):
            while True:
                found = await connection.last_message(names.shard_stream(0), names.cursor(0))
                if found is not None and decode_cursor(found.data).fold_version == FOLD_VERSION + 5:
                    break


async def test_heartbeats_say_where_a_shard_is_and_how_it_stands(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    config = OrchestratorConfig(namespace, shards=2, member="me", where="here:1")
    async with running(broker, config), asyncio.timeout(10):
        while True:
            said = (await read_members(connection, Names(namespace)))["me"][1]
            if all(figures.state == "serving" for figures in said.shards.values()):
                break
    assert said.where == "here:1"
    assert said.fold_version == FOLD_VERSION
    assert said.shards.keys() == {0, 1}
    assert all(figures.epoch > 0 for figures in said.shards.values())


async def test_the_time_to_live_of_an_existing_deployment_is_changed(
    connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    await connection.ensure_stream(
        StreamConfig(
            names.members_stream(), [names.member_key(">")], per_subject_max=1, max_age_s=MEMBER_TTL_S / 4
        )
    )
    await provision(connection, names, shards=1, replicas=1)
    answer: Any = msgspec.json.decode(
        await connection.request(f"$JS.API.STREAM.INFO.{names.members_stream()}", b"", 5.0)
    )
    assert answer["config"]["max_age"] == MEMBER_TTL_S * 1e9


async def test_a_member_that_cannot_ask_believes_what_it_knew_last(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    await provision(connection, names, shards=1, replicas=1)
    mine = await broker.connect("mine")
    one, other = Membership(mine, names, "one"), Membership(connection, names, "other")
    said = Heartbeat(shards={0: ShardFigures("serving", 4)})
    await other.beat(said)
    assert await one.beat(Heartbeat()) == {"one": Heartbeat(), "other": said}
    await mine.close()
    assert await one.beat(Heartbeat()) == {"one": Heartbeat(), "other": said}
    assert one.heard_s == 0


async def test_being_nudged_often_makes_nobody_silent(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)

    async def entry() -> int:
        return (await read_members(connection, names))["me"][0]

    async with running(broker, OrchestratorConfig(namespace, member="me")):
        for _ in range(20):
            before = await entry()
            await connection.tell(names.nudge(), b"")
            async with asyncio.timeout(5):
                while await entry() == before:
                    await asyncio.sleep(0.01)
        last = await entry()
        async with asyncio.timeout(SILENT_S):
            while await entry() == last:
                await asyncio.sleep(0.05)
