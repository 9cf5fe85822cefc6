"""Limiters: never more permits than the limit, none that stays taken, whatever comes twice, late, or in between."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.flow import Exponential, Rate, first_completed, gather, sleep, task, workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.fold import fault, fold, not_started
from dressage.orchestrator.fold.limiter import LATER_MS, LATER_MS_MAX, SLICES, fold_limiter, free_ms
from dressage.orchestrator.fold.limits import (
    LIMITER_BYTES_MAX,
    LIMITER_WAITS_MAX,
    STATE_BYTES_MAX,
)
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import Limiter, RunState, TaskWait, decode_state, encode_state
from dressage.protocol.commands import (
    AskPermit,
    CancelRun,
    Command,
    DeferPermit,
    FailureInfo,
    GivePermit,
    ReturnPermit,
    StartRun,
    TaskResult,
    TimerFired,
    WorkerInfo,
    decode_command,
    encoder,
)
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import (
    RUN_ID_BYTES_MAX,
    is_limiter,
    limiter_of,
    limiter_token,
    place_of,
    run_id_of,
    run_token,
)
from dressage.protocol.permits import TaskLimit
from dressage.protocol.spec import RegisteredWorkflow

NOW = 1_800_000_000_000
TOKEN = limiter_token("t")


# -- one limiter, told by hand -------------------------------------------------------------------------
@dataclass
class Bare:
    """A limiter, and what it has told so far."""

    limit: TaskLimit
    state: Limiter | None = None
    seq: int = 0
    now: int = NOW
    given: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    deferred: dict[str, int] = field(default_factory=dict[str, int])
    timers: dict[str, int] = field(default_factory=dict[str, int])

    def tell(self, command: Command) -> Outcome:
        self.seq += 1
        looked_at = self.seq < 100 or self.seq % 500 == 0
        before = encode_state(self.state) if looked_at and self.state is not None else b""
        outcome = fold_limiter(self.state, command, TOKEN, Stamp(self.seq, self.now))
        assert not before or self.state is None or encode_state(self.state) == before
        if isinstance(outcome.state, Limiter):
            if looked_at:
                stored = encode_state(outcome.state)
                assert decode_state(stored) == outcome.state
                assert len(stored) < STATE_BYTES_MAX
            self.state = outcome.state
        for effect in outcome.effects:
            match effect:
                case SendCommand(token=token, command=GivePermit(task_id=attempt)):
                    self.given.append((f"{run_id_of(token)}/{attempt}", self.now))
                case SendCommand(token=token, command=DeferPermit(task_id=attempt, again_ms=again)):
                    self.deferred[f"{run_id_of(token)}/{attempt}"] = again
                case SetTimer():
                    self.timers[effect.timer_id] = effect.due_ms
                case CancelTimer():
                    del self.timers[effect.timer_id]
                case _:
                    pytest.fail(f"a limiter has no effect {effect}")
        return outcome

    def ask(self, run: str, attempt: str = "1", priority: int = 0, since: str = "") -> Outcome:
        return self.tell(AskPermit(run, attempt, self.limit, since, priority))

    def back(self, run: str, attempt: str = "1") -> Outcome:
        return self.tell(ReturnPermit(run, attempt))

    def pass_time(self, ms: int) -> None:
        """Timers fire when they are due."""
        until = self.now + ms
        while due := [(due, name) for name, due in self.timers.items() if due <= until]:
            self.now, name = min(due)
            del self.timers[name]
            self.tell(TimerFired(name))
        self.now = until

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.given]

    @property
    def known(self) -> Limiter:
        assert self.state is not None
        return self.state


def test_so_many_at_a_time_and_the_next_when_one_comes_back() -> None:
    bare = Bare(TaskLimit(2))
    for run in "abcd":
        bare.ask(run)
    assert bare.names == ["a/1", "b/1"]
    bare.back("b")
    assert bare.names == ["a/1", "b/1", "c/1"]
    assert set(bare.known.taken) == {"1 a", "1 c"}
    bare.back("d")  # It waits no more.
    bare.back("a")
    bare.back("c")
    assert (bare.known.taken, bare.known.runs, bare.known.size) == ({}, [], 0)


def test_what_is_said_twice_counts_once() -> None:
    bare = Bare(TaskLimit(1))
    assert bare.ask("a").existing is False
    assert bare.ask("a").existing
    bare.ask("b")
    assert bare.ask("b").existing
    assert bare.names == ["a/1"]
    bare.back("a")
    assert bare.back("a").existing
    bare.ask("c")
    assert bare.names == ["a/1", "b/1"]


def test_a_return_that_nobody_knows_changes_nothing() -> None:
    bare = Bare(TaskLimit(1))
    assert bare.back("a").existing
    assert bare.state is None
    bare.ask("a")
    assert bare.back("a", "2").existing
    assert bare.back("b").existing
    assert set(bare.known.taken) == {"1 a"}


def test_higher_priorities_go_first_and_runs_take_turns() -> None:
    bare = Bare(TaskLimit(1))
    bare.ask("holder", "0")
    for attempt in "1234":
        bare.ask("a", attempt)
    for attempt in "12":
        bare.ask("b", attempt)
    bare.ask("low", "1", -1)
    bare.ask("high", "1", 5)
    bare.ask("c")
    for name in range(10):
        run, attempt = bare.names[name].split("/")
        bare.back(run, attempt)
    order = bare.names[1:]
    assert order == ["high/1", "a/1", "b/1", "c/1", "a/2", "b/2", "a/3", "a/4", "low/1"]


def test_a_run_that_asks_again_and_again_does_not_keep_others_waiting() -> None:
    bare = Bare(TaskLimit(1))
    bare.ask("a", "0")
    for attempt in range(1, 6):
        bare.ask("b", str(attempt))
    for number in range(1, 6):
        bare.ask("a", str(number))
        bare.back(*bare.names[-1].split("/"))
    first = [name[0] for name in bare.names[1:]]
    assert first == ["b", "a", "b", "a", "b"]


def test_the_latest_registered_figures_hold() -> None:
    bare = Bare(TaskLimit(1))
    bare.ask("a", since="2026-01-02")
    bare.limit = TaskLimit(5)
    bare.ask("b", since="2026-01-01")
    assert bare.names == ["a/1"]
    bare.ask("c", since="2026-01-03")
    assert bare.names == ["a/1", "b/1", "c/1"]
    bare.limit = TaskLimit(1)
    bare.ask("d", since="2026-01-04")
    bare.back("a")
    bare.back("b")
    assert bare.names == ["a/1", "b/1", "c/1"]
    bare.back("c")
    assert bare.names == ["a/1", "b/1", "c/1", "d/1"]


@given(
    count=st.integers(1, 8),
    per_ms=st.integers(1, 5000),
    concurrency=st.none() | st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 4), st.booleans()), max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_no_window_has_more_than_the_rate_and_none_waits_for_ever(
    count: int, per_ms: int, concurrency: int | None, steps: list[tuple[int, int, bool]]
) -> None:
    bare = Bare(TaskLimit(concurrency, count, per_ms / 1000))
    asked = returned = 0

    def give_one_back() -> None:
        nonlocal returned
        if returned < len(bare.given):
            bare.back(*bare.names[returned].split("/"))
            returned += 1

    for wait_ms, many, gives in steps:
        bare.pass_time(wait_ms)
        for _ in range(many):
            bare.ask(f"r{asked % 5}", str(asked))
            asked += 1
        if gives:
            give_one_back()
        assert len(bare.known.given) <= SLICES + 2
        assert concurrency is None or len(bare.given) - returned <= concurrency
    for _ in range(2 * asked + 2):
        give_one_back()
        bare.pass_time(per_ms + per_ms // SLICES + 1)
    assert len(bare.given) == asked
    moments = [moment for _, moment in bare.given]
    for first, beyond in zip(moments, moments[count:], strict=False):
        assert beyond - first >= per_ms, "more began in a window than the rate lets"


def test_the_rate_is_used_as_far_as_it_goes() -> None:
    bare = Bare(TaskLimit(None, 100, 1.0))
    for number in range(500):
        bare.ask(f"r{number}")
    assert len(bare.given) == 100
    bare.pass_time(5000)
    assert len(bare.given) == 500
    assert bare.known.taken == {}
    assert bare.given[-1][1] - NOW <= 4 * 1010
    assert free_ms(bare.known) > 0


def test_a_timer_that_it_does_not_wait_for_changes_nothing() -> None:
    bare = Bare(TaskLimit(None, 1, 1.0))
    assert bare.tell(TimerFired("0-0-1")).code == "RESULT_STALE"
    bare.ask("a")
    bare.ask("b")
    [name] = bare.timers
    bare.pass_time(1010)
    assert bare.names == ["a/1", "b/1"]
    assert bare.tell(TimerFired(name)).code == "RESULT_STALE"
    assert bare.tell(CancelRun("c")).code == "RUN_UNKNOWN"


@pytest.mark.limit("orchestrator.fold.limits.LIMITER_WAITS_MAX")
def test_what_does_not_fit_comes_again_later_and_lower_priorities_make_room() -> None:
    bare = Bare(TaskLimit(1))
    for number in range(LIMITER_WAITS_MAX + 1):
        bare.ask(f"r{number}")
    assert not bare.deferred
    bare.ask("late")
    assert list(bare.deferred) == ["late/1"]
    assert bare.deferred["late/1"] == LATER_MS
    bare.ask("later")
    assert bare.deferred["later/1"] > LATER_MS
    bare.ask("high", priority=1)
    assert list(bare.deferred)[-1] == f"r{LIMITER_WAITS_MAX}/1"
    assert len(bare.known.runs) == LIMITER_WAITS_MAX
    assert max(bare.deferred.values()) <= LATER_MS_MAX
    bare.back("r0")
    assert bare.names[-1] == "high/1"


@pytest.mark.limit("orchestrator.fold.limits.LIMITER_BYTES_MAX")
def test_long_ids_take_no_more_than_a_message_holds() -> None:
    bare = Bare(TaskLimit(1000))
    for number in range(3000):
        bare.ask("\x01" * (RUN_ID_BYTES_MAX - 4) + f"{number:04}", f"{number}-{'9' * 400}")
    assert bare.deferred
    assert bare.known.size <= LIMITER_BYTES_MAX
    assert len(encode_state(bare.known)) < STATE_BYTES_MAX


def test_a_token_names_a_task_and_a_key_and_no_run() -> None:
    for key in ("", "a", "a_b", "x y.*>~", "ü"):
        token = limiter_token("send-mail", key)
        assert is_limiter(token)
        assert limiter_of(token) == ("send-mail", key)
        assert place_of(token) == token
        assert "~" not in token
        with pytest.raises(BadRunId):
            run_id_of(token)
    for wrong in ("=limiter_", "=limiter_A", "=limiter_t_", "=limiter_t_=x"):
        with pytest.raises(BadRunId):
            place_of(wrong)


# -- with runs -----------------------------------------------------------------------------------------
@task(concurrency=2, retries=1, backoff=Exponential(base=timedelta(seconds=1), jitter=0.0))
async def t(number: int) -> int:
    return number


@task
async def free(number: int) -> int:
    return number


@workflow
async def mixed(many: int) -> int:
    await gather(*(t(number) for number in range(many)))
    await free(many)
    place, _ = await first_completed(t(many), sleep(timedelta(seconds=5)))
    try:
        await t.options(priority=many, deadline=timedelta(seconds=20), start_timeout=timedelta(seconds=3))(1)
    finally:
        await t(0)
    return place


MIXED = Definition(RegisteredWorkflow(mixed.spec, 1, mixed.spec.digest()))


@dataclass
class System:
    """Runs and one limiter; each pair of them talks in order, and may say its last words again."""

    states: dict[str, RunState | Limiter] = field(default_factory=dict[str, "RunState | Limiter"])
    sends: dict[tuple[str, str], deque[Command]] = field(
        default_factory=dict[tuple[str, str], "deque[Command]"]
    )
    said: dict[tuple[str, str], list[Command]] = field(default_factory=dict[tuple[str, str], "list[Command]"])
    timers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    tasks: list[tuple[str, DispatchTask]] = field(default_factory=list[tuple[str, DispatchTask]])
    dispatched: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    now: int = NOW
    seq: int = 0

    def tell(self, token: str, command: Command) -> Outcome:
        self.seq += 1
        stamp, sent = Stamp(self.seq, self.now), decode_command(encoder.encode(command))
        state = self.states.get(token)
        if is_limiter(token):
            outcome = fold_limiter(state, sent, token, stamp)
        else:
            outcome = fold(state, sent, run_id_of(token), stamp, MIXED)
        self.perform(token, outcome)
        return outcome

    def perform(self, token: str, outcome: Outcome) -> None:
        if isinstance(outcome.state, RunState | Limiter):
            self.states[token] = outcome.state
        for effect in outcome.effects:
            self._perform(token, effect)
        self.check()

    def _perform(self, token: str, effect: Effect) -> None:
        match effect:
            case SendCommand():
                self.sends.setdefault((token, effect.token), deque()).append(effect.command)
            case SetTimer():
                self.timers[token, effect.timer_id] = effect.due_ms
            case CancelTimer():
                self.timers.pop((token, effect.timer_id), None)
            case DispatchTask():
                assert (token, effect.task_id) not in self.dispatched, "an attempt is dispatched twice"
                self.dispatched.add((token, effect.task_id))
                self.tasks.append((token, effect))
            case _:
                pytest.fail(f"what is {effect}?")

    def start(self, run_id: str, many: int) -> None:
        given = msgspec.Raw(msgspec.json.encode({"many": many}))
        assert self.tell(run_token(run_id), StartRun(mixed.name, 1, given, run_id)).code is None

    def deliver(self, choice: int) -> None:
        channels = sorted(pair for pair, queue in self.sends.items() if queue)
        if channels:
            pair = channels[choice % len(channels)]
            command = self.sends[pair].popleft()
            self.said.setdefault(pair, []).append(command)
            self.tell(pair[1], command)

    def repeat(self, choice: int, many: int) -> None:
        """The last words of somebody come once more, as after a take-over."""
        channels = sorted(self.said)
        if channels:
            pair = channels[choice % len(channels)]
            for command in self.said[pair][-many:]:
                self.tell(pair[1], command)

    def copy(self, choice: int) -> None:
        """Anything that was said comes once more, however late."""
        said = [(pair[1], command) for pair in sorted(self.said) for command in self.said[pair]]
        if said:
            self.tell(*said[choice % len(said)])

    def work(self, choice: int, *, fails: bool) -> None:
        if self.tasks:
            token, attempt = self.tasks.pop(choice % len(self.tasks))
            by = WorkerInfo("w", 1.0)
            result = TaskResult(attempt.task_id, by, msgspec.Raw(b"1"))
            if fails:
                result = TaskResult(attempt.task_id, by, error=FailureInfo("error", "no", "task-error"))
            self.tell(token, result)

    def pass_time(self, ms: int) -> None:
        self.now += ms
        for (token, name), due in sorted(self.timers.items(), key=lambda each: each[1]):
            if due <= self.now and self.timers.pop((token, name), None) is not None:
                self.tell(token, TimerFired(name))

    def fault(self, token: str) -> None:
        state = self.states[token]
        if isinstance(state, RunState) and not state.finished:
            self.seq += 1
            self.perform(token, fault(state, Stamp(self.seq, self.now), "Error: a bug"))

    @property
    def limiter(self) -> Limiter | None:
        found = self.states.get(TOKEN)
        return found if isinstance(found, Limiter) else None

    def held(self) -> set[str]:
        return {
            f"{thread.wait.task_id} {token}"
            for token, state in self.states.items()
            if isinstance(state, RunState) and not state.finished
            for thread in state.threads
            if isinstance(thread.wait, TaskWait) and thread.wait.permit == "held"
        }

    def check(self) -> None:
        """Who is with a worker, and waited for, has a permit; and there are no more of them than there may be."""
        taken = set() if self.limiter is None else set(self.limiter.taken)
        assert len(taken) <= 2
        assert self.held() <= taken

    def settle(self) -> None:
        for _ in range(3000):
            if any(self.sends.values()):
                self.deliver(0)
            elif self.tasks:
                self.work(0, fails=False)
            elif self.timers:
                self.pass_time(max(1, min(self.timers.values()) - self.now))
            else:
                return
        pytest.fail("it does not come to an end")


Steps = st.lists(
    st.tuples(st.sampled_from("dddddwwwwefrraatcxo"), st.integers(0, 50), st.integers(1, 6)), max_size=150
)


@given(runs=st.lists(st.integers(0, 4), min_size=1, max_size=4), steps=Steps)
@settings(max_examples=120, deadline=None)
def test_nothing_is_exceeded_and_nothing_stays_taken(
    runs: list[int], steps: list[tuple[str, int, int]]
) -> None:
    system = System()
    for number, many in enumerate(runs):
        system.start(f"r{number}", many)
    tokens = [f"r{number}" for number in range(len(runs))]
    for step, choice, many in steps:
        token = tokens[choice % len(tokens)]
        match step:
            case "d":
                system.deliver(choice)
            case "w" | "e":
                system.work(choice, fails=step == "e")
            case "r":
                system.repeat(choice, many)
            case "a":
                system.copy(choice * many)
            case "t":
                system.pass_time(500 * many)
            case "c" | "x":
                system.tell(token, CancelRun(f"c{choice}", at_once=step == "x"))
            case "f":
                system.fault(token)
            case _:
                # Somebody else's limiter, or an older one, says what no run waits for.
                system.tell(token, GivePermit(f"0-1-{choice}-1", "t"))
    system.settle()
    for token in tokens:
        state = system.states[token]
        assert isinstance(state, RunState)
        assert state.finished, f"{token} does not end"
    for choice in range(sum(map(len, system.said.values()))):
        system.copy(choice)  # Whatever was said comes once more, long after all is over.
        system.settle()
    if system.limiter is not None:
        assert system.limiter.taken == {}
        assert system.limiter.runs == []
        assert system.limiter.size == 0


def test_a_permit_for_a_run_that_is_not_there_comes_back() -> None:
    outcome = fold(None, GivePermit("0-1-1-1", "t", "k"), "gone", Stamp(1, NOW), None)
    assert outcome.code is None
    assert outcome.effects == [SendCommand(limiter_token("t", "k"), ReturnPermit("gone", "0-1-1-1"))]


def test_an_ask_that_the_engine_fails_on_is_made_again() -> None:
    ask = AskPermit("a", "0-1-1-1", TaskLimit(1))
    [told] = not_started(ask, "ENGINE_FAULT", "a bug")
    assert isinstance(told, SendCommand)
    assert isinstance(told.command, DeferPermit)
    assert told.token == "a"


def test_tasks_without_a_limit_ask_nobody() -> None:
    @workflow
    async def plain(number: int) -> int:
        return await free(number)

    definition = Definition(RegisteredWorkflow(plain.spec, 1, ""))
    start = StartRun("plain", 1, msgspec.Raw(b'{"number":1}'), "c")
    outcome = fold(None, start, "a", Stamp(1, NOW), definition)
    assert not definition.limited
    assert [type(effect) for effect in outcome.effects] == [DispatchTask]
    assert b"permit" not in encode_state(outcome.state) if outcome.state else False


def test_options_of_a_rate() -> None:
    assert dataclasses.asdict(Rate(3)) == {"count": 3, "per": timedelta(seconds=1)}
    made: Any = task(rate=Rate(3, per=timedelta(minutes=1)), concurrency=4, priority=7)(t.function)
    assert made.definition.limit == TaskLimit(4, 3, 60.0)
    assert made.definition.priority == 7
