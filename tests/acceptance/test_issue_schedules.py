"""Schedules, as the issue asks for them: calendars with a time zone across changes of the clocks, intervals and single
moments, the four overlap policies, pausing, editing, making up for absences, and run ids that are always the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import At, Client, Cron, Every, ScheduleHandle, upcoming
from dressage.flow import Event, workflow
from dressage.protocol.errors import DressageError

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

end = Event("end")
NEVER = At(datetime(2150, 1, 1, tzinfo=UTC))
YEARLY = Cron("0 0 1 1 *", zone="UTC", begins=datetime(2100, 1, 1, tzinfo=UTC))


@workflow
async def issue_quick(plan: str) -> str:
    return f"billed {plan}"


@workflow
async def issue_open(plan: str) -> str:
    await end.wait()
    return f"closed {plan}"


def ago(**by: float) -> datetime:
    return datetime.now(UTC) - timedelta(**by)


async def outcomes(schedule: ScheduleHandle) -> list[str]:
    return [fire.outcome for fire in sorted((await schedule.view()).fires, key=lambda fire: fire.moment)]


async def settled(schedule: ScheduleHandle, until: Until, wanted: list[str], timeout_s: float = 10.0) -> None:
    async def stands() -> bool:
        return await outcomes(schedule) == wanted

    try:
        await until(stands, f"{schedule} is {wanted}", timeout_s=timeout_s)
    except AssertionError:
        assert await outcomes(schedule) == wanted


async def status(client: Client, run_id: str) -> str:
    return (await client.get(run_id)).status


# -- when ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Sydney"])
def test_a_calendar_keeps_its_hour_in_its_zone_all_the_year(zone: str) -> None:
    here = ZoneInfo(zone)
    begins = datetime(2027, 1, 1, tzinfo=here)
    moments = list(islice(upcoming(Cron("0 9 * * *", zone=zone), begins), 365))
    assert {moment.astimezone(here).strftime("%H:%M") for moment in moments} == {"09:00"}
    assert len({moment.astimezone(here).date() for moment in moments}) == 365


def test_a_moment_that_the_clocks_pass_over_or_repeat_comes_once() -> None:
    daily = Cron("30 2 * * *", zone="Europe/Berlin")
    for change in (datetime(2027, 3, 28, tzinfo=UTC), datetime(2027, 10, 31, tzinfo=UTC)):
        begins, ends = change - timedelta(days=2), change + timedelta(days=3)
        moments = [each for each in islice(upcoming(daily, begins), 10) if each < ends]
        assert len(moments) == 5
        days = {moment.astimezone(ZoneInfo("Europe/Berlin")).date() for moment in moments}
        assert len(days) == 5
    hourly = list(
        islice(upcoming(Cron("0 * * * *", zone="Europe/Berlin"), datetime(2027, 10, 30, tzinfo=UTC)), 72)
    )
    assert {later - earlier for earlier, later in pairwise(hourly)} == {timedelta(hours=1)}


async def test_the_engine_fires_across_both_changes_of_the_clocks(engine: Engine, until: Until) -> None:
    client = await engine.registered(issue_quick)
    schedule = await client.set_schedule(
        "clocks", issue_quick, {"plan": "pro"}, when=Cron("30 2 * * *", zone="Europe/Berlin"), overlap="allow"
    )
    await schedule.backfill(datetime(2025, 3, 29, tzinfo=UTC), datetime(2025, 3, 31, 12, tzinfo=UTC))
    await schedule.backfill(datetime(2025, 10, 25, tzinfo=UTC), datetime(2025, 10, 27, 12, tzinfo=UTC))
    await settled(schedule, until, ["completed"] * 6)
    fires = sorted((await schedule.view()).fires, key=lambda fire: fire.moment)
    spring = [fire.run_id for fire in fires[:3]]
    assert spring == [
        "clocks-2025-03-29T01:30:00Z",
        "clocks-2025-03-30T01:00:00Z",  # 2:30 is none on that day: it comes at 3:00
        "clocks-2025-03-31T00:30:00Z",
    ]
    assert fires[3].run_id == "clocks-2025-10-25T00:30:00Z"
    assert fires[4].run_id == "clocks-2025-10-26T00:30:00Z"  # 2:30 is twice on that day: the first counts
    assert fires[5].run_id == "clocks-2025-10-27T01:30:00Z"
    for fire in fires:
        view = await client.get(fire.run_id)
        assert (view.status, view.actor) == ("completed", "schedule:clocks")


async def test_an_interval_and_a_calendar_fire_by_themselves(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(issue_quick)
    often = await client.set_schedule("often", issue_quick, {"plan": "a"}, when=Every(timedelta(seconds=1)))
    clock = await client.set_schedule("clock", issue_quick, {"plan": "b"}, when=Cron("* * * * * *"))

    async def both() -> bool:
        return (await often.view()).fired >= 2 and (await clock.view()).fired >= 2

    await until(both, "each has fired twice")
    for schedule in (often, clock):
        await schedule.pause()
        view = await schedule.view()
        moments = [datetime.fromisoformat(fire.moment) for fire in view.fires]
        assert {abs(later - earlier) for earlier, later in pairwise(moments)} <= {
            timedelta(seconds=1),
            timedelta(seconds=2),  # one was skipped, as a run was open
        }
        for fire in view.fires:
            assert datetime.fromisoformat(fire.fired) >= datetime.fromisoformat(fire.moment)
            assert fire.run_id.startswith(f"{view.name}-20") or fire.outcome == "skipped"


async def test_one_run_at_a_moment(engine: Engine, until: Until) -> None:
    client = await engine.registered(issue_quick)
    soon = datetime.now(UTC) + timedelta(seconds=0.6)
    await client.start_later(issue_quick, {"plan": "trial"}, at=soon, run_id="trial-7")
    with pytest.raises(DressageError) as early:
        await client.get("trial-7")
    assert early.value.code == "RUN_UNKNOWN"

    async def is_there() -> bool:
        try:
            return await status(client, "trial-7") == "completed"
        except DressageError:
            return False

    await until(is_there, "the run has come")
    started = datetime.fromisoformat((await client.get("trial-7")).started_at)
    assert started >= soon - timedelta(milliseconds=1)
    with pytest.raises(DressageError) as refused:
        await client.set_schedule(
            "old", issue_quick, {"plan": "x"}, when=At(ago(days=3)), catch_up=timedelta(days=1)
        )
    assert refused.value.code == "SCHEDULE_INVALID"


@pytest.mark.parametrize(
    ("when", "word"),
    [
        (Cron("61 2 * * *"), ""),
        (Cron("nonsense"), ""),
        (Cron("0 9 * * *", zone="Europe/Atlantis"), "Atlantis"),
        (Every(timedelta(milliseconds=10)), ""),
        (Cron("0 0 30 2 *"), ""),
    ],
)
async def test_a_calendar_that_is_none_is_refused_when_it_is_set(
    shared: Engine, when: Any, word: str
) -> None:
    client = await shared.registered(issue_quick)
    with pytest.raises(DressageError) as refused:
        await client.set_schedule("bad", issue_quick, {"plan": "x"}, when=when)
    assert refused.value.code == "SCHEDULE_INVALID"
    assert word in str(refused.value)


async def test_an_input_and_a_workflow_that_do_not_fit_are_refused_when_it_is_set(shared: Engine) -> None:
    client = await shared.registered(issue_quick)
    with pytest.raises(DressageError) as wrong:
        await client.set_schedule("bad", "issue-quick", {"plan": 5}, when=NEVER)
    assert wrong.value.code == "INPUT_INVALID"
    with pytest.raises(DressageError) as unknown:
        await client.set_schedule("bad", "issue-nothing", {}, when=NEVER)
    assert unknown.value.code == "WORKFLOW_UNKNOWN"
    with pytest.raises(DressageError) as nowhere:
        await client.get_schedule("bad")
    assert nowhere.value.code == "SCHEDULE_UNKNOWN"


# -- overlap -------------------------------------------------------------------------------------------------------
DAYS = (datetime(2025, 5, 1, 12, tzinfo=UTC), datetime(2025, 5, 4, 12, tzinfo=UTC))
IDS = [f"over-2025-05-0{day}T00:00:00Z" for day in (2, 3, 4)]


async def three_fires(engine: Engine, overlap: Any) -> tuple[Client, ScheduleHandle]:
    """Three of its moments are made up for at once, while each run stays open."""
    client = await engine.registered(issue_open)
    schedule = await client.set_schedule(
        "over", issue_open, {"plan": "p"}, when=Cron("0 0 * * *", zone="UTC"), overlap=overlap
    )
    await schedule.backfill(*DAYS)
    return client, schedule


async def test_overlap_skip_starts_none_while_one_is_open(engine: Engine, until: Until) -> None:
    client, schedule = await three_fires(engine, "skip")
    await settled(schedule, until, ["started", "skipped", "skipped"])
    assert (await schedule.view()).open == (IDS[0],)
    await client.post(IDS[0], end)
    await settled(schedule, until, ["completed", "skipped", "skipped"])


async def test_overlap_queue_starts_one_after_the_other(sharded: Engine, until: Until) -> None:
    client, schedule = await three_fires(sharded, "queue")
    await settled(schedule, until, ["started", "queued", "queued"])
    assert len((await schedule.view()).queued) == 2
    await client.post(IDS[0], end)
    await settled(schedule, until, ["completed", "started", "queued"])
    await client.post(IDS[1], end)
    await settled(schedule, until, ["completed", "completed", "started"])
    await client.post(IDS[2], end)
    await settled(schedule, until, ["completed"] * 3)
    runs = [await client.get(run_id) for run_id in IDS]
    assert all(earlier.ended_at <= later.started_at for earlier, later in pairwise(runs))


async def test_overlap_cancel_cancels_the_previous_one_and_starts_the_latest(
    engine: Engine, until: Until
) -> None:
    client, schedule = await three_fires(engine, "cancel")

    async def last_is_open() -> bool:
        return (await schedule.view()).open == (IDS[2],)

    await until(last_is_open, "the latest runs")
    assert await status(client, IDS[0]) == "cancelled"
    assert (await outcomes(schedule))[0] == "cancelled"
    await client.post(IDS[2], end)
    await until(lambda: _is(client, IDS[2], "completed"), "the latest ends")


async def _is(client: Client, run_id: str, wanted: str) -> bool:
    return await status(client, run_id) == wanted


async def test_overlap_allow_runs_all_side_by_side(sharded: Engine, until: Until) -> None:
    client, schedule = await three_fires(sharded, "allow")
    await settled(schedule, until, ["started"] * 3)
    assert sorted((await schedule.view()).open) == IDS
    for run_id in reversed(IDS):
        await client.post(run_id, end)
    await settled(schedule, until, ["completed"] * 3)


async def test_a_moment_is_fired_once_however_often_it_is_made_up_for(engine: Engine, until: Until) -> None:
    client, schedule = await three_fires(engine, "allow")
    await settled(schedule, until, ["started"] * 3)
    for run_id in IDS:
        await client.post(run_id, end)
    await settled(schedule, until, ["completed"] * 3)
    await schedule.backfill(*DAYS)
    await schedule.fire(command_id="once")
    await schedule.fire(command_id="once")

    async def by_hand() -> bool:
        return len((await schedule.view()).open) == 1

    await until(by_hand, "the one that was fired by hand runs")
    assert [await status(client, run_id) for run_id in IDS] == ["completed"] * 3
    started = [(await client.get(run_id)).started_at for run_id in IDS]
    assert started == sorted(started)


# -- by hand -------------------------------------------------------------------------------------------------------
async def test_pause_resume_and_what_was_due_meanwhile(engine: Engine, until: Until) -> None:
    client = await engine.registered(issue_quick)
    schedule = await client.set_schedule("beat", issue_quick, {"plan": "p"}, when=Every(timedelta(seconds=1)))
    await schedule.pause("the tax office is closed")
    view = await schedule.view()
    assert (view.paused, view.reason, view.next) == (True, "the tax office is closed", "")
    before = view.fired
    await schedule.fire()

    async def fired_by_hand() -> bool:
        view = await schedule.view()
        return view.fired == before + 1 and view.fires[-1].by_hand | view.fires[0].by_hand

    await until(fired_by_hand, "it fires by hand while it is paused")
    other = await client.set_schedule("other", issue_quick, {"plan": "p"}, when=Every(timedelta(seconds=1)))

    async def time_has_passed() -> bool:
        return (await other.view()).fired >= 2

    await until(time_has_passed, "two seconds are over")
    assert (await schedule.view()).fired == before + 1
    resumed = datetime.now(UTC)
    await schedule.resume()

    async def fires_again() -> bool:
        return (await schedule.view()).fired > before + 1

    await until(fires_again, "it fires again")
    own = [fire for fire in (await schedule.view()).fires if not fire.by_hand]
    assert all(datetime.fromisoformat(fire.moment) > resumed - timedelta(seconds=1) for fire in own[before:])


async def test_an_edit_takes_effect_from_its_next_moment_and_setting_it_again_changes_nothing(
    engine: Engine,
) -> None:
    client = await engine.registered(issue_quick)
    first = await client.set_schedule("plan", issue_quick, {"plan": "a"}, when=YEARLY)
    one = await first.view()
    await client.set_schedule("plan", issue_quick, {"plan": "a"}, when=YEARLY)
    assert (await first.view()).changed_at == one.changed_at
    edited = Cron("0 0 1 2 *", zone="UTC", begins=datetime(2100, 1, 1, tzinfo=UTC))
    await client.set_schedule("plan", issue_quick, {"plan": "b"}, when=edited)
    two = await first.view()
    assert two.next.startswith("2100-02-01")
    assert json.loads(bytes(two.spec.input)) == {"plan": "b"}
    with pytest.raises(DressageError) as exists:
        await client.set_schedule("plan", issue_quick, {"plan": "c"}, when=YEARLY, new=True)
    assert exists.value.code == "SCHEDULE_EXISTS"
    assert [f"{moment:%Y-%m-%d}" for moment in await first.upcoming(2)] == ["2100-02-01", "2101-02-01"]


async def test_a_deleted_schedule_fires_no_more_and_its_runs_go_on(engine: Engine, until: Until) -> None:
    client, schedule = await three_fires(engine, "skip")
    await settled(schedule, until, ["started", "skipped", "skipped"])
    await schedule.delete()
    with pytest.raises(DressageError) as gone:
        await schedule.fire()
    assert gone.value.code == "SCHEDULE_UNKNOWN"
    await client.post(IDS[0], end)
    await until(lambda: _is(client, IDS[0], "completed"), "the run that it has started ends")


async def test_jitter_spreads_fires_behind_their_moments_and_not_their_ids(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(issue_quick)
    begins = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    schedule = await client.set_schedule(
        "spread", issue_quick, {"plan": "p"},
        when=Every(timedelta(seconds=1), begins=begins), jitter=timedelta(milliseconds=900), overlap="allow",
    )  # fmt: skip

    async def four() -> bool:
        return (await schedule.view()).fired >= 4

    await until(four, "it has fired four times")
    fires = (await schedule.view()).fires
    late = [datetime.fromisoformat(fire.fired) - datetime.fromisoformat(fire.moment) for fire in fires]
    assert all(each >= timedelta(0) for each in late)
    assert max(late) - min(late) > timedelta(milliseconds=50)
    moments = sorted(fire.run_id.removeprefix("spread-") for fire in fires)
    assert moments == [f"{begins + timedelta(seconds=n):%Y-%m-%dT%H:%M:%SZ}" for n in range(len(fires))]


async def test_a_fire_by_hand_starts_a_run_also_while_it_is_paused_and_another_one_is_open(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(issue_open)
    schedule = await client.set_schedule("hand", issue_open, {"plan": "p"}, when=YEARLY, overlap="cancel")
    await schedule.pause("until 2100")
    await schedule.fire()

    async def one_is_open() -> bool:
        return len((await schedule.view()).open) == 1

    await until(one_is_open, "the first run is open")
    (first,) = (await schedule.view()).open
    await schedule.fire()
    await until(lambda: _is(client, first, "cancelled"), "the first one is cancelled")

    async def another_is_open() -> bool:
        view = await schedule.view()
        return len(view.open) == 1 and view.open != (first,)

    await until(another_is_open, "the second run is open", timeout_s=5.0)


# -- absences ------------------------------------------------------------------------------------------------------
async def test_what_was_due_while_the_engine_was_down_fires_or_is_missed_by_its_window(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(issue_quick)
    every = Every(timedelta(seconds=1))
    kept = await client.set_schedule("kept", issue_quick, {"plan": "k"}, when=every, overlap="allow")
    late = await client.set_schedule(
        "late", issue_quick, {"plan": "l"}, when=every, overlap="allow", catch_up=timedelta(seconds=1)
    )
    await engine.down()
    went = datetime.now(UTC)
    loop = asyncio.get_running_loop()
    wake = loop.create_future()
    loop.call_later(3.5, wake.set_result, None)
    await wake
    await engine.up()

    async def caught_up() -> bool:
        moments = [datetime.fromisoformat(fire.moment) for fire in (await kept.view()).fires]
        return sum(went < moment <= went + timedelta(seconds=3.2) for moment in moments) == 3

    await until(caught_up, "the three moments of the absence have fired")
    view = await kept.view()
    moments = sorted(datetime.fromisoformat(fire.moment) for fire in view.fires)
    assert {second - first for first, second in pairwise(moments)} == {timedelta(seconds=1)}  # each one, once
    assert view.missed == 0
    assert (await late.view()).missed >= 1


async def test_a_schedule_outlives_the_engine_and_so_does_what_it_queued(
    engine: Engine, until: Until
) -> None:
    client, schedule = await three_fires(engine, "queue")
    await settled(schedule, until, ["started", "queued", "queued"])
    await engine.down()
    await engine.up()
    for run_id, left in zip(IDS, (2, 1, 0), strict=True):
        await until(lambda run_id=run_id: _is_there(client, run_id), f"{run_id} has begun")
        await client.post(run_id, end)
        await until(lambda run_id=run_id: _is(client, run_id, "completed"), f"{left} are left")
    await settled(schedule, until, ["completed"] * 3)


async def _is_there(client: Client, run_id: str) -> bool:
    try:
        return bool(await status(client, run_id))
    except DressageError:
        return False


# -- other languages and the shell -----------------------------------------------------------------------------------
async def test_any_language_and_the_shell_set_and_read_schedules(
    engine: Engine, start: Start, until: Until
) -> None:
    client = await engine.registered(issue_quick)
    place = ("--server", engine.url, "--namespace", engine.namespace)

    async def dressage(*arguments: str) -> str:
        program = start(*arguments, *place)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        said: str = program.said
        return said

    await dressage(
        *("schedule", "set", "monthly", "issue-quick", "--input", '{"plan": "pro"}', "--cron", "0 6 1 * *"),
        *("--zone", "Europe/Berlin", "--overlap", "queue"),
    )
    got = await engine.call("get-schedule", {"name": "monthly"})
    assert got["schedule"]["spec"]["timing"] == {"cron": ["0 6 1 * *"], "zone": "Europe/Berlin"}
    assert got["schedule"]["spec"]["overlap"] == "queue"
    told = await engine.call(
        "tell-schedule", {"name": "monthly", "do": "pause", "reason": "holidays", "actor": "eve"}
    )
    assert told["ok"], told
    assert "holidays" in await dressage("schedule", "get", "monthly")
    await dressage("schedule", "backfill", "monthly", "2025-01-01T00:00:00Z", "2025-02-28T00:00:00Z")
    schedule = client.schedule("monthly")
    await settled(schedule, until, ["completed", "queued"])  # what is queued waits while it is paused
    assert (await engine.call("tell-schedule", {"name": "monthly", "do": "resume"}))["ok"]
    await settled(schedule, until, ["completed", "completed"])
    ids = sorted(fire.run_id for fire in (await schedule.view()).fires)
    assert ids == ["monthly-2025-01-01T05:00:00Z", "monthly-2025-02-01T05:00:00Z"]
