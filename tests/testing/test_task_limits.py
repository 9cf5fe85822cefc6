"""Limits of tasks in `WorkflowTest`: the same fold, in virtual time, among the branches and child runs of one run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.testing.ways import Case, by_engine, by_harness, by_python  # pyright: ignore[reportMissingImports]

from dressage.flow import (
    App,
    Exponential,
    Rate,
    Task,
    TaskTimeout,
    first_completed,
    gather,
    sleep,
    task,
    workflow,
)
from dressage.protocol.errors import DefinitionError
from dressage.testing import Run, WorkflowTest

pytestmark = pytest.mark.anyio

app = App("limited-tests")
SECOND = timedelta(seconds=1)


@app.task(concurrency=2, retries=1, backoff=Exponential(base=5 * SECOND, jitter=0.0))
def work(number: int) -> int:
    return number


@app.task(concurrency=1)
def by_key(what: str) -> str:
    return what


@app.task(rate=Rate(2, per=10 * SECOND))
def often(number: int) -> int:
    return number


@app.task(concurrency=1, start_timeout=3 * SECOND)
def hasty(number: int) -> int:
    return number


@workflow
async def wide(many: int) -> int:
    return sum(await gather(*(work(number) for number in range(many))))


@workflow
async def ordered() -> str:
    async def ask(what: str, key: str, urgency: int) -> str:
        return await by_key.options(key=key, priority=urgency)(what)

    await gather(ask("a", "x", 0), ask("b", "x", -1), ask("c", "x", 1), ask("d", "y", 0))
    return "done"


@workflow
async def paced(many: int) -> int:
    return sum(await gather(*(often(number) for number in range(many))))


@workflow
async def impatient() -> str:
    async def second() -> str:
        try:
            return f"{await hasty(2)}"
        except TaskTimeout as error:
            return f"{error}"

    _, said = await gather(hasty(1), second())
    return said


@app.task(concurrency=1)
def by_key_number(number: int) -> int:
    return number


@workflow
async def part(number: int) -> int:
    return await by_key_number(number)


@workflow
async def family() -> int:
    return sum(await gather(part(1), part(2), by_key_number(3)))


@workflow
async def raced() -> int:
    first, _ = await first_completed(by_key("slow"), sleep(SECOND))
    await by_key("next")
    return first


def taking(definition: Any, *, seconds: float = 10) -> WorkflowTest[..., Any]:
    test: WorkflowTest[..., Any] = WorkflowTest(definition, app)
    tasks: list[Task[..., Any]] = [work, by_key, often, hasty, by_key_number]
    called = {each.name for each in definition.spec.tasks}
    for child in definition.children.values():
        called |= {each.name for each in child.spec.tasks}
    for each in tasks:
        if each.name in called:
            test.task(each).takes(timedelta(seconds=seconds))
    return test


def begun(run: Run[Any]) -> list[tuple[Any, float]]:
    start = run.events[0].at
    return [(next(iter(call.arguments.values())), (call.at - start).total_seconds()) for call in run.calls]


def test_two_at_a_time() -> None:
    run = taking(wide).run(5)
    assert run.result == 10
    assert [at for _, at in begun(run)] == [0, 0, 10, 10, 20]


def test_who_waits_is_seen() -> None:
    run = taking(wide).start(4)
    assert run.waiting_for.count("task work (attempt 1) on queue limited-tests, 2 times") == 1
    assert "its turn at the limit of task work (attempt 1), 2 times" in run.waiting_for


def test_priorities_and_keys() -> None:
    run = taking(ordered).run()
    assert begun(run) == [("a", 0), ("d", 0), ("c", 10), ("b", 20)]


def test_a_rate_in_virtual_time() -> None:
    run = taking(paced, seconds=0).run(5)
    moments = [at for _, at in begun(run)]
    assert moments[:2] == [0, 0]
    for first, third in zip(moments, moments[2:], strict=False):
        assert 10 <= third - first <= 10.2


def test_the_start_timeout_counts_from_the_ask() -> None:
    run = taking(impatient).run()
    assert (
        run.result == "task hasty had to wait for its limit for 3 s (attempt 1) (task hasty, attempt 1 of 1)"
        or (run.result.startswith("task hasty had to wait for its limit for 3 s (attempt 1)"))
    )
    assert [what for what, _ in begun(run)] == [1]


def test_a_retry_lets_others_go_first_meanwhile() -> None:
    test = taking(wide)
    test.task(work).raises(OSError("no"), times=2).then_returns(5)
    run = test.run(4)
    assert run.result == 20
    attempts = [(call.attempt, at) for call, (_, at) in zip(run.calls, begun(run), strict=True)]
    assert attempts[:4] == [(1, 0), (1, 0), (1, 10), (1, 10)]
    assert [attempt for attempt, _ in attempts[4:]] == [2, 2]


def test_child_runs_share_the_limit() -> None:
    run = taking(family).run()
    assert run.result == 6
    moments = sorted(call.at for each in (run, *run.children) for call in each.calls)
    assert [(each - moments[0]).total_seconds() for each in moments] == [0, 10, 20]


def test_a_lost_race_gives_its_permit_back() -> None:
    run = taking(raced).run()
    assert run.result == 1
    assert begun(run) == [("slow", 0), ("next", 1)]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_cancelled_run_waits_no_more(*, at_once: bool) -> None:
    run = taking(wide).start(4)
    run.cancel(at_once=at_once)
    assert run.status == "cancelled"
    assert len(run.calls) == 2


def test_a_stopped_run_is_still_handed_what_it_asked_for() -> None:
    run = taking(wide).start(3)
    run.stop()
    run.advance(10 * SECOND)
    assert len(run.calls) == 3
    assert run.resume().finish().result == 3


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(DefinitionError, match="concurrency is 1 to 1000 attempts, and not 0"):
        task(concurrency=0)
    with pytest.raises(DefinitionError, match="a rate counts 1 to 100000 attempts"):
        Rate(0)
    with pytest.raises(DefinitionError, match=r"a rate counts in 0\.001 to 2678400 seconds"):
        Rate(1, per=timedelta(days=32))
    with pytest.raises(DefinitionError, match="rate is a Rate"):
        task(rate=5)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="a priority is from -1000 to 1000"):
        task(concurrency=1, priority=1001)
    with pytest.raises(DefinitionError, match="a task without a limit has no priority"):
        task(priority=1)
    with pytest.raises(ValueError, match="a priority is from -1000 to 1000"):
        work.options(priority=-1001)
    with pytest.raises(TypeError, match="a priority is an int, and not bool"):
        work.options(priority=True)
    with pytest.raises(ValueError, match="key of a task's limit '' is not valid"):
        work.options(key="")
    with pytest.raises(DefinitionError, match="task free has no limit"):
        free.options(key="x")


@task
def free(number: int) -> int:
    return number


async def test_plain_python_has_no_limits() -> None:
    assert await work.options(key="x", priority=2)(3) == 3


def test_options_in_wrong_places() -> None:
    with pytest.raises(TypeError, match="there is no option concurrency"):
        work.options(concurrency=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="there is no option key"):
        task(key="x")  # type: ignore[call-overload]


# -- the same on the engine ------------------------------------------------------------------------------
@workflow
async def one_by_one(customer: str) -> str:
    first = await by_key.options(key=customer, priority=len(customer))("a")
    second = await work(3)
    return f"{first}{second}"


def one_failure() -> App:
    left = [OSError("no")]
    made = App("limited-tests")

    def fails_once(number: int) -> int:
        if left:
            raise left.pop()
        return number

    made.register(work, fails_once)
    made.register(by_key, by_key.function)
    return made


@pytest.mark.parametrize(
    "case",
    [
        Case(one_by_one, ("ann",), lambda: app),
        Case(one_by_one, ("",), lambda: app, plain=False),
        Case(one_by_one, ("ann",), one_failure, plain=False),
        Case(wide, (1,), lambda: app),
    ],
    ids=["both", "no key", "a retry", "one branch"],
)
async def test_limits_come_to_the_same_in_all_ways(
    case: Case, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = by_harness(case)
    assert harness == await by_engine(case, engine)
    assert "permit-awaited" in harness.kinds or harness.status == "failed"
    if case.plain:
        harness.events = []
        assert await by_python(case, monkeypatch) == harness
