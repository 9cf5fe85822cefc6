"""Waits for what other branches make of the view: conditions, and moments that move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType
from typing import Any
from unittest import mock

import msgspec
import pytest
from tests.flow.equality import VirtualLoop  # pyright: ignore[reportMissingImports]
from tests.limits.specs import Run as Folded  # pyright: ignore[reportMissingImports]
from tests.limits.specs import expr, failure_of, raw, spec_of  # pyright: ignore[reportMissingImports]

from dressage.flow import (
    Searchable,
    Workflow,
    first_completed,
    gather,
    sleep,
    sleep_until,
    task,
    wait_until,
    watching,
    workflow,
)
from dressage.flow.drawing import node_text
from dressage.orchestrator.fold.effects import CancelTimer, Effect, SetTimer
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import ConditionWait, RunState, SleepWait, decode_state, encode_state
from dressage.orchestrator.fold.watches import Watches
from dressage.orchestrator.turn.waits import waiting_for
from dressage.protocol.commands import TimerFired
from dressage.protocol.errors import BadSpec
from dressage.protocol.events import SleepMoved, SleepStarted
from dressage.protocol.expressions import Bind
from dressage.protocol.spec import (
    AssignNode,
    Branch,
    ConditionNode,
    GatherNode,
    Node,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
)
from dressage.protocol.spec_check import check_spec
from dressage.protocol.spec_sizes import CONDITION_CHARS_MAX
from dressage.testing import WorkflowTest

HOUR = timedelta(hours=1)
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)
"""When a run of these tests begins."""


@dataclass
class Review:
    approvals: Searchable[int] = 0
    tokens: int = 0
    log: str = ""
    due: datetime = datetime(2030, 1, 1, 5, tzinfo=UTC)
    wrong: int | None = None


@task
async def work(n: int) -> int:
    raise NotImplementedError


def by_python(flow: Workflow[..., Any], *args: Any) -> Any:
    """What plain Python comes to, on a clock that stands still while anything can happen."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(flow(*args))
    assert not watching._watches
    return result


def both(flow: Workflow[..., Any], *args: Any) -> Any:
    """What a run comes to, and Python as well."""
    run = WorkflowTest(flow).run(*args)
    assert by_python(flow, *args) == run.result
    return run.result


def told(run: Any, *kinds: str) -> list[dict[str, Any]]:
    return [each.data for each in run.events if each.kind in kinds]


# -- conditions --------------------------------------------------------------------------------------
@workflow
async def approved(needed: int, given: int, days: float) -> str:
    view = Review()

    async def publish() -> str:
        try:
            await wait_until(lambda: view.approvals >= needed, timeout=timedelta(days=days))
        except TimeoutError as error:
            return f"{error}"
        return f"after {view.approvals}"

    async def approve() -> None:
        for _ in range(given):
            await sleep(HOUR)
            view.approvals += 1

    published, _ = await gather(publish(), approve())
    return published


def test_a_branch_waits_until_others_have_made_its_condition_true() -> None:
    run = WorkflowTest(approved).run(2, 4, 2)
    assert run.result == "after 2"
    (met,) = told(run, "condition-met")
    assert met == {"node": met["node"], "condition": "view.approvals >= needed", "waited_ms": 7_200_000.0}
    assert by_python(approved, 2, 4, 2) == "after 2"


def test_a_condition_that_holds_is_not_waited_for() -> None:
    run = WorkflowTest(approved).start(0, 0, 2)
    assert run.result == "after 0"
    assert not told(run, "condition-awaited", "condition-timed-out")
    assert "waited_ms" not in told(run, "condition-met")[0]
    assert by_python(approved, 0, 0, 2) == "after 0"


def test_what_does_not_hold_in_time_is_a_timeout_error() -> None:
    run = WorkflowTest(approved).run(2, 1, 0.5)
    assert run.result == "condition view.approvals >= needed did not hold within 43200 s"
    assert run.elapsed == timedelta(days=0.5)
    (timed_out,) = told(run, "condition-timed-out")
    (awaited,) = told(run, "condition-awaited")
    assert timed_out["timer_id"] == awaited["timer_id"]
    assert awaited["until"] == "2030-01-01T12:00:00.000Z"
    assert by_python(approved, 2, 1, 0.5) == "the condition did not hold within 43200 s"


def test_a_timeout_that_nobody_takes_fails_the_run_with_its_kind() -> None:
    @workflow
    async def alone(n: int) -> int:
        view = Review()
        await wait_until(lambda: view.approvals > n, timeout=timedelta(seconds=1.5))
        return view.approvals

    failure = WorkflowTest(alone).run(3).failure
    assert failure is not None
    assert (failure.name, failure.kind) == ("timeout", "timeout")
    assert failure.message == "condition view.approvals > n did not hold within 1.5 s"
    assert WorkflowTest(alone).run(-1).result == 0


def test_reads_tell_what_is_waited_for_as_it_is_written() -> None:
    run = WorkflowTest(approved).start(2, 2, 2)
    assert run.waiting_for == (
        "condition view.approvals >= needed until 2030-01-03T00:00:00.000Z; time 2030-01-01T01:00:00.000Z"
    )


def test_the_text_of_a_condition_is_cut_to_what_a_spec_may_hold(define: Callable[[str], ModuleType]) -> None:
    text = " and ".join(f"n > {number}" for number in range(60))
    head = "from dressage.flow import wait_until, workflow\n@workflow\nasync def wordy(n: int) -> None:\n"
    spec = define(f"{head}    await wait_until(lambda: {text})\n").wordy.spec
    node = spec.nodes[0]
    assert len(node.text) == CONDITION_CHARS_MAX
    assert node.text == text[: len(node.text) - 4] + " ..."
    check_spec(spec)


@workflow
async def taking_turns(takers: int, tokens: int) -> str:
    view = Review(tokens=tokens)

    async def take(n: int) -> int:
        await wait_until(lambda: view.tokens > 0)
        view.tokens = view.tokens - 1
        view.log += f"{n}"
        await sleep(10 - n)
        view.log += "."
        view.tokens = view.tokens + 1
        return n

    await gather(*(take(n) for n in range(takers)))
    return view.log


@pytest.mark.parametrize(
    ("takers", "tokens", "log"), [(4, 1, "0.1.2.3."), (4, 2, "01.2.3.."), (3, 3, "012...")]
)
def test_a_condition_holds_when_its_branch_goes_on_so_it_can_be_a_lock(
    takers: int, tokens: int, log: str
) -> None:
    assert both(taking_turns, takers, tokens) == log


def test_the_one_that_has_waited_longest_is_looked_at_first() -> None:
    @workflow
    async def queueing(n: int) -> str:
        view = Review()

        async def take(name: str, after: int) -> None:
            await sleep(after)
            await wait_until(lambda: view.tokens > 0)
            view.tokens -= 1
            view.log += name

        async def give() -> None:
            await sleep(10)
            view.tokens += n

        await gather(take("a", 3), take("b", 1), take("c", 2), give())
        return view.log

    assert both(queueing, 3) == "bca"


def test_what_was_true_in_between_is_not_noticed() -> None:
    @workflow
    async def flickering(n: int) -> str:
        view = Review()

        async def watch() -> str:
            try:
                await wait_until(lambda: view.tokens == 1, timeout=60)
            except TimeoutError:
                return "missed"
            return "noticed"

        async def flicker() -> None:
            await sleep(1)
            view.tokens = 1
            if n:
                await sleep(1)
            view.tokens = 2

        seen, _ = await gather(watch(), flicker())
        return seen

    assert both(flickering, 0) == "missed"
    assert both(flickering, 1) == "noticed"


def test_branches_that_wait_for_each_other_go_on_in_turn_within_one_command() -> None:
    @workflow
    async def ping_pong(n: int) -> str:
        view = Review(tokens=0)

        async def ping() -> None:
            while view.tokens < n:
                await wait_until(lambda: view.tokens % 2 == 0)
                view.tokens += 1
                view.log += "i"

        async def pong() -> None:
            while view.tokens < n:
                await wait_until(lambda: view.tokens % 2 == 1)
                view.tokens += 1
                view.log += "o"

        await gather(ping(), pong())
        return view.log

    assert both(ping_pong, 5) == "ioioio"


def test_an_error_in_a_condition_is_raised_where_it_waits() -> None:
    @workflow
    async def failing(n: int) -> str:
        view = Review()

        async def watch() -> str:
            try:
                await wait_until(lambda: n // view.approvals == 3 if view.log else False, timeout=HOUR)
            except ZeroDivisionError as error:
                return f"{error}"
            return "held"

        async def change() -> None:
            await sleep(1)
            view.log = "x"

        seen, _ = await gather(watch(), change())
        return seen

    assert both(failing, 6).endswith("by zero")
    run = WorkflowTest(failing).run(6)
    assert run.elapsed == timedelta(seconds=1)


def test_an_error_in_a_condition_that_nobody_takes_names_its_line_and_fails_its_branch() -> None:
    @workflow
    async def failing(n: int) -> str:
        view = Review()

        async def watch() -> None:
            await wait_until(lambda: n // view.approvals > 1 if view.log else False)

        async def change() -> None:
            await sleep(1)
            view.log = "x"

        await gather(watch(), change())
        return "never"

    failure = WorkflowTest(failing).run(1).failure
    assert failure is not None
    (cause,) = failure.causes
    line = next(node.line for node in failing.spec.nodes if isinstance(node, ConditionNode))
    assert cause.message.startswith(f"line {line}: ZeroDivisionError")
    with pytest.raises(ExceptionGroup) as raised:
        by_python(failing, 1)
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)


@workflow
async def racing(deadline: float, opens_at: float) -> str:
    view = Review()

    async def open_later() -> str:
        try:
            await sleep(opens_at)
            view.tokens = 1
            await sleep(HOUR)
        finally:
            view.log += "tidied"
        return "never"

    async def wait() -> str:
        try:
            await wait_until(lambda: view.tokens > 0, timeout=HOUR)
        finally:
            view.log += "left "
        return "open"

    match await first_completed(
        wait(), sleep(deadline), open_later(), wait_until(lambda: view.approvals > 0)
    ):
        case 0, state:
            return f"{state} {view.log}"
        case place, _:
            return f"{place} {view.log}"


@pytest.mark.parametrize(
    ("deadline", "opens_at", "result"), [(60, 5, "open left tidied"), (5, 60, "1 left tidied")]
)
def test_a_condition_in_a_race_wins_or_is_cancelled(deadline: float, opens_at: float, result: str) -> None:
    assert both(racing, deadline, opens_at) == result
    run = WorkflowTest(racing).run(deadline, opens_at)
    assert run.elapsed == timedelta(seconds=5)


def test_a_condition_may_be_a_branch_itself_and_holds_in_its_own_scope() -> None:
    @workflow
    async def direct(n: int) -> int:
        view = Review()

        async def count(to: int) -> int:
            for _ in range(to):
                await sleep(1)
                view.approvals += 1
            return view.approvals

        seen, _, _ = await gather(
            count(n),
            wait_until(lambda: view.approvals == n),
            wait_until(lambda: view.approvals > 0, timeout=n),
        )
        return seen

    assert both(direct, 3) == 3
    assert [
        node_text(direct.spec, node) for node in direct.spec.nodes if isinstance(node, ConditionNode)
    ] == [
        "await wait_until(lambda: view.approvals == n)",
        "await wait_until(lambda: view.approvals > 0, timeout=$5)",
    ]


def test_a_branch_for_each_item_waits_for_its_own() -> None:
    @workflow
    async def in_order(names: list[str]) -> str:
        view = Review()

        async def take(place: int, name: str) -> None:
            await wait_until(lambda: view.approvals == place)
            view.log += name
            view.approvals += 1

        await gather(*(take(len(names) - 1 - n, name) for n, name in enumerate(names)), limit=len(names))
        return view.log

    assert both(in_order, ["a", "b", "c"]) == "cba"


def test_a_helper_may_say_what_is_waited_for() -> None:
    @workflow
    async def helped(n: int) -> int:
        view = Review()

        def enough(more: int = 0) -> bool:
            return view.approvals + more >= n

        async def approve() -> None:
            await sleep(1)
            view.approvals = n

        await gather(wait_until(lambda: enough() and not enough(-1)), approve())
        return view.approvals

    assert both(helped, 2) == 2


# -- moments -----------------------------------------------------------------------------------------
@workflow
async def until(when: datetime) -> str:
    await sleep_until(when)
    return "awake"


@pytest.mark.parametrize(
    ("when", "slept"),
    [
        (BEGAN + HOUR, HOUR),
        ((BEGAN + HOUR).astimezone(timezone(-7 * HOUR)), HOUR),
        (BEGAN + timedelta(microseconds=1500), timedelta(milliseconds=2)),
    ],
)
def test_a_moment_is_slept_for_whatever_its_time_zone_to_the_next_millisecond(
    when: datetime, slept: timedelta
) -> None:
    run = WorkflowTest(until).run(when)
    assert (run.result, run.elapsed) == ("awake", slept)
    assert [each.duration for each in run.sleeps] == [slept]
    assert [each.kind for each in run.events[1:3]] == ["sleep-started", "sleep-ended"]


@pytest.mark.parametrize("when", [BEGAN, BEGAN - HOUR, datetime(1, 1, 1, tzinfo=UTC)])
def test_a_moment_that_has_passed_is_not_waited_for(when: datetime) -> None:
    run = WorkflowTest(until).start(when)
    assert run.result == "awake"
    assert [each.kind for each in run.events] == ["run-started", "run-completed"]


def test_plain_python_sleeps_by_the_clock_of_the_machine() -> None:
    async def lasts(when: datetime) -> float:
        began = asyncio.get_running_loop().time()
        assert await until(when) == "awake"
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(lasts(datetime(1999, 1, 1, tzinfo=UTC))) < 0.05
    soon = (datetime.now(UTC) + timedelta(seconds=0.1)).astimezone(timezone(5 * HOUR))
    assert 0.05 < asyncio.run(lasts(soon)) < 2


@workflow
async def until_any(when: Any) -> str:
    try:
        await sleep_until(when)
    except (TypeError, ValueError) as error:
        return f"{error}"
    return "awake"


def test_what_is_no_moment_is_an_error_in_the_words_of_python() -> None:
    assert WorkflowTest(until_any).run(5).result == asyncio.run(until_any(5))
    assert asyncio.run(until_any("2030-01-01")) == "sleep_until takes a datetime, not str"

    @workflow
    async def naive(day: int) -> str:
        try:
            await sleep_until(datetime(2030, 1, day))  # noqa: DTZ001
        except ValueError as error:
            return f"{error}"
        return "awake"

    text = "sleep_until of a datetime without a time zone depends on the machine: give it one"
    assert WorkflowTest(naive).run(3).result == text
    assert asyncio.run(naive(3)) == text


@pytest.mark.parametrize(
    ("when", "what"),
    [
        (datetime(2130, 1, 1, tzinfo=UTC), "a sleep may last 3153600000 s, a century"),
        (datetime(9999, 12, 31, 23, tzinfo=timezone(-7 * HOUR)), "a sleep may last 3153600000 s, a century"),
    ],
)
def test_a_moment_is_at_most_a_century_away(when: datetime, what: str) -> None:
    failure = WorkflowTest(until).run(when).failure
    assert failure is not None
    assert (failure.name, failure.kind) == ("sleep-length", "limit")
    assert what in failure.message
    assert WorkflowTest(until).start(datetime(2129, 12, 7, tzinfo=UTC)).status == "running"


@workflow
async def moving(moves: list[float]) -> str:
    view = Review(due=BEGAN + 5 * HOUR)

    async def remind() -> str:
        await sleep_until(lambda: view.due)
        return "reminded"

    async def move() -> None:
        for hours in moves:
            await sleep(60)
            view.due = view.due + timedelta(hours=hours)
        view.log = "moved"

    reminded, _ = await gather(remind(), move())
    return reminded


@pytest.mark.parametrize(
    ("moves", "elapsed"),
    [
        ([], 5 * HOUR),
        ([0], 5 * HOUR),
        ([2], 7 * HOUR),
        ([-2], 3 * HOUR),
        ([-3, 2, -1], 3 * HOUR),
        ([-9], timedelta(minutes=1)),
        ([-9, 9], timedelta(minutes=2)),
    ],
)
def test_point_13_a_moment_that_moves_ends_the_sleep_by_its_newest_value(
    moves: Sequence[float], elapsed: timedelta
) -> None:
    run = WorkflowTest(moving).run(list(moves))
    assert (run.result, run.elapsed) == ("reminded", elapsed)
    ids = [each["timer_id"] for each in told(run, "sleep-started", "sleep-moved") if "timer_id" in each]
    assert len(ids) == len(set(ids))


def test_the_history_tells_from_which_timer_to_which() -> None:
    run = WorkflowTest(moving).run([2, -9])
    kinds = ("sleep-started", "sleep-moved", "sleep-ended")
    first, second, third, ended = [
        each for each in told(run, *kinds) if each["node"] == told(run, "sleep-moved")[0]["node"]
    ]
    assert second["replaced"] == first["timer_id"]
    assert (second["until"], third["until"]) == ("2030-01-01T07:00:00.000Z", "2029-12-31T22:00:00.000Z")
    assert third["replaced"] == second["timer_id"] == ended["timer_id"]
    assert "timer_id" not in third
    # What was begun is one sleep, however often it is moved.
    assert [each.duration for each in run.sleeps if each.branch == ((0, 0),)] == [5 * HOUR]


def test_python_moves_a_sleep_on_its_own_clock() -> None:
    @workflow
    async def soon(due: datetime, moves_ms: list[int]) -> str:
        view = Review(due=due)

        async def move() -> None:
            for each in moves_ms:
                await sleep(0.01)
                view.due = view.due + timedelta(milliseconds=each)

        await gather(sleep_until(lambda: view.due), move())
        return "awake"

    async def lasts(moves_ms: list[int]) -> float:
        began = asyncio.get_running_loop().time()
        assert await soon(datetime.now(UTC) + HOUR, moves_ms) == "awake"
        return asyncio.get_running_loop().time() - began

    hour = 3_600_000
    assert 0.06 < asyncio.run(lasts([-hour + 80])) < 2
    assert asyncio.run(lasts([-hour + 800, -1000])) < 0.6
    assert not watching._watches


def test_a_moment_that_becomes_none_is_an_error_where_it_waits() -> None:
    @workflow
    async def spoilt(hours: int) -> str:
        view = Review()

        async def remind() -> str:
            try:
                await sleep_until(lambda: view.due + timedelta(hours=hours // view.approvals))
            except ZeroDivisionError:
                return "spoilt"
            return "reminded"

        async def spoil() -> None:
            view.approvals = 1
            await sleep(1)
            view.approvals = 0

        view.approvals = 2
        reminded, _ = await gather(remind(), spoil())
        return reminded

    run = WorkflowTest(spoilt).run(4)
    assert (run.result, run.elapsed) == ("spoilt", timedelta(seconds=1))
    assert by_python(spoilt, 4) == "spoilt"


# -- what the fold asks for --------------------------------------------------------------------------
def at(seconds: int) -> str:
    return f"datetime(1970, 1, 1, 0, 1, {seconds}, tzinfo=timezone.utc)"


def watched(waits: Node, *moves: Node) -> Folded:
    """A branch that waits at node 3 and returns at 4, beside one that begins at node 5 with these; `d` is the run's."""
    branches = (Branch(3, {}, ("b",)), Branch(5, {}, ("c",)))
    nodes = [
        AssignNode("d", expr(at(10)), 1),
        GatherNode(branches, 2, target="a"),
        ReturnNode(expr("list(a)")),
        waits,
        ReturnNode(expr("'woken'")),
        *moves,
        ReturnNode(expr("'moved'")),
    ]
    return Folded(spec_of(nodes))


SLEEPING = SleepUntilNode(expr("d"), 4, watched=True)


def timers(effects: Sequence[Effect]) -> list[str]:
    """What is set and cancelled, in its order."""
    return [
        f"set {each.timer_id} {each.due_ms // 1000}"
        if isinstance(each, SetTimer)
        else f"cancel {each.timer_id}"
        for each in effects
        if isinstance(each, SetTimer | CancelTimer)
    ]


def fired(run: Folded, thread: int) -> Outcome:
    """The timer of a run thread fires."""
    assert run.state is not None
    return run.apply(TimerFired(next(each.timers[0] for each in run.state.threads if each.id == thread)))


def test_a_sleep_is_armed_anew_by_a_timer_of_its_own() -> None:
    run = watched(
        SLEEPING, SleepNode(expr("1"), 6), AssignNode("d", expr(at(20)), 7), SleepNode(expr("9"), 8)
    )
    begun = run.start()
    assert timers(begun.effects) == ["set 1-3-1-4 70", "set 2-5-1 2"]
    moved = fired(run, 2)
    assert timers(moved.effects) == ["set 2-7-2 11", "cancel 1-3-1-4", "set 1-3-2-9 80"]
    late = run.apply(TimerFired("1-3-1-4"))
    assert late.code == "RESULT_STALE"
    assert timers(fired(run, 1).effects) == []


def test_a_sleep_that_is_moved_in_the_command_that_began_it_asks_for_one_timer() -> None:
    run = watched(SLEEPING, AssignNode("d", expr(at(20)), 6), AssignNode("d", expr(at(30)), 7))
    begun = run.start()
    assert timers(begun.effects) == ["set 1-3-1-8 90"]
    assert [type(each) for each in begun.events if isinstance(each, SleepStarted | SleepMoved)] == [
        SleepStarted,
        SleepMoved,
    ]


def test_two_moves_in_one_command_take_two_ids_of_which_one_is_asked_for() -> None:
    branches = (Branch(3, {}, ("b",)), Branch(5, {}, ("c",)), Branch(7, {}, ("e",)))
    nodes: list[Node] = [
        AssignNode("d", expr(at(10)), 1),
        GatherNode(branches, 2, target="a"),
        ReturnNode(expr("list(a)")),
        SLEEPING,
        ReturnNode(),
        *(SleepNode(expr("1"), 10), ReturnNode()),
        *(ConditionNode(expr("d == " + at(20)), 8), AssignNode("d", expr(at(30)), 9), ReturnNode()),
        AssignNode("d", expr(at(20)), 6),
    ]
    run = Folded(spec_of(nodes))
    run.start()
    moved = fired(run, 2)
    assert timers(moved.effects) == ["cancel 1-3-1-5", "set 1-3-2-15 90"]
    moves = [(each.replaced, each.timer_id) for each in moved.events if isinstance(each, SleepMoved)]
    assert moves == [("1-3-1-5", "1-3-2-11"), ("1-3-2-11", "1-3-2-15")]


def test_a_moment_that_stays_the_same_asks_for_nothing() -> None:
    run = watched(
        SLEEPING, SleepNode(expr("1"), 6), AssignNode("d", expr(at(10)), 7), SleepNode(expr("9"), 8)
    )
    run.start()
    assert timers(fired(run, 2).effects) == ["set 2-7-2 11"]


def test_the_timer_of_a_condition_that_is_met_is_cancelled() -> None:
    waits = ConditionNode(expr("d > " + at(10)), 4, timeout=expr("100"))
    run = watched(waits, SleepNode(expr("1"), 6), AssignNode("d", expr(at(20)), 7), SleepNode(expr("9"), 8))
    assert timers(run.start().effects) == ["set 1-3-1-4 101", "set 2-5-1 2"]
    assert timers(fired(run, 2).effects) == ["set 2-7-2 11", "cancel 1-3-1-4"]
    at_once = watched(waits, AssignNode("d", expr(at(20)), 6))
    assert timers(at_once.start().effects) == []


def test_a_wait_is_read_from_the_state_as_it_was_written() -> None:
    run = watched(SLEEPING, ConditionNode(expr("d > " + at(10)), 6, timeout=expr("9")))
    state = run.start().run
    assert state is not None
    assert decode_state(encode_state(state)) == state
    assert [type(each.wait) for each in state.threads[1:]] == [SleepWait, ConditionWait]
    # As releases before this one have written it.
    old = b'{"kind":"sleep","timer_id":"0-1-2","node":1,"until_ms":5}'
    assert msgspec.json.decode(old, type=SleepWait) == SleepWait("0-1-2", 1, 5)


def test_a_run_goes_on_that_was_stored_while_it_waited() -> None:
    run = watched(
        ConditionNode(expr("d > " + at(10)), 4), SleepNode(expr("1"), 6), AssignNode("d", expr(at(20)), 7)
    )
    run.start()
    assert run.state is not None
    stored = decode_state(encode_state(run.state))
    assert isinstance(stored, RunState)
    run.state = stored
    done = fired(run, 2)
    assert done.run is not None
    assert done.run.output == raw(["woken", "moved"])


def test_a_run_without_such_waits_looks_for_none() -> None:
    run = watched(SleepNode(expr("5"), 4), SleepNode(expr("1"), 6), AssignNode("d", expr("1"), 7))
    with mock.patch.object(Watches, "_found", side_effect=AssertionError):
        run.start()
        fired(run, 2)


def test_a_wait_that_does_not_read_what_has_changed_does_not_look() -> None:
    unread = ConditionNode(expr("p"), 4)
    run = watched(unread, SleepNode(expr("1"), 6), AssignNode("d", expr("1"), 7), SleepNode(expr("1"), 8))
    run.start()
    with mock.patch.object(Watches, "_found", side_effect=AssertionError):
        fired(run, 2)


def test_looking_is_paid_for_so_that_many_who_wait_hold_up_nobody() -> None:
    @workflow
    async def thousands(waits: int) -> str:
        view = Review()

        async def wait(n: int) -> None:
            await wait_until(lambda: view.approvals == n and sum(range(100 + n)) > 0)
            view.approvals += 1

        async def begin() -> None:
            await sleep(1)
            view.approvals = 1

        async def waiting() -> None:
            await gather(*(wait(waits - n) for n in range(waits)), limit=waits)

        await gather(waiting(), begin())
        return f"{view.approvals}"

    assert WorkflowTest(thousands).run(100).result == "101"
    # Each that goes on lets all the others look, in the one command that began it.
    failure = WorkflowTest(thousands).run(900).failure
    assert failure is not None
    assert failure.name in ("work-per-command", "steps-per-command")


def test_looks_that_never_end_stop_at_a_limit() -> None:
    @workflow
    async def endless(n: int) -> str:
        view = Review()

        async def ping() -> None:
            while True:
                await wait_until(lambda: view.tokens == 0)
                view.tokens = n

        async def pong() -> None:
            while True:
                await wait_until(lambda: view.tokens == 1)
                view.tokens = 0

        await gather(ping(), pong())
        return ""

    failure = WorkflowTest(endless).run(1).failure
    assert failure is not None
    assert (failure.name, failure.kind) == ("steps-per-command", "limit")


# -- specs by hand -----------------------------------------------------------------------------------
def test_a_branch_that_sets_a_variable_around_it_is_noticed_too() -> None:
    inner = (
        GatherNode((Branch(6, {}, ()),), 7),
        AssignNode("d", expr(at(20)), 8),
        ReturnNode(),
        ReturnNode(),
    )
    run = watched(ConditionNode(expr("d > " + at(10)), 4), *inner)
    done = run.start()
    assert done.run is not None
    assert done.run.output == raw(["woken", None])


def test_a_condition_sets_nothing() -> None:
    bind = Bind("e", expr("p"))
    for node in (ConditionNode(bind, 1), SleepUntilNode(bind, 1, watched=True)):
        with pytest.raises(BadSpec, match="node 0 waits for what it sets itself"):
            check_spec(spec_of([node, ReturnNode()]))
    check_spec(spec_of([SleepUntilNode(bind, 1), ReturnNode()]))


def test_a_condition_without_its_text_is_told_by_its_line() -> None:
    run = Folded(spec_of([ConditionNode(expr("p"), 1, timeout=expr("0.5"), line=7), ReturnNode()]))
    run.start()
    assert run.state is not None
    assert waiting_for(run.state, run.definition) == "condition of line 7 until 1970-01-01T00:00:01.500Z"
    assert waiting_for(run.state) == "condition of node 0 until 1970-01-01T00:00:01.500Z"
    assert failure_of(fired(run, 0)).message == "the condition of line 7 did not hold within 0.5 s"


def test_how_a_condition_is_written_is_no_other_definition() -> None:
    nodes: list[Node] = [ConditionNode(expr("p"), 1, text="p"), ReturnNode()]
    other = msgspec.structs.replace(nodes[0], text="(p)", line=9)
    assert spec_of(nodes).digest() == spec_of([other, nodes[1]]).digest()
    longer = msgspec.structs.replace(nodes[0], timeout=expr("1"))
    assert spec_of(nodes).digest() != spec_of([longer, nodes[1]]).digest()


# -- plain Python ------------------------------------------------------------------------------------
def test_plain_python_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(taking_turns(2, 0), 0.02)
        assert len(asyncio.all_tasks()) == 1
        assert not watching._watches

    asyncio.run(run())


def test_in_plain_python_a_wait_looks_when_what_follows_from_a_step_is_over() -> None:
    seen: list[int] = []

    async def run(begin: Callable[[], Any]) -> None:
        view = Review()

        async def wait() -> None:
            await wait_until(lambda: view.tokens > 0)
            seen.append(view.tokens)

        async def inner() -> None:
            await begin()
            view.tokens = 1

        async def outer() -> None:
            # Goes on when its own branch has ended, in the same command of a run.
            await gather(inner())
            view.tokens = 5

        await gather(wait(), outer())

    asyncio.run(run(lambda: asyncio.sleep(0.01)))
    asyncio.run(run(lambda: asyncio.sleep(0)))
    assert seen == [5, 5]
