"""Batches through the public API: a branch for each item, some at a time, in order, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunFailed
from dressage.flow import App, TaskError, WorkflowFailure, gather, sleep, workflow

pytestmark = pytest.mark.anyio


class Declined(WorkflowFailure):
    number: int


app = App("batches")
running: Counter[str] = Counter()
most: Counter[str] = Counter()


@app.task
async def charge(run: str, number: int) -> int:
    running[run] += 1
    most[run] = max(most[run], running[run])
    await asyncio.sleep(0.002)
    running[run] -= 1
    if number % 10 == 7:
        raise Declined(f"{number} is declined", number=number)
    return number


@workflow
async def charge_all(run: str, count: int, at_once: int) -> int:
    return sum(await gather(*(charge(run, 10 * n) for n in range(count)), limit=at_once))


@workflow
async def charge_most(run: str, count: int) -> list[str]:
    async def outcome(n: int) -> str:
        await sleep(0.01 * (n % 3))
        try:
            return f"{await charge(run, n)}"
        except Declined as declined:
            return f"not {declined.number}"

    return list(await gather(*[outcome(n) for n in range(count) if n != 5]))


@workflow
async def charge_or_tell(run: str, numbers: list[int]) -> str:
    told = "all"
    try:
        await gather(*(charge(run, number) for number in numbers), limit=2)
    except* Declined as declined:
        told = f"{len(declined.exceptions)} of {len(numbers)}"
    except* TaskError:
        told = "down"
    return told


async def ended_of(client: Client, run_id: str) -> int:
    return sum([1 async for event in client.history(run_id) if event.kind == "branch-ended"])


async def test_a_batch_gives_its_results_in_order_and_never_runs_more_than_its_limit(sharded: Engine) -> None:
    client = await sharded.registered(charge_all)
    await sharded.worker(app)
    for run_id, count, at_once in (("a", 60, 7), ("b", 5, 100), ("c", 1, 1), ("d", 0, 3)):
        name = f"{sharded.namespace}-{run_id}"
        handle = await client.start(
            charge_all, {"run": name, "count": count, "at_once": at_once}, run_id=run_id
        )
        assert await handle.result(20) == sum(10 * n for n in range(count))
        assert most[name] <= min(at_once, count)


async def test_what_fails_in_a_batch_is_data_where_the_branch_takes_it(sharded: Engine) -> None:
    client = await sharded.registered(charge_most)
    await sharded.worker(app)
    handle = await client.start(charge_most, {"run": "most", "count": 30}, run_id="r")
    wanted = [f"not {n}" if n % 10 == 7 else f"{n}" for n in range(30) if n != 5]
    assert await handle.result(20) == wanted


async def test_what_nobody_takes_is_raised_as_one_group_when_all_have_ended(engine: Engine) -> None:
    client = await engine.registered(charge_or_tell, charge_all)
    await engine.worker(app)
    handle = await client.start(charge_or_tell, {"run": "tell", "numbers": [1, 7, 17, 3]}, run_id="r")
    assert await handle.result(20) == "2 of 4"
    assert await ended_of(client, "r") == 4
    wrong = await client.start(charge_all, {"run": "zero", "count": 3, "at_once": 0}, run_id="w")
    with pytest.raises(RunFailed, match="a limit is a number of branches, 1 or more, and not 0"):
        await wrong.result(20)


async def test_a_batch_goes_on_where_it_was_when_its_owner_comes_back(sharded: Engine) -> None:
    client = await sharded.registered(charge_all)
    await sharded.worker(app)
    given = {"run": f"again-{sharded.namespace}", "count": 400, "at_once": 20}
    handle = await client.start(charge_all, given, run_id="r")
    for done in (40, 160):

        async def so_far(done: int = done) -> bool:
            return await ended_of(client, "r") >= done

        await until(so_far, f"{done} branches have ended", 30)
        await sharded.down()
        await sharded.up()
    assert await handle.result(60) == sum(10 * n for n in range(400))
    events = [event async for event in client.history("r")]
    kinds = Counter(event.kind for event in events)
    assert kinds["branch-started"] == kinds["branch-ended"] == kinds["task-completed"] == 400
    places = [msgspec.json.decode(event.data)["branch"] for event in events if event.kind == "branch-started"]
    assert places == list(range(400))


async def test_how_far_a_batch_is_can_be_read(engine: Engine) -> None:
    client = await engine.registered(charge_all)
    handle = await client.start(charge_all, {"run": "read", "count": 50, "at_once": 4}, run_id="r")

    async def waits() -> bool:
        waiting = (await handle.state()).waiting_for
        return "branches, of which 0 of 50 have ended" in waiting and "4 times" in waiting

    await until(waits, "the batch is seen")
    await engine.worker(app)
    assert await handle.result(20) == sum(10 * n for n in range(50))
