"""Cancelled runs leave no timer behind, in either commit form and however many are cancelled at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dressage.brokers.interface import Connection, Expect, Message, Schedule
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import provision
from dressage.client import Client
from dressage.flow import App, Exponential, sleep, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.orchestrator.turn.committing import Committer
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.takeover import take_over
from dressage.orchestrator.turn.turn import EFFECTS_MAX, TimerCancel, Turn
from dressage.protocol.commands import CancelRun, StartRun
from dressage.protocol.names import Names
from dressage.worker import Worker, WorkerConfig

pytestmark = pytest.mark.anyio

app = App("cancelling")
BURST = 300
forms = pytest.mark.parametrize("singles_max", [8, 0], ids=["singles", "batches"])


@app.task(retries=1, backoff=Exponential(base=timedelta(hours=1), limit=timedelta(hours=1)))
async def hopeless(n: int) -> int:
    raise RuntimeError("every attempt fails")


@workflow(name="dozing")
async def dozing(seconds: float) -> str:
    await sleep(seconds)
    return "awake"


@workflow(name="backing-off")
async def backing_off(n: int) -> int:
    return await hopeless(n)


def start(seconds: float) -> StartRun:
    return StartRun("dozing", 1, msgspec.Raw(b'{"seconds":%g}' % seconds), "start")


async def timers(connection: Connection, names: Names) -> int:
    state = await connection.stream_state(names.shard_stream(0), names.timer(0, "*", "*"))
    assert state is not None
    return sum(state.subjects.values())


async def until(fact: Callable[[], Any], what: str, deadline_s: float = 20.0) -> None:
    end = asyncio.get_running_loop().time() + deadline_s
    while not await fact():
        assert asyncio.get_running_loop().time() < end, f"not in time: {what}"
        await asyncio.sleep(0.05)


async def emptied(connection: Connection, names: Names) -> bool:
    """Only the cursor, once, is left of everything."""
    state = await connection.stream_state(names.shard_stream(0))
    return state is not None and state.messages == 1


@forms
async def test_a_burst_of_cancels_leaves_no_timer_and_nothing_fires(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Any, singles_max: int
) -> None:
    names, seconds = Names(namespace), 8.0
    config = OrchestratorConfig(namespace, singles_max=singles_max, states_linger_s=0.01)
    orchestrator, task = await run_beside(broker, config)
    async with Client(broker, namespace=namespace, actor="ann") as client:
        await client.register(dozing)
        loop = asyncio.get_running_loop()
        runs = [f"run-{number}" for number in range(BURST)]
        await asyncio.gather(*(client.start(dozing, {"seconds": seconds}, run_id=run) for run in runs))
        assert await timers(connection, names) == BURST
        await asyncio.gather(*(client.cancel(run, "all of them") for run in runs))
        assert await timers(connection, names) == 0
        due = loop.time() + seconds + 1.5
        await until(lambda: emptied(connection, names), "an empty stream")
        quiet = await connection.stream_state(names.shard_stream(0))
        assert loop.time() < due - 1.5, "this machine was too slow for the test to say anything"
        await asyncio.sleep(max(0.0, due - loop.time()))
        after = await connection.stream_state(names.shard_stream(0))
        assert after == quiet, "something fired"
        view = await client.get("run-7")
        assert (view.status, view.reason) == ("cancelled", "all of them")
    orchestrator.stop()
    await task
    found = await audit(connection, names)
    assert found.wrong() == []
    assert all(found.kinds(run) == ["run-started", "sleep-started", "run-cancelled"] for run in runs)
    assert {event.actor for event in found.runs["run-7"]} == {"ann"}


@forms
async def test_runs_that_are_started_and_cancelled_in_one_turn_leave_no_timer(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Any, singles_max: int
) -> None:
    names = Names(namespace)
    config = OrchestratorConfig(namespace, singles_max=singles_max, states_linger_s=0.01)
    orchestrator, task = await run_beside(broker, config)
    async with Client(broker, namespace=namespace) as client:
        await client.register(dozing)
        orchestrator.stop()
        await task
        for number in range(BURST):
            await client.send(f"run-{number}", start(3600))
            await client.send(f"run-{number}", CancelRun("c"))
        heir, second = await run_beside(broker, dataclasses.replace(config, member="heir"))
        await until(lambda: emptied(connection, names), "an empty stream")
        heir.stop()
        await second
    found = await audit(connection, names)
    assert len(found.finished) == BURST
    assert found.wrong() == []


async def test_an_attempt_that_backs_off_is_not_dispatched_any_more(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace, states_linger_s=0.01))
    async with Client(broker, namespace=namespace) as client:
        await client.register(backing_off)
        async with Worker(broker, app, WorkerConfig(namespace)):
            handle = await client.start(backing_off, {"n": 1})

            async def backs_off() -> bool:
                return await timers(connection, names) == 1

            await until(backs_off, "the timer of the second attempt")
            await handle.cancel()
            await until(lambda: emptied(connection, names), "an empty stream")
    orchestrator.stop()
    await task


@forms
@pytest.mark.parametrize("fenced_out", [True, False])
async def test_a_turn_cancels_if_and_only_if_it_is_committed(
    connection: Connection, namespace: str, singles_max: int, *, fenced_out: bool
) -> None:
    """Also with more cancels than effects, and of a timer that the turn itself has set."""
    names = Names(namespace)
    await provision(connection, names, shards=1, replicas=1)
    before = [names.timer(0, "run", f"before-{number}") for number in range(20)]
    for subject in before:
        await connection.publish(timer(names, subject))
    standing = await take_over(connection, names, 0)
    committer = Committer(connection, names, 0, standing, singles_max)
    if fenced_out:
        await take_over(connection, names, 0)
    turn = Turn((5, 3))
    own = names.timer(0, "run", "own")
    turn.add_effect(Message(names.task(0, "queue"), b"first"))
    turn.add_effect(timer(names, own))
    for subject in (own, *before):
        turn.add_effect(TimerCancel(subject))
    turn.add_effect(Message(names.task(0, "queue"), b"second"))
    if fenced_out:
        with pytest.raises(Doubt):
            await committer.commit(turn)
        assert await timers(connection, names) == len(before)
        return
    await committer.commit(turn)
    assert await timers(connection, names) == 0
    # The next turn is checked against the last of the copies that carried the cancels.
    await committer.commit(Turn((6, 0)))
    cursors = await connection.stream_state(names.shard_stream(0), names.cursor(0))
    assert cursors is not None
    assert sum(cursors.subjects.values()) == 1


def timer(names: Names, subject: str) -> Message:
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    return Message(subject, b"{}", schedule=Schedule(at, names.command(0, "run")))


def test_cancels_ride_on_effects_and_then_on_copies_of_the_cursor() -> None:
    turn = Turn((1, 1))
    task = Message("task", b"t")
    own = Message("timer-own", b"{}", schedule=Schedule("2030-01-01T00:00:00Z", "cmd"))
    for effect in (TimerCancel("timer-1"), own, task, TimerCancel("timer-own"), TimerCancel("timer-2")):
        turn.add_effect(effect)
    cursor = Message("cursor", b"c", expect=Expect(4), rollup=True)
    stored = turn.batch(cursor)
    assert [(each.subject, each.cancels) for each in stored] == [
        ("timer-own", None),
        ("task", "timer-1"),
        ("cursor", None),
        ("cursor", "timer-own"),
        ("cursor", "timer-2"),
    ]
    # Whoever reads the last message of the subject reads the cursor.
    assert {each.data for each in stored[2:]} == {cursor.data}
    assert all(each.expect is None and not each.rollup for each in stored[3:])


def test_cancels_count_as_effects_of_the_turn() -> None:
    turn = Turn((1, 1))
    for number in range(EFFECTS_MAX):
        assert turn.room_for(1)
        turn.add_effect(TimerCancel(f"timer-{number}"))
    assert not turn.room_for(1)
    assert turn.full
    assert len(turn.batch(Message("cursor", b"c"))) == EFFECTS_MAX + 1
