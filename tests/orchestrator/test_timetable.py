"""A timetable as a function of its commands: one timer for each moment, and all that are due then are told."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from dressage.orchestrator.fold.effects import CancelTimer, SendCommand, SetTimer
from dressage.orchestrator.fold.invariants import check
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import State, Timetable, decode_state, encode_state
from dressage.orchestrator.fold.timetable import KEPT_MAX, fold_timetable
from dressage.protocol.commands import Command, DropMoment, KeepMoment, TimerFired, TimetableFull
from dressage.protocol.names import (
    NAME_CHARS_MAX,
    TIMETABLES,
    place_of,
    schedule_token,
    shard_of,
    timetable_token,
)

BEGAN = 1_800_000_000_000
TOKEN = timetable_token("s-0")
OWN = [name for number in range(5 * TIMETABLES) if timetable_token(name := f"s-{number}") == TOKEN]


@dataclass
class World:
    """A timetable with its timers, and what it has told its schedules."""

    state: State | None = None
    now: int = BEGAN
    seq: int = 0
    timers: dict[str, int] = field(default_factory=dict[str, int])
    told: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    full: list[str] = field(default_factory=list[str])

    def fold(self, command: Command) -> Outcome:
        self.seq += 1
        before = None if self.state is None else encode_state(self.state)
        outcome = fold_timetable(self.state, command, TOKEN, Stamp(self.seq, self.now))
        check(self.state, outcome)
        assert before == (None if self.state is None else encode_state(self.state))
        if outcome.state is not None:
            self.state = decode_state(encode_state(outcome.state))
        for effect in outcome.effects:
            match effect:
                case SetTimer():
                    assert effect.timer_id not in self.timers
                    self.timers[effect.timer_id] = effect.due_ms
                case CancelTimer():
                    self.timers.pop(effect.timer_id, None)
                case SendCommand(token=token, command=TimerFired(timer_id)):
                    self.told.append((token.removeprefix("=schedule_"), timer_id))
                case SendCommand(command=TimetableFull(timer_id)):
                    self.full.append(timer_id)
                case _:
                    raise AssertionError(effect)
        if isinstance(self.state, Timetable):
            moments = self.state.moments
            assert self.timers == {each.timer_id: due for due, each in moments.items()}
            assert self.state.kept == sum(len(each.schedules) for each in moments.values())
        return outcome

    def until(self, now: int) -> World:
        """Time passes, and timers fire."""
        while self.timers and (due := min(self.timers.values())) <= now:
            timer_id = min(self.timers, key=lambda each: self.timers[each])
            del self.timers[timer_id]
            self.now = max(self.now, due)
            assert self.fold(TimerFired(timer_id)).code is None
        self.now = now
        return self


def test_schedules_of_one_moment_share_a_timer_and_are_told_together() -> None:
    world = World()
    for number, name in enumerate(OWN[:3]):
        world.fold(KeepMoment(name, f"t-{number}", BEGAN + 1_000))
    world.fold(KeepMoment(OWN[3], "t-3", BEGAN + 2_000))
    assert sorted(world.timers.values()) == [BEGAN + 1_000, BEGAN + 2_000]
    world.until(BEGAN + 1_000)
    assert world.told == [(name, f"t-{number}") for number, name in enumerate(OWN[:3])]
    world.until(BEGAN + 2_000)
    assert (world.told[3:], world.timers) == ([(OWN[3], "t-3")], {})
    assert isinstance(world.state, Timetable)
    assert (world.state.moments, world.state.kept) == ({}, 0)


def test_what_is_taken_back_is_not_told_and_the_last_one_takes_the_timer_with_it() -> None:
    world = World()
    world.fold(KeepMoment(OWN[0], "a", BEGAN + 1_000))
    world.fold(KeepMoment(OWN[1], "b", BEGAN + 1_000))
    world.fold(DropMoment(OWN[0], "a", BEGAN + 1_000))
    assert len(world.timers) == 1
    world.fold(DropMoment(OWN[1], "b", BEGAN + 1_000))
    assert (world.timers, world.told) == ({}, [])


def test_another_timer_of_a_schedule_at_the_same_moment_takes_the_place_of_the_first() -> None:
    world = World()
    world.fold(KeepMoment(OWN[0], "a", BEGAN + 1_000))
    world.fold(KeepMoment(OWN[0], "b", BEGAN + 1_000))
    assert world.fold(DropMoment(OWN[0], "a", BEGAN + 1_000)).existing
    world.until(BEGAN + 1_000)
    assert world.told == [(OWN[0], "b")]


def test_what_comes_twice_is_told_again_and_stale_there_and_a_late_one_at_once() -> None:
    world = World()
    world.fold(KeepMoment(OWN[0], "a", BEGAN + 1_000))
    world.fold(KeepMoment(OWN[0], "a", BEGAN + 1_000))
    world.until(BEGAN + 5_000)
    assert world.told == [(OWN[0], "a")]
    world.fold(KeepMoment(OWN[0], "a", BEGAN + 1_000))
    assert (world.told, world.timers) == ([(OWN[0], "a")] * 2, {})
    assert world.fold(DropMoment(OWN[0], "a", BEGAN + 1_000)).existing
    assert world.fold(TimerFired("0-0-1")).code == "RESULT_STALE"


def test_a_timer_that_somebody_else_sends_too_early_is_set_again() -> None:
    world = World()
    world.fold(KeepMoment(OWN[0], "a", BEGAN + 1_000))
    (timer_id,) = world.timers
    world.fold(TimerFired(timer_id))
    assert (world.told, list(world.timers.values())) == ([], [BEGAN + 1_000])
    world.until(BEGAN + 1_000)
    assert world.told == [(OWN[0], "a")]


@pytest.mark.limit("orchestrator.fold.timetable.KEPT_MAX")
def test_what_a_timetable_has_no_room_for_is_given_back() -> None:
    token, name = timetable_token("s" * NAME_CHARS_MAX), "s" * NAME_CHARS_MAX
    state: State | None = None
    for number in range(1, KEPT_MAX + 1):
        command = KeepMoment(name, f"0-0-{2**40 + number}", BEGAN + number)
        state = fold_timetable(state, command, token, Stamp(2**40 + number, BEGAN)).state
    assert isinstance(state, Timetable)
    assert (state.kept, len(encode_state(state)) < 256 * 1024) == (KEPT_MAX, True)
    stamp = Stamp(2**41, BEGAN)
    refused = fold_timetable(state, KeepMoment(name, "b", BEGAN + 5_000), token, stamp)
    assert refused.effects == [SendCommand(schedule_token(name), TimetableFull("b"))]
    again = fold_timetable(state, KeepMoment(name, "b", BEGAN + 1), token, stamp)
    assert again.effects == []  # It takes the place of another one.


def test_only_its_own_schedules_are_kept() -> None:
    other = next(name for number in range(9) if timetable_token(name := f"x-{number}") != TOKEN)
    for command in (
        KeepMoment(other, "a", BEGAN),
        DropMoment(other, "a", BEGAN),
        KeepMoment("X y", "a", BEGAN),
    ):
        assert fold_timetable(None, command, TOKEN, Stamp(1, BEGAN)).code == "SCHEDULE_UNKNOWN"
    assert fold_timetable(None, TimetableFull("a"), TOKEN, Stamp(1, BEGAN)).code == "RUN_UNKNOWN"


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 24, 60])
def test_a_timetable_lives_on_the_shard_of_its_schedules(shards: int) -> None:
    for number in range(200):
        name = f"billing-{number}"
        place = place_of(timetable_token(name))
        assert shard_of(place, shards) == shard_of(place_of(schedule_token(name)), shards)
    assert len({timetable_token(f"billing-{number}") for number in range(5_000)}) == TIMETABLES


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_is_told_once_at_its_moment_or_taken_back(seed: int) -> None:
    chance, world = random.Random(seed), World()
    kept: dict[str, tuple[str, int]] = {}
    for number in range(80):
        name = chance.choice(OWN[:4])
        if name in kept and chance.random() < 0.6:
            timer_id, due = kept.pop(name)
            world.fold(DropMoment(name, timer_id, due))
        if chance.random() < 0.7 and name not in kept:
            kept[name] = (f"t-{number}", world.now // 1_000 * 1_000 + chance.choice([0, 1_000, 2_000]))
            world.fold(KeepMoment(name, *kept[name]))
        if chance.random() < 0.3:
            world.until(world.now + chance.randint(1, 2_000))
        due_now = {(each, timer) for each, (timer, due) in kept.items() if due <= world.now}
        told, world.told = world.told, []
        assert len(told) == len(set(told))
        assert set(told) == due_now
        for each, _ in told:
            del kept[each]
