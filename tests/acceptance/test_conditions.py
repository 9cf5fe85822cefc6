"""Waits for the view through the public API: conditions and moving moments, real workers and timers, lost owners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats
import pytest

from dressage.client import RunCancelled, RunFailed, RunHandle
from dressage.flow import (
    App,
    Event,
    Searchable,
    first_completed,
    gather,
    sleep,
    sleep_until,
    wait_until,
    workflow,
)
from dressage.testing import WorkflowTest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

Until = Callable[..., Awaitable[None]]
FAR: Final = datetime(2090, 1, 1, tzinfo=UTC)
PASSED: Final = datetime(2020, 1, 1, tzinfo=UTC)

app = App("conditions")
approved = Event("approved", of=str)
moved = Event("moved", of=datetime)
never = Event("never")


@dataclass
class ArticleView:
    approvals: Searchable[int] = 0
    free: int = 1
    most: int = 0
    due: datetime = FAR


@app.task
def echo(text: str) -> str:
    return text


# -- helpers -----------------------------------------------------------------------------------------
async def told(handle: RunHandle[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The history: kinds, and data as plain values."""
    return [(event.kind, msgspec.json.decode(event.data)) async for event in handle.history()]


async def of_waits(handle: RunHandle[Any]) -> list[str]:
    """The kinds of what the history tells of conditions and sleeps."""
    return [kind for kind, _ in await told(handle) if kind.startswith(("condition", "sleep"))]


async def waits_for(handle: RunHandle[Any], what: str, until: Until) -> None:
    async def fact() -> bool:
        return what in (await handle.state()).waiting_for

    await until(fact, f"run {handle.run_id} waits for {what}")


@pytest.fixture
async def timers(sharded: Engine) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """How many timers are in the streams of the engine."""
    connection = await nats.connect(sharded.url)

    async def count() -> int:
        found = 0
        for shard in range(sharded.shards):
            name = sharded.names.shard_stream(shard)
            answer = await connection.request(
                f"$JS.API.STREAM.INFO.{name}", b'{"subjects_filter": "dressage.*.*.timer.>"}', 5
            )
            state = msgspec.json.decode(answer.data)["state"]
            found += len(state.get("subjects") or {})
        return found

    yield count
    await connection.close()


# -- conditions --------------------------------------------------------------------------------------
@workflow
async def publish(article: str, needed: int, seconds: float) -> str:
    view = ArticleView()

    async def count() -> None:
        while True:
            await approved.wait()
            view.approvals += 1

    async def decide() -> str:
        try:
            await wait_until(lambda: view.approvals >= needed, timeout=timedelta(seconds=seconds))
        except TimeoutError:
            return f"{article} has {view.approvals} of {needed}"
        return f"{await echo(article)} is published"

    _, decided = await first_completed(decide(), count())
    return f"{decided}"


async def test_a_run_waits_until_its_condition_holds(
    sharded: Engine, until: Until, timers: Callable[[], Awaitable[int]]
) -> None:
    client = await sharded.registered(publish)
    await sharded.worker(app)
    handles = [
        await client.start(publish, {"article": f"a{n}", "needed": 2, "seconds": 3600}, run_id=f"publish-{n}")
        for n in range(6)
    ]
    for handle in handles:
        await waits_for(handle, "condition view.approvals >= needed until 20", until)
    assert await timers() == len(handles)
    for name in ("ann", "bob"):
        for handle in handles:
            await handle.post(approved, name)
    assert [await handle.result(5) for handle in handles] == [f"a{n} is published" for n in range(6)]
    assert await of_waits(handles[0]) == ["condition-awaited", "condition-met"]
    # What was set for a condition that is met is taken back, at the latest with the next commit of the shard.
    await until(lambda: _none(timers), "the timers are taken back")


async def _none(timers: Callable[[], Awaitable[int]]) -> bool:
    return await timers() == 0


async def test_a_condition_that_does_not_hold_in_time_is_a_timeout_error(sharded: Engine) -> None:
    client = await sharded.registered(publish)
    handle = await client.start(publish, {"article": "a", "needed": 2, "seconds": 0.4})
    await handle.post(approved, "ann")
    assert await handle.result(5) == "a has 1 of 2"
    history = dict(await told(handle))
    assert history["condition-timed-out"]["timer_id"] == history["condition-awaited"]["timer_id"]
    assert history["condition-timed-out"]["condition"] == "view.approvals >= needed"


@workflow
async def alone(seconds: float) -> int:
    view = ArticleView()
    await wait_until(lambda: view.approvals > 0, timeout=seconds)
    return view.approvals


async def test_a_timeout_that_nobody_takes_fails_the_run(engine: Engine) -> None:
    client = await engine.registered(alone)
    handle = await client.start(alone, {"seconds": 0.2})
    with pytest.raises(RunFailed) as failed:
        await handle.result(5)
    assert (failed.value.failure.name, failed.value.failure.kind) == ("timeout", "timeout")
    assert failed.value.failure.message == "condition view.approvals > 0 did not hold within 0.2 s"


async def test_a_run_that_waits_for_a_condition_can_be_cancelled(
    sharded: Engine, until: Until, timers: Callable[[], Awaitable[int]]
) -> None:
    client = await sharded.registered(alone)
    handle = await client.start(alone, {"seconds": 3600})
    await waits_for(handle, "condition view.approvals > 0", until)
    await handle.cancel("no longer wanted")
    with pytest.raises(RunCancelled):
        await handle.result(5)
    await until(lambda: _none(timers), "the timer is taken back")


@workflow
async def one_at_a_time(takers: int, places: int) -> int:
    view = ArticleView(free=places)

    async def take(n: int) -> str:
        await wait_until(lambda: view.free > 0)
        view.free -= 1
        view.most = max(view.most, places - view.free)
        text = await echo(f"{n}")
        view.free += 1
        return text

    texts = await gather(*(take(n) for n in range(takers)), limit=takers)
    return view.most if list(texts) == [f"{n}" for n in range(takers)] and view.free == places else -1


async def test_a_condition_is_a_lock_that_holds_with_real_workers(sharded: Engine) -> None:
    client = await sharded.registered(one_at_a_time)
    await sharded.worker(app)
    handle = await client.start(one_at_a_time, {"takers": 30, "places": 3})
    assert await handle.result(10) == 3
    waits = await of_waits(handle)
    assert (waits.count("condition-awaited"), waits.count("condition-met")) == (27, 30)


# -- moments -----------------------------------------------------------------------------------------
@workflow
async def wake(due: datetime) -> str:
    await sleep_until(due)
    return "awake"


async def test_a_run_sleeps_until_a_moment_on_the_brokers_clock(sharded: Engine) -> None:
    client = await sharded.registered(wake)
    began = datetime.now(UTC)
    handle = await client.start(wake, {"due": (began + timedelta(seconds=0.5)).isoformat()})
    assert await handle.result(5) == "awake"
    assert datetime.now(UTC) - began >= timedelta(seconds=0.5)
    past = await client.start(wake, {"due": PASSED.isoformat()})
    assert await past.result(5) == "awake"
    assert await of_waits(past) == []


@workflow
async def remind(due: datetime) -> str:
    view = ArticleView(due=due)

    async def move() -> None:
        while True:
            view.due = await moved.wait()

    await first_completed(sleep_until(lambda: view.due), move())
    return f"due {view.due.year}"


async def test_a_moment_that_is_moved_takes_another_timer(
    sharded: Engine, until: Until, timers: Callable[[], Awaitable[int]]
) -> None:
    client = await sharded.registered(remind)
    handle = await client.start(remind, {"due": FAR.isoformat()})
    await waits_for(handle, "time 2090-01-01", until)
    for year in (2089, 2091, 2088):
        await handle.post(moved, FAR.replace(year=year))
        await waits_for(handle, f"time {year}-01-01", until)
    # One more commit takes back what the last one has replaced.
    await until(lambda: _one(timers), "one timer is left")
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    await handle.post(moved, soon)
    assert await handle.result(5) == f"due {soon.year}"
    assert datetime.now(UTC) >= soon
    assert await of_waits(handle) == ["sleep-started", *4 * ["sleep-moved"], "sleep-ended"]
    await until(lambda: _none(timers), "no timer is left")


async def _one(timers: Callable[[], Awaitable[int]]) -> bool:
    return await timers() == 1


async def test_a_moment_that_is_moved_later_does_not_end_by_its_first_timer(sharded: Engine) -> None:
    client = await sharded.registered(remind)
    handle = await client.start(remind, {"due": (datetime.now(UTC) + timedelta(seconds=0.6)).isoformat()})
    await handle.post(moved, FAR)
    await asyncio.sleep(1)
    assert "time 2090" in (await handle.state()).waiting_for
    await handle.post(moved, PASSED)
    assert await handle.result(5) == "due 2020"
    assert await of_waits(handle) == ["sleep-started", "sleep-moved", "sleep-moved", "sleep-ended"]


# -- the owner is lost -------------------------------------------------------------------------------
async def test_waits_go_on_under_another_owner(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(publish, remind, alone)
    await sharded.worker(app)
    published = [
        await client.start(publish, {"article": f"a{n}", "needed": 1, "seconds": 3600}, run_id=f"p-{n}")
        for n in range(4)
    ]
    due = datetime.now(UTC) + timedelta(seconds=2)
    asleep = [await client.start(remind, {"due": FAR.isoformat()}, run_id=f"r-{n}") for n in range(4)]
    timed = await client.start(alone, {"seconds": 1.5}, run_id="alone")
    for handle in asleep:
        await handle.post(moved, due)
        await waits_for(handle, "time 20", until)
    await sharded.down()
    await sharded.up()
    for handle in published:
        await handle.post(approved, "ann")
    assert [await handle.result(10) for handle in published] == [f"a{n} is published" for n in range(4)]
    assert [await handle.result(10) for handle in asleep] == 4 * [f"due {due.year}"]
    with pytest.raises(RunFailed, match="did not hold within"):
        await timed.result(10)


# -- the same everywhere -----------------------------------------------------------------------------
@workflow
async def together(n: int) -> list[str]:
    view = ArticleView()
    said: list[str] = []

    async def write() -> str:
        for _ in range(n):
            await echo("written")
            view.approvals += 1
        return "written"

    async def read() -> str:
        await wait_until(lambda: view.approvals == n)
        view.due = PASSED
        return "read"

    async def doze() -> str:
        await sleep_until(lambda: view.due)
        return "awake"

    async def divide() -> str:
        try:
            await wait_until(lambda: 1 // (view.approvals - 1) > 5, timeout=3600)
        except ZeroDivisionError:
            return "divided"
        return "held"

    said = [*said, *await gather(doze(), read(), write(), divide())]
    try:
        await wait_until(lambda: view.approvals < 0, timeout=timedelta(milliseconds=10))
    except TimeoutError:
        said = [*said, "late"]
    place, _ = await first_completed(
        never.wait(), wait_until(lambda: view.approvals > 99), sleep(0.01), sleep_until(FAR)
    )
    return [*said, f"{place}"]


async def test_waits_are_the_same_in_a_run_in_a_test_and_in_plain_python(engine: Engine) -> None:
    expected = ["awake", "read", "written", "divided", "late", "2"]

    async def forever(timeout: object) -> None:
        await asyncio.get_running_loop().create_future()

    async def echoed(text: str) -> str:
        await asyncio.sleep(0.01)
        return text

    with never.faked(forever), echo.faked(echoed):
        assert await together(3) == expected
    tested = WorkflowTest(together, app).run(3)
    assert tested.result == expected
    client = await engine.registered(together)
    await engine.worker(app)
    handle = await client.start(together, {"n": 3})
    assert await handle.result(10) == expected
    kinds = [kind for kind, _ in await told(handle)]
    assert sorted(kinds) == sorted(event.kind for event in tested.events)


async def test_the_command_line_tells_what_a_run_waits_for(
    engine: Engine, until: Until, start: Start
) -> None:
    client = await engine.registered(publish)
    handle = await client.start(publish, {"article": "a", "needed": 2, "seconds": 3600}, run_id="shown")
    await waits_for(handle, "condition", until)
    where = ("--server", engine.url, "--namespace", engine.namespace)
    shown = start("run", "get", "shown", *where)
    assert await asyncio.to_thread(shown.ended) == 0, shown.said
    assert "condition view.approvals >= needed until" in shown.said
    history = start("run", "history", "shown", *where)
    assert await asyncio.to_thread(history.ended) == 0, history.said
    assert "condition-awaited" in history.said
    drawn = start("spec", "show", "publish@latest", *where)
    assert await asyncio.to_thread(drawn.ended) == 0, drawn.said
    assert "await wait_until(lambda: view.approvals >= needed, timeout=" in drawn.said
