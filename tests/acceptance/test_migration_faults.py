"""Moves that went wrong on the real engine."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.flow import Event, Masked, workflow
from dressage.protocol.errors import Refused
from dressage.protocol.migrations import Migration

pytestmark = pytest.mark.anyio

decided = Event("decided", of=str)
FAR: Final = 10**1200


@workflow(name="ballot")
async def ballot(card: Masked[str], place: str) -> str:
    return f"{place}: {await decided.wait()}"


@workflow(name="ballot")
async def ballot_anywhere(card: str = "none") -> str:
    place = "anywhere"
    return f"{place}: {await decided.wait()}"


async def test_a_run_that_has_moved_shows_the_input_that_it_was_started_with(engine: Engine) -> None:
    client = await engine.registered(ballot)
    await client.start(ballot, {"card": "4711", "place": "here"}, run_id="ann")
    before = (await client.get("ann")).input
    await engine.registered(ballot_anywhere)
    found = await client.plan_migration("ballot@1", "ballot@2")
    await client.migrate("ann", found.migration)
    view = await client.get("ann")
    assert (view.version, view.input) == (2, before)
    assert "4711" not in msgspec.json.encode(view).decode()


@pytest.mark.parametrize("version", [-1, 0, 10**18, FAR])
async def test_a_version_that_no_workflow_has_stops_nothing(engine: Engine, version: int) -> None:
    client = await engine.registered(ballot)
    await client.start(ballot, {"card": "4711", "place": "here"}, run_id="ann")
    wrong = Migration("ballot", 1, version, {0: 0})
    with pytest.raises(Refused, match="has no version"):
        await client.migrate("ann", wrong, timeout_s=10)
    assert (await client.check_migration("ann", wrong)).reasons
    await client.post("ann", decided, "yes")
    assert await client.handle("ann").result(15) == "here: yes"
