"""Waiting is never a hang; state and history are whole once a result is known."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.client import Client, RunFailed
from dressage.flow import App, Searchable, WorkflowFailure, sleep, workflow
from dressage.orchestrator.turn import asking
from dressage.protocol.errors import DressageError, NoAnswer, NotFound

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

app = App("reading")


class Empty(WorkflowFailure):
    given: Decimal


@dataclass
class View:
    status: Searchable[str] = "NEW"
    note: str = ""


@app.task
async def half(amount: Decimal) -> Decimal:
    return amount / 2


@workflow
async def halved(amount: Decimal) -> Decimal:
    view, share = View(), await half(amount)
    if share == 0:
        raise Empty("nothing to halve", given=amount)
    view.note = f"was {amount}"
    view.status = "DONE"
    return share


@workflow
async def napped(seconds: float) -> str:
    await sleep(seconds)
    return "awake"


async def test_a_wait_across_a_restart_of_the_orchestrator_gets_the_result(engine: Engine) -> None:
    client = await engine.registered(halved)
    handle = await client.start(halved, {"amount": "5.0"}, run_id="w")
    waiting = asyncio.create_task(handle.result(9))
    await asyncio.sleep(0)
    await engine.down()
    await engine.worker(app)
    await engine.up()
    assert await waiting == Decimal("2.5")


async def test_a_wait_that_begins_while_nobody_serves_gets_the_result(
    engine: Engine,
) -> None:
    client = await engine.registered(halved)
    await engine.worker(app)
    handle = await client.start(halved, {"amount": "5.0"}, run_id="w")
    await engine.down()
    waiting = asyncio.create_task(handle.result(9))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done or waiting.result() == Decimal("2.5")
    await engine.up()
    assert await waiting == Decimal("2.5")


async def test_twenty_waiters_of_one_run_all_get_its_result(shared: Engine) -> None:
    client = await shared.registered(napped)
    await client.start(napped, {"seconds": 0.3}, run_id="waiting-3")
    other = await shared.client("other")
    waits = [(client if n % 2 else other).handle("waiting-3").result(5) for n in range(20)]
    assert await asyncio.gather(*waits) == ["awake"] * 20


async def test_a_wait_with_a_timeout_gives_no_answer_in_time(engine: Engine) -> None:
    client = await engine.registered(napped)
    handle = await client.start(napped, {"seconds": 60.0})
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoAnswer) as caught:
        await handle.result(0.5)
    assert asyncio.get_running_loop().time() - began < 2
    assert caught.value.retryable


async def test_a_timeout_while_nobody_serves_is_kept_too(engine: Engine) -> None:
    client = await engine.registered(napped)
    handle = await client.start(napped, {"seconds": 60.0})
    await engine.down()
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoAnswer):
        await handle.result(0.5)
    assert asyncio.get_running_loop().time() - began < 2


async def test_point_24_a_start_while_nobody_serves_says_it_is_safe_and_runs_later(engine: Engine) -> None:
    client = await engine.registered(napped)
    await engine.down()
    with pytest.raises(NoAnswer) as caught:
        await client.start(napped, {"seconds": 0.0}, run_id="later", timeout_s=0.5)
    assert caught.value.retryable
    await engine.up()
    handle = await client.start(napped, {"seconds": 0.0}, run_id="later", timeout_s=5)
    assert await handle.result(5) == "awake"
    assert [event.kind async for event in client.history("later")].count("run-started") == 1


@pytest.mark.limit("orchestrator.turn.asking.HOLD_S_MAX")
async def test_a_question_is_held_no_longer_than_the_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit that a test can wait for: whoever asks for a day is told after that how the run stands."""
    client = await engine.registered(napped)
    await client.start(napped, {"seconds": 3600.0}, run_id="held")
    monkeypatch.setattr(asking, "HOLD_S_MAX", 0.3)
    connection = await engine.nats()
    question = b'{"op":"wait","run_id":"held","hold_s":86400}'
    began = asyncio.get_running_loop().time()
    answer = await connection.request(engine.names.ask(0), question, 10)
    assert asyncio.get_running_loop().time() - began >= 0.3
    assert msgspec.json.decode(answer.data)["run"]["status"] == "running"


async def test_the_state_of_an_unknown_run_is_not_found(sharded: Engine) -> None:
    client = await sharded.client()
    with pytest.raises(NotFound, match="nobody-knows"):
        await client.get("nobody-knows")


async def test_the_history_of_an_unknown_run_is_not_found(shared: Engine) -> None:
    client = await shared.client()
    with pytest.raises(NotFound):
        _ = [event async for event in client.history("nobody-knows")]


async def test_a_wait_for_an_unknown_run_is_not_found(shared: Engine) -> None:
    client = await shared.client()
    with pytest.raises(NotFound):
        await client.wait("nobody-knows", timeout_s=5)


async def test_history_is_complete_as_soon_as_the_result_is_known(sharded: Engine) -> None:
    client = await sharded.registered(halved)
    await sharded.worker(app)

    async def one(n: int) -> list[str]:
        handle = await client.start(halved, {"amount": "5.0"}, run_id=f"h-{n}")
        await handle.result(5)
        events = [event async for event in handle.history()]
        assert [event.index for event in events] == list(range(len(events)))
        return [event.kind for event in events]

    for kinds in await asyncio.gather(*(one(n) for n in range(30))):
        assert (kinds[0], kinds[-1]) == ("run-started", "run-completed")
        assert kinds.count("task-completed") == 1


async def test_history_across_a_restart_of_the_orchestrator_is_whole(sharded: Engine) -> None:
    client = await sharded.registered(halved)
    await client.start(halved, {"amount": "5.0"}, run_id="r")
    await sharded.down()
    await sharded.up()
    await sharded.worker(app)
    await client.handle("r").result(5)
    events = [event async for event in client.history("r")]
    assert [event.index for event in events] == list(range(len(events)))
    assert events[-1].kind == "run-completed"


async def test_state_shows_input_output_view_and_times(shared: Engine) -> None:
    client = await shared.registered(halved)
    await shared.worker(app)
    handle = await client.start(halved, {"amount": "5.0"}, run_id="reading-12")
    await handle.result(5)
    state = await handle.state()
    assert (state.workflow, state.version, state.status) == ("halved", 1, "completed")
    assert state.input == {"amount": "5.0"}
    assert isinstance(state.output, msgspec.Raw)
    assert msgspec.json.decode(state.output) == "2.5"
    assert state.search == {"status": "DONE"}
    assert state.variables["view"]["note"] == "was 5.0"
    assert state.started_at < state.ended_at
    assert state.actor == "tester"


async def test_state_says_what_a_run_waits_for(engine: Engine) -> None:
    client = await engine.registered(halved)
    await client.start(halved, {"amount": "5.0"}, run_id="r")
    assert "half" in (await client.get("r")).waiting_for


async def test_state_right_after_a_start_shows_the_run(sharded: Engine) -> None:
    client = await sharded.registered(napped)
    for n in range(10):
        await client.start(napped, {"seconds": 60.0}, run_id=f"r-{n}")
        assert (await client.get(f"r-{n}")).status == "running"


async def test_a_business_failure_of_a_run_reaches_who_waits(shared: Engine) -> None:
    client = await shared.registered(halved)
    await shared.worker(app)
    handle = await client.start(halved, {"amount": "0"})
    with pytest.raises(RunFailed, match="nothing to halve") as caught:
        await handle.result(5)
    failure = caught.value.failure
    assert (failure.name, failure.kind, failure.message) == ("empty", "failure", "nothing to halve")


async def test_a_result_of_a_run_started_by_name_is_plain_json(shared: Engine) -> None:
    client = await shared.registered(halved)
    await shared.worker(app)
    assert await (await client.start("halved", {"amount": "3.00"})).result(5) == "1.50"


async def test_a_finished_run_is_read_after_a_restart(sharded: Engine) -> None:
    client = await sharded.registered(napped)
    await (await client.start(napped, {"seconds": 0.0}, run_id="r")).result(5)
    await sharded.down()
    await sharded.up()
    assert (await client.get("r")).status == "completed"
    assert await client.handle("r").result(5) == "awake"


async def test_every_event_and_state_names_who_asked(shared: Engine) -> None:
    client = await shared.registered(halved, napped)
    await shared.worker(app)
    alice = await shared.client("alice")
    await (await alice.start(halved, {"amount": "5"}, run_id="asked-a")).result(5)
    await (await alice.start(napped, {"seconds": 0.1}, run_id="asked-b", actor="bob")).result(5)
    seen: dict[str, set[str]] = {}
    for run in ("asked-a", "asked-b"):
        async for event in client.history(run):
            seen.setdefault(f"{run} {event.kind}", set()).add(event.actor)
    assert all(actor for actors in seen.values() for actor in actors), seen
    assert seen["asked-a run-started"] == {"alice"}
    assert seen["asked-b run-started"] == {"bob"}


async def test_a_definition_names_who_registered_it(engine: Engine) -> None:
    client = await engine.client("carol")
    assert (await client.register(napped)).actor == "carol"


async def test_a_client_of_a_namespace_that_nobody_served_is_told_so(shared: Engine) -> None:
    with pytest.raises(NotFound, match="never-served"):
        async with Client(shared.url, namespace="never-served"):
            pass


async def test_a_client_without_a_server_is_told_so() -> None:
    with pytest.raises(DressageError, match=r"127\.0\.0\.1:1\b") as caught:
        await asyncio.wait_for(Client("nats://127.0.0.1:1").connect(), 9)
    assert caught.value.code == "SERVER_UNREACHABLE"
    assert caught.value.retryable


@pytest.mark.parametrize("namespace", ["a.b", "", "A", "x" * 64, "*"])
def test_a_bad_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(DressageError) as caught:
        Client("nats://127.0.0.1:1", namespace=namespace)
    assert caught.value.code == "NAME_INVALID"


async def test_the_run_failure_family_travels_to_who_waits(shared: Engine) -> None:
    """Details are JSON values, for whoever catches the failure."""
    client = await shared.registered(halved)
    await shared.worker(app)
    handle = await client.start(halved, {"amount": "0"})
    with pytest.raises(RunFailed) as caught:
        await handle.result(5)
    details: Any = caught.value.failure.details
    assert msgspec.json.decode(details) == {"given": "0"}
