"""Child runs that nobody waits for, on the real engine: on one shard and on three, and across lost owners."""

from __future__ import annotations

import asyncio

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import App, ChildError, Event, gather, workflow

pytestmark = pytest.mark.anyio

app = App("alone")
packed = Event("packed", of=str)
over = Event("over")
noted: list[str] = []


@app.task
async def note(what: str) -> None:
    noted.append(what)


@workflow
async def ship(order: str) -> str:
    try:
        return f"{order} in {await packed.wait()}"
    finally:
        await note(f"done with {order}")


@workflow
async def sell(orders: list[str]) -> list[str]:
    return [*await gather(*(ship.options(run_id=f"ship-{each}").start(each) for each in orders))]


@workflow
async def sell_again(order: str) -> str:
    try:
        return await ship.options(run_id=f"ship-{order}").start(order)
    except ChildError as error:
        return str(error)


@workflow
async def guarded(order: str) -> str:
    first = await ship.options(run_id=f"{order}-gently", parent_close="request").start(order)
    await ship.options(run_id=f"{order}-at-once", parent_close="cancel").start(order)
    await ship.options(run_id=f"{order}-never").start(order)
    await over.wait()
    return first


async def status(client: Client, run_id: str) -> str:
    return (await client.get(run_id)).status


async def test_they_go_on_behind_other_owners_whatever_has_become_of_their_parent(sharded: Engine) -> None:
    client = await sharded.registered(ship, sell)
    await sharded.worker(app)
    orders = [f"o-{number}" for number in range(6)]
    handle = await client.start(sell, {"orders": orders})
    assert await handle.result(15) == [f"ship-{order}" for order in orders]
    assert (len({(await client.get(f"ship-{order}")).shard for order in orders}) > 1) is (sharded.shards > 1)
    await sharded.down()
    await sharded.up()
    assert (await client.get("ship-o-1")).parent == handle.run_id
    for order in orders:
        await client.post(f"ship-{order}", packed, "a box")
    for order in orders:
        view = await client.wait(f"ship-{order}", timeout_s=15)
        assert view.status == "completed"
    kinds = [event.kind async for event in client.history(handle.run_id)]
    assert kinds.count("child-started") == kinds.count("child-begun") == len(orders)
    assert kinds[-1] == "run-completed"
    assert "child-completed" not in kinds


async def test_an_id_that_is_taken_is_an_error_of_the_one_that_comes_second(sharded: Engine) -> None:
    client = await sharded.registered(ship, sell_again)
    await client.start(ship, {"order": "mine"}, run_id="ship-theirs")
    handle = await client.start(sell_again, {"order": "theirs"})
    assert "exists" in await handle.result(15)
    assert await status(client, "ship-theirs") == "running"


@pytest.mark.parametrize("end", ["completes", "is cancelled"])
async def test_what_becomes_of_them_with_their_parent(sharded: Engine, end: str) -> None:
    noted.clear()
    client = await sharded.registered(ship, guarded)
    await sharded.worker(app)
    handle = await client.start(guarded, {"order": "x"})

    async def waits() -> bool:
        return (await client.get(handle.run_id)).waiting_for == "event over"

    await until(waits, "all of them are there")
    await sharded.down()
    await sharded.up()
    if end == "completes":
        await client.post(handle.run_id, over)
        assert await handle.result(15) == "x-gently"
    else:
        await client.cancel(handle.run_id, "enough")

    async def ended() -> bool:
        return [await status(client, f"x-{each}") for each in ("gently", "at-once", "never")] == [
            "cancelled",
            "cancelled",
            "running",
        ]

    await until(ended, "two of them are cancelled")
    assert noted == ["done with x"]
    assert (await client.get("x-gently")).reason == f"run {handle.run_id} has ended"


async def test_one_that_has_ended_is_forgotten(sharded: Engine) -> None:
    client = await sharded.registered(ship, guarded)
    await sharded.worker(app)
    handle = await client.start(guarded, {"order": "y"})

    async def waits() -> bool:
        return (await client.get(handle.run_id)).waiting_for == "event over"

    await until(waits, "all of them are there")
    for each in ("gently", "at-once"):
        await client.post(f"y-{each}", packed, "a bag")
        assert (await client.wait(f"y-{each}", timeout_s=15)).status == "completed"
    await asyncio.sleep(0.2)
    await client.post(handle.run_id, over)
    await handle.result(15)
    kinds = [event.kind async for event in client.history("y-gently")]
    assert kinds[-1] == "run-completed"
