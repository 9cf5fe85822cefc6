"""`dressage run get --graph`: the steps of a run's workflow, and how each of them stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import RunCancelled
from dressage.flow import App, Event, WorkflowFailure, gather, sleep, workflow

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

app = App("graphed")
approved = Event("graphed-approved", of=str)
shipped = Event("graphed-shipped", of=str)


class Refused(WorkflowFailure): ...


@app.task
async def pack(item: str) -> str:
    return item


@app.task
async def pay(amount: int) -> str:
    if amount > 3:
        raise Refused("too much")
    return "paid"


@workflow
async def graphed(items: list[str]) -> str:
    for item in items:
        await pack(item)
    try:
        await pay(5)
    except Refused:
        await pay(1)
    if not items:
        await sleep(timedelta(days=1))
    await gather(approved.wait(), shipped.wait())
    return "done"


async def shown(engine: Engine, start: Start, *arguments: str) -> tuple[int, dict[str, str], str]:
    """The exit code, how each step stands by what is written of it, and all that was said."""
    program = start("run", "get", *arguments, "--server", engine.url, "--namespace", engine.namespace)
    code = await asyncio.to_thread(program.ended)
    tree = program.said.partition("\n\n")[2].splitlines()
    return (
        code,
        {line[17:].strip().partition("    since ")[0]: line[:9].strip() for line in tree},
        program.said,
    )


async def test_each_step_is_done_failed_waited_for_or_was_not_come_to(
    engine: Engine, start: Start, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(graphed)
    run = await client.start(graphed, {"items": ["a", "b", "c"]}, run_id="drawn")

    async def waits() -> bool:
        return len((await client.waits("drawn")).waits) >= 2

    await until(waits, "it waits for both events")
    code, steps, said = await shown(engine, start, "drawn", "--graph")
    assert code == 0, said
    by = {
        what: [state for text, state in steps.items() if what in text]
        for what in ("pack(", "pay(amount=5", "pay(amount=1", "sleep(")
    }
    assert by == {
        "pack(": ["done 3x"],
        "pay(amount=5": ["failed"],
        "pay(amount=1": ["done"],
        "sleep(": [""],
    }, said
    waiting = [text for text, state in steps.items() if state == "waits"]
    assert any("graphed-approved" in text or "approved" in text for text in waiting), said
    assert any("shipped" in text for text in waiting), said
    assert said.count("    since 20") == len(waiting)
    await run.post(approved, "yes")
    await run.wait_for_event("event-received", timeout_s=10)
    await run.cancel("enough")
    with pytest.raises(RunCancelled):
        await run.result(10)
    code, steps, said = await shown(engine, start, "drawn", "--graph")
    assert [state for text, state in steps.items() if "shipped" in text and state] == ["given up"], said
    assert [state for text, state in steps.items() if "approved" in text and state] == ["done"], said
    code, _, said = await shown(engine, start, "drawn", "--graph", "--json")
    assert code == 2, said
    code, _, said = await shown(engine, start, "unknown", "--graph")
    assert (code, "RUN_UNKNOWN" in said) == (1, True)


async def test_nothing_of_a_run_that_completed_is_given_up(engine: Engine, start: Start) -> None:
    await engine.worker(app)
    client = await engine.registered(graphed)
    run = await client.start(graphed, {"items": ["a"]}, run_id="whole")
    await run.post(approved, "yes")
    await run.post(shipped, "yes")
    assert await run.result(10) == "done"
    code, steps, said = await shown(engine, start, "whole", "--graph")
    assert code == 0, said
    assert set(steps.values()) == {"", "done", "failed"}, said
    (gathered,) = [state for text, state in steps.items() if "gather" in text]
    assert gathered == "done", said
