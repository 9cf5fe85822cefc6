"""A workflow run both ways, by the engine's fold and by Python, with the same fake tasks.

The n-th call of a task always has the same outcome, so that a difference in the order of calls becomes a difference in
the result, too. It also takes the same virtual time, and no two take the same, so that who wins a race is certain.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import heapq
import math
import random
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, Final
from unittest import mock

import msgspec
from tests.flow.conftest import (  # pyright: ignore[reportMissingImports]
    ALONE,
    BEGAN_MS,
    RING_MS,
    RINGS_MAX,
    Engine,
    Path_,
    told_by_python,
)

from dressage.flow import (
    Assignment,
    Interrupt,
    UserTaskCancelled,
    conditions,
    first_completed,
    first_successful,
    gather,
    interruptible,
    sleeping,
    tasks,
    watching,
    workflows,
)
from dressage.flow.models import to_plain
from dressage.protocol.errors import BadSpec, DefinitionError
from dressage.protocol.spec import WorkflowSpec
from dressage.simulation.programs import TASKS, Program, define, other_version
from dressage.simulation.programs.program import FAILURES, FILED, TOLD

_within: Final = tasks.within

SIDE_BY_SIDE: Final = (gather, first_completed, first_successful)


class Fakes:
    """Tasks whose n-th call in a branch gives the n-th outcome there, whichever task is called."""

    def __init__(
        self, module: ModuleType, seed: int, engine: Engine | None = None, trouble: float = 0.25
    ) -> None:
        self.module = module
        self.seed = seed
        self.trouble = trouble
        """The share of calls that fail, a fifth of them with a technical error."""

        self.events = 0
        self.engine = engine
        """Runs the calls, if it is not Python; it keeps its own account of them."""

        self.branches: dict[Path_, list[Any]] = {} if engine is None else engine.outcome.branches
        self._begun: Counter[Path_] = Counter()
        self.rings: Counter[Path_] = Counter()
        self.started: dict[Path_, int] = {}
        self.alone: list[asyncio.Future[Any]] = []

    def takes(self, path: Path_, number: int) -> float:
        """How many milliseconds the n-th call of a branch takes, or its n-th sleep beyond its length."""
        return random.Random(f"{self.seed} takes {path} {number}").uniform(1, 40)

    def _takes_now(self) -> float:
        path = _path.get()[0]
        number, self._begun[path] = self._begun[path], self._begun[path] + 1
        return self.takes(path, number)

    def _noted(self, seconds: float) -> int:
        """How many milliseconds a branch waits at most; what is more than microseconds is a float's own."""
        milliseconds = max(0, math.ceil(round(seconds * 1000, 3)))
        self.branches.setdefault(_path.get()[0], []).append(milliseconds)
        return milliseconds

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(self._noted(duration.total_seconds()) + self._takes_now())

    async def held(self, test: Callable[[], object], within_s: float | None) -> bool:
        """What `sleep_until` and `wait_until` wait by, on the clock of this loop."""
        if within_s is None:
            return await watching.held(test, None)
        return await watching.held(test, self._noted(within_s) + self._takes_now())

    @staticmethod
    def now() -> datetime:
        """As a run's time has no fractions of milliseconds, this has none."""
        passed = timedelta(milliseconds=int(asyncio.get_running_loop().time()))
        return datetime.fromtimestamp(BEGAN_MS // 1000, UTC) + passed

    def side_by_side(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that starts branches, with the place of each noted."""

        async def noted(*branches: Coroutine[Any, Any, Any], **options: Any) -> Any:
            path, gathers = _path.get()
            if branches and options.get("limit", 1) > 0:
                gathers[0] += 1
            number = gathers[0]
            return await function(
                *(_branch((*path, (number, place)), each) for place, each in enumerate(branches)), **options
            )

        return noted

    def _outcome(self, name: str, args: dict[str, Any]) -> int:
        path = _path.get()[0] if self.engine is None else self.engine.path
        calls = self.branches.setdefault(path, [])
        if self.engine is None:
            calls.append((name, args))
        dice = random.Random(f"{self.seed} {path} {len(calls)}")
        chance = dice.random()
        if chance < 0.8 * self.trouble:
            failure = getattr(self.module, dice.choice(FAILURES))
            raise failure(f"call {len(calls)}", n=len(calls))
        if chance < self.trouble:
            raise OSError("the network is down")
        return dice.randint(-2, 5)

    def number(self, x: int) -> int:
        return self._outcome("number", {"x": x})

    def word(self, x: int, y: str = "w") -> str:
        return f"w{self._outcome('word', {'x': x, 'y': y})}"

    def both(self, x: int) -> tuple[int, str]:
        return self._outcome("both", {"x": x}), "b"

    async def rung(self, timeout: Any) -> int:
        """The n-th that interrupts what a branch is beside of; only some come."""
        path = _path.get()[0]
        number = self.rings[path] = self.rings[path] + 1
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if number <= RINGS_MAX:
            ring = functools.partial(_ring, waiting, self.ring(path, number))
            asyncio.get_running_loop().call_later(RING_MS * self._takes_now(), ring)
        return await waiting

    def ring(self, path: Path_, number: int) -> int:
        return random.Random(f"{self.seed} rung {path} {number}").randint(-2, 5)

    def interruptible(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, with the place of each branch noted: the last one is the body."""

        async def noted(body: Coroutine[Any, Any, Any], *interrupts: Interrupt) -> Any:
            path, gathers = _path.get()
            gathers[0] += 1
            places = [(*path, (gathers[0], place)) for place in range(len(interrupts) + 1)]
            placed = [
                dataclasses.replace(each, wait=functools.partial(_at, place, each.wait))
                for place, each in zip(places, interrupts, strict=False)
            ]
            return await function(_branch(places[-1], body), *placed)

        return noted

    async def hung(self, x: int) -> int:
        self._takes_now()
        forever: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await forever

    def within(self, seconds: float) -> contextlib.AbstractAsyncContextManager[tasks.Limited]:
        """What calls with a deadline are made in, on the clock of this loop."""
        return _within(self._noted(seconds) + self._takes_now())

    def beside(self, run: Coroutine[Any, Any, Any]) -> None:
        """What is started and not awaited, with a place of its own."""
        path = _path.get()[0]
        number = self.started[path] = self.started.get(path, 0) + 1
        self.alone.append(watching.free(_branch((*path, (number, ALONE)), run)))

    def publish(self, subject: str, data: Any) -> None:
        told = msgspec.json.decode(msgspec.json.encode(data, enc_hook=to_plain))
        self.branches.setdefault(_path.get()[0], []).append((subject, told))

    def _in_time(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            # It is done when its time has come, also if its caller is held then.
            loop = asyncio.get_running_loop()
            waiting: asyncio.Future[Any] = loop.create_future()

            def do() -> None:
                try:
                    waiting.set_result(function(*args, **kwargs))
                except Exception as error:
                    waiting.set_exception(error)

            timer = loop.call_later(self._takes_now(), do)
            try:
                return await waiting
            finally:
                timer.cancel()
                if waiting.done() and not waiting.cancelled():
                    waiting.exception()  # Seen.

        return timed

    def told(self, timeout: Any) -> int:
        """The payload of the n-th event, whenever it comes."""
        self.events += 1
        return random.Random(f"{self.seed} told {self.events}").randint(-2, 5)

    def filed(self, timeout: Any, key: str) -> int:
        """The payload of any event of a key."""
        return random.Random(f"{self.seed} filed {key}").randint(-2, 5)

    def asked(self, given: Assignment) -> Any:
        """What somebody of the group makes of a user task, whenever they do."""
        told = {"group": given.group, "notes": given.notes}
        self.branches.setdefault(_path.get()[0], []).append(("asked", told))
        return self.person(told)

    def person(self, told: dict[str, Any]) -> Any:
        dice = random.Random(f"{self.seed} asked {told}")
        if dice.random() < self.trouble / 2:
            raise UserTaskCancelled("no")
        return self.module.Pair(dice.randint(-2, 5))

    async def never(self, timeout: timedelta | None, key: str = "") -> None:
        if timeout is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self.sleep(timeout)
        raise TimeoutError

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in TASKS:
                done = self.hung if name == "hung" else self._in_time(getattr(self, name))
                stack.enter_context(getattr(self.module, name).faked(done))
            stack.enter_context(mock.patch.object(tasks, "within", self.within))
            stack.enter_context(mock.patch.object(workflows, "beside", self.beside))
            stack.enter_context(self.module.publish.faked(self.publish))
            stack.enter_context(self.module.told.faked(self.told))
            stack.enter_context(self.module.filed.faked(self.filed))
            stack.enter_context(self.module.asked.faked(self.asked))
            stack.enter_context(self.module.never.faked(self.never))
            stack.enter_context(self.module.rung.faked(self.rung))
            stack.enter_context(self.module.chimed.faked(self.rung))
            # The compiled form has long found both by what they were at definition.
            started = {each.__name__: self.side_by_side(each) for each in SIDE_BY_SIDE}
            vars(self.module).update(
                sleep=self.sleep, interruptible=self.interruptible(interruptible), **started
            )
            stack.enter_context(mock.patch.object(sleeping, "held", self.held))
            stack.enter_context(mock.patch.object(sleeping, "now", self.now))
            stack.enter_context(mock.patch.object(conditions, "held", self.held))
            yield


_path: ContextVar[tuple[Path_, list[int]]] = ContextVar("path")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time stands still while anything is ready, and then goes on to the next timer."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        loop: Any = self
        base: Any = super()
        timers: list[Any] = loop._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
            loop._timer_cancelled_count -= 1
        if timers and not loop._ready:
            self._now = timers[0]._when
        base._run_once()


def _ring(waiting: asyncio.Future[int], payload: int) -> None:
    if not waiting.done():
        waiting.set_result(payload)


async def _at(path: Path_, wait: Callable[[], Awaitable[Any]]) -> Any:
    """A wait of the branch at this place, which goes on to be there."""
    if _path.get()[0] != path:
        _path.set((path, [-1]))
    return await wait()


async def _branch(path: Path_, coroutine: Coroutine[Any, Any, Any]) -> Any:
    _path.set((path, [-1]))
    return await coroutine


def run_as_python(module: ModuleType, fakes: Fakes, x: int, cancel_ms: float | None) -> tuple[Any, ...]:
    async def run() -> Any:
        task = asyncio.ensure_future(_branch((), module.flow(x)))
        if cancel_ms is not None:
            asyncio.get_running_loop().call_at(cancel_ms, task.cancel)
        try:
            return await task
        finally:
            while fakes.alone:
                await asyncio.gather(fakes.alone.pop(), return_exceptions=True)

    with fakes.in_place():
        try:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                return ("result", runner.run(run()))
        except (Exception, asyncio.CancelledError) as error:
            return told_by_python(error)


def run_as_spec(
    module: ModuleType,
    seed: int,
    x: int,
    trouble: float,
    cancel_ms: float | None,
    other: WorkflowSpec | None = None,
) -> tuple[tuple[Any, ...], dict[Path_, list[Any]]]:
    """With an `other` version of the workflow the run moves between both, now and then."""
    done: dict[str, Callable[..., Any]] = {}
    children = {each.name: each.spec for each in module.flow.with_children()[:-1]}
    engine = Engine(module.flow.spec, done, children=children)
    fakes = Fakes(module, seed, engine, trouble)
    engine.takes = fakes.takes
    done.update(number=fakes.number, word=fakes.word, both=fakes.both)
    engine.come[TOLD] = lambda: fakes.told(None)
    engine.come[FILED] = lambda key: fakes.filed(None, key)
    engine.keyed = {FILED}
    engine.person = fakes.person
    engine.ring = fakes.ring
    if other is not None:
        engine.other, engine.moves = other, random.Random(f"{seed} moves")
    outcome = engine.run({"x": x}, early=seed % 3, cancel_ms=cancel_ms)
    if outcome.failure is not None:
        return ("failure", *outcome.failure), outcome.branches
    told = ("error", outcome.error) if outcome.error else ("result", outcome.result)
    return told, outcome.branches


REFUSED: Final = (
    "never gets here",
    "no failure gets to",
    "Python might change it in place",
    "cannot be set inside a comprehension, a lambda",
)
"""What the generator does not keep track of, so that a program of its may be refused for it."""


def input_of(number: int) -> int:
    """The argument of a program's first run."""
    return number % 8 - 2


TROUBLE: Final = (0.0, 0.05, 0.25, 0.25, 0.6)
"""The share of calls that fail, one run after the other: where nothing fails a program goes far, and ends calmly."""


SCARCE: Final = {
    "technical": "matched technical technical break continue gathered missed each heard saga again view",
    "handled": "break continue each loop again saga",
    "missed": "again view continue handled each",
    "loop-else": "each handled matched saga missed",
    "try-else": "each handled choice continue break loop missed saga",
    "finally": "matched choice loop",
    "saga": "continue",
    "each": "again",
}
"""What chance alone writes in fewer than one of a hundred programs, directly inside of each of these."""

_WISHES: Final = [(inner, outer) for outer, inside in SCARCE.items() for inner in inside.split()]


_MORE: Final = [("choice", "technical"), ("choice", "loop-else"), ("break", "missed")]
"""The same, of which too few are left where other constructs have joined. They take a turn now and then, so that the
programs of most numbers stay what they were."""

_TURN: Final = 19


def program_of(seed: int) -> Program:
    """The program of a number: each second one is likely to hold a pair that is scarce in the others."""
    turn = seed // 2
    if not seed % 2:
        return Program(seed)
    more = turn % _TURN == _TURN - 1
    return Program(seed, wish=_MORE[turn // _TURN % len(_MORE)] if more else _WISHES[turn % len(_WISHES)])


def compare(seed: int, x: int) -> tuple[Program, list[str]] | None:
    """The program of this seed and how its runs ended, each the same way by the fold as by Python.

    To compile takes longer than to run, so each program runs several times, with other inputs and other fates of its
    tasks. None for one that is refused. Raises `AssertionError` for a difference.
    """
    program = program_of(seed)
    text = program.text()
    with warnings.catch_warnings():
        # Python says of an odd expression that it is one.
        warnings.simplefilter("ignore", SyntaxWarning)
        # Arguments that fail leave the coroutines of a gather's other branches behind.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        try:
            module = define(text)
        except DefinitionError as refused:
            if not any(reason in refused.message for reason in REFUSED):
                raise
            return None
        try:
            other = define(other_version(text)).flow.spec if seed % MOVED == 0 else None
            endings = [
                _compared(module, other, seed + number, (x + 3 * number + 2) % 8 - 2, trouble, text)
                for number, trouble in enumerate(TROUBLE)
            ]
        except BadSpec as refused:
            # Who registers it is told: what functions hold stands in a spec once for each call of theirs.
            if "(limit spec-size)" not in refused.message:
                raise
            return None
    return program, endings


def _compared(
    module: ModuleType, other: WorkflowSpec | None, seed: int, x: int, trouble: float, text: str
) -> str:
    expected, called = _ways(module, other, seed, x, trouble, None, text)
    cancel_ms = random.Random(f"{seed} cancel").uniform(0, 60 * max(1, called))
    _ways(module, other, seed, x, trouble, cancel_ms, text)
    return expected


MOVED: Final = 2
"""The runs of each so many-th program move to another version, and back."""


def _ways(
    module: ModuleType,
    other: WorkflowSpec | None,
    seed: int,
    x: int,
    trouble: float,
    cancel_ms: float | None,
    text: str,
) -> tuple[str, int]:
    """How a run ended both ways, and how much it called."""
    python = Fakes(module, seed, trouble=trouble)
    expected = run_as_python(module, python, x, cancel_ms)
    compiled, branches = run_as_spec(module, seed, x, trouble, cancel_ms)
    if other is not None:
        moved = run_as_spec(module, seed, x, trouble, cancel_ms, other)
        assert moved == (compiled, branches), (
            f"{text}\n# seed {seed}, x {x}, cancel {cancel_ms}\n# {moved=}\n# {(compiled, branches)=}"
        )
    by_spec, by_python = (compiled, branches), (expected, python.branches)
    assert by_spec == by_python, (
        f"{text}\n# seed {seed}, x {x}, cancel {cancel_ms}\n# {by_spec=}\n# {by_python=}"
    )
    return str(expected[0]), sum(map(len, branches.values()))
