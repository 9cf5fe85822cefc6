"""What the tests of the small simulations have in common."""

from __future__ import annotations

from typing import Final

from dressage.simulation.small import SmallWorld, run_small

MUTANT_SEEDS: Final = range(1, 61)

DEAD_TASKS: Final = "ignore::pytest.PytestUnraisableExceptionWarning"
"""How the tasks of a dead process end is of no interest."""


def shows(world: type[SmallWorld], rules: set[str]) -> None:
    """One of the rules is broken within some seeds."""
    for seed in MUTANT_SEEDS:
        broken = {violation.partition(":")[0] for violation in run_small(world, seed).violations}
        if broken & rules:
            print(f"seed {seed} shows {sorted(broken)}")
            return
    raise AssertionError("no seed shows it")
