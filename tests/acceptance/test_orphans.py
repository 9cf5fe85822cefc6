"""Objects of runs that are not there are removed; those of others, and of starts on their way, stay."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any, Final

import msgspec
import pytest
from click.testing import CliRunner
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.brokers import orphans
from dressage.brokers.interface import Message
from dressage.brokers.objects import ObjectDamaged, digest_of, get_object, put_object
from dressage.brokers.orphans import find_orphans, remove_orphan
from dressage.cli.main import main
from dressage.client import Client
from dressage.flow import App, Large, sleep, workflow
from dressage.orchestrator import doctor
from dressage.protocol.commands import StartRun
from dressage.protocol.errors import BadInput
from dressage.protocol.names import root_token

pytestmark = pytest.mark.anyio

DOCUMENT: Final = "a document " * 10_000
DATA: Final = json.dumps(DOCUMENT).encode()

app = App("orphans")


@app.task
def size_of(document: Large[str]) -> int:
    return len(document)


@workflow(name="orphans-measured")
async def measured(document: Large[str]) -> int:
    return await size_of(document)


@workflow(name="orphans-kept")
async def kept(document: Large[str]) -> int:
    await sleep(timedelta(days=365))
    return await size_of(document)


@workflow(name="orphans-parent")
async def parent(document: Large[str]) -> None:
    await kept.start(document)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an hour does cannot be waited for here."""
    monkeypatch.setattr(orphans, "START_S", 0.0)


async def put(client: Client, root: str, data: bytes = DATA) -> str:
    return await put_object(client.connection, client.names, root, data, patience_s=5.0)


async def get(client: Client, root: str, data: bytes = DATA) -> bytes:
    return await get_object(client.connection, client.names, root, await digest_of(data), len(data))


async def found(client: Client, older_s: float = 0.0) -> dict[str, int]:
    orphaned = await find_orphans(client.connection, client.names, older_s)
    return {each.run_id: each.size for each in orphaned}


async def sweep(client: Client) -> dict[str, bool]:
    return {
        each.run_id: await remove_orphan(client.connection, client.names, each)
        for each in await find_orphans(client.connection, client.names, 0.0)
    }


async def stored(client: Client) -> dict[str, int]:
    """Messages of the object store, by subject."""
    state = await client.connection.stream_state(client.names.objects_stream(), client.names.all_objects())
    assert state is not None
    return dict(state.subjects)


async def no_command_left(engine: Engine, client: Client) -> None:
    """Until then a run is known by its commands."""

    async def covered() -> bool:
        for shard in range(engine.shards):
            stream = client.names.shard_stream(shard)
            state = await client.connection.stream_state(stream, client.names.commands(shard))
            if state is None or state.subjects:
                return False
        return True

    await until(covered, "all commands are covered")


async def test_what_a_start_has_stored_that_never_came_is_found_and_removed(sharded: Engine) -> None:
    client = await sharded.registered(measured)
    for run_id in ("never", "spa ce", "~odd"):
        await put(client, root_token(run_id))
    await put(client, "never", DATA[:-1] + b'!"')
    assert await found(client) == {"never": 2 * len(DATA) + 1, "spa ce": len(DATA), "~": len(DATA)}
    assert await found(client, 60.0) == {}, "they are younger than that"
    assert await sweep(client) == {"never": True, "spa ce": True, "~": True}
    assert await stored(client) == {}
    assert await sweep(client) == {}


async def test_a_start_works_after_its_objects_were_removed(engine: Engine) -> None:
    client = await engine.registered(measured)
    await engine.worker(app)
    await put(client, "r")
    await sweep(client)
    assert await (await client.start(measured, {"document": DOCUMENT}, run_id="r")).result(10) == len(
        DOCUMENT
    )


async def test_runs_that_are_there_keep_theirs_whatever_became_of_them(sharded: Engine) -> None:
    client = await sharded.registered(measured, kept)
    await sharded.worker(app)
    await client.start(kept, {"document": DOCUMENT}, run_id="open")
    await (await client.start(measured, {"document": DOCUMENT}, run_id="finished")).result(10)
    await put(client, "finished", b"what nothing refers to")
    before = await stored(client)
    await no_command_left(sharded, client)
    assert await sweep(client) == {}
    assert await stored(client) == before
    assert len({each.split(".")[3] for each in before if ".C." in each}) == 2


async def test_a_child_run_that_lives_on_keeps_those_of_its_root(sharded: Engine) -> None:
    client = await sharded.registered(kept, parent)
    await (await client.start(parent, {"document": DOCUMENT}, run_id="p")).result(10)
    before = await stored(client)
    await client.delete("p")

    async def forgotten() -> bool:
        """Nothing is stored of the parent, of which something would be for minutes."""
        for shard in range(sharded.shards):
            key = client.names.run_key(shard, "p")
            message = await client.connection.last_message(client.names.runs_stream(), key)
            if message is not None and b"gone_format" in message.data:
                await client.connection.purge(client.names.runs_stream(), key, message.seq + 1)
                return True
        return False

    await until(forgotten, "the deletion is stored")
    await no_command_left(sharded, client)
    assert await sweep(client) == {}
    assert await stored(client) == before


async def test_a_start_that_waits_in_a_stream_keeps_those_of_its_run(sharded: Engine) -> None:
    client = await sharded.registered(measured)
    await sharded.down()
    digest = await put(client, "waits")
    given = {"document": {"$large": {"sha256": digest, "size": len(DATA), "encoding": "json"}}}
    start = StartRun("orphans-measured", 1, msgspec.Raw(msgspec.json.encode(given)), "q")
    await client.send("waits", start)
    assert await sweep(client) == {}
    await sharded.up()
    await sharded.worker(app)
    assert await client.handle("waits").result(10) == len(DOCUMENT)


# -- who is faster -------------------------------------------------------------------------------------
async def test_who_finds_an_object_there_keeps_it_from_being_removed(engine: Engine) -> None:
    client = await engine.client()
    await put(client, "r")
    (orphan,) = await find_orphans(client.connection, client.names, 0.0)
    await put(client, "r")
    assert not await remove_orphan(client.connection, client.names, orphan)
    assert await get(client, "r") == DATA


async def test_who_comes_while_it_is_removed_stores_it_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await engine.client()
    connection = client.connection
    await put(client, "r")
    (orphan,) = await find_orphans(connection, client.names, 0.0)
    purge, puts = connection.purge, list[str]()

    async def late(stream: str, subjects: str, below: int) -> None:
        if not puts:
            puts.append(await put(client, "r"))
        await purge(stream, subjects, below)

    monkeypatch.setattr(connection, "purge", late)
    assert await remove_orphan(connection, client.names, orphan)
    assert puts
    assert await get(client, "r") == DATA


@pytest.mark.parametrize("purges", [0, 1])
async def test_a_removal_that_broke_off_is_taken_up_again(
    purges: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await engine.client()
    connection = client.connection
    await put(client, "r")
    (orphan,) = await find_orphans(connection, client.names, 0.0)
    purge, left = connection.purge, [purges]

    async def dying(*arguments: Any) -> None:
        if not left[0]:
            raise ConnectionError
        left[0] -= 1
        await purge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(connection, "purge", dying)
        with pytest.raises(ConnectionError):
            await remove_orphan(connection, client.names, orphan)
    with pytest.raises(ObjectDamaged):
        await get(client, "r")
    assert await sweep(client) == {"r": True}
    assert await stored(client) == {}


async def test_an_object_that_has_lost_its_chunks_is_stored_again(engine: Engine) -> None:
    client = await engine.client()
    await put(client, "r")
    state = await client.connection.stream_state(client.names.objects_stream())
    assert state is not None
    await client.connection.purge(
        client.names.objects_stream(), client.names.object_chunks_of("r"), state.last_seq + 1
    )
    await put(client, "r")
    assert await get(client, "r") == DATA


async def test_what_is_left_of_an_upload_and_what_is_of_no_use_go_and_what_others_keep_there_stays(
    engine: Engine,
) -> None:
    client = await engine.client()
    connection, names = client.connection, client.names
    digest = await put(client, "r")
    broken = names.object_chunks(names.object_nuid("broken", digest, "upload"))
    await connection.publish(Message(broken, b"chunk"))
    await connection.publish(Message(names.object_info("unreadable", digest), b"{"))
    js = (await engine.nats()).jetstream()
    theirs = await js.object_store(names.objects_bucket)
    await theirs.put("reports/2026", b"of somebody else")
    assert await found(client) == {"r": len(DATA), "broken": 5, "unreadable": 0}
    await sweep(client)
    assert (await theirs.get("reports/2026")).data == b"of somebody else"
    assert len(await stored(client)) == 2


# -- the commands --------------------------------------------------------------------------------------
async def test_the_command_shows_first_and_removes_then(engine: Engine) -> None:
    client = await engine.client()
    await put(client, "r")

    async def call(*options: str) -> Any:
        arguments = ["objects", "sweep", "--server", engine.url, "--namespace", engine.namespace, *options]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)

    assert json.loads((await call("--json")).stdout) == [], "it is no day old"
    shown = await call("--older-than", "0s", "--dry-run", "--json")
    assert json.loads(shown.stdout) == [{"run_id": "r", "size": len(DATA), "removed": False}]
    assert await get(client, "r") == DATA
    told = (await call("--older-than", "0s")).stdout
    assert told == (
        f"r: {len(DATA)} bytes, removed\nremoved: {len(DATA)} bytes of 1 runs that are not there\n"
    )
    assert await stored(client) == {}
    assert json.loads((await call("--older-than", "0s", "--json")).stdout) == []
    assert (await call("--older-than", "soon")).exit_code == 2


async def test_the_doctor_tells_of_them(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "START_S", 0.0)
    client = await engine.client()
    arguments = ["doctor", "--server", engine.url, "--namespace", engine.namespace, "--json"]

    async def codes() -> dict[str, str]:
        told = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        return {each["code"]: each["message"] for each in json.loads(told.stdout)["findings"]}

    assert "OBJECTS_ORPHANED" not in await codes()
    await put(client, "r")
    await put(client, "s")
    assert f"{2 * len(DATA)} bytes of large values belong to 2 runs" in (await codes())["OBJECTS_ORPHANED"]


async def test_less_than_an_hour_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "START_S", 3600.0)
    client = await engine.client()
    with pytest.raises(BadInput) as refused:
        await find_orphans(client.connection, client.names, 3599.0)
    assert refused.value.code == "AGE_TOO_SHORT"
