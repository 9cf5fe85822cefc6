"""The simulated event loop: virtual time, processes that crash and pause, and the same run for the same seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from dressage.simulation.loop import Hang, Lane, SimLoop


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop(random.Random(1))
    yield made
    made.bury()


def test_a_day_of_sleep_costs_no_time(loop: SimLoop) -> None:
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.true_time == pytest.approx(86_400)


def test_nothing_of_a_killed_process_runs_again(loop: SimLoop) -> None:
    lane, ran = Lane("victim"), list[str]()

    async def victim() -> None:
        try:
            ran.append("began")
            await asyncio.sleep(1)
            ran.append("went on")
        finally:
            ran.append("finally")

    async def story() -> None:
        _ = loop.begin(lane, victim())
        await asyncio.sleep(0.5)
        loop.kill(lane)
        await asyncio.sleep(5)
        assert ran == ["began"]

    loop.run_until_complete(story())


def test_a_paused_process_goes_on_where_it_was(loop: SimLoop) -> None:
    lane, ran = Lane("sleeper"), list[float]()

    async def sleeper() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            ran.append(loop.true_time)

    async def story() -> None:
        _ = loop.begin(lane, sleeper())
        await asyncio.sleep(1.5)
        loop.pause(lane)
        await asyncio.sleep(10)
        assert len(ran) == 1
        loop.resume(lane)
        await asyncio.sleep(5)

    loop.run_until_complete(story())
    assert ran == pytest.approx([1.0, 11.5, 12.5])


def test_tasks_that_a_process_starts_are_its_own(loop: SimLoop) -> None:
    lane, ran = Lane("parent"), list[str]()

    async def child() -> None:
        await asyncio.sleep(2)
        ran.append("child")

    async def parent() -> None:
        started = asyncio.create_task(child())
        await started

    async def story() -> None:
        _ = loop.begin(lane, parent())
        await asyncio.sleep(1)
        loop.kill(lane)
        await asyncio.sleep(5)

    loop.run_until_complete(story())
    assert ran == []
    loop.bury()


def steps_before_death(steps: int) -> int:
    loop, lane, count = SimLoop(random.Random(steps)), Lane("mortal"), 0

    async def mortal() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    lane.dies_in, lane.on_death = steps, lambda: loop.kill(lane)
    _ = loop.begin(lane, mortal())
    loop.run_until_complete(asyncio.sleep(1))
    loop.bury()
    return count


def test_a_process_dies_at_the_step_it_was_told_to() -> None:
    """Each step is a point between two awaits."""
    assert [steps_before_death(steps) for steps in range(1, 6)] == [0, 1, 2, 3, 4]


def test_a_clock_that_is_ahead_is_ahead_for_its_process_alone(loop: SimLoop) -> None:
    lane, seen = Lane("ahead"), list[float]()
    lane.skew_s = 90.0

    async def ahead() -> None:
        seen.append(loop.time())
        await asyncio.sleep(1)
        seen.append(loop.time())

    async def story() -> None:
        await loop.begin(lane, ahead())

    loop.run_until_complete(story())
    assert seen == pytest.approx([90.0, 91.0])
    assert loop.true_time == pytest.approx(1.0)


def test_waiting_for_what_never_comes_is_a_hang(loop: SimLoop) -> None:
    with pytest.raises(Hang):
        loop.run_until_complete(asyncio.Event().wait())


def test_who_is_next_depends_on_the_seed_alone() -> None:
    def order(seed: int) -> list[str]:
        loop, ran = SimLoop(random.Random(seed)), list[str]()

        async def work(name: str) -> None:
            for _ in range(5):
                ran.append(name)
                await asyncio.sleep(0)

        async def story() -> None:
            await asyncio.gather(*(loop.begin(Lane(name), work(name)) for name in "abc"))

        loop.run_until_complete(story())
        loop.bury()
        return ran

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(10)}) > 1
