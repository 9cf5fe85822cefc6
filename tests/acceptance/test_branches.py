"""Branches on the engine itself: real workers, a new owner while they wait, and what readers see of them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from dressage.client import RunFailed
from dressage.flow import App, WorkflowFailure, gather, sleep, workflow

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

Until = Callable[..., Awaitable[None]]

app = App("branches")


class Refused(WorkflowFailure): ...


@dataclass
class Gates:
    """What the tasks wait for: those of an item go on when its gate is open."""

    open: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    begun: Counter[str] = field(default_factory=Counter[str])

    def of(self, item: str) -> asyncio.Event:
        return self.open.setdefault(item, asyncio.Event())


gates = Gates()


@app.task
async def make(item: str) -> str:
    gates.begun[item] += 1
    await gates.of(item).wait()
    return item.upper()


@app.task
async def refuse(item: str) -> str:
    raise Refused(item)


async def packed(item: str) -> str:
    made = await make(f"{item}-a")
    other = await make(f"{item}-b")
    return f"{made}+{other}"


@workflow
async def packing(item: str) -> list[str]:
    first, second, _ = await gather(packed(item), make(f"{item}-c"), sleep(0.2))
    return [first, second]


@workflow
async def refusing(item: str) -> str:
    first, _ = await gather(make(item), refuse("no"))
    return first


async def test_branches_run_side_by_side_and_their_results_are_in_order(
    sharded: Engine, until: Until
) -> None:
    item = f"side{sharded.shards}"
    client = await sharded.registered(packing)
    await sharded.worker(app)
    handle = await client.start(packing, {"item": item})
    await until(lambda: gates.begun.keys() >= {f"{item}-a", f"{item}-c"}, "two tasks of one run at a time")
    for part in "cab":
        gates.of(f"{item}-{part}").set()
    assert await handle.result(10) == [f"{item}-a+{item}-b".upper(), f"{item}-c".upper()]


async def test_branches_wait_on_with_a_new_owner_and_each_result_is_applied_once(
    sharded: Engine, until: Until
) -> None:
    """While one task is with a worker and another was called, after the timer has fired."""
    item = f"owner{sharded.shards}"
    client = await sharded.registered(packing)
    await sharded.worker(app)
    handle = await client.start(packing, {"item": item})
    gates.of(f"{item}-a").set()
    await until(lambda: gates.begun.keys() >= {f"{item}-b", f"{item}-c"}, "both branches wait for a task")
    await sharded.down()
    gates.of(f"{item}-c").set()
    await sharded.up()
    gates.of(f"{item}-b").set()
    assert await handle.result(20) == [f"{item}-a+{item}-b".upper(), f"{item}-c".upper()]
    told = [(event.kind, json.loads(bytes(event.data))) async for event in handle.history()]
    ended = [data["branch"] for kind, data in told if kind == "branch-ended"]
    assert sorted(ended) == [0, 1, 2]
    completed = [data["task_id"] for kind, data in told if kind == "task-completed"]
    assert len(completed) == len(set(completed)) == 3


async def test_readers_see_what_every_branch_waits_for_and_history_tells_of_each(
    shared: Engine, until: Until
) -> None:
    client = await shared.registered(packing)
    await shared.worker(app)
    handle = await client.start(packing, {"item": "seen"})
    gates.of("seen-a").set()
    await until(lambda: "seen-b" in gates.begun, "the second task of the first branch")

    async def has_slept() -> bool:
        return "; time 2" not in (await handle.state()).waiting_for

    await until(has_slept, "the sleep is over")
    assert (await handle.state()).waiting_for == "task make (attempt 1) on queue branches, 2 times"
    shown = await dressage(shared, "run", "get", handle.run_id)
    assert "task make (attempt 1) on queue branches, 2 times" in shown
    for part in "bc":
        gates.of(f"seen-{part}").set()
    await handle.result(10)
    told = [(event.kind, json.loads(bytes(event.data))) async for event in handle.history()]
    started = [(data["branch"], data["thread"]) for kind, data in told if kind == "branch-started"]
    assert started == [(0, 1), (1, 2), (2, 3)]
    history = await dressage(shared, "run", "history", handle.run_id)
    assert "branch 3" in history
    assert history.count("branch-started") == history.count("branch-ended") == 3


async def test_a_failure_of_a_branch_waits_for_the_others(shared: Engine, until: Until) -> None:
    client = await shared.registered(refusing)
    await shared.worker(app)
    handle = await client.start(refusing, {"item": "late"})

    async def one_has_failed() -> bool:
        events = [event async for event in handle.history()]
        return any(event.kind == "branch-ended" for event in events)

    await until(one_has_failed, "the branch that was refused has ended")
    assert (await handle.state()).status == "running"
    gates.of("late").set()
    with pytest.raises(RunFailed) as caught:
        await handle.result(10)
    failure = caught.value.failure
    assert failure.kind == "group"
    assert [(each.name, each.message) for each in failure.causes] == [("refused", "no")]
    assert "branches failed (1 sub-exception): refused: no" in await dressage(
        shared, "run", "get", handle.run_id
    )


async def dressage(engine: Engine, *arguments: str) -> Any:
    where = ("--server", engine.url, "--namespace", engine.namespace)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dressage.cli.main", *arguments, *where),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    return said.decode()
