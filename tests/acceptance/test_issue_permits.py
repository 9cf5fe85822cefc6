"""Priority, rate and concurrency of tasks, per task and per key, fair between runs, as the issue asks for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunFailed, RunHandle
from dressage.flow import App, Exponential, Rate, gather, task, workflow
from dressage.protocol.errors import NotFound
from dressage.protocol.permits import LimiterView

Until = Callable[..., Awaitable[None]]

app = App("issue-permits")
MOMENT: Final = timedelta(milliseconds=300)
PER: Final = timedelta(milliseconds=400)
SLOW: Final = Exponential(base=timedelta(seconds=60), limit=timedelta(seconds=60))


async def nothing(word: str) -> str:
    return word


@dataclass
class Floor:
    """What handlers do, who has begun, and how many were there at a time."""

    begun: list[str] = field(default_factory=list)
    does: Callable[[str], Awaitable[str]] = nothing
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    async def work(self, what: str, word: str) -> str:
        self.begun.append(word)
        self.now[what] += 1
        self.most[what] = max(self.most[what], self.now[what])
        try:
            return await self.does(word)
        finally:
            self.now[what] -= 1


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.begun, floor.does, floor.gate = [], nothing, asyncio.Event()
    floor.now, floor.most = Counter(), Counter()


async def wait_at_gate(word: str) -> str:
    await floor.gate.wait()
    return word


async def wait_if_first(word: str) -> str:
    if word == "first":
        await floor.gate.wait()
    else:
        await asyncio.sleep(0.01)
    return word


@app.task(concurrency=1)
async def single(word: str) -> str:
    return await floor.work("single", word)


@app.task(concurrency=2)
async def double(word: str) -> str:
    return await floor.work("double", word)


@app.task(rate=Rate(3, per=PER))
async def paced(word: str) -> str:
    return await floor.work("paced", word)


@app.task(concurrency=1, priority=5)
async def keyed(word: str, key: str) -> str:
    return await floor.work(key, word)


@app.task
async def free(word: str) -> str:
    return await floor.work("free", word)


@workflow
async def per_single(word: str, priority: int = 0) -> str:
    return await single.options(priority=priority)(word)


@workflow
async def per_tried(word: str) -> str:
    return await single.options(retries=1, backoff=SLOW)(word)


@workflow
async def per_dead(word: str) -> str:
    return await single.options(exhausted="wait")(word)


@workflow
async def per_timed(word: str) -> str:
    return await single.options(timeout=MOMENT)(word)


@workflow
async def per_deadline(word: str) -> str:
    return await single.options(deadline=MOMENT)(word)


@workflow
async def per_start(word: str) -> str:
    try:
        return await single.options(start_timeout=MOMENT)(word)
    except TimeoutError as late:
        return f"late: {late}"


@workflow
async def per_many(words: list[str]) -> list[str]:
    return list(await gather(*(single(word) for word in words)))


@workflow
async def per_double(word: str) -> str:
    return await double(word)


@workflow
async def per_double_too(word: str) -> list[str]:
    first, second, third = await gather(double(f"{word} 1"), double(f"{word} 2"), double(f"{word} 3"))
    return [first, second, third]


@workflow
async def per_paced(word: str) -> str:
    return await paced(word)


@workflow
async def per_odd(key: str, priority: int) -> str:
    try:
        return await keyed.options(key=key, priority=priority)("a", key)
    except ValueError as error:
        return f"refused: {error}"


@workflow
async def per_free(word: str) -> str:
    return await free(word)


async def limit_of(client: Client, of: str = "single", key: str = "") -> LimiterView | None:
    try:
        return await client.task_limit(of, key=key)
    except NotFound:
        return None


async def stands(client: Client, taken: int, waiting: int, of: str = "single", key: str = "") -> bool:
    view = await limit_of(client, of, key)
    return (taken, waiting) == (0, 0) if view is None else (len(view.taken), view.waiting) == (taken, waiting)


async def held(client: Client, until: Until, word: str = "first") -> RunHandle[str]:
    """A run that has the only permit, and whose handler waits."""
    run = await client.start(per_single, {"word": word})
    await until(lambda: floor.begun[-1:] == [word], "the first one has its permit")
    return run


async def queued(client: Client, until: Until, count: int) -> None:
    async def all_wait() -> bool:
        return await stands(client, 1, count)

    await until(all_wait, f"{count} wait for their turn")


async def idle(client: Client, until: Until, of: str = "single", key: str = "") -> None:
    async def nobody() -> bool:
        return await stands(client, 0, 0, of, key)

    await until(nobody, "nobody has a permit, and nobody waits")


# -- who comes first -----------------------------------------------------------------------------------------------
async def test_a_key_and_a_priority_that_are_none_are_errors_that_the_run_can_take(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(per_odd)
    for key, priority in (("", 0), ("k", 1001), ("k", -1001), ("k" * 200, 0)):
        run = await client.start(per_odd, {"key": key, "priority": priority})
        assert (await run.result(10)).startswith("refused: "), (key, priority)
    for key in ("a b.c", "ü*>", "=limiter_single"):
        assert await (await client.start(per_odd, {"key": key, "priority": -1000})).result(10) == "a"


# -- so many at a time ---------------------------------------------------------------------------------------------
async def test_a_limit_holds_for_all_workers_workflows_and_shards_together(
    sharded: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        await asyncio.sleep(0.01)
        return word

    floor.does = does
    await sharded.worker(app, identity="one")
    await sharded.worker(app, identity="two")
    client = await sharded.registered(per_double, per_double_too)
    runs = [await client.start("per-double", {"word": f"a{n}"}) for n in range(12)]
    runs += [await client.start("per-double-too", {"word": f"b{n}"}) for n in range(6)]
    for run in runs:
        await run.result(20)
    assert floor.most["double"] == 2
    assert len(floor.begun) == 30
    await idle(client, until, "double")


async def test_a_task_without_a_limit_is_not_held_up_by_one_that_has_one(
    engine: Engine, until: Until
) -> None:
    floor.does = wait_if_first
    await engine.worker(app, concurrency=2)
    client = await engine.registered(per_single, per_free)
    await held(client, until)
    behind = [await client.start(per_single, {"word": f"b{n}"}) for n in range(5)]
    assert await (await client.start(per_free, {"word": "free"})).result(10) == "free"
    floor.gate.set()
    for run in behind:
        await run.result(10)


# -- so many in a time ---------------------------------------------------------------------------------------------
async def test_no_span_of_time_has_more_than_its_rate_also_with_two_workers(sharded: Engine) -> None:
    await sharded.worker(app, identity="one")
    await sharded.worker(app, identity="two")
    client = await sharded.registered(per_paced)
    runs = await asyncio.gather(*(client.start(per_paced, {"word": f"p{n}"}) for n in range(8)))
    at: list[datetime] = []
    for run in runs:
        await run.result(20)
        at += [
            datetime.fromisoformat(event.time)
            async for event in run.history()
            if event.kind == "task-scheduled"
        ]
    at.sort()
    assert len(at) == 8
    for first, fourth in zip(at, at[3:], strict=False):
        assert fourth - first >= 0.75 * PER, at  # runs hear of their permits some milliseconds later
    assert len(floor.begun) == 8


# -- the permit comes back -----------------------------------------------------------------------------------------
async def fails(word: str) -> str:
    if word == "first":
        raise OSError("down")
    return word


async def hangs(word: str) -> str:
    if word == "first":
        await asyncio.sleep(60)
    return word


@pytest.mark.parametrize(
    ("definition", "does"),
    [
        (per_single, fails),
        (per_tried, fails),
        (per_dead, fails),
        (per_timed, hangs),
        (per_deadline, hangs),
    ],
    ids=["failed", "in its backoff", "dead", "timed out", "behind its deadline"],
)
async def test_who_does_not_work_any_more_keeps_nobody_waiting(
    engine: Engine, until: Until, definition: Any, does: Callable[[str], Awaitable[str]]
) -> None:
    floor.does = does
    await engine.worker(app)
    client = await engine.registered(definition, per_single)
    await client.start(definition, {"word": "first"})
    await until(lambda: floor.begun == ["first"], "it has its permit")
    assert await (await client.start(per_single, {"word": "second"})).result(10) == "second"
    await idle(client, until)


async def test_an_attempt_whose_worker_is_lost_keeps_its_permit_and_gives_it_back_when_it_is_done(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(per_single)
    run = await client.start(per_single, {"word": "first"})
    js = (await engine.nats()).jetstream()
    pull = await js.pull_subscribe_bind(f"task_{app.name}", stream=engine.names.shard_stream(0))
    (lost,) = await pull.fetch(1, timeout=8)
    other = await client.start(per_single, {"word": "second"})
    await queued(client, until, 1)
    await lost.nak()
    await engine.worker(app)
    assert await run.result(10) == "first"
    assert await other.result(10) == "second"
    assert (floor.begun, floor.most["single"]) == (["first", "second"], 1)
    await idle(client, until)


async def test_an_attempt_that_no_worker_takes_gives_its_permit_back_in_time(
    engine: Engine, until: Until
) -> None:
    client = await engine.registered(per_start, per_single)
    first = await client.start(per_start, {"word": "first"})
    second = await client.start(per_single, {"word": "second"})
    assert (await first.result(10)).startswith("late: ")
    await engine.worker(app)
    assert await second.result(10) == "second"
    assert floor.begun == ["second"]
    await idle(client, until)


async def test_a_run_that_is_stopped_while_it_waits_for_its_turn_keeps_nobody_else_waiting(
    engine: Engine, until: Until
) -> None:
    floor.does = wait_if_first
    await engine.worker(app)
    client = await engine.registered(per_single)
    await held(client, until)
    second = await client.start(per_single, {"word": "second"})
    await queued(client, until, 1)
    await second.stop("for a while")
    third = await client.start(per_single, {"word": "third"})
    floor.gate.set()
    assert await third.result(10) == "third"
    await second.resume()
    assert await second.result(10) == "second"
    await idle(client, until)


# -- which figures hold --------------------------------------------------------------------------------------------
def of(concurrency: int) -> Any:
    @task(name="issue-permits-changing", queue=app.name, concurrency=concurrency)
    async def changing(word: str) -> str:
        raise NotImplementedError

    @workflow(name="per-changing")
    async def per_changing(word: str) -> str:
        return await changing(word)

    return per_changing


@app.task(name="issue-permits-changing")
async def changing_handler(word: str) -> str:
    return await floor.work("changing", word)


async def test_a_version_with_another_figure_holds_for_runs_of_all_versions(
    engine: Engine, until: Until
) -> None:
    floor.does = wait_at_gate
    await engine.worker(app)
    client = await engine.registered(of(3))
    old = [await client.start("per-changing", {"word": f"old{n}"}) for n in range(3)]
    await until(lambda: len(floor.begun) == 3, "three of them work")
    await client.register(of(1))
    new = [await client.start("per-changing", {"word": f"new{n}"}) for n in range(2)]
    late = await client.start("per-changing@1", {"word": "late"})

    async def all_wait() -> bool:
        return await stands(client, 3, 3, "issue-permits-changing")

    await until(all_wait, "the others wait")
    assert len(floor.begun) == 3
    floor.most.clear()

    async def does(word: str) -> str:
        floor.most["alone"] = max(floor.most["alone"], floor.now["changing"] if word not in before else 0)
        return word

    before = set(floor.begun)
    floor.does = does
    floor.gate.set()
    for run in (*old, *new, late):
        await run.result(10)
    assert floor.most["alone"] == 1
    await idle(client, until, "issue-permits-changing")


async def test_a_failed_run_with_branches_leaves_no_permit_behind(engine: Engine, until: Until) -> None:
    async def does(word: str) -> str:
        raise OSError("down")

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(per_many)
    run = await client.start(per_many, {"words": ["a", "b", "c"]})
    with pytest.raises(RunFailed):
        await run.result(10)
    await idle(client, until)
