"""Moving running runs to another version, as the issue asks for it: proposed, checked first, one or many, resumable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunHandle
from dressage.client.finding import query
from dressage.flow import App, Event, Workflow, gather, sleep, workflow
from dressage.protocol.errors import DressageError, NotFound
from dressage.protocol.migrations import Migration
from dressage.worker import current_task

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Dressage = Callable[..., Awaitable[tuple[int, str]]]
Definition = Workflow[..., Any]

app = App("issue-moving")
one = Event("issue-moving-one", of=str)
two = Event("issue-moving-two", of=str)
MOMENT: Final = timedelta(milliseconds=400)


async def nothing(word: str) -> str:
    return word


@dataclass
class Floor:
    done: list[str] = field(default_factory=list)
    does: Callable[[str], Awaitable[str]] = nothing
    gate: asyncio.Event = field(default_factory=asyncio.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.does, floor.gate = [], nothing, asyncio.Event()


@app.task
async def step(word: str) -> str:
    floor.done.append(word)
    return await floor.does(word)


@app.task(concurrency=1)
async def single(word: str) -> str:
    floor.done.append(word)
    return await floor.does(word)


def waits(number: int) -> Definition:
    """Versions that wait for two events, one after the other, and say in the end which they are."""
    if number == 1:

        @workflow(name="mov-waits")
        async def waiting(word: str) -> str:
            first = await one.wait()
            second = await two.wait()
            return f"one: {word} {first} {second}"

    elif number == 2:

        @workflow(name="mov-waits")
        async def waiting(word: str) -> str:
            first = await one.wait()
            await step(f"{word} checked")
            second = await two.wait()
            return f"two: {word} {first} {second}"

    else:

        @workflow(name="mov-waits")
        async def waiting(word: str) -> str:
            first = await one.wait()
            second = await two.wait()
            return f"three: {word} {first} {second}"

    return waiting


async def code_of(action: Awaitable[Any]) -> str:
    """What it is refused with; empty if it is not."""
    try:
        await action
    except DressageError as refused:
        return refused.code
    return ""


async def plan(client: Client, name: str, before: int, after: int, **said: Any) -> Migration:
    return (await client.plan_migration(f"{name}@{before}", f"{name}@{after}", **said)).migration


async def reasons(client: Client, run: RunHandle[Any], migration: Migration) -> str:
    return "; ".join((await client.check_migration(run.run_id, migration)).reasons)


async def kinds(run: RunHandle[Any]) -> list[str]:
    return [event.kind async for event in run.history()]


async def seen(run: RunHandle[Any], until: Until, kind: str, count: int = 1) -> None:
    async def there() -> bool:
        return (await kinds(run)).count(kind) >= count

    await until(there, f"{count} {kind}")


@pytest.fixture
def dressage(engine: Engine, start: Start) -> Dressage:
    """The command line: what it exits with, and what it says."""

    async def run(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    return run


# -- one run -------------------------------------------------------------------------------------------------------
async def test_a_run_that_has_gone_on_since_it_was_checked_moves_from_where_it_is_then(
    engine: Engine,
) -> None:
    await engine.worker(app)
    client = await engine.registered(waits(1), waits(2))
    run = await client.start("mov-waits@1", {"word": "w"})
    migration = await plan(client, "mov-waits", 1, 2)
    assert await reasons(client, run, migration) == ""
    await run.post(one, "a")
    await client.migrate(run.run_id, migration)
    await run.post(two, "b")
    assert await run.result(10) == "two: w a b"
    assert floor.done == []  # it was behind that step


async def test_a_run_that_has_ended_since_or_tidies_up_is_refused_and_stays(engine: Engine) -> None:
    client = await engine.registered(waits(1), waits(2), tidies(1), tidies(2))
    run = await client.start("mov-waits@1", {"word": "w"})
    migration = await plan(client, "mov-waits", 1, 2)
    assert await reasons(client, run, migration) == ""
    await run.post(one, "a")
    await run.post(two, "b")
    assert await run.result(10) == "one: w a b"
    assert await code_of(client.migrate(run.run_id, migration)) in {"MIGRATION_REFUSED", "RUN_FINISHED"}
    assert await reasons(client, run, migration) != ""
    assert (await run.state()).version == 1
    other = await client.start("mov-tidies@1")
    tidy = await plan(client, "mov-tidies", 1, 2)
    await other.cancel()
    assert "cancel" in await reasons(client, other, tidy)
    assert await code_of(client.migrate(other.run_id, tidy)) == "MIGRATION_REFUSED"
    await other.post(two, "b")
    await client.wait(other.run_id, timeout_s=10)
    assert (await other.state()).version == 1


def tidies(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-tidies")
        async def tidying() -> None:
            try:
                await one.wait()
            finally:
                await two.wait()

    else:

        @workflow(name="mov-tidies")
        async def tidying() -> None:
            try:
                await one.wait()
                await one.wait()
            finally:
                await two.wait()

    return tidying


async def test_events_and_moves_at_once_lose_nothing_and_double_nothing(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(waits(1), waits(3))
    migration = await plan(client, "mov-waits", 1, 2)
    runs = [await client.start("mov-waits@1", {"word": f"w{n}"}) for n in range(12)]

    async def goes_on(number: int, run: RunHandle[Any]) -> str:
        async def twice() -> str:
            code = await code_of(run.post(one, "a"))
            await code_of(run.post(one, "more"))  # The run may have ended.
            return code

        moves = client.migrate(run.run_id, migration)
        codes = await asyncio.gather(twice(), code_of(moves), code_of(run.post(two, "b")))
        assert codes[0] == codes[2] == ""
        return f"{'one' if codes[1] else 'three'}: w{number} a b"

    wanted = await asyncio.gather(*(goes_on(number, run) for number, run in enumerate(runs)))
    assert [await run.result(10) for run in runs] == wanted


async def test_a_run_moves_back_with_what_it_has(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(waits(1), waits(2))
    there, back = await plan(client, "mov-waits", 1, 2), await plan(client, "mov-waits", 2, 1)
    run = await client.start("mov-waits@1", {"word": "w"})
    await run.post(one, "a")
    for migration in (there, back, there, back):
        await client.migrate(run.run_id, migration)
    assert (await run.state()).version == 1
    assert await code_of(client.migrate(run.run_id, back)) == ""  # it is there
    await run.post(two, "b")
    assert await run.result(10) == "one: w a b"
    assert (await kinds(run)).count("run-migrated") == 4
    assert (await kinds(run)).count("event-awaited") == 2  # it has waited on


async def test_of_two_moves_at_once_to_two_versions_one_is_refused(sharded: Engine) -> None:
    client = await sharded.registered(waits(1), waits(2), waits(3))
    runs = [await client.start("mov-waits@1", {"word": f"w{n}"}) for n in range(6)]
    plans = [await plan(client, "mov-waits", 1, after) for after in (2, 3)]
    for run in runs:
        codes = await asyncio.gather(*(code_of(client.migrate(run.run_id, each)) for each in plans))
        assert sorted(codes) == ["", "MIGRATION_REFUSED"]
        assert (await run.state()).version == (2 if codes[0] == "" else 3)
        assert (await kinds(run)).count("run-migrated") == 1
        same = [plans[codes.index("")]] * 3
        assert set(await asyncio.gather(*(code_of(client.migrate(run.run_id, each)) for each in same))) == {
            ""
        }
        assert (await kinds(run)).count("run-migrated") == 1


async def test_a_migration_that_makes_no_sense_is_refused_and_harms_no_run(engine: Engine) -> None:
    client = await engine.registered(waits(1), waits(2), tidies(1))
    run = await client.start("mov-waits@1", {"word": "w"})
    good = await plan(client, "mov-waits", 1, 2)
    nonsense = [
        Migration("mov-waits", 1, 99, good.nodes),
        Migration("mov-tidies", 1, 1, good.nodes),
        Migration("mov-nowhere", 1, 2, good.nodes),
        Migration("mov-waits", 1, 2, {}),
        Migration("mov-waits", 1, 2, dict.fromkeys(good.nodes, 4711)),
        Migration("mov-waits", 1, 2, dict.fromkeys(good.nodes, -1)),
        Migration("mov-waits", 1, 2, good.nodes, {"word": "nowhere"}),
        Migration("mov-waits", 1, 0, good.nodes),
    ]
    for each in nonsense:
        code = await code_of(client.migrate(run.run_id, each))
        assert code in {"MIGRATION_REFUSED", "MIGRATION_INVALID", "SPEC_INVALID", "WORKFLOW_UNKNOWN"}, (
            each,
            code,
        )
        state = await run.state()
        assert (state.status, state.version) == ("running", 1), each
    for before, after in (("mov-waits@1", "mov-tidies@1"), ("mov-waits@1", "mov-waits@1")):
        assert await code_of(client.plan_migration(before, after)) == "MIGRATION_INVALID"
    assert await code_of(client.plan_migration("mov-waits@1", "mov-waits@9")) == "WORKFLOW_UNKNOWN"
    assert await code_of(client.migrate("nobody", good)) == "RUN_UNKNOWN"
    await run.post(one, "a")
    await run.post(two, "b")
    assert await run.result(10) == "one: w a b"


async def test_a_retired_version_s_runs_move_by_their_aliases_too(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(waits(1), waits(2))
    run = await client.start("mov-waits@1", {"word": "w"})
    await client.registry.retire("mov-waits", 1)
    await client.registry.set_alias("mov-waits", "stable", 2)
    planned = await client.plan_migration("mov-waits@1.0", "mov-waits@stable")
    await client.migrate(run.run_id, planned.migration)
    await run.post(one, "a")
    await run.post(two, "b")
    assert await run.result(10) == "two: w a b"


# -- what it waits for goes on -------------------------------------------------------------------------------------
def tasks(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-tasks")
        async def working(word: str) -> str:
            said = await step.options(exhausted="wait")(word)
            return f"one {said}"

    else:

        @workflow(name="mov-tasks")
        async def working(word: str) -> str:
            note = "two"
            said = await step.options(exhausted="wait")(word)
            return f"{note} {said}"

    return working


async def test_a_result_of_an_attempt_that_a_worker_has_counts_in_the_new_version(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        await current_task().checkpoint(1)
        await floor.gate.wait()
        return word

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(tasks(1), tasks(2))
    run = await client.start("mov-tasks@1", {"word": "w"})
    await seen(run, until, "task-started")
    migration = await plan(client, "mov-tasks", 1, 2)
    # Behind its step the new version reads what no run of the old one has.
    assert "note" in await reasons(client, run, migration)
    assert await code_of(client.migrate(run.run_id, migration)) == "MIGRATION_REFUSED"
    migration = await plan(client, "mov-tasks", 1, 2, values={"note": "given"})
    await client.migrate(run.run_id, migration)
    floor.gate.set()
    assert await run.result(10) == "given w"
    assert (floor.done, (await kinds(run)).count("task-scheduled")) == (["w"], 1)


async def test_a_value_that_is_given_is_of_its_type_and_so_is_a_variable_that_moves(engine: Engine) -> None:
    client = await engine.registered(tasks(1), tasks(2), typed(1), typed(2))
    run = await client.start("mov-tasks@1", {"word": "w"})
    wrong = await plan(client, "mov-tasks", 1, 2, values={"note": 4711})
    assert "note" in await reasons(client, run, wrong)
    other = await client.start("mov-typed@1", {"given": 1})
    migration = await plan(client, "mov-typed", 1, 2)
    assert "given" in await reasons(client, other, migration)
    for each, with_what in ((run, wrong), (other, migration)):
        assert await code_of(client.migrate(each.run_id, with_what)) == "MIGRATION_REFUSED"
        assert (await each.state()).version == 1


def typed(number: int) -> Definition:
    @workflow(name="mov-typed")
    async def first(given: int) -> str:
        await one.wait()
        return f"{given}"

    @workflow(name="mov-typed")
    async def second(given: str) -> str:
        await one.wait()
        return given

    return first if number == 1 else second


async def test_a_dead_task_moves_to_the_version_that_mends_it(engine: Engine, until: Until) -> None:
    async def does(word: str) -> str:
        raise OSError("down")

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(tasks(1), tasks(2))
    run = await client.start("mov-tasks@1", {"word": "w"})
    await seen(run, until, "task-dead")
    await client.migrate(run.run_id, await plan(client, "mov-tasks", 1, 2, values={"note": "given"}))
    (dead,) = (await run.state()).dead_tasks
    floor.does = nothing
    await client.retry_task(run.run_id, dead.task_id)
    assert await run.result(10) == "given w"
    assert (floor.done, (await kinds(run)).count("task-dead")) == (["w", "w"], 1)


def limited(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-limited")
        async def turning(word: str) -> str:
            return f"one {await single(word)}"

    elif number == 2:

        @workflow(name="mov-limited")
        async def turning(word: str) -> str:
            return f"two {await single(word)}"

    else:

        @workflow(name="mov-limited")
        async def turning(word: str) -> str:
            return f"three {await one.wait()}"

    return turning


async def test_a_run_keeps_its_permit_and_its_place_in_the_line_when_it_moves_and_gives_them_up_with_the_step(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        await floor.gate.wait()
        return word

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(limited(1), limited(2), limited(3))
    runs = []
    for number, word in enumerate(("first", "second", "third", "fourth")):
        runs.append(await client.start("mov-limited@1", {"word": word}))

        async def asked(number: int = number) -> bool:
            try:
                view = await client.task_limit("single")
            except NotFound:
                return False  # Nobody has asked yet.
            return (len(view.taken), view.waiting) == (1, number)

        await until(asked, f"{word} has asked")
    first, second, third, fourth = runs
    migration = await plan(client, "mov-limited", 1, 2)
    for run in (first, second):
        await client.migrate(run.run_id, migration)
    proposed = await client.plan_migration("mov-limited@1", "mov-limited@3")
    (task_at,) = (each.line for each in proposed.steps)
    (event_at,) = (
        each.line for each in (await client.plan_migration("mov-limited@3", "mov-limited@1")).steps
    )
    begins = await plan(client, "mov-limited", 1, 3, lines={task_at: event_at})
    await client.migrate(third.run_id, begins)
    await third.post(one, "a")
    assert await third.result(10) == "three a"
    floor.gate.set()
    assert [await run.result(10) for run in (first, second, fourth)] == [
        "two first",
        "two second",
        "one fourth",
    ]
    assert floor.done == ["first", "second", "fourth"]

    async def nobody() -> bool:
        view = await client.task_limit("single")
        return (view.taken, view.waiting) == ((), 0)

    await until(nobody, "nobody has a permit, and nobody waits")


def branches(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-branches")
        async def branching(word: str) -> list[str]:
            async def left() -> str:
                return f"left {await one.wait()}"

            async def right() -> str:
                return f"right {await two.wait()}"

            first, second = await gather(left(), right())
            return [word, first, second]

    else:

        @workflow(name="mov-branches")
        async def branching(word: str) -> list[str]:
            async def left() -> str:
                return f"new left {await one.wait()}"

            async def right() -> str:
                said = await two.wait()
                return f"new right {await step(said)}"

            first, second = await gather(left(), right())
            return [f"new {word}", first, second]

    return branching


async def test_a_stopped_run_with_branches_moves_and_goes_on_when_it_is_resumed(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(branches(1), branches(2))
    run = await client.start("mov-branches@1", {"word": "w"})
    await run.post(one, "a")
    await run.stop("for the move")
    await run.post(two, "b")  # kept
    migration = await plan(client, "mov-branches", 1, 2)
    assert await reasons(client, run, migration) == ""
    await client.migrate(run.run_id, migration)
    assert floor.done == []
    await run.resume()
    assert await run.result(10) == ["new w", "left a", "new right b"]


def sleeps(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-sleeps")
        async def sleeping() -> str:
            await sleep(MOMENT)
            return "one"

    else:

        @workflow(name="mov-sleeps")
        async def sleeping() -> str:
            await sleep(MOMENT)
            return "two"

    return sleeping


async def test_a_sleep_is_neither_begun_anew_nor_lost_and_ends_once(engine: Engine) -> None:
    client = await engine.registered(sleeps(1), sleeps(2))
    run = await client.start("mov-sleeps@1")
    there, back = await plan(client, "mov-sleeps", 1, 2), await plan(client, "mov-sleeps", 2, 1)
    for migration in (there, back, there):
        await client.migrate(run.run_id, migration)
    assert await run.result(10) == "two"
    slept = [kind for kind in await kinds(run) if "timer" in kind or "sleep" in kind]
    assert len(slept) == len(set(slept))  # set once, and over once


def child(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-child")
        async def below(word: str) -> str:
            return f"one {word} {await one.wait()}"

    else:

        @workflow(name="mov-child")
        async def below(word: str) -> str:
            return f"two {word} {await one.wait()}"

    return below


def above() -> Definition:
    under = child(1)

    @workflow(name="mov-above")
    async def over(word: str) -> str:
        return f"above {await under(word)}"

    return over


async def test_a_child_run_moves_and_its_parent_has_its_result(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(above(), child(2))
    run = await client.start("mov-above", {"word": "w"})
    await seen(run, until, "child-started")
    (begun,) = [
        json.loads(bytes(event.data)) async for event in run.history() if event.kind == "child-started"
    ]
    below = client.handle(begun["run_id"])
    await client.migrate(below.run_id, await plan(client, "mov-child", 1, 2))
    await below.post(one, "a")
    assert await run.result(10) == "above two w a"


# -- many, from the command line -----------------------------------------------------------------------------------
def mixed(number: int) -> Definition:
    if number == 1:

        @workflow(name="mov-mixed")
        async def mixing(word: str) -> str:
            if word == "early":
                await one.wait()
            total = len(word)
            await two.wait()
            return f"one {total}"

    else:

        @workflow(name="mov-mixed")
        async def mixing(word: str) -> str:
            amount = len(word)
            await two.wait()
            return f"two {amount}"

    return mixing


async def test_a_dry_run_lists_who_cannot_move_and_why_and_applying_can_be_repeated(
    engine: Engine, dressage: Dressage, until: Until, start: Start, tmp_path: Path
) -> None:
    client = await engine.registered(mixed(1), mixed(2))
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("analytics", "--db", str(tmp_path / "a.duckdb"), *place)
    names = [f"r{n}" for n in range(5)]
    for name in names:
        await client.start("mov-mixed@1", {"word": name}, run_id=name)
    await client.start("mov-mixed@1", {"word": "early"}, run_id="early")
    await client.start("mov-mixed@2", {"word": "new"}, run_id="new")

    async def versions_are(wanted: dict[str, int]) -> bool:
        assert program.process.poll() is None, program.said
        try:
            found = await query(client.connection, engine.names, "SELECT run_id, version FROM runs")
        except DressageError:
            return False
        return {str(name): version for name, version in found.rows} == wanted

    wanted = {**dict.fromkeys(names, 1), "early": 1, "new": 2}

    async def all_known() -> bool:
        return await versions_are(wanted)

    await until(all_known, "analytics knows them", timeout_s=20)
    rename = ("--rename", "total=amount")
    code, said = await dressage("migrate", "check", "mov-mixed@1", "2", "--all", "--json", *rename)
    told = json.loads(said)
    assert (code, told["runs"], told["moved"], set(told["reasons"])) == (1, 6, 5, {"early"}), said
    assert any("issue-moving-one" in each or "place" in each for each in told["reasons"]["early"]), told
    assert await versions_are(wanted)
    await client.migrate("r0", await plan(client, "mov-mixed", 1, 2, variables={"total": "amount"}))
    code, said = await dressage("migrate", "apply", "mov-mixed@1", "2", "--all", "--json", *rename)
    told = json.loads(said)
    assert (code, set(told["reasons"])) == (1, {"early"}), said
    wanted = {**dict.fromkeys(names, 2), "early": 1, "new": 2}
    await until(all_known, "they have moved", timeout_s=20)
    code, said = await dressage("migrate", "apply", "mov-mixed@1", "2", "r0", "r3", *rename)
    assert code == 0, said  # they are there
    for name in names:
        run = client.handle(name)
        assert (await kinds(run)).count("run-migrated") == 1
        await run.post(two, "x")
        assert await run.result(10) == "two 2"
    early = client.handle("early")
    await early.post(one, "x")
    await early.post(two, "x")
    assert await early.result(10) == "one 5"


async def test_the_plan_is_proposed_from_source_lines_and_exit_codes_say_what_is_in_the_way(
    engine: Engine, dressage: Dressage
) -> None:
    client = await engine.registered(mixed(1), mixed(2))
    await client.start("mov-mixed@1", {"word": "early"}, run_id="early")
    code, said = await dressage("migrate", "plan", "mov-mixed@1", "2", "--json")
    assert code == 0, said
    steps = {each["what"]: each for each in json.loads(said)["steps"]}
    lines_of: dict[str, dict[str, Any]] = {}
    spec = (await client.registry.get("mov-mixed", 1)).spec
    for name, text in (("issue-moving-one", "await one.wait()"), ("issue-moving-two", "await two.wait()")):
        (found,) = (each for what, each in steps.items() if name in what)
        assert spec.source is not None
        lines = spec.source.splitlines()
        assert text in lines[found["line"] - spec.first_line]
        assert ("node_after" in found) == (name == "issue-moving-two")
        lines_of[name] = found
    early_at, late_at = lines_of["issue-moving-one"]["line"], lines_of["issue-moving-two"]["line_after"]
    code, said = await dressage("migrate", "apply", "mov-mixed@1", "2", "early")
    assert (code, "early" in said) == (1, True), said
    mapped = ("--map", f"{early_at}:{late_at}", "--set", "amount=7")
    code, said = await dressage("migrate", "apply", "mov-mixed@1", "2", "early", *mapped)
    assert code == 0, said
    await client.post("early", two, "x")
    assert await client.handle("early").result(10) == "two 7"
    assert (await dressage("migrate", "check", "mov-mixed@1", "2", "nobody"))[0] == 1
    assert (await dressage("migrate", "check", "mov-mixed", "2", "early"))[0] == 2


async def test_runs_have_moved_or_not_when_the_orchestrator_ends_among_many_moves(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(waits(1), waits(3))
    migration = await plan(client, "mov-waits", 1, 2)
    runs = [await client.start("mov-waits@1", {"word": f"w{n}"}) for n in range(30)]
    moving = [asyncio.create_task(client.migrate(run.run_id, migration)) for run in runs]
    await moving[0]
    await sharded.down()
    await sharded.up()
    await asyncio.gather(*moving)
    for run in runs:
        assert (await kinds(run)).count("run-migrated") == 1
        await run.post(one, "a")
        await run.post(two, "b")
    assert [await run.result(10) for run in runs] == [f"three: w{n} a b" for n in range(30)]
