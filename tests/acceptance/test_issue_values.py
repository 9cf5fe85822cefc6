"""Large values, as the issue asks for them: by reference, transparently, and gone when their run is deleted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunCancelled, RunFailed
from dressage.flow import (
    App,
    Event,
    Exponential,
    Large,
    Masked,
    Saga,
    UserTask,
    Workflow,
    first_completed,
    gather,
    interruptible,
    publish,
    sleep,
    workflow,
)
from dressage.protocol.errors import BadInput, DefinitionError, DressageError, NotFound, Refused
from dressage.testing import WorkflowTest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

MIB: Final = 1024 * 1024
TEXT: Final = "a long contract. " * (3 * MIB // 17)
"""Three times what a message may have."""

app = App("issue-values")
came = Event("issue-values-came", of=Large[str])
go = Event("issue-values-go", of=str)


@dataclass
class Floor:
    done: list[str] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.free = [], threading.Event()


@dataclass
class Page:
    number: int
    text: Large[str]


@dataclass
class Book:
    title: str
    pages: list[Page]
    notes: dict[str, Large[str]]
    cover: Large[bytes | None] = None


@dataclass
class Secret:
    card: Masked[str]
    scan: Large[str]


@app.task
async def shout(text: Large[str]) -> Large[str]:
    floor.done.append("shout")
    return text.upper()


@app.task
async def length(text: Large[str]) -> int:
    return len(text)


@app.task(retries=3, backoff=Exponential(base=timedelta(milliseconds=20), limit=timedelta(milliseconds=20)))
async def shaky(text: Large[str]) -> Large[str]:
    floor.done.append(f"shaky {len(text)}")
    if len(floor.done) < 3:
        raise OSError("down")
    return text.upper()


@app.task
def deaf(text: Large[str]) -> Large[str]:
    """Hears of no cancelling, as a sync handler that never looks."""
    floor.done.append("deaf")
    floor.free.wait(30)
    return f"late {text}"


@app.task(exhausted="wait")
async def patient(text: Large[str]) -> Large[str]:
    floor.done.append("patient")
    if len(floor.done) == 1:
        raise OSError("down")
    return text.upper()


@app.task
async def bind(title: str, texts: list[Large[str]]) -> Book:
    pages = [Page(number, text) for number, text in enumerate(texts)]
    return Book(title, pages, {"first": texts[0], "short": "short"}, texts[0].encode())


@app.task
async def reread(book: Book) -> Book:
    return Book(book.title.upper(), book.pages[::-1], book.notes, book.cover)


@app.task
async def page(number: int) -> Large[str]:
    return f"{number} " * MIB


@app.task
async def many(book: Book) -> int:
    return sum(len(each.text) for each in book.pages)


@app.task
async def charge(secret: Secret) -> Secret:
    floor.done.append(secret.card)
    return Secret(f"{secret.card}-charged", secret.scan.upper())


@app.task
async def archive(text: Large[str]) -> None:
    floor.done.append(f"archived {len(text)}")


@app.task
async def too_much() -> Large[bytes]:
    return bytes(200 * MIB)  # base64 in JSON: above 256 MiB


@app.task
async def too_much_for_a_message() -> str:
    return TEXT


@workflow
async def values_through(text: Large[str]) -> Large[str]:
    return await shout(text)


@workflow
async def values_back(text: Large[str]) -> Large[str]:
    return text


@workflow
async def values_book(title: str, text: Large[str]) -> Book:
    book = await bind(title, [text, await shout(text)])
    return await reread(book)


@workflow
async def values_book_in(book: Book) -> Book:
    return await reread(book)


@workflow
async def values_leaf(text: Large[str]) -> Large[str]:
    return await shout(text)


@workflow
async def values_middle(text: Large[str]) -> Large[str]:
    return await values_leaf(text)


@workflow
async def values_root(text: Large[str]) -> int:
    loud = await values_middle(text)
    return await length(loud)


@workflow
async def values_waiting(text: Large[str]) -> Large[str]:
    await go.wait()
    return await shout(text)


@workflow
async def values_abandons(text: Large[str]) -> str:
    return await values_waiting.start(text)


@workflow
async def values_abandons_and_shouts(text: Large[str]) -> Large[str]:
    await values_waiting.start(text)
    return await shout(text)


@workflow
async def values_shaky(text: Large[str]) -> Large[str]:
    return await shaky(text)


@workflow
async def values_deaf(text: Large[str]) -> Large[str]:
    return await deaf(text)


@workflow
async def values_patient(text: Large[str]) -> Large[str]:
    return await patient(text)


@workflow
async def values_each(texts: list[Large[str]]) -> list[Large[str]]:
    loud = await gather(*(shout(text) for text in texts), limit=2)
    return list(loud)


@workflow
async def values_interrupted(text: Large[str]) -> Large[str]:
    async def body() -> Large[str]:
        await go.wait()
        return await shout(text)

    async def replaced(by: Large[str]) -> None:
        await archive(by)

    return await interruptible(body(), came.interrupts(replaced))


@workflow
async def values_event() -> Large[str]:
    return await shout(await came.wait())


@workflow
async def values_race(text: Large[str]) -> Large[str]:
    async def patient() -> Large[str]:
        loud = await shout(text)
        await sleep(timedelta(days=300))
        return loud

    _, first = await first_completed(patient(), shout(text))
    return first


@workflow
async def values_pages(count: int) -> int:
    pages: list[Large[str]] = []
    for number in range(count):
        one = await page(number)
        pages = [*pages, one]
    book = await bind("pages", pages)
    again = await reread(book)
    return await many(again)


@workflow
async def values_saga(text: Large[str]) -> None:
    async with Saga() as saga:
        saga.undo(archive, text)
        await go.wait()


@workflow
async def values_masked(secret: Secret) -> Secret:
    charged = await charge(secret)
    await go.wait()
    return charged


@workflow
async def values_too_much() -> Large[bytes]:
    return await too_much()


@workflow
async def values_not_large(text: str) -> str:
    return await too_much_for_a_message()


@workflow
async def values_strict(text: Large[str], number: int) -> Large[str]:
    return await shout(text) if number else text


async def stored(engine: Engine) -> int:
    """How many messages the namespace's object store has."""
    js = (await engine.nats()).jetstream()
    return (await js.stream_info(f"OBJ_dressage_{engine.namespace}_objects")).state.messages


async def empty(engine: Engine, until: Until) -> None:
    async def nothing() -> bool:
        return await stored(engine) == 0

    await until(nothing, "nothing is left in the object store")


def reference_of(value: object) -> dict[str, Any]:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return {
        "$large": {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text), "encoding": "json"},
    }


async def ended(client: Client, run_id: str) -> str:
    return (await client.wait(run_id, timeout_s=20)).status


# -- transparently -------------------------------------------------------------------------------------------------
async def test_inputs_outputs_and_results_above_the_message_limit_travel(sharded: Engine) -> None:
    client = await sharded.registered(values_through)
    await sharded.worker(app)
    run = await client.start(values_through, {"text": TEXT})
    assert await run.result(30) == TEXT.upper()


async def test_readers_see_references_where_the_values_are_and_never_a_byte_of_them(engine: Engine) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    run = await client.start(values_through, {"text": TEXT}, run_id="r")
    await run.result(30)
    view = await client.get("r")
    assert view.input == {"text": reference_of(TEXT)}
    assert json.loads(bytes(view.output or b"")) == reference_of(TEXT.upper())
    got = await engine.call("get", {"run_id": "r"})
    assert got["run"]["output"] == reference_of(TEXT.upper())
    js = (await engine.nats()).jetstream()
    for stream in (f"dressage_{engine.namespace}_events", f"KV_dressage_{engine.namespace}_runs"):
        state = (await js.stream_info(stream)).state
        assert state.messages > 0
        assert state.bytes < 50_000, stream


async def test_values_nested_in_records_lists_dicts_and_unions_travel_both_ways(engine: Engine) -> None:
    client = await engine.registered(values_book, values_book_in)
    await engine.worker(app)
    run = await client.start(values_book, {"title": "law", "text": TEXT})
    book = await run.result(40)
    assert book == Book(
        "LAW",
        [Page(1, TEXT.upper()), Page(0, TEXT)],
        {"first": TEXT, "short": "short"},
        TEXT.encode(),
    )
    again = await client.start(values_book_in, {"book": book})
    assert (await again.result(40)).pages == book.pages[::-1]
    without = Book("none", [], {}, None)
    assert await (await client.start(values_book_in, {"book": without})).result(20) == Book(
        "NONE", [], {}, None
    )


async def test_values_go_through_child_runs_and_theirs(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(values_leaf, values_middle, values_root)
    await sharded.worker(app)
    run = await client.start(values_root, {"text": TEXT}, run_id="root")
    assert await run.result(40) == len(TEXT)
    assert await stored(sharded) > 0
    await client.delete("root")
    await empty(sharded, until)


async def test_a_branch_for_each_of_a_list_of_large_values(engine: Engine, until: Until) -> None:
    client = await engine.registered(values_each)
    await engine.worker(app)
    texts = [TEXT, "short", TEXT[::-1]]
    run = await client.start(values_each, {"texts": texts})
    assert await run.result(40) == [text.upper() for text in texts]
    await client.delete(run.run_id)
    await empty(engine, until)


async def test_an_event_that_interrupts_brings_one_to_its_handler(engine: Engine) -> None:
    client = await engine.registered(values_interrupted)
    await engine.worker(app)
    run = await client.start(values_interrupted, {"text": "first"})
    await run.post(came, TEXT)
    await run.wait_for_event("interrupt-ended", timeout_s=20)
    assert floor.done == [f"archived {len(TEXT)}"]
    await run.post(go, "x")
    assert await run.result(30) == "FIRST"


async def test_a_dead_task_that_is_retried_has_its_value(engine: Engine) -> None:
    client = await engine.registered(values_patient)
    await engine.worker(app)
    run = await client.start(values_patient, {"text": TEXT})
    view = await client.wait_for_state(run.run_id, lambda view: bool(view.dead_tasks), timeout_s=20)
    await client.retry_task(run.run_id, view.dead_tasks[0].task_id)
    assert await run.result(30) == TEXT.upper()


async def test_a_workflow_without_tasks_hands_back_what_it_was_given(engine: Engine) -> None:
    client = await engine.registered(values_back)
    run = await client.start(values_back, {"text": TEXT})
    assert await run.result(20) == TEXT
    looks_like_one = json.dumps(reference_of("nobody's"))
    again = await client.start(values_back, {"text": looks_like_one})
    assert await again.result(20) == looks_like_one


async def test_an_event_brings_one_also_to_a_stopped_run(engine: Engine) -> None:
    client = await engine.registered(values_event)
    await engine.worker(app)
    run = await client.start(values_event)
    await client.stop(run.run_id)
    await run.post(came, TEXT)
    await client.resume(run.run_id)
    assert await run.result(20) == TEXT.upper()


async def test_many_values_of_a_loop_together_above_every_limit_of_a_state(engine: Engine) -> None:
    client = await engine.registered(values_pages)
    await engine.worker(app)
    run = await client.start(values_pages, {"count": 6})
    assert await run.result(60) == 6 * 2 * MIB


async def test_a_retried_attempt_gets_the_value_again_and_stores_its_result_once(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_shaky)
    await engine.worker(app)
    run = await client.start(values_shaky, {"text": TEXT})
    assert await run.result(30) == TEXT.upper()
    assert floor.done == [f"shaky {len(TEXT)}"] * 3
    await client.delete(run.run_id)
    await empty(engine, until)


async def test_the_engine_and_the_unit_test_tell_the_same_references(engine: Engine) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    run = await client.start(values_through, {"text": TEXT})
    await run.result(30)
    tested = WorkflowTest(values_through, app).run(TEXT)
    assert tested.result == TEXT.upper()
    told = [event async for event in run.history()]
    kinds = [event.kind for event in tested.events]
    assert [event.kind for event in told] == kinds
    output = reference_of(TEXT.upper())["$large"]["sha256"]
    assert output in json.dumps(tested.events[-1].data)
    assert output.encode() in bytes(told[-1].data)


async def test_a_compensation_gets_its_value_when_the_run_is_cancelled(engine: Engine, until: Until) -> None:
    client = await engine.registered(values_saga)
    await engine.worker(app)
    run = await client.start(values_saga, {"text": TEXT})
    await run.cancel("over")
    assert await ended(client, run.run_id) == "cancelled"
    assert floor.done == [f"archived {len(TEXT)}"]
    await client.delete(run.run_id)
    await empty(engine, until)


async def test_any_language_and_the_command_line_start_a_run_with_one(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    middle = "x" * 100_000  # more than travels as it is, and a message takes it
    answer = await engine.call(
        "start", {"workflow": "values-through", "input": {"text": middle}, "run_id": "a"}
    )
    assert answer["ok"], answer
    assert await client.handle("a").result(20) == middle.upper()
    (tmp_path / "input.json").write_text(json.dumps({"text": TEXT}))
    place = ("--server", engine.url, "--namespace", engine.namespace)
    options = ("--input", f"@{tmp_path / 'input.json'}", "--run-id", "c", "--wait")
    program = start("run", "start", "values-through", *options, *place)
    assert await asyncio.to_thread(program.ended) == 0, program.said[:2000]
    assert reference_of(TEXT.upper())["$large"]["sha256"] in program.said
    assert len(program.said) < 2000
    assert await client.handle("c").result(20) == TEXT.upper()


# -- masked, refused, too large ------------------------------------------------------------------------------------
async def test_masked_values_beside_large_ones_stay_masked(engine: Engine) -> None:
    client = await engine.registered(values_masked)
    await engine.worker(app)
    run = await client.start(values_masked, {"secret": Secret("4711-0815", TEXT)}, run_id="m")
    await client.post("m", go, "x")
    assert await run.result(30) == Secret("4711-0815-charged", TEXT.upper())
    view = await client.get("m")
    assert view.input == {"secret": {"card": "***", "scan": reference_of(TEXT)}}
    assert json.loads(bytes(view.output or b"")) == {"card": "***", "scan": reference_of(TEXT.upper())}
    told = b"".join([bytes(event.data) async for event in run.history()])
    assert b"***" in told
    assert b"4711" not in told


def refused_masked_in_large() -> object:
    @workflow
    async def never(text: Large[Masked[str]]) -> None: ...

    return never


def refused_large_of_masked_record() -> object:
    @workflow
    async def never(secret: Large[Secret]) -> None: ...

    return never


def refused_look() -> object:
    @workflow
    async def never(text: Large[str]) -> int:
        return len(text)

    return never


def refused_form() -> object:
    @workflow
    async def never() -> None:
        await UserTask("issue-values-form", form=Page).assign(user="ann")

    return never


def refused_publish() -> object:
    @workflow
    async def never(text: Large[str]) -> None:
        await publish("issue.values", text)

    return never


def refused_key() -> object:
    @workflow
    async def never() -> Large[str]:
        return await came.wait(key="k")

    return never


@pytest.mark.parametrize(
    "define",
    [
        refused_masked_in_large,
        refused_large_of_masked_record,
        refused_look,
        refused_form,
        refused_publish,
        refused_key,
    ],
)
def test_what_others_would_find_no_value_for_is_refused_at_the_definition(
    define: Callable[[], object],
) -> None:
    with pytest.raises(DefinitionError):
        define()


async def test_more_than_256_mib_is_refused_by_the_client_and_nothing_is_sent(engine: Engine) -> None:
    client = await engine.registered(values_back)
    with pytest.raises(BadInput) as refused:
        await client.start(values_back, {"text": "x" * (256 * MIB)}, run_id="big")
    assert refused.value.code == "VALUE_TOO_LARGE"
    with pytest.raises(NotFound):
        await client.get("big")
    assert await stored(engine) == 0


async def test_more_than_256_mib_from_a_task_fails_the_call_by_name(engine: Engine, until: Until) -> None:
    client = await engine.registered(values_too_much)
    await engine.worker(app)
    run = await client.start(values_too_much)
    with pytest.raises(RunFailed) as failed:
        await run.result(60)
    assert failed.value.failure.name == "large-value-size"
    await client.delete(run.run_id)
    await empty(engine, until)


async def test_what_is_not_declared_large_is_refused_by_name_where_it_comes_from(engine: Engine) -> None:
    client = await engine.registered(values_not_large)
    await engine.worker(app)
    with pytest.raises(DressageError) as refused:
        await client.start(values_not_large, {"text": "x" * 600_000}, run_id="n")
    assert refused.value.code == "INPUT_INVALID"
    assert "input-size" in refused.value.message
    with pytest.raises(DressageError) as refused:
        await client.start(values_not_large, {"text": TEXT}, run_id="n")
    assert refused.value.code in {"INPUT_INVALID", "PAYLOAD_TOO_LARGE"}
    run = await client.start(values_not_large, {"text": ""}, run_id="n")
    with pytest.raises(RunFailed) as failed:
        await run.result(20)
    assert failed.value.failure.name == "result-size"


def plain_to_plain() -> Workflow[..., Any]:
    @workflow(name="values-versions")
    async def versions(text: str) -> int:
        return await length(text)

    return versions


def large_given() -> Workflow[..., Any]:
    @workflow(name="values-versions")
    async def versions(text: Large[str]) -> int:
        return await length(text)

    return versions


def large_read() -> Workflow[..., Any]:
    @workflow(name="values-versions")
    async def versions(text: Large[str]) -> Large[int]:
        return await length(text)

    return versions


async def test_to_become_large_breaks_readers_and_not_those_who_give(engine: Engine) -> None:
    client = await engine.registered()
    await client.register(plain_to_plain(), allow="compatible")
    await client.register(large_given(), allow="compatible")
    with pytest.raises(DressageError) as refused:
        await client.register(plain_to_plain(), allow="compatible")
    assert refused.value.code == "CHANGE_BREAKING"
    assert "text" in refused.value.message
    with pytest.raises(DressageError) as refused:
        await client.register(large_read(), allow="compatible")
    assert refused.value.code == "CHANGE_BREAKING"


# -- change, kills -------------------------------------------------------------------------------------------------
async def test_a_killed_orchestrator_loses_no_value(scraped: Scraped) -> None:
    engine = scraped.engine
    client = await engine.registered(values_waiting)
    run = await client.start(values_waiting, {"text": TEXT}, run_id="k")
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    await engine.up()
    await engine.worker(app)
    await client.post("k", go, "x")
    assert await run.result(30) == TEXT.upper()
    assert floor.done == ["shout"]


def before() -> Workflow[..., Any]:
    @workflow(name="values-moves")
    async def moves(text: Large[str]) -> Large[str]:
        loud = await shout(text)
        await go.wait()
        return loud

    return moves


def after() -> Workflow[..., Any]:
    @workflow(name="values-moves")
    async def moves(text: Large[str]) -> Book:
        loud = await shout(text)
        await go.wait()
        return await bind("moved", [text, loud])

    return moves


async def test_a_run_that_has_large_values_moves_to_another_version_with_them(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(before(), after())
    await engine.worker(app)
    run = await client.start("values-moves@1", {"text": TEXT})

    async def waits() -> bool:
        return any(event.kind == "event-awaited" for event in [each async for each in run.history()])

    await until(waits, "it waits for the event")
    planned = await client.plan_migration("values-moves@1", "values-moves@2")
    assert (await client.check_migration(run.run_id, planned.migration)).reasons == ()
    await client.migrate(run.run_id, planned.migration)
    await run.post(go, "x")
    book = await run.result(30)
    assert book["pages"] == [{"number": 0, "text": TEXT}, {"number": 1, "text": TEXT.upper()}]
    assert floor.done == ["shout"]
    await client.delete(run.run_id)
    await empty(engine, until)


def reads_plain() -> Workflow[..., Any]:
    @workflow(name="values-moves")
    async def moves(text: str) -> int:
        loud = "loud"
        await go.wait()
        return len(text) + len(loud)

    return moves


async def test_a_run_does_not_move_to_a_version_that_looks_at_what_was_large(engine: Engine) -> None:
    client = await engine.registered(before(), reads_plain())
    await engine.worker(app)
    run = await client.start("values-moves@1", {"text": TEXT})
    await run.wait_for_event("event-awaited", timeout_s=20)
    planned = await client.plan_migration("values-moves@1", "values-moves@2")
    checked = await client.check_migration(run.run_id, planned.migration)
    assert "text" in " ".join(checked.reasons)
    with pytest.raises(DressageError) as refused:
        await client.migrate(run.run_id, planned.migration)
    assert refused.value.code == "MIGRATION_REFUSED"
    await run.post(go, "x")
    assert await run.result(30) == TEXT.upper()


# -- clean-up ------------------------------------------------------------------------------------------------------
async def test_nothing_is_left_when_runs_of_every_end_are_deleted(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(values_through, values_race, values_waiting, values_event)
    await sharded.worker(app)
    await (await client.start(values_through, {"text": TEXT}, run_id="completed")).result(30)
    await (await client.start(values_race, {"text": TEXT}, run_id="raced")).result(30)
    await client.start(values_waiting, {"text": TEXT}, run_id="cancelled")
    await client.cancel("cancelled", at_once=True)
    await client.post("early", came, TEXT)
    await (await client.start(values_event, run_id="early")).result(30)
    for run_id in ("completed", "raced", "cancelled", "early"):
        assert await stored(sharded) > 0
        await client.delete(run_id)
    await empty(sharded, until)


async def test_the_values_of_other_runs_stay_also_where_the_bytes_are_the_same(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    runs = [
        await client.start(values_through, {"text": TEXT}, run_id=name) for name in ("one", "one1", "two")
    ]
    for run in runs:
        await run.result(30)
    all_of_them = await stored(engine)
    await client.delete("one")

    async def a_third_is_gone() -> bool:
        return await stored(engine) == all_of_them * 2 // 3

    await until(a_third_is_gone, "the objects of one run are gone")
    assert await client.handle("one1").result(20) == TEXT.upper()
    assert await client.handle("two").result(20) == TEXT.upper()


async def test_a_hold_keeps_the_values_and_a_deletion_behind_it_takes_them(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    run = await client.start(values_through, {"text": TEXT}, run_id="h")
    await run.result(30)
    await client.hold("h", "a lawsuit")
    before_it = await stored(engine)
    with pytest.raises(Refused, match="a lawsuit"):
        await client.delete("h")
    assert await stored(engine) == before_it
    assert await run.result(20) == TEXT.upper()
    await client.release("h")
    await client.delete("h")
    await empty(engine, until)


async def test_what_an_abandoned_child_run_may_use_stays_when_its_parent_is_deleted(engine: Engine) -> None:
    client = await engine.registered(values_waiting, values_abandons)
    await engine.worker(app)
    run = await client.start(values_abandons, {"text": TEXT}, run_id="p")
    child = await run.result(20)
    await client.delete("p")
    await client.post(child, go, "x")
    assert await client.handle(child).result(30) == TEXT.upper()


async def test_deleting_an_abandoned_child_run_takes_nothing_of_its_parent(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_waiting, values_abandons_and_shouts)
    await engine.worker(app)
    run = await client.start(values_abandons_and_shouts, {"text": TEXT}, run_id="p")
    assert await run.result(20) == TEXT.upper()
    (begun,) = [event async for event in run.history() if event.kind == "child-started"]
    child = json.loads(bytes(begun.data))["run_id"]
    await client.post(child, go, "x")
    assert await client.handle(child).result(30) == TEXT.upper()
    await client.delete(child)
    marker = await client.start(values_waiting, {"text": TEXT}, run_id="marker")
    await marker.cancel(at_once=True)
    with_marker = await stored(engine)
    await client.delete("marker")  # what the deletion before it takes has gone when that of this one has

    async def gone() -> bool:
        return await stored(engine) < with_marker

    await until(gone, "the objects of the later one are removed")
    assert await run.result(20) == TEXT.upper()
    assert (await client.get("p")).input == {"text": reference_of(TEXT)}


async def test_objects_are_removed_although_the_orchestrator_ends_right_behind_the_deletion(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    for number in range(4):
        await (await client.start(values_through, {"text": TEXT}, run_id=f"d-{number}")).result(30)
    await asyncio.gather(*(client.delete(f"d-{number}") for number in range(4)))
    await engine.down()
    await engine.up()
    await empty(engine, until)


async def test_a_result_behind_the_deletion_harms_nothing_and_what_it_leaves_goes_with_the_next_run(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_deaf, values_through)
    async with engine.working(app):
        run = await client.start(values_deaf, {"text": TEXT}, run_id="late")
        await until(lambda: floor.done == ["deaf"], "the worker has the value")
        await client.cancel(run.run_id, at_once=True)
        with pytest.raises(RunCancelled):
            await run.result(10)
        await client.delete("late")
        again = await client.start(values_through, {"text": TEXT}, run_id="late")
        assert await again.result(30) == TEXT.upper()
        floor.free.set()
        other = await client.start(values_through, {"text": "after it"})
        assert await other.result(20) == "AFTER IT"
    assert await again.result(20) == TEXT.upper()
    assert (await client.get("late")).status == "completed"
    await client.delete("late")
    await empty(engine, until)


async def test_an_id_that_is_used_again_right_behind_its_deletion_has_its_values(sharded: Engine) -> None:
    client = await sharded.registered(values_through)
    await sharded.worker(app)
    text = "again and again " * 5_000
    for number in range(25):
        run = await client.start(values_through, {"text": text}, run_id="again")
        assert await run.result(20) == text.upper(), number
        await client.delete("again")


async def test_what_a_conflicting_start_has_stored_goes_with_the_run_of_that_id(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(values_through)
    await engine.worker(app)
    run = await client.start(values_through, {"text": TEXT}, run_id="c")
    await run.result(30)
    with pytest.raises(Refused) as refused:
        await client.start(values_through, {"text": TEXT + "!"}, run_id="c")
    assert refused.value.code == "RUN_ID_CONFLICT"
    await client.delete("c")
    await empty(engine, until)


async def test_a_start_that_was_refused_leaves_what_a_sweep_spares_while_young_and_the_next_run_has(
    engine: Engine, start: Start
) -> None:
    client = await engine.registered(values_strict)
    await engine.worker(app)
    with pytest.raises(DressageError) as refused:
        await client.start("values-strict", {"text": TEXT, "number": "no number"}, run_id="orphan")
    assert refused.value.code == "INPUT_INVALID"
    left = await stored(engine)
    assert left > 0

    async def dressage(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    _, said = await dressage("doctor")
    assert "OBJECTS_ORPHANED" not in said  # it may be on its way, for an hour
    code, said = await dressage("objects", "sweep")
    assert code == 0, said
    assert await stored(engine) == left
    code, said = await dressage("objects", "sweep", "--older-than", "10m")
    assert code != 0, said
    run = await client.start("values-strict", {"text": TEXT, "number": 1}, run_id="orphan")
    assert await run.result(30) == TEXT.upper()
    code, said = await dressage("objects", "sweep", "--older-than", "1h")
    assert code == 0, said
    assert await run.result(30) == TEXT.upper()
