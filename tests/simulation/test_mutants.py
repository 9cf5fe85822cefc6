"""The rules of the simulation can fail: each mutant of the engine breaks one of those that are to notice it."""

from __future__ import annotations

import pytest

from dressage.simulation.catching import catch
from dressage.simulation.invariants import RULES
from dressage.simulation.mutants import MUTANTS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_a_rule(name: str) -> None:
    caught = catch(name)
    print(caught)
    assert caught.rule in MUTANTS[name].rules


def test_there_are_mutants_enough_and_their_rules_exist() -> None:
    assert len(MUTANTS) >= 15
    assert all(mutant.rules <= RULES.keys() for mutant in MUTANTS.values())
    assert all("no-unhandled-error" not in mutant.rules for mutant in MUTANTS.values())
