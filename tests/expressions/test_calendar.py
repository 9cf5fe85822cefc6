"""When schedules fire: crons in time zones across changes of the clocks, intervals, and single moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.client import At, Cron, Every, upcoming
from dressage.client.schedules import When, timing_of
from dressage.expressions.calendar import (
    CATCH_UP_S_MAX,
    EVERY_S_MAX,
    MOMENT_CHARS_MAX,
    MOMENT_MS_MAX,
    Calendar,
    _zone_of,  # pyright: ignore[reportPrivateUsage]
    check_schedule,
    due_ms,
    ms_of,
)
from dressage.protocol.errors import BadInput
from dressage.protocol.schedules import (
    CRON_CHARS_MAX,
    CRONS_MAX,
    EVERY_S_MIN,
    JITTER_S_MAX,
    ScheduleSpec,
    Timing,
)


def shown(when: When, after: datetime, count: int, zone: str = "UTC") -> list[str]:
    moments = islice(upcoming(when, after), count)
    return [f"{each.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M %Z}" for each in moments]


def test_workdays_at_half_past_eight() -> None:
    assert shown(Cron("30 8 * * MON-FRI"), datetime(2026, 11, 26, tzinfo=UTC), 4) == [
        "2026-11-26 08:30 UTC",
        "2026-11-27 08:30 UTC",
        "2026-11-30 08:30 UTC",
        "2026-12-01 08:30 UTC",
    ]
    assert shown(Cron("0 9 L * *", "0 12 15 * *"), datetime(2027, 1, 31, 9, tzinfo=UTC), 3) == [
        "2027-02-15 12:00 UTC",
        "2027-02-28 09:00 UTC",
        "2027-03-15 12:00 UTC",
    ]


BERLIN = "Europe/Berlin"


def test_a_moment_that_the_clocks_pass_over_comes_when_they_have() -> None:
    # On 29 March 2026 the clocks go from 2:00 to 3:00 in Berlin.
    after = datetime(2026, 3, 27, 12, tzinfo=UTC)
    assert shown(Cron("30 2 * * *", zone=BERLIN), after, 4, BERLIN) == [
        "2026-03-28 02:30 CET",
        "2026-03-29 03:00 CEST",
        "2026-03-30 02:30 CEST",
        "2026-03-31 02:30 CEST",
    ]


def test_a_moment_that_comes_twice_fires_once() -> None:
    # On 25 October 2026 the clocks go from 3:00 back to 2:00.
    after = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert shown(Cron("30 2 * * *", zone=BERLIN), after, 3, BERLIN) == [
        "2026-10-25 02:30 CEST",
        "2026-10-26 02:30 CET",
        "2026-10-27 02:30 CET",
    ]


def test_the_next_moment_is_always_behind_in_an_hour_that_comes_twice() -> None:
    second_pass = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)
    assert shown(Cron("30 2 * * *", zone=BERLIN), second_pass, 1, BERLIN) == ["2026-10-26 02:30 CET"]
    both = Cron("30 2 * * *", "0 * * * *", zone=BERLIN)
    assert shown(both, datetime(2026, 10, 24, 23, 30, tzinfo=UTC), 6, BERLIN) == [
        "2026-10-25 02:00 CEST",
        "2026-10-25 02:30 CEST",
        "2026-10-25 02:00 CET",
        "2026-10-25 03:00 CET",
        "2026-10-25 04:00 CET",
        "2026-10-25 05:00 CET",
    ]
    each = Cron("* 2 * * *", zone=BERLIN)
    assert len(list(islice(upcoming(each, datetime(2026, 10, 25, 0, 59, tzinfo=UTC)), 200))) == 200


def test_what_fires_each_hour_follows_real_time() -> None:
    autumn = list(islice(upcoming(Cron("0 * * * *", zone=BERLIN), datetime(2026, 10, 24, 22, tzinfo=UTC)), 6))
    assert {later - earlier for earlier, later in pairwise(autumn)} == {timedelta(hours=1)}
    spring = list(islice(upcoming(Cron("0 * * * *", zone=BERLIN), datetime(2026, 3, 28, 22, tzinfo=UTC)), 6))
    assert {later - earlier for earlier, later in pairwise(spring)} == {timedelta(hours=1)}


def test_seconds_and_intervals_and_single_moments() -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert [f"{each:%H:%M:%S}" for each in islice(upcoming(Cron("*/20 * * * * *"), after), 4)] == [
        "00:00:20",
        "00:00:40",
        "00:01:00",
        "00:01:20",
    ]
    begins = after + timedelta(hours=3)
    every = Every(timedelta(hours=2), begins=begins, until=after + timedelta(hours=8))
    assert [f"{each:%H}" for each in upcoming(every, after)] == ["03", "05", "07"]
    assert list(upcoming(At(begins), after)) == [begins]
    assert list(upcoming(At(after), after)) == []
    bounded = Cron("0 * * * *", begins=begins, until=begins + timedelta(hours=1))
    assert list(upcoming(bounded, after)) == [begins, begins + timedelta(hours=1)]


@pytest.mark.parametrize(
    "timing",
    [
        Timing(),
        Timing(cron=("* * * * *",), every_s=5),
        Timing(cron=("* * * *",)),
        Timing(cron=("61 * * * *",)),
        Timing(cron=("",)),
        Timing(cron=("0 0 31 2 *",)),
        Timing(cron=("99999999999999999999 * * * *",)),
        Timing(cron=("* * * * *",), zone="Mars/Olympus"),
        Timing(cron=("* * * * *",), zone="../../etc/passwd"),
        Timing(cron=("* * * * *",), zone=""),
        Timing(cron=("* " * 200,)),
        Timing(at="soon"),
        Timing(at="2026-01-01T00:00:00"),
        Timing(every_s=float("nan")),
        Timing(every_s=-5),
        Timing(every_s=1e300),
        Timing(every_s=60, begins="2026-01-01"),
        Timing(every_s=60, until="x"),
    ],
)
def test_what_is_no_timing_is_refused(timing: Timing) -> None:
    with pytest.raises(BadInput) as wrong:
        Calendar(timing, 0)
    assert wrong.value.code == "SCHEDULE_INVALID"


@pytest.mark.limit("protocol.schedules.CRONS_MAX")
@pytest.mark.limit("protocol.schedules.CRON_CHARS_MAX")
@pytest.mark.limit("protocol.schedules.EVERY_S_MIN")
@pytest.mark.limit("protocol.schedules.JITTER_S_MAX")
@pytest.mark.limit("expressions.calendar.EVERY_S_MAX")
@pytest.mark.limit("expressions.calendar.MOMENT_MS_MAX")
@pytest.mark.limit("expressions.calendar.MOMENT_CHARS_MAX")
@pytest.mark.limit("expressions.calendar.CATCH_UP_S_MAX")
def test_limits_of_a_timing() -> None:
    Calendar(Timing(cron=("0 0 * * *",) * CRONS_MAX), 0)
    Calendar(Timing(cron=(f"0{' ' * (CRON_CHARS_MAX - 8)}0 * * *",)), 0)
    Calendar(Timing(every_s=EVERY_S_MIN), 0)
    Calendar(Timing(every_s=EVERY_S_MAX), 0)
    check_schedule(ScheduleSpec("w", Timing(every_s=60), catch_up_s=CATCH_UP_S_MAX), 0)
    spec = ScheduleSpec("w", Timing(every_s=60), jitter_s=JITTER_S_MAX)
    check_schedule(spec, 0)
    last = "2200-01-01T00:00:00Z"
    assert Calendar(Timing(at=last), 0).after(0) == MOMENT_MS_MAX
    Calendar(Timing(at=last.replace("Z", f".{'0' * (MOMENT_CHARS_MAX - 21)}Z")), 0)
    assert Calendar(Timing(cron=("0 0 1 1 *",)), 0).after(MOMENT_MS_MAX - 1) == MOMENT_MS_MAX
    assert Calendar(Timing(cron=("* * * * *",)), 0).after(MOMENT_MS_MAX) is None
    assert Calendar(Timing(every_s=60), 0).after(MOMENT_MS_MAX) is None
    for timing in (
        Timing(cron=("0 0 * * *",) * (CRONS_MAX + 1)),
        Timing(cron=(f"0{' ' * (CRON_CHARS_MAX - 7)}0 * * *",)),
        Timing(every_s=EVERY_S_MIN - 0.001),
        Timing(every_s=EVERY_S_MAX + 1),
        Timing(at="2200-01-01T00:00:00.001Z"),
        Timing(at=last.replace("Z", f".{'0' * (MOMENT_CHARS_MAX - 20)}Z")),
    ):
        with pytest.raises(BadInput):
            Calendar(timing, 0)
    with pytest.raises(BadInput, match="schedule-jitter"):
        check_schedule(ScheduleSpec("w", Timing(every_s=60), jitter_s=JITTER_S_MAX + 1), 0)
    with pytest.raises(BadInput, match="leave run_id out"):
        check_schedule(ScheduleSpec("w", Timing(every_s=60), run_id="r"), 0)
    for seconds in (-1.0, float("nan"), CATCH_UP_S_MAX + 1):
        with pytest.raises(BadInput):
            check_schedule(ScheduleSpec("w", Timing(every_s=60), catch_up_s=seconds), 0)


def test_a_jitter_is_the_same_for_the_same_moment_and_spreads() -> None:
    spec = ScheduleSpec("w", Timing(every_s=60), jitter_s=30)
    spread = [due_ms("nightly", spec, moment) - moment for moment in range(0, 100 * 60_000, 60_000)]
    assert spread == [due_ms("nightly", spec, moment) - moment for moment in range(0, 100 * 60_000, 60_000)]
    assert min(spread) >= 0
    assert max(spread) <= 30_000
    assert len({each // 3_000 for each in spread}) >= 9


ZONES = ("UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
FIELDS = st.sampled_from(["*", "*/5", "0", "30", "1,31", "15-20"])
HOURS = st.sampled_from(["*", "*/3", "0", "2", "3", "1-4", "23"])
DAYS = st.sampled_from(["*", "1", "15", "L", "29", "*/10"])
CRONS = st.builds(
    lambda *parts: " ".join(parts), FIELDS, HOURS, DAYS, st.just("*"), st.sampled_from(["*", "SUN", "1-5"])
)
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


@settings(max_examples=150, deadline=None)
@given(cron=CRONS, zone=st.sampled_from(ZONES), minutes=st.integers(0, 2 * 366 * 24 * 60))
def test_moments_come_in_their_order_each_once_from_wherever_one_looks(
    cron: str, zone: str, minutes: int
) -> None:
    """What is found from a moment on is what is found from the moment before, and each is one of the expression."""
    after = BEGAN + timedelta(minutes=minutes)
    calendar = Calendar(timing_of(Cron(cron, zone=zone)), ms_of(after))
    moments = list(islice(calendar.between(ms_of(after), ms_of(after) + 400 * 86_400_000), 12))
    assert moments == sorted(set(moments))
    for earlier, later in pairwise(moments):
        assert calendar.after(earlier) == later
        assert calendar.after(later - 1) in (later, calendar.after(earlier))
        assert calendar.after(earlier + (later - earlier) // 2) == later


MINUTE = timedelta(minutes=1)
CHANGES = [
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Antarctica/Troll", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    (BERLIN, datetime(2026, 3, 29, 1, tzinfo=UTC)),
    (BERLIN, datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "change"), CHANGES)
@pytest.mark.parametrize(
    "cron",
    [
        "* * * * *",
        "*/7 1-4 * * *",
        "30 * * * *",
        "15 */2 * * SAT,SUN",
        "45 * 1,4,25,29,L * *",
        "*/20 0 * * *",
    ],
)
def test_what_follows_real_time_is_each_minute_at_which_the_clocks_show_it(
    zone: str, change: datetime, cron: str
) -> None:
    """Minute by minute around a change of the clocks, of half an hour and of two as well."""
    rules = _zone_of(zone)
    assert change.astimezone(rules).utcoffset() != (change - MINUTE).astimezone(rules).utcoffset()
    begin = change - timedelta(hours=30)
    minutes = [begin + n * MINUTE for n in range(60 * 60)]
    shown = [(each, each.astimezone(rules).replace(tzinfo=None)) for each in minutes]
    wanted = [ms_of(each) for each, local in shown if next(CronSim(cron, local - MINUTE)) == local]
    calendar = Calendar(timing_of(Cron(cron, zone=zone)), ms_of(begin))
    assert list(calendar.between(ms_of(minutes[0]), ms_of(minutes[-1]))) == wanted
    assert wanted
