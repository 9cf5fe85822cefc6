"""Schedules on the real engine: fires, overlaps, absences, changes, the command line, SQL, and any language."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.client import At, Client, Cron, Every, ScheduleHandle
from dressage.flow import Event, workflow
from dressage.protocol.errors import BadInput, BadName, NotFound, Refused
from dressage.protocol.names import timetable_token
from dressage.protocol.schedules import Overlap

pytestmark = pytest.mark.anyio

go = Event("go")


@workflow
async def bill(plan: str) -> str:
    return f"billed {plan}"


@workflow
async def slow(plan: str) -> str:
    await go.wait()
    return plan


SECOND = Every(timedelta(seconds=1))


async def fires(schedule: ScheduleHandle, count: int) -> list[Any]:
    """The first fires, when there are so many."""

    async def there_are() -> bool:
        return len((await schedule.view()).fires) >= count

    await until(there_are, f"{count} fires", 15)
    return list((await schedule.view()).fires[:count])


async def ends(client: Client, run_id: str) -> Any:
    """The result of a run that a schedule has asked for, and that is there in a moment."""

    async def is_there() -> bool:
        try:
            await client.get(run_id)
        except NotFound:
            return False
        return True

    await until(is_there, f"{run_id} is there")
    return await client.handle(run_id).result(15)


async def runs_end(client: Client, run_ids: list[str]) -> list[Any]:
    return [await ends(client, run_id) for run_id in run_ids]


async def test_it_fires_on_every_shard_and_behind_another_owner(sharded: Engine) -> None:
    client = await sharded.registered(bill)
    made = [
        await client.set_schedule(
            f"nightly-{number}", bill, {"plan": f"{number}"}, when=SECOND, overlap="allow"
        )
        for number in range(4)
    ]
    seen = {each.name: await fires(each, 2) for each in made}
    await sharded.down()
    await sharded.up()
    for schedule in made:
        later = await fires(schedule, 4)
        assert [each.run_id for each in later[:2]] == [each.run_id for each in seen[schedule.name]]
        moments = [datetime.fromisoformat(each.moment) for each in later]
        assert {after - before for before, after in pairwise(moments)} == {timedelta(seconds=1)}
        plan = schedule.name.rpartition("-")[2]
        assert await runs_end(client, [each.run_id for each in later]) == [f"billed {plan}"] * 4
        assert [each.run_id for each in later] == [
            f"{schedule.name}-{each.moment.replace('.000Z', 'Z')}" for each in later
        ]
        await schedule.delete()
        with pytest.raises(NotFound):
            await schedule.view()
    view = await client.get(seen["nightly-0"][0].run_id)
    assert (view.actor, view.status) == ("schedule:nightly-0", "completed")


async def test_what_was_due_while_nobody_served_it_fires_late_in_its_order(engine: Engine) -> None:
    client = await engine.registered(bill)
    schedule = await client.set_schedule("absent", bill, {"plan": "x"}, when=SECOND, overlap="allow")
    await engine.down()
    await asyncio.sleep(3.2)
    await engine.up()
    caught_up = await fires(schedule, 4)
    assert [each.outcome in ("started", "completed") for each in caught_up] == [True] * 4
    assert [each.moment for each in caught_up] == sorted(each.moment for each in caught_up)
    strict = await client.set_schedule(
        "strict", bill, {"plan": "x"}, when=SECOND, overlap="allow", catch_up=timedelta(seconds=1)
    )
    await engine.down()
    await asyncio.sleep(4.2)
    await engine.up()
    assert "missed" in [each.outcome for each in await fires(strict, 5)]


async def test_many_that_are_due_together_fire_once_each_though_the_owner_was_down(sharded: Engine) -> None:
    """They share timers: their names are those of few timetables."""
    client = await sharded.registered(bill)
    wanted = [timetable_token(f"all-{number}") for number in range(3)]
    names = [name for number in range(3_000) if timetable_token(name := f"all-{number}") in wanted][:30]
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)

    async def made(name: str) -> ScheduleHandle:
        return await client.set_schedule(name, bill, {"plan": name}, when=At(moment), run_id=f"run {name}")

    handles = await asyncio.gather(*map(made, names))
    deleted, paused, moved, *others = handles
    await deleted.delete()
    await paused.pause("not now")
    later = moment + timedelta(seconds=2)
    await client.set_schedule(
        moved.name, bill, {"plan": moved.name}, when=At(later), run_id=f"run {moved.name}"
    )
    assert datetime.now(UTC) < moment, "the machine is too slow for this test"
    await sharded.down()
    await asyncio.sleep((moment - datetime.now(UTC)).total_seconds() + 0.2)
    await sharded.up()
    for each in [*others, moved]:
        told = await fires(each, 1)
        assert await ends(client, told[0].run_id) == f"billed {each.name}"
        view = await each.view()
        assert [fire.outcome for fire in view.fires] in (["started"], ["completed"])
        assert datetime.fromisoformat(view.fires[0].moment) == (later if each is moved else moment)
        assert datetime.fromisoformat(view.fires[0].fired) >= datetime.fromisoformat(view.fires[0].moment)
    assert not (await paused.view()).fires
    for each in (deleted, paused):
        with pytest.raises(NotFound):
            await client.get(f"run {each.name}")


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
async def test_what_becomes_of_a_fire_while_a_run_is_open(engine: Engine, overlap: Overlap) -> None:
    client = await engine.registered(slow)
    schedule = await client.set_schedule("slow", slow, {"plan": "x"}, when=SECOND, overlap=overlap)
    first, *_ = await fires(schedule, 3)
    await schedule.pause("enough")
    view = await schedule.view()
    if overlap == "skip":
        assert view.skipped >= 2
        assert view.open == (first.run_id,)
        await client.post(first.run_id, go)
        assert await ends(client, first.run_id) == "x"
        await until(lambda: _has_no_open(schedule), "it knows of the end")
    elif overlap == "queue":
        assert view.queued
        await schedule.resume()
        await client.post(first.run_id, go)
        await until(lambda: _has_open(schedule, first.run_id), "the next one is started")
    else:
        run = await client.wait(first.run_id, timeout_s=15)
        assert run.status == "cancelled"
        assert run.reason == "schedule slow starts the next one"


async def _has_no_open(schedule: ScheduleHandle) -> bool:
    return not (await schedule.view()).open


async def _has_open(schedule: ScheduleHandle, but: str) -> bool:
    return any(each != but for each in (await schedule.view()).open)


async def test_a_run_that_is_to_start_later(engine: Engine) -> None:
    client = await engine.registered(bill)
    at = datetime.now(UTC) + timedelta(seconds=0.8)
    await client.start_later(bill, {"plan": "once"}, at=at, run_id="order 7")
    later = await client.start_later(bill, {"plan": "once"}, at=at, run_id="order 7")
    with pytest.raises(NotFound):
        await client.get("order 7")
    await fires(later, 1)
    assert await ends(client, "order 7") == "billed once"
    assert (await client.get("order 7")).started_at >= at.isoformat()[:21]
    never = await client.start_later(bill, {"plan": "never"}, at=at + timedelta(hours=1), run_id="order 8")
    await never.delete()
    with pytest.raises(NotFound):
        await never.view()


async def test_by_hand(engine: Engine) -> None:
    client = await engine.registered(bill)
    begins = datetime.now(UTC) - timedelta(hours=5)
    schedule = await client.set_schedule(
        "monthly", bill, {"plan": "pro"}, when=Every(timedelta(hours=1), begins=begins), overlap="allow"
    )
    await schedule.fire(command_id="f")
    await schedule.fire(command_id="f")
    (by_hand,) = (await schedule.view()).fires
    assert by_hand.by_hand
    assert await ends(client, by_hand.run_id) == "billed pro"
    for _ in range(2):
        await schedule.backfill(begins, datetime.now(UTC))
    runs = {each.run_id for each in (await schedule.view()).fires}
    assert len(runs) == 1 + 6
    assert await runs_end(client, sorted(runs)) == ["billed pro"] * 7
    # Each run was started once, however often it was made up for.
    for run_id in runs:
        assert [e.kind async for e in client.history(run_id)].count("run-started") == 1
    await until(lambda: _has_no_open(schedule), "it knows of the ends of all")
    upcoming = await schedule.upcoming(3)
    assert len(upcoming) == 3
    assert upcoming[1] - upcoming[0] == timedelta(hours=1)
    await schedule.pause("holidays")
    view = await schedule.view()
    assert (view.paused, view.reason, view.next) == (True, "holidays", "")


async def test_what_cannot_be_is_refused_where_it_enters(engine: Engine) -> None:
    client = await engine.registered(bill)

    async def code(**said: Any) -> str:
        given = {"when": SECOND, **said}
        try:
            await client.set_schedule("bad", "bill", given.pop("input", {"plan": "x"}), **given)
        except (Refused, NotFound, BadInput, BadName) as error:
            return error.code
        return ""

    assert await code(when=Cron("61 * * * *")) == "SCHEDULE_INVALID"
    assert await code(when=Cron("0 0 * * *", zone="Mars/Base")) == "SCHEDULE_INVALID"
    assert await code(when=Every(timedelta(milliseconds=1))) == "SCHEDULE_INVALID"
    assert await code(when=At(datetime(2027, 1, 1))) == "SCHEDULE_INVALID"  # noqa: DTZ001
    assert await code(input={}) == "INPUT_INVALID"
    assert await code(version=9) == "WORKFLOW_UNKNOWN"
    assert await code(jitter=timedelta(days=3)) == "SCHEDULE_INVALID"
    with pytest.raises(NotFound):
        await client.set_schedule("bad", "nobody", when=SECOND)
    with pytest.raises(BadName):
        await client.set_schedule("Bad Name", bill, when=SECOND)
    with pytest.raises(Refused) as unknown:
        await client.schedule("nothing").pause()
    assert unknown.value.code == "SCHEDULE_UNKNOWN"
    await client.set_schedule("good", bill, {"plan": "x"}, when=Every(timedelta(hours=1)), new=True)
    with pytest.raises(Refused) as exists:
        await client.set_schedule("good", bill, {"plan": "x"}, when=Every(timedelta(hours=1)), new=True)
    assert exists.value.code == "SCHEDULE_EXISTS"
    refused = await engine.send_raw("=schedule_good", b'{"type":"set-schedule","spec":{},"version":1}')
    assert refused["code"]


async def test_from_the_command_line_and_in_sql(engine: Engine, tmp_path: Path) -> None:
    client = await engine.registered(bill)

    async def call(*args: str, fails: bool = False) -> str:
        command = [sys.executable, "-m", "dressage.cli.main", "schedule", *args]
        where = ["--server", engine.url, "--namespace", engine.namespace]
        done = await asyncio.to_thread(
            subprocess.run, [*command, *where], capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else done.stdout

    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "schedules.duckdb"):
        given = ("set", "nightly", "bill", "--input", '{"plan": "pro"}')
        told = await call(*given, "--cron", "0 3 * * *", "--zone", "Europe/Berlin")
        assert datetime.fromisoformat(told.strip()) > datetime.now(UTC)
        assert "say when" in await call(*given, fails=True)
        assert "SCHEDULE_INVALID" in await call(*given, "--cron", "x", fails=True)
        await call("fire", "nightly")
        await call("pause", "nightly", "--reason", "moving house")
        shown = await call("get", "nightly")
        for part in ("0 3 * * * in Europe/Berlin", "moving house", "fired", "by hand", '{"plan": "pro"}'):
            assert part in shown
        await call("resume", "nightly")
        view = json.loads(await call("get", "nightly", "--json"))
        assert view["fired"] == 1
        run_id = view["fires"][0]["run_id"]
        assert await ends(client, run_id) == "billed pro"

        async def is_found() -> bool:
            found = await client.find_schedules(workflow="bill")
            told = [(each.schedule, each.fired, each.completed, each.paused) for each in found]
            return told == [("nightly", 1, 1, False)]

        await until(is_found, "SQL has it")
        assert "nightly" in await call("list")
        await call("delete", "nightly")
        assert "SCHEDULE_UNKNOWN" in await call("get", "nightly", fails=True)

        async def is_gone() -> bool:
            return await client.find_schedules() == []

        await until(is_gone, "SQL has it no more")


async def test_from_any_language(engine: Engine) -> None:
    client = await engine.registered(bill)
    nats = await engine.nats()

    async def ask(operation: str, **request: Any) -> dict[str, Any]:
        reply = await nats.request(engine.names.api(operation), json.dumps(request).encode(), timeout=10)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    spec = {"workflow": "bill", "input": {"plan": "x"}, "timing": {"every_s": 3600}}
    assert (await ask("set-schedule", name="any", spec=spec))["schedule"]["next"]
    assert (await ask("set-schedule", name="any", spec={**spec, "timing": {}}))["code"] == "SCHEDULE_INVALID"
    assert (await ask("tell-schedule", name="any", do="fire", actor="node"))["ok"]
    schedule = (await ask("get-schedule", name="any"))["schedule"]
    assert schedule["fires"][0]["by_hand"]
    assert (await ask("tell-schedule", name="any", do="backfill"))["code"] == "REQUEST_MALFORMED"
    assert (await ask("tell-schedule", name="any", do="delete"))["ok"]
    assert (await ask("get-schedule", name="any"))["code"] == "SCHEDULE_UNKNOWN"
    assert await ends(client, schedule["fires"][0]["run_id"]) == "billed x"


@workflow
async def dated(plan: str, due: datetime) -> str:
    return f"{plan} for {due:%Y-%m-%d}"


async def test_a_run_knows_its_moment_also_one_that_is_made_up_for(engine: Engine) -> None:
    client = await engine.registered(dated)
    schedule = await client.set_schedule(
        "dated", dated, {"plan": "x"}, when=Cron("0 6 1 * *"), overlap="allow", moment_as="due"
    )
    await schedule.backfill(datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 4, 30, tzinfo=UTC))
    assert await ends(client, "dated-2025-03-01T06:00:00Z") == "x for 2025-03-01"
    assert await ends(client, "dated-2025-04-01T06:00:00Z") == "x for 2025-04-01"
