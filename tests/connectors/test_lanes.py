"""What is under way: in order for each key, and the place below the oldest that is not done."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dressage.connectors.gate import Faults
from dressage.connectors.lanes import AHEAD, Lanes
from dressage.connectors.place import Lease, LeaseLost
from dressage.protocol.errors import NoAnswer
from dressage.telemetry import NoMeters

FAULTS = Faults("it", NoMeters().gauge("faulty", "", ["trigger"]).labels("it"))


class Place:
    """Where the place is stored."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.error: Exception | None = None

    async def store(self, created: str, seq: int) -> None:
        if self.error is not None:
            raise self.error
        self.stored.append(seq)


class Work:
    """Items are done when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def gate(self, item: str) -> asyncio.Event:
        return self._gates.setdefault(item, asyncio.Event())

    async def __call__(self, seq: int, item: str) -> None:
        self.begun.append(item)
        await self.gate(item).wait()


def lanes(work: Work, place: Place, in_flight: int = 4) -> Lanes[str]:
    return Lanes(cast("Lease", place), 10, "then", work, FAULTS, in_flight=in_flight, store_every_s=0.01)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_that_waits_holds_up_its_key_alone() -> None:
    work, place = Work(), Place()
    taken = lanes(work, place)
    for seq, item in ((11, "a1"), (12, "b1"), (13, "a2"), (14, "b2")):
        taken.take(seq, item[0], 1, item)
    await settled()
    assert work.begun == ["a1", "b1"]
    work.gate("b1").set()
    await settled()
    assert work.begun == ["a1", "b1", "b2"]
    work.gate("b2").set()
    await settled()
    assert (taken.reached, taken.count, list(taken.heads)) == (10, 2, [11]), "a1 is not done"
    work.gate("a1").set()
    await settled()
    assert work.begun[-1] == "a2"
    assert taken.reached == 12
    await taken.end()
    assert place.stored[-1] == 12, "the end says how far it is"


async def test_there_is_no_room_beyond_what_may_be_under_way() -> None:
    work = Work()
    taken = lanes(work, Place())
    for seq in range(11, 15):
        taken.take(seq, str(seq), 1, str(seq))
    assert not await taken.has_room(1)
    work.gate("12").set()
    await settled()
    assert await taken.has_room(1)
    await taken.end()


async def test_it_does_not_get_far_ahead_of_the_oldest() -> None:
    work = Work()
    taken = lanes(work, Place())
    taken.take(11, "a", 1, "a")
    for seq in range(12, 11 + AHEAD * 4):
        taken.pass_over(seq)
    assert not await taken.has_room(1)
    await taken.end()


async def test_a_lost_lease_ends_it_and_what_does_not_answer_does_not() -> None:
    place = Place()
    taken = lanes(Work(), place)
    place.error = NoAnswer("away")
    await asyncio.sleep(0.05)
    taken.check()
    place.error = LeaseLost("another one")
    await asyncio.sleep(0.05)
    with pytest.raises(LeaseLost):
        taken.check()
    await taken.end()


async def test_what_work_raises_is_told() -> None:
    async def fail(seq: int, item: str) -> None:
        raise LeaseLost("another one")

    taken: Lanes[str] = Lanes(cast("Lease", Place()), 10, "then", fail, FAULTS, in_flight=4)
    taken.take(11, "a", 1, "a")
    await settled()
    with pytest.raises(LeaseLost):
        await taken.until(lambda: False, 1.0)
    await taken.end()
