"""A compiled workflow and the same function run by Python give the same result, calls, and failure.

Programs are generated over the whole language, by the generator that the simulation uses too. `make fuzz` compares many
more of them.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flow.equality import compare  # pyright: ignore[reportMissingImports]

from dressage.simulation.programs import CONSTRUCTS
from dressage.simulation.programs.program import LEAVING


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """How often each construct, each ending, and each refusal occurred."""
    return Counter()


@pytest.mark.timeout(600)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**40), x=st.integers(-2, 5))
def test_a_compiled_program_does_what_python_does(seed: int, x: int, seen: Counter[str]) -> None:
    told = compare(seed, x)
    if told is None:
        seen["refused"] += 1
        return
    program, endings = told
    seen.update(program.used.keys())
    seen.update(["compiled", *set(endings)])


def test_the_generator_reaches_every_construct_and_every_ending(seen: Counter[str]) -> None:
    if not seen:
        pytest.skip("the property test did not run in this process")
    kinds = [*CONSTRUCTS, *LEAVING]
    rare = [kind for kind in [*kinds, "result", "failure"] if seen[kind] < seen["compiled"] * 0.02]
    assert not rare, seen
    assert seen["compiled"] > seen["refused"], seen
