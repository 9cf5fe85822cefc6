"""The owner of a shard dies at every single write that it makes while runs are deleted, before it and after it.

Whatever the point: a deleted run is gone, with its output events and its objects, a run that was started under the same
id right behind that is there, once, and of another run nothing is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from typing import Any, Final

import msgspec
import pytest
from tests.orchestrator.test_crash_points import (  # pyright: ignore[reportMissingImports]
    AT_ONCE,
    EMPTY,
    EVERY,
    Fate,
    MortalBroker,
    _holds,
)

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.objects import digest_of, get_object, put_object
from dressage.brokers.provision import ensure_objects
from dressage.client import Client
from dressage.flow import workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside
from dressage.protocol.errors import NotFound
from dressage.protocol.events import RUN_HEADER, decode_event
from dressage.protocol.names import Names, run_token

pytestmark = pytest.mark.anyio

WRITES_MIN: Final = 12
FORGOTTEN: Final = 4
"""A start, a deletion, and what the timer of that has sent stand in a shard's stream, beside the cursor."""


@workflow(name="mortal")
async def mortal_run(n: int) -> int:
    m = n + 1
    return m + 1


async def lives(client: Client, names: Names) -> None:
    """What is done, whatever dies meanwhile."""
    await client.register(mortal_run)
    await ensure_objects(client.connection, names, replicas=1)
    for run_id in ("again", "gone", "other"):
        await (await client.start(mortal_run, {"n": 0}, run_id=run_id)).result(20)
    for run_id in ("gone", "other"):
        await put_object(client.connection, names, run_id, run_id.encode() * 1000, patience_s=20.0)
    await client.delete("again", events=True)
    await (await client.start(mortal_run, {"n": 5}, run_id="again")).result(20)
    await client.delete("gone", events=True)


async def events_of(connection: Connection, names: Names, run_id: str) -> list[tuple[str, int]]:
    found, seq = list[tuple[str, int]](), 0
    while (
        message := await connection.next_message(names.events_stream, seq + 1, names.all_events())
    ) is not None:
        seq = message.seq
        if (message.headers or {}).get(RUN_HEADER) == run_token(run_id):
            event = decode_event(message.data)
            found.append((event.kind, event.index))
    return found


LIFE: Final = [("run-started", 0), ("variable-changed", 1), ("run-completed", 2)]


async def judge(client: Client, connection: Connection, names: Names) -> None:
    with contextlib.suppress(NotFound):
        raise AssertionError(f"it was deleted: {await client.get('gone')}")
    for run_id, output in (("again", 7), ("other", 2)):
        view = await client.get(run_id)
        assert (view.status, msgspec.json.decode(bytes(view.output or b"null"))) == ("completed", output)
    assert await events_of(connection, names, "gone") == [("run-deleted", 3)]
    assert await events_of(connection, names, "again") == [("run-deleted", 3), *LIFE]
    assert await events_of(connection, names, "other") == LIFE
    objects = await connection.stream_state(names.objects_stream(), names.all_object_chunks())
    assert objects is not None
    # An upload that broke off, as nobody answered in time, leaves chunks beside those of the one that was whole.
    places = [names.object_of_chunks(each) for each in objects.subjects]
    assert {place and place[0] for place in places} == {"other"}, places
    data = b"other" * 1000
    assert await get_object(connection, names, "other", await digest_of(data), len(data)) == data


async def run_once(broker: JetStreamBroker, config: OrchestratorConfig, fate: Fate) -> None:
    names = Names(config.namespace)
    first = asyncio.create_task(Orchestrator(MortalBroker(broker, fate), config).run())
    died = asyncio.create_task(fate.died.wait())
    heir = Orchestrator(broker, config)
    second: asyncio.Task[None] | None = None
    watch = await broker.connect("watch")
    setting_up = await broker.connect("provision")
    try:
        await heir._provisioned(setting_up)  # pyright: ignore[reportPrivateUsage]
        async with Client(broker, namespace=config.namespace) as client:
            done = asyncio.create_task(lives(client, names))
            await asyncio.wait({done, died}, return_when=asyncio.FIRST_COMPLETED)
            if not fate.dead:
                # What it leaves behind the last answer are writes as well.
                emptied = asyncio.create_task(_holds(watch, names, EMPTY))
                await asyncio.wait({emptied, died}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
                emptied.cancel()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            second = asyncio.create_task(heir.run())
            await asyncio.wait_for(done, 60)
            await asyncio.wait_for(_holds(watch, names, EMPTY), 15)
            await judge(client, watch, names)
    finally:
        for task in (died, first):
            task.cancel()
        heir.stop()
        if second is not None:
            await second
        await watch.close()
        await setting_up.close()


async def test_objects_go_though_all_is_forgotten_before_the_deletion_is_stored(
    broker: JetStreamBroker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens behind a take-over that comes when the time to know of a deletion is over."""
    monkeypatch.setattr("dressage.orchestrator.fold.retention.FORGET_MS", 0)
    names = Names(namespace)
    config = OrchestratorConfig(namespace, states_linger_s=3600.0)
    with monkeypatch.context() as unable:
        unable.setattr("dressage.orchestrator.turn.cleaning.Cleaner._patiently", never)
        _, first = await run_beside(broker, config)
        async with Client(broker, namespace=namespace) as client:
            await client.register(mortal_run)
            await ensure_objects(client.connection, names, replicas=1)
            await (await client.start(mortal_run, {"n": 0}, run_id="gone")).result(20)
            await put_object(client.connection, names, "gone", b"gone" * 1000, patience_s=20.0)
            await client.delete("gone")
            await asyncio.wait_for(_holds(client.connection, names, FORGOTTEN), 15)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    heir, second = await run_beside(broker, dataclasses.replace(config, states_linger_s=1.0))
    watch = await broker.connect("watch")
    try:
        await asyncio.wait_for(_holds(watch, names, EMPTY), 15)
        objects = await watch.stream_state(names.objects_stream(), names.all_object_chunks())
        assert objects is not None
        assert not objects.subjects
    finally:
        await watch.close()
        heir.stop()
        await second


async def never(*_: object) -> None:
    await asyncio.Future()


@pytest.mark.faults
@pytest.mark.timeout(1800 if EVERY == 1 else 240)
@pytest.mark.parametrize("effective", [True, False], ids=["written", "not-written"])
async def test_death_at_every_write_around_a_deletion(
    broker: JetStreamBroker, namespace: str, monkeypatch: pytest.MonkeyPatch, *, effective: bool
) -> None:
    monkeypatch.setattr("dressage.orchestrator.fold.retention.FORGET_MS", 1_500)

    async def die_at(at: int) -> bool:
        fate = Fate(at, effective)
        config = OrchestratorConfig(f"{namespace}-{at}", states_linger_s=0.01)
        try:
            await run_once(broker, config, fate)
        except BaseException as error:
            error.add_note(f"the owner died at write {at}")
            raise
        return fate.dead

    points = itertools.count(1 + int(effective), EVERY)
    died: list[int] = []
    while True:
        chosen = list(itertools.islice(points, AT_ONCE))
        deaths: list[Any] = await asyncio.gather(*(die_at(at) for at in chosen))
        died += [at for at, dead in zip(chosen, deaths, strict=True) if dead]
        if not all(deaths):
            break
    assert max(died) > WRITES_MIN, (
        f"only {max(died)} writes were seen: the scenario does not exercise deletions"
    )
    print(f"died at {len(died)} of {max(died)} writes")
