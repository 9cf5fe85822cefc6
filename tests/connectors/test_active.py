"""What one process at a time does goes on, whatever it raises."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dressage.connectors import active
from dressage.connectors.active import Active
from dressage.connectors.place import Lease, LeaseLost, Place
from dressage.protocol.errors import BadInput, DressageError, NoAnswer
from dressage.telemetry import NoMeters

GAUGE = NoMeters().gauge("active", "", ["trigger"]).labels("it")


class AlwaysMine:
    whose = "it"

    def __init__(self) -> None:
        self.released = 0

    async def take(self, stop: asyncio.Event) -> Place | None:
        return Place(seq=7)

    async def release(self) -> None:
        self.released += 1
        raise NoAnswer("away")


async def test_it_is_done_anew_after_everything_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active, "RETRY_S", 0.001)
    stop, lease = asyncio.Event(), AlwaysMine()
    raised = [NoAnswer("away"), LeaseLost("another one"), ValueError("a mistake")]
    told: list[str] = []

    async def work(found: Place) -> None:
        assert found.seq == 7
        if raised:
            raise raised.pop(0)
        stop.set()

    def interrupted(error: DressageError) -> None:
        told.append(error.code)

    await asyncio.wait_for(Active(cast("Lease", lease), GAUGE, interrupted).run(work, stop), 10)
    assert told == ["NO_ANSWER", "INTERNAL"], "that another one has it is no fault"
    assert lease.released == 4


async def test_what_is_fatal_goes_on_to_the_caller() -> None:
    async def work(found: Place) -> None:
        raise BadInput("never")

    def interrupted(error: DressageError) -> None:
        raise AssertionError(error)

    with pytest.raises(BadInput):
        await Active(cast("Lease", AlwaysMine()), GAUGE, interrupted, BadInput).run(work, asyncio.Event())
