"""A seed that fails is made smaller, and what is printed of it shows the same again, in a fresh process."""

from __future__ import annotations

import pytest

from dressage.simulation.catching import catch, run_mutant, shrink_mutant
from dressage.simulation.mutants import MUTANTS
from dressage.simulation.running import Shrunk, pool
from dressage.simulation.seed import SeedResult, plan

MUTANT = "cursor_before_singles"
RULE = "effects-before-cursor"


def breaks(result: SeedResult) -> bool:
    return any(violation.rule == RULE for violation in result.violations)


@pytest.fixture(scope="module")
def seed() -> int:
    """The first one that catches the mutant."""
    with pool(1) as worker:
        caught = worker.submit(catch, MUTANT).result()
    assert caught.rule == RULE
    return MUTANTS[MUTANT].first + caught.seeds - 1


@pytest.fixture(scope="module")
def smaller(seed: int) -> Shrunk:
    with pool(1) as worker:
        return worker.submit(shrink_mutant, MUTANT, seed, RULE).result()


@pytest.mark.timeout(600)
def test_a_failing_seed_shrinks_to_fewer_faults_that_still_fail(smaller: Shrunk) -> None:
    planned = len(plan(smaller.result.seed).faults)
    assert smaller.without
    assert len(smaller.faults) == planned - len(smaller.without)
    assert breaks(smaller.result)


@pytest.mark.timeout(600)
def test_the_smaller_seed_is_the_same_to_the_last_message_in_a_fresh_process(smaller: Shrunk) -> None:
    with pool(1) as worker:
        again = worker.submit(run_mutant, MUTANT, smaller.result.seed, smaller.without).result()
    assert again.fingerprint == smaller.result.fingerprint
    assert again.violations == smaller.result.violations
    assert again.trace == smaller.result.trace


def test_what_is_printed_names_the_rule_the_faults_and_the_command(smaller: Shrunk) -> None:
    text, without = smaller.text(), ",".join(map(str, sorted(smaller.without)))
    assert f"seed {smaller.result.seed} breaks a rule: {smaller.result.violations[0].rule}" in text
    assert all(fault in text for fault in smaller.faults)
    assert f"--seeds {smaller.result.seed}..{smaller.result.seed} --without {without}" in text
