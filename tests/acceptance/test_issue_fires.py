"""Schedules under people who change, pause, delete and repeat them, odd calendars, and servers that were down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.client import At, Cron, Every, upcoming
from dressage.client.finding import query
from dressage.client.schedules import ScheduleHandle, moment_ms, timing_of
from dressage.expressions.calendar import due_ms
from dressage.flow import App, Event, Workflow, WorkflowFailure, workflow
from dressage.protocol.errors import DressageError
from dressage.protocol.schedules import FireView, ScheduleSpec, ScheduleView, Timing

Until = Callable[..., Awaitable[None]]

app = App("issue-fires")
go = Event("issue-fires-go", of=str)
tidied = Event("issue-fires-tidied", of=str)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
NEVER = Every(365 * DAY)
DELAYED = "*.> delayed/\U0001f600 \n"


class Broken(WorkflowFailure):
    pass


@workflow
async def fires_count(number: int) -> int:
    return number


@workflow
async def fires_quick(word: str = "a") -> str:
    return word


@workflow
async def fires_waiting(word: str = "a") -> str:
    return f"{word} {await go.wait()}"


@workflow
async def fires_tidy(word: str = "a") -> str:
    try:
        return await go.wait()
    finally:
        await tidied.wait()


@workflow
async def fires_moment(moment: datetime) -> datetime:
    return moment


@workflow
async def fires_broken() -> None:
    raise Broken("it is")


def now() -> datetime:
    return datetime.now(UTC)


def whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def soon() -> datetime:
    """A whole second that is not there before a schedule is made."""
    return whole(now() + SECOND / 2) + SECOND


def moment_of(fire: FireView) -> datetime:
    return datetime.fromisoformat(fire.moment)


def text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


async def code_of(action: Awaitable[Any]) -> str:
    """What it was refused with; empty if it was done."""
    try:
        await action
    except DressageError as error:
        return error.code
    return ""


async def until_view(
    schedule: ScheduleHandle, holds: Callable[[ScheduleView], bool], until: Until, what: str
) -> ScheduleView:
    seen: list[ScheduleView] = []

    async def fact() -> bool:
        seen[:] = [await schedule.view()]
        return holds(seen[0])

    await until(fact, what)
    return seen[0]


def outcomes(view: ScheduleView) -> list[str]:
    return [fire.outcome for fire in view.fires]


def ended(view: ScheduleView) -> int:
    return sum(outcome in {"completed", "failed", "cancelled", "refused"} for outcome in outcomes(view))


# -- calendars -----------------------------------------------------------------------------------------------------
ZONES = [
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/Scoresbysund",
    "America/Havana",
    "America/Santiago",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Antarctica/Troll",
    "Pacific/Chatham",
    "Australia/Lord_Howe",
]


def zone_of(name: str) -> ZoneInfo:
    """By the rules that the engine has, which those of the machine may be older than."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, name)


def exists(local: datetime) -> bool:
    """Whether the clocks show that at some moment."""
    back = local.astimezone(UTC).astimezone(local.tzinfo)
    return back.replace(tzinfo=None) == local.replace(tzinfo=None)


def change_behind(local: datetime) -> datetime:
    """The moment in which the clocks of a zone pass over what they never show."""
    early, late = local.astimezone(UTC) - 27 * HOUR, local.astimezone(UTC) + 27 * HOUR
    zone = local.tzinfo
    before = early.astimezone(zone).utcoffset()
    while late - early > SECOND:
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return whole(late)


def by_the_clock(zone: str, hour: int, minute: int, first: date, days: int) -> Iterator[datetime]:
    """What people expect of a time of the day: once a day, the first time that the clocks show it; where they pass over
    it, when they have."""
    here = zone_of(zone)
    for number in range(days):
        day = first + timedelta(days=number)
        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=here)
        yield local.astimezone(UTC) if exists(local) else change_behind(local)


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_of_the_day_comes_once_a_day_in_every_zone(zone: str) -> None:
    first = date(2026, 1, 2)
    for hour, minute in ((0, 0), (0, 30), (1, 15), (2, 0), (2, 15), (2, 45), (3, 0), (23, 30)):
        expected = list(by_the_clock(zone, hour, minute, first, 500))
        when = Cron(f"{minute} {hour} * * *", zone=zone)
        found = list(takewhile(lambda each: each <= expected[-1], upcoming(when, expected[0] - SECOND)))  # noqa: B023
        assert found == expected, (hour, minute)


@pytest.mark.parametrize(
    ("zone", "cron", "step"),
    [
        *((zone, "*/30 * * * *", HOUR / 2) for zone in ZONES),
        # Where the clocks change by half an hour, half past is another half hour then.
        *((zone, "30 * * * *", HOUR) for zone in ZONES if zone != "Australia/Lord_Howe"),
    ],
)
def test_what_comes_every_hour_follows_real_time_in_every_zone(zone: str, cron: str, step: timedelta) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    found = list(takewhile(lambda each: each < begin + 366 * DAY, upcoming(Cron(cron, zone=zone), begin)))
    assert {later - sooner for sooner, later in pairwise(found)} == {step}


def test_a_list_of_times_is_each_of_them_when_the_clocks_change() -> None:
    when = Cron("0,30 1-3 * * *", zone="Europe/Berlin")
    spring = upcoming(when, datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert [text(next(spring)) for _ in range(5)] == [
        f"2026-03-29T{each}Z" for each in ("00:00:00", "00:30:00", "01:00:00", "01:30:00")
    ] + ["2026-03-29T23:00:00Z"]
    autumn = upcoming(when, datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert [text(next(autumn))[11:16] for _ in range(6)] == [
        "23:00",
        "23:30",
        "00:00",
        "00:30",
        "02:00",
        "02:30",
    ]


def test_a_quarter_of_an_hour_is_passed_over_and_comes_twice_with_the_clocks() -> None:
    when = Cron("*/15 2 * * *", zone="Europe/Berlin")
    spring = upcoming(when, datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert text(next(spring)) == "2026-03-30T00:00:00Z"
    autumn = upcoming(when, datetime(2026, 10, 24, 12, tzinfo=UTC))
    found = [next(autumn) for _ in range(9)]
    assert [later - sooner for sooner, later in pairwise(found[:8])] == 7 * [timedelta(minutes=15)]
    assert found[8] - found[7] > 20 * HOUR


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 0 29 2 *", ["2096-02-29", "2104-02-29"]),
        ("0 0 L 2 *", ["2096-02-29", "2097-02-28"]),
        ("0 0 LW 1 *", ["2096-01-31", "2097-01-31"]),
        ("0 0 * 3 SUN#5", ["2097-03-31", "2098-03-30"]),
        ("0 0 31 * *", ["2096-01-31", "2096-03-31"]),
        ("0 0 13 1 FRI", ["2096-01-06", "2096-01-13"]),
        ("59 23 31 12 *", ["2096-12-31", "2097-12-31"]),
    ],
)
def test_days_of_the_calendar_are_found_over_leap_years(cron: str, expected: list[str]) -> None:
    found = upcoming(Cron(cron), datetime(2096, 1, 1, 12, tzinfo=UTC))
    assert [f"{next(found):%Y-%m-%d}" for _ in range(2)] == expected


def test_several_expressions_are_one_calendar_and_bounds_count() -> None:
    begin, last = datetime(2027, 1, 1, 6, tzinfo=UTC), datetime(2027, 1, 3, 6, tzinfo=UTC)
    both = Cron("0 6 * * *", "0 6,12 1 * *", begins=begin, until=last)
    assert [text(each) for each in upcoming(both, begin - 30 * DAY)] == [
        "2027-01-01T06:00:00Z",
        "2027-01-01T12:00:00Z",
        "2027-01-02T06:00:00Z",
        "2027-01-03T06:00:00Z",
    ]
    every = Every(DAY, begins=begin, until=last)
    assert [text(each) for each in upcoming(every, begin - DAY)] == [
        "2027-01-01T06:00:00Z",
        "2027-01-02T06:00:00Z",
        "2027-01-03T06:00:00Z",
    ]


@pytest.mark.parametrize(
    ("zone", "clock", "first", "expected"),
    [
        ("America/Havana", "30 0", "2026-03-07T03:00Z", ["07T05:30", "08T05:00", "09T04:30"]),
        ("Asia/Kathmandu", "0 0", "2026-03-01T00:00Z", ["01T18:15", "02T18:15", "03T18:15"]),
        ("Africa/Casablanca", "30 2", "2026-02-14T00:00Z", ["14T01:30", "15T01:30", "16T02:30"]),
    ],
    ids=["midnight", "quarter", "ramadan"],
)
async def test_the_engine_fires_where_the_clocks_change_as_people_read_them(
    shared: Engine, until: Until, zone: str, clock: str, first: str, expected: list[str]
) -> None:
    client = await shared.registered(fires_moment)
    name = f"clocks-{zone.lower().replace('/', '-')}-{first[:7]}"
    schedule = await client.set_schedule(
        name, fires_moment, when=Cron(f"{clock} * * *", zone=zone), moment_as="moment", overlap="allow"
    )
    begin = datetime.fromisoformat(first)
    await schedule.backfill(begin, begin + timedelta(days=2, hours=23))
    view = await until_view(schedule, lambda view: ended(view) == 3, until, "three runs have ended")
    moments = [f"{first[:8]}{each}:00Z" for each in expected]
    assert [fire.run_id for fire in view.fires] == [f"{name}-{each}" for each in moments]
    for each in moments:
        given = await client.handle(f"{name}-{each}").result(10)
        assert datetime.fromisoformat(given) == datetime.fromisoformat(each)


async def test_the_next_moment_is_that_of_the_zone(shared: Engine) -> None:
    client = await shared.registered(fires_quick)
    begin = datetime(2027, 3, 27, 12, tzinfo=UTC)
    schedule = await client.set_schedule(
        "zoned", fires_quick, when=Cron("30 2 * * *", zone="Europe/Berlin", begins=begin)
    )
    assert [text(each) for each in await schedule.upcoming(3)] == [
        "2027-03-28T01:00:00Z",
        "2027-03-29T00:30:00Z",
        "2027-03-30T00:30:00Z",
    ]
    assert datetime.fromisoformat((await schedule.view()).next) == datetime(2027, 3, 28, 1, tzinfo=UTC)


# -- nonsense ------------------------------------------------------------------------------------------------------
def timings() -> dict[str, Timing]:
    return {
        "nothing": Timing(),
        "two kinds": Timing(cron=("0 * * * *",), every_s=5.0),
        "an empty expression": Timing(cron=("",)),
        "four fields": Timing(cron=("* * * *",)),
        "eight fields": Timing(cron=("* * * * * * * *",)),
        "words": Timing(cron=("@daily please",)),
        "minute 60": Timing(cron=("60 * * * *",)),
        "a step of nothing": Timing(cron=("*/0 * * * *",)),
        "backwards": Timing(cron=("30-10 * * * *",)),
        "a day that never comes": Timing(cron=("0 0 30 2 *",)),
        "other digits": Timing(cron=("\u0663 * * * *",)),
        "too many": Timing(cron=17 * ("0 * * * *",)),
        "too long": Timing(cron=("0," * 200 + "0 * * * *",)),
        "no zone": Timing(cron=("0 * * * *",), zone=""),
        "no such zone": Timing(cron=("0 * * * *",), zone="Mars/Olympus"),
        "a path": Timing(cron=("0 * * * *",), zone="../../etc/passwd"),
        "an absolute path": Timing(cron=("0 * * * *",), zone="/etc/localtime"),
        "a folder": Timing(cron=("0 * * * *",), zone="Europe"),
        "a zone with a zero": Timing(cron=("0 * * * *",), zone="Europe/Ber\u0000lin"),
        "no time at all": Timing(every_s=0.5),
        "backwards in time": Timing(every_s=-60.0),
        "for ever": Timing(every_s=1e300),
        "no moment": Timing(at="soon"),
        "a moment without a zone": Timing(at="2030-01-01T00:00:00"),
        "a moment of the past": Timing(at="2001-01-01T00:00:00Z"),
        "a moment too far": Timing(at="2300-01-01T00:00:00Z"),
        "it ends before it begins": Timing(
            every_s=60, begins="2031-01-01T00:00:00Z", until="2030-01-01T00:00:00Z"
        ),
        "nothing between its bounds": Timing(
            cron=("0 0 1 1 *",), begins="2030-02-01T00:00:00Z", until="2030-12-01T00:00:00Z"
        ),
    }


async def test_a_calendar_that_is_none_is_refused_and_makes_no_schedule(shared: Engine) -> None:
    client = await shared.registered(fires_quick)
    accepted: list[str] = []
    for what, timing in timings().items():
        code = await code_of(client.put_schedule("nonsense", ScheduleSpec("fires-quick", timing)))
        if not code:
            accepted.append(what)
            await client.schedule("nonsense").delete()
        else:
            assert code in {"SCHEDULE_INVALID", "COMMAND_MALFORMED"}, (what, code)
        assert await code_of(client.get_schedule("nonsense")) == "SCHEDULE_UNKNOWN", what
    assert accepted == []


async def test_what_a_schedule_is_to_start_is_checked_when_it_is_set(shared: Engine) -> None:
    client = await shared.registered(fires_quick, fires_moment, fires_count)
    refused: dict[str, tuple[str, dict[str, Any], set[str]]] = {
        "an unknown workflow": ("nobody", {}, {"WORKFLOW_UNKNOWN"}),
        "a wrong input": ("fires-quick", {"input": {"word": 5}}, {"INPUT_INVALID"}),
        "an unknown input": ("fires-quick", {"input": {"wrd": "a"}}, {"INPUT_INVALID"}),
        "no input": ("fires-moment", {}, {"INPUT_INVALID"}),
        "no such parameter": ("fires-quick", {"moment_as": "when"}, {"INPUT_INVALID", "SCHEDULE_INVALID"}),
        "a number for the moment": (
            "fires-count",
            {"moment_as": "number"},
            {"INPUT_INVALID", "SCHEDULE_INVALID"},
        ),
        "a policy that is none": (
            "fires-quick",
            {"overlap": "maybe"},
            {"SCHEDULE_INVALID", "COMMAND_MALFORMED"},
        ),
        "jitter backwards": ("fires-quick", {"jitter": -SECOND}, {"SCHEDULE_INVALID", "COMMAND_MALFORMED"}),
        "jitter of years": ("fires-quick", {"jitter": 800 * DAY}, {"SCHEDULE_INVALID"}),
        "catching up backwards": (
            "fires-quick",
            {"catch_up": -SECOND},
            {"SCHEDULE_INVALID", "COMMAND_MALFORMED"},
        ),
        "a version that is not": ("fires-quick", {"version": 99}, {"WORKFLOW_UNKNOWN", "VERSION_UNKNOWN"}),
    }
    for what, (target, given, codes) in refused.items():
        code = await code_of(client.set_schedule("unset", target, when=NEVER, **given))
        assert code in codes, (what, code)
        assert await code_of(client.get_schedule("unset")) == "SCHEDULE_UNKNOWN", what
    for name in ("", "Upper", "a b", "a.b", "-a", 64 * "a"):
        assert await code_of(client.set_schedule(name, fires_quick, when=NEVER)) == "NAME_INVALID", name


async def test_nobody_can_tell_a_schedule_that_is_not_there_anything(shared: Engine) -> None:
    client = await shared.registered(fires_quick)
    schedule = client.schedule("never-made")
    for changed in (schedule.pause(), schedule.resume(), schedule.fire(), schedule.delete()):
        assert await code_of(changed) == "SCHEDULE_UNKNOWN"
    assert await code_of(schedule.backfill(now() - DAY, now())) == "SCHEDULE_UNKNOWN"
    await client.set_schedule("never-made", fires_quick, when=NEVER)
    await schedule.delete()
    for action in (schedule.pause(), schedule.fire(), schedule.view()):
        assert await code_of(action) == "SCHEDULE_UNKNOWN"


# -- moments -------------------------------------------------------------------------------------------------------
async def test_a_calendar_with_seconds_fires_each_once_and_not_before_it(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(fires_moment)
    begin = soon()
    schedule = await client.set_schedule(
        "ticking",
        fires_moment,
        when=Cron("* * * * * *", zone="Asia/Kathmandu", begins=begin, until=begin + SECOND),
        moment_as="moment",
        overlap="allow",
    )
    view = await until_view(schedule, lambda view: ended(view) == 2, until, "both runs have ended")
    assert [moment_of(fire) for fire in view.fires] == [begin, begin + SECOND]
    assert [fire.run_id for fire in view.fires] == [f"ticking-{text(moment_of(fire))}" for fire in view.fires]
    assert all(datetime.fromisoformat(fire.fired) >= moment_of(fire) for fire in view.fires)
    assert (view.next, view.fired, outcomes(view)) == ("", 2, ["completed", "completed"])
    state = await client.get(view.fires[0].run_id)
    assert state.actor == "schedule:ticking"


async def test_an_interval_has_its_own_grid_down_to_fractions(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    begin = whole(now()) - timedelta(minutes=10)
    schedule = await client.set_schedule(
        63 * "f",
        fires_quick,
        when=Every(timedelta(seconds=1.25), begins=begin, until=begin + HOUR),
        overlap="allow",
    )
    await schedule.pause()
    await schedule.backfill(begin, begin + timedelta(seconds=5))
    view = await until_view(schedule, lambda view: ended(view) == 5, until, "all runs have ended")
    assert [moment_of(fire) - begin for fire in view.fires] == [timedelta(seconds=1.25 * n) for n in range(5)]
    assert len({fire.run_id for fire in view.fires}) == 5


async def test_an_interval_from_the_past_fires_next_on_its_grid_and_nothing_of_before(shared: Engine) -> None:
    client = await shared.registered(fires_quick)
    begin = whole(now()) - 100 * DAY + timedelta(minutes=30)
    schedule = await client.set_schedule("grid", fires_quick, when=Every(HOUR, begins=begin))
    view = await schedule.view()
    upcoming_ = datetime.fromisoformat(view.next)
    assert (upcoming_ - begin) % HOUR == timedelta(0)
    assert now() - SECOND < upcoming_ <= now() + HOUR
    assert (view.fires, view.missed) == ((), 0)


async def test_what_its_jitter_puts_behind_another_moment_is_not_too_late(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_quick)
    begin = soon()
    timing = Every(SECOND, begins=begin, until=begin + SECOND)
    jitter = 3 * SECOND

    def crosses(name: str) -> bool:
        """Whether the first moment is spread over a second further than the next one."""
        spec = ScheduleSpec("fires-quick", timing_of(timing), jitter_s=jitter.total_seconds())
        first, second = (due_ms(name, spec, moment_ms(begin + n * SECOND)) for n in range(2))
        return first - second > 1200

    name = next(name for name in (f"crossed-{n}" for n in range(10_000)) if crosses(name))
    schedule = await client.set_schedule(
        name, fires_quick, when=timing, jitter=jitter, catch_up=timedelta(0), overlap="allow"
    )
    view = await until_view(schedule, lambda view: view.fired + view.missed == 2, until, "both are over")
    assert (view.fired, view.missed) == (2, 0)


async def test_a_schedule_that_is_deployed_all_the_time_fires_all_the_same(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_quick)

    async def deploy(word: str) -> ScheduleHandle:
        return await client.set_schedule(
            "deployed", fires_quick, {"word": word}, when=Every(SECOND), overlap="allow"
        )

    schedule = await deploy("a")
    made = await schedule.view()
    words = ["a", "b"]

    async def has_fired() -> bool:
        words.reverse()
        await asyncio.gather(deploy(words[0]), deploy(words[0]))
        return (await schedule.view()).fired >= 2

    await until(has_fired, "it has fired twice")
    view = await schedule.view()
    assert view.made_at == made.made_at
    first = datetime.fromisoformat(made.next)
    assert [moment_of(fire) for fire in view.fires[:2]] == [first, first + SECOND]
    assert view.missed == 0
    await schedule.delete()


async def test_of_many_who_make_it_at_once_one_makes_it(sharded: Engine) -> None:
    client = await sharded.registered(fires_quick)
    codes = await asyncio.gather(
        *(
            code_of(client.set_schedule("new", fires_quick, {"word": str(n)}, when=NEVER, new=True))
            for n in range(8)
        )
    )
    assert sorted(codes) == ["", *(7 * ["SCHEDULE_EXISTS"])]
    spec = (await client.get_schedule("new")).spec
    assert json.loads(bytes(spec.input)) == {"word": str(codes.index(""))}


# -- by hand -------------------------------------------------------------------------------------------------------
async def test_each_fire_by_hand_starts_a_run_also_many_at_once(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_waiting)
    schedule = await client.set_schedule("by-hand", fires_waiting, when=NEVER, overlap="allow")
    await asyncio.gather(*(schedule.fire() for _ in range(12)))
    view = await until_view(schedule, lambda view: len(view.open) == 12, until, "all runs are open")
    assert len(set(view.open)) == 12
    assert outcomes(view) == 12 * ["started"]
    assert all(fire.by_hand for fire in view.fires)
    for run_id in view.open:
        await client.post(run_id, go, "on")
    view = await until_view(schedule, lambda view: not view.open, until, "all runs have ended")
    assert outcomes(view) == 12 * ["completed"]


async def test_the_same_command_twice_is_one(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    schedule = await client.set_schedule("once", fires_quick, when=NEVER, overlap="allow")
    await asyncio.gather(*(schedule.fire(command_id="f") for _ in range(5)))
    await schedule.pause("one", command_id="p")
    await schedule.resume()
    await schedule.pause("one", command_id="p")
    view = await until_view(schedule, lambda view: ended(view) == 1, until, "its run has ended")
    assert (view.fired, view.paused, len(view.fires)) == (1, False, 1)


async def test_an_empty_command_id_does_not_make_two_fires_one(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    schedule = await client.set_schedule("unnamed", fires_quick, when=NEVER, overlap="allow")
    codes = [await code_of(schedule.fire(command_id="")) for _ in range(2)]
    accepted = codes.count("")
    assert accepted in {0, 2}
    await until_view(schedule, lambda view: ended(view) == accepted, until, "each that was taken has run")


async def test_a_backfill_makes_up_for_each_moment_once_however_often_it_is_asked(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(fires_moment)
    begin = whole(now()) - HOUR
    schedule = await client.set_schedule(
        "made-up",
        fires_moment,
        when=Every(10 * timedelta(minutes=1), begins=begin, until=begin + 2 * HOUR),
        moment_as="moment",
    )
    await schedule.pause("no new ones")
    await asyncio.gather(*(schedule.backfill(begin, now(), overlap="allow") for _ in range(3)))
    await until_view(schedule, lambda view: ended(view) == 7, until, "all runs have ended")
    await schedule.backfill(begin, now(), overlap="allow")
    view = await schedule.view()
    assert [fire.run_id for fire in view.fires] == [f"made-up-{text(begin + n * HOUR / 6)}" for n in range(7)]
    assert (view.fired, view.skipped) == (7, 0)
    for run_id in (fire.run_id for fire in view.fires):
        events = [event.kind async for event in client.history(run_id)]
        assert (events.count("run-started"), events.count("run-completed")) == (1, 1)


async def test_a_backfill_is_of_moments_that_have_passed_and_of_a_thousand_at_most(shared: Engine) -> None:
    client = await shared.registered(fires_quick)
    schedule = await client.set_schedule("bounded", fires_quick, when=Every(HOUR, begins=whole(now()) + HOUR))
    await schedule.backfill(now() - DAY, now() + DAY)
    assert (await schedule.view()).fires == ()
    minutely = await client.set_schedule("minutely", fires_quick, when=Cron("* * * * *", until=now() - HOUR))
    assert await code_of(minutely.backfill(now() - 30 * DAY, now())) == "SCHEDULE_INVALID"
    first = datetime(1970, 1, 2, tzinfo=UTC)
    last = datetime(2199, 1, 1, tzinfo=UTC)
    assert await code_of(minutely.backfill(first, last)) == "SCHEDULE_INVALID"
    assert await code_of(minutely.backfill(now(), now() - HOUR)) == "SCHEDULE_INVALID"
    assert await code_of(minutely.backfill(datetime(2026, 1, 1), now())) == "SCHEDULE_INVALID"  # noqa: DTZ001
    assert (await minutely.view()).fires == ()


# -- overlap -------------------------------------------------------------------------------------------------------
async def test_what_is_skipped_is_told_and_the_next_one_starts_when_the_run_has_ended_in_any_way(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_waiting)
    schedule = await client.set_schedule("skipping", fires_waiting, when=NEVER)
    for ends in ("completed", "cancelled", "at once"):
        await schedule.fire()
        view = await until_view(schedule, lambda view: len(view.open) == 1, until, "one is open")
        await schedule.fire()
        (run_id,) = (await schedule.view()).open
        assert run_id == view.open[0]
        if ends == "completed":
            await client.post(run_id, go, "on")
        else:
            await client.cancel(run_id, at_once=ends == "at once")
        await until_view(schedule, lambda view: not view.open, until, "none is open")
    view = await schedule.view()
    assert outcomes(view) == ["completed", "skipped", "cancelled", "skipped", "cancelled", "skipped"]
    assert (view.fired, view.skipped) == (3, 3)


async def test_a_failed_run_is_told_and_does_not_hold_up_what_is_queued(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_broken)
    schedule = await client.set_schedule("failing", fires_broken, when=NEVER, overlap="queue")
    await asyncio.gather(*(schedule.fire() for _ in range(3)))
    view = await until_view(schedule, lambda view: ended(view) == 3, until, "all have ended")
    assert outcomes(view) == 3 * ["failed"]
    assert (view.open, view.queued) == ((), ())


async def test_of_many_that_are_queued_each_runs_alone_and_in_its_order(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    begin = whole(now()) - 10 * HOUR
    schedule = await client.set_schedule(
        "queueing",
        fires_quick,
        when=Every(timedelta(minutes=10), begins=begin, until=begin + timedelta(minutes=400)),
        overlap="queue",
    )
    await schedule.backfill(begin, begin + timedelta(minutes=390))
    view = await until_view(schedule, lambda view: ended(view) == 40, until, "all have ended")
    assert outcomes(view) == 40 * ["completed"]
    spans: list[tuple[str, str]] = []
    for fire in sorted(view.fires, key=moment_of):
        state = await client.get(fire.run_id)
        spans.append((state.started_at, state.ended_at))
    assert all(sooner[1] <= later[0] for sooner, later in pairwise(spans))
    assert (view.queued, view.skipped, view.fired) == ((), 0, 40)


async def test_a_hundred_wait_and_the_next_ones_are_skipped(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_waiting)
    begin = whole(now()) - 10 * HOUR
    schedule = await client.set_schedule(
        "full",
        fires_waiting,
        when=Every(timedelta(minutes=1), begins=begin, until=begin + 2 * HOUR),
        overlap="queue",
    )
    await schedule.backfill(begin, begin + timedelta(minutes=104))
    view = await until_view(schedule, lambda view: len(view.queued) == 100, until, "a hundred wait")
    assert (len(view.open), view.skipped) == (1, 4)
    assert [datetime.fromisoformat(each) for each in view.queued] == [
        begin + timedelta(minutes=n) for n in range(1, 101)
    ]
    await schedule.delete()
    (run_id,) = view.open
    await client.post(run_id, go, "on")
    assert await client.handle(run_id).result(10) == "a on"
    assert await code_of(client.get(f"full-{text(begin + timedelta(minutes=1))}")) == "RUN_UNKNOWN"


async def test_the_run_before_tidies_up_and_only_the_latest_fire_follows(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_tidy)
    schedule = await client.set_schedule("cancelling", fires_tidy, when=NEVER, overlap="cancel")
    await schedule.fire()
    (first,) = (await until_view(schedule, lambda view: len(view.open) == 1, until, "one is open")).open
    for _ in range(3):
        await schedule.fire()
    await client.wait_for_state(first, lambda view: view.cancelling, timeout_s=10)
    view = await schedule.view()
    assert (view.open, len(view.queued)) == ((first,), 1)
    latest = view.queued[0]
    await client.post(first, tidied, "x")
    view = await until_view(
        schedule, lambda view: len(view.open) == 1 and view.open != (first,), until, "the next one is open"
    )
    assert [fire.outcome for fire in view.fires if fire.run_id == first] == ["cancelled"]
    assert [fire.moment for fire in view.fires if fire.run_id == view.open[0]] == [latest]
    assert sorted(outcomes(view)) == ["cancelled", "skipped", "skipped", "started"]
    assert (await client.get(first)).status == "cancelled"


async def test_a_stopped_run_is_still_open_for_its_schedule(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_waiting)
    schedule = await client.set_schedule("halted", fires_waiting, when=NEVER, overlap="queue")
    await schedule.fire()
    (first,) = (await until_view(schedule, lambda view: len(view.open) == 1, until, "one is open")).open
    await client.stop(first)
    await schedule.fire()
    await client.post(first, go, "on")
    view = await schedule.view()
    assert (view.open, len(view.queued)) == ((first,), 1)
    await client.resume(first)
    await until_view(schedule, lambda view: view.open not in {(first,), ()}, until, "the next one is open")


async def test_a_run_id_that_somebody_has_used_is_told_and_the_schedule_goes_on(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_quick, fires_waiting)
    begin = whole(now()) - HOUR
    taken = f"collides-{text(begin)}"
    await client.start(fires_waiting, {"word": "mine"}, run_id=taken)
    schedule = await client.set_schedule(
        "collides", fires_quick, when=Every(timedelta(minutes=30), begins=begin), overlap="queue"
    )
    await schedule.backfill(begin, begin + timedelta(minutes=30))
    view = await until_view(schedule, lambda view: ended(view) == 2, until, "both are over")
    assert outcomes(view) == ["refused", "completed"]
    assert (view.open, view.queued) == ((), ())
    await client.post(taken, go, "on")
    assert await client.handle(taken).result(10) == "mine on"


# -- pause, edit, delete -------------------------------------------------------------------------------------------
async def test_what_is_queued_waits_for_the_resume_and_an_edit_does_not_resume_it(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(fires_waiting)

    begin = whole(now()) - HOUR

    async def deploy(word: str) -> ScheduleHandle:
        return await client.set_schedule(
            "held", fires_waiting, {"word": word}, when=Every(HOUR / 2, begins=begin), overlap="queue"
        )

    schedule = await deploy("a")
    await schedule.backfill(begin, begin + HOUR / 2)
    (first,) = (await until_view(schedule, lambda view: len(view.open) == 1, until, "one is open")).open
    await schedule.pause("wait")
    await deploy("b")
    await engine.down()
    await engine.up()
    await client.post(first, go, "on")
    view = await until_view(schedule, lambda view: not view.open, until, "none is open")
    assert (view.paused, view.reason, len(view.queued)) == (True, "wait", 1)
    await schedule.resume()
    view = await until_view(schedule, lambda view: len(view.open) == 1, until, "the queued one is open")
    await client.post(view.open[0], go, "on")
    assert [await client.handle(first).result(10), await client.handle(view.open[0]).result(10)] == [
        "a on",
        "b on",
    ]


async def test_an_edit_leaves_open_runs_as_they_are_and_counts_from_the_next_fire(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_waiting, fires_quick)
    schedule = await client.set_schedule("edited", fires_waiting, {"word": "old"}, when=NEVER)
    await schedule.fire()
    (first,) = (await until_view(schedule, lambda view: len(view.open) == 1, until, "one is open")).open
    await client.set_schedule("edited", fires_quick, {"word": "new"}, when=NEVER)
    await schedule.fire()
    view = await schedule.view()
    assert (view.open, outcomes(view)) == ((first,), ["started", "skipped"])
    await client.set_schedule("edited", fires_quick, {"word": "new"}, when=NEVER, overlap="allow")
    await schedule.fire()
    view = await until_view(schedule, lambda view: ended(view) == 1, until, "the new one has ended")
    assert await client.handle(view.fires[-1].run_id).result(10) == "new"
    await client.post(first, go, "on")
    assert await client.handle(first).result(10) == "old on"
    view = await until_view(schedule, lambda view: not view.open, until, "none is open")
    assert outcomes(view) == ["completed", "skipped", "completed"]


@pytest.mark.parametrize(("overlap", "open_", "skipped"), [("allow", 3, 0), ("skip", 1, 2)])
async def test_what_is_queued_becomes_what_the_new_policy_says(
    shared: Engine, until: Until, overlap: Any, open_: int, skipped: int
) -> None:
    client = await shared.registered(fires_waiting)
    name = f"to-{overlap}"
    schedule = await client.set_schedule(name, fires_waiting, when=NEVER, overlap="queue")
    for _ in range(3):
        await schedule.fire()
    await until_view(schedule, lambda view: len(view.queued) == 2, until, "two wait")
    await client.set_schedule(name, fires_waiting, when=NEVER, overlap=overlap)
    view = await until_view(schedule, lambda view: not view.queued, until, "none waits")
    assert (len(view.open), view.skipped) == (open_, skipped)


async def test_what_a_backfill_has_queued_is_not_lost_by_a_deployment(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_waiting)
    begin = whole(now()) - HOUR

    async def deploy(word: str) -> ScheduleHandle:
        return await client.set_schedule(
            "refilled", fires_waiting, {"word": word}, when=Every(HOUR / 2, begins=begin)
        )

    schedule = await deploy("a")
    await schedule.backfill(begin, begin + HOUR / 2, overlap="queue")
    (first,) = (await until_view(schedule, lambda view: len(view.queued) == 1, until, "one waits")).open
    await deploy("b")
    await client.post(first, go, "on")
    view = await until_view(schedule, lambda view: first not in view.open, until, "the first one has ended")
    assert outcomes(view) == ["completed", "started"]
    await client.post(view.open[0], go, "on")
    assert await client.handle(view.open[0]).result(10) == "b on"


async def test_an_edited_moment_fires_once_and_the_old_one_never(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_moment)
    soon, later = now() + 0.6 * SECOND, now() + 1.2 * SECOND
    schedule = await client.set_schedule("moved", fires_moment, when=At(soon), moment_as="moment")
    await client.set_schedule("moved", fires_moment, when=At(later), moment_as="moment")
    view = await until_view(schedule, lambda view: ended(view) == 1, until, "it has fired")
    assert (view.fired, view.next, len(view.fires)) == (1, "", 1)
    assert abs(moment_of(view.fires[0]) - later) < timedelta(milliseconds=2)
    again = now() + 0.3 * SECOND
    await client.set_schedule("moved", fires_moment, when=At(again), moment_as="moment")
    view = await until_view(schedule, lambda view: ended(view) == 2, until, "it has fired anew")
    assert view.fired == 2


async def test_a_deleted_schedule_leaves_its_runs_alone_and_the_next_of_its_name_knows_nothing_of_them(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_waiting)
    begin = soon()

    async def make() -> ScheduleHandle:
        return await client.set_schedule("reborn", fires_waiting, when=Every(SECOND, begins=begin))

    schedule = await make()
    await schedule.fire()
    (old,) = (await until_view(schedule, lambda view: len(view.open) == 1, until, "one is open")).open
    await schedule.delete()
    await until(lambda: now() > begin + 0.2 * SECOND, "it would have fired")
    assert await code_of(client.get(f"reborn-{text(begin)}")) == "RUN_UNKNOWN"
    assert (await client.get(old)).status == "running"
    await make()
    view = await schedule.view()
    assert (view.open, view.fires, view.fired, view.paused) == ((), (), 0, False)
    view = await until_view(schedule, lambda view: len(view.open) == 1, until, "one of its own is open")
    await client.post(old, go, "on")
    assert await client.handle(old).result(10) == "a on"
    after = await schedule.view()
    assert after.open == view.open
    assert old not in {fire.run_id for fire in after.fires}
    await schedule.delete()
    await client.cancel(view.open[0])


# -- once ----------------------------------------------------------------------------------------------------------
async def test_a_delayed_start_is_one_run_however_often_it_is_asked_for(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    at = now() + 0.5 * SECOND

    async def ask() -> ScheduleHandle:
        return await client.start_later(fires_quick, {"word": "late"}, at=at, run_id=DELAYED)

    schedule, *_ = await asyncio.gather(*(ask() for _ in range(4)))
    assert await code_of(client.get(DELAYED)) == "RUN_UNKNOWN"
    view = await until_view(schedule, lambda view: ended(view) == 1, until, "it has run")
    assert await client.handle(DELAYED).result(10) == "late"
    assert datetime.fromisoformat((await client.get(DELAYED)).started_at) >= at - timedelta(milliseconds=1)
    await ask()
    view = await schedule.view()
    assert (view.fired, view.next) == (1, "")


async def test_a_delayed_start_is_moved_or_taken_back_until_then(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    for run_id in ("taken-back", "moved-back", "moved-up"):
        at = now() + (DAY if run_id == "moved-up" else 0.7 * SECOND)
        await client.start_later(fires_quick, at=at, run_id=run_id)
    gone = await client.start_later(fires_quick, at=now() + 0.7 * SECOND, run_id="taken-back")
    await gone.delete()
    await client.start_later(fires_quick, at=now() + DAY, run_id="moved-back")
    await client.start_later(fires_quick, at=now() + 0.8 * SECOND, run_id="moved-up")

    async def has_run() -> bool:
        return await code_of(client.get("moved-up")) == ""

    await until(has_run, "the one that was moved up has run")
    for run_id in ("taken-back", "moved-back"):
        assert await code_of(client.get(run_id)) == "RUN_UNKNOWN"


async def test_a_moment_that_has_just_passed_fires_at_once_and_an_older_one_is_refused(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(fires_quick)
    late = await client.set_schedule("late", fires_quick, when=At(now() - HOUR))
    await until_view(late, lambda view: ended(view) == 1, until, "it has fired")
    code = await code_of(
        client.set_schedule("too-late", fires_quick, when=At(now() - HOUR), catch_up=HOUR / 2)
    )
    assert code == "SCHEDULE_INVALID"


# -- versions ------------------------------------------------------------------------------------------------------
async def test_each_fire_takes_the_version_of_its_moment_and_one_that_fits_no_more_is_told(
    engine: Engine, until: Until
) -> None:
    @workflow(name="fires-versioned")
    async def first(word: str = "a") -> str:
        return f"one {word}"

    @workflow(name="fires-versioned")
    async def second(word: str = "a") -> str:
        return f"two {word}"

    @workflow(name="fires-versioned")
    async def third(number: int) -> int:
        return number

    client = await engine.registered(first)
    latest = await client.set_schedule(
        "latest", "fires-versioned", {"word": "x"}, when=NEVER, overlap="allow"
    )
    pinned = await client.set_schedule(
        "pinned", "fires-versioned", {"word": "x"}, when=NEVER, overlap="allow", version=1
    )
    definitions: list[Workflow[..., Any]] = [first, second, third]
    for count, definition in enumerate(definitions, 1):
        await client.register(definition)
        for schedule in (latest, pinned):
            await schedule.fire()
            await until_view(schedule, lambda view: ended(view) == count, until, "it has ended")  # noqa: B023

    async def results(schedule: ScheduleHandle) -> list[str]:
        return [
            await client.handle(fire.run_id).result(5) if fire.outcome == "completed" else fire.outcome
            for fire in (await schedule.view()).fires
        ]

    assert await results(latest) == ["one x", "two x", "refused"]
    assert await results(pinned) == 3 * ["one x"]


# -- while nobody served it ----------------------------------------------------------------------------------------
async def away(engine: Engine, last: datetime, until: Until) -> None:
    """Nobody serves the namespace until `last` has passed."""
    await engine.down()
    await until(lambda: now() > last, "it is due while nobody serves")
    await engine.up()


@pytest.mark.parametrize("overlap", ["allow", "queue"])
async def test_what_was_due_while_nobody_served_it_comes_in_its_order(
    engine: Engine, until: Until, overlap: Any
) -> None:
    client = await engine.registered(fires_moment)
    begin = soon()
    schedule = await client.set_schedule(
        "caught-up",
        fires_moment,
        when=Every(SECOND, begins=begin, until=begin + SECOND),
        moment_as="moment",
        overlap=overlap,
    )
    await away(engine, begin + 1.2 * SECOND, until)
    view = await until_view(schedule, lambda view: ended(view) == 2, until, "all have ended")
    assert [moment_of(fire) for fire in view.fires] == [begin, begin + SECOND]
    started = [(await client.get(fire.run_id)).started_at for fire in view.fires]
    assert started == sorted(started)
    assert (view.missed, view.fired, view.next) == (0, 2, "")


async def test_a_deployment_while_nobody_serves_it_loses_no_fire_and_doubles_none(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(fires_quick)
    begin = soon()

    async def deploy(name: str, word: str) -> ScheduleHandle:
        return await client.set_schedule(
            name, fires_quick, {"word": word}, when=Every(SECOND, begins=begin, until=begin), overlap="allow"
        )

    for name in ("same", "changed"):
        await deploy(name, "a")
    await engine.down()
    deployed = asyncio.gather(deploy("same", "a"), deploy("changed", "b"))
    await until(lambda: now() > begin + 0.3 * SECOND, "it is due while nobody serves")
    await engine.up()
    for schedule, word in zip(await deployed, ("a", "b"), strict=True):
        view = await until_view(schedule, lambda view: ended(view) == 1, until, "its run has ended")
        assert (view.fired, view.missed, len(view.fires)) == (1, 0, 1)
        assert await client.handle(f"{view.name}-{text(begin)}").result(10) == word


async def test_who_allows_no_lateness_still_has_fires(shared: Engine, until: Until) -> None:
    client = await shared.registered(fires_quick)
    begin = soon()
    spec = {"when": Every(SECOND, begins=begin, until=begin), "catch_up": timedelta(0)}
    code = await code_of(client.set_schedule("strict", fires_quick, **spec))  # type: ignore[arg-type]
    if code:
        assert code == "SCHEDULE_INVALID"
        return
    view = await until_view(
        client.schedule("strict"), lambda view: view.fired + view.missed == 1, until, "it is over"
    )
    assert view.fired == 1


async def test_a_server_that_is_killed_before_a_fire_and_back_behind_it_fires_it_once(
    tmp_path: Path, until: Until
) -> None:
    async with EmbeddedServer(tmp_path) as server:
        engine = Engine(server.url, 1)
        await engine.up()
        client = await engine.registered(fires_moment, fires_quick)
        begin = soon()
        schedule = await client.set_schedule(
            "outage",
            fires_moment,
            when=Every(SECOND, begins=begin, until=begin + SECOND),
            moment_as="moment",
            overlap="allow",
        )
        once = await client.start_later(fires_quick, at=begin, run_id="once")
        server.kill()
        await until(lambda: now() > begin + 1.2 * SECOND, "it is due while there is no server")
        await server.start()
        view = await until_view(schedule, lambda view: ended(view) == 2, until, "both have ended")
        assert [moment_of(fire) for fire in view.fires] == [begin, begin + SECOND]
        assert (view.fired, view.missed) == (2, 0)
        view = await until_view(once, lambda view: ended(view) == 1, until, "the one-shot has ended")
        assert view.fired == 1
        await engine.close()


# -- history -------------------------------------------------------------------------------------------------------
async def test_the_history_of_fires_is_found_by_sql_with_what_became_of_each(
    engine: Engine, until: Until, tmp_path: Path
) -> None:
    client = await engine.registered(fires_broken, fires_waiting)
    failing = await client.set_schedule("failing", fires_broken, when=NEVER, overlap="allow")
    waiting = await client.set_schedule("waiting", fires_waiting, when=NEVER)
    for schedule in (failing, waiting):
        await schedule.fire()
        await schedule.fire()
    await until_view(failing, lambda view: ended(view) == 2, until, "both have failed")
    await until_view(waiting, lambda view: len(view.fires) == 2, until, "one is skipped")
    dead = await client.set_schedule("dead", fires_broken, when=NEVER)
    await dead.delete()
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):
        told = await client.connection.stream_state(engine.names.events_stream)
        assert told is not None
        reached = {engine.names.events_stream: told.last_seq}

        async def rows(sql: str) -> list[list[Any]]:
            return (await query(client.connection, engine.names, sql, not_before=reached)).rows

        fires = await rows("SELECT schedule, outcome, by_hand FROM schedule_fires ORDER BY schedule, outcome")
        assert fires == [
            ["failing", "failed", True],
            ["failing", "failed", True],
            ["waiting", "skipped", True],
            ["waiting", "started", True],
        ]
        counts = await rows("SELECT schedule, fired, skipped, failed FROM schedules ORDER BY schedule")
        assert counts == [["failing", 2, 0, 2], ["waiting", 1, 1, 0]]
