"""Limits of tasks on the real engine: so many at a time, so many in a time, in order, and nothing stays taken."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunFailed
from dressage.flow import App, Exponential, Rate, TaskTimeout, first_completed, gather, sleep, workflow
from dressage.protocol.errors import NotFound
from dressage.protocol.permits import LimiterView

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

app = App("limited")
running: Counter[str] = Counter()
most: Counter[str] = Counter()
began: list[tuple[str, float]] = []
opened = asyncio.Event()
failing: set[str] = set()


async def work(what: str, key: str = "") -> str:
    """Counts who is at it, until it may end."""
    began.append((what, time.time()))
    running[key] += 1
    most[key] = max(most[key], running[key])
    try:
        await opened.wait()
        if what in failing:
            failing.discard(what)
            raise OSError("once")
        return what
    finally:
        running[key] -= 1


@app.task(concurrency=2, retries=1, backoff=Exponential(base=timedelta(milliseconds=50), jitter=0.0))
async def two(what: str) -> str:
    return await work(what)


@app.task(concurrency=1)
async def by_key(what: str, customer: str) -> str:
    return await work(what, customer)


@app.task(rate=Rate(5, per=timedelta(seconds=1)))
async def often(what: str) -> str:
    return await work(what)


@app.task(concurrency=1, start_timeout=timedelta(milliseconds=300))
async def hasty(what: str) -> str:
    return await work(what)


@workflow
async def one_of_two(what: str) -> str:
    return await two(what)


@workflow
async def keyed(what: str, customer: str, urgency: int) -> str:
    return await by_key.options(key=customer, priority=urgency)(what, customer)


@workflow
async def five_a_second(what: str) -> str:
    return await often(what)


@workflow
async def in_haste(what: str) -> str:
    try:
        return await hasty(what)
    except TaskTimeout as error:
        return f"{error}"


@workflow
async def several(what: str, many: int) -> list[str]:
    return list(
        await gather(*(by_key.options(key="all")(f"{what}-{number}", "all") for number in range(many)))
    )


@workflow
async def racing(what: str) -> int:
    winner, _ = await first_completed(
        by_key.options(key="race")(what, "race"), sleep(timedelta(milliseconds=200))
    )
    return winner


@pytest.fixture(autouse=True)
def _fresh() -> None:
    running.clear()
    most.clear()
    began.clear()
    failing.clear()
    opened.clear()


async def limiter(client: Client, task: str, *, key: str = "") -> LimiterView | None:
    try:
        return await client.task_limit(task, key=key)
    except NotFound:
        return None


async def stands(client: Client, task: str, taken: int, waiting: int, *, key: str = "") -> LimiterView:
    """Waits until the limiter stands so."""
    found: list[LimiterView] = []

    async def does() -> bool:
        view = await limiter(client, task, key=key)
        found[:] = [view] if view is not None else []
        return view is not None and (len(view.taken), view.waiting) == (taken, waiting)

    await until(does, f"{taken} have a permit of {task}, and {waiting} wait", 20)
    return found[0]


async def test_no_more_than_two_are_with_workers_and_nothing_stays_taken(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(one_of_two)
    handles = [await client.start(one_of_two, {"what": f"w{number}"}) for number in range(6)]
    view = await stands(client, "two", 2, 4)
    assert view.limit.concurrency == 2
    assert len(view.next) == 4
    waiting = [(await client.get(each.run_id)).waiting_for for each in handles]
    assert sum("its turn at the limit of task two" in each for each in waiting) == 4
    opened.set()
    assert [await each.result(20) for each in handles] == [f"w{number}" for number in range(6)]
    assert most[""] == 2
    await stands(client, "two", 0, 0)


async def test_a_retry_asks_again_behind_its_backoff(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(one_of_two)
    failing.add("a")
    opened.set()
    handle = await client.start(one_of_two, {"what": "a"})
    assert await handle.result(20) == "a"
    assert [what for what, _ in began] == ["a", "a"]
    kinds = [event.kind async for event in client.history(handle.run_id)]
    asked_twice = ["permit-awaited", "task-scheduled", "task-failed", "permit-awaited", "task-scheduled"]
    assert kinds[1:6] == asked_twice
    await stands(client, "two", 0, 0)


async def test_each_key_has_a_limit_of_its_own_and_priorities_go_first(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(keyed)

    async def start(what: str, customer: str, urgency: int = 0) -> Any:
        return await client.start(keyed, {"what": what, "customer": customer, "urgency": urgency})

    handles = [await start("first", "a"), await start("other", "b")]
    await stands(client, "by-key", 1, 0, key="a")
    await stands(client, "by-key", 1, 0, key="b")
    for number, (what, urgency) in enumerate([("low", -5), ("mid", 0), ("high", 7)], 1):
        handles.append(await start(what, "a", urgency))
        await stands(client, "by-key", 1, number, key="a")
    opened.set()
    for each in handles:
        await each.result(20)
    assert most == {"a": 1, "b": 1}
    assert [what for what, _ in began if what != "other"] == ["first", "high", "mid", "low"]


async def test_a_run_with_many_calls_does_not_keep_others_waiting(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(several)
    big = await client.start(several, {"what": "big", "many": 8})
    await stands(client, "by-key", 1, 7, key="all")
    small = await client.start(several, {"what": "small", "many": 2})
    await stands(client, "by-key", 1, 9, key="all")
    opened.set()
    await big.result(20)
    await small.result(20)
    order = [what for what, _ in began]
    assert order[:5] == ["big-0", "big-1", "small-0", "big-2", "small-1"]


async def test_no_more_begin_in_a_second_than_the_rate_lets(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(five_a_second)
    opened.set()
    handles = [await client.start(five_a_second, {"what": f"w{number}"}) for number in range(12)]
    for each in handles:
        await each.result(30)
    events = [
        event
        for each in handles
        async for event in client.history(each.run_id)
        if event.kind == "task-scheduled"
    ]
    times = sorted(each.time for each in events)
    assert len(times) == 12
    # The permits are given by the limiter's commands: the runs hear of them some milliseconds later.
    moments = [datetime.fromisoformat(each) for each in times]
    for first, sixth in zip(moments, moments[5:], strict=False):
        assert sixth - first > timedelta(seconds=0.8)


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_run_that_is_cancelled_leaves_its_turn_to_others(sharded: Engine, *, at_once: bool) -> None:
    await sharded.worker(app)
    client = await sharded.registered(keyed)
    given = {"customer": "c", "urgency": 0}
    holder = await client.start(keyed, {"what": "holder", **given})
    await stands(client, "by-key", 1, 0, key="c")
    waiting = await client.start(keyed, {"what": "waiting", **given})
    await stands(client, "by-key", 1, 1, key="c")
    last = await client.start(keyed, {"what": "last", **given})
    await stands(client, "by-key", 1, 2, key="c")
    await waiting.cancel(at_once=at_once)
    await stands(client, "by-key", 1, 1, key="c")
    await holder.cancel(at_once=at_once)
    await until(lambda: "last" in [what for what, _ in began], "the last one begins")
    opened.set()
    assert await last.result(20) == "last"
    assert "waiting" not in [what for what, _ in began]
    await stands(client, "by-key", 0, 0, key="c")


async def test_a_lost_race_and_a_passed_time_give_back_what_they_had(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(racing, in_haste)
    first, second = [await client.start(racing, {"what": what}) for what in ("a", "b")]
    assert (await first.result(20), await second.result(20)) == (1, 1)
    await stands(client, "by-key", 0, 0, key="race")
    holder = await client.start(in_haste, {"what": "holder"})
    await stands(client, "hasty", 1, 0)
    late = await client.start(in_haste, {"what": "late"})
    said = await late.result(20)
    assert said.startswith("task hasty had to wait for its limit for 0.3 s"), said
    await stands(client, "hasty", 1, 0)
    opened.set()
    assert await holder.result(20) == "holder"
    await stands(client, "hasty", 0, 0)


async def test_a_limit_survives_its_orchestrator(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(one_of_two)
    handles = [await client.start(one_of_two, {"what": f"w{number}"}) for number in range(4)]
    await stands(client, "two", 2, 2)
    await engine.down()
    await engine.up()
    await stands(client, "two", 2, 2)
    opened.set()
    for each in handles:
        await each.result(30)
    assert most[""] == 2
    await stands(client, "two", 0, 0)


async def test_a_key_that_is_none_is_an_error_of_the_run(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(keyed)
    opened.set()
    handle = await client.start(keyed, {"what": "x", "customer": "", "urgency": 0})
    with pytest.raises(RunFailed, match="key of a task's limit '' is not valid"):
        await handle.result(20)
    handle = await client.start(keyed, {"what": "x", "customer": "c", "urgency": 1001})
    with pytest.raises(RunFailed, match="a priority is from -1000 to 1000"):
        await handle.result(20)


async def test_the_shell_and_the_api_show_a_limit(engine: Engine, start: Start) -> None:
    await engine.worker(app)
    client = await engine.registered(one_of_two)
    handles = [
        await client.start(one_of_two, {"what": f"w{number}"}, run_id=f"r{number}") for number in range(3)
    ]
    await stands(client, "two", 2, 1)
    answer = await engine.call("task-limit", {"task": "two"})
    assert answer["ok"]
    assert (answer["limit"]["limit"], answer["limit"]["waiting"]) == ({"concurrency": 2}, 1)
    unknown = await engine.call("task-limit", {"task": "two", "key": "nobody"})
    assert unknown["code"] == "LIMIT_UNKNOWN"
    arguments = ("task", "limit", "two", "--server", engine.url, "--namespace", engine.namespace)
    program = start(*arguments)
    assert await asyncio.to_thread(program.ended) == 0, program.said
    assert "2 of 2 at a time are with workers" in program.said
    assert "1 waits" in program.said
    assert "r0" in program.said
    opened.set()
    for each in handles:
        await each.result(20)
