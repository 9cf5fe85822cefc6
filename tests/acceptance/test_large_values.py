"""Values above the message limit travel beside the messages, and nobody who takes part notices."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from dressage.brokers.interface import Message
from dressage.brokers.objects import ObjectDamaged, delete_objects_of, put_object
from dressage.brokers.provision import ensure_objects
from dressage.client import Client
from dressage.client.client import RunFailed
from dressage.flow import App, Event, Large, gather, workflow
from dressage.protocol.commands import StartRun, encoder
from dressage.protocol.errors import BadInput, BrokerError, NotFound, Refused
from dressage.protocol.large import INLINE_BYTES_MAX
from dressage.protocol.names import root_token

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

ROOT: Final = Path(__file__).resolve().parents[2]
MIB: Final = 1024 * 1024
WORDS: Final = "a document, and what is in it. "
DOCUMENT: Final = WORDS * (20 * MIB // len(WORDS))
SMALLER: Final = WORDS * (3 * MIB // len(WORDS))

app = App("large")
came = Event("document-came", of=Large[str])
seen: list[int] = []


@dataclass
class Report:
    title: str
    text: Large[str]


@app.task(retries=3)
def shout(document: Large[str]) -> Large[str]:
    seen.append(len(document))
    return document.upper()


@app.task
async def report(title: str, texts: list[Large[str]]) -> Report:
    return Report(title, "".join(texts))


@workflow(name="large-inner")
async def inner(document: Large[str]) -> Large[str]:
    return await shout(document)


@workflow(name="large-outer")
async def outer(document: Large[str], title: str = "loud") -> Report:
    one, two = await gather(inner(document), shout("and more"))
    return await report(title, [one, two])


@workflow(name="large-waits")
async def waits() -> Large[str]:
    return await shout(await came.wait())


async def stored(client: Client) -> int:
    """How many messages the object store holds."""
    state = await client.connection.stream_state(client.names.objects_stream())
    assert state is not None
    return state.messages


async def test_a_document_of_20_mb_goes_through_start_task_child_run_and_result(engine: Engine) -> None:
    client = await engine.registered(inner, outer)
    await engine.worker(app)
    handle = await client.start(outer, {"document": DOCUMENT}, run_id="r")
    assert await handle.result(timeout_s=60) == Report("loud", DOCUMENT.upper() + "AND MORE")


async def test_readers_see_its_digest_and_size_and_never_its_bytes(engine: Engine) -> None:
    client = await engine.registered(inner, outer)
    await engine.worker(app)
    handle = await client.start(outer, {"document": SMALLER}, run_id="r")
    await handle.result(timeout_s=30)
    json = msgspec.json.encode(SMALLER)
    reference = {"sha256": hashlib.sha256(json).hexdigest(), "size": len(json), "encoding": "json"}
    assert (await client.get("r")).input == {"document": {"$large": reference}, "title": "loud"}
    history = [event async for event in handle.history()]
    started = msgspec.json.decode(msgspec.json.encode(history[0].data))
    assert started["input"]["document"] == {"$large": reference}
    assert all(len(msgspec.json.encode(event)) < 4_000 for event in history)
    assert len(msgspec.json.encode(await engine.call("wait", {"run_id": "r"}))) < 4_000


async def test_by_name_the_result_is_plain_json(engine: Engine) -> None:
    client = await engine.registered(inner, outer)
    await engine.worker(app)
    handle = await client.start("large-outer", {"document": SMALLER, "title": "t"})
    assert await handle.result(timeout_s=30) == {"title": "t", "text": SMALLER.upper() + "AND MORE"}
    assert await client.handle(handle.run_id).result() == await handle.result()


async def test_an_external_event_brings_one(engine: Engine) -> None:
    client = await engine.registered(waits)
    await engine.worker(app)
    handle = await client.start(waits)
    await handle.post(came, SMALLER)
    assert await handle.result(timeout_s=30) == SMALLER.upper()


async def test_an_event_that_comes_before_its_run_does_too(engine: Engine) -> None:
    client = await engine.registered(waits)
    await engine.worker(app)
    assert (await client.post("early", came, SMALLER)).early
    assert await (await client.start(waits, run_id="early")).result(timeout_s=30) == SMALLER.upper()


@pytest.mark.limit("protocol.large.INLINE_BYTES_MAX")
async def test_small_ones_are_not_stored(engine: Engine) -> None:
    client = await engine.registered(inner)
    await engine.worker(app)
    text = "x" * (INLINE_BYTES_MAX - 2)
    assert await (await client.start(inner, {"document": text})).result(timeout_s=10) == text.upper()
    assert await stored(client) == 0
    text += "x"
    assert await (await client.start(inner, {"document": text})).result(timeout_s=10) == text.upper()
    assert (
        await stored(client) == 4
    )  # what is given and what comes of it, each a chunk and what is said of it


async def test_the_same_start_again_is_the_same_run_and_stores_nothing_more(engine: Engine) -> None:
    client = await engine.registered(inner)
    await client.start(inner, {"document": SMALLER}, run_id="r")
    before = await stored(client)
    assert (await client.start(inner, {"document": SMALLER}, run_id="r")).existing
    assert await stored(client) == before
    with pytest.raises(Refused) as refused:
        await client.start(inner, {"document": SMALLER + "."}, run_id="r")
    assert refused.value.code == "RUN_ID_CONFLICT"


async def test_deleting_takes_what_a_run_and_its_child_runs_have_stored(engine: Engine) -> None:
    client = await engine.registered(inner, outer)
    await engine.worker(app)
    for run_id in ("r", "s"):
        await (await client.start(outer, {"document": SMALLER}, run_id=run_id)).result(timeout_s=30)
    await delete_objects_of(client.connection, client.names, root_token("r"))
    assert await (client.handle("s")).result() is not None
    with pytest.raises(ObjectDamaged, match="is not in the object store"):
        await client.handle("r").result()
    await delete_objects_of(client.connection, client.names, root_token("s"))
    assert await stored(client) == 0


async def test_a_restart_of_the_orchestrator_changes_nothing(engine: Engine) -> None:
    client = await engine.registered(inner, outer)
    handle = await client.start(outer, {"document": SMALLER}, run_id="r")
    await engine.down()
    await engine.up()
    await engine.worker(app)
    assert await handle.result(timeout_s=30) == Report("loud", SMALLER.upper() + "AND MORE")


def start_with(given: Any) -> bytes:
    """The command of whoever writes commands themselves."""
    return encoder.encode(StartRun("large-inner", 1, msgspec.Raw(msgspec.json.encode(given)), "q"))


# -- what may go wrong -----------------------------------------------------------------------------
async def failed(client: Client, run_id: str) -> RunFailed:
    with pytest.raises(RunFailed) as failure:
        await client.handle(run_id).result(timeout_s=20)
    return failure.value


async def attempts(client: Client, run_id: str) -> int:
    return [event.kind async for event in client.history(run_id)].count("task-scheduled")


async def test_a_damaged_one_fails_the_attempt_once_and_for_all(engine: Engine) -> None:
    client = await engine.registered(inner)
    await client.start(inner, {"document": SMALLER}, run_id="r")
    connection, stream = client.connection, client.names.objects_stream()
    state = await connection.stream_state(stream, client.names.all_object_chunks())
    assert state is not None
    (subject,) = state.subjects
    chunk = await connection.next_message(stream, 1, subject)
    assert chunk is not None
    # The same size, and one byte is another one.
    await connection.purge(stream, subject, chunk.seq + 1)
    await connection.publish(Message(subject, chunk.data[:-1] + b"!"))
    await engine.worker(app)
    failure = (await failed(client, "r")).failure
    assert (failure.name, failure.kind) == ("large-value-missing", "type-error")
    assert "is damaged" in failure.message
    assert await attempts(client, "r") == 1


async def test_one_that_is_not_there_does_too(engine: Engine) -> None:
    client = await engine.registered(inner)
    await client.start(inner, {"document": SMALLER}, run_id="r")
    await delete_objects_of(client.connection, client.names, "r")
    await engine.worker(app)
    assert "is not in the object store" in (await failed(client, "r")).failure.message
    assert await attempts(client, "r") == 1


async def test_as_long_as_the_store_cannot_be_reached_no_attempt_is_used_up(
    engine: Engine, caplog: pytest.LogCaptureFixture, until: Callable[..., Awaitable[None]]
) -> None:
    client = await engine.registered(inner)
    handle = await client.start(inner, {"document": SMALLER}, run_id="r")
    js = (await engine.nats()).jetstream()
    await js.delete_stream(client.names.objects_stream())
    await engine.worker(app)
    await until(lambda: "cannot be fetched, or stored" in caplog.text, "the worker has tried")
    await ensure_objects(client.connection, client.names, replicas=1)
    json = msgspec.json.encode(SMALLER)
    await put_object(client.connection, client.names, "r", json, patience_s=10.0)
    assert await handle.result(timeout_s=30) == SMALLER.upper()
    assert await attempts(client, "r") == 1


async def test_a_reference_to_what_another_run_has_stored_leads_nowhere(engine: Engine) -> None:
    client = await engine.registered(inner)
    await client.start(inner, {"document": SMALLER}, run_id="rich")
    reference: Any = (await client.get("rich")).input
    command = start_with(reference)
    assert (await engine.send_raw("poor", command))["accepted"]
    await engine.worker(app)
    assert "poor/" in (await failed(client, "poor")).failure.message
    assert await client.handle("rich").result(timeout_s=20) == SMALLER.upper()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"$large": {"sha256": "00", "size": 1}}, "malformed"),
        ({"$large": {"sha256": "0" * 64, "size": -1}}, "malformed"),
        ({"$large": {"sha256": "0" * 64, "size": 1 << 40}}, "malformed"),
        ({"$large": {"sha256": "0" * 64, "size": 1, "run": "another"}}, "malformed"),
        ({"$large": {"sha256": "0" * 64, "size": 1}, "more": 1}, "no other"),
        (5, "Expected str, got int"),
    ],
)
async def test_what_is_neither_a_value_nor_a_reference_is_refused(
    given: Any, said: str, engine: Engine
) -> None:
    client = await engine.registered(inner)
    command = start_with({"document": given})
    answer = await engine.send_raw("r", command)
    assert (answer["accepted"], answer["code"]) == (False, "INPUT_INVALID")
    assert said in answer["message"]
    assert "document" in answer["message"]
    assert await stored(client) == 0


async def test_an_encoding_that_a_worker_does_not_know_fails_the_attempt(engine: Engine) -> None:
    client = await engine.registered(inner)
    reference = {"sha256": "0" * 64, "size": 1, "encoding": "json+age"}
    command = start_with({"document": {"$large": reference}})
    assert (await engine.send_raw("r", command))["accepted"]
    await engine.worker(app)
    assert "'json+age'" in (await failed(client, "r")).failure.message


@pytest.mark.limit("protocol.large.LARGE_VALUE_BYTES_MAX")
async def test_the_largest_value_goes_and_a_larger_one_is_refused_by_whoever_makes_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 1_000_000
    monkeypatch.setattr("dressage.client.large.LARGE_VALUE_BYTES_MAX", most)
    client = await engine.registered(inner, outer)
    await engine.worker(app)
    text = "x" * (most - 2)
    assert await (await client.start(inner, {"document": text})).result(timeout_s=20) == text.upper()
    with pytest.raises(BadInput, match=r"1000001 bytes of 1000000 .*limit large-value-size") as refused:
        await client.start(inner, {"document": text + "x"})
    assert refused.value.code == "VALUE_TOO_LARGE"
    # The two texts of the report are one together.
    handle = await client.start(outer, {"document": text})
    failure = (await failed(client, handle.run_id)).failure
    assert (failure.name, failure.kind) == ("large-value-size", "limit")


async def test_a_start_that_cannot_store_sends_nothing(engine: Engine) -> None:
    client = await engine.registered(inner)
    js = (await engine.nats()).jetstream()
    await js.delete_stream(client.names.objects_stream())
    with pytest.raises(BrokerError, match="stream"):
        await client.start(inner, {"document": SMALLER}, run_id="r", timeout_s=5)
    with pytest.raises(NotFound):
        await client.get("r")


KILLED = """
import asyncio, os, signal
from dressage.brokers import objects
from dressage.worker import Worker, WorkerConfig
from tests.acceptance.test_large_values import app

put = objects.put_object

async def put_and_die(*args, **options):
    await put(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)

objects.put_object = put_and_die
asyncio.run(Worker({url!r}, app, WorkerConfig({namespace!r})).run())
"""


async def test_a_worker_that_is_killed_between_upload_and_result_loses_and_doubles_nothing(
    engine: Engine, start: Start
) -> None:
    client = await engine.registered(inner)
    handle = await client.start(inner, {"document": SMALLER}, run_id="r")
    program = KILLED.format(url=engine.url, namespace=engine.namespace)
    killed = start("-c", program, python=True, env={"PYTHONPATH": str(ROOT)})
    assert await asyncio.to_thread(killed.process.wait, 30) == -9, killed.said
    uploaded = await stored(client)
    await engine.worker(app)
    # The broker gives the attempt to the next worker when it has not heard of it for as long as it waits.
    assert await handle.result(timeout_s=90) == SMALLER.upper()
    assert await stored(client) == uploaded
    assert await attempts(client, "r") == 1
