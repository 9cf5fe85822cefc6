"""Sleep, loops and errors inside a run, seen from outside."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from dressage.client import RunFailed
from dressage.flow import App, WorkflowFailure, sleep, workflow

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

app = App("control")


class Odd(WorkflowFailure): ...


class VeryOdd(Odd): ...


class Even(WorkflowFailure):
    n: int


@app.task
async def check(n: int) -> int:
    if n % 4 == 3:
        raise VeryOdd(f"{n} is very odd")
    if n % 2:
        raise Odd(f"{n} is odd")
    return n


@workflow
async def napping(seconds: float) -> str:
    await sleep(seconds)
    return "awake"


@workflow
async def delta() -> str:
    await sleep(timedelta(milliseconds=300))
    return "awake"


@workflow
async def divided(n: int) -> int:
    a = n + 1
    return a // n


@workflow
async def indexed(items: list[int], at: int) -> int:
    return items[at]


@workflow
async def keyed(items: dict[str, int], key: str) -> int:
    return items[key]


@workflow
async def endless(n: int) -> int:
    while True:
        n += 1


@workflow
async def counted(n: int) -> int:
    total, i = 0, 0
    while i < n:
        i += 1
        total += i
    return total


@workflow
async def huge_power(n: int) -> int:
    power: int = 10**n
    return power


@workflow
async def branched(n: int) -> str:
    try:
        await check(n)
    except VeryOdd as failure:
        return f"very: {failure.message}"
    except Odd as failure:
        return f"odd: {failure.message}"
    return "fine"


@workflow
async def anything(n: int) -> str:
    try:
        await check(n)
    except WorkflowFailure as failure:
        return f"{failure.name}"
    return "fine"


@workflow
async def uncaught(n: int) -> str:
    try:
        await check(n)
    except VeryOdd:
        return "very"
    return "fine"


@workflow
async def raising(n: int) -> str:
    raise Even(f"{n} is even", n=n)


def line_of(source: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.strip() == source)


async def slept(shared: Engine, run_id: str) -> timedelta:
    client = await shared.client()
    times = {event.kind: event.time async for event in client.history(run_id)}
    return datetime.fromisoformat(times["sleep-ended"]) - datetime.fromisoformat(times["sleep-started"])


async def test_a_sleep_is_not_early(sharded: Engine) -> None:
    client = await sharded.registered(napping)
    for n in range(5):
        await client.start(napping, {"seconds": 0.1 * n}, run_id=f"s{n}")
    for n in range(5):
        loop = asyncio.get_running_loop().time()
        await client.handle(f"s{n}").result(8)
        assert await slept(sharded, f"s{n}") >= timedelta(seconds=0.1 * n), loop


async def test_a_sleep_may_be_a_timedelta(shared: Engine) -> None:
    client = await shared.registered(delta)
    await (await client.start(delta, {}, run_id="delta")).result(5)
    assert timedelta(milliseconds=300) <= await slept(shared, "delta") < timedelta(seconds=3)


async def test_a_sleep_that_is_due_while_nobody_serves_ends_after_the_restart(sharded: Engine) -> None:
    client = await sharded.registered(napping)
    await client.start(napping, {"seconds": 0.5}, run_id="s")
    await sharded.down()
    await asyncio.sleep(0.7)
    await sharded.up()
    assert await client.handle("s").result(5) == "awake"
    assert await slept(sharded, "s") >= timedelta(seconds=0.5)


async def test_a_sleep_that_spans_a_restart_is_not_early(sharded: Engine) -> None:
    client = await sharded.registered(napping)
    await client.start(napping, {"seconds": 2.0}, run_id="s")
    await sharded.down()
    await sharded.up()
    assert (await client.get("s")).status == "running"
    assert await client.handle("s").result(6) == "awake"
    assert timedelta(seconds=2) <= await slept(sharded, "s") < timedelta(seconds=4)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_a_sleep_of_no_time_ends_at_once(shared: Engine, seconds: float) -> None:
    client = await shared.registered(napping)
    assert await (await client.start(napping, {"seconds": seconds})).result(5) == "awake"


@pytest.mark.parametrize("seconds", [1e9, 1e12, 1e18, 1e300])
async def test_a_sleep_of_ages_waits_or_fails_its_run_by_name(engine: Engine, seconds: float) -> None:
    client = await engine.registered(napping)
    await client.start(napping, {"seconds": seconds}, run_id="ages")
    view = await client.get("ages")
    assert view.status == "running" or (view.failure is not None and view.failure.kind != "failure"), view
    assert view.status != "engine-fault"
    assert await (await client.start(napping, {"seconds": 0.0})).result(4) == "awake"


@pytest.mark.parametrize(("n", "said"), [(2, "fine"), (3, "very: 3 is very odd"), (5, "odd: 5 is odd")])
async def test_the_first_matching_clause_takes_a_failure(shared: Engine, n: int, said: str) -> None:
    client = await shared.registered(branched)
    async with shared.working(app):
        assert await (await client.start(branched, {"n": n})).result(5) == said


@pytest.mark.parametrize(("n", "said"), [(3, "very-odd"), (5, "odd")])
async def test_workflow_failure_takes_every_business_failure(shared: Engine, n: int, said: str) -> None:
    client = await shared.registered(anything)
    async with shared.working(app):
        assert await (await client.start(anything, {"n": n})).result(5) == said


async def test_a_failure_that_no_clause_takes_ends_the_run_by_its_name(shared: Engine) -> None:
    client = await shared.registered(uncaught)
    async with shared.working(app):
        with pytest.raises(RunFailed, match="5 is odd") as caught:
            await (await client.start(uncaught, {"n": 5})).result(5)
    assert (caught.value.failure.name, caught.value.failure.kind) == ("odd", "failure")


async def test_a_raised_failure_ends_the_run_with_its_name_message_and_details(shared: Engine) -> None:
    client = await shared.registered(raising)
    with pytest.raises(RunFailed) as caught:
        await (await client.start(raising, {"n": 4})).result(5)
    failure = caught.value.failure
    assert (failure.name, failure.message, failure.kind) == ("even", "4 is even", "failure")
    assert isinstance(failure.details, msgspec.Raw)
    assert msgspec.json.decode(failure.details) == {"n": 4}


async def test_a_division_by_zero_fails_its_run_with_the_line(shared: Engine) -> None:
    client = await shared.registered(divided)
    with pytest.raises(RunFailed) as caught:
        await (await client.start(divided, {"n": 0})).result(5)
    assert caught.value.failure.kind == "expression-error"
    assert "ZeroDivisionError" in caught.value.failure.name + caught.value.message
    assert str(line_of("return a // n")) in caught.value.message


async def test_an_index_out_of_range_fails_its_run_with_the_line(shared: Engine) -> None:
    client = await shared.registered(indexed)
    with pytest.raises(RunFailed) as caught:
        await (await client.start(indexed, {"items": [1], "at": 5})).result(5)
    assert caught.value.failure.kind == "expression-error"
    assert "IndexError" in caught.value.failure.name + caught.value.message
    assert str(line_of("return items[at]")) in caught.value.message


async def test_a_missing_key_fails_its_run_with_the_key(shared: Engine) -> None:
    client = await shared.registered(keyed)
    with pytest.raises(RunFailed, match="nothing-here") as caught:
        await (await client.start(keyed, {"items": {}, "key": "nothing-here"})).result(5)
    assert "KeyError" in caught.value.failure.name + caught.value.message


async def test_a_power_beyond_the_limit_fails_its_run_by_limit(shared: Engine) -> None:
    client = await shared.registered(huge_power)
    with pytest.raises(RunFailed) as caught:
        await (await client.start(huge_power, {"n": 10**12})).result(5)
    assert caught.value.failure.kind in {"limit", "expression-error"}


async def test_an_expression_error_stops_no_other_run(sharded: Engine) -> None:
    client = await sharded.registered(divided)
    handles = [await client.start(divided, {"n": n % 2}) for n in range(12)]
    ended = await asyncio.gather(*(handle.result(5) for handle in handles), return_exceptions=True)
    assert [end == 2 for end in ended] == [bool(n % 2) for n in range(12)]
    assert sum(isinstance(end, RunFailed) for end in ended) == 6


async def test_an_endless_loop_stops_at_a_limit(engine: Engine) -> None:
    client = await engine.registered(endless)
    with pytest.raises(RunFailed) as caught:
        await (await client.start(endless, {"n": 0}, timeout_s=8)).result(8)
    assert caught.value.failure.kind == "limit"
    assert caught.value.failure.message


async def test_other_runs_go_on_beside_endless_loops(engine: Engine) -> None:
    client = await engine.registered(endless, napping)
    loops = [asyncio.create_task(client.start(endless, {"n": n}, run_id=f"loop-{n}")) for n in range(3)]
    good = await client.start(napping, {"seconds": 0.1}, timeout_s=8)
    assert await good.result(5) == "awake"
    for loop in loops:
        await loop
    for n in range(3):
        assert (await client.wait(f"loop-{n}", timeout_s=8)).status == "failed"


async def test_a_loop_of_a_hundred_turns_needs_no_waiting(shared: Engine) -> None:
    client = await shared.registered(counted)
    assert await (await client.start(counted, {"n": 100})).result(5) == 5050


async def test_a_loop_of_thousands_of_turns_is_whole_or_ends_by_limit(shared: Engine) -> None:
    client = await shared.registered(counted)
    handle = await client.start(counted, {"n": 3000}, run_id="long-loop", timeout_s=8)
    view = await client.wait("long-loop", timeout_s=8)
    assert view.status == "completed" or (view.failure is not None and view.failure.kind == "limit")
    indexes = [event.index async for event in handle.history()]
    assert indexes == list(range(view.events))
