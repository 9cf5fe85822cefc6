"""Shows that the rules can fail: every mutant of the engine is run until a rule catches it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dressage.simulation.mutants import MUTANTS
from dressage.simulation.running import Shrunk, pool, shrink, tidy
from dressage.simulation.seed import SeedResult, run_seed

SEEDS_MAX: Final = 150
"""A mutant that shows itself in none of so many seeds counts as not caught."""


@dataclass(slots=True, frozen=True)
class Caught:
    """`rule` caught the mutant in the `seeds`th seed; None: no rule of those that may."""

    mutant: str
    rule: str | None
    seeds: int
    others: tuple[str, ...] = ()


def catch(name: str, seeds_max: int = SEEDS_MAX) -> Caught:
    """Runs seeds with this mutant of the engine until one of its rules is broken."""
    mutant = MUTANTS[name]
    others: list[str] = []
    for seed in range(mutant.first, mutant.first + seeds_max):
        with mutant.patch():
            result = run_seed(seed, until=mutant.rules)
        tidy()
        if any(violation.rule == "no-unhandled-error" for violation in result.violations):
            others.append("no-unhandled-error")  # An engine that breaks down shows nothing of the rule.
            continue
        for violation in result.violations:
            if violation.rule in mutant.rules:
                return Caught(name, violation.rule, seed - mutant.first + 1, tuple(others))
            others.append(violation.rule)
    return Caught(name, None, seeds_max, tuple(others))


def run_mutant(name: str, seed: int, without: frozenset[int] = frozenset()) -> SeedResult:
    """`run_seed` of an engine with this mutant, to its end."""
    with MUTANTS[name].patch():
        return run_seed(seed, without)


def shrink_mutant(name: str, seed: int, rule: str) -> Shrunk:
    """`shrink` of an engine with this mutant."""
    with MUTANTS[name].patch():
        return shrink(seed, rule)


def catch_mutants(processes: int = 0) -> Iterator[Caught]:
    """All mutants, over the cores of the machine, in the order of their definition."""
    with pool(processes or os.cpu_count() or 1) as workers:
        yield from workers.map(catch, MUTANTS)
