"""How the soak tells growth from noise: each kind of series that it meets, made up, leaking and not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest
from tests.faults.sampling import Point  # pyright: ignore[reportMissingImports]
from tests.faults.verdicts import Rule, judge, table  # pyright: ignore[reportMissingImports]

FLAT: Final = Rule(growth=8)
BY_DESIGN: Final = Rule(growth=1, per_run=0.2, why="a key for each run")
LOW: Final = Rule(growth=50, share=0.1, quantile=0.1)
SEEDS: Final = range(20)


def series(value: Callable[[int], float], count: int = 360) -> list[Point]:
    """A value each 10 s, in which ten runs end."""
    return [Point(10.0 * number, 10 * number, value(number)) for number in range(count)]


def noisy(seed: int, sigma: float, rise: float = 0.0) -> list[Point]:
    chance = random.Random(seed)
    return series(lambda number: 100 + rise * number + chance.gauss(0, sigma))


def backlog(seed: int, leaked: float = 0.0) -> list[Point]:
    """Of a stream: little, in the hundreds after every fault, and what is leaked with each value."""
    chance = random.Random(seed)
    swollen = 0.0

    def value(number: int) -> float:
        nonlocal swollen
        swollen = chance.uniform(500, 9_000) if chance.random() < 0.15 else swollen * 0.4
        return chance.uniform(80, 160) + swollen + leaked * number

    return series(value)


def sawtooth(period: int, leaked: float = 0.0) -> list[Point]:
    """What is collected from time to time, such as the memory of the server."""
    return series(lambda number: 100 + 60 * (number % period) / period + leaked * number)


def test_what_rises_steadily_grows() -> None:
    verdict = judge("memory MB", series(lambda number: 100 + 0.5 * number), FLAT)
    assert verdict.flat is False
    assert verdict.per_hour == pytest.approx(180)
    assert verdict.noise == 0
    assert "GROWS" in table([verdict])


def test_what_stays_is_flat() -> None:
    verdict = judge("streams", series(lambda _: 8), Rule(growth=0, share=0))
    assert verdict.flat is True
    assert verdict.allowed == 0


def test_one_more_of_what_may_not_grow_is_growth_if_it_stays() -> None:
    assert judge("streams", series(lambda number: 8 + number // 120), Rule(growth=0, share=0)).flat is False


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_flat(seed: int) -> None:
    assert judge("memory MB", noisy(seed, sigma=20), FLAT).flat is True


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leak_is_found_in_noise(seed: int) -> None:
    """It grows by 54 in what is judged, with a noise of 20 in each value."""
    assert judge("memory MB", noisy(seed, sigma=20, rise=0.25), FLAT).flat is False


@pytest.mark.parametrize("seed", SEEDS)
def test_a_backlog_that_swells_with_faults_is_flat(seed: int) -> None:
    assert judge("shard streams messages", backlog(seed), LOW).flat is True


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leak_is_found_below_a_backlog_that_swells(seed: int) -> None:
    """One message in five runs stays, beside thousands that come and go."""
    assert judge("shard streams messages", backlog(seed, leaked=2), LOW).flat is False


@pytest.mark.parametrize("period", [7, 18, 40])
def test_a_sawtooth_is_flat(period: int) -> None:
    assert judge("memory MB", sawtooth(period), FLAT).flat is True


@pytest.mark.parametrize("period", [7, 18, 40])
def test_a_leak_is_found_below_a_sawtooth(period: int) -> None:
    assert judge("memory MB", sawtooth(period, leaked=0.5), FLAT).flat is False


def test_no_noise_excuses_what_doubles() -> None:
    chance = random.Random(1)
    wild = series(lambda number: max(0.0, number + chance.gauss(0, 200)))
    verdict = judge("memory MB", wild, FLAT)
    assert verdict.noise <= verdict.allowed - FLAT.growth
    assert verdict.flat is False


def test_the_warm_up_is_not_judged() -> None:
    assert judge("memory MB", series(lambda number: min(1_000.0, 10.0 * number)), FLAT).flat is True


def test_what_grows_with_the_runs_may_do_so() -> None:
    verdict = judge("bucket MB", series(lambda number: 0.9 * number), BY_DESIGN)
    assert verdict.flat is True
    assert verdict.per_1000_runs == pytest.approx(90)
    assert "by design: a key for each run" in table([verdict])


def test_a_run_may_not_cost_more_than_the_rule_says() -> None:
    assert judge("bucket MB", series(lambda number: 2.5 * number), BY_DESIGN).flat is False


def test_a_run_may_not_cost_more_later_than_it_did_at_first() -> None:
    """From 0.1 for each run to 0.15: within the rule, and yet a leak."""
    points = series(lambda number: number + 0.5 * max(0, number - 144))
    assert judge("bucket MB", points, BY_DESIGN).flat is False


def test_runs_that_stand_still_for_a_while_are_no_growth() -> None:
    """Along the runs, not along time: after a fault more of them end at once."""
    runs = [10 * (number // 30) * 30 for number in range(360)]
    points = [Point(10.0 * number, ended, 0.1 * ended) for number, ended in enumerate(runs)]
    assert judge("bucket MB", points, BY_DESIGN).flat is True


def test_what_has_a_ceiling_may_grow_up_to_it() -> None:
    rule = Rule(growth=8, ceiling=300)
    assert judge("memory MB", series(lambda number: 100 + 0.5 * number), rule).flat is True
    assert judge("memory MB", series(lambda number: 200 + 0.5 * number), rule).flat is False


def test_a_short_series_is_not_judged() -> None:
    verdict = judge("memory MB", series(lambda number: 50.0 * number, count=8), FLAT)
    assert verdict.flat is None
    assert "too short" in table([verdict])
