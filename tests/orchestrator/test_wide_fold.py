"""A run with many branches: a command costs as much as among a few, and what it shares with the states before stays."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest import mock

import msgspec
import pytest
from tests.limits.specs import Run, expr, spec_of  # pyright: ignore[reportMissingImports]

from dressage.flow import App, Exponential, Limits, WorkflowFailure, first_completed, gather, sleep, workflow
from dressage.orchestrator.fold import threads
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import DispatchTask, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.limits import (
    BRANCH_BYTES,
    FAILED_BYTES_MAX,
    GROUP_CUT,
    RUN_THREADS_MAX,
    STATE_BYTES_MAX,
    at_end,
    bytes_of,
    events_bytes,
    thread_bytes,
)
from dressage.orchestrator.fold.marks import mark_of_event
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.shared import first_and_rest, grown
from dressage.orchestrator.fold.state import (
    ConditionWait,
    EventWait,
    GatherWait,
    RunState,
    RunThread,
    RunThreads,
    SleepWait,
    TaskWait,
    Wait,
    decode_state,
    encode_state,
)
from dressage.protocol.commands import Command, FailureInfo, PostEvent, StartRun, TaskResult, WorkerInfo
from dressage.protocol.names import ACTOR_CHARS_MAX, KEY_BYTES_MAX, NAME_CHARS_MAX, key_token
from dressage.protocol.spec import LIMITS_MAX, EventDef, EventNode, RegisteredWorkflow, ReturnNode, SleepNode
from dressage.protocol.spec_check import RETRIES_MAX
from dressage.protocol.spec_sizes import NODES_MAX
from dressage.protocol.types import ANY

app = App("wide")
BY = WorkerInfo("w", 1.0)
MESSAGE_BYTES = 1024 * 1024 - 4096


class Declined(WorkflowFailure): ...


@app.task(retries=1, backoff=Exponential(base=timedelta(seconds=1), factor=2.0, jitter=0.0))
async def work(n: int) -> int:
    return n


@workflow(name="wide-tasks", limits=Limits(history_events=200_000))
async def of_tasks(count: int, at_once: int) -> int:
    return len(await gather(*(work(n) for n in range(count)), limit=at_once))


@workflow(name="wide-branches")
async def of_branches(count: int, at_once: int) -> int:
    total = 0

    async def step(n: int) -> int:
        got = await work(n)
        if got % 3 == 0:
            first, second = await gather(work(got + 1), sleep(got + 1))
            return first + (second is None)
        if got % 3 == 1:
            return (await first_completed(work(got + 1), sleep(5)))[0]
        return got

    for given in range(2):
        try:
            total += sum(await gather(*(step(n + given) for n in range(count)), limit=at_once))
        except ExceptionGroup as failures:
            total += len(failures.exceptions)
    return total


def ready(flow: Any) -> Definition:
    return Definition(RegisteredWorkflow(flow.spec, 1, flow.spec.digest()))


@dataclass
class Driven:
    """A run whose states stay in memory, as an owner holds them."""

    definition: Definition
    state: RunState | None = None
    seq: int = 0
    last: Command | None = None
    asked: deque[DispatchTask | SetTimer] = field(default_factory=deque[DispatchTask | SetTimer])

    def begin(self, **arguments: Any) -> Driven:
        given = msgspec.Raw(msgspec.json.encode(arguments))
        self.send(StartRun(self.definition.spec.name, 1, given, "c"))
        return self

    def send(self, command: Command) -> Outcome:
        self.seq, self.last = self.seq + 1, command
        outcome = fold(self.state, command, "r", Stamp(self.seq, 1000 * self.seq), self.definition)
        self.state = outcome.run
        self.asked += [each for each in outcome.effects if isinstance(each, DispatchTask | SetTimer)]
        return outcome

    def go_on(self, output: int | FailureInfo = 7) -> Outcome:
        """Gives the run what it asked for first."""
        asked = self.asked.popleft()
        if isinstance(asked, SetTimer):
            return self.send(asked.command)
        if isinstance(output, FailureInfo):
            return self.send(TaskResult(asked.task_id, BY, failure=output))
        return self.send(TaskResult(asked.task_id, BY, msgspec.Raw(msgspec.json.encode(output))))

    @property
    def run(self) -> RunState:
        assert self.state is not None
        return self.state


# -- what a command looks at -----------------------------------------------------------------------
def looked_at(open_branches: int) -> dict[str, int]:
    """How many threads a command copies, and how many it counts, beside so many open branches."""
    run = Driven(ready(of_tasks)).begin(count=3 * open_branches, at_once=open_branches)
    run.go_on()
    with (
        mock.patch.object(RunThread, "copy", autospec=True, side_effect=RunThread.copy) as copied,
        mock.patch.object(threads, "thread_bytes", side_effect=thread_bytes) as counted,
    ):
        for _ in range(5):
            assert run.go_on().code is None
    assert len(run.run.threads) == open_branches + 1
    return {"copied": copied.call_count, "counted": counted.call_count}


def test_a_command_looks_at_as_many_threads_among_hundreds_as_among_a_few() -> None:
    few, many = looked_at(threads.FEW + 1), looked_at(RUN_THREADS_MAX - 1)
    assert few == many
    assert max(many.values()) <= 5 * 8


def test_results_and_what_is_left_are_shared_with_the_states_before() -> None:
    run = Driven(ready(of_tasks)).begin(count=2000, at_once=10)
    run.go_on()
    before = wait_of(run.run)
    run.go_on()
    after = wait_of(run.run)
    assert list(after.outputs.items())[:-1] == list(before.outputs.items())
    assert list(after.given) == list(before.given)[1:]
    assert after.outputs._entries is before.outputs._entries  # type: ignore[attr-defined]
    assert after.given._items is before.given._items  # type: ignore[attr-defined]


def wait_of(state: RunState) -> GatherWait:
    wait = state.threads[0].wait
    assert isinstance(wait, GatherWait)
    return wait


# -- it is still a function ------------------------------------------------------------------------
@pytest.fixture(params=[0, threads.FEW], ids=["all counted", "few not counted"])
def few(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of a run with few threads, too, what they take is known from fold to fold."""
    with mock.patch.object(threads, "FEW", request.param):
        yield


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("seed", range(6))
def test_no_fold_changes_a_state_before_it_and_what_threads_take_is_known(seed: int) -> None:
    """Random ends of tasks in a random order, some of them told twice; states in memory beside stored ones."""
    chance = random.Random(seed)
    run = Driven(ready(of_branches)).begin(count=40, at_once=25)
    states: list[tuple[RunState, bytes]] = []
    while not run.run.finished and run.asked:
        run.asked.rotate(chance.randrange(3))
        output: int | FailureInfo = chance.randrange(6)
        before = run.run
        stored = decode_state(encode_state(before))
        outcome = run.go_on(FailureInfo("declined", "no") if chance.random() < 0.05 else output)
        if outcome.code is not None:
            assert outcome.code == "RESULT_STALE"
            continue
        states.append((run.run, encode_state(run.run)))
        assert known(run.run) in (None, counted(run.run))
        # From the stored state, and once more from the one in memory, of which others have been made, it is the same.
        assert run.last is not None
        for state in (stored, before):
            again = fold(state, run.last, "r", Stamp(run.seq, 1000 * run.seq), run.definition).state
            assert again is not None
            assert encode_state(again) == states[-1][1]
            assert decode_state(encode_state(again)) == again
    assert run.run.finished
    assert run.run.failure is None
    assert [encode_state(state) for state, _ in states] == [stored for _, stored in states]


def known(state: RunState) -> tuple[int, int] | None:
    return state.threads.held if isinstance(state.threads, RunThreads) else None


def counted(state: RunState) -> tuple[int, int]:
    each = [thread_bytes(thread) for thread in state.threads]
    return sum(variables for variables, _ in each), sum(rest for _, rest in each)


def test_what_is_counted_is_no_less_than_what_is_stored() -> None:
    run = Driven(ready(of_branches)).begin(count=300, at_once=100)
    for number in range(400):
        run.go_on(number)
        if number % 20 == 0:
            stored = len(msgspec.json.encode(msgspec.json.decode(encode_state(run.run))["threads"]))
            assert stored <= sum(counted(run.run)) + BRANCH_BYTES <= 3 * stored


def test_a_mapping_that_grows_twice_from_one_place_is_two_mappings() -> None:
    first = grown({}, 5, "a")
    left, right = grown(grown(first, 3, "b"), 4, "c"), grown(first, 3, "d")
    assert (dict(first), dict(left), dict(right)) == ({5: "a"}, {5: "a", 3: "b", 4: "c"}, {5: "a", 3: "d"})
    assert (3 in first, 3 in right, left[3], right[3], first.get(3)) == (False, True, "b", "d", None)
    assert first == {5: "a"}
    assert grown({1: "x"}, 2, "y") == {1: "x", 2: "y"}


def test_what_is_left_of_a_list_keeps_nothing_that_is_gone_for_long() -> None:
    left: Any = list(range(100))
    for number in range(99):
        item, left = first_and_rest(left)
        assert item == number
        assert left == list(range(number + 1, 100))
        assert len(left._items) <= 2 * len(left) + 1
    assert first_and_rest(left) == (99, [])


# -- whatever there is of it fits into a message ---------------------------------------------------
def test_as_many_threads_as_may_be_and_as_much_in_them_as_may_be_fit_into_a_message() -> None:
    run = Driven(ready(of_tasks)).begin(count=RUN_THREADS_MAX - 1, at_once=RUN_THREADS_MAX - 1)
    padding = STATE_BYTES_MAX - sum(counted(run.run)) - len(run.run.input)
    assert len(encode_state(run.run)) + padding < MESSAGE_BYTES


def test_results_of_thousands_of_branches_fit_into_a_message_or_the_run_fails_by_name() -> None:
    count, result = 2500, 10**400
    run = Driven(ready(of_tasks)).begin(count=count, at_once=20)
    largest = 0
    for number in range(count):
        run.go_on(result)
        if number % 100 == 0 or number > count - 200:
            largest = max(largest, len(encode_state(run.run)))
        if run.run.finished:
            break
    assert run.run.failure is not None
    assert run.run.failure.name == "state-size"
    assert 900_000 < largest < MESSAGE_BYTES


def test_whatever_a_branch_holds_is_counted() -> None:
    """Names of any script, what stands around them, ids as long as they get; what waits and what has ended."""
    raw, failure = msgspec.Raw(b"1"), FailureInfo("declined", "no")
    far, node, seq, now_ms, name = LIMITS_MAX.history_events, NODES_MAX, 10**12, 10**13, "n" * NAME_CHARS_MAX
    step = f"{far}-{node}-{seq}"
    held = 9 * len(raw) + 9 * bytes_of(failure)
    waits: list[Wait] = [
        TaskWait(f"{step}-{RETRIES_MAX}", step, name, name, node, RETRIES_MAX, now_ms, raw, step),
        SleepWait(f"{step}-{far}", node, now_ms, far),
        ConditionWait(node, far, now_ms, f"{step}-{far}", now_ms),
        EventWait(name, node, seq, now_ms, step, now_ms),
        EventWait(name, node, seq, now_ms, step, now_ms, "\x01" * KEY_BYTES_MAX, step),
        GatherWait(node, far, {far - n: raw for n in range(5)}, given=[raw] * 4, limit=far, held=held),
        GatherWait(node, far, failures={far - n: failure for n in range(9)}, won=far, dropped=far, held=held),
    ]
    for wait in waits:
        variables = {f"ä{number}": raw for number in range(100)}
        thread = RunThread(far, node, wait, far, node, far, variables, "raised")
        assert len(msgspec.json.encode(thread)) <= sum(thread_bytes(thread)), wait


@pytest.mark.limit("orchestrator.fold.limits.FAILED_BYTES_MAX")
def test_of_a_large_group_that_a_run_ends_with_the_first_failures_are_told() -> None:
    cause = FailureInfo("declined", "x" * 71, family=("declined",))
    whole = FailureInfo(
        "exception-group", "branches failed (2 sub-exceptions)", "group", causes=(cause, cause)
    )
    rest = FAILED_BYTES_MAX - bytes_of(whole)
    fits = msgspec.structs.replace(whole, details=msgspec.Raw(b'"%b"' % (b"x" * (rest - 20))))
    assert at_end(fits) == fits
    beyond = at_end(msgspec.structs.replace(whole, details=msgspec.Raw(b'"%b"' % (b"x" * rest))))
    assert beyond.causes == (cause,)
    assert beyond.message.endswith(f"the first 1 of them told {GROUP_CUT}")


def test_thousands_of_failures_end_a_run_whose_state_still_fits() -> None:
    run = Driven(ready(of_tasks)).begin(count=3000, at_once=100)
    outcome = run.go_on(FailureInfo("declined", "no", family=("declined",)))
    while not run.run.finished:
        outcome = run.go_on(FailureInfo("declined", "no", family=("declined",)))
    failure = run.run.failure
    assert failure is not None
    assert failure.message.startswith("branches failed (3000 sub-exceptions), the first ")
    assert bytes_of(failure) <= FAILED_BYTES_MAX + 200
    assert len(msgspec.json.encode(outcome.events[-1])) < 2 * FAILED_BYTES_MAX


def test_ids_of_unclaimed_events_count_in_the_state() -> None:
    """They may be long, and take up to six bytes for each character."""
    spec = spec_of(
        [SleepNode(expr("100"), 1), EventNode("called", 2), ReturnNode()],
        events=(EventDef("called", ANY),),
    )
    run = Run(spec)
    run.start()
    accepted = 0
    for number in range(2000):
        event_id = f"{number:04d}".ljust(ACTOR_CHARS_MAX, "\x01")
        outcome = run.apply(PostEvent("called", event_id, msgspec.Raw(b"1")))
        if outcome.code is not None:
            assert (outcome.code, "state-size" in outcome.message) == ("EVENTS_FULL", True)
            break
        accepted += 1
    assert run.state is not None
    assert mark_of_event("called", "0000".ljust(ACTOR_CHARS_MAX, "\x01")) in run.state.posted
    assert 100 < accepted < 2000
    assert len(encode_state(run.state)) < MESSAGE_BYTES


def test_keys_of_lasting_events_that_a_run_has_had_count_in_its_state() -> None:
    keys = {key_token("e", f"{n:03}".ljust(KEY_BYTES_MAX, "\x01")): n for n in range(1, 500)}
    state = RunState(1, "r", "w", 1, 1, 1, 1, "c", msgspec.Raw(b"{}"))
    bare = len(encode_state(state))
    state.seen = keys
    assert len(encode_state(state)) - bare <= events_bytes(state)


def test_a_thread_is_found_by_the_id_of_its_attempt_alone() -> None:
    run = Driven(ready(of_tasks)).begin(count=30, at_once=30)
    wait = run.run.threads[7].wait
    assert isinstance(wait, TaskWait)
    for task_id in (
        "",
        "-",
        "x-1",
        "7",
        f"0{wait.task_id}",
        f" {wait.task_id}",
        "99999999999999999999-1-1-1",
    ):
        assert run.send(TaskResult(task_id, BY, msgspec.Raw(b"1"))).code == "RESULT_STALE"
    assert run.send(TaskResult(wait.task_id, BY, msgspec.Raw(b"1"))).code is None


@workflow
async def without_arguments(n: int) -> tuple[int, int]:
    async def counting() -> int:
        first = await work(n)
        return first + await work(first)

    return await gather(counting(), counting())


def test_the_first_variable_of_a_branch_does_not_show_in_the_state_before() -> None:
    run = Driven(ready(without_arguments)).begin(n=1)
    before = run.run
    stored = encode_state(before)
    run.go_on(5)
    assert any(thread.variables for thread in run.run.threads)
    assert encode_state(before) == stored
