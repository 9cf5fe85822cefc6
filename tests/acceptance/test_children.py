"""Child runs on the real engine: on one shard and on three, across lost owners, cancelled, refused and registered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunCancelled, RunFailed
from dressage.flow import App, ChildError, Event, WorkflowFailure, first_completed, gather, workflow
from dressage.protocol.errors import BadSpec, NotFound
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.names import shard_of

pytestmark = pytest.mark.anyio

app = App("family")
paid = Event("paid", of=int)
left = Event("left")


class Broke(WorkflowFailure):
    owed: int


@app.task
async def receipt(amount: int) -> str:
    if amount > 100:
        raise Broke("no money", owed=amount)
    return f"receipt {amount}"


@app.task
async def note(what: str) -> None:
    noted.append(what)


noted: list[str] = []


@workflow
async def bill(amount: int) -> str:
    try:
        more = await paid.wait(key=f"bill {amount}")
        return await receipt(amount + more)
    finally:
        await note(f"billed {amount}")


@workflow
async def shop(amounts: list[int]) -> list[str]:
    return [*await gather(*(bill(amount) for amount in amounts))]


@workflow
async def careful(amount: int) -> str:
    try:
        return await bill(amount)
    except Broke as broke:
        return f"owes {broke.owed}"
    except ChildError as error:
        return f"no bill: {error}"


@workflow
async def hurried(amount: int) -> str:
    match await first_completed(bill(amount), left.wait()):
        case 0, text:
            return text
        case _:
            return "left"


@workflow
async def noting(amount: int) -> str:
    await note(f"noted {amount}")
    return "noted"


WAYS = {"bill": bill, "note": noting}


@workflow
async def chosen(ways: list[str]) -> list[str]:
    try:
        return [*await gather(*(WAYS[way](place) for place, way in enumerate(ways)))]
    except KeyError as error:
        return [await WAYS["note"](7), await WAYS["note"].start(8), f"no way: {error}"]


def plain(event: ReceivedEvent) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(bytes(event.data))
    return decoded


async def child_of(client: Client, run_id: str, count: int = 1) -> list[str]:
    """The ids of the children that a run has started."""
    found: list[str] = []

    async def started() -> bool:
        told = [each async for each in client.history(run_id) if each.kind == "child-started"]
        found[:] = [plain(each)["run_id"] for each in told]
        return len(found) == count

    await until(started, f"{count} children of {run_id}")
    return found


async def test_children_go_on_behind_other_owners_and_each_ends_once(sharded: Engine) -> None:
    client = await sharded.registered(shop)
    handle = await client.start(shop, {"amounts": [1, 2, 3]}, run_id="s 1")
    children = await child_of(client, "s 1", 3)
    assert {shard_of(each, sharded.shards) for each in children} == {shard_of("s 1", sharded.shards)}
    await client.post_by_key(paid, "bill 1", 10)
    await sharded.down()
    posting = asyncio.create_task(client.post_by_key(paid, "bill 2", 10))
    await sharded.up()
    await posting
    async with sharded.working(app):
        await sharded.down()
        await sharded.up()
        await client.post_by_key(paid, "bill 3", 10)
        assert await handle.result(20) == ["receipt 11", "receipt 12", "receipt 13"]
    told = [(each.kind, plain(each).get("run_id")) async for each in handle.history()]
    for child in children:
        assert told.count(("child-completed", child)) == 1
        view = await client.get(child)
        assert (view.status, view.workflow, view.version) == ("completed", "bill", 1)


async def test_children_that_are_chosen_at_run_time_go_on_behind_another_owner(sharded: Engine) -> None:
    client = await sharded.registered(chosen)
    handle = await client.start(chosen, {"ways": ["bill", "note"]}, run_id="c 1")
    children = await child_of(client, "c 1", 2)
    await sharded.down()
    await sharded.up()
    noted.clear()
    async with sharded.working(app):
        await client.post_by_key(paid, "bill 0", 10)
        assert await handle.result(20) == ["receipt 10", "noted"]
        assert {(await client.get(each)).workflow for each in children} == {"bill", "noting"}
        unknown = await client.start(chosen, {"ways": ["note", "fax"]}, run_id="c 2")
        assert [(await unknown.result(20))[place] for place in (0, 2)] == ["noted", "no way: 'fax'"]
        (_, detached) = await child_of(client, "c 2", 2)
        assert await client.handle(detached).result(10) == "noted"
    assert [each for each in noted if each.startswith("noted")] == ["noted 1", "noted 7", "noted 8"]


async def test_a_childs_failure_has_its_name_in_the_parent(sharded: Engine) -> None:
    client = await sharded.registered(careful)
    async with sharded.working(app):
        handle = await client.start(careful, {"amount": 7})
        (child,) = await child_of(client, handle.run_id)
        await client.post_by_key(paid, "bill 7", 1_000)
        assert await handle.result(10) == "owes 1007"
    with pytest.raises(RunFailed, match="no money"):
        await client.handle(child).result(5)


async def test_who_cancels_a_parent_cancels_its_children_and_they_tidy_up(sharded: Engine) -> None:
    client = await sharded.registered(careful)
    handle = await client.start(careful, {"amount": 8})
    (child,) = await child_of(client, handle.run_id)
    await handle.cancel("enough")
    view = await handle.state()
    assert (view.status, view.cancelling, view.waiting_for) == (
        "running",
        True,
        f"run {child} of workflow bill",
    )
    noted.clear()
    async with sharded.working(app):
        with pytest.raises(RunCancelled, match="enough"):
            await handle.result(10)
    assert noted == ["billed 8"]
    assert (await client.get(child)).status == "cancelled"


async def test_a_child_that_is_cancelled_by_hand_or_with_its_parent_at_once(sharded: Engine) -> None:
    client = await sharded.registered(careful)
    first = await client.start(careful, {"amount": 1})
    (child,) = await child_of(client, first.run_id)
    await client.cancel(child, "by hand", at_once=True)
    assert "was cancelled: by hand" in await first.result(10)
    second = await client.start(careful, {"amount": 2})
    (child,) = await child_of(client, second.run_id)
    await second.cancel("now", at_once=True)

    async def ended() -> bool:
        return (await client.get(child)).status == "cancelled"

    await until(ended, "the child is cancelled, too")


async def test_a_child_loses_a_race(sharded: Engine) -> None:
    client = await sharded.registered(hurried)
    async with sharded.working(app):
        handle = await client.start(hurried, {"amount": 3})
        (child,) = await child_of(client, handle.run_id)
        await handle.post(left)
        assert await handle.result(10) == "left"
    assert (await client.get(child)).status == "cancelled"


async def wait_of(client: Client, run_id: str) -> str:
    """The wait of a run that is told of its child's end."""
    await child_of(client, run_id)
    (told,) = [plain(each) async for each in client.history(run_id) if each.kind == "child-started"]
    return str(told["wait_id"])


def start_of(workflow: str, parent: str, wait_id: str) -> bytes:
    start = {"type": "start-run", "workflow": workflow, "version": 1, "input": {"amount": 4}}
    return json.dumps(
        {**start, "command_id": wait_id, "parent": {"run_id": parent, "wait_id": wait_id}}
    ).encode()


async def test_a_child_that_cannot_be_started_is_an_error_of_its_parent(sharded: Engine) -> None:
    """Somebody has started a run under its id; here the engine's own start is sent once more, for that id."""
    client = await sharded.registered(careful)
    handle = await client.start(careful, {"amount": 4})
    wait_id = await wait_of(client, handle.run_id)
    await client.start(bill, {"amount": 5}, run_id="taken")
    answer = await sharded.send_raw("taken", start_of("bill", handle.run_id, wait_id))
    assert (answer["accepted"], answer["code"]) == (False, "RUN_ID_CONFLICT")
    assert (await handle.result(10)).startswith("no bill: run 'taken' exists")


async def test_a_child_whose_version_is_missing_is_an_error_of_its_parent(engine: Engine) -> None:
    client = await engine.registered(careful)
    handle = await client.start(careful, {"amount": 4})
    wait_id = await wait_of(client, handle.run_id)
    answer = await engine.send_raw("lost", start_of("nowhere", handle.run_id, wait_id))
    assert answer["code"] == "WORKFLOW_UNKNOWN"
    assert (await handle.result(10)).startswith("no bill: workflow 'nowhere'")


async def test_a_parent_names_the_versions_of_its_children(engine: Engine) -> None:
    client = await engine.registered()
    with pytest.raises(NotFound, match="'bill' is not registered"):
        await client.register(careful.spec)
    first = await client.register(careful)
    assert (first.version, first.children) == (1, {"bill": 1})
    assert (await client.register(careful)).version == 1
    other = msgspec.structs.replace(bill.spec, description="another one")
    await client.register(other)
    second = await client.register(careful.spec)
    assert (second.version, second.children) == (2, {"bill": 2})
    params: Any = (msgspec.structs.replace(bill.spec.params[0], name="total"),)
    await client.register(msgspec.structs.replace(other_bill.spec, name="bill", params=params))
    with pytest.raises(BadSpec, match="with other parameters"):
        await client.register(careful.spec)


@workflow
async def other_bill(total: int) -> str:
    return f"{total}"


async def test_a_start_that_pretends_to_be_a_childs_tells_nobody_who_does_not_wait(engine: Engine) -> None:
    client = await engine.registered(careful)
    handle = await client.start(careful, {"amount": 5}, run_id="q")
    await child_of(client, "q")
    forged = (
        b'{"type":"start-run","workflow":"bill","version":1,"input":{"amount":1},"command_id":"c",'
        b'"parent":{"run_id":"q","wait_id":"0-9-9"}}'
    )
    for wrong in (b'""', b'"' + b"x" * 200 + b'"'):
        nobody = await engine.send_raw("nobody", forged.replace(b'"q"', wrong))
        assert (nobody["accepted"], nobody["code"]) == (False, "RUN_ID_INVALID")
    assert (await engine.send_raw("forged", forged))["accepted"] is True
    await client.cancel("forged", at_once=True)
    assert (await handle.state()).status == "running"
    ended = b'{"type":"child-ended","wait_id":"0-0-999","output":"x"}'
    answer = await engine.send_raw("q", ended)
    assert (answer["accepted"], answer["code"]) == (False, "RESULT_STALE")
