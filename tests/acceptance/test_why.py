"""`dressage why`: what a run waits for, since when, what failed last, at which line, and what would move it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.cli.why import told
from dressage.client import Client
from dressage.flow import (
    App,
    Event,
    Exponential,
    Searchable,
    UserTask,
    WorkflowFailure,
    gather,
    sleep,
    wait_until,
    workflow,
)
from dressage.protocol.commands import RunWaits
from dressage.protocol.errors import NotFound

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

app = App("why-payments")
gate = asyncio.Event()
answered = Event("why-answered", of=int)
paid = Event("why-paid", of=int)


@app.task(retries=1, backoff=Exponential(base=timedelta(milliseconds=10)), exhausted="wait")
async def charge(order: str) -> str:
    if order.startswith("slow"):
        await asyncio.wait_for(gate.wait(), 30)
    raise OSError(f"the provider does not take {order}")


@workflow(name="why-order")
async def of_order(name: str) -> str:
    return await charge(name)


@dataclass
class Approval:
    ok: bool


@dataclass
class WhyView:
    votes: Searchable[int] = 0


approve = UserTask("why-approve", form=Approval)


@workflow(name="why-child")
async def child() -> int:
    return await answered.wait(timeout=timedelta(days=2))


@workflow(name="why-all")
async def everything(customer: str) -> None:
    view = WhyView()

    async def enough() -> None:
        await wait_until(lambda: view.votes > 2)

    await gather(
        answered.wait(),
        paid.wait(key=customer),
        sleep(3600),
        enough(),
        approve.assign(group="finance"),
        child(),
    )


@workflow(name="why-wide")
async def wide() -> None:
    await gather(*(sleep(1000 + number) for number in range(150)))


class NoSuch(WorkflowFailure): ...


@workflow(name="why-failing")
async def failing(name: str) -> str:
    raise NoSuch(f"no {name} here")


async def why(client: Client, run_id: str) -> tuple[RunWaits, str]:
    found = await client.waits(run_id)
    registered = await client.registry.get(found.run.workflow, found.run.version)
    events = [event async for event in client.history(run_id)]
    return found, "\n".join(told(found, registered.spec, events, datetime.now(UTC)))


def line_of(text: str) -> int:
    """Where this file has the text, in the first line that has it."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


async def test_a_task_that_nobody_asks_for(engine: Engine) -> None:
    client = await engine.registered(of_order)
    await client.start(of_order, {"name": "a"}, run_id="why-1")
    found, text = await why(client, "why-1")
    [wait] = found.waits
    assert (wait.kind, wait.what, wait.attempt, wait.thread) == ("task", "charge", 1, 0)
    assert wait.line == line_of("    return await charge(name)")
    [demand] = found.queues
    assert (demand.queue, demand.asking, demand.under_way) == ("why-payments", 0, 0)
    assert "the run itself waits for task charge, attempt 1, since " in text
    assert f"line {wait.line} of {__name__}: return await charge(name)" in text
    assert "no worker asks for tasks of queue why-payments: start one, `dressage worker APP`" in text


async def test_a_task_that_workers_have_and_one_that_is_dead(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(of_order)
    await client.start(of_order, {"name": "slow"}, run_id="why-2")
    await client.start(of_order, {"name": "b"}, run_id="why-3")

    async def is_dead() -> bool:
        return bool((await client.get("why-3")).dead_tasks)

    await until(is_dead, "why-3 has a dead task", 20)

    async def is_under_way() -> bool:
        [demand] = (await client.waits("why-2")).queues
        return demand.under_way == 1 and demand.asking > 0

    await until(is_under_way, "why-2 is with a worker that asks for more", 20)
    _, text = await why(client, "why-2")
    gate.set()
    assert "workers ask for tasks of queue why-payments: 1 attempt is under way" in text
    found, text = await why(client, "why-3")
    [wait] = found.waits
    assert (wait.kind, wait.attempt) == ("dead-task", 2)
    assert "has failed with OSError: the provider does not take b\n" in text
    assert f"`dressage task retry why-3 {wait.id}` tries it again" in text
    await client.fail_task("why-3", wait.id)

    async def has_failed() -> bool:
        return (await client.get("why-3")).status == "failed"

    await until(has_failed, "why-3 has failed")
    found, text = await why(client, "why-3")
    assert found.waits == ()
    assert "run why-3 of why-order version 1 has failed " in text
    assert "it came from attempt 2 of task charge of worker " in text


async def test_all_else_that_a_run_can_wait_for_and_who_has_stopped_it(engine: Engine) -> None:
    client = await engine.registered(child, everything)
    await client.start(everything, {"customer": "ann"}, run_id="why-4")

    async def all_wait() -> bool:
        found = await client.waits("why-4")
        return len(found.waits) == 6

    await until(all_wait, "six branches wait")
    found, text = await why(client, "why-4")
    kinds = {wait.kind: wait for wait in found.waits}
    assert set(kinds) == {"event", "sleep", "condition", "user-task", "child"}
    assert sorted(wait.key for wait in found.waits if wait.kind == "event") == ["", "ann"]
    assert all(wait.thread for wait in found.waits)
    assert kinds["condition"].what == "view.votes > 2"
    assert "`dressage run post why-4 why-answered PAYLOAD` lets it go on" in text
    assert "`dressage event post why-paid ann PAYLOAD` lets it go on" in text
    assert f"`dressage user-task complete why-4 {kinds['user-task'].id} VALUES` lets it go on" in text
    assert f"waits for a time, until {kinds['sleep'].until}" in text
    assert f"`dressage why {kinds['child'].id}` says why that has not ended" in text
    await client.stop("why-4", "an audit", actor="eve")
    _, text = await why(client, "why-4")
    assert "it is stopped by eve since " in text
    assert "because of 'an audit': `dressage run resume why-4` lets it go on" in text
    below, text = await why(client, kinds["child"].id)
    assert below.waits[0].until != ""
    assert f"until {below.waits[0].until}" in text


async def test_of_a_wide_run_some_are_told_and_the_number_of_the_others(engine: Engine) -> None:
    client = await engine.registered(wide)
    await client.start(wide, {}, run_id="why-5")
    found, text = await why(client, "why-5")
    assert (len(found.waits), found.more) == (50, 50)
    assert text.endswith("and 50 more run threads wait")


async def test_one_that_has_ended_and_one_that_is_not_there(engine: Engine) -> None:
    client = await engine.registered(failing)
    handle = await client.start(failing, {"name": "b"}, run_id="why-6")
    await client.wait("why-6")
    _, text = await why(client, handle.run_id)
    assert "no-such: no b here" in text
    with pytest.raises(NotFound) as caught:
        await client.waits("nobody")
    assert caught.value.code == "RUN_UNKNOWN"


async def test_it_is_answered_to_any_language_and_in_the_shell(engine: Engine, start: Start) -> None:
    client = await engine.registered(of_order)
    await client.start(of_order, {"name": "a"}, run_id="why-7")
    asked = json.dumps({"run_id": "why-7"}).encode()
    answer: dict[str, Any] = msgspec.json.decode(
        await client.connection.request(engine.names.api("waits"), asked, 5)
    )
    assert answer["ok"]
    assert answer["waits"]["waits"][0]["what"] == "charge"
    options = ("--server", engine.url, "--namespace", engine.namespace)
    for more, shown in (((), "waits for task charge, attempt 1"), (("--json",), '"queues":[{')):
        program = start("why", "why-7", *options, *more)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        assert shown in program.said
    program = start("why", "nobody", *options)
    assert await asyncio.to_thread(program.ended) == 1
    assert "RUN_UNKNOWN" in program.said
