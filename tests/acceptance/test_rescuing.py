"""Rescuing runs on the real engine: from Python, from the shell, for any language, and as analytics tell of it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.client import Client, RunFailed, RunQuery
from dressage.flow import App, Exponential, WorkflowFailure, gather, wait_until, workflow
from dressage.protocol.errors import BadInput, Refused

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

app = App("rescued")
down: set[str] = set()
charged: list[str] = []


class NoLamps(WorkflowFailure): ...


@app.task(retries=1, backoff=Exponential(base=timedelta(milliseconds=10)))
async def charge(order: str) -> str:
    if order in down:
        raise OSError("the provider is down")
    charged.append(order)
    return f"paid {order}"


@app.task
async def ship(order: str) -> str:
    if f"ship {order}" in down:
        raise NoLamps("none left")
    return f"shipped {order}"


@workflow(name="rescued-order")
async def an_order(order: str) -> str:
    paid = await charge(order)
    sent = await ship(order)
    return f"{paid}, {sent}"


@workflow(name="rescued-cart")
async def cart(order: str) -> str:
    done = await an_order(order)
    return f"{done}, done"


@workflow(name="rescued-both")
async def both(order: str) -> list[str]:
    one, other = await gather(charge(order), charge(f"{order}-2"))
    return [one, other]


@workflow(name="rescued-limit")
async def within(limit: int) -> int:
    await wait_until(lambda: limit > 10)
    return limit


@workflow(name="rescued-held")
async def held_order(order: str) -> str:
    wait = True
    sent = await ship(order)
    await wait_until(lambda: not wait)
    return sent


@pytest.fixture(autouse=True)
def _provider() -> None:
    down.clear()
    charged.clear()


async def failed(client: Client, run_id: str) -> None:
    with pytest.raises(RunFailed):
        await client.handle(run_id).result(30)


Said = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def said(engine: Engine, start: Start) -> Said:
    """The command line: what it exits with, and what it says."""

    async def run(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    return run


async def test_a_run_is_rescued_by_another_owner_and_once(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(cart)
    down.update(("a", "ship b"))
    for name in ("a", "b"):
        await client.start(cart, {"order": name}, run_id=name)
    for name in ("a", "b"):
        await failed(client, name)
    view = await client.get("a")
    assert (view.status, view.failed_child != "", view.failed_node is not None) == ("failed", True, True)
    await sharded.down()
    await sharded.up()
    down.clear()
    for _ in range(2):
        rescued = await client.rescue("a", reason="it is up again", command_id="c-1")
        assert rescued.run_id == "a"
    # The one below is named: the one above is meant.
    below = (await client.get("b")).failed_child
    for _ in range(2):
        assert (await client.rescue(below, command_id="c-2")).run_id == "b"
    assert await client.handle(below).result(30) == "paid b, shipped b"
    assert await client.handle("a").result(30) == "paid a, shipped a, done"
    assert await client.handle("b").result(30) == "paid b, shipped b, done"
    assert sorted(charged) == ["a", "b"]
    await client.rescue("a", command_id="c-1")  # A repeat that comes late.
    for run_id, code in (("a", "RUN_FINISHED"), (below, "RUN_FINISHED"), ("nobody", "RUN_UNKNOWN")):
        with pytest.raises(Refused) as refused:
            await client.rescue(run_id)
        assert refused.value.code == code
    kinds = [event.kind async for event in client.history("a")]
    assert (kinds.count("run-failed"), kinds.count("run-rescued"), kinds[-1]) == (1, 1, "run-completed")


async def test_who_follows_a_rescued_run_follows_it_to_its_last_end(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(an_order)
    down.add("ship a")
    run = await client.start(an_order, {"order": "a"}, run_id="a")
    first = [event.kind async for event in run.follow()]
    assert first[-1] == "run-failed"
    down.clear()
    await run.rescue()
    whole = [event async for event in run.follow()]
    assert [event.kind for event in whole][-1] == "run-completed"
    assert [event.index for event in whole] == list(range(len(whole)))
    assert [event.kind for event in whole][len(first)] == "run-rescued"
    behind = [event.kind async for event in run.follow(after=len(first) - 1)]
    assert behind == [event.kind for event in whole][len(first) :]


async def test_who_is_held_before_it_is_rescued_is_followed_as_well(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(an_order, held_order)
    down.add("ship a")
    run = await client.start(held_order, {"order": "a"}, run_id="a")
    await failed(client, "a")
    await client.hold("a", "look at it")
    await client.release("a")
    down.clear()
    await run.rescue()
    # It goes on for as long as it takes to follow it from the beginning.
    told: list[str] = []
    async for event in run.follow():
        told.append(event.kind)
        if event.kind == "run-rescued":
            await client.edit("a", {"wait": False})
    assert told[-1] == "run-completed"
    assert [kind for kind in told if kind in ("run-failed", "run-held", "run-released", "run-rescued")] == [
        "run-failed",
        "run-held",
        "run-released",
        "run-rescued",
    ]
    down.add("ship b")
    run = await client.start(an_order, {"order": "b"}, run_id="b")
    await failed(client, "b")
    await client.hold("b")
    assert [event.kind async for event in run.follow()][-1] in ("run-failed", "run-held")


async def test_what_is_in_the_way_is_said_and_nothing_happens(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(both, an_order)
    down.add("a")
    for flow in (both, an_order):
        await client.start(flow, {"order": "a"}, run_id=flow.name)
        await failed(client, flow.name)
    before = (await client.get("rescued-order")).events
    with pytest.raises(BadInput) as wrong:
        await client.rescue("rescued-both", line=1)
    assert wrong.value.code == "RESCUE_INVALID"
    first = an_order.spec.first_line
    for given, said in (
        ({"variables": {"order": 7}}, "variable order"),
        ({"line": first + 4}, "needs paid, sent, which has no value"),
        ({"skip": True}, "would have given, which is skipped"),
        ({"value": "paid in cash"}, "is what a step would have given that is skipped"),
    ):
        with pytest.raises(Refused) as refused:
            await client.rescue("rescued-order", **given)
        assert refused.value.code == "RESCUE_REFUSED"
        assert said in refused.value.message, refused.value.message
    assert (await client.get("rescued-order")).events == before
    down.clear()
    assert (await client.rescue("rescued-both")).seq > 0
    assert await client.handle("rescued-both").result(30) == ["paid a", "paid a-2"]
    await client.rescue("rescued-order", skip=True, value="paid in cash")
    assert await client.handle("rescued-order").result(30) == "paid in cash, shipped a"


async def test_a_killed_engine_rescues_all_that_were_to_be(engine: Engine, start: Start) -> None:
    """The orchestrator is killed behind some of the rescues, before their children are rescued."""
    await engine.worker(app)
    client = await engine.registered(cart)
    names = [f"o-{number}" for number in range(8)]
    down.update(names)
    for name in names:
        await client.start(cart, {"order": name}, run_id=name)
    for name in names:
        await failed(client, name)
    await engine.down()
    options = ("--server", engine.url, "--namespace", engine.namespace, "--shards", str(engine.shards))
    program = start("orchestrator", *options)
    down.clear()
    telling = [
        asyncio.create_task(client.rescue(name, command_id=f"rescue {name}", timeout_s=60)) for name in names
    ]
    await asyncio.wait(telling, return_when=asyncio.FIRST_COMPLETED)
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
    await engine.up()
    await asyncio.gather(*telling)
    for name in names:
        assert await client.handle(name).result(60) == f"paid {name}, shipped {name}, done"
    assert sorted(charged) == names


async def test_another_run_goes_on_as_one_has_ended(engine: Engine, said: Said) -> None:
    await engine.worker(app)
    client = await engine.registered(cart, an_order, within)
    down.add("ship a")
    await client.start(an_order, {"order": "a"}, run_id="a")
    await failed(client, "a")
    down.clear()
    for _ in range(2):
        other = await client.fork("a", "a-again", variables={"paid": "paid in cash"}, command_id="fork-1")
        assert await other.result(30) == "paid in cash, shipped a"
    assert (await client.get("a")).status == "failed"
    assert charged == ["a"]
    view = await client.get("a-again")
    assert view.forked is not None
    assert (view.forked.run_id, view.input, view.variables["paid"]) == ("a", {"order": "a"}, "paid in cash")
    with pytest.raises(Refused) as refused:
        await client.fork("a", "a-again")
    assert refused.value.code == "RUN_ID_CONFLICT"
    code, text = await said("run", "fork", "a-again", "--as", "b")
    assert (code, text.startswith("RESCUE_REFUSED")) == (1, True), text
    line = str(an_order.spec.first_line + 2)
    code, text = await said("run", "fork", "a-again", "--as", "b", "--line", line, "--set", 'order="b"')
    assert (code, text.strip()) == (0, "b"), text
    assert await client.handle("b").result(30) == "paid b, shipped b"
    answer = await engine.call("fork", {"run_id": "b", "new_id": "c", "line": int(line)})
    assert (answer["ok"], answer["run_id"]) == (True, "c")
    assert await client.handle("c").result(30) == "paid b, shipped b"
    await client.start(within, {"limit": 1}, run_id="w")
    with pytest.raises(Refused) as refused:
        await client.fork("w")
    assert refused.value.code == "RUN_OPEN"
    told = [json.loads(bytes(event.data)) async for event in client.history("c")]
    assert (told[0]["forked_from"], told[1]) == ("b", {"name": "order", "value": "b"})


async def test_the_command_line_says_why_and_rescues(engine: Engine, said: Said) -> None:
    await engine.worker(app)
    client = await engine.registered(an_order, within, cart)
    down.add("a")
    await client.start(an_order, {"order": "a"}, run_id="a")
    await failed(client, "a")
    line = an_order.spec.first_line + 2
    code, text = await said("why", "a")
    assert (code, f"`dressage run rescue a` lets it go on at line {line}" in text) == (0, True), text
    code, text = await said(
        "run", "rescue", "a", "--line", str(line), "--set", 'order="b"', "--reason", "a typo"
    )
    assert (code, text) == (0, "")
    assert await client.handle("a").result(30) == "paid b, shipped b"
    code, text = await said("run", "rescue", "a")
    assert code == 1
    assert text.startswith("RUN_FINISHED: run 'a' is completed: only one that has failed is rescued")
    await client.start(within, {"limit": 5}, run_id="w")
    code, text = await said("run", "edit", "w", "limit=7", "--reason", "agreed")
    assert (code, text) == (0, "")
    code, text = await said("run", "edit", "w", 'limit="much"')
    assert (code, text.startswith("EDIT_REFUSED: variable limit")) == (1, True), text
    code, text = await said("run", "edit", "w", "limit")
    assert code == 2
    assert (await said("run", "edit", "w", "limit=70"))[0] == 0
    assert await client.handle("w").result(30) == 70
    edits = [
        json.loads(bytes(event.data))
        async for event in client.history("w")
        if event.kind == "variables-edited"
    ]
    assert edits == [{"names": ["limit"], "reason": "agreed"}, {"names": ["limit"]}]
    down.add("c")
    await client.start(cart, {"order": "c"}, run_id="c")
    await failed(client, "c")
    down.clear()
    below = (await client.get("c")).failed_child
    code, text = await said("why", "c")
    assert f"it has failed with run {below}" in text
    code, text = await said("run", "rescue", below)
    assert (code, "run c has failed with it: that goes on, and it with that" in text) == (0, True), text
    assert await client.handle("c").result(30) == "paid c, shipped c, done"


async def test_all_that_have_failed_so_are_rescued_and_found_as_they_are(
    engine: Engine, said: Said, tmp_path: Path
) -> None:
    await engine.worker(app)
    client = await engine.registered(cart)
    names = [f"o-{number}" for number in range(6)]
    down.update([*names[:4], f"ship {names[4]}"])
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):
        for name in names:
            await client.start(cart, {"order": name}, run_id=name)
        for name in names[:5]:
            await failed(client, name)

        async def found(status: str, workflow: str = "rescued-cart") -> list[str]:
            page = await client.search(RunQuery(workflow=workflow, status=[status]))  # type: ignore[list-item]
            return sorted(each.run_id for each in page.runs)

        async def are(status: str, wanted: list[str]) -> None:
            async def told() -> bool:
                return await found(status) == wanted

            await until(told, f"{wanted} are {status}", 20)

        await are("failed", names[:5])
        code, text = await said("bulk", "rescue", "rescued-cart", "--failure", "OSError", "--dry-run")
        assert (code, "rescue 4 runs" in text) == (0, True), text
        code, text = await said("bulk", "rescue", "--failure", "OSError", "--yes", "--json")
        told = json.loads(text.splitlines()[-1])
        # Child runs are found as well: they are rescued with those above them.
        assert (code, told["found"], told["done"] + told["over"]) == (0, 8, 8), text
        for name in names[:4]:
            await failed(client, name)  # The provider is still down.
        await are("failed", names[:5])
        down.clear()
        code, text = await said("bulk", "rescue", "--all", "--yes")
        assert code == 0, text
        for name in names:
            assert await client.handle(name).result(30) == f"paid {name}, shipped {name}, done"
        await are("completed", names)
        assert await found("failed") == []
        assert await found("running") == []
        (counted,) = await client.count(RunQuery(workflow="rescued-order", status=["completed"]))
        assert counted.runs == 6
        rows = (await client.query("SELECT status, count(*) FROM runs GROUP BY ALL")).rows
        assert [list(row) for row in rows] == [["completed", 12]]
        rescued = await client.query("SELECT run_id, count(*) FROM run_rescues GROUP BY ALL ORDER BY ALL")
        assert {row[0]: row[1] for row in rescued.rows if "~" not in row[0]} == {
            **dict.fromkeys(names[:4], 2),
            names[4]: 1,
        }


async def test_the_service_rescues_for_any_language(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(an_order, within)
    down.add("a")
    await client.start(an_order, {"order": "a"}, run_id="a")
    await failed(client, "a")
    got = (await engine.call("get", {"run_id": "a"}))["run"]
    assert isinstance(got["failed_node"], int)
    answer: dict[str, Any] = await engine.call(
        "rescue", {"run_id": "a", "variables": {"order": "b"}, "actor": "ann"}
    )
    assert (answer["ok"], answer["run_id"]) == (True, "a")
    assert await client.handle("a").result(30) == "paid b, shipped b"
    refused = await engine.call("rescue", {"run_id": "a"})
    assert (refused["code"], refused["retryable"]) == ("RUN_FINISHED", False)
    await client.start(within, {"limit": 5}, run_id="w")
    assert (await engine.call("edit", {"run_id": "w", "variables": {"limit": 11}}))["ok"]
    assert await client.handle("w").result(30) == 11
    refused = await engine.call("edit", {"run_id": "w", "variables": {"limit": 12}})
    assert refused["code"] == "RUN_FINISHED"
