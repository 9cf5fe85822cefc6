"""`dressage dev` can be stopped while its server still reads its data."""

from __future__ import annotations

import asyncio

import pytest

from dressage.cli.dev import _unless  # pyright: ignore[reportPrivateUsage]

pytestmark = pytest.mark.anyio


async def test_what_starts_is_given_up_when_it_is_to_stop() -> None:
    given_up: list[bool] = []

    async def for_long() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.append(True)
            raise
        return "ready"

    stopped = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stopped.set)
    assert await _unless(stopped, for_long()) is None
    assert given_up == [True]


async def test_what_has_started_is_there_and_what_fails_says_why() -> None:
    async def at_once() -> str:
        return "ready"

    async def fails() -> str:
        raise ValueError("port in use")

    assert await _unless(asyncio.Event(), at_once()) == "ready"
    with pytest.raises(ValueError, match="port in use"):
        await _unless(asyncio.Event(), fails())
