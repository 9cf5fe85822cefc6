"""Retention and deletion, as the issue asks for them: per workflow and namespace, all that a run owns, legal hold."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]

from dressage.client import Client, Every
from dressage.client.finding import query
from dressage.flow import App, Event, Large, UserTask, gather, workflow
from dressage.protocol.commands import StartRun, encoder
from dressage.protocol.errors import DressageError, NotFound, Refused
from dressage.protocol.names import run_token
from dressage.protocol.retention import Retention

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Dressage = Callable[..., Awaitable[tuple[int, str]]]

app = App("issue-retention")
go = Event("issue-retention-go", of=str)
FORGOTTEN: Final = (
    *("runs", "run_starts", "run_ends", "user_task_events", "user_tasks"),
    *("task_attempts", "variables", "variable_changes"),
)
LONG: Final = "long " * 10_000


@dataclass
class Floor:
    done: list[str] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.free = [], threading.Event()


@dataclass
class Answer:
    words: str


ask = UserTask("issue-retention-ask", form=Answer)


@app.task
async def shout(word: str) -> str:
    floor.done.append(word)
    return word.upper()


@app.task
async def loud(text: Large[str]) -> Large[str]:
    return text.upper()


@app.task
async def tidy_large(text: Large[str]) -> None:
    floor.done.append(f"tidied {len(text)}")


@app.task(concurrency=1)
def single(word: str) -> str:
    floor.done.append(word)
    floor.free.wait(30)
    return word


@app.task
def deaf(word: str) -> str:
    """Hears of no cancelling, as a sync handler that never looks."""
    floor.done.append(word)
    floor.free.wait(30)
    return f"late {word}"


@workflow
async def kept_short(word: str) -> str:
    return await shout(word)


@workflow
async def kept_other(word: str) -> str:
    return await shout(word)


@workflow
async def kept_waiting(word: str) -> str:
    return f"{word} {await go.wait()}"


@workflow
async def kept_tidy(word: str) -> str:
    try:
        return await go.wait()
    finally:
        await shout(f"tidied {word}")


@workflow
async def kept_by_key(key: str) -> str:
    return await go.wait(key=key)


@workflow
async def kept_deaf(word: str) -> str:
    return await deaf(word)


@workflow
async def kept_asked(user: str) -> str:
    first = (await ask.assign(user=user, notes="a private matter")).words
    second = (await ask.assign(user=user)).words
    return f"{first} {second}"


@workflow
async def kept_large(text: Large[str]) -> Large[str]:
    return await loud(text)


@workflow
async def kept_above_large(text: Large[str]) -> Large[str]:
    return await kept_large(text)


@workflow
async def kept_tidy_large(text: Large[str]) -> None:
    try:
        await go.wait()
    finally:
        await go.wait()
        await tidy_large(text)


@workflow
async def kept_requests(text: Large[str]) -> str:
    return await kept_tidy_large.options(parent_close="request").start(text)


@workflow
async def kept_single(word: str) -> str:
    return await single(word)


@workflow
async def kept_leaf(word: str) -> str:
    return await shout(word)


@workflow
async def kept_middle(word: str) -> str:
    return await kept_leaf(f"{word} below")


@workflow
async def kept_parent(word: str) -> list[str]:
    one, two = await gather(kept_middle(word), kept_leaf(word))
    return [one, two]


@workflow
async def kept_abandons(word: str) -> str:
    return await kept_waiting.start(word)


async def refusal(action: Awaitable[Any]) -> str:
    with pytest.raises(DressageError) as refused:
        await action
    return refused.value.code


async def is_gone(client: Client, run_id: str) -> bool:
    try:
        await client.get(run_id)
    except NotFound as missing:
        return missing.code == "RUN_UNKNOWN"
    return False


async def ran(client: Client, definition: Any, run_id: str, word: str = "a") -> str:
    run = await client.start(definition, {"word": word}, run_id=run_id)
    await client.wait(run_id, timeout_s=20)
    return run.run_id


async def children_of(client: Client, run_id: str) -> list[str]:
    """All child runs of a run, and theirs."""
    found: list[str] = []
    async for event in client.history(run_id):
        if event.kind == "child-started":
            child = json.loads(bytes(event.data))["run_id"]
            found += [child, *await children_of(client, child)]
    return found


async def stored_events(engine: Engine, run_id: str) -> list[str]:
    """The kinds of the output events of a run that are in the stream, read as anybody does."""
    js = (await engine.nats()).jetstream()
    pull = await js.pull_subscribe(f"dressage.{engine.namespace}.events.>")
    total = (await pull.consumer_info()).num_pending or 0
    found = await pull.fetch(total, timeout=5) if total else []
    own = [message for message in found if (message.headers or {}).get("Dressage-Run") == run_token(run_id)]
    return [message.subject.split(".")[-2] for message in own]


async def objects(engine: Engine) -> int:
    js = (await engine.nats()).jetstream()
    return (await js.stream_info(f"OBJ_dressage_{engine.namespace}_objects")).state.messages


@pytest.fixture
def dressage(engine: Engine, start: Start) -> Dressage:
    """The command line: what it exits with, and what it says."""

    async def run(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    return run


# -- deleting ------------------------------------------------------------------------------------------------------
async def test_a_deleted_run_is_shown_to_nobody_from_the_answer_on(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(kept_short)
    run = await client.start(kept_short, {"word": "a"}, run_id="r")
    assert await run.result(10) == "A"
    await client.delete("r", "asked for")
    for reading in (client.get, client.waits, client.user_tasks, client.wait):
        assert await refusal(reading("r")) == "RUN_UNKNOWN"
    assert await refusal(run.result(5)) == "RUN_UNKNOWN"
    for operation in ("get", "wait", "waits", "history"):
        answer = await sharded.call(operation, {"run_id": "r"})
        assert (answer["ok"], answer.get("code")) == (False, "RUN_UNKNOWN"), operation
    with pytest.raises(NotFound):
        [event async for event in client.history("r")]


async def test_a_run_that_has_not_ended_is_refused_and_goes_on(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_waiting, kept_tidy)
    run = await client.start(kept_waiting, {"word": "a"}, run_id="open")
    assert await refusal(client.delete("open")) == "RUN_OPEN"
    await client.stop("open")
    assert await refusal(client.delete("open")) == "RUN_OPEN"
    assert (await engine.call("delete", {"run_id": "open"}))["code"] == "RUN_OPEN"
    await client.resume("open")
    await run.post(go, "on")
    assert await run.result(10) == "a on"


async def test_the_command_line_cancels_what_runs_lets_it_tidy_up_and_deletes_it(
    engine: Engine, dressage: Dressage
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_tidy)
    await client.start(kept_tidy, {"word": "t"}, run_id="t")
    code, said = await dressage("run", "delete", "t")
    assert (code, "RUN_OPEN" in said) == (1, True), said
    code, said = await dressage("run", "delete", "t", "--cancel", "--reason", "gdpr", "--actor", "eve")
    assert code == 0, said
    assert floor.done == ["tidied t"]
    assert await is_gone(client, "t")
    code, said = await dressage("run", "delete", "t")
    assert (code, "RUN_UNKNOWN" in said) == (1, True), said


async def test_deleting_is_idempotent_by_its_command_id_and_names_what_is_not_there(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(kept_short)
    await ran(client, kept_short, "r")
    request = {"run_id": "r", "command_id": "once"}
    answers = await asyncio.gather(*(sharded.call("delete", request) for _ in range(3)))
    assert [answer["ok"] for answer in answers] == [True] * 3, answers
    assert await refusal(client.delete("r")) == "RUN_UNKNOWN"
    await ran(client, kept_short, "r", "b")
    assert (await sharded.call("delete", request))["ok"]
    assert (await client.get("r")).status == "completed"  # it was for the other one


async def test_the_id_of_a_deleted_run_is_free_and_what_was_meant_for_that_is_told_apart(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short, kept_waiting)
    started = encoder.encode(StartRun("kept-short", 1, msgspec.Raw(b'{"word":"a"}'), "its-start"))
    assert (await engine.send_raw("r", started))["accepted"]
    await client.wait("r", timeout_s=10)
    await client.delete("r")
    assert (await engine.send_raw("r", started))["code"] == "RUN_DELETED"
    assert await refusal(client.post("r", go, "x")) == "RUN_DELETED"
    assert await is_gone(client, "r")
    again = await client.start(kept_waiting, {"word": "b"}, run_id="r")
    assert not again.existing
    kinds = [(event.index, event.kind) async for event in again.history()]
    assert kinds[0] == (0, "run-started")
    await again.post(go, "x")
    assert await again.result(10) == "b x"


async def test_a_late_result_of_a_deleted_run_harms_nobody(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(kept_deaf, kept_short)
    async with sharded.working(app):
        await client.start(kept_deaf, {"word": "one"}, run_id="late")
        await until(lambda: floor.done == ["one"], "the worker has the attempt")
        await client.cancel("late", at_once=True)
        await client.wait("late", timeout_s=10)
        await client.delete("late")
        again = await client.start(kept_deaf, {"word": "two"}, run_id="late")
        await until(lambda: floor.done == ["one", "two"], "the worker has the attempt of the next run")
        floor.free.set()
        assert await again.result(15) == "late two"
        other = await client.start(kept_short, {"word": "b"})
        assert await other.result(10) == "B"
    kinds = [event.kind async for event in again.history()]
    assert kinds.count("task-completed") == 1


async def test_the_permit_of_a_deleted_run_and_its_place_in_the_row_are_free(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(kept_single)
    async with engine.working(app):
        await client.start(kept_single, {"word": "one"}, run_id="has-it")
        await until(lambda: floor.done == ["one"], "it has the only permit")
        await client.start(kept_single, {"word": "two"}, run_id="waits")
        third = await client.start(kept_single, {"word": "three"})
        for run_id in ("waits", "has-it"):
            await client.cancel(run_id, at_once=True)
            await client.delete(run_id)
        await until(lambda: floor.done == ["one", "three"], "the one behind them has its turn")
        floor.free.set()
        assert await third.result(10) == "three"
        again = await client.start(kept_single, {"word": "again"}, run_id="has-it")
        assert await again.result(10) == "again"

    async def is_free() -> bool:
        return (await client.task_limit("single")).taken == ()

    await until(is_free, "the permit is given back")


async def test_its_children_and_theirs_go_with_it_and_none_goes_alone(sharded: Engine, until: Until) -> None:
    await sharded.worker(app)
    client = await sharded.registered(kept_leaf, kept_middle, kept_parent)
    await ran(client, kept_parent, "p")
    children = await children_of(client, "p")
    assert len(children) == 3
    for child in children:
        assert await refusal(client.delete(child)) == "RUN_OWNED"
    await client.delete("p")
    for child in children:

        async def child_is_gone(child: str = child) -> bool:
            return await is_gone(client, child)

        await until(child_is_gone, f"{child} is gone")


async def test_an_abandoned_child_run_lives_on_and_can_be_deleted_itself(engine: Engine) -> None:
    client = await engine.registered(kept_waiting, kept_abandons)
    run = await client.start(kept_abandons, {"word": "a"}, run_id="p")
    child = await run.result(10)
    await client.delete("p")
    await client.post(child, go, "on")
    assert await client.handle(child).result(10) == "a on"
    await client.delete(child)
    assert await is_gone(client, child)


async def test_user_tasks_and_their_forms_go_from_every_list(
    engine: Engine, start: Start, tmp_path: Path, until: Until
) -> None:
    client = await engine.registered(kept_asked)
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("analytics", "--db", str(tmp_path / "a.duckdb"), *place)
    for run_id in ("gone", "stays"):
        run = await client.start(kept_asked, {"user": "ann"}, run_id=run_id)
        (first,) = await client.user_tasks(run_id)
        await client.user_task(run_id, first.id).comment("ann", "a private word")
        await client.user_task(run_id, first.id).complete("ann", Answer("private"))
        (second,) = await client.user_tasks(run_id)
        await client.user_task(run_id, second.id).save("ann", {"words": "half"})
        await run.cancel("enough")
        await client.wait(run_id, timeout_s=10)

    async def rows(sql: str) -> list[Any]:
        assert program.process.poll() is None, program.said
        try:
            return list((await query(client.connection, engine.names, sql)).rows)
        except DressageError:
            return []

    async def both_are_known() -> bool:
        found = await rows("SELECT run_id, state FROM user_tasks ORDER BY ALL")
        ends = await rows("SELECT run_id FROM runs WHERE status = 'cancelled'")
        return len(found) == 4 and len(ends) == 2

    await until(both_are_known, "analytics knows both runs", timeout_s=20)
    await client.delete("gone", "asked for by ann")

    async def one_is_left() -> bool:
        return [row[0] for row in await rows("SELECT DISTINCT run_id FROM user_tasks")] == ["stays"]

    await until(one_is_left, "the user tasks of the deleted run are gone", timeout_s=20)
    for table in FORGOTTEN:
        assert await rows(f"SELECT run_id FROM {table} WHERE run_id = 'gone'") == [], table
        if table not in {"task_attempts", "variables", "variable_changes"}:  # which this workflow has none of
            assert await rows(f"SELECT run_id FROM {table} WHERE run_id = 'stays'") != [], table
    left = await rows("SELECT kind, actor, data FROM events WHERE run_id = 'gone'")
    assert [tuple(row[:2]) for row in left] == [("run-deleted", "tester")]
    assert "asked for by ann" in json.dumps(left[0][2])
    assert len(await rows("SELECT * FROM user_tasks WHERE run_id = 'stays'")) == 2
    assert await refusal(client.user_tasks("gone")) == "RUN_UNKNOWN"


async def test_output_events_stay_by_default_and_go_where_that_is_said(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short)
    for run_id in ("stay", "go", "other"):
        await ran(client, kept_short, run_id)
    await client.delete("stay")
    await client.delete("go", events=True)

    async def removed() -> bool:
        return await stored_events(engine, "go") == ["run-deleted"]

    await until(removed, "the events of one are removed")
    assert await stored_events(engine, "stay") == [
        *("run-started", "task-scheduled", "task-completed", "run-completed", "run-deleted")
    ]
    assert (await stored_events(engine, "other"))[-1] == "run-completed"


async def test_all_of_it_goes_although_an_orchestrator_is_killed_right_behind_the_answer(
    scraped: Scraped, until: Until
) -> None:
    engine = scraped.engine
    await engine.worker(app)
    client = await engine.registered(kept_large, kept_leaf, kept_middle, kept_parent)
    await (await client.start(kept_large, {"text": LONG}, run_id="large")).result(20)
    await ran(client, kept_parent, "p")
    children = await children_of(client, "p")
    await asyncio.gather(client.delete("large", events=True), client.delete("p", events=True))
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    await engine.up()

    async def nothing_is_left() -> bool:
        gone = [await is_gone(client, each) for each in ("large", "p", *children)]
        told = [await stored_events(engine, each) for each in ("large", "p", *children)]
        return all(gone) and await objects(engine) == 0 and told == [["run-deleted"]] * len(told)

    await until(nothing_is_left, "states, children, objects and events are gone", timeout_s=30)


async def test_what_a_key_gives_to_a_run_that_is_gone_goes_to_the_next_who_waits(sharded: Engine) -> None:
    client = await sharded.registered(kept_by_key)
    await client.start(kept_by_key, {"key": "k"}, run_id="gone")
    await client.cancel("gone")
    await client.delete("gone")
    await client.post_by_key(go, "k", "for whoever waits")
    run = await client.start(kept_by_key, {"key": "k"}, run_id="next")
    assert await run.result(10) == "for whoever waits"


# -- hold ----------------------------------------------------------------------------------------------------------
async def test_a_hold_says_by_whom_since_when_and_why_and_the_stream_keeps_it(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(kept_waiting)
    run = await client.start(kept_waiting, {"word": "a"}, run_id="h")
    await client.hold("h", "a lawsuit")
    held = (await client.get("h")).held
    assert held is not None
    assert (held.reason, held.actor, bool(held.since)) == ("a lawsuit", "tester", True)
    await run.post(go, "on")
    assert await run.result(10) == "a on"  # it goes on as before
    await client.release("h")
    assert (await client.get("h")).held is None

    async def told() -> bool:
        return (await stored_events(engine, "h"))[-2:] == ["run-completed", "run-released"]

    await until(told, "the stream has it")


async def test_the_history_of_a_run_that_has_ended_says_who_has_held_and_released_it(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(kept_waiting)
    run = await client.start(kept_waiting, {"word": "a"}, run_id="h")
    await run.post(go, "on")
    await run.result(10)
    await client.hold("h", "a lawsuit")
    await client.release("h")

    async def told() -> bool:
        return [event.kind async for event in run.history()][-2:] == ["run-held", "run-released"]

    await until(told, "the history has both", 3)


async def test_a_held_run_is_deleted_by_nobody_and_neither_are_its_child_runs(
    engine: Engine, dressage: Dressage
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_leaf, kept_middle, kept_parent)
    await ran(client, kept_parent, "p")
    children = await children_of(client, "p")
    code, said = await dressage("run", "hold", "p", "--reason", "a lawsuit", "--actor", "legal")
    assert code == 0, said
    with pytest.raises(Refused, match="a lawsuit") as refused:
        await client.delete("p")
    assert refused.value.code == "RUN_HELD"
    code, said = await dressage("run", "delete", "p", "--cancel", "--events")
    assert (code, "RUN_HELD" in said) == (1, True), said
    for child in children:
        assert await refusal(client.delete(child)) in {"RUN_OWNED", "RUN_HELD"}
        assert not await is_gone(client, child)
    assert "a lawsuit" in (await dressage("run", "get", "p"))[1]
    code, said = await dressage("run", "release", "p")
    assert code == 0, said
    await client.delete("p")
    assert await is_gone(client, "p")


async def test_a_command_line_that_would_cancel_a_held_run_to_delete_it_leaves_it_running(
    engine: Engine, dressage: Dressage
) -> None:
    client = await engine.registered(kept_waiting)
    run = await client.start(kept_waiting, {"word": "a"}, run_id="h")
    await client.hold("h", "a lawsuit")
    code, said = await dressage("run", "delete", "h", "--cancel")
    assert (code, "RUN_HELD" in said) == (1, True), said
    assert (await run.state()).status == "running"


async def test_a_hold_prevents_the_policy_and_a_release_makes_up_for_it(
    sharded: Engine, until: Until
) -> None:
    await sharded.worker(app)
    client = await sharded.registered(kept_short, kept_large)
    for name in ("kept-short", "kept-large"):
        await client.registry.keep(name, Retention(1.0, events=True))
    run = await client.start(kept_large, {"text": LONG}, run_id="held")
    await client.hold("held", "a lawsuit")
    await run.result(20)
    await ran(client, kept_short, "free")

    async def free_is_gone() -> bool:
        return await is_gone(client, "free")

    async def held_is_gone() -> bool:
        return await is_gone(client, "held")

    await until(free_is_gone, "the time of what is not held is over", timeout_s=20)
    assert await run.result(10) == LONG.upper()
    await client.release("held")
    await until(held_is_gone, "what was overdue is deleted")

    async def nothing_left() -> bool:
        return await objects(sharded) == 0 and await stored_events(sharded, "held") == ["run-deleted"]

    await until(nothing_left, "its objects and events are gone")


async def test_a_child_run_that_is_held_alone_stays_when_its_parent_goes(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_leaf, kept_middle, kept_parent)
    await ran(client, kept_parent, "p")
    held, *others = await children_of(client, "p")
    await client.hold(held, "this one")
    await client.delete("p")

    async def rest_is_gone() -> bool:
        own = await children_of(client, held)
        return all([await is_gone(client, each) for each in others if each not in own])

    await until(rest_is_gone, "the others are gone")
    assert (await client.get(held)).held is not None
    await client.release(held)

    async def all_gone() -> bool:
        return all([await is_gone(client, each) for each in (held, *others)])

    await until(all_gone, "it goes when it is released, with its own child runs")


async def test_a_child_run_that_is_held_keeps_its_large_values_when_its_parent_goes(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_large, kept_above_large)
    await (await client.start(kept_above_large, {"text": LONG}, run_id="p")).result(20)
    (child,) = await children_of(client, "p")
    await client.hold(child, "a lawsuit")
    await parent_goes_before(client, child, engine, until)
    assert (await client.get(child)).held is not None
    assert await client.handle(child).result(10) == LONG.upper()


async def test_a_child_run_that_still_tidies_up_has_its_large_values_when_its_parent_goes(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_large, kept_tidy_large, kept_requests)
    child = await (await client.start(kept_requests, {"text": LONG}, run_id="p")).result(20)
    await client.wait_for_state(child, lambda view: view.cancelling, timeout_s=10)
    await parent_goes_before(client, child, engine, until)
    await client.post(child, go, "tidy up")

    async def tidied_up() -> bool:
        return floor.done == [f"tidied {len(LONG)}"]

    await until(tidied_up, "the child run has tidied up, and had its value", 5)


async def parent_goes_before(client: Client, child: str, engine: Engine, until: Until) -> None:
    """Deletes run `p`, and waits until what goes with it has been removed, as that of a run that was deleted later."""
    await client.delete("p")
    await (await client.start(kept_large, {"text": LONG}, run_id="marker")).result(20)
    before = await objects(engine)
    await client.delete("marker")

    async def removed() -> bool:
        return await objects(engine) <= before - 4

    await until(removed, "the objects of the later one are removed")
    assert not await is_gone(client, child)


async def test_to_hold_twice_and_to_release_what_nobody_holds_is_no_error(engine: Engine) -> None:
    client = await engine.registered(kept_waiting)
    await client.start(kept_waiting, {"word": "a"}, run_id="h")
    await client.release("h")
    await client.hold("h", "one")
    await client.hold("h", "two")
    held = (await client.get("h")).held
    assert held is not None
    assert held.reason == "one"
    await client.release("h")
    await client.release("h")
    kinds = [event.kind async for event in client.history("h")]
    assert (kinds.count("run-held"), kinds.count("run-released")) == (1, 1)
    assert await refusal(client.hold("nobody")) == "RUN_UNKNOWN"
    assert await refusal(client.release("nobody")) == "RUN_UNKNOWN"


async def test_a_hold_survives_the_engine(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short)
    await ran(client, kept_short, "h")
    await client.hold("h", "a lawsuit")
    await engine.down()
    await engine.up()
    assert await refusal(client.delete("h")) == "RUN_HELD"
    assert (await client.handle("h").result(10)) == "A"


# -- retention -----------------------------------------------------------------------------------------------------
async def test_a_workflow_and_the_namespace_say_for_how_long_and_the_workflow_counts(
    engine: Engine, dressage: Dressage, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short, kept_other, kept_waiting)
    code, said = await dressage("retention", "set", "2s")
    assert code == 0, said
    code, said = await dressage("retention", "set", "for-ever", "--workflow", "kept-other")
    assert code == 0, said
    shown = (await dressage("retention", "show"))[1]
    assert "2s" in shown
    assert "kept-other" in shown
    fresh = await engine.client()  # who starts runs looks it up
    await ran(fresh, kept_short, "short")
    await ran(fresh, kept_other, "for-ever")
    await fresh.start(kept_waiting, {"word": "a"}, run_id="open")

    async def short_is_gone() -> bool:
        return await is_gone(client, "short")

    await until(short_is_gone, "the time of the namespace is over", timeout_s=20)

    async def told() -> bool:
        return (await stored_events(engine, "short"))[-1] == "run-deleted"

    await until(told, "its events stay, and the last one says it")
    assert (await client.get("for-ever")).kept_until == ""
    assert (await client.get("open")).status == "running"  # the time begins with the end
    code, said = await dressage("retention", "clear", "kept-other")
    assert code == 0, said
    assert "kept-other" not in (await dressage("retention", "show"))[1]


async def test_what_a_policy_deletes_has_the_actor_retention_and_takes_children_events_and_objects(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_leaf, kept_middle, kept_parent, kept_large)
    for name in ("kept-parent", "kept-large"):
        await client.registry.keep(name, Retention(1.0, events=name == "kept-large"))
    await ran(client, kept_parent, "p")
    children = await children_of(client, "p")
    assert len(children) == 3
    await (await client.start(kept_large, {"text": LONG}, run_id="l")).result(20)

    async def all_gone() -> bool:
        return (
            all([await is_gone(client, each) for each in ("p", "l", *children)])
            and await objects(engine) == 0
        )

    await until(all_gone, "all is gone", timeout_s=20)

    async def told() -> bool:
        return await stored_events(engine, "l") == ["run-deleted"]

    await until(told, "only that it was deleted is left")
    js = (await engine.nats()).jetstream()
    pull = await js.pull_subscribe(f"dressage.{engine.namespace}.events.>")
    total = (await pull.consumer_info()).num_pending or 0
    ends = [
        json.loads(message.data)
        for message in await pull.fetch(total, timeout=5)
        if message.subject.split(".")[-2] == "run-deleted"
        and (message.headers or {}).get("Dressage-Run") in {run_token("p"), run_token("l")}
    ]
    assert len(ends) == 2
    assert all('"retention"' in json.dumps(end) for end in ends), ends


async def test_the_time_goes_on_while_no_orchestrator_is_there(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short)
    await client.registry.keep("kept-short", Retention(4.0))
    await ran(client, kept_short, "r")
    over = datetime.fromisoformat((await client.get("r")).kept_until)
    await engine.down()
    await until(lambda: datetime.now(UTC) > over, "its time is over while nobody is there")
    await engine.up()

    async def gone() -> bool:
        return await is_gone(client, "r")

    await until(gone, "its time is over", timeout_s=20)


async def test_the_time_of_a_deleted_run_does_not_end_the_next_one_of_its_id(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short, kept_other)
    await client.registry.keep("kept-short", Retention(4.0))
    await ran(client, kept_short, "r")
    await client.delete("r")
    await ran(client, kept_other, "r")
    await ran(client, kept_short, "marker")  # its time is over behind that of the deleted one

    async def marker_is_gone() -> bool:
        return await is_gone(client, "marker")

    await until(marker_is_gone, "a time that began later is over", timeout_s=20)
    assert (await client.get("r")).workflow == "kept-other"


async def test_runs_of_a_schedule_are_kept_as_their_workflow_says(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_short)
    await client.registry.keep("kept-short", Retention(1.0))
    schedule = await client.set_schedule("nightly", kept_short, {"word": "a"}, when=Every(timedelta(days=1)))
    await schedule.fire()

    async def started_and_gone() -> bool:
        js = (await engine.nats()).jetstream()
        subjects = await js.stream_info(f"dressage_{engine.namespace}_events", subjects_filter=">")
        found = subjects.state.subjects or {}
        return any(".kept-short.run-deleted." in subject for subject in found)

    await until(started_and_gone, "its run was deleted when its time was over", timeout_s=20)


async def test_what_is_no_time_and_a_workflow_that_is_not_there_are_refused(
    engine: Engine, dressage: Dressage
) -> None:
    client = await engine.registered(kept_short)
    assert await refusal(client.registry.keep("kept-short", Retention(-1.0))) == "RETENTION_INVALID"
    assert await refusal(client.registry.keep("nobody", Retention(1.0))) == "WORKFLOW_UNKNOWN"
    for wrong in ("3 weeks", "-1d", "1y"):
        code, said = await dressage("retention", "set", "--", wrong)
        assert code != 0, said
    code, said = await dressage("retention", "set", "1d", "--workflow", "nobody")
    assert (code, "WORKFLOW_UNKNOWN" in said) == (1, True), said


async def test_a_run_that_was_started_when_nothing_was_said_stays(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(kept_waiting)
    before = await client.start(kept_waiting, {"word": "a"}, run_id="before")
    await client.registry.keep("kept-waiting", Retention(0.5))
    behind = await client.start(kept_waiting, {"word": "b"}, run_id="behind")
    for run in (before, behind):
        await run.post(go, "x")
        await client.wait(run.run_id, timeout_s=10)

    async def behind_is_gone() -> bool:
        return await is_gone(client, "behind")

    await until(behind_is_gone, "the time of the later one is over")
    assert (await client.get("before")).kept_until == ""
