"""User tasks on the real engine: worked with from clients, other processes and the command line, and found in SQL."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.client import Client
from dressage.client.finding import FoundUserTask, user_tasks
from dressage.flow import App, UserTask, UserTaskCancelled, first_completed, gather, sleep, workflow
from dressage.protocol.commands import UserTaskAction, encoder
from dressage.protocol.errors import NotFound, Refused
from dressage.protocol.user_tasks import AddComment, Claim

pytestmark = pytest.mark.anyio

app = App("office")


@dataclass
class Approval:
    ok: bool
    reason: str = ""


approve = UserTask("approve", form=Approval)


@workflow
async def expense(amount: int, owner: str) -> str:
    try:
        approval = await approve.assign(
            group="finance",
            notes=f"{owner} wants {amount}",
            due=timedelta(days=2),
            remind=timedelta(days=1),
            timeout=timedelta(days=9),
        )
    except UserTaskCancelled as error:
        return f"cancelled: {error}"
    return "paid" if approval.ok else f"refused: {approval.reason}"


@workflow
async def hasty() -> str:
    try:
        await approve.assign(
            user="ann",
            group="finance",
            due=timedelta(seconds=0.3),
            remind=timedelta(seconds=1),
            escalate_after=timedelta(seconds=1.5),
            escalate_to="leads",
            timeout=timedelta(seconds=3),
        )
    except TimeoutError as error:
        return f"{error}"
    return "done"


@workflow
async def panel(people: list[str]) -> list[str]:
    said = await gather(*(approve.assign(user=person, notes="vote") for person in people))
    return [each.reason for each in said]


@workflow
async def raced() -> int:
    place, _ = await first_completed(approve.assign(group="finance"), sleep(timedelta(seconds=0.5)))
    return place


async def one(client: Client, run_id: str) -> str:
    (view,) = await client.user_tasks(run_id)
    return view.id


async def kinds(client: Client, run_id: str) -> list[str]:
    return [event.kind async for event in client.history(run_id)]


async def test_people_work_with_them_across_owners_and_every_step_is_in_the_history(sharded: Engine) -> None:
    client = await sharded.registered(expense)
    runs = [f"e-{number}" for number in range(4)]
    for number, run_id in enumerate(runs):
        await client.start(expense, {"amount": number, "owner": "eve"}, run_id=run_id)
    tasks = {run_id: client.user_task(run_id, await one(client, run_id)) for run_id in runs}
    for task in tasks.values():
        await task.claim("ann")
        await task.comment("ann", "hm")
        await task.save("ann", {"reason": "so far"})
    await sharded.down()
    await sharded.up()
    for run_id, task in tasks.items():
        view = await task.view()
        assert (view.state, view.user, view.group, view.epoch) == ("assigned", "ann", "finance", 1)
        assert view.values == {"reason": "so far"}
        assert [(each.user, each.text) for each in view.comments] == [("ann", "hm")]
        assert view.notes == f"eve wants {run_id[-1]}"
        with pytest.raises(Refused) as refused:
            await task.complete("bob", Approval(True))
        assert refused.value.code == "USER_TASK_TAKEN"
        await task.complete("ann", Approval(run_id != "e-3", "no money"))
    ends = [await client.handle(run_id).result(15) for run_id in runs]
    assert ends == ["paid", "paid", "paid", "refused: no money"]
    told = await kinds(client, "e-0")
    assert [kind for kind in told if kind.startswith("user-task")] == [
        "user-task-opened",
        "user-task-assigned",
        "user-task-commented",
        "user-task-saved",
        "user-task-completed",
    ]
    with pytest.raises(NotFound):
        await tasks["e-0"].view()
    assert await client.user_tasks("e-0") == []


async def test_an_action_comes_twice_or_its_answer_gets_lost_and_counts_once(engine: Engine) -> None:
    client = await engine.registered(expense)
    await client.start(expense, {"amount": 1, "owner": "eve"}, run_id="twice")
    task = client.user_task("twice", await one(client, "twice"))
    for _ in range(3):
        await task.comment("ann", "once", action_id="c-1")
    # A repeat that comes when all is over is the same action, too.
    await task.complete("ann", {"ok": True}, action_id="done")
    await task.complete("ann", {"ok": True}, action_id="done")
    await task.comment("ann", "once", action_id="c-1")
    with pytest.raises(Refused) as refused:
        await task.complete("ann", {"ok": False}, action_id="other")
    assert refused.value.code == "RUN_FINISHED"
    assert await client.handle("twice").result(10) == "paid"
    told = await kinds(client, "twice")
    assert told.count("user-task-commented") == told.count("user-task-completed") == 1
    # Many people at once: one of them has it.
    await client.start(expense, {"amount": 1, "owner": "eve"}, run_id="rush")
    rush = client.user_task("rush", await one(client, "rush"))
    claims = await asyncio.gather(*(rush.claim(f"u-{each}") for each in range(20)), return_exceptions=True)
    assert sum(not isinstance(each, Exception) for each in claims) == 1
    assert {each.code for each in claims if isinstance(each, Refused)} == {"USER_TASK_TAKEN"}
    assert (await kinds(client, "rush")).count("user-task-assigned") == 1


async def test_time_reminds_escalates_and_ends_it(engine: Engine) -> None:
    client = await engine.registered(hasty, raced)
    handle = await client.start(hasty)
    assert await handle.result(15) == "user task approve was not done within 3 s"
    told = [event async for event in client.history(handle.run_id)]
    assert [each.kind for each in told][1:-2] == [
        "user-task-opened",
        "user-task-overdue",
        "user-task-reminded",
        "user-task-assigned",
        "user-task-reminded",
        "user-task-cancelled",
    ]
    race = await client.start(raced)
    view = (await client.user_tasks(race.run_id))[0]
    assert await race.result(15) == 1
    with pytest.raises(Refused) as refused:
        await client.user_task(race.run_id, view.id).claim("ann")
    assert refused.value.code == "RUN_FINISHED"
    assert "user-task-cancelled" in await kinds(client, race.run_id)


async def test_bad_actions_are_refused_where_they_enter(engine: Engine) -> None:
    client = await engine.registered(expense)
    await client.start(expense, {"amount": 1, "owner": "eve"}, run_id="bad")
    task_id = await one(client, "bad")
    for command in (
        b'{"type":"user-task-action","user_task_id":"%s","action_id":"a","action":{"do":"sing"}}',
        b'{"type":"user-task-action","user_task_id":"%s","action_id":"a","action":{"do":"claim","user":""}}',
        b'{"type":"user-task-action","user_task_id":"%s","action_id":"a"}',
    ):
        answer = await engine.send_raw("bad", command % task_id.encode())
        assert answer["code"] == "COMMAND_MALFORMED"
    unknown = UserTaskAction("0-0-1", "a", Claim("ann"))
    assert (await engine.send_raw("bad", encoder.encode(unknown)))["code"] == "USER_TASK_UNKNOWN"
    odd = UserTaskAction("nothing", "a", AddComment("ann", "x"))
    assert (await engine.send_raw("bad", encoder.encode(odd)))["code"] == "USER_TASK_UNKNOWN"
    with pytest.raises(NotFound):
        await client.user_tasks("none")
    with pytest.raises(Refused) as refused:
        await client.user_task("none", "0-0-1").claim("ann")
    assert refused.value.code == "RUN_UNKNOWN"
    assert await kinds(client, "bad") == ["run-started", "user-task-opened"]


def _ids(found: list[FoundUserTask]) -> list[str]:
    return [f"{each.run_id} {each.user_id or each.group_id}" for each in found]


async def test_those_of_all_runs_are_found_by_who_has_them_how_they_stand_and_when_they_are_due(
    engine: Engine, tmp_path: Path
) -> None:
    client = await engine.registered(expense, panel, hasty)
    for number in range(3):
        await client.start(expense, {"amount": number, "owner": "eve"}, run_id=f"f-{number}")
    votes = await client.start(panel, {"people": ["ann", "bob"]}, run_id="votes")
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "found.duckdb"):
        connection, names = client.connection, engine.names

        async def finds(expected: list[str], **said: Any) -> None:
            """The events follow the answer to a command within moments."""

            async def are_found() -> bool:
                return _ids(await user_tasks(connection, names, **said)) == expected

            await until(are_found, f"{said}: {expected}")

        await finds(["f-0 finance", "f-1 finance", "f-2 finance", "votes ann", "votes bob"])
        await finds(["f-0 finance", "f-1 finance", "f-2 finance"], group="finance")
        await client.user_task("f-1", await one(client, "f-1")).claim("ann")
        await finds(["f-1 ann", "votes ann"], user="ann")
        await finds(["f-0 finance", "f-2 finance"], state="unassigned")
        await finds(["votes ann", "votes bob"], state="assigned", workflow="panel")
        await client.user_task("f-1", await one(client, "f-1")).complete("bob", Approval(True), override=True)
        await finds(["f-1 bob"], state="done")
        await client.user_task("f-2", await one(client, "f-2")).cancel("ann", "not needed")
        await finds(["f-2 finance"], state="cancelled")
        assert await client.handle("f-2").result(10) == "cancelled: not needed"
        await votes.cancel()
        await finds(["votes ann", "votes bob"], state="withdrawn")
        soon = datetime.now(UTC) + timedelta(days=1)
        await finds([], due_before=soon)
        await finds(["f-0 finance"], due_before=soon + timedelta(days=2))
        late = await client.start(hasty)
        await client.wait_for_event(late.run_id, "user-task-overdue")

        async def is_overdue() -> bool:
            found = await user_tasks(connection, names, user="ann", workflow="hasty")
            return [(each.overdue, each.user_task, each.version) for each in found] == [(True, "approve", 1)]

        await until(is_overdue, "it is told to be overdue")


async def test_from_the_command_line(engine: Engine, tmp_path: Path) -> None:
    client = await engine.registered(expense)
    await client.start(expense, {"amount": 7, "owner": "eve"}, run_id="cli")
    task_id = await one(client, "cli")

    async def call(*args: str, fails: bool = False) -> str:
        command = [sys.executable, "-m", "dressage.cli.main", "user-task", *args]
        options = ["--server", engine.url, "--namespace", engine.namespace]
        done = await asyncio.to_thread(
            subprocess.run, [*command, *options], capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else done.stdout

    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "cli.duckdb"):
        listed = await call("list", "--group", "finance")
        assert f"cli  {task_id}  approve" in listed
        assert "eve wants 7" in listed
        await call("claim", "cli", task_id, "--user", "ann")
        assert "USER_TASK_TAKEN: user 'ann' has user task 'approve'" in await call(
            "claim", "cli", task_id, "--user", "bob", fails=True
        )
        await call("release", "cli", task_id, "--user", "ann")
        await call("assign", "cli", task_id, "--to-user", "bob", "--to-group", "leads")
        await call("comment", "cli", task_id, "sure?", "--user", "bob")
        await call("save", "cli", task_id, '{"ok": true}', "--user", "bob")
        shown = await call("show", "cli")
        for part in ("approve", "bob", "leads", "bob: sure?", '{"ok":true}', "ok*, reason", "assigned"):
            assert part in shown
        (view,) = json.loads(await call("show", "cli", task_id, "--json"))
        assert view["values"] == {"ok": True}
        await call("complete", "cli", task_id, "--user", "bob")
        assert await client.handle("cli").result(10) == "paid"
        await client.wait_for_event("cli", "run-completed")
        (found,) = json.loads(await call("list", "--state", "done", "--json"))
        assert (found["user_id"], found["comments"], found["state"]) == ("bob", 1, "done")
        assert "RUN_FINISHED" in await call("cancel", "cli", task_id, fails=True)


async def test_from_any_language(engine: Engine) -> None:
    client = await engine.registered(expense)
    await client.start(expense, {"amount": 7, "owner": "eve"}, run_id="any")
    nats = await engine.nats()

    async def ask(operation: str, **request: Any) -> dict[str, Any]:
        reply = await nats.request(engine.names.api(operation), json.dumps(request).encode(), timeout=10)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    told = await ask("user-tasks", run_id="any")
    (view,) = told["user_tasks"]
    assert told["forms"]["approve"]["$defs"]["Approval"]["required"] == ["ok"]
    acted = {"run_id": "any", "user_task_id": view["id"]}
    misspelt = await ask("act", **acted, action={"do": "complete", "user": "ann", "value": {"ok": True}})
    assert misspelt["code"] == "REQUEST_MALFORMED"
    assert (await ask("act", **acted, action={"do": "claim", "user": "ann"}))["ok"]
    refused = await ask("act", **acted, action={"do": "complete", "user": "ann", "values": {"ok": "maybe"}})
    assert refused["code"] == "USER_TASK_INVALID"
    done = {"do": "complete", "user": "ann", "values": {"ok": False, "reason": "too much"}}
    assert (await ask("act", **acted, action=done, action_id="x"))["ok"]
    assert (await ask("act", **acted, action=done, action_id="x"))["ok"]
    assert await client.handle("any").result(10) == "refused: too much"
