"""Deleting runs, holding them, and keeping them for a time, as their users see it."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import App, sleep, workflow
from dressage.protocol.errors import NotFound, Refused
from dressage.protocol.events import RUN_HEADER
from dressage.protocol.names import Names, run_token

pytestmark = pytest.mark.anyio

app = App("deletes")


@app.task
async def add(x: int) -> int:
    return x + 1


@workflow(name="deletable")
async def deletable(x: int) -> int:
    return await add(x)


@workflow(name="deletable-sleeper")
async def sleeper() -> int:
    await sleep(timedelta(days=365))
    return 1


@workflow(name="deletable-parent")
async def parent(x: int) -> int:
    return await deletable(x) + await deletable(x + 1)


async def is_gone(client: Client, run_id: str) -> bool:
    try:
        await client.get(run_id)
    except NotFound:
        return True
    return False


async def stored_events(client: Client, run_id: str) -> list[str]:
    """The kinds of the output events that the stream has of a run."""
    names, found, seq = client.names, list[str](), 0
    while True:
        message = await client.connection.next_message(names.events_stream, seq + 1, names.all_events())
        if message is None:
            return found
        seq = message.seq
        if (message.headers or {}).get(RUN_HEADER) == run_token(run_id):
            found.append(message.subject.split(".")[-2])


async def refusal(awaitable: object) -> str:
    with pytest.raises(Refused) as refused:
        await awaitable  # type: ignore[misc]
    return refused.value.code


async def test_a_run_that_has_ended_is_deleted_and_its_id_is_free(engine: Engine) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    handle = await client.start(deletable, {"x": 1}, run_id="order-1")
    assert await handle.result(timeout_s=10) == 2
    await client.delete("order-1", "of no use")
    assert await is_gone(client, "order-1")
    again = await client.start(deletable, {"x": 5}, run_id="order-1")
    assert not again.existing
    assert await again.result(timeout_s=10) == 6
    kinds = [event.kind async for event in client.history("order-1")]
    assert (kinds[0], kinds[-1]) == ("run-started", "run-completed")
    assert kinds.count("run-started") == 1


async def test_what_runs_or_is_not_there_is_not_deleted(engine: Engine) -> None:
    client = await engine.registered(sleeper)
    await client.start(sleeper, run_id="s")
    assert await refusal(client.delete("s")) == "RUN_OPEN"
    assert await refusal(client.delete("nobody")) == "RUN_UNKNOWN"
    await client.cancel("s")
    await client.delete("s")
    assert await is_gone(client, "s")


async def test_a_repeated_deletion_is_the_same_and_deletes_no_other_run(engine: Engine) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    await (await client.start(deletable, {"x": 1}, run_id="r")).result(timeout_s=10)
    await client.delete("r", command_id="once")
    await client.delete("r", command_id="once")
    await (await client.start(deletable, {"x": 2}, run_id="r")).result(timeout_s=10)
    await client.get("r")


async def test_events_go_too_if_that_is_wanted_and_those_of_others_stay(engine: Engine) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    for run_id in ("a", "b"):
        await (await client.start(deletable, {"x": 1}, run_id=run_id)).result(timeout_s=10)

    async def told() -> bool:
        return "run-completed" in await stored_events(client, "b")

    await until(told, "the events are stored")
    before = await stored_events(client, "b")

    async def only_the_last() -> bool:
        return await stored_events(client, "a") == ["run-deleted"]

    await client.delete("a", events=True)
    await until(only_the_last, "the events are removed")
    assert await stored_events(client, "b") == before


async def test_children_go_with_their_parent(engine: Engine) -> None:
    client = await engine.registered(parent)
    await engine.worker(app)
    assert await (await client.start(parent, {"x": 1}, run_id="p")).result(timeout_s=10) == 5
    started = [event async for event in client.history("p") if event.kind == "child-started"]
    children = [str(msgspec.json.decode(event.data)["run_id"]) for event in started]
    assert len(children) == 2
    assert await refusal(client.delete(children[0])) == "RUN_OWNED"
    await client.delete("p")
    for child in children:
        await until(lambda child=child: is_gone(client, child), f"{child} is gone")


async def test_what_is_held_stays_until_it_is_released(engine: Engine) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    await (await client.start(deletable, {"x": 1}, run_id="r")).result(timeout_s=10)
    await client.hold("r", "a lawsuit", actor="legal")
    await client.hold("r", "another one")
    assert await refusal(client.delete("r")) == "RUN_HELD"
    view = await client.get("r")
    assert view.held is not None
    assert (view.held.reason, view.held.actor) == ("a lawsuit", "legal")
    await client.release("r")
    await client.delete("r")
    assert await is_gone(client, "r")


async def test_a_key_of_the_bucket_is_emptied_once_nobody_needs_to_know(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dressage.orchestrator.fold.retention.FORGET_MS", 500)
    monkeypatch.setattr("dressage.orchestrator.turn.behind.EMPTY_S", 1)
    client = await engine.registered(deletable)
    await engine.worker(app)
    await (await client.start(deletable, {"x": 1}, run_id="r")).result(timeout_s=10)
    await client.delete("r")
    names = Names(engine.namespace)

    async def is_empty() -> bool:
        keys = [
            await client.connection.last_message(names.runs_stream(), names.run_key(shard, "r"))
            for shard in range(engine.shards)
        ]
        return all(key is None for key in keys)

    await until(is_empty, "the key is gone from the bucket", timeout_s=15)
    assert await is_gone(client, "r")
    await (await client.start(deletable, {"x": 2}, run_id="r")).result(timeout_s=10)


async def test_it_is_gone_after_another_orchestrator_took_over(engine: Engine) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    await (await client.start(deletable, {"x": 1}, run_id="r")).result(timeout_s=10)
    await client.delete("r")
    await engine.down()
    await engine.up()
    assert await is_gone(client, "r")
