"""Branches in the fold: side by side, each with its own variables and waits, until the last has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.expressions.parse import constant
from dressage.flow import App, Exponential, WorkflowFailure, gather, sleep, workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.invariants import check
from dressage.orchestrator.fold.limits import GROUP_BYTES_MAX, GROUP_CUT, RUN_THREADS_MAX
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState, TaskWait, decode_state, encode_state
from dressage.orchestrator.turn.waits import WAITS_SHOWN, waiting_for
from dressage.protocol.commands import (
    CancelRun,
    Command,
    FailureInfo,
    StartRun,
    TaskResult,
    TimerFired,
    WorkerInfo,
)
from dressage.protocol.errors import InvariantBroken
from dressage.protocol.events import BranchEnded, BranchStarted, FailureCaught
from dressage.protocol.expressions import Name
from dressage.protocol.spec import (
    Branch,
    GatherNode,
    Handler,
    RegisteredWorkflow,
    ReturnNode,
    Scope,
    SleepNode,
    Variable,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, Scalar
from dressage.simulation.programs import define

app = App("branches")
BY = WorkerInfo("w", 1.0)


class Declined(WorkflowFailure): ...


class Stolen(Declined): ...


@app.task(retries=1, backoff=Exponential(base=timedelta(seconds=1), factor=2.0, jitter=0.0))
async def work(n: int) -> int:
    return n


async def twice(n: int) -> int:
    first, second = await gather(work(n), work(n + 1))
    return first + second


async def slowly(n: int) -> int:
    got = await work(n)
    await sleep(got)
    return got


@workflow(name="three")
async def three() -> tuple[int, int, int]:
    return await gather(work(1), work(2), work(3))


@workflow(name="nested")
async def nested() -> list[int]:
    first, second = await gather(twice(10), twice(20))
    return [first, second]


@workflow(name="sleepers")
async def sleepers() -> int:
    first, second, _ = await gather(slowly(5), slowly(7), sleep(60))
    return first + second


@workflow(name="looping")
async def looping(n: int) -> int:
    total = 0
    while total < n:
        first, second = await gather(work(total), work(total + 1))
        total += first + second
    return total


@workflow(name="guarded")
async def guarded() -> str:
    try:
        await work(0)
        await gather(work(1), work(2))
    except Declined:
        return "declined"
    except ExceptionGroup:
        return "group"
    return "fine"


@workflow(name="alone")
async def alone() -> str:
    cleaned = 0
    try:
        try:
            got = await work(1)
            cleaned = int(f"{got}")
        except Stolen:
            return "stolen"
        except Declined:
            return "declined"
    except ValueError:
        return "value"
    except Exception:
        return "exception"
    finally:
        cleaned += 1
        await sleep(cleaned)
    return "fine"


def ready(spec: WorkflowSpec) -> Definition:
    return Definition(RegisteredWorkflow(spec, 1, spec.digest()))


def made(text: str) -> Definition:
    head = "from dressage.flow import App, gather, sleep, workflow\napp = App('x')\n"
    task = "@app.task\nasync def work(n: int) -> int: ...\n"
    return ready(define(head + task + text).flow.spec)


@dataclass
class Driven:
    """A run that is driven command by command; its state goes through its stored form each time."""

    definition: Definition
    state: RunState | None = None
    seq: int = 0
    effects: list[Any] = field(default_factory=list[Any])
    events: list[Any] = field(default_factory=list[Any])

    def begin(self, **arguments: Any) -> Driven:
        given = msgspec.Raw(msgspec.json.encode(arguments))
        self.send(StartRun(self.definition.spec.name, 1, given, "c"))
        return self

    def send(self, command: Command, time_ms: int | None = None) -> Outcome:
        self.seq += 1
        stamp = Stamp(self.seq, 1000 * self.seq if time_ms is None else time_ms)
        before = None if self.state is None else encode_state(self.state)
        outcome = fold(self.state, command, "r", stamp, self.definition)
        assert before is None or encode_state(self.run) == before, "a fold changed the state before it"
        if outcome.state is not None:
            stored = decode_state(encode_state(outcome.state))
            assert stored == outcome.state
            assert isinstance(stored, RunState)
            self.state = stored
        self.effects += outcome.effects
        self.events += outcome.events
        return outcome

    @property
    def run(self) -> RunState:
        assert self.state is not None
        return self.state

    @property
    def tasks(self) -> dict[int, TaskWait]:
        """What is waited for, by the argument of its call."""
        waits = [each.wait for each in self.run.threads if isinstance(each.wait, TaskWait)]
        return {msgspec.json.decode(wait.args)["n"]: wait for wait in waits}

    def done(self, n: int, value: Any = None) -> Outcome:
        output = msgspec.Raw(msgspec.json.encode(n if value is None else value))
        return self.send(TaskResult(self.tasks[n].task_id, BY, output))

    def failed(self, n: int, name: str = "declined", **said: Any) -> Outcome:
        return self.send(TaskResult(self.tasks[n].task_id, BY, failure=FailureInfo(name, str(n), **said)))

    def errored(self, n: int, error: FailureInfo | None = None) -> Outcome:
        error = error or FailureInfo("OSError", "gone", "task-error")
        return self.send(TaskResult(self.tasks[n].task_id, BY, error=error))

    @property
    def timers(self) -> set[str]:
        """The timers that are set and not taken back."""
        found: set[str] = set()
        for effect in self.effects:
            if isinstance(effect, CancelTimer):
                found.discard(effect.timer_id)
            elif isinstance(effect, SetTimer | DispatchTask) and effect.timer_id:
                found.add(effect.timer_id)
        return found

    @property
    def output(self) -> Any:
        assert self.run.status == "completed", self.run.failure
        return msgspec.json.decode(bytes(self.run.output or b"null"))


# -- results and failures --------------------------------------------------------------------------
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_results_are_in_the_order_of_the_branches_whichever_ends_first(order: tuple[int, ...]) -> None:
    run = Driven(ready(three.spec)).begin()
    for n in order:
        run.done(n, n * 10)
    assert run.output == [10, 20, 30]


def test_each_branch_is_told_when_it_starts_and_when_it_ends() -> None:
    run = Driven(ready(three.spec)).begin()
    started = [(each.branch, each.thread) for each in run.events if isinstance(each, BranchStarted)]
    assert started == [(0, 1), (1, 2), (2, 3)]
    run.done(2)
    assert [each.thread for each in run.events if isinstance(each, BranchEnded)] == [2]


def test_branches_run_on_to_their_end_when_one_fails() -> None:
    run = Driven(ready(three.spec)).begin()
    run.failed(2)
    assert not run.run.finished
    assert run.tasks.keys() == {1, 3}
    run.done(1)
    run.done(3)
    assert run.run.status == "failed"


@pytest.mark.parametrize("order", [(1, 3), (3, 1)])
def test_failures_are_one_group_in_the_order_of_the_branches(order: tuple[int, int]) -> None:
    run = Driven(ready(three.spec)).begin()
    for n in order:
        run.failed(n)
    run.done(2)
    failure = run.run.failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("group", "branches failed (2 sub-exceptions)")
    assert [each.message for each in failure.causes] == ["1", "3"]


def test_a_group_is_caught_as_a_group_and_not_as_what_is_in_it() -> None:
    run = Driven(ready(guarded.spec)).begin()
    run.done(0)
    run.failed(1)
    run.done(2)
    assert run.output == "group"
    (caught,) = [each for each in run.events if isinstance(each, FailureCaught)]
    assert caught.failure.kind == "group"


@pytest.mark.parametrize("order", [(10, 11, 20, 21), (21, 10, 20, 11), (20, 21, 11, 10)])
def test_gathers_nest_through_functions(order: tuple[int, ...]) -> None:
    run = Driven(ready(nested.spec)).begin()
    assert len(run.run.threads) == 7
    for n in order:
        run.done(n)
    assert run.output == [21, 41]


def test_a_group_of_an_inner_gather_is_one_failure_of_its_branch() -> None:
    run = Driven(ready(nested.spec)).begin()
    for n in (10, 20, 21):
        run.done(n)
    run.failed(11)
    failure = run.run.failure
    assert failure is not None
    (inner,) = failure.causes
    assert (inner.kind, [each.name for each in inner.causes]) == ("group", ["declined"])


def test_a_loop_of_gathers_never_uses_an_id_again() -> None:
    run = Driven(ready(looping.spec)).begin(n=20)
    while run.run.status == "running":
        for n in run.tasks:
            run.done(n)
    assert run.output == 40
    threads = [each.thread for each in run.events if isinstance(each, BranchStarted)]
    assert threads == list(range(1, len(threads) + 1))
    tasks = [each.task_id for each in run.effects if isinstance(each, DispatchTask)]
    assert len(set(tasks)) == len(tasks) == len(threads)


# -- waits -----------------------------------------------------------------------------------------
def test_a_branch_is_tried_again_while_others_go_on() -> None:
    run = Driven(ready(three.spec)).begin()
    run.errored(2)
    assert {n: wait.attempt for n, wait in run.tasks.items()} == {1: 1, 2: 2, 3: 1}
    run.done(1)
    run.done(3)
    run.done(2)
    assert run.output == [1, 2, 3]


def test_sleeps_of_branches_end_each_by_its_own_timer() -> None:
    run = Driven(ready(sleepers.spec)).begin()
    run.done(5)
    run.done(7)
    timers = [each for each in run.effects if isinstance(each, SetTimer)]
    assert len({each.timer_id for each in timers}) == 3
    for timer in sorted(timers, key=lambda each: -each.due_ms):
        run.send(timer.command)
    assert run.output == 12


def test_a_cancel_takes_back_the_timers_of_all_branches() -> None:
    run = Driven(ready(sleepers.spec)).begin()
    run.done(5)
    run.errored(7)
    assert len(run.timers) == 3
    run.send(CancelRun("stop"))
    assert run.timers == set()
    assert run.run.status == "cancelled"


def test_a_limit_in_a_branch_ends_the_run_and_takes_back_the_timers_of_the_others() -> None:
    run = Driven(ready(sleepers.spec)).begin()
    run.done(5)
    run.done(7, 10**11)
    assert run.run.failure is not None
    assert run.run.failure.name == "sleep-length"
    assert run.timers == set()


def test_a_late_result_of_a_branch_that_has_ended_is_stale() -> None:
    run = Driven(ready(three.spec)).begin()
    late = TaskResult(run.tasks[2].task_id, BY, msgspec.Raw(b"2"))
    run.done(2)
    before = encode_state(run.run)
    assert run.send(late).code == "RESULT_STALE"
    assert encode_state(run.run) == before


def test_a_late_timer_of_a_branch_that_has_ended_is_stale() -> None:
    run = Driven(ready(sleepers.spec)).begin()
    (timer,) = [each for each in run.effects if isinstance(each, SetTimer)]
    run.send(timer.command)
    assert run.send(TimerFired(timer.timer_id)).code == "RESULT_STALE"


# -- variables -------------------------------------------------------------------------------------
def test_a_branch_takes_its_variables_with_it() -> None:
    text = """
async def part(n: int) -> int:
    first = await work(n)
    second = await work(first + 100)
    return second

@workflow
async def flow() -> int:
    before = await work(0)
    await gather(part(1), part(2))
    after = await work(3)
    return before + after
"""
    run = Driven(made(text)).begin()
    run.done(0)
    run.done(1)
    assert any("part.first" in each.variables for each in run.run.threads)
    assert run.run.variables.keys() == {"before"}
    run.done(2)
    run.done(101)
    run.done(102)
    assert run.run.variables.keys() == {"before"}
    assert len(run.run.threads) == 1
    assert run.run.threads[0].variables == {}


# -- limits ----------------------------------------------------------------------------------------
def wide(counts: list[int]) -> Definition:
    parts = "".join(
        f"async def part{at}() -> None:\n    await gather({', '.join(['sleep(1)'] * count)})\n"
        for at, count in enumerate(counts)
    )
    starts = ", ".join(f"part{at}()" for at in range(len(counts)))
    return made(f"{parts}\n@workflow\nasync def flow() -> None:\n    await gather({starts})\n")


def test_a_run_has_as_many_threads_as_are_allowed_and_no_more() -> None:
    """Its own, four that gather, and what they start: all in one command, within the steps that it may have."""
    rest = RUN_THREADS_MAX - 1 - 4 - 3 * 249
    at_edge = Driven(wide([249, 249, 249, rest])).begin()
    assert at_edge.run.status == "running", at_edge.run.failure
    assert len(at_edge.run.threads) == RUN_THREADS_MAX
    above = Driven(wide([249, 249, 249, rest + 1])).begin()
    assert above.run.failure is not None
    assert (above.run.failure.name, above.run.failure.kind) == ("open-branches", "limit")
    assert above.timers == set()


def test_a_group_beyond_its_limit_keeps_names_and_families() -> None:
    run = Driven(ready(three.spec)).begin()
    details = msgspec.Raw(b'"%b"' % (b"x" * (GROUP_BYTES_MAX // 2)))
    for n in (1, 2, 3):
        run.failed(n, "stolen", details=details)
    failure = run.run.failure
    assert failure is not None
    assert [each.name for each in failure.causes] == ["stolen"] * 3
    assert [each.message for each in failure.causes] == ["1", GROUP_CUT, GROUP_CUT]


def test_arguments_of_a_branch_that_are_of_no_fitting_type_start_no_branch() -> None:
    """A spec that no compiler wrote: the first branch must not be left without its gather."""
    declared = Variable("n", Scalar("int"), declared=True)
    branches = (Branch(1, {}, ()), Branch(1, {"n": constant("text")}, ("n",)))
    nodes = (
        GatherNode(branches, 2, scope=0),
        SleepNode(constant(1), 2),
        ReturnNode(Name("n")),
        ReturnNode(constant("caught")),
    )
    scopes = (Scope((Handler(("TypeError",), 3),)),)
    spec = WorkflowSpec(1, "typed", (), ANY, nodes, scopes=scopes, variables=(declared,))
    run = Driven(ready(spec)).begin()
    assert run.output == "caught"
    assert not [each for each in run.events if isinstance(each, BranchStarted)]


# -- what a worker says ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind", ["task-error", "type-error", "limit", "group", "failure", "expression-error"]
)
@pytest.mark.parametrize("name", ["stolen", "declined", "exception-group", "ValueError"])
def test_an_error_of_a_worker_is_none_of_the_workflows_failures(kind: Any, name: str) -> None:
    said = FailureInfo(name, "x", kind, family=("declined", "ValueError"), causes=(FailureInfo("stolen"),))
    run = Driven(ready(alone.spec)).begin()
    run.errored(1, said)
    if run.run.status == "running" and run.tasks:
        run.errored(1, said)
    if kind == "limit":
        assert run.run.failure is not None
        assert (run.run.failure.name, run.timers) == (name, set())
        return
    (timer,) = [each for each in run.effects if isinstance(each, SetTimer)]
    run.send(timer.command)
    assert run.output == "exception"


@pytest.mark.parametrize(
    ("name", "family", "caught"),
    [
        ("stolen", (), "stolen"),
        ("stolen", ("something-else",), "stolen"),
        ("declined", ("stolen",), "declined"),
        ("unheard-of", (), "exception"),
        ("unheard-of", ("ValueError", "ExceptionGroup", "TaskError"), "exception"),
        ("value-error", ("declined",), "declined"),
    ],
)
def test_a_failure_of_a_worker_is_caught_by_its_name_and_by_families_of_failures_alone(
    name: str, family: tuple[str, ...], caught: str
) -> None:
    run = Driven(ready(alone.spec)).begin()
    run.failed(1, name, family=family)
    (timer,) = [each for each in run.effects if isinstance(each, SetTimer)]
    run.send(timer.command)
    assert run.output == caught


def test_a_worker_makes_no_group() -> None:
    run = Driven(ready(three.spec)).begin()
    run.failed(1, causes=(FailureInfo("stolen"),), kind="group")
    run.done(2)
    run.done(3)
    assert run.run.failure is not None
    (cause,) = run.run.failure.causes
    assert (cause.kind, cause.causes) == ("failure", ())


# -- invariants and readers ------------------------------------------------------------------------
def broken(change: Callable[[RunState], Any]) -> str:
    run = Driven(ready(nested.spec)).begin()
    before = run.run
    outcome = run.send(TaskResult(run.tasks[10].task_id, BY, msgspec.Raw(b"1")))
    assert outcome.run is not None
    changed = decode_state(encode_state(outcome.run))
    assert isinstance(changed, RunState)
    change(changed)
    with pytest.raises(InvariantBroken) as error:
        check(before, replace_state(outcome, changed))
    return str(error.value)


def replace_state(outcome: Outcome, state: RunState) -> Outcome:
    return Outcome(state, outcome.effects, outcome.events, outcome.first_event, actor=outcome.actor)


def test_a_lost_branch_is_noticed() -> None:
    assert "not there" in broken(lambda state: state.threads.pop())


def test_a_branch_without_its_gather_is_noticed() -> None:
    def lose(state: RunState) -> None:
        one, other = [each for each in state.threads if isinstance(each.wait, TaskWait)][:2]
        one.parent = other.id

    assert "no gather" in broken(lose)


def test_two_threads_of_one_id_are_noticed() -> None:
    def confuse(state: RunState) -> None:
        state.threads[-1].id = state.threads[-2].id

    assert "one id" in broken(confuse)


def test_what_is_waited_for_is_told_of_every_branch_the_same_together() -> None:
    run = Driven(ready(three.spec)).begin()
    task = "task work (attempt 1) on queue branches"
    assert waiting_for(run.run) == f"{task}, 3 times"
    run.errored(2)
    assert waiting_for(run.run) == f"{task}, 2 times; task work (attempt 2) on queue branches"


def test_of_many_waits_the_number_is_told() -> None:
    sleeps = ", ".join(f"sleep({number})" for number in range(1, WAITS_SHOWN + 6))
    run = Driven(made(f"@workflow\nasync def flow() -> None:\n    await gather({sleeps})\n")).begin()
    told = waiting_for(run.run).split("; ")
    assert len(told) == WAITS_SHOWN + 1
    assert told[-1] == "5 more"


# -- replay ----------------------------------------------------------------------------------------
STEPS = st.lists(
    st.tuples(st.sampled_from(["done", "failed", "errored", "timer", "late"]), st.integers(0, 9))
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([nested, sleepers, three, guarded]))
def test_a_history_of_branches_replays_to_the_same_state(steps: list[tuple[str, int]], flow: Any) -> None:
    """In one go from its commands, as a new owner does it, and with the state stored and read after each."""
    definition = ready(flow.spec)
    run = Driven(definition).begin()
    start = StartRun(definition.spec.name, 1, msgspec.Raw(b"{}"), "c")
    sent: list[tuple[int, Command]] = [(1, start)]
    for what, number in steps:
        waits = sorted(run.tasks.values(), key=lambda each: each.task_id)
        timers = [each.command for each in run.effects if isinstance(each, SetTimer)]
        command: Command | None = None
        if what == "timer" and timers:
            command = timers[number % len(timers)]
        elif what == "late":
            command = TaskResult(f"{number}-0-1-1", BY, msgspec.Raw(b"1"))
        elif waits:
            task_id = waits[number % len(waits)].task_id
            command = {
                "done": TaskResult(task_id, BY, msgspec.Raw(b"3")),
                "failed": TaskResult(task_id, BY, failure=FailureInfo("declined", "no")),
                "errored": TaskResult(task_id, BY, error=FailureInfo("OSError", "gone", "task-error")),
            }.get(what)
        if command is not None:
            run.send(command)
            sent.append((run.seq, command))
    again: RunState | None = None
    states: list[tuple[RunState, bytes]] = []
    for seq, command in sent:
        again = fold(again, command, "r", Stamp(seq, 1000 * seq), definition).run
        assert again is not None
        states.append((again, encode_state(again)))
    assert again is not None
    assert [encode_state(state) for state, _ in states] == [stored for _, stored in states]
    assert encode_state(again) == encode_state(run.run)
