"""Races through the public API: real workers and events, lost owners, and what losers tidy up."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.client import RunCancelled, RunFailed, RunHandle
from dressage.flow import (
    App,
    Event,
    Exponential,
    Masked,
    Saga,
    Searchable,
    TaskError,
    Workflow,
    WorkflowFailure,
    first_completed,
    first_successful,
    gather,
    sleep,
    workflow,
)
from dressage.protocol.commands import TaskResult, WorkerInfo
from dressage.protocol.errors import DefinitionError, Refused
from dressage.testing import WorkflowTest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

Until = Callable[..., Awaitable[None]]


class Declined(WorkflowFailure):
    code: int = 0


class NotUndone(WorkflowFailure): ...


@dataclass
class Offer:
    item: str
    price: int


@dataclass
class RaceView:
    status: Searchable[str] = "NEW"
    tidied: Searchable[int] = 0


@dataclass
class Gates:
    """What the tasks wait for: those of an item go on when its gate is open."""

    all_open: bool = False
    open: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    begun: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[str] = field(default_factory=Counter[str])
    said: list[str] = field(default_factory=list[str])

    def of(self, item: str) -> asyncio.Event:
        gate = self.open.setdefault(item, asyncio.Event())
        if self.all_open:
            gate.set()
        return gate

    def close(self) -> None:
        self.all_open = True
        for gate in self.open.values():
            gate.set()


_gates = Gates()


@pytest.fixture
def gates() -> Iterator[Gates]:
    """Named behind the engine, so that handlers can end before it does."""
    global _gates
    _gates = Gates()
    yield _gates
    _gates.close()


app = App("races")
accepted = Event("accepted", of=str)
rejected = Event("rejected")
opened = Event("opened")


@app.task
async def make(item: str) -> str:
    _gates.begun[item] += 1
    try:
        await _gates.of(item).wait()
    finally:
        _gates.ended[item] += 1  # Also where nobody waits for it any more, and it is cancelled.
    return item.upper()


@app.task
def echo(text: str) -> str:
    _gates.said.append(text)
    return text


@app.task
def length(text: str) -> int:
    return len(text)


@app.task
def nothing(text: str) -> None:
    _gates.said.append(text)


@app.task
async def decline(item: str) -> str:
    _gates.begun[item] += 1
    await _gates.of(item).wait()
    raise Declined(item, code=len(item))


@app.task
def decline_at_once(item: str) -> str:
    raise Declined(item, code=len(item))


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=10)))
async def break_down(item: str) -> str:
    _gates.begun[item] += 1
    await _gates.of(item).wait()
    raise OSError(f"{item} is down")


@app.task(retries=5, backoff=Exponential(base=timedelta(milliseconds=700)))
def try_again(item: str) -> str:
    _gates.begun[item] += 1
    raise OSError(f"{item} is down")


@app.task
def take_back(item: str) -> None:
    _gates.said.append(f"undo {item}")


@app.task
def fail_to_take_back(item: str) -> None:
    _gates.said.append(f"fail {item}")
    raise NotUndone(item)


@app.task
async def take_back_slowly(item: str) -> None:
    _gates.said.append(f"slowly {item}")
    await _gates.of(item).wait()
    _gates.ended[item] += 1


@app.task
def token_of(item: str) -> Masked[str]:
    return f"{item}-4711"


@app.task
def offer_of(item: str) -> Offer:
    return Offer(item, 7)


# -- branches ------------------------------------------------------------------------------------------
async def kept(item: str) -> str:
    try:
        return await make(item)
    finally:
        await make(f"{item}-clean")


async def noted(item: str) -> str:
    try:
        return await make(item)
    finally:
        await nothing(f"clean {item}")


async def badly_kept(item: str) -> str:
    try:
        return await make(item)
    finally:
        await decline_at_once(f"{item}-clean")


async def booked(item: str) -> str:
    async with Saga() as saga:
        saga.undo(take_back, await echo(f"{item}-1"))
        saga.undo(take_back, await echo(f"{item}-2"))
        return await make(item)


async def badly_booked(item: str) -> str:
    async with Saga() as saga:
        saga.undo(take_back, await echo(f"{item}-1"))
        saga.undo(fail_to_take_back, await echo(f"{item}-2"))
        return await make(item)


async def at_once(text: str) -> str:
    return f"{text} at once"


async def soon() -> str:
    await sleep(0.05)
    return "soon"


async def failing_at_once() -> str:
    raise Declined("at once")


# -- helpers -------------------------------------------------------------------------------------------
async def told(handle: RunHandle[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The history: kinds, and data as plain values."""
    return [(event.kind, msgspec.json.decode(event.data)) async for event in handle.history()]


async def kinds_of(handle: RunHandle[Any]) -> Counter[str]:
    return Counter(kind for kind, _ in await told(handle))


def ends(history: list[tuple[str, dict[str, Any]]]) -> list[tuple[int, str]]:
    """How each branch ended, in the order of the history."""
    return [
        (data["branch"], "cancelled" if data.get("cancelled") else "failed" if "failure" in data else "done")
        for kind, data in history
        if kind == "branch-ended"
    ]


def told_once(history: list[tuple[str, dict[str, Any]]]) -> None:
    """Each branch that began has ended, once, and nothing went on in it behind that."""
    started = [data["thread"] for kind, data in history if kind == "branch-started"]
    ended = [data["thread"] for kind, data in history if kind == "branch-ended"]
    assert len(started) == len(set(started))
    assert sorted(started) == sorted(ended)
    scheduled = Counter(data["task_id"] for kind, data in history if kind == "task-scheduled")
    over = Counter(data["task_id"] for kind, data in history if kind in ("task-completed", "task-failed"))
    assert not over - scheduled
    assert max(scheduled.values(), default=1) == 1
    assert max(over.values(), default=1) == 1


async def waits_for(handle: RunHandle[Any], what: str, until: Until) -> None:
    async def fact() -> bool:
        return what in (await handle.state()).waiting_for

    await until(fact, f"run {handle.run_id} waits for {what}")


def defined(folder: Path, source: str, name: str = "many") -> Workflow[..., Any]:
    """A workflow of a module of its own."""
    module_name = f"races_{folder.name}_{len(source)}"
    (folder / f"{module_name}.py").write_text(source)
    spec = importlib.util.spec_from_file_location(module_name, folder / f"{module_name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[module_name]
    made: Workflow[..., Any] = getattr(module, name)
    return made


# -- who wins ------------------------------------------------------------------------------------------
@workflow
async def two(a: str, b: str) -> list[str]:
    place, made = await first_completed(make(a), make(b))
    return [str(place), made]


async def test_the_task_that_ends_first_wins_on_either_side(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(two)
    await sharded.worker(app)
    for number in range(4):
        a, b = f"a{number}", f"b{number}"
        handle = await client.start(two, {"a": a, "b": b}, run_id=f"two-{number}")
        await until(lambda a=a, b=b: gates.begun.keys() >= {a, b}, "both suppliers work")
        winner = (a, b)[number % 2]
        gates.of(winner).set()
        assert await handle.result(5) == [str(number % 2), winner.upper()]
        history = await told(handle)
        told_once(history)
        assert ends(history) == [(number % 2, "done"), (1 - number % 2, "cancelled")]


@workflow
async def deadline(item: str, seconds: float) -> str:
    match await first_completed(make(item), sleep(timedelta(seconds=seconds))):
        case 0, made:
            return f"made {made}"
        case _:
            return "too late"


async def test_a_sleep_is_a_deadline_that_is_taken_back_when_it_is_not_needed(
    sharded: Engine, gates: Gates
) -> None:
    client = await sharded.registered(deadline)
    await sharded.worker(app)
    late = await client.start(deadline, {"item": "late", "seconds": 0.3})
    assert await late.result(5) == "too late"
    gates.of("early").set()
    early = await client.start(deadline, {"item": "early", "seconds": 1})
    assert await early.result(5) == "made EARLY"
    before = await told(early)
    await asyncio.sleep(1.2)
    assert await told(early) == before
    assert "sleep-ended" not in dict(before)


@workflow
async def typed(which: int) -> str:
    async def sometimes(number: int) -> str:
        if number != which:
            await sleep(3600)
        return "y"

    async def counted(number: int) -> int:
        if number != which:
            await sleep(3600)
        return 41

    async def flagged(number: int) -> bool:
        if number != which:
            await sleep(3600)
        return True

    said = ""
    match await first_completed(counted(0), sometimes(1), flagged(2)):
        case 0, number:
            said = f"int {number + 1}"
        case 1, text:
            said = f"str {text.upper()}"
        case 2, flag:
            said = f"bool {not flag}"
    return said


async def test_match_tells_the_results_apart(engine: Engine) -> None:
    client = await engine.registered(typed)
    results = [await (await client.start(typed, {"which": which})).result(5) for which in range(3)]
    assert results == ["int 42", "str Y", "bool False"]


# -- events --------------------------------------------------------------------------------------------
@workflow
async def answered(rounds: int) -> list[str]:
    said: list[str] = []
    await opened.wait()
    for number in range(rounds):
        match await first_completed(accepted.wait(), rejected.wait()):
            case 0, name:
                said = [*said, f"{number} {name}"]
            case _:
                said = [*said, f"{number} no"]
    return said


async def test_one_of_several_events_wins_and_the_others_stay_for_the_next_wait(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(answered)
    live = await client.start(answered, {"rounds": 4}, run_id="live")
    await live.post(opened)
    for event, payload, count in (("rejected", None, 1), ("accepted", "ann", 2), ("accepted", "bob", 3)):
        await waits_for(live, "event accepted", until)
        await live.post(event, payload)

        async def ended(count: int = count) -> bool:
            return (await kinds_of(live))["branch-ended"] == 2 * count

        await until(ended, "the race is over")
    await live.post(rejected)
    assert await live.result(5) == ["0 no", "1 ann", "2 bob", "3 no"]
    history = await told(live)
    told_once(history)
    assert [data["event"] for kind, data in history if kind == "event-received"] == [
        "opened",
        "rejected",
        "accepted",
        "accepted",
        "rejected",
    ]


async def test_events_that_are_there_already_are_taken_by_the_branch_written_first(sharded: Engine) -> None:
    client = await sharded.registered(answered)
    early = await client.start(answered, {"rounds": 3}, run_id="early")
    await early.post(rejected)
    await early.post(accepted, "ann")
    await early.post(accepted, "bob")
    await early.post(opened)
    assert await early.result(5) == ["0 ann", "1 bob", "2 no"]


@workflow
async def same_event(n: int) -> list[str]:
    place, first = await first_completed(accepted.wait(), accepted.wait())
    second = await accepted.wait()
    return [str(place), first, second]


async def test_two_branches_that_wait_for_the_same_event_take_one(engine: Engine, until: Until) -> None:
    client = await engine.registered(same_event)
    handle = await client.start(same_event, {"n": 1})
    await waits_for(handle, "event accepted, 2 times", until)
    await handle.post(accepted, "one")
    await handle.post(accepted, "two")
    assert await handle.result(5) == ["0", "one", "two"]


@workflow
async def timed_out(n: int) -> list[str]:
    async def patient() -> str:
        try:
            return await accepted.wait(timeout=timedelta(milliseconds=400))
        except TimeoutError:
            return "nobody"

    place, first = await first_completed(patient(), soon())
    second = await accepted.wait(timeout=60)
    return [str(place), first, second]


async def test_the_timeout_of_a_losing_wait_is_taken_back_and_its_event_goes_to_the_next(
    engine: Engine,
) -> None:
    client = await engine.registered(timed_out)
    handle = await client.start(timed_out, {"n": 1})
    await asyncio.sleep(0.8)
    await handle.post(accepted, "ann")
    assert await handle.result(5) == ["1", "soon", "ann"]
    assert (await kinds_of(handle))["event-timed-out"] == 0


# -- first successful ----------------------------------------------------------------------------------
@workflow
async def any_success(third: bool) -> list[str]:
    async def last() -> str:
        if not third:
            await decline("late")
        return await make("good")

    place, made = await first_successful(decline("no"), break_down("bad"), last())
    return [str(place), made]


async def test_the_first_success_wins_over_failures_before_it(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(any_success)
    await sharded.worker(app)
    for item in ("no", "bad"):
        gates.of(item).set()
    handle = await client.start(any_success, {"third": True})

    async def two_failed() -> bool:
        return (await kinds_of(handle))["branch-ended"] == 2

    await until(two_failed, "two branches have failed")
    assert (await handle.state()).status == "running"
    assert gates.begun["bad"] == 3, "a technical error is retried before it counts"
    gates.of("good").set()
    assert await handle.result(5) == ["2", "GOOD"]
    history = await told(handle)
    told_once(history)
    assert sorted(ends(history)) == [(0, "failed"), (1, "failed"), (2, "done")]


async def test_when_all_fail_the_failures_come_in_the_order_of_the_branches(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(any_success)
    await sharded.worker(app)
    handle = await client.start(any_success, {"third": False})
    for count, item in enumerate(("late", "bad", "no"), 1):
        gates.of(item).set()

        async def failed(count: int = count) -> bool:
            return (await kinds_of(handle))["branch-ended"] >= count

        await until(failed, f"branch of {item} has failed")
    with pytest.raises(RunFailed) as caught:
        await handle.result(5)
    failure = caught.value.failure
    assert failure.kind == "group"
    assert [each.name for each in failure.causes] == ["declined", "OSError", "declined"]
    assert [each.message.split(" (")[0] for each in failure.causes] == ["no", "bad is down", "late"]


@workflow
async def saved(parts: bool) -> str:
    if parts:
        seen = ""
        try:
            await first_successful(decline("no"), break_down("bad"), decline("never"))
        except* Declined as declined:
            seen += f"{len(declined.exceptions)} declined"
        except* TaskError as errors:
            seen += f", {len(errors.exceptions)} broken"
        return seen
    try:
        _, made = await first_successful(decline("no"), break_down("bad"))
    except ExceptionGroup as failures:
        return f"none: {failures}"
    return made


async def test_a_group_is_caught_whole_or_in_parts(engine: Engine, gates: Gates) -> None:
    gates.close()
    client = await engine.registered(saved)
    await engine.worker(app)
    whole = await client.start(saved, {"parts": False})
    assert await whole.result(5) == "none: branches failed (2 sub-exceptions)"
    parts = await client.start(saved, {"parts": True})
    assert await parts.result(5) == "2 declined, 1 broken"


@workflow
async def failing_first(technical: bool) -> str:
    try:
        if technical:
            await first_completed(break_down("bad"), make("good"))
        await first_completed(make("good"), decline("no"))
    except Declined as failure:
        return f"declined {failure.message} {failure.code}"
    except TaskError as error:
        return f"error {error}"
    return "made"


async def test_the_failure_of_the_first_that_ends_is_raised_as_it_is(engine: Engine, gates: Gates) -> None:
    client = await engine.registered(failing_first)
    await engine.worker(app)
    gates.of("no").set()
    gates.of("bad").set()
    business = await client.start(failing_first, {"technical": False})
    assert await business.result(5) == "declined no 2"
    technical = await client.start(failing_first, {"technical": True})
    assert await technical.result(5) == "error bad is down (task break-down, attempt 3 of 3)"
    assert sorted(ends(await told(business))) == [(0, "cancelled"), (1, "failed")]


# -- what losers do ------------------------------------------------------------------------------------
@workflow
async def tidied(a: str, b: str) -> str:
    _, made = await first_completed(kept(a), make(b))
    after = await echo("after")
    return f"{made} {after}"


async def test_the_finally_of_a_loser_runs_on_a_worker_and_the_race_waits_for_it(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    gates.of("b").set()
    await until(lambda: gates.begun["a-clean"] == 1, "the loser tidies up")
    await asyncio.sleep(0.3)
    assert (await handle.state()).waiting_for == "task make (attempt 1) on queue races"
    assert gates.said == []
    gates.of("a-clean").set()
    assert await handle.result(5) == "B after"
    history = await told(handle)
    told_once(history)
    assert ends(history) == [(1, "done"), (0, "cancelled")]


async def test_the_late_result_of_a_loser_changes_nothing(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    gates.of("b").set()
    await until(lambda: gates.begun["a-clean"] == 1, "the loser tidies up")
    history = await told(handle)
    late: str = next(data["task_id"] for kind, data in history if kind == "task-scheduled")
    gates.of("a").set()
    await until(lambda: gates.ended["a"] == 1, "the loser's attempt has ended, too")
    with pytest.raises(Refused, match="RESULT_STALE"):
        await client.report(
            handle.run_id, TaskResult(late, WorkerInfo("late", 1.0), output=msgspec.Raw(b'"LATE"'))
        )
    assert await told(handle) == history
    gates.of("a-clean").set()
    assert await handle.result(5) == "B after"
    with pytest.raises(Refused, match="RUN_FINISHED"):
        await client.report(
            handle.run_id, TaskResult(late, WorkerInfo("late", 1.0), output=msgspec.Raw(b'"LATE"'))
        )
    assert gates.begun == Counter({"a": 1, "b": 1, "a-clean": 1})


@workflow
async def unattended(n: int) -> str:
    match await first_completed(make("nobody"), accepted.wait()):
        case 1, name:
            await opened.wait()
            return name
        case _:
            return "made"


async def test_a_worker_that_comes_after_the_race_changes_nothing(
    engine: Engine, gates: Gates, until: Until
) -> None:
    """The loser's task was called, and nobody was there to take it."""
    gates.close()
    client = await engine.registered(unattended)
    handle = await client.start(unattended, {"n": 1})
    await waits_for(handle, "task make", until)
    await handle.post(accepted, "ann")
    await waits_for(handle, "event opened", until)
    history = await told(handle)
    await engine.worker(app)
    await asyncio.sleep(1)
    assert await told(handle) == history
    await handle.post(opened)
    assert await handle.result(5) == "ann"


@workflow
async def undone(bad: bool) -> str:
    if bad:
        _, made = await first_completed(badly_booked("trip"), make("other"))
    else:
        _, made = await first_completed(booked("trip"), make("other"))
    await nothing("after")
    return made


async def test_the_saga_of_a_loser_is_undone_before_the_race_is_over(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(undone)
    await sharded.worker(app)
    handle = await client.start(undone, {"bad": False})
    await until(lambda: gates.begun.keys() >= {"trip", "other"}, "both branches wait")
    gates.of("other").set()
    assert await handle.result(5) == "OTHER"
    assert gates.said == ["trip-1", "trip-2", "undo trip-2", "undo trip-1", "after"]
    assert ends(await told(handle)) == [(1, "done"), (0, "cancelled")]


def names_in(failure: Any) -> list[str]:
    """Names of all failures in a group, groups in it included."""
    return [name for each in failure.causes for name in names_in(each)] if failure.causes else [failure.name]


async def test_an_undo_of_a_loser_that_fails_is_raised_at_the_race_and_the_others_are_called(
    engine: Engine, gates: Gates, until: Until
) -> None:
    client = await engine.registered(undone)
    await engine.worker(app)
    handle = await client.start(undone, {"bad": True})
    await until(lambda: gates.begun.keys() >= {"trip", "other"}, "both branches wait")
    gates.of("other").set()
    with pytest.raises(RunFailed) as caught:
        await handle.result(5)
    assert gates.said == ["trip-1", "trip-2", "fail trip-2", "undo trip-1"]
    assert caught.value.failure.kind == "group"
    assert "not-undone" in names_in(caught.value.failure)


@workflow
async def badly_tidied(winner_fails: bool) -> str:
    if winner_fails:
        await first_completed(badly_kept("a"), decline("no"), badly_kept("c"))
    said = "all well"
    try:
        await first_completed(badly_kept("a"), make("b"), badly_kept("c"))
    except* Declined as failures:
        said = f"{len(failures.exceptions)} did not tidy up"
    return said


async def test_what_fails_in_tidying_up_is_raised_with_the_failure_of_the_winner(
    engine: Engine, gates: Gates
) -> None:
    client = await engine.registered(badly_tidied)
    await engine.worker(app)
    gates.of("b").set()
    gates.of("no").set()
    caught_in = await client.start(badly_tidied, {"winner_fails": False})
    assert await caught_in.result(5) == "2 did not tidy up"
    failing = await client.start(badly_tidied, {"winner_fails": True})
    with pytest.raises(RunFailed) as caught:
        await failing.result(5)
    causes = [(each.name, each.message) for each in caught.value.failure.causes]
    assert causes == [("declined", "a-clean"), ("declined", "no"), ("declined", "c-clean")]


@workflow
async def going_on(n: int) -> str:
    async def stubborn() -> str:
        try:
            return await badly_kept("a")
        except Declined:
            return await make("more")

    place, made = await first_completed(stubborn(), make("b"))
    return f"{place} {made}"


async def test_a_loser_that_catches_a_failure_of_its_tidying_up_goes_on_to_its_end(
    engine: Engine, gates: Gates, until: Until
) -> None:
    client = await engine.registered(going_on)
    await engine.worker(app)
    handle = await client.start(going_on, {"n": 1})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    gates.of("b").set()
    await until(lambda: gates.begun["more"] == 1, "the loser goes on")
    assert (await handle.state()).status == "running"
    gates.of("more").set()
    assert await handle.result(5) == "1 B"


@workflow
async def backing_off(n: int) -> str:
    async def quietly() -> str:
        try:
            return await try_again("again")
        except Exception:
            return await echo("an except clause took it")

    _, made = await first_completed(quietly(), make("b"))
    await opened.wait()
    return made


async def test_a_loser_is_cancelled_while_its_retry_backs_off(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(backing_off)
    await sharded.worker(app)
    handle = await client.start(backing_off, {"n": 1})

    async def failed_once() -> bool:
        return (await kinds_of(handle))["task-failed"] >= 1

    await until(failed_once, "the first attempt has failed")
    gates.of("b").set()
    await waits_for(handle, "event opened", until)
    attempts = gates.begun["again"]
    await asyncio.sleep(2)
    assert gates.begun["again"] == attempts
    await handle.post(opened)
    assert await handle.result(5) == "B"
    assert gates.said == []


@workflow
async def undoing_already(n: int) -> str:
    async def loser() -> str:
        async with Saga() as saga:
            saga.undo(take_back, "first")
            saga.undo(take_back_slowly, "second")
            saga.undo(take_back, "third")
            await decline_at_once("no")
            await sleep(60)
        return "never"

    place, made = await first_completed(loser(), make("other"))
    await nothing("after")
    return f"{place} {made}"


async def test_a_saga_that_is_being_undone_when_its_branch_loses_is_undone_to_its_end(
    engine: Engine, gates: Gates, until: Until
) -> None:
    client = await engine.registered(undoing_already)
    await engine.worker(app)
    handle = await client.start(undoing_already, {"n": 1})
    await until(lambda: "slowly second" in gates.said and gates.begun["other"] == 1, "the second undo runs")
    gates.of("other").set()

    async def won() -> bool:
        return (1, "done") in ends(await told(handle))

    await until(won, "the other branch has won")
    gates.of("second").set()
    assert await handle.result(5) == "1 OTHER"
    assert gates.said == ["undo third", "slowly second", "undo first", "after"]


@workflow
async def asking_in_finally(n: int) -> list[str]:
    view = RaceView()

    async def loser() -> str:
        try:
            return await accepted.wait()
        finally:
            view.status = "ASKING"
            name = await accepted.wait()
            view.status = name

    await first_completed(loser(), rejected.wait())
    return [view.status, await accepted.wait()]


async def test_a_loser_can_wait_for_an_event_while_it_tidies_up(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(asking_in_finally)
    handle = await client.start(asking_in_finally, {"n": 1})
    await waits_for(handle, "event accepted", until)
    await handle.post(rejected)

    async def asks() -> bool:
        return dict((await handle.state()).search).get("status") == "ASKING"

    await until(asks, "the loser asks")
    assert (await handle.state()).waiting_for == "event accepted"
    await handle.post(accepted, "in finally")
    await waits_for(handle, "event accepted", until)
    await handle.post(accepted, "behind")
    assert await handle.result(5) == ["in finally", "behind"]


# -- both sides at the same time ---------------------------------------------------------------------
async def test_two_events_at_the_same_time_are_taken_one_by_each_race(sharded: Engine) -> None:
    client = await sharded.registered(answered)
    handles = [await client.start(answered, {"rounds": 2}, run_id=f"both-{n}") for n in range(30)]
    await asyncio.gather(*(handle.post(opened) for handle in handles))

    async def both(number: int, handle: RunHandle[Any]) -> None:
        posts = [handle.post(accepted, "ann"), handle.post(rejected)]
        await asyncio.gather(*(posts if number % 2 else reversed(posts)))

    await asyncio.gather(*(both(number, handle) for number, handle in enumerate(handles)))
    for handle in handles:
        assert await handle.result(10) in (["0 ann", "1 no"], ["0 no", "1 ann"])
        history = await told(handle)
        told_once(history)
        assert [how for _, how in ends(history)] == ["done", "cancelled", "done", "cancelled"]


async def test_two_results_at_the_same_time_make_one_winner_while_owners_come_and_go(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    names = [f"run-{number}" for number in range(30)]
    handles = [await client.start(tidied, {"a": f"{n}-a", "b": f"{n}-b"}, run_id=n) for n in names]
    await until(lambda: sum(gates.begun[f"{n}-{x}"] for n in names for x in "ab") == 60, "all branches wait")

    async def opening() -> None:
        for number, name in enumerate(names):
            for side in ("ab", "ba")[number % 2]:
                gates.of(f"{name}-{side}").set()
            gates.of(f"{name}-a-clean").set()
            await asyncio.sleep(0.02)

    open_all = asyncio.create_task(opening())
    for _ in range(2):
        await asyncio.sleep(0.15)
        await sharded.down()
        await sharded.up()
    await open_all
    for name, handle in zip(names, handles, strict=True):
        assert await handle.result(20) in (f"{name.upper()}-A after", f"{name.upper()}-B after")
        history = await told(handle)
        told_once(history)
        assert sorted(how for _, how in ends(history)) == ["cancelled", "done"]
        assert gates.begun[f"{name}-a-clean"] == 1


# -- winners that are known at once --------------------------------------------------------------------
@workflow
async def known(kind: str) -> list[str]:
    await opened.wait()
    if kind == "function":
        place, said = await first_completed(at_once("first"), noted("x"), accepted.wait())
    elif kind == "second":
        place, said = await first_completed(noted("x"), at_once("second"), accepted.wait())
    elif kind == "event":
        place, said = await first_completed(accepted.wait(), noted("x"), accepted.wait())
    else:
        place, said = await first_successful(failing_at_once(), at_once("behind"), noted("x"))
    await sleep(0.2)
    return [str(place), said, "-" if kind == "event" else await accepted.wait()]


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("function", ["0", "first at once", "ann"]),
        ("second", ["1", "second at once", "ann"]),
        ("event", ["0", "ann", "-"]),
        ("successful", ["1", "behind at once", "ann"]),
    ],
)
async def test_a_winner_that_is_known_at_once_leaves_the_others_without_any_effect(
    sharded: Engine, gates: Gates, kind: str, result: list[str]
) -> None:
    client = await sharded.registered(known)
    await sharded.worker(app)
    handle = await client.start(known, {"kind": kind})
    await handle.post(accepted, "ann")
    await handle.post(opened)
    assert await handle.result(5) == result
    assert gates.begun["x"] == 0, "nobody waits for it, so it is not asked for"
    told_once(await told(handle))


# -- races in races, and in everything else ------------------------------------------------------------
async def inner(item: str) -> str:
    try:
        _, made = await first_completed(noted(f"{item}-1"), noted(f"{item}-2"))
    finally:
        await nothing(f"clean {item}")
    return made


@workflow
async def nested(n: int) -> str:
    place, made = await first_completed(inner("in"), make("out"))
    return f"{place} {made}"


async def test_a_race_in_a_race_is_cancelled_from_the_inside(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(nested)
    await sharded.worker(app)
    handle = await client.start(nested, {"n": 1})
    await until(lambda: gates.begun.keys() >= {"in-1", "in-2", "out"}, "three branches wait")
    gates.of("out").set()
    assert await handle.result(5) == "1 OUT"
    assert sorted(gates.said[:2]) == ["clean in-1", "clean in-2"]
    assert gates.said[2:] == ["clean in"]
    history = await told(handle)
    told_once(history)
    assert Counter(how for _, how in ends(history)) == {"cancelled": 3, "done": 1}


@workflow
async def nested_kept(n: int) -> str:
    async def within() -> str:
        _, made = await first_completed(kept("slow"), make("quick"))
        return await make(f"{made}-next")

    place, made = await first_completed(within(), make("out"))
    return f"{place} {made}"


async def test_a_loser_that_tidies_up_already_is_not_disturbed_by_the_race_around(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(nested_kept)
    await sharded.worker(app)
    handle = await client.start(nested_kept, {"n": 1})
    await until(lambda: gates.begun.keys() >= {"slow", "quick", "out"}, "three branches wait")
    gates.of("quick").set()
    await until(lambda: gates.begun["slow-clean"] == 1, "the inner loser tidies up")
    gates.of("out").set()
    await asyncio.sleep(0.4)
    assert (await handle.state()).status == "running"
    gates.of("slow-clean").set()
    assert await handle.result(5) == "1 OUT"
    assert gates.begun["slow-clean"] == 1
    assert gates.begun["QUICK-next"] == 0, "the outer loser does not go on behind its race"
    told_once(await told(handle))


@workflow
async def gathering(n: int) -> list[str]:
    async def raced(a: str, b: str) -> str:
        place, made = await first_completed(noted(a), make(b))
        return f"{place}{made}"

    async def both() -> str:
        one, other = await gather(noted("g1"), noted("g2"))
        return one + other

    async def of_gather() -> str:
        _, made = await first_completed(both(), make("w"))
        return made

    left, right, third = await gather(raced("a", "b"), raced("c", "d"), of_gather())
    return [left, right, third]


async def test_races_stand_in_a_gather_and_a_gather_in_a_race(
    engine: Engine, gates: Gates, until: Until
) -> None:
    client = await engine.registered(gathering)
    await engine.worker(app)
    handle = await client.start(gathering, {"n": 1})
    await until(lambda: len(gates.begun) == 7, "all branches wait")
    for item in ("d", "w", "a"):
        gates.of(item).set()
    assert await handle.result(5) == ["0A", "1D", "W"]
    assert sorted(gates.said) == ["clean a", "clean c", "clean g1", "clean g2"]
    told_once(await told(handle))


@workflow
async def rounds(count: int) -> int:
    total = 0
    for number in range(count):
        match await first_completed(length("x" * (number % 3)), sleep(3600), accepted.wait()):
            case 0, size:
                total += size
            case _:
                return -1
    return total


async def test_a_hundred_races_one_after_another(sharded: Engine, gates: Gates) -> None:
    client = await sharded.registered(rounds)
    await sharded.worker(app)
    handle = await client.start(rounds, {"count": 100})
    assert await handle.result(30) == sum(n % 3 for n in range(100))
    history = await told(handle)
    told_once(history)
    assert Counter(how for _, how in ends(history)) == {"done": 100, "cancelled": 200}


@workflow
async def everywhere(prefix: str) -> list[str]:
    view = RaceView("RUNNING")
    said: list[str] = []

    async def around(item: str) -> str:
        view.status = f"{prefix} {item}"
        try:
            await sleep(3600)
        finally:
            view.tidied += 1
        return "never"

    await first_completed(at_once("ignored"))
    place, _ = await first_completed(nothing("none"))
    said = [*said, f"none {place}"]
    try:
        await decline_at_once("no")
    except Declined:
        _, handled = await first_completed(echo("handled"), around("except"))
        said = [*said, handled]
    finally:
        _, late = await first_completed(around("finally"), echo(f"{prefix} finally"))
        said = [*said, late]
    async with Saga() as saga:
        _, room = await first_successful(decline_at_once("no"), echo("room"), around("saga"))
        saga.undo(take_back, room)
    if (await first_completed(echo("same"), echo("same")))[1] == "same":
        said = [*said, "in a condition"]
    await first_successful(around("ignored"), sleep(0.01))
    return said


async def test_races_stand_wherever_an_await_does(engine: Engine, gates: Gates) -> None:
    client = await engine.registered(everywhere)
    await engine.worker(app)
    handle = await client.start(everywhere, {"prefix": "p"})
    assert await handle.result(10) == ["none 0", "handled", "p finally", "in a condition"]
    state = await handle.state()
    assert dict(state.search) == {"status": "p ignored", "tidied": 4}
    told_once(await told(handle))


@workflow
async def values(n: int) -> tuple[int, str]:
    result = await first_completed(
        kept(item="other"), echo.options(retries=1)(text="by name"), sleep(timedelta(minutes=1))
    )
    match await first_successful(sleep(60), offer_of("lamp")):
        case 1, Offer(item=item, price=price):
            said = f"{item} {price}"
        case _:
            said = "no offer"
    return result[0], f"{result[1]}, {said}, {(await first_completed(echo('inline')))[1]}"


async def test_results_are_values_like_others(engine: Engine, gates: Gates) -> None:
    gates.of("other-clean").set()
    client = await engine.registered(values)
    await engine.worker(app)
    handle = await client.start(values, {"n": 1})
    result = await handle.result(5)
    assert result[0] == 1
    assert result[1].startswith("by name, ")
    assert result[1].endswith(", inline")


@workflow
async def hidden(item: str) -> Masked[str]:
    match await first_completed(token_of(item), sleep(60), accepted.wait()):
        case 0, token:
            return token
        case _:
            return "late"


async def test_a_masked_winner_is_hidden_from_readers(engine: Engine, gates: Gates) -> None:
    client = await engine.registered(hidden)
    await engine.worker(app)
    handle = await client.start(hidden, {"item": "card"})
    assert await handle.result(5) == "card-4711"
    events = [event async for event in handle.history()]
    assert [event.kind for event in events if b"4711" in bytes(event.data)] == []
    assert "4711" not in str(await handle.state())
    assert "4711" not in str(await engine.call("get", {"run_id": handle.run_id}))


MANY = """
from dressage.flow import first_completed, sleep, workflow


async def waiting(place: int, winner: int) -> int:
    await sleep(3600.0 if place != winner else 0.2)
    return place


@workflow
async def many(winner: int) -> list[int]:
    place, won = await first_completed(BRANCHES)
    return [place, won]
"""


def of_many(folder: Path, count: int) -> Workflow[..., Any]:
    return defined(folder, MANY.replace("BRANCHES", ", ".join(f"waiting({n}, winner)" for n in range(count))))


async def test_a_race_of_255_branches(engine: Engine, gates: Gates, tmp_path: Path) -> None:
    many = of_many(tmp_path, 255)
    client = await engine.registered(many)
    for winner in (0, 133, 254):
        handle = await client.start(many, {"winner": winner})
        assert await handle.result(10) == [winner, winner]
        assert Counter(how for _, how in ends(await told(handle))) == {"done": 1, "cancelled": 254}
    with pytest.raises(DefinitionError, match="255"):
        of_many(tmp_path, 256)


# -- runs that are cancelled ---------------------------------------------------------------------------
async def test_a_run_that_is_cancelled_in_a_race_tidies_up_and_ends(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    await handle.cancel("enough")
    await until(lambda: gates.begun["a-clean"] == 1, "it tidies up")
    gates.of("b").set()
    await until(lambda: gates.ended["b"] == 1, "the attempt has ended")
    assert (await handle.state()).cancelling
    gates.of("a-clean").set()
    with pytest.raises(RunCancelled, match="enough"):
        await handle.result(5)
    history = await told(handle)
    told_once(history)
    assert ends(history) == [(1, "cancelled"), (0, "cancelled")]
    assert history[-1][0] == "run-cancelled"


async def test_a_run_that_is_cancelled_while_a_loser_tidies_up_ends_behind_that(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    gates.of("b").set()
    await until(lambda: gates.begun["a-clean"] == 1, "the loser tidies up")
    await handle.cancel("enough")
    assert (await handle.state()).waiting_for == "task make (attempt 1) on queue races"
    gates.of("a-clean").set()
    with pytest.raises(RunCancelled):
        await handle.result(5)
    assert gates.said == []


async def test_a_run_that_is_ended_at_once_in_a_race_tidies_nothing_up(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    await handle.cancel("enough", at_once=True)
    gates.of("b").set()
    with pytest.raises(RunCancelled, match="enough"):
        await handle.result(5)
    await until(lambda: gates.ended["b"] == 1, "the attempt has ended")
    await asyncio.sleep(0.3)
    assert gates.begun["a-clean"] == 0
    assert (await told(handle))[-1][0] == "run-cancelled"


async def test_a_run_that_is_ended_at_once_while_a_loser_tidies_up_ends_there(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    client = await sharded.registered(tidied)
    await sharded.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"})
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    gates.of("b").set()
    await until(lambda: gates.begun["a-clean"] == 1, "the loser tidies up")
    await handle.cancel("enough", at_once=True)
    history = await told(handle)
    for item in ("a", "a-clean"):
        gates.of(item).set()
        await until(lambda item=item: gates.ended[item] == 1, f"{item} has ended")
    with pytest.raises(RunCancelled):
        await handle.result(5)
    await asyncio.sleep(0.2)
    assert await told(handle) == history
    assert gates.said == []


# -- owners that are lost ------------------------------------------------------------------------------
@workflow
async def long_race(n: int) -> list[str]:
    match await first_completed(kept("a"), accepted.wait(), sleep(3600)):
        case 0, made:
            said = f"made {made}"
        case 1, name:
            said = f"accepted {name}"
        case _:
            said = "late"
    match await first_completed(accepted.wait(), rejected.wait()):
        case 0, name:
            return [said, name]
        case _:
            return [said, "no"]


async def test_an_owner_lost_in_the_race_and_another_while_the_loser_tidies_up(
    sharded: Engine, gates: Gates, until: Until
) -> None:
    """The first race's event is posted while nobody serves, as is that of the second, one behind another."""
    client = await sharded.registered(long_race)
    await sharded.worker(app)
    handle = await client.start(long_race, {"n": 1})
    await until(lambda: gates.begun["a"] == 1, "the task is at the worker")
    await sharded.down()
    posting = asyncio.create_task(handle.post(accepted, "ann"))
    await asyncio.sleep(0.3)
    await sharded.up()
    await posting
    await until(lambda: gates.begun["a-clean"] == 1, "the loser tidies up")
    await sharded.down()
    gates.of("a").set()
    gates.of("a-clean").set()
    posting = asyncio.create_task(handle.post(rejected))
    await asyncio.sleep(0.3)
    await sharded.up()
    await posting
    assert await handle.result(15) == ["accepted ann", "no"]
    history = await told(handle)
    told_once(history)
    assert Counter(ends(history)) == {(0, "cancelled"): 2, (1, "done"): 2, (2, "cancelled"): 1}
    assert gates.begun == Counter({"a": 1, "a-clean": 1})
    assert "sleep-ended" not in dict(history)


async def test_an_owner_that_is_killed_between_the_two_sides_of_a_race(
    scraped: Scraped, gates: Gates, until: Until
) -> None:
    engine = scraped.engine
    client = await engine.registered(long_race, two)
    await engine.worker(app)
    raced = await client.start(two, {"a": "left", "b": "right"}, run_id="two")
    handle = await client.start(long_race, {"n": 1}, run_id="long")
    await until(lambda: gates.begun.keys() >= {"left", "right", "a"}, "all branches wait")
    gates.of("left").set()
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    gates.of("right").set()
    posting = asyncio.create_task(handle.post(accepted, "ann"))
    await asyncio.sleep(0.3)
    await engine.up()
    await posting
    gates.of("a-clean").set()
    await handle.post(rejected)
    assert await handle.result(20) == ["accepted ann", "no"]
    assert await raced.result(20) in (["0", "LEFT"], ["1", "RIGHT"])
    for each in (handle, raced):
        told_once(await told(each))
    assert gates.begun["a-clean"] == 1


async def test_an_owner_that_is_killed_while_a_loser_tidies_up(
    scraped: Scraped, gates: Gates, until: Until
) -> None:
    engine = scraped.engine
    client = await engine.registered(tidied, undone)
    await engine.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"}, run_id="tidied")
    saga = await client.start(undone, {"bad": False}, run_id="saga")
    await until(lambda: gates.begun.keys() >= {"a", "b", "trip", "other"}, "all branches wait")
    gates.of("b").set()
    await until(lambda: gates.begun["a-clean"] == 1, "the loser tidies up")
    gates.of("other").set()
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    for item in ("a", "a-clean", "trip"):
        gates.of(item).set()
    await engine.up()
    assert await handle.result(20) == "B after"
    assert await saga.result(20) in ("OTHER", "TRIP")
    for each in (handle, saga):
        told_once(await told(each))
    assert ends(await told(handle)) == [(1, "done"), (0, "cancelled")]
    assert gates.begun["a-clean"] == 1
    if await saga.result(5) == "OTHER":
        undos = [said for said in gates.said if said.startswith("undo")]
        assert undos == ["undo trip-2", "undo trip-1"]


# -- the same elsewhere --------------------------------------------------------------------------------
@workflow
async def compared(item: str) -> list[str]:
    view = RaceView()

    async def loser() -> str:
        try:
            return await make(item)
        finally:
            view.tidied += 1
            await echo(f"clean {item}")

    async def deep() -> str:
        _, said = await first_successful(loser(), booked(item), decline_at_once("no"))
        return said

    async def winner() -> str:
        await echo("one")
        await echo("two")
        return await echo("three")

    place, said = await first_completed(deep(), winner())
    view.status = "DONE"
    return [str(place), said, str(view.tidied)]


async def test_a_workflow_test_tells_what_the_engine_tells(engine: Engine, gates: Gates) -> None:
    """`winner` has more steps than `booked`, so that the loser has all of its own behind it in every order."""
    test = WorkflowTest(compared, app)
    test.task(make).hangs()
    tested = test.run("x")
    assert tested.result == ["1", "three", "1"]
    assert tested.view == RaceView("DONE", 1)
    faked = list(gates.said)
    gates.said.clear()
    client = await engine.registered(compared)
    await engine.worker(app)
    handle = await client.start(compared, {"item": "x"})
    assert await handle.result(5) == tested.result
    history = await told(handle)
    told_once(history)
    assert ends(history)[-1] == (0, "cancelled")
    assert sorted(faked) == sorted(gates.said)
    assert Counter(kind for kind, _ in history) == Counter(event.kind for event in tested.events)
    assert sorted(ends(history)) == sorted(ends([(event.kind, dict(event.data)) for event in tested.events]))


def outcome_of(error: BaseException | Any) -> Any:
    """What a run or plain Python failed with, groups as lists."""
    if isinstance(error, BaseExceptionGroup):
        return [outcome_of(each) for each in error.exceptions]
    if isinstance(error, WorkflowFailure):
        return error.name
    if isinstance(error, BaseException):
        return type(error).__name__
    return [outcome_of(each) for each in error.causes] if error.causes else error.name


async def no(after: float, said: str) -> str:
    await sleep(after)
    if after > 0:
        raise Declined(said)
    return said


async def yes(after: float, said: str) -> str:
    await sleep(after)
    return said


async def keeping(said: str) -> str:
    try:
        await sleep(60)
    finally:
        await nothing(f"keeping {said}")
    return said


@workflow
async def s_failed_before(n: int) -> str:
    """The loser is a race in which a branch has failed already."""

    async def loser() -> str:
        _, said = await first_successful(no(0.1, "early"), yes(60.0, "never"))
        return said

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_failed_at_once(n: int) -> str:
    """The same with tasks that take no time, as fakes do: all has ended before anybody looks."""

    async def loser() -> str:
        _, said = await first_successful(decline_at_once("early"), yes(60.0, "never"))
        return said

    place, said = await first_completed(loser(), echo("won"))
    return f"{place} {said}"


@workflow
async def s_failed_in_gather(n: int) -> str:
    """The loser is a gather in which a branch has failed already."""

    async def loser() -> str:
        one, other = await gather(no(0.1, "early"), yes(60.0, "never"))
        return one + other

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_in_finally(n: int) -> str:
    """The loser is cancelled in a `finally` that it came to by its own failure."""

    async def loser() -> str:
        try:
            await no(0.1, "early")
        finally:
            await nothing("begin")
            await sleep(60)
            await nothing("end")
        return "never"

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_in_except(n: int) -> str:
    """The loser is cancelled in a handler, with a `finally` beside it and one around it."""

    async def loser() -> str:
        try:
            try:
                await no(0.1, "early")
            except Declined:
                await sleep(60)
            finally:
                await nothing("beside")
        except Exception:
            await nothing("taken")
        finally:
            await nothing("around")
        return "never"

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_finally_in_saga(n: int) -> str:
    """The loser is cancelled in a `finally` inside of a saga inside of another one."""

    async def loser() -> str:
        async with Saga() as outer:
            outer.undo(take_back, "outer")
            async with Saga() as saga:
                saga.undo(take_back, "inner")
                try:
                    await no(0.1, "early")
                finally:
                    saga.undo(take_back, "late")
                    await sleep(60)
        return "never"

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_undo_fails(n: int) -> str:
    async def loser() -> str:
        async with Saga() as saga:
            saga.undo(take_back, "first")
            saga.undo(fail_to_take_back, "second")
            await sleep(60)
        return "never"

    place, said = await first_completed(loser(), yes(0.3, "won"))
    return f"{place} {said}"


@workflow
async def s_undo_fails_in_finally(n: int) -> str:
    """An undo that fails, caught in the loser."""

    async def loser() -> str:
        try:
            async with Saga() as saga:
                saga.undo(fail_to_take_back, "only")
                await sleep(60)
        except* NotUndone:
            await nothing("not undone")
        await nothing("goes on")
        return "end"

    place, said = await first_completed(loser(), yes(0.3, "won"))
    return f"{place} {said}"


@workflow
async def s_race_in_finally(n: int) -> str:
    async def inside() -> str:
        try:
            await sleep(60)
        finally:
            await nothing("inside")
        return "never"

    async def loser() -> str:
        try:
            await sleep(60)
        finally:
            _, said = await first_completed(inside(), yes(0.3, "inner"))
            await nothing(said)
        return "never"

    place, said = await first_completed(loser(), yes(0.3, "won"))
    return f"{place} {said}"


@workflow
async def s_returning(n: int) -> str:
    """The winner takes its time in a `finally` behind `return`, so that another one ends before it."""

    async def slow() -> str:
        try:
            await sleep(0.1)
            return "slow"
        finally:
            await nothing("tidies")
            await sleep(60)
            await nothing("never")

    place, said = await first_completed(slow(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_quietly(n: int) -> str:
    """Failures caught inside a `finally` do not end the cancelling."""

    async def loser() -> str:
        for number in range(3):
            try:
                await sleep(60)
            finally:
                try:
                    await decline_at_once("no")
                except Declined:
                    await nothing(f"caught {number}")
        return "never"

    place, said = await first_completed(loser(), yes(0.3, "won"))
    return f"{place} {said}"


@workflow
async def s_nested_failures(n: int) -> str:
    async def fails() -> str:
        try:
            await sleep(60)
        finally:
            await decline_at_once("no")
        return "never"

    async def loser() -> str:
        _, said = await first_completed(fails(), yes(60.0, "never"), fails())
        return said

    place, said = await first_completed(loser(), yes(0.3, "won"))
    return f"{place} {said}"


@workflow
async def s_winner_fails_with_a_group(n: int) -> str:
    async def fails() -> str:
        try:
            await sleep(60)
        finally:
            await decline_at_once("no")
        return "never"

    async def both() -> str:
        one, other = await gather(no(0.2, "one"), no(0.3, "other"))
        return one + other

    place, said = await first_completed(fails(), both())
    return f"{place} {said}"


@workflow
async def s_all_fail_in_the_end(n: int) -> str:
    """A branch that fails last, of those that all fail, with a race in one of them."""

    async def raced() -> str:
        _, said = await first_completed(no(0.3, "raced"), yes(60.0, "never"))
        return said

    async def all_of_it() -> str:
        _, said = await first_successful(no(0.1, "a"), no(0.2, "b"))
        return said

    place, said = await first_successful(no(0.6, "last"), raced(), all_of_it())
    return f"{place} {said}"


@workflow
async def s_twice_cancelled(n: int) -> str:
    """A loser that went on behind its tidying up, when the race around is lost as well."""

    async def stubborn() -> str:
        try:
            try:
                await sleep(60)
            finally:
                await decline_at_once("no")
        except Declined:
            await nothing("goes on")
            await sleep(0.9)
            await nothing("went on")
        return "end"

    async def loser() -> str:
        _, said = await first_completed(stubborn(), yes(0.2, "inner"))
        await nothing("never")
        return said

    place, said = await first_completed(loser(), yes(0.7, "won"))
    return f"{place} {said}"


@workflow
async def s_caught_around_a_gather(n: int) -> str:
    """Clauses around a gather with a failed and a waiting branch do not take the cancelling."""

    async def loser() -> str:
        try:
            one, other = await gather(no(0.1, "early"), keeping("other"))
        except ExceptionGroup:
            await nothing("taken")
            return "taken"
        finally:
            await nothing("finally")
        return one + other

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_caught_around_a_race(n: int) -> str:
    async def loser() -> str:
        said = "never"
        try:
            try:
                _, said = await first_successful(no(0.1, "early"), keeping("other"))
            except* Exception:
                await nothing("a part taken")
        except Exception:
            await nothing("taken")
        finally:
            await nothing("finally")
        return said

    place, said = await first_completed(loser(), yes(0.6, "won"))
    return f"{place} {said}"


@workflow
async def s_untidy(n: int) -> str:
    """A success, too, is lost to failures of tidying up, and losers' other failures are not part of them."""

    async def untidy(name: str) -> str:
        try:
            await sleep(60)
        finally:
            await decline_at_once(name)
        return name

    caught = "nothing"
    try:
        await first_successful(no(0.1, "early"), untidy("b"), yes(0.6, "won"), untidy("d"))
    except ExceptionGroup as failures:
        caught = str(failures)
    await nothing(caught)
    _, said = await first_successful(no(0.1, "early"), yes(0.3, "won"), untidy("c"))
    return said


@workflow
async def s_order(n: int) -> str:
    """A gather in a race in a race: each tidies up behind what it waits for."""

    async def level(name: str) -> str:
        try:
            one, other = await gather(keeping(f"{name}1"), yes(60.0, "never"))
        finally:
            await nothing(f"{name} after its branches")
        return one + other

    async def two_levels() -> str:
        try:
            _, said = await first_completed(level("x"), yes(60.0, "never"))
        finally:
            await nothing("two")
        return said

    place, said = await first_completed(two_levels(), yes(0.3, "won"))
    return f"{place} {said}"


@workflow
async def s_else(n: int) -> str:
    async def third() -> str:
        for number in range(5):
            try:
                await nothing(f"body {number}")
            except TaskError:
                await nothing("except")
            else:
                await sleep(0.2 if number == 0 else 60.0)
                await nothing("else")
            finally:
                await nothing(f"finally {number}")
        return "end"

    async def second() -> str:
        try:
            return await third()
        finally:
            await nothing("second")

    async def first() -> str:
        said = await second()
        await nothing("never")
        return said

    place, said = await first_completed(first(), yes(0.6, "won"))
    return f"{place} {said}"


SCENARIOS: list[Workflow[[int], str]] = [
    s_failed_before,
    s_failed_at_once,
    s_failed_in_gather,
    s_in_finally,
    s_in_except,
    s_finally_in_saga,
    s_undo_fails,
    s_undo_fails_in_finally,
    s_race_in_finally,
    s_returning,
    s_quietly,
    s_nested_failures,
    s_winner_fails_with_a_group,
    s_all_fail_in_the_end,
    s_twice_cancelled,
    s_caught_around_a_gather,
    s_caught_around_a_race,
    s_untidy,
    s_order,
    s_else,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_engine_and_workflow_test_and_plain_python_come_to_the_same(
    shared: Engine, gates: Gates, scenario: Workflow[[int], str]
) -> None:
    outcomes: dict[str, Any] = {}

    def note(way: str, outcome: Any) -> None:
        outcomes[way] = (outcome, list(gates.said))
        gates.said.clear()

    try:
        note("plain", await asyncio.wait_for(scenario(1), 10))
    except Exception as error:
        note("plain", outcome_of(error))
    test = WorkflowTest(scenario, app)
    tested = test.run(1)
    note("tested", tested.result if tested.failure is None else outcome_of(tested.failure))
    client = await shared.registered(scenario)
    await shared.worker(app)
    handle = await client.start(scenario, {"n": 1})
    try:
        note("engine", await handle.result(10))
    except RunFailed as error:
        note("engine", outcome_of(error.failure))
    told_once(await told(handle))
    assert outcomes["engine"] == outcomes["tested"]
    assert outcomes["plain"] == outcomes["engine"]


async def test_a_race_of_events_in_a_workflow_test_is_that_of_the_engine(engine: Engine) -> None:
    tested = WorkflowTest(answered).start(3)
    tested.post(rejected)
    tested.post(accepted, "ann")
    tested.post(opened)
    assert "event accepted" in tested.waiting_for
    tested.post(rejected)
    assert tested.result == ["0 ann", "1 no", "2 no"]
    client = await engine.registered(answered)
    handle = await client.start(answered, {"rounds": 3})
    await handle.post(rejected)
    await handle.post(accepted, "ann")
    await handle.post(opened)
    await handle.post(rejected)
    assert await handle.result(5) == tested.result
    ours = [(kind, data.get("event"), data.get("branch")) for kind, data in await told(handle)]
    assert ours == [
        (event.kind, event.data.get("event"), event.data.get("branch")) for event in tested.events
    ]


async def test_the_command_line_tells_of_races(
    engine: Engine, gates: Gates, until: Until, start: Start
) -> None:
    client = await engine.registered(tidied)
    await engine.worker(app)
    handle = await client.start(tidied, {"a": "a", "b": "b"}, run_id="told")
    await until(lambda: gates.begun.keys() >= {"a", "b"}, "both branches wait")
    gates.of("b").set()
    gates.of("a-clean").set()
    assert await handle.result(5) == "B after"
    where = ("--server", engine.url, "--namespace", engine.namespace)
    shown = start("spec", "show", "tidied@latest", *where)
    assert await asyncio.to_thread(shown.ended) == 0, shown.said
    assert "first_completed" in shown.said or "first completed" in shown.said
    history = start("run", "history", "told", *where)
    assert await asyncio.to_thread(history.ended) == 0, history.said
    lines = [line for line in history.said.splitlines() if "branch-ended" in line]
    assert ["cancelled" in line for line in lines] == [False, True], history.said


async def test_a_workflow_test_lets_no_time_pass_for_losers(gates: Gates) -> None:
    test = WorkflowTest(deadline, app)
    test.task(make).returns("MADE").takes(timedelta(hours=2))
    run = test.run("x", 60.0)
    assert (run.result, run.elapsed) == ("too late", timedelta(minutes=1))
    run = test.run("x", 3 * 3600.0)
    assert (run.result, run.elapsed) == ("made MADE", timedelta(hours=2))
    started = test.start("x", 60.0)
    assert started.cancel("enough").status == "cancelled"


async def test_plain_python_that_is_cancelled_in_a_race_leaves_nothing_behind(gates: Gates) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(nested(1), 0.1)
    assert asyncio.all_tasks() == before
    assert sorted(gates.said[:2]) == ["clean in-1", "clean in-2"]
    assert gates.said[2:] == ["clean in"]


# -- what is refused -----------------------------------------------------------------------------------
def test_what_cannot_be_a_race_is_refused_with_what_to_write() -> None:
    with pytest.raises(DefinitionError, match=r"nobody would ever win this race[\s\S]*first_completed\("):

        @workflow
        async def r_empty(x: str) -> str:
            await first_completed()
            return x

    with pytest.raises(DefinitionError, match=r"a race is no branch by itself[\s\S]*async function"):

        @workflow
        async def r_nested(x: str) -> str:
            await first_completed(first_completed(echo(x), echo(x)), echo(x))
            return x

    with pytest.raises(
        DefinitionError, match=r"what the branches are must be seen here[\s\S]*first_completed\("
    ):

        @workflow
        async def r_many(xs: list[str]) -> str:
            await first_completed(*[echo(x) for x in xs], echo("last"))
            return ""

    with pytest.raises(DefinitionError, match=r"first_completed"):

        @workflow
        async def r_not_awaited(x: str) -> str:
            race = first_completed(echo(x), echo(x))
            _, made = await race
            return made

    with pytest.raises(DefinitionError, match=r"branch"):

        @workflow
        async def r_awaited(x: str) -> str:
            await first_completed(await echo(x), echo(x))  # type: ignore[call-overload]
            return x


def test_no_except_clause_can_name_the_cancelling() -> None:
    with pytest.raises(DefinitionError, match=r"CancelledError[\s\S]*finally"):

        @workflow
        async def r_caught(x: str) -> str:
            try:
                return await echo(x)
            except asyncio.CancelledError:
                return "cancelled"

    with pytest.raises(DefinitionError, match=r"BaseException"):

        @workflow
        async def r_all(x: str) -> str:
            try:
                return await echo(x)
            except BaseException:
                return "anything"


BELOW = """
from dressage.flow import first_completed, sleep, workflow


@workflow
async def racing(n: int) -> int:
    place, _ = await first_completed(below(n), sleep(n))
    return place


async def below(n: int) -> None:
    await sleep(n)
"""


def test_a_function_that_is_defined_below_is_said_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="define it above"):
        defined(tmp_path, BELOW, "racing")
