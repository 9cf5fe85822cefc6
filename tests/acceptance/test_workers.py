"""Workers inside this process: types, threads, limits, failures and retries."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.client import RunFailed
from dressage.flow import App, Exponential, WorkflowFailure, task, workflow
from dressage.worker import current_task

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Refusal(WorkflowFailure): ...


class Stolen(Refusal):
    card: str


@dataclass
class Line:
    item: str
    price: Decimal
    size: Size
    at: datetime
    tags: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """What the handlers of this module saw, reset for each test."""

    calls: list[tuple[str, float, int]] = field(default_factory=list[tuple[str, float, int]])
    values: list[Any] = field(default_factory=list[Any])
    threads: set[int] = field(default_factory=set[int])
    running: int = 0
    most: int = 0
    keys: list[str] = field(default_factory=list[str])

    def of(self, name: str) -> list[float]:
        return [at for called, at, _ in self.calls if called == name]


app = App("working")
seen = Seen()


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.__init__()  # type: ignore[misc]


def note(name: str) -> None:
    seen.calls.append((name, time.monotonic(), current_task().attempt))
    seen.keys.append(current_task().idempotency_key)


@app.task
async def take(line: Line, when: datetime, amount: Decimal, size: Size) -> Decimal:
    note("take")
    seen.values.append((line, when, amount, size))
    return line.price * amount


@workflow
async def typed(line: Line, when: datetime, amount: Decimal, size: Size) -> Decimal:
    return await take(line, when, amount, size)


@app.task
async def short(n: int) -> int:
    seen.running += 1
    seen.most = max(seen.most, seen.running)
    await asyncio.sleep(0.05)
    seen.running -= 1
    return n


@workflow
async def shorts(n: int) -> int:
    return await short(n)


@app.task
def blocking(n: int) -> int:
    seen.threads.add(threading.get_ident())
    note("blocking")
    time.sleep(0.2)
    return n


@workflow
async def blocked(n: int) -> int:
    return await blocking(n)


@app.task(retries=5, backoff=Exponential(base=timedelta(milliseconds=10)))
async def declining(kind: str) -> str:
    note("declining")
    if kind == "stolen":
        raise Stolen("it is stolen", card=kind)
    raise Refusal("no")


@workflow
async def declined(kind: str) -> str:
    return await declining(kind)


@workflow
async def guarded(kind: str) -> str:
    try:
        return await declining(kind)
    except Refusal as failure:
        return f"caught {failure.name}: {failure.message}"


@app.task(retries=3, backoff=Exponential(base=timedelta(milliseconds=200), factor=2.0))
async def flaky(until_attempt: int) -> str:
    note("flaky")
    if current_task().attempt < until_attempt:
        raise OSError("the line is down")
    return "through"


@workflow
async def stubborn(until_attempt: int) -> str:
    return await flaky(until_attempt)


@workflow
async def unretried(until_attempt: int) -> str:
    return await flaky.options(retries=0)(until_attempt)


@task(queue="working")
async def lying(n: int) -> int:
    raise NotImplementedError


def lie(n: int) -> int:
    note("lying")
    wrong: Any = "text"
    return wrong  # type: ignore[no-any-return]


app.register(lying, lie)


@workflow(retries=5)
async def lied(n: int) -> int:
    return await lying(n)


@app.task
async def huge(n: int) -> str:
    note("huge")
    return "x" * n


@workflow(retries=2)
async def enlarged(n: int) -> int:
    text = await huge(n)
    return len(text)


@task(queue="working")
async def forgotten(n: int) -> int:
    raise NotImplementedError


@workflow
async def orphaned(n: int) -> int:
    return await forgotten(n)


LINE = {"item": "lamp", "price": "2.50", "size": "large", "at": "2024-02-29T12:00:00Z", "tags": ["a"]}


async def test_arguments_arrive_as_the_declared_types(shared: Engine) -> None:
    client = await shared.registered(typed)
    await shared.worker(app)
    given = {"line": LINE, "when": "2024-01-01T00:00:00+02:00", "amount": "3", "size": "small"}
    assert await (await client.start(typed, given)).result(5) == Decimal("7.50")
    line, when, amount, size = seen.values[0]
    assert line == Line("lamp", Decimal("2.50"), Size.LARGE, datetime(2024, 2, 29, 12, tzinfo=UTC), ["a"])
    assert when == datetime.fromisoformat("2024-01-01T00:00:00+02:00")
    assert (amount, size) == (Decimal(3), Size.SMALL)


async def test_typed_python_values_are_taken_as_input(shared: Engine) -> None:
    client = await shared.registered(typed)
    await shared.worker(app)
    line = Line("lamp", Decimal("2.50"), Size.LARGE, datetime(2024, 2, 29, 12, tzinfo=UTC))
    given = {"line": line, "when": line.at, "amount": Decimal(2), "size": Size.LARGE}
    assert await (await client.start(typed, given)).result(5) == Decimal("5.00")
    assert seen.values[0][0] == line


async def test_no_more_handlers_run_at_a_time_than_the_limit(shared: Engine) -> None:
    client = await shared.registered(shorts)
    await shared.worker(app, concurrency=3)
    handles = await asyncio.gather(*(client.start(shorts, {"n": n}) for n in range(20)))
    assert sorted(await asyncio.gather(*(handle.result(8) for handle in handles))) == list(range(20))
    assert seen.most == 3


async def test_the_limit_holds_over_all_shards_together(sharded: Engine) -> None:
    client = await sharded.registered(shorts)
    await sharded.worker(app, concurrency=4)
    handles = await asyncio.gather(*(client.start(shorts, {"n": n}) for n in range(24)))
    await asyncio.gather(*(handle.result(8) for handle in handles))
    assert seen.most == 4


async def test_plain_functions_run_in_threads_beside_each_other(shared: Engine) -> None:
    client = await shared.registered(blocked)
    await shared.worker(app, concurrency=8)
    handles = await asyncio.gather(*(client.start(blocked, {"n": n}) for n in range(8)))
    await asyncio.gather(*(handle.result(5) for handle in handles))
    began = seen.of("blocking")
    assert threading.get_ident() not in seen.threads
    assert max(began) - min(began) < 0.8, (
        "eight of 0.2 s each, one after the other, take 1.4 s from first to last"
    )
    assert len(seen.threads) > 1


async def test_a_business_failure_is_not_retried(shared: Engine) -> None:
    client = await shared.registered(declined)
    await shared.worker(app)
    with pytest.raises(RunFailed, match="it is stolen") as caught:
        await (await client.start(declined, {"kind": "stolen"})).result(5)
    assert (caught.value.failure.name, caught.value.failure.kind) == ("stolen", "failure")
    assert "refusal" in caught.value.failure.family
    assert len(seen.calls) == 1


@pytest.mark.parametrize(
    ("kind", "said"), [("stolen", "caught stolen: it is stolen"), ("x", "caught refusal: no")]
)
async def test_a_failure_is_caught_by_its_family(shared: Engine, kind: str, said: str) -> None:
    client = await shared.registered(guarded)
    await shared.worker(app)
    assert await (await client.start(guarded, {"kind": kind})).result(5) == said


async def test_a_technical_error_is_retried_until_it_passes(shared: Engine) -> None:
    client = await shared.registered(stubborn)
    await shared.worker(app)
    assert await (await client.start(stubborn, {"until_attempt": 3}, run_id="r")).result(6) == "through"
    assert [attempt for _, _, attempt in seen.calls] == [1, 2, 3]
    failed = [event async for event in client.history("r") if event.kind == "task-failed"]
    assert len(failed) == 2


async def test_the_waits_between_attempts_grow_and_none_is_early(shared: Engine) -> None:
    client = await shared.registered(stubborn)
    await shared.worker(app)
    await (await client.start(stubborn, {"until_attempt": 4})).result(9)
    first, second, third, fourth = seen.of("flaky")
    waits = [second - first, third - second, fourth - third]
    for wait, least in zip(waits, (0.18, 0.36, 0.72), strict=True):
        assert wait >= least, waits
    assert waits[0] < waits[1] < waits[2]


async def test_the_waits_of_different_runs_are_spread(shared: Engine) -> None:
    client = await shared.registered(stubborn)
    await shared.worker(app)
    handles = [await client.start(stubborn, {"until_attempt": 2}) for _ in range(12)]
    await asyncio.gather(*(handle.result(8) for handle in handles))
    delays: set[float] = set()
    for handle in handles:
        async for event in handle.history():
            if event.kind == "task-scheduled" and b'"delay_s":0.0' not in bytes(event.data):
                delays.add(msgspec.json.decode(event.data)["delay_s"])
    assert len(delays) > 6
    assert all(0.18 <= delay <= 0.22 for delay in delays)


async def test_all_attempts_of_a_call_have_one_idempotency_key(shared: Engine) -> None:
    client = await shared.registered(stubborn)
    await shared.worker(app)
    await (await client.start(stubborn, {"until_attempt": 2})).result(5)
    assert len(seen.keys) == 2
    assert len(set(seen.keys)) == 1


async def test_exhausted_retries_fail_the_run_with_the_error_by_name(shared: Engine) -> None:
    client = await shared.registered(unretried)
    await shared.worker(app)
    with pytest.raises(RunFailed, match="the line is down") as caught:
        await (await client.start(unretried, {"until_attempt": 9})).result(5)
    assert caught.value.failure.kind == "task-error"
    assert "OSError" in caught.value.message + caught.value.failure.name
    assert len(seen.calls) == 1


async def test_the_number_of_attempts_is_one_more_than_the_retries(shared: Engine) -> None:
    client = await shared.registered(stubborn)
    await shared.worker(app)
    with pytest.raises(RunFailed):
        await (await client.start(stubborn, {"until_attempt": 99})).result(9)
    assert len(seen.calls) == 4


async def test_a_result_of_a_wrong_type_fails_the_run_and_is_not_retried(shared: Engine) -> None:
    client = await shared.registered(lied)
    await shared.worker(app)
    with pytest.raises(RunFailed, match="lying") as caught:
        await (await client.start(lied, {"n": 1})).result(5)
    assert caught.value.failure.kind == "type-error"
    assert len(seen.calls) == 1


@pytest.mark.parametrize("size", [500_000, 1_100_000, 2_000_000])
async def test_a_large_result_is_applied_or_fails_the_run_by_name_and_others_go_on(
    engine: Engine, size: int
) -> None:
    client = await engine.registered(enlarged, shorts)
    await engine.worker(app)
    try:
        handle = await client.start(enlarged, {"n": size}, run_id="large")
        view = await client.wait("large", timeout_s=5)
        assert (view.status == "completed") or (view.failure is not None and view.failure.message != "")
        assert await (await client.start(shorts, {"n": 3})).result(3) == 3
        await engine.down()
        await engine.up()
        assert await (await client.start(shorts, {"n": 4})).result(3) == 4
        assert handle.run_id == "large"
    finally:
        crash = engine.crash()
    assert crash is None


async def test_a_task_without_a_handler_stops_no_other_task_of_its_queue(engine: Engine) -> None:
    client = await engine.registered(orphaned, shorts)
    await engine.worker(app, concurrency=2)
    for n in range(5):
        await client.start(orphaned, {"n": n}, run_id=f"orphan-{n}")
    assert await (await client.start(shorts, {"n": 3})).result(5) == 3
    assert (await client.get("orphan-0")).status == "running"


async def test_a_task_without_a_handler_here_is_executed_by_a_worker_that_has_one(
    engine: Engine, until: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    client = await engine.registered(orphaned)
    handle = await client.start(orphaned, {"n": 4})
    async with engine.working(app):
        await until(lambda: "forgotten" in caplog.text, "it is put back, and the log names it")
    other = App("working")

    async def found(n: int) -> int:
        return n + 1

    other.register(forgotten, found)
    await engine.worker(other)
    assert await handle.result(9) == 5


async def test_two_workers_share_the_tasks(shared: Engine) -> None:
    client = await shared.registered(shorts)
    await shared.worker(app, concurrency=2, identity="one")
    await shared.worker(app, concurrency=2, identity="two")
    handles = await asyncio.gather(*(client.start(shorts, {"n": n}) for n in range(30)))
    await asyncio.gather(*(handle.result(8) for handle in handles))
    said: list[bytes] = []
    for handle in handles:
        said += [bytes(event.data) async for event in handle.history() if event.kind == "task-completed"]
    assert len(said) == 30
    assert any(b'"one' in data for data in said)
    assert any(b'"two' in data for data in said)


async def test_work_waits_for_workers(engine: Engine) -> None:
    client = await engine.registered(shorts)
    handle = await client.start(shorts, {"n": 3})
    assert (await handle.state()).status == "running"
    await engine.worker(app)
    assert await handle.result(5) == 3


async def test_a_stopped_worker_finishes_what_runs_and_takes_no_more(
    engine: Engine, until: Callable[..., Awaitable[None]]
) -> None:
    client = await engine.registered(blocked)
    async with engine.working(app, concurrency=1) as worker:
        handles = [await client.start(blocked, {"n": n}) for n in range(4)]
        await until(lambda: len(seen.calls) == 1, "one runs")
        worker.stop()
    count = len(seen.calls)
    assert count <= 2

    async def applied() -> bool:
        return [(await handle.state()).status for handle in handles].count("completed") == count

    await until(applied, "the result of what ran is applied")
    await engine.worker(app)
    assert [await handle.result(5) for handle in handles] == [0, 1, 2, 3]
    assert len(seen.calls) == 4


async def test_a_worker_goes_on_after_a_restart_of_the_orchestrator(sharded: Engine) -> None:
    client = await sharded.registered(shorts)
    await sharded.worker(app)
    await sharded.down()
    await sharded.up()
    assert await (await client.start(shorts, {"n": 3})).result(5) == 3


async def test_a_task_dispatched_with_missing_arguments_fails_its_run_without_retry(shared: Engine) -> None:
    """A spec that another language wrote may call a task wrongly; the worker refuses the types."""
    client = await shared.registered(lied)
    spec = json.loads(lied.spec.encode())
    spec["name"] = "called-wrongly"
    spec["tasks"][0]["params"][0]["type"] = json.loads(typed.spec.encode())["params"][2]["type"]
    spec["params"][0]["type"] = spec["tasks"][0]["params"][0]["type"]
    answer = await shared.call("put-workflow", {"spec": spec})
    assert answer["ok"], answer
    await shared.worker(app)
    with pytest.raises(RunFailed, match="lying") as caught:
        await (await client.start("called-wrongly", {"n": "1.5"})).result(5)
    assert caught.value.failure.kind == "type-error"
    assert seen.calls == []
