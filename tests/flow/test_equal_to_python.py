"""A compiled workflow and the same function run by Python give the same result, calls, and failure.

Programs are generated over the whole subset, by the generator that the simulation uses too. Both sides see the same
fake tasks, whose n-th call always has the same outcome, so that a difference in the order of calls becomes a difference
in the result, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dressage.flow import WorkflowFailure
from dressage.protocol.errors import DefinitionError
from dressage.simulation.programs import CONSTRUCTS, TASKS, Program
from dressage.simulation.programs.program import FAILURES


class Fakes:
    """Tasks whose n-th call gives the n-th outcome, whichever task is called."""

    def __init__(self, module: ModuleType, seed: int) -> None:
        self.module = module
        self.random = random.Random(seed)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.slept: list[Any] = []

    async def sleep(self, duration: timedelta) -> None:
        self.slept.append(duration)

    def _outcome(self, name: str, args: dict[str, Any]) -> int:
        self.calls.append((name, args))
        # Any value a workflow computed must also fit what JSON carries everywhere.
        if self.random.random() < 0.25:
            failure = getattr(self.module, self.random.choice(FAILURES))
            raise failure(f"call {len(self.calls)}", n=len(self.calls))
        return self.random.randint(-2, 5)

    def number(self, x: int) -> int:
        return self._outcome("number", {"x": x})

    def word(self, x: int, y: str = "w") -> str:
        return f"w{self._outcome('word', {'x': x, 'y': y})}"

    def both(self, x: int) -> tuple[int, str]:
        return self._outcome("both", {"x": x}), "b"

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in TASKS:
                stack.enter_context(getattr(self.module, name).faked(getattr(self, name)))
            # The compiled form has long found `sleep` by what it was at definition.
            vars(self.module)["sleep"] = self.sleep
            yield


def run_as_python(module: ModuleType, fakes: Fakes, x: int) -> tuple[Any, ...]:
    with fakes.in_place():
        try:
            return ("result", asyncio.run(module.flow(x)))
        except WorkflowFailure as failure:
            return ("failure", (failure.name, failure.message, failure.details))
        except Exception as error:
            return ("error", type(error).__name__)


def run_as_spec(interpret: Callable[..., Any], module: ModuleType, fakes: Fakes, x: int) -> tuple[Any, ...]:
    tasks = {"number": fakes.number, "word": fakes.word, "both": fakes.both}
    outcome = interpret(module.flow.spec, tasks, {"x": x})
    fakes.slept = outcome.slept
    if outcome.failure is not None:
        return ("failure", outcome.failure)
    return ("error", outcome.error) if outcome.error else ("result", outcome.result)


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """How often each construct, each ending, and each refusal occurred."""
    return Counter()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**40), x=st.integers(-2, 5))
def test_a_compiled_program_does_what_python_does(
    seed: int, x: int, define: Callable[[str], ModuleType], interpret: Callable[..., Any], seen: Counter[str]
) -> None:
    program = Program(seed)
    text = program.text()
    try:
        module = define(text)
    except DefinitionError as refused:
        seen["refused"] += 1
        # A generated program may be refused only for what its generator does not keep track of.
        if not any(reason in refused.message for reason in ("never gets here", "no failure gets to")):
            raise
        return
    python, compiled = Fakes(module, seed), Fakes(module, seed)
    expected = run_as_python(module, python, x)
    assert run_as_spec(interpret, module, compiled, x) == expected, text
    assert (compiled.calls, compiled.slept) == (python.calls, python.slept), text
    seen.update(program.used.keys())
    seen.update(["compiled", expected[0]])


def test_the_generator_reaches_every_construct_and_every_ending(seen: Counter[str]) -> None:
    if not seen:
        pytest.skip("the property test did not run in this process")
    kinds = [*CONSTRUCTS, "raise", "return", "break", "continue", "again"]
    rare = [kind for kind in [*kinds, "result", "failure"] if seen[kind] < seen["compiled"] * 0.02]
    assert not rare, seen
    assert seen["compiled"] > seen["refused"], seen
