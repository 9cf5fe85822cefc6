"""Child workflows, as the issue asks for them: awaited and detached, with an id of their own, what closes them, how
their failures are seen, how deep they go, and where they are listed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import ChildRun, Client, RunFailed
from dressage.flow import (
    App,
    ChildError,
    Event,
    Masked,
    TaskError,
    WorkflowFailure,
    first_completed,
    gather,
    inherited,
    workflow,
)
from dressage.protocol.events import decode_data

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

app = App("issue-children")
go = Event("go", of=str)
end = Event("end")

done: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


class SoldOut(WorkflowFailure):
    left: int = 0


@app.task
async def keep(text: str) -> str:
    done.append(text)
    return text


@app.task
async def broken() -> str:
    raise OSError("no such disk")


@workflow
async def issue_child(name: str, greeting: str = "hello") -> str:
    try:
        return f"{greeting} {await go.wait()}"
    finally:
        await keep(f"{name} has tidied up")


@workflow
async def issue_parent(name: str) -> str:
    try:
        got = await issue_child(name)
    except ChildError as error:
        return f"child: {error}"
    return f"parent of {got}"


@workflow
async def issue_sold_out() -> str:
    raise SoldOut("nothing left", left=3)


@workflow
async def issue_broken() -> str:
    return await broken()


@workflow
async def issue_endless() -> str:
    count = 0
    while count >= 0:
        count += 1
    return ""


@workflow
async def issue_failures(which: str) -> str:
    try:
        if which == "business":
            return await issue_sold_out()
        if which == "limit":
            return await issue_endless()
        return await issue_broken()
    except SoldOut as failure:
        return f"sold out, {failure.left} left"
    except ChildError:
        return "child error"
    except TaskError as error:
        return f"task error: {error}"


@workflow
async def issue_unsaved() -> str:
    return await issue_sold_out()


@workflow
async def issue_detacher(close: str, run_id: str | None) -> str:
    if close == "abandon":
        child = await issue_child.options(run_id=run_id, parent_close="abandon").start("kept")
    elif close == "request":
        child = await issue_child.options(run_id=run_id, parent_close="request").start("asked")
    elif close == "cancel":
        child = await issue_child.options(run_id=run_id, parent_close="cancel").start("cut")
    else:
        child = await issue_child.options(run_id=run_id).start("without a word")
    await end.wait()
    return child


@workflow
async def issue_taken(run_id: str) -> str:
    try:
        return await issue_child.options(run_id=run_id).start("mine")
    except ChildError as error:
        return f"taken: {error}"


@workflow
async def issue_racer() -> str:
    match await first_completed(issue_child("loser"), go.wait()):
        case 0, _:
            return "child"
        case _, name:
            return f"event {name}"


@workflow
async def issue_level_8(number: int) -> str:
    return f"bottom {number}"


@workflow
async def issue_level_7(number: int) -> str:
    return await issue_level_8(number)


@workflow
async def issue_level_6(number: int) -> str:
    return await issue_level_7(number)


@workflow
async def issue_level_5(number: int) -> str:
    return await issue_level_6(number)


@workflow
async def issue_level_4(number: int) -> str:
    return await issue_level_5(number)


@workflow
async def issue_level_3(number: int) -> str:
    return await issue_level_4(number)


@workflow
async def issue_level_2(number: int) -> str:
    return await issue_level_3(number)


@workflow
async def issue_level_1(number: int) -> str:
    return await issue_level_2(number)


@workflow
async def issue_level_0(number: int) -> str:
    return await issue_level_1(number)


@workflow
async def issue_level_above(number: int) -> str:
    return await issue_level_0(number)


@workflow
async def issue_many(count: int) -> list[str]:
    async def one(number: int) -> str:
        return await issue_level_8(number)

    return [*await gather(*(one(number) for number in range(count)), limit=3)]


async def child_of(client: Client, run_id: str, kind: str = "child-started") -> str:
    event = await client.wait_for_event(run_id, kind, timeout_s=10)
    child: str = decode_data(event).run_id  # type: ignore[union-attr]
    return child


async def test_a_child_is_a_run_of_its_own_and_its_parent_awaits_it(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(issue_parent)
    run = await client.start(issue_parent, {"name": "c"}, run_id="issue-parent-1")
    child = await child_of(client, run.run_id)
    view = await client.get(child)
    assert (view.workflow, view.parent, view.status) == ("issue-child", run.run_id, "running")
    assert child in (await run.state()).waiting_for
    assert child.startswith(run.run_id)
    await client.post(child, go, "world")
    assert await run.result(10) == "parent of hello world"
    assert done == ["c has tidied up"]


async def test_a_parent_and_its_child_go_on_after_the_engine_was_away(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_parent)
    run = await client.start(issue_parent, {"name": "c"})
    child = await child_of(client, run.run_id)
    await engine.down()
    await engine.up()
    await client.post(child, go, "world")
    assert await run.result(20) == "parent of hello world"


async def test_failures_of_a_child_are_seen_by_their_names(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_failures, issue_unsaved)
    found = [
        await (await client.start(issue_failures, {"which": which})).result(15)
        for which in ("business", "technical", "limit")
    ]
    assert found[0] == "sold out, 3 left"
    assert found[1].startswith("task error: ")
    assert "no such disk" in found[1]
    assert found[2] == "child error"
    unsaved = await client.start(issue_unsaved, {})
    with pytest.raises(RunFailed) as raised:
        await unsaved.result(10)
    assert (raised.value.failure.name, raised.value.details) == ("sold-out", {"left": 3})


async def test_a_child_that_somebody_cancels_is_an_error_of_its_parent(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_parent)
    run = await client.start(issue_parent, {"name": "c"})
    await client.cancel(await child_of(client, run.run_id), "not wanted")
    result = await run.result(10)
    assert result.startswith("child: ")
    assert "not wanted" in result or "cancel" in result


async def test_a_child_that_loses_a_race_is_cancelled_and_tidies_up(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_racer)
    run = await client.start(issue_racer, {})
    child = await child_of(client, run.run_id)
    await run.post(go, "e")
    assert await run.result(10) == "event e"
    assert (await client.get(child)).status == "cancelled"
    assert done == ["loser has tidied up"]


@pytest.mark.parametrize(
    ("close", "how", "status", "tidied"),
    [
        ("without a word", "completes", "running", False),
        ("abandon", "completes", "running", False),
        ("abandon", "is cancelled", "running", False),
        ("request", "completes", "cancelled", True),
        ("request", "is cancelled", "cancelled", True),
        ("cancel", "completes", "cancelled", False),
        ("cancel", "is cancelled at once", "cancelled", False),
    ],
)
async def test_what_becomes_of_a_detached_child_when_its_parent_closes(
    shared: Engine, until: Until, close: str, how: str, status: str, tidied: bool
) -> None:
    child = f"my-child-{close}-{how}"
    await shared.worker(app)
    client = await shared.registered(issue_detacher)
    run = await client.start(issue_detacher, {"close": close, "run_id": child})
    assert await child_of(client, run.run_id, "child-begun") == child
    assert (await client.get(child)).parent == run.run_id
    if how == "completes":
        await run.post(end)
        assert await run.result(10) == child
    else:
        await run.cancel("closed", at_once=how.endswith("at once"))
        await client.wait(run.run_id, timeout_s=10)

    async def stands() -> bool:
        return (await client.get(child)).status == status

    await until(stands, f"the child is {status}")
    assert (done != []) == tidied
    if status == "running":
        await client.post(child, go, "world")
        assert await client.handle(child).result(10) == "hello world"


async def test_a_detached_child_of_a_chosen_id_may_live_on_any_shard_and_is_there_once(
    sharded: Engine,
) -> None:
    await sharded.worker(app)
    client = await sharded.registered(issue_taken)
    first = await client.start(issue_taken, {"run_id": "room-7"})
    assert await first.result(10) == "room-7"
    second = await client.start(issue_taken, {"run_id": "room-7"})
    assert (await second.result(10)).startswith("taken: ")
    assert (await client.get("room-7")).parent == first.run_id
    # Started by hand under the same id it is a conflict too, or the same run; never a second one.
    await client.post("room-7", go, "world")
    assert await client.handle("room-7").result(10) == "hello world"
    assert done == ["mine has tidied up"]
    listed = [[(each.run_id, each.status) for each in await run.children()] for run in (first, second)]
    assert listed == [[("room-7", "completed")], [("room-7", "absent")]]


async def test_at_most_eight_runs_wait_for_each_other(engine: Engine) -> None:
    client = await engine.registered(issue_level_above)
    fits = await client.start(issue_level_0, {"number": 1})
    assert await fits.result(20) == "bottom 1"
    deep = await client.start(issue_level_above, {"number": 1})
    with pytest.raises(RunFailed, match="child-depth"):
        await deep.result(20)


async def test_many_children_run_and_all_are_listed_under_their_parent(sharded: Engine, start: Start) -> None:
    await sharded.worker(app)
    client = await sharded.registered(issue_many)
    run = await client.start(issue_many, {"count": 7})
    assert await run.result(20) == [f"bottom {n}" for n in range(7)]
    children: list[Any] = [
        decode_data(event) async for event in run.history() if event.kind == "child-started"
    ]
    assert len({each.run_id for each in children}) == 7
    listed = await client.children(run.run_id)
    assert [(each.run_id, each.workflow, each.status) for each in listed] == [
        (each.run_id, each.workflow, "completed") for each in children
    ]
    assert await client.children(listed[1].run_id) == []
    place = ("--server", sharded.url, "--namespace", sharded.namespace)
    program = start("run", "children", run.run_id, *place, "--json")
    assert await asyncio.to_thread(program.ended) == 0, program.said
    assert [msgspec.json.decode(line, type=ChildRun) for line in program.said.splitlines()] == listed
    table = start("run", "children", run.run_id, *place)
    assert await asyncio.to_thread(table.ended) == 0, table.said
    assert [each.run_id for each in listed if each.run_id not in table.said] == []
    for each in children:
        view = await client.get(each.run_id)
        assert (view.parent, view.status) == (run.run_id, "completed")


async def test_an_id_that_is_none_is_an_error_of_the_parent(engine: Engine) -> None:
    client = await engine.registered(issue_taken)
    run = await client.start(issue_taken, {"run_id": ""})
    with pytest.raises(RunFailed, match=r"ValueError.*run-id-size"):
        await run.result(10)


@workflow
async def issue_told_child(name: str, greeting: str = inherited(), secret: Masked[str] = inherited()) -> str:
    greeting = f"{greeting} {name}"  # Its own: the parent goes on with its greeting.
    await keep(greeting)
    return greeting


@workflow
async def issue_other_child(name: str, greeting: str = inherited(), secret: Masked[str] = inherited()) -> str:
    return f"{greeting}, dear {name}"


CHOICES = {"told": issue_told_child, "other": issue_other_child}


@workflow
async def issue_told_parent(greeting: str, secret: Masked[str]) -> str:
    first, second = await gather(issue_told_child("ann"), issue_told_child("bob"))
    greeting = f"{greeting}!"
    beside = await issue_told_child.options(run_id=f"beside-{greeting}").start("cat")
    chosen = await CHOICES["other"]("dan")
    return f"{first}, {second}, {beside}, {chosen}"


async def test_a_child_has_what_its_parent_hands_down_and_masked_values_stay_masked(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_told_parent)
    run = await client.start(issue_told_parent, {"greeting": "hi", "secret": "s3cret"})
    assert await run.result(10) == "hi ann, hi bob, beside-hi!, hi!, dear dan"
    assert await client.handle("beside-hi!").result(10) == "hi! cat"
    names = ["issue-told-child", "issue-told-child", "issue-told-child", "issue-other-child"]
    assert [each.workflow for each in await run.children()] == names
    assert (await client.get("beside-hi!")).input == {"name": "cat", "greeting": "hi!", "secret": "***"}
    child = await child_of(client, run.run_id)
    assert (await client.get(child)).input["secret"] == "***"
