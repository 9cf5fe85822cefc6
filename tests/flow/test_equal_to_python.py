"""A compiled workflow and the same function run by Python give the same result, calls, and failure.

Programs are generated over the whole subset. Both sides see the same fake tasks, whose n-th call always has the
same outcome, so that a difference in the order of calls becomes a difference in the result, too.
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

PREAMBLE = """\
from __future__ import annotations
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from dressage.flow import Searchable, WorkflowFailure, sleep, task, workflow

class Declined(WorkflowFailure): ...
class Stolen(Declined): ...
class Other(WorkflowFailure): ...

@dataclass
class View:
    status: Searchable[str] = "NEW"
    count: int = 0

@dataclass
class Pair:
    left: int
    right: str = "r"

@task
async def number(x: int) -> int: raise NotImplementedError
@task
async def word(x: int, y: str = "w") -> str: raise NotImplementedError
@task
async def both(x: int) -> tuple[int, str]: raise NotImplementedError

"""

FAILURES = ["Declined", "Stolen", "Other"]
INTS, TEXTS = ["a", "b", "view.count"], ["s", "t", "view.status"]


class Program:
    """Writes one random function of the subset. Loops count down, so that every program ends."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.loops = 0
        self.in_loop: list[str] = []
        self.caught: list[str] = []
        self.used: Counter[str] = Counter()

    def text(self) -> str:
        self.write(1, "a, b, s = 3, x, 't'")
        self.write(1, "view = View()" if self.random.random() < 0.7 else "view, t = View(), await word(x)")
        self.write(1, "t = 'u'")
        self.block(1, self.random.randint(3, 9))
        self.write(1, f"a = {self.integer()}")
        self.write(1, "return f'{a}|{b}|{s}|{t}|{view.count}|{view.status}'")
        return f"{PREAMBLE}@workflow\nasync def flow(x: int) -> str:\n" + "".join(self.lines)

    def write(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line + "\n")

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    # -- expressions -------------------------------------------------------------------------------
    def integer(self, depth: int = 0) -> str:
        kind = self.random.randint(0, 11 if depth < 3 else 3)
        inner = depth + 1
        if kind <= 1:
            return str(self.random.randint(-3, 9))
        if kind <= 3:
            return self.pick("a", "b", "x", "view.count")
        if kind <= 6:
            operator = self.pick(*"+-*&|" * 4, "//", "%")
            return f"({self.integer(inner)} {operator} {self.integer(inner)})"
        if kind == 7:
            return f"({self.integer(inner)} if {self.test(inner)} else {self.integer(inner)})"
        if kind == 8:
            return f"len({self.string(inner)})"
        if kind == 9:
            place = self.pick(*"010101", "-1", "-2", self.integer(3))
            return f"[{self.integer(inner)}, {self.integer(inner)}][{place}]"
        if kind == 10:
            return f"{self.pick('min', 'max')}({self.integer(inner)}, {self.integer(inner)})"
        return f"Pair({self.integer(inner)}, right={self.string(inner)}).left"

    def string(self, depth: int = 0) -> str:
        kind = self.random.randint(0, 7 if depth < 3 else 2)
        inner = depth + 1
        if kind <= 1:
            return self.pick("'k'", "'Lm '", "''")
        if kind == 2:
            return self.pick("s", "t", "view.status")
        if kind == 3:
            return f"({self.string(inner)} + {self.string(inner)})"
        if kind == 4:
            return f"{self.string(inner)}.{self.pick('upper', 'lower', 'strip')}()"
        if kind == 5:
            return f'f"{{{self.variable()}!r:>4}}:{{{self.variable()}}}"'
        if kind == 6:
            return f"Pair({self.integer(inner)}).right"
        key = self.pick(*(["'k'", "'l'"] * 5), "s")
        return f"{{'k': {self.string(inner)}, 'l': {self.string(inner)}}}[{key}]"

    def variable(self) -> str:
        return self.pick("a", "b", "s", "t", "x", "view.count", "view.status")

    def test(self, depth: int = 0) -> str:
        kind = self.random.randint(0, 6 if depth < 3 else 2)
        inner = depth + 1
        if kind <= 2:
            operator = self.pick("<", "<=", "==", "!=", ">", ">=")
            return f"{self.integer(inner)} {operator} {self.integer(inner)}"
        if kind == 3:
            return f"{self.integer(inner)} < {self.integer(inner)} <= {self.integer(inner)}"
        if kind == 4:
            return f"({self.test(inner)} {self.pick('and', 'or')} not {self.test(inner)})"
        if kind == 5:
            return f"{self.string(inner)} {self.pick('in', 'not in')} {self.string(inner)}"
        return f"({self.integer(inner)} or {self.integer(inner)})"

    # -- statements --------------------------------------------------------------------------------
    def block(self, depth: int, size: int) -> None:
        """Writes some statements; the last may leave the block."""
        for _ in range(size):
            self.statement(depth)
        if depth > 1 and self.random.random() < 0.25:
            self.leave(depth)
        elif not size:
            self.write(depth, "pass")

    def statement(self, depth: int) -> None:
        kinds = ["assign", "augment", "call", "call", "several", "view", "sleep", "unpack"]
        if depth < 4:
            kinds += ["if", "if", "while", "try", "try"]
        kind = self.random.choice(kinds)
        self.used[kind] += 1
        getattr(self, f"write_{kind}")(depth)

    def write_assign(self, depth: int) -> None:
        self.write(depth, self.pick(f"a = {self.integer()}", f"b = {self.integer()}", f"s = {self.string()}"))

    def write_augment(self, depth: int) -> None:
        operator = self.pick("+", "-", "*")
        self.write(depth, self.pick(f"a {operator}= {self.integer()}", f"t += {self.string()}"))

    def write_view(self, depth: int) -> None:
        self.write(
            depth,
            self.pick(
                f"view.count = {self.integer()}",
                f"view.count += {self.integer()}",
                f"view.status = {self.string()}",
                f"view.count = await number({self.integer()})",
                f"view = View(count={self.integer()})",
            ),
        )

    def call(self) -> tuple[str, str]:
        if self.random.random() < 0.5:
            return self.pick("a", "b"), f"await number({self.integer()})"
        return self.pick("s", "t"), f"await word({self.integer()}, y={self.string()})"

    def write_call(self, depth: int) -> None:
        target, call = self.call()
        self.write(depth, call if self.random.random() < 0.3 else f"{target} = {call}")

    def write_several(self, depth: int) -> None:
        lines = [
            f"a, b = b, {self.integer()}",
            f"a, s = await number({self.integer()}), {self.string()}",
            f"a, b = {self.integer()}, await number(a)",
            f"view.count, a, view.status = a, await number(view.count), {self.string()}",
            f"s, t, a = t, await word(a, s), {self.integer()}",
        ]
        self.write(depth, self.random.choice(lines))

    def write_unpack(self, depth: int) -> None:
        self.write(depth, f"a, t = await both({self.integer()})")

    def write_sleep(self, depth: int) -> None:
        self.write(depth, f"await sleep(timedelta(microseconds={self.integer()}))")

    def write_if(self, depth: int) -> None:
        self.write(depth, f"if {self.test()}:")
        self.block(depth + 1, self.random.randint(0, 2))
        if self.random.random() < 0.4:
            self.write(depth, f"elif {self.test()}:")
            self.block(depth + 1, self.random.randint(0, 2))
        if self.random.random() < 0.5:
            self.write(depth, "else:")
            self.block(depth + 1, self.random.randint(0, 2))

    def write_while(self, depth: int) -> None:
        self.loops += 1
        counter = f"n{self.loops}"
        self.write(depth, f"{counter} = {self.random.randint(1, 4)}")
        self.write(depth, f"while {counter} > 0" + self.pick(":", f" and {self.test()}:"))
        self.write(depth + 1, f"{counter} -= 1")
        self.in_loop.append(counter)
        self.block(depth + 1, self.random.randint(1, 3))
        self.in_loop.pop()

    def write_try(self, depth: int) -> None:
        self.write(depth, "try:")
        self.write(depth + 1, f"{self.pick('a', 'b')} = await number({self.integer()})")
        self.block(depth + 1, self.random.randint(0, 2))
        classes = self.pick("Declined", "Stolen", "Other", "WorkflowFailure", "(Stolen, Other)")
        self.clause(depth, classes)
        if classes in ("Stolen", "Other") and self.random.random() < 0.5:
            self.clause(depth, "Declined")

    def clause(self, depth: int, classes: str) -> None:
        name = f"e{len(self.lines)}" if self.random.random() < 0.6 else ""
        self.write(depth, f"except {classes} as {name}:" if name else f"except {classes}:")
        if name:
            text = "{" + name + ".name}{" + name + ".message}{" + name + "}{" + name + ".details.get('n', 0)}"
            self.write(depth + 1, f'{self.pick("s", "view.status")} = f"{text}"')
        self.caught.append(name)
        self.block(depth + 1, self.random.randint(0, 2))
        self.caught.pop()

    def leave(self, depth: int) -> None:
        kinds = ["raise", "return"]
        kinds += ["break", "continue"] * 2 if self.in_loop else []
        kinds += ["again"] * 2 if self.caught else []
        kind = self.random.choice(kinds)
        self.used[kind] += 1
        if kind in ("break", "continue"):
            self.write(depth, kind)
        elif kind == "again":
            self.write(depth, self.pick("raise", f"raise {self.caught[-1]}".strip()))
        elif kind == "raise":
            failure = self.random.choice(FAILURES)
            cause = self.pick("", " from None")
            self.write(depth, f'raise {failure}(f"{{{self.variable()}}}", n={self.integer()}){cause}')
        else:
            self.write(depth, self.pick(f"return {self.string()}", f"return await word({self.integer()})"))


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
            for name in ("number", "word", "both"):
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
    kinds = ["assign", "augment", "call", "several", "view", "sleep", "unpack", "if", "while", "try", "raise"]
    kinds += ["return", "break", "continue", "again"]
    rare = [kind for kind in [*kinds, "result", "failure"] if seen[kind] < seen["compiled"] * 0.02]
    assert not rare, seen
    assert seen["compiled"] > seen["refused"], seen
