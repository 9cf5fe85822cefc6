"""Deleting runs, holding them, and keeping them for a time, as their users see it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]
from tests.conftest import Start  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.objects import get_object, put_object
from dressage.brokers.provision import ensure_objects, keep_runs
from dressage.client import Client
from dressage.client.finding import query
from dressage.flow import App, sleep, workflow
from dressage.protocol.errors import NotFound, Refused
from dressage.protocol.events import RUN_HEADER
from dressage.protocol.names import Names, run_token
from dressage.protocol.retention import Retention

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


async def test_runs_are_kept_for_as_long_as_their_workflow_says(engine: Engine) -> None:
    client = await engine.registered(deletable, sleeper)
    await engine.worker(app)
    await client.registry.keep("deletable", Retention(0.3))
    await (await client.start(deletable, {"x": 1}, run_id="short")).result(timeout_s=10)
    await client.start(sleeper, run_id="other")
    await client.cancel("other")
    await until(lambda: is_gone(client, "short"), "its time is over")
    assert (await client.get("other")).kept_until == ""


async def test_what_the_namespace_says_holds_for_all_others(engine: Engine) -> None:
    await keep_runs((await engine.client()).connection, engine.names, Retention(3.0))
    client = await engine.registered(deletable, sleeper)
    await client.registry.keep("deletable-sleeper", Retention())
    await engine.worker(app)
    await (await client.start(deletable, {"x": 1}, run_id="short")).result(timeout_s=10)
    await client.start(sleeper, run_id="long")
    await client.cancel("long")
    await until(lambda: is_gone(client, "short"), "its time is over", timeout_s=20)
    assert (await client.get("long")).status == "cancelled"


async def test_a_longer_time_that_is_set_later_counts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dressage.orchestrator.fold.retention.REVIEW_MS", 200)
    client = await engine.registered(deletable)
    await engine.worker(app)
    await client.registry.keep("deletable", Retention(2.0))
    await (await client.start(deletable, {"x": 1}, run_id="r")).result(timeout_s=10)
    assert (await client.get("r")).kept_until
    await client.registry.keep("deletable", Retention())
    reviewed = 0

    async def timers() -> bool:
        nonlocal reviewed
        names = client.names
        found = [
            await client.connection.last_message(names.shard_stream(shard), names.timer(shard, "r", "*"))
            for shard in range(engine.shards)
        ]
        seqs = {each.seq for each in found if each is not None}
        reviewed = max(reviewed, *seqs, 0)
        return bool(seqs)

    await until(timers, "its timer is set")
    first = reviewed
    await until(lambda: timers_moved(timers, lambda: reviewed > first), "it was looked at, and again")
    assert (await client.get("r")).status == "completed"
    await client.registry.keep("deletable", Retention(0.0))
    await until(lambda: is_gone(client, "r"), "its time is over after all")


async def timers_moved(look: object, moved: object) -> bool:
    await look()  # type: ignore[operator]
    return bool(moved())  # type: ignore[operator]


async def test_a_hold_outlives_the_time_and_a_release_makes_up_for_it(engine: Engine) -> None:
    client = await engine.registered(sleeper)
    await client.registry.keep("deletable-sleeper", Retention(0.5))
    await client.start(sleeper, run_id="held")
    await client.start(sleeper, run_id="free")
    await client.hold("held", "a lawsuit")
    for run_id in ("held", "free"):
        await client.cancel(run_id)
    await until(lambda: is_gone(client, "free"), "the time is over")
    assert (await client.get("held")).status == "cancelled"
    await client.release("held")
    await until(lambda: is_gone(client, "held"), "what was overdue")


async def test_a_child_that_cannot_go_at_once_goes_when_it_can(engine: Engine) -> None:
    client = await engine.registered(parent)
    await engine.worker(app)
    await (await client.start(parent, {"x": 1}, run_id="p")).result(timeout_s=10)
    started = [event async for event in client.history("p") if event.kind == "child-started"]
    held, free = [str(msgspec.json.decode(event.data)["run_id"]) for event in started]
    await client.hold(held)
    await client.delete("p")
    await until(lambda: is_gone(client, free), "the other child goes at once")
    assert (await client.get(held)).held is not None
    await client.release(held)
    await until(lambda: is_gone(client, held), "it goes when it is released")


async def test_objects_go_with_the_run_and_those_of_others_stay(engine: Engine) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    await ensure_objects(client.connection, client.names, replicas=1)
    digests: dict[str, str] = {}
    for run_id in ("a", "b"):
        digests[run_id] = await put_object(
            client.connection, client.names, run_id, run_id.encode() * 1000, patience_s=5.0
        )
        await (await client.start(deletable, {"x": 1}, run_id=run_id)).result(timeout_s=10)
    await client.delete("a")

    async def removed() -> bool:
        subject = client.names.object_info("a", digests["a"])
        return await client.connection.last_message(client.names.objects_stream(), subject) is None

    await until(removed, "its objects are removed")
    assert await get_object(client.connection, client.names, "b", digests["b"], 1000) == b"b" * 1000


async def test_sql_forgets_a_deleted_run_and_keeps_the_next_one_of_its_id(
    engine: Engine, tmp_path: Path
) -> None:
    client = await engine.registered(deletable)
    await engine.worker(app)
    broker = await JetStreamBroker(engine.url).connect("test")
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):

        async def asked(sql: str) -> list[list[object]]:
            return [list(row) for row in (await query(broker, Names(engine.namespace), sql)).rows]

        async def comes_to(sql: str, rows: list[list[object]]) -> bool:
            return await asked(sql) == rows

        for run_id in ("r", "s"):
            await (await client.start(deletable, {"x": 1}, run_id=run_id)).result(timeout_s=10)
        runs = "SELECT run_id, status FROM runs ORDER BY run_id"
        both: list[list[object]] = [["r", "completed"], ["s", "completed"]]
        await until(lambda: comes_to(runs, both), "SQL knows both")
        await client.delete("r", "of no use", actor="ann")
        await until(lambda: comes_to(runs, [["s", "completed"]]), "SQL has forgotten it")
        events = "SELECT kind, actor FROM events WHERE run_id = 'r'"
        assert await asked(events) == [["run-deleted", "ann"]]
        for table in ("attempt_starts", "attempt_ends", "variable_changes", "run_starts", "run_ends"):
            assert await asked(f"SELECT count(*) FROM {table} WHERE run_id = 'r'") == [[0]]
        await (await client.start(deletable, {"x": 7}, run_id="r")).result(timeout_s=10)
        await until(lambda: comes_to(runs, both), "SQL knows the next one")
        assert await asked("SELECT count(*) FROM index_breaks") == [[0]]
    await broker.close()


async def test_the_command_line_holds_releases_deletes_and_says_for_how_long(
    engine: Engine, start: Start
) -> None:
    client = await engine.registered(sleeper)

    async def said(*arguments: str, code: int = 0) -> str:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        assert await asyncio.to_thread(program.ended) == code, program.said
        return program.said

    await client.start(sleeper, run_id="c")
    await said("run", "hold", "c", "--reason", "a lawsuit", "--actor", "ann")
    assert "by ann: a lawsuit" in await said("run", "get", "c")
    assert "RUN_HELD" in await said("run", "delete", "c", "--cancel", code=1)
    assert (await client.get("c")).status == "running"
    await said("run", "release", "c")
    assert "RUN_OPEN" in await said("run", "delete", "c", code=1)
    await said("run", "delete", "c", "--cancel")
    assert "RUN_UNKNOWN" in await said("run", "delete", "c", code=1)
    assert "kept for 30d, then deleted" in await said("retention", "set", "30d")
    told = await said("retention", "set", "12h", "--workflow", "deletable-sleeper", "--events")
    assert "kept for 12h, then deleted with their output events" in told
    shown = await said("retention", "show")
    assert "kept for 30d, then deleted" in shown
    assert "deletable-sleeper" in shown
    await said("retention", "clear", "deletable-sleeper")
    assert "deletable-sleeper" not in await said("retention", "show")
    assert "30d" in await said("retention", "set", "3 weeks", code=2)


async def test_the_micro_service_deletes_holds_and_releases(engine: Engine) -> None:
    client = await engine.registered(sleeper)
    await client.start(sleeper, run_id="r")
    assert (await engine.call("delete", {"run_id": "r"}))["code"] == "RUN_OPEN"
    assert (await engine.call("hold", {"run_id": "r", "reason": "why"}))["ok"]
    await client.cancel("r")
    assert (await engine.call("delete", {"run_id": "r"}))["code"] == "RUN_HELD"
    assert (await engine.call("release", {"run_id": "r"}))["ok"]
    assert (await engine.call("delete", {"run_id": "r", "events": True}))["ok"]
    assert (await engine.call("get", {"run_id": "r"}))["code"] == "RUN_UNKNOWN"
