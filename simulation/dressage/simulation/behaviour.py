"""What tasks do in the simulated world: a fixed function of the run, the task and its arguments.

Workers execute it attempt by attempt; the reference asks for the end of it all. So both must come to the same,
however often an attempt is executed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dressage.flow import App, WorkflowFailure
from dressage.protocol.large import INLINE_BYTES_MAX
from dressage.simulation.programs import TASKS, Program, define
from dressage.simulation.programs.program import FAILURES
from dressage.worker import TaskContext, current_task

RETRIES: Final = 2
POISON: Final = 1_000
NAP: Final = "timedelta(milliseconds=({}) % 3000)"
EPOCH_S: Final = 1_790_000_000
"""When the simulated time begins."""

MOMENT: Final = "BEGAN + timedelta(seconds=({}) % 30)"
QUEUES: Final = ("alpha", "beta")


def task_options(queue: str, *, waits: bool = False) -> str:
    """Of those that `waits` a call whose retries are used up is dead until somebody settles it."""
    backoff = "Exponential(base=timedelta(milliseconds=200), limit=timedelta(seconds=2))"
    return f"queue='{queue}', retries={RETRIES}, backoff={backoff}" + (", exhausted='wait'" if waits else "")


class Broken(Exception):
    """A technical error: retried, and in the end the run's failure."""


@dataclass(slots=True, frozen=True)
class Behaviour:
    """`fails` attempts end in a technical error before one ends in `failure`, or in `value`."""

    fails: int
    failure: str | None
    value: int
    seconds: float
    wrong_type: bool = False
    keeps: bool = False


def behaviour(run_id: str, task: str, args: Mapping[str, Any]) -> Behaviour:
    """In a child run it is that of the run at the top."""
    text = json.dumps([run_id.partition("~")[0], task, args], sort_keys=True)
    dice = zlib.crc32(text.encode())

    def throw(sides: int) -> int:
        nonlocal dice
        dice, result = divmod(dice, sides)
        return result

    kind, which, value, slow = throw(40), throw(len(FAILURES)), throw(8) - 2, throw(50)
    seconds = 2.0 if slow == 0 else 0.3 if slow < 5 else slow / 2000
    return Behaviour(
        fails=POISON if kind == 0 else kind if kind <= RETRIES else 0,
        failure=FAILURES[which] if 10 <= kind < 17 else None,
        value=value,
        seconds=seconds,
        wrong_type=kind == 39 and which == 0,
        keeps=kind <= RETRIES or slow < 5,
    )


def result_of(task: str, value: int) -> Any:
    match task:
        case "word":
            return f"w{value}"
        case "both":
            return value, "b"
        case _:
            return value


def payload_of(run_id: str, number: int) -> int:
    """What the `number`th external event brings to a run."""
    return zlib.crc32(f"{run_id} {number}".encode()) % 8 - 2


def person_of(run_id: str, notes: str) -> int | None:
    """What somebody fills in who reads these notes; None: they cancel it."""
    value = zlib.crc32(f"{run_id} {notes}".encode()) % 9 - 2
    return None if value == 6 else value


def ticking() -> Any:
    """A module whose workflow is what schedules start: a run of one task, of which its id says what that comes to."""
    if "ticking" not in _contracts:
        text = (
            Program(0, name="ticking", task_options=task_options(QUEUES[0])).text().partition("@workflow")[0]
        )
        _contracts["ticking"] = define(f"{text}{_TICKING}")
    return _contracts["ticking"]


def fleeting() -> Any:
    """The same under another name: runs of it are deleted."""
    if "fleeting" not in _contracts:
        text = Program(0, name="fleeting", task_options=task_options(QUEUES[1])).text()
        _contracts["fleeting"] = define(
            f"{text.partition('@workflow')[0]}{_TICKING.replace('ticking', 'fleeting')}"
        )
    return _contracts["fleeting"]


_TICKING: Final = """
@workflow(name="ticking")
async def flow(x: int) -> str:
    return f"{await number(x)}"
"""


LIMITED_CONCURRENCY: Final = 2
LIMITED_RATE: Final = 4
LIMITED_PER_MS: Final = 500


ARRIVALS: Final = "ARRIVALS"
"""The stream of a service, whose events a trigger posts."""


def arriving() -> Any:
    """A module of a workflow that waits for what a trigger posts, so that its event is known."""
    if "arriving" not in _contracts:
        text = Program(0, name="arriving").text().partition("@workflow")[0]
        _contracts["arriving"] = define(f"{text}{_ARRIVING}")
    return _contracts["arriving"]


_ARRIVING: Final = """
arrived = Event("arrived", of=int)


@workflow(name="arriving")
async def flow(x: int) -> int:
    return await arrived.wait(key=str(x))
"""


def limited() -> Any:
    """A module whose tasks have limits, which count for keys, too. How long anything waits for them makes no
    difference to what a run comes to."""
    if "limited" not in _contracts:
        rate = f"Rate({LIMITED_RATE}, per=timedelta(milliseconds={LIMITED_PER_MS}))"
        options = f"{task_options(QUEUES[1])}, concurrency={LIMITED_CONCURRENCY}, rate={rate}"
        text = Program(0, name="limited", task_options=options).text().partition("@workflow")[0]
        _contracts["limited"] = define(f"{text}{_LIMITED}")
    return _contracts["limited"]


_LIMITED: Final = """
@workflow(name="limited")
async def flow(x: int) -> str:
    async def quietly(n: int) -> int:
        try:
            return await number.options(key=f"k{n % 2}")(n)
        except (WorkflowFailure, TaskError):
            return 0

    a = await number.options(priority=x)(x)
    try:
        await hung.options(deadline=timedelta(milliseconds=300))(x)
    except TaskTimeout:
        pass
    await first_completed(quietly(x), sleep(timedelta(milliseconds=150)))
    b, c = await gather(quietly(x + 1), number.options(key="k0", priority=1)(x))
    return f"{a}|{b}|{c}"
"""


def parted() -> Any:
    """A module whose branches are cancelled one by one: thread 1 is a leg, 2 a gather of 4 and 5, and 3 a race of 6 and
    7. A run of it that ends before all five legs have begun to tidy up says so."""
    if "parted" not in _contracts:
        text = (
            Program(0, name="parted", task_options=task_options(QUEUES[0])).text().partition("@workflow")[0]
        )
        _contracts["parted"] = define(f"{text}{_PARTED}")
    return _contracts["parted"]


PARTED_THREADS: Final = range(1, 8)

_PARTED: Final = """
class Untidy(WorkflowFailure): ...

@dataclass
class Legs:
    tidied: int = 0

@workflow(name="parted")
async def flow(x: int) -> str:
    legs = Legs()

    async def quietly(n: int) -> int:
        try:
            return await number(n)
        except (WorkflowFailure, TaskError):
            return 0

    async def leg(n: int) -> int:
        try:
            await sleep(timedelta(milliseconds=200))
            value = await quietly(n)
            await sleep(timedelta(milliseconds=300))
            return value
        finally:
            legs.tidied += 1
            await quietly(n + 1)

    async def both(n: int) -> int:
        a, b = await gather(leg(n), leg(n + 1))
        return a + b

    async def either(n: int) -> int:
        _, value = await first_completed(leg(n), leg(n))
        return value

    try:
        a, b, c = await gather(leg(x), both(x + 1), either(x + 3))
    finally:
        if legs.tidied != 5:
            raise Untidy("some legs have not begun to tidy up")
    return f"{a}|{b}|{c}"
"""


def mended() -> Any:
    """A module whose runs fail, with a child run, as long as their tasks are down."""
    if "mended" not in _contracts:
        text = Program(0, name="mended", task_options=task_options(QUEUES[0])).text()
        _contracts["mended"] = define(f"{text.partition('@workflow')[0]}{_MENDED}")
    return _contracts["mended"]


EDITED: Final = 7

_MENDED: Final = """
@workflow(name="mended-part")
async def part(x: int) -> int:
    try:
        a = await number(x)
    finally:
        await sleep(timedelta(milliseconds=50))
    return a

@workflow(name="mended")
async def flow(x: int) -> str:
    mark = 0
    a = await part(x)
    await sleep(timedelta(milliseconds=400))
    b = await number(x + 1)
    return f"{a}|{b}|{mark}"
"""


def carrying() -> Any:
    """A module whose workflow hands large values on: through a task, a child run and another task."""
    if "carrying" not in _contracts:
        _contracts["carrying"] = define(_CARRYING.format(*(task_options(queue) for queue in QUEUES)))
    return _contracts["carrying"]


_CARRYING: Final = """
from datetime import timedelta
from dressage.flow import Exponential, Large, gather, task, workflow

@task({0})
async def copied(text: Large[str], turns: int) -> Large[str]:
    raise NotImplementedError

@task({1})
async def measured(texts: list[Large[str]]) -> int:
    raise NotImplementedError

@workflow(name="carried")
async def inner(text: Large[str]) -> Large[str]:
    return await copied(text, 1)

@workflow(name="carrying")
async def flow(text: Large[str]) -> tuple[int, Large[str]]:
    one, other = await gather(copied(text, 2), inner(text))
    return await measured([one, other, "small"]), other
"""


def turned(text: str, turns: int) -> str:
    """What the task `copied` comes to."""
    return text[turns:] + text[:turns]


def told_of(value: str) -> Any:
    """A large value as output events tell of it."""
    data = json.dumps(value).encode()
    if len(data) <= INLINE_BYTES_MAX:
        return value
    return {"$large": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "encoding": "json"}}


class Executions:
    """Every attempt that a worker of the simulated world has run to its end."""

    def __init__(self, deadly: Mapping[str, int] | None = None, down: Iterable[str] = ()) -> None:
        self.ended: dict[tuple[str, str], list[tuple[str, Any]]] = {}
        """What each execution of an attempt came to: "value" and what it returned, or "failure" and (name, message)."""

        self.kept: dict[tuple[str, str], int] = {}
        """What a handler has kept of its progress, by run and call."""

        self.lost: list[str] = []
        """Where an execution did not find what another one before it had kept."""

        self.deadly = dict(deadly or {})
        """So many more workers die of a task of each of these runs."""

        self.down = set(down)
        """The runs whose tasks break, and those of their child runs, until somebody has mended that."""

    def app(
        self,
        queue: str,
        failures: Mapping[str, type[WorkflowFailure]] | None = None,
        die: Callable[[], None] | None = None,
    ) -> App:
        """A worker application whose handlers behave as `behaviour` says; `die` ends its process."""
        module = _contract(queue)
        app = App(f"simulated-{queue}")
        for task in TASKS:
            app.register(getattr(module, task), self._handler(task, failures or vars(module), die))
        for name, handler in (("copied", self._copied), ("measured", self._measured)):
            large = getattr(carrying(), name)
            if large.definition.queue == queue:
                app.register(large, handler)
        return app

    async def _copied(self, text: str, turns: int) -> str:
        value = turned(text, turns)
        await self._breaks_once(told_of(value))
        return value

    async def _measured(self, texts: list[str]) -> int:
        value = sum(map(len, texts))
        await self._breaks_once(value)
        return value

    async def _breaks_once(self, value: Any) -> None:
        """Some calls break in their first attempt."""
        context = current_task()
        dice = zlib.crc32(f"{context.run_id} {context.call_id}".encode())
        await asyncio.sleep(dice % 100 / 200)
        ended = self.ended.setdefault((context.run_id, context.task_id), [])
        if context.attempt == 1 and dice % 3 == 0:
            ended.append(("failure", ("Broken", "attempt 1 breaks")))
            raise Broken("attempt 1 breaks")
        ended.append(("value", value))

    def _handler(
        self, task: str, failures: Mapping[str, Any], die: Callable[[], None] | None
    ) -> Callable[..., Any]:
        async def act(args: dict[str, Any]) -> Any:
            context = current_task()
            if die is not None and self.deadly.get(context.run_id):
                self.deadly[context.run_id] -= 1
                die()
            plan = behaviour(context.run_id, task, args)
            if plan.keeps:
                await self._goes_on(context)
            await asyncio.sleep(plan.seconds)
            ended = self.ended.setdefault((context.run_id, context.task_id), [])
            if context.run_id.partition("~")[0] in self.down:
                ended.append(("failure", ("Broken", "it is down")))
                raise Broken("it is down")
            if context.attempt <= plan.fails:
                ended.append(("failure", ("Broken", f"attempt {context.attempt} breaks")))
                raise Broken(f"attempt {context.attempt} breaks")
            if plan.failure is not None:
                failure = failures[plan.failure](f"{task} says no", n=plan.value)
                ended.append(("failure", (failure.name, f"{task} says no")))
                raise failure
            if plan.wrong_type and task != "word":
                ended.append(("failure", ("type-error", None)))
                return "no such type"
            value = result_of(task, plan.value)
            ended.append(("value", value))
            return value

        async def number(x: int) -> Any:
            return await act({"x": x})

        async def word(x: int, y: str = "w") -> Any:
            return await act({"x": x, "y": y})

        async def both(x: int) -> Any:
            return await act({"x": x})

        async def hung(x: int) -> Any:
            context = current_task()
            try:
                await asyncio.Event().wait()
            finally:
                ended = self.ended.setdefault((context.run_id, context.task_id), [])
                ended += [("failure", (name, None)) for name in ("attempt-timeout", "heartbeat-timeout")]

        return {"number": number, "word": word, "both": both, "hung": hung}[task]

    async def _goes_on(self, context: TaskContext) -> None:
        """Counts how often the call was executed, by its progress."""
        call = context.run_id, context.call_id
        known, found = self.kept.get(call, 0), context.resumed(int) or 0
        if found < known and (context.run_id, context.task_id) not in self.ended:
            self.lost.append(f"{context.task_id} of {context.run_id} finds {found}, and {known} was kept")
        await context.checkpoint(found + 1)
        self.kept[call] = max(known, found + 1)


_contracts: dict[str, Any] = {}


def _contract(queue: str) -> Any:
    if queue not in _contracts:
        program = Program(0, name=f"contract-{queue}", task_options=task_options(queue))
        # Only the tasks and failures above the workflow are of use here.
        _contracts[queue] = define(program.text().partition("@workflow")[0])
    return _contracts[queue]
