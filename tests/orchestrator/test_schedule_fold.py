"""A schedule as a function of its commands: fires, overlaps, what is late, what is changed, and what comes twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from unittest import mock

import msgspec
import pytest

from dressage.expressions import calendar
from dressage.expressions.calendar import due_ms
from dressage.flow import workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, SendCommand, SetTimer
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.schedule import DONE_KEPT, UNKNOWN_MS, fold_schedule
from dressage.orchestrator.fold.state import (
    SCHEDULE_FORMAT,
    OpenFire,
    QueuedFire,
    Schedule,
    decode_state,
    encode_state,
)
from dressage.protocol.commands import (
    REASON_BYTES_MAX,
    CancelRun,
    Command,
    DeleteSchedule,
    DropMoment,
    FireSchedule,
    KeepMoment,
    PauseSchedule,
    ScheduledEnded,
    SetSchedule,
    StartRun,
    TimerFired,
    TimetableFull,
)
from dressage.protocol.names import (
    ACTOR_CHARS_MAX,
    NAME_CHARS_MAX,
    RUN_ID_BYTES_MAX,
    run_id_of,
    schedule_token,
    timetable_token,
)
from dressage.protocol.schedules import (
    BACKFILL_MAX,
    CRONS_MAX,
    FIRES_KEPT,
    FIRES_PER_COMMAND,
    INPUT_BYTES_MAX,
    OPEN_MAX,
    QUEUED_MAX,
    Fire,
    Overlap,
    ScheduleSpec,
    Timing,
)
from dressage.protocol.spec import RegisteredWorkflow

MINUTE = 60_000
BEGAN = 1_800_000_000_000


@workflow
async def bill(plan: str) -> str:
    return plan


DEFINITION = Definition(RegisteredWorkflow(bill.spec, 3, ""))
TOKEN = schedule_token("billing")


@dataclass
class World:
    """A schedule with its timers and the runs that it starts, which end when the test says."""

    state: Schedule | None = None
    now: int = BEGAN
    seq: int = 0
    latest: int = 3
    timers: dict[str, int] = field(default_factory=dict[str, int])
    runs: dict[str, StartRun] = field(default_factory=dict[str, StartRun])
    open: dict[str, str] = field(default_factory=dict[str, str])
    cancelled: list[str] = field(default_factory=list[str])
    events: list[Any] = field(default_factory=list[Any])

    def fold(self, command: Command) -> Outcome:
        self.seq += 1
        before = None if self.state is None else encode_state(self.state)
        asked = self.state.spec.version if isinstance(self.state, Schedule) else 0
        version = asked if isinstance(asked, int) and asked else self.latest
        outcome = fold_schedule(self.state, command, TOKEN, Stamp(self.seq, self.now), DEFINITION, version)
        assert before == (None if self.state is None else encode_state(self.state))
        if outcome.code is None and outcome.state is not None and not outcome.existing:
            stored = decode_state(encode_state(outcome.state))
            assert isinstance(stored, Schedule)
            assert outcome.first_event + len(outcome.events) == stored.events
            self.state = stored
        for effect in outcome.effects:
            match effect:
                case SetTimer():
                    self.timers[effect.timer_id] = effect.due_ms
                case CancelTimer():
                    self.timers.pop(effect.timer_id, None)
                case SendCommand(token=token, command=KeepMoment() as kept):
                    assert token == timetable_token("billing")
                    self.timers[kept.timer_id] = kept.due_ms
                case SendCommand(command=DropMoment() as dropped):
                    assert self.timers.pop(dropped.timer_id, dropped.due_ms) == dropped.due_ms
                case SendCommand(token=token, command=StartRun() as start):
                    run_id = run_id_of(token)
                    self.runs.setdefault(run_id, start)
                    self.open[start.command_id] = run_id
                case SendCommand(token=token, command=CancelRun()):
                    self.cancelled.append(run_id_of(token))
                case _:
                    raise AssertionError(effect)
        self.events += outcome.events
        assert set(self.timers) == ({self.state.timer_id} - {""} if self.state else set())
        return outcome

    def make(self, *, overlap: Overlap = "skip", **more: Any) -> World:
        timing = more.pop("timing", Timing(every_s=60))
        spec = ScheduleSpec("bill", timing, msgspec.Raw(b'{"plan":"pro"}'), overlap=overlap, **more)
        assert self.fold(SetSchedule(spec, 3, f"set {self.seq}")).code is None
        return self

    def until(self, now: int) -> World:
        """Time passes, and timers fire."""
        while self.timers and (due := min(self.timers.values())) <= now:
            timer_id = min(self.timers, key=lambda each: self.timers[each])
            del self.timers[timer_id]
            self.now = max(self.now, due)
            assert self.fold(TimerFired(timer_id)).code is None
        self.now = now
        return self

    def late(self, now: int) -> World:
        """Nobody serves it until now."""
        self.now = now
        return self.until(now)

    def end(self, status: Any = "completed") -> str:
        command_id, run_id = next(iter(self.open.items()))
        del self.open[command_id]
        assert self.fold(ScheduledEnded(command_id, status)).code is None
        return run_id

    @property
    def known(self) -> Schedule:
        assert self.state is not None
        return self.state

    @property
    def outcomes(self) -> list[str]:
        return [each.outcome for each in self.known.fires]


def test_what_its_timetable_has_no_room_for_it_sets_a_timer_for_itself() -> None:
    world = World().make()
    assert world.state is not None
    timer_id, kept_ms = world.state.timer_id, world.state.kept_ms
    assert (kept_ms, world.timers) == (BEGAN + MINUTE, {timer_id: BEGAN + MINUTE})
    assert refusal(world, TimetableFull("0-0-99")) == "RESULT_STALE"
    del world.timers[timer_id]
    assert world.fold(TimetableFull(timer_id)).effects == [
        SetTimer(timer_id, BEGAN + MINUTE, TimerFired(timer_id))
    ]
    assert refusal(world, TimetableFull(timer_id)) == "RESULT_STALE"
    world.until(BEGAN + 2 * MINUTE)
    assert [each.outcome for each in world.state.fires] == ["started", "skipped"]


def test_what_is_due_at_no_whole_second_has_a_timer_of_its_own() -> None:
    world = World(now=BEGAN + 1).make()
    assert world.state is not None
    assert (world.state.kept_ms, world.state.next_ms) == (0, BEGAN + 1 + MINUTE)


def refusal(world: World, command: Command) -> str | None:
    before, events = world.known, len(world.events)
    outcome = world.fold(command)
    assert outcome.effects == []
    assert (world.known, len(world.events)) == (before, events)
    return outcome.code


# -- fires -------------------------------------------------------------------------------------------
def test_each_moment_starts_a_run_with_an_id_of_its_own() -> None:
    world = World().make(overlap="allow")
    world.until(BEGAN + 3 * MINUTE)
    assert list(world.runs) == [
        "billing-2027-01-15T08:01:00Z",
        "billing-2027-01-15T08:02:00Z",
        "billing-2027-01-15T08:03:00Z",
    ]
    start = world.runs["billing-2027-01-15T08:01:00Z"]
    assert (start.workflow, start.version, bytes(start.input), start.schedule) == (
        "bill",
        3,
        b'{"plan":"pro"}',
        "billing",
    )
    assert start.actor == "schedule:billing"
    assert world.outcomes == ["started"] * 3
    world.end("failed")
    assert world.outcomes == ["failed", "started", "started"]
    assert [type(event).__name__ for event in world.events] == [
        "ScheduleSet",
        *["ScheduleFired"] * 3,
        "ScheduleRunEnded",
    ]


def test_fires_that_waited_are_of_the_version_that_the_schedule_is_set_with() -> None:
    world = World().make(overlap="queue")
    world.until(BEGAN + 3 * MINUTE)
    assert world.state is not None
    assert world.state.queued
    world.make(overlap="allow", version=3)
    later = [start.version for start in list(world.runs.values())[1:]]
    assert later
    assert set(later) == {3}


def test_the_latest_version_is_started_unless_one_is_given() -> None:
    world = World().make(overlap="allow")
    world.latest = 7
    world.until(BEGAN + MINUTE).make(overlap="allow", version=3).until(BEGAN + 2 * MINUTE)
    assert [start.version for start in world.runs.values()] == [7, 3]


def test_timers_come_right_across_both_changes_of_the_clocks() -> None:
    """2:30 is passed over on 28 March 2027 in Berlin, and comes twice on 31 October; each day has one fire."""
    for first, last, moments in (
        ("2027-03-26T12:00", "2027-03-29T12:00", ["27T01:30", "28T01:00", "29T00:30"]),
        ("2027-10-29T12:00", "2027-11-01T12:00", ["30T00:30", "31T00:30", "01T01:30"]),
    ):
        began, ends = (
            int(datetime.fromisoformat(f"{each}+00:00").timestamp() * 1000) for each in (first, last)
        )
        world = World(now=began).make(
            overlap="allow", timing=Timing(cron=("30 2 * * *",), zone="Europe/Berlin")
        )
        world.until(ends)
        assert [run_id.removeprefix("billing-")[8:16] for run_id in world.runs] == moments


def test_one_that_fires_once() -> None:
    world = World().make(timing=Timing(at="2027-01-15T09:00:00Z"), run_id="order 7")
    world.until(BEGAN + 100 * MINUTE)
    assert list(world.runs) == ["order 7"]
    assert world.known.next_ms == 0
    assert world.timers == {}
    past = World().make(timing=Timing(at="2027-01-15T07:00:00Z"))
    past.until(BEGAN)
    assert len(past.runs) == 1
    too_late = ScheduleSpec("bill", Timing(at="2027-01-13T07:00:00Z"), msgspec.Raw(b'{"plan":"pro"}'))
    assert World().fold(SetSchedule(too_late, 3, "s")).code == "SCHEDULE_INVALID"


def test_one_that_fires_once_and_is_set_again_does_not_fire_again() -> None:
    world = World().make(timing=Timing(at="2027-01-15T09:00:00Z"), run_id="order 7", overlap="allow")
    world.until(BEGAN + 61 * MINUTE)
    world.make(timing=Timing(at="2027-01-15T09:00:00Z"), run_id="order 7", overlap="allow", catch_up_s=7200.0)
    assert (world.timers, len(world.known.open)) == ({}, 1)
    world.end()
    assert (world.known.open, world.outcomes) == ([], ["completed"])
    world.now = BEGAN + 2 * 24 * 60 * MINUTE
    world.make(timing=Timing(at="2027-01-15T09:00:00Z"), run_id="order 7", overlap="allow")
    assert (world.timers, len(world.runs)) == ({}, 1)


@pytest.mark.parametrize(
    ("overlap", "runs", "outcomes"),
    [
        ("skip", 1, ["started", "skipped", "skipped", "skipped"]),
        ("allow", 4, ["started"] * 4),
        ("queue", 1, ["started", "queued", "queued", "queued"]),
        ("cancel", 1, ["started", "skipped", "skipped", "queued"]),
    ],
)
def test_what_becomes_of_a_fire_while_a_run_is_open(overlap: Overlap, runs: int, outcomes: list[str]) -> None:
    world = World().make(overlap=overlap).until(BEGAN + 4 * MINUTE)
    assert len(world.runs) == runs
    assert world.outcomes == outcomes
    assert len(world.cancelled) == (3 if overlap == "cancel" else 0)
    if overlap in ("queue", "cancel"):
        left = outcomes.count("queued")
        for number in range(left):
            world.end("cancelled" if overlap == "cancel" else "completed")
            assert len(world.runs) == 2 + number
        assert world.outcomes[-1] == "started"
        assert world.known.queued == []


@pytest.mark.limit("protocol.schedules.QUEUED_MAX")
@pytest.mark.limit("protocol.schedules.FIRES_KEPT")
def test_what_is_queued_has_a_limit() -> None:
    world = World().make(overlap="queue").until(BEGAN + (QUEUED_MAX + 3) * MINUTE)
    assert len(world.known.queued) == QUEUED_MAX
    assert world.known.skipped == 2
    assert len(world.known.fires) == FIRES_KEPT


# -- late --------------------------------------------------------------------------------------------
def test_what_was_due_while_nobody_served_it_fires_late_or_is_missed() -> None:
    world = World().make(overlap="allow", catch_up_s=120.0).late(BEGAN + 5 * MINUTE + 30_000)
    assert world.outcomes == ["missed", "missed", "missed", "started", "started"]
    assert world.known.missed == 3
    late = [event.late_ms for event in world.events if type(event).__name__ == "ScheduleFired"]
    assert late[-2:] == [90_000.0, 30_000.0]
    world.until(BEGAN + 6 * MINUTE)
    assert world.outcomes[-1] == "started"


@pytest.mark.limit("protocol.schedules.FIRES_PER_COMMAND")
def test_a_long_absence_is_made_up_for_in_parts() -> None:
    world = World().make(overlap="allow")
    fires = 3 * FIRES_PER_COMMAND - 10
    before = world.seq
    world.late(BEGAN + fires * MINUTE)
    assert len(world.runs) == fires
    assert world.seq - before == 3
    assert world.known.next_ms == BEGAN + (fires + 1) * MINUTE


# -- by hand -----------------------------------------------------------------------------------------
def test_one_that_is_paused_fires_no_more_and_goes_on_from_where_it_is_resumed() -> None:
    world = World().make(overlap="allow").until(BEGAN + MINUTE)
    world.fold(PauseSchedule("p", True, "holidays"))
    assert world.fold(PauseSchedule("p", True, "holidays")).existing
    world.until(BEGAN + 10 * MINUTE)
    assert len(world.runs) == 1
    assert (world.known.paused, world.known.reason) == (True, "holidays")
    world.fold(FireSchedule("f"))
    assert world.fold(FireSchedule("f")).existing
    assert list(world.runs)[1] == "billing-2027-01-15T08:10:00Z-by-hand"
    world.fold(PauseSchedule("r", paused=False))
    world.until(BEGAN + 12 * MINUTE)
    assert len(world.runs) == 4
    assert world.fold(PauseSchedule("r2", paused=False)).code is None
    assert [type(event).__name__ for event in world.events].count("SchedulePaused") == 2


@pytest.mark.limit("protocol.schedules.BACKFILL_MAX")
@pytest.mark.limit("protocol.schedules.OPEN_MAX")
def test_a_backfill_starts_what_there_was_no_run_for() -> None:
    world = World().make(overlap="allow", timing=Timing(every_s=60, begins="2027-01-15T07:30:00Z"))
    world.until(BEGAN + 2 * MINUTE)
    known = set(world.runs)
    world.fold(FireSchedule("b", BEGAN - 5 * MINUTE, BEGAN + 60 * MINUTE))
    made = set(world.runs)
    assert known < made
    assert len(made) == 5 + 1 + 2
    many = FireSchedule("c", 1, BEGAN)
    world.make(overlap="allow", timing=Timing(every_s=1, begins="2027-01-01T00:00:00Z"))
    assert refusal(world, many) == "SCHEDULE_INVALID"
    world.fold(FireSchedule("d", BEGAN - (BACKFILL_MAX - 1) * 1000, BEGAN))
    assert len(world.known.open) == OPEN_MAX
    assert world.known.skipped > 0
    assert len({each.command_id for each in world.known.open}) == OPEN_MAX


def test_a_change_sets_its_timer_anew_and_keeps_what_is_open() -> None:
    world = World().make().until(BEGAN + MINUTE)
    world.make(timing=Timing(cron=("0 9 * * *",)))
    assert world.known.next_ms == BEGAN + 60 * MINUTE
    assert len(world.known.open) == 1
    assert world.known.made_ms == BEGAN
    assert refusal(world, TimerFired("0-0-2-1")) == "RESULT_STALE"
    new = SetSchedule(world.known.spec, 3, "n", new=True)
    assert refusal(world, new) == "SCHEDULE_EXISTS"


def test_one_that_is_deleted_is_no_more_and_may_come_again() -> None:
    world = World().make(overlap="queue").until(BEGAN + 2 * MINUTE)
    world.fold(DeleteSchedule("d"))
    assert world.timers == {}
    assert world.fold(FireSchedule("f")).code == "SCHEDULE_UNKNOWN"
    (command_id,) = world.open
    assert world.known.queued == []
    assert world.fold(ScheduledEnded(command_id, "completed")).code is None
    assert world.outcomes == ["completed", "skipped"]
    assert len(world.runs) == 1
    first = SetSchedule(world.known.spec, 3, "set 0", new=True)
    assert world.fold(first).existing  # A repeat that comes late.
    assert world.fold(DeleteSchedule("d")).existing
    assert world.known.deleted
    world.fold(
        SetSchedule(ScheduleSpec("bill", Timing(every_s=60), msgspec.Raw(b'{"plan":"x"}')), 3, "n", new=True)
    )
    assert world.known.fires == []
    world.until(BEGAN + 3 * MINUTE)
    assert len(world.runs) == 2


def test_one_that_is_set_again_as_it_is_loses_no_fire() -> None:
    timing = Timing(cron=("0 * * * *",))
    world = World().make(timing=timing, jitter_s=3_000.0)
    due = min(world.timers.values())
    assert due > BEGAN + 60 * MINUTE + 1_000
    world.now = BEGAN + 60 * MINUTE + 1_000
    world.make(timing=timing, jitter_s=3_000.0)
    assert (world.known.next_ms, list(world.timers.values())) == (BEGAN + 60 * MINUTE, [due])
    world.until(due)
    assert list(world.runs) == ["billing-2027-01-15T09:00:00Z"]


def test_what_waits_goes_on_when_the_policy_changes() -> None:
    world = World().make(overlap="queue").until(BEGAN + 4 * MINUTE)
    assert len(world.known.queued) == 3
    world.make(overlap="allow")
    assert (world.known.queued, len(world.known.open)) == ([], 4)
    world = World().make(overlap="queue").until(BEGAN + 4 * MINUTE).make(overlap="skip")
    assert (world.known.queued, world.outcomes) == ([], ["started", *["skipped"] * 3])


def test_a_timer_that_nobody_has_set_or_that_is_early_fires_nothing() -> None:
    world = World().make()
    world.fold(PauseSchedule("p", paused=True))
    assert refusal(world, TimerFired("")) == "RESULT_STALE"
    world.fold(PauseSchedule("r", paused=False))
    (timer_id,), due = world.timers, min(world.timers.values())
    del world.timers[timer_id]
    world.now = due - 1
    world.fold(TimerFired(timer_id))
    assert (world.runs, list(world.timers.values()), world.known.time_ms) == ({}, [due], due - 1)
    world.until(due)
    assert len(world.runs) == 1


def test_a_run_is_cancelled_once_however_many_fires_come_at_a_time() -> None:
    world = World().make(overlap="cancel").until(BEGAN + MINUTE).late(BEGAN + 60 * MINUTE)
    assert len(world.cancelled) == 1


def test_a_fire_by_hand_that_waits_stays_one() -> None:
    world = World().make(overlap="queue").until(BEGAN + MINUTE)
    world.fold(FireSchedule("f"))
    world.fold(PauseSchedule("p", paused=True))
    world.end()
    world.fold(PauseSchedule("r", paused=False))
    assert list(world.runs)[1:] == ["billing-2027-01-15T08:01:00Z-by-hand"]
    assert [each.by_hand for each in world.known.fires] == [False, True]


def test_a_fire_by_hand_of_one_that_is_paused_starts_when_the_open_run_has_been_cancelled() -> None:
    world = World().make(overlap="cancel").until(BEGAN + MINUTE)
    world.fold(PauseSchedule("p", paused=True))
    world.fold(FireSchedule("f"))
    assert (world.cancelled, len(world.runs)) == (["billing-2027-01-15T08:01:00Z"], 1)
    world.end("cancelled")
    assert list(world.runs)[1:] == ["billing-2027-01-15T08:01:00Z-by-hand"]
    assert world.outcomes == ["cancelled", "started"]


def test_to_set_one_again_as_it_is_tells_nothing_and_changes_nothing() -> None:
    world = World().make(overlap="queue").until(BEGAN + 3 * MINUTE)
    before, told = world.known, len(world.events)
    world.now += 1000
    world.make(overlap="queue")
    assert len(world.events) == told
    assert (world.known.changed_ms, world.known.queued) == (before.changed_ms, before.queued)
    world.make(overlap="allow")
    assert (len(world.events) > told, world.known.changed_ms) == (True, world.now)


def test_fires_by_hand_in_one_millisecond_are_runs_of_their_own() -> None:
    world = World().make(overlap="allow")
    for number in range(150):
        world.fold(FireSchedule(f"f {number}"))
    assert len(world.runs) == len(world.known.open) == 150


def test_a_backfill_may_have_a_policy_of_its_own_and_queues_nothing_twice() -> None:
    world = World().make().until(BEGAN + MINUTE)
    world.fold(PauseSchedule("p", paused=True))
    world.until(BEGAN + 5 * MINUTE)
    for name in ("a", "b"):
        world.fold(FireSchedule(name, BEGAN, BEGAN + 4 * MINUTE, "queue"))
    assert [each.moment_ms for each in world.known.queued] == [BEGAN + n * MINUTE for n in (2, 3, 4)]
    world.fold(FireSchedule("c", BEGAN, BEGAN + 5 * MINUTE, "allow"))
    assert len(world.runs) == 2
    world.fold(PauseSchedule("r", paused=False))
    for count in (2, 3, 4, 5):
        world.end()
        assert len(world.runs) == count
    while world.open:
        world.end()
    before = len(world.events)
    world.fold(FireSchedule("d", BEGAN, BEGAN + 5 * MINUTE))
    assert len(world.events) == before  # There were runs for all of them.


def test_what_cannot_be_is_refused_by_name() -> None:
    given = msgspec.Raw(b'{"plan":"pro"}')
    world = World().make()
    for timing in (
        Timing(at="9999-12-31T23:59:59.9999999Z"),
        Timing(at="2263-01-01T00:00:00Z"),
        Timing(at="2027-01-16T00:00:00Z", until="2027-01-17T00:00:00Z"),
        Timing(cron=("0 0 29 2 *",), begins="9997-01-01T00:00:00Z"),
        Timing(cron=("0 0 */28 * SUN#2",)),
        Timing(every_s=60, zone="Europe/Berlin"),
        Timing(every_s=60, begins="2027-01-01T00:00:00." + "0" * 60 + "Z"),
    ):
        spec = ScheduleSpec("bill", timing, given, jitter_s=86_400.0)
        assert refusal(world, SetSchedule(spec, 3, "s")) == "SCHEDULE_INVALID"
    assert refusal(world, SetSchedule(ScheduleSpec("bill", Timing(every_s=60), given, 4), 3, "s")) == (
        "SCHEDULE_INVALID"
    )
    cron = World().make(timing=Timing(cron=("0 * * * *",)))
    cron.fold(FireSchedule("f", -(10**18), -5))
    assert cron.runs == {}


def test_a_schedule_whose_zone_this_host_does_not_know_can_be_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World().make(timing=Timing(cron=("0 * * * *",), zone="Europe/Berlin"))
    monkeypatch.setattr(calendar, "_zones", frozenset[str])
    (timer_id,), due = world.timers, min(world.timers.values())
    del world.timers[timer_id]
    world.now = due
    assert world.fold(TimerFired(timer_id)).code is None
    assert (world.runs, list(world.timers.values())) == ({}, [due + UNKNOWN_MS])
    assert world.fold(DeleteSchedule("d")).code is None
    assert world.timers == {}


def test_the_largest_state_there_may_be_is_stored() -> None:
    spec = ScheduleSpec(
        "b" * NAME_CHARS_MAX,
        Timing(cron=("0 " * 100 + "* * *",) * CRONS_MAX, zone="x" * 40, begins="2" * 64, until="2" * 64),
        msgspec.Raw(b'"' + b"x" * INPUT_BYTES_MAX + b'"'),
    )
    name, run_id, command = "s" * NAME_CHARS_MAX, "é" * (RUN_ID_BYTES_MAX // 2), '"' * ACTOR_CHARS_MAX
    known = Schedule(
        SCHEDULE_FORMAT, name, 2**53, 2**43, spec, 2**43, 2**43, reason="\x01" * REASON_BYTES_MAX
    )
    known.open = [OpenFire(f"schedule {name} {2**43} by hand", run_id)] * OPEN_MAX
    known.queued = [QueuedFire(2**43, by_hand=True)] * QUEUED_MAX
    known.fires = [Fire(2**43, 2**43, "engine-fault", run_id, by_hand=True)] * FIRES_KEPT
    known.done = [command] * DONE_KEPT
    assert len(encode_state(known)) < 2**20 * 0.9


@pytest.mark.limit("orchestrator.fold.schedule.DONE_KEPT")
def test_what_comes_twice_or_from_nobody_changes_nothing() -> None:
    spec = ScheduleSpec("bill", Timing(every_s=60), msgspec.Raw(b'{"plan":"pro"}'))
    world = World()
    assert world.fold(FireSchedule("f")).code == "SCHEDULE_UNKNOWN"
    assert world.fold(ScheduledEnded("x", "completed")).existing
    world.fold(SetSchedule(spec, 3, "s"))
    assert world.fold(SetSchedule(spec, 3, "s")).existing
    assert refusal(world, ScheduledEnded("x", "completed")) == "RESULT_STALE"
    assert refusal(world, StartRun("bill", 3, msgspec.Raw(b"{}"), "c")) == "RUN_UNKNOWN"
    for number in range(DONE_KEPT + 5):
        world.fold(PauseSchedule(f"p {number}", number % 2 == 0))
    assert len(world.known.done) == DONE_KEPT


@pytest.mark.limit("protocol.schedules.INPUT_BYTES_MAX")
def test_an_input_that_does_not_fit_is_refused() -> None:
    def code(data: bytes, **more: Any) -> str | None:
        spec = ScheduleSpec("bill", Timing(every_s=60), msgspec.Raw(data), **more)
        return World().fold(SetSchedule(spec, 3, "s")).code

    assert code(b"{}") == "INPUT_INVALID"
    assert code(b'{"plan":7}') == "INPUT_INVALID"
    around = len(b'{"plan":""}')
    assert code(b'{"plan":"%s"}' % (b"x" * (INPUT_BYTES_MAX - around))) is None
    assert code(b'{"plan":"%s"}' % (b"x" * (INPUT_BYTES_MAX - around + 1))) == "INPUT_INVALID"
    unknown = SetSchedule(ScheduleSpec("bill", Timing(every_s=60)), 4, "s")
    assert fold_schedule(None, unknown, TOKEN, Stamp(1, BEGAN), None, 0).code == "WORKFLOW_UNKNOWN"
    assert World().fold(SetSchedule(ScheduleSpec("bill", Timing()), 3, "s")).code == "INPUT_INVALID"
    wrong = ScheduleSpec("bill", Timing(), msgspec.Raw(b'{"plan":"x"}'))
    assert World().fold(SetSchedule(wrong, 3, "s")).code == "SCHEDULE_INVALID"


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_timers_runs_and_counts_agree(seed: int) -> None:
    dice = random.Random(seed)
    world = World()

    def change() -> None:
        overlap: Overlap = dice.choice(["skip", "queue", "cancel", "allow"])
        jitter, catch_up = dice.choice([0.0, 20.0]), dice.choice([0.0, 90.0, 86_400.0])
        world.make(overlap=overlap, jitter_s=jitter, catch_up_s=catch_up)

    change()
    for number in range(80):
        match dice.randrange(8):
            case 0 | 1 | 2:
                world.until(world.now + dice.randrange(3 * MINUTE))
            case 3:
                world.late(world.now + dice.randrange(20 * MINUTE))
            case 4 if world.open:
                world.end(dice.choice(["completed", "failed", "cancelled", "refused"]))
            case 5:
                world.fold(PauseSchedule(f"p {number}", dice.random() < 0.4))
            case 6:
                world.fold(FireSchedule(f"f {number}"))
            case _:
                change()
        known = world.known
        assert {each.command_id for each in known.open} == set(world.open)
        assert known.fired == len([e for e in world.events if getattr(e, "outcome", "") == "started"])
        if not known.paused:
            assert due_ms("billing", known.spec, known.next_ms) >= world.now
        if known.spec.overlap == "skip" and not known.queued:
            continue
        assert len(set(known.queued)) == len(known.queued)


# -- the moment as a parameter -------------------------------------------------------------------------
@workflow(name="bill")
async def dated(due: datetime, plan: str = "pro") -> str:
    return plan


def test_a_run_is_given_the_moment_that_it_is_for_however_late_it_is() -> None:
    made = Definition(RegisteredWorkflow(dated.spec, 3, "d"))
    timing = Timing(every_s=60, begins="2027-01-15T07:30:00Z")
    spec = ScheduleSpec("bill", timing, overlap="allow", moment_as="due")
    with mock.patch.dict(globals(), DEFINITION=made):
        world = World()
        assert world.fold(SetSchedule(spec, 3, "s")).code is None
        world.late(BEGAN + 3 * MINUTE)
        world.fold(FireSchedule("f", BEGAN - 5 * MINUTE, BEGAN - 5 * MINUTE))
    due = [msgspec.json.decode(start.input)["due"] for start in world.runs.values()]
    moments = [run_id.removeprefix("billing-").replace("Z", ".000Z") for run_id in world.runs]
    assert len(moments) == 4
    assert due == moments


@pytest.mark.parametrize(
    ("given", "moment_as", "said"),
    [
        (b"{}", "nobody", "there is no parameter nobody"),
        (b"{}", "plan", "parameter due is missing"),
        (b'{"due": "2027-01-01T00:00:00Z"}', "due", "parameter due is given, and is to be given the moment"),
        (b"7", "due", "it is a JSON object"),
    ],
)
def test_a_parameter_that_cannot_take_the_moment_is_refused(given: bytes, moment_as: str, said: str) -> None:
    made = Definition(RegisteredWorkflow(dated.spec, 3, "d"))
    spec = ScheduleSpec("bill", Timing(every_s=60), msgspec.Raw(given), moment_as=moment_as)
    with mock.patch.dict(globals(), DEFINITION=made):
        outcome = World().fold(SetSchedule(spec, 3, "s"))
    assert outcome.code == "INPUT_INVALID"
    assert said in outcome.message
