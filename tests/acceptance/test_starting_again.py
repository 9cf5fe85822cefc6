"""A start that comes again when nobody heard the answer to the first one, and a new version came in between: that is
what triggers, connectors and relays do, which know nothing of versions."""

from __future__ import annotations

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import Event, workflow
from dressage.protocol.errors import Refused

pytestmark = pytest.mark.anyio

never = Event("starting-again-never", of=int)


@workflow(name="starting-again")
async def one(name: str, discount: int = 1) -> int:
    return discount + await never.wait()


@workflow(name="starting-again")
async def two(name: str, discount: int = 2) -> int:
    """By default its input is another one."""
    return discount + await never.wait()


@pytest.fixture
async def moved_on(engine: Engine) -> Client:
    """The run is there, of the first version, and new runs get the second one."""
    client = await engine.registered(one)
    assert not (await client.start("starting-again", {"name": "a"}, run_id="again-1")).existing
    assert (await client.register(two)).version == 2
    return client


@pytest.mark.parametrize("retired", [False, True])
async def test_it_is_the_run_that_is_there(moved_on: Client, *, retired: bool) -> None:
    if retired:
        await moved_on.registry.retire("starting-again", 1)
    handle = await moved_on.start("starting-again", {"name": "a"}, run_id="again-1", version=2)
    assert handle.existing
    view = await moved_on.get("again-1")
    assert (view.version, view.variables["discount"]) == (1, 1)


async def test_another_input_is_a_conflict_still(moved_on: Client) -> None:
    with pytest.raises(Refused) as caught:
        await moved_on.start("starting-again", {"name": "b"}, run_id="again-1", version=2)
    assert caught.value.code == "RUN_ID_CONFLICT"
