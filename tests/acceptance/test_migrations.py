"""Live migration on the real engine: from Python, from the shell, from any language, and through kills."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.cli.analytics import ask as ask_sql
from dressage.client import Client
from dressage.flow import Event, UserTask, sleep, workflow
from dressage.protocol.alignment import Proposal
from dressage.protocol.errors import BadInput, NotFound, Refused
from dressage.protocol.migrations import MigrationCheck

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import live_migration.after as later
import live_migration.before as first

pytestmark = pytest.mark.anyio

ANSWER: Final = {"answer": ""}


async def trials(engine: Engine, *members: str) -> Client:
    """Members of the first version who have their cards, and have not decided; the second version is there."""
    await engine.worker(later.app)
    client = await engine.registered(first.membership)
    for member in members:
        await client.start(first.membership, {"member": member}, run_id=member)
    for member in members:
        await until(lambda member=member: waits(client, member), f"{member} is asked", 20)
    await engine.registered(later.membership)
    return client


async def waits(client: Client, run_id: str, what: str = "event decided") -> bool:
    return (await client.get(run_id)).waiting_for.startswith(what)


async def planned(client: Client, **given: Any) -> Proposal:
    return await client.plan_migration("membership@1", "membership@2", values=ANSWER, **given)


async def test_runs_that_wait_go_on_in_the_other_version(sharded: Engine) -> None:
    client = await trials(sharded, "ann", "bob")
    found = await planned(client)
    assert [(step.what, step.line_after, step.begins) for step in found.steps] == [
        ("task welcome", 37, False),
        ("event decided", 40, True),
        ("task bill", 48, False),
    ]
    assert await client.check_migration("ann", found.migration) == MigrationCheck()
    await client.migrate("ann", found.migration)
    view = await client.get("ann")
    assert (view.version, view.waiting_for.partition(" until ")[0]) == (2, "event decided")
    assert view.variables["view"] == {"status": "TRIAL", "reminders": 0}
    assert (await client.check_migration("ann", found.migration)).moved
    # Another owner knows it, too, and the one that stayed is still of the first version.
    await sharded.down()
    await sharded.up()
    for member in ("ann", "bob"):
        await client.post(member, later.decided, "stay")
        assert await client.handle(member).result(15) == f"{member} pays 20"
    assert [(await client.get(member)).version for member in ("ann", "bob")] == [2, 1]
    events = [event async for event in client.history("ann")]
    moved = next(event for event in events if event.kind == "run-migrated")
    assert (moved.version, json.loads(bytes(moved.data))) == (2, {"before": 1, "after": 2})


async def test_the_same_migration_again_changes_nothing(engine: Engine) -> None:
    client = await trials(engine, "ann")
    found = await planned(client)
    await asyncio.gather(*(client.migrate("ann", found.migration) for _ in range(4)))
    back = await client.plan_migration("membership@2", "membership@1")
    await client.migrate("ann", back.migration, command_id="back")
    await client.migrate("ann", found.migration, command_id="again")
    await client.migrate("ann", back.migration, command_id="back")
    assert (await client.get("ann")).version == 2, "a repeat that comes late moves nothing"
    kinds = [event.kind async for event in client.history("ann")]
    assert kinds.count("run-migrated") == 3


async def test_the_start_of_a_run_that_has_moved_may_come_again(engine: Engine) -> None:
    client = await trials(engine, "ann")
    await client.migrate("ann", (await planned(client)).migration)
    again = await client.start("membership@1", {"member": "ann"}, run_id="ann")
    assert again.existing
    with pytest.raises(Refused) as caught:
        await client.start("membership@1", {"member": "bob"}, run_id="ann")
    assert caught.value.code == "RUN_ID_CONFLICT"


async def test_what_is_in_the_way_is_said_and_the_run_stays(engine: Engine) -> None:
    client = await trials(engine, "ann")
    found = await client.plan_migration("membership@1", "membership@2")
    said = await client.check_migration("ann", found.migration)
    assert said.reasons == ("variable answer has no value: give one",)
    with pytest.raises(Refused) as caught:
        await client.migrate("ann", found.migration)
    assert caught.value.code == "MIGRATION_REFUSED"
    assert "variable answer has no value: give one" in caught.value.message
    assert (await client.get("ann")).version == 1
    with pytest.raises(NotFound):
        await client.check_migration("nobody", found.migration)
    with pytest.raises(Refused) as caught:
        await client.migrate("nobody", found.migration)
    assert caught.value.code == "RUN_UNKNOWN"
    with pytest.raises(BadInput):
        await client.plan_migration("membership@1", "membership@1")
    await client.post("ann", first.decided, "leave")
    assert await client.handle("ann").result(15) == "card of ann is void"


async def test_one_of_a_version_that_is_not_there_is_refused(engine: Engine) -> None:
    client = await trials(engine, "ann")
    found = (await planned(client)).migration
    missing = type(found)("membership", 1, 9, found.nodes)
    with pytest.raises(Refused, match="has no version 9"):
        await client.migrate("ann", missing)
    strange = type(found)("membership", 1, 2, {2: 4000, 1: -5})
    with pytest.raises(Refused, match="has no place in version 2"):
        await client.migrate("ann", strange)
    assert (await client.get("ann")).version == 1


ask = UserTask("ask-somebody", form=first.MembershipView)
rung = Event("rung", of=int)


@workflow(name="asks")
async def asks(what: str) -> str:
    form = await ask.assign(group="all", notes=what)
    return form.status


@workflow(name="asks")
async def asks_no_more(what: str) -> str:
    await sleep(0)
    told = await rung.wait(key=what)
    return f"rang {told}"


async def test_what_is_given_up_is_withdrawn_and_the_other_step_begins(sharded: Engine) -> None:
    client = await sharded.registered(asks)
    for name in ("a", "b"):
        await client.start(asks, {"what": name}, run_id=name)
    await sharded.registered(asks_no_more)
    there = next(node.line for node in asks_no_more.spec.nodes if type(node).__name__ == "EventNode")
    found = await client.plan_migration("asks@1", "asks@2", lines={asks.spec.nodes[0].line: there})
    await client.post_by_key(rung, "a", 7)
    task = (await client.user_tasks("a"))[0]
    for name in ("a", "b"):
        await client.migrate(name, found.migration)
    assert await client.handle("a").result(15) == "rang 7"
    await client.post_by_key(rung, "b", 8)
    assert await client.handle("b").result(15) == "rang 8"
    kinds = [event.kind async for event in client.history("a")]
    assert kinds.index("user-task-cancelled") < kinds.index("event-received")
    with pytest.raises(Refused):
        await client.user_task("a", task.id).claim("ann")


async def test_a_killed_engine_moves_each_run_once(engine: Engine, start: Start) -> None:
    members = [f"m-{number}" for number in range(12)]
    client = await trials(engine, *members)
    found = await planned(client)
    await engine.down()
    served = ("--server", engine.url, "--namespace", engine.namespace, "--shards", str(engine.shards))
    program = start("orchestrator", *served)
    moving = [
        asyncio.create_task(client.migrate(member, found.migration, timeout_s=60)) for member in members
    ]
    while not any(task.done() for task in moving):
        await asyncio.sleep(0.005)
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
    await engine.up()
    await asyncio.gather(*moving)
    for member in members:
        await client.post(member, later.decided, "stay")
        assert await client.handle(member).result(30) == f"{member} pays 20"
        kinds = [event.kind async for event in client.history(member)]
        assert kinds.count("run-migrated") == 1


async def test_the_command_line_plans_checks_and_moves_what_can_move(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    client = await trials(engine, "ann", "bob", "cid")
    await client.start("membership@1", {"member": "dora"}, run_id="dora")
    await client.cancel("cid", at_once=True)

    async def said(*arguments: str, code: int = 0) -> str:
        program = start("migrate", *arguments, "--server", engine.url, "--namespace", engine.namespace)
        assert await asyncio.to_thread(program.ended) == code, program.said
        return program.said

    told = await said("plan", "membership@1", "2")
    assert "event decided" in told
    assert "begin there, and give up what they wait for: only one of them has a timeout" in told
    plan = json.loads((await said("plan", "membership@1", "2", "--json")).splitlines()[-1])
    assert [step["line_after"] for step in plan["steps"]] == [37, 40, 48]
    assert "no pair of lines" in await said("plan", "membership@1", "2", "--map", "x", code=2)
    assert "name runs, or --all" in await said("check", "membership@1", "2", code=2)
    told = await said("check", "membership@1", "2", "ann", "nobody", code=1)
    assert "ann: variable answer has no value: give one" in told
    assert "nobody: there is no such run" in told
    told = await said("apply", "membership@1", "2", "nobody", code=1)
    assert "0 of 1 run moved" in told, "who names a run that is not there is not told that all is well"
    given = ("membership@1", "2", "--set", 'answer=""')
    assert "1 of 1 run can move" in await said("check", *given, "ann")
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):

        async def versions() -> dict[str, int]:
            sql = "SELECT run_id, version FROM runs ORDER BY run_id"
            result = await ask_sql(sql, engine.url, engine.namespace, None, 100, 20.0)
            return {str(run_id): int(version) for run_id, version in result.rows}

        async def all_are_there() -> bool:
            return len(await versions()) == 4

        await until(all_are_there, "SQL knows all runs", 20)
        assert "1 of 1 run moved" in await said("apply", *given, "ann", "--actor", "dora")
        assert "2 of 2 runs moved" in await said("apply", *given, "--all")

        async def all_have_moved() -> bool:
            return await versions() == {"ann": 2, "bob": 2, "cid": 1, "dora": 2}

        await until(all_have_moved, "SQL knows that they have moved", 20)
        assert "0 of 0 runs moved" in await said("apply", *given, "--all"), "it can be done again at any time"
    await client.post("bob", later.decided, "stay")
    assert await client.handle("bob").result(15) == "bob pays 20"
    moved = [event async for event in client.history("ann") if event.kind == "run-migrated"]
    assert [event.actor for event in moved] == ["dora"]


async def test_the_service_moves_them_for_any_language(engine: Engine) -> None:
    await trials(engine, "ann")
    asked = {"workflow": "membership", "before": 1, "after": "2", "values": {"answer": ""}}
    plan = await engine.call("plan-migration", asked)
    assert plan["ok"], plan
    checked = await engine.call("check-migration", {"run_id": "ann", "migration": plan["migration"]})
    assert checked == {"reasons": [], "moved": False, "ok": True}
    moved = await engine.call("migrate", {"run_id": "ann", "migration": plan["migration"], "actor": "ann"})
    assert moved["ok"], moved
    assert (await engine.call("get", {"run_id": "ann"}))["run"]["version"] == 2
    refused = await engine.call("plan-migration", {**asked, "lines": {"1": 1}})
    assert refused["code"] == "MIGRATION_INVALID"
