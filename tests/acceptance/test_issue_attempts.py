"""Attempts of tasks that can be trusted, as the issue asks for them: times, progress, cancelling, fencing."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import RunCancelled, RunFailed, RunHandle
from dressage.flow import (
    App,
    Event,
    Exponential,
    gather,
    sleep,
    task,
    workflow,
)
from dressage.protocol.errors import BadValue
from dressage.worker import TaskLog, current_task

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Answer = dict[str, Any]

app = App("issue-attempts", version="7.1")
go = Event("issue-attempts-go", of=str)
MOMENT: Final = timedelta(milliseconds=300)
SOON: Final = Exponential(base=timedelta(milliseconds=20), limit=timedelta(milliseconds=20))
SPREAD: Final = Exponential(
    base=timedelta(milliseconds=100), factor=2.0, limit=timedelta(milliseconds=200), jitter=0.5
)


async def nothing(word: str) -> str:
    return word


@dataclass
class Floor:
    """What handlers do, and what they have done."""

    done: list[str] = field(default_factory=list)
    does: Callable[[str], Awaitable[str]] = nothing
    grinds: Callable[[str], str] = str
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    free: threading.Event = field(default_factory=threading.Event)


floor = Floor()


@pytest.fixture(autouse=True)
def fresh_floor() -> None:
    floor.done, floor.does, floor.grinds = [], nothing, str
    floor.gate, floor.free = asyncio.Event(), threading.Event()


class Wrong(ValueError): ...


class VeryWrong(Wrong): ...


class Panic(BaseException):
    """As extensions in other languages raise it."""


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@app.task
async def work(word: str) -> str:
    return await floor.does(word)


@app.task
def grind(word: str) -> str:
    return floor.grinds(word)


@app.task
async def mark(word: str) -> str:
    floor.done.append(f"mark {word}")
    return word


@workflow
async def att_plain(word: str) -> str:
    return await work(word)


@workflow
async def att_ground(word: str) -> str:
    return await grind(word)


@workflow
async def att_mark(word: str) -> str:
    return await mark(word)


@workflow
async def att_timed(word: str) -> str:
    return await work.options(timeout=MOMENT, retries=1, backoff=SOON)(word)


@workflow
async def att_ground_timed(word: str) -> str:
    return await grind.options(timeout=MOMENT, retries=1, backoff=SOON)(word)


@workflow
async def att_ground_deadline(word: str) -> str:
    try:
        return await grind.options(deadline=MOMENT)(word)
    except TimeoutError as late:
        return f"late: {late}"


@workflow
async def att_beating(word: str) -> str:
    return await work.options(heartbeat=MOMENT, retries=1, backoff=SOON)(word)


@workflow
async def att_tried(word: str) -> str:
    return await work.options(retries=2, backoff=SOON)(word)


@workflow
async def att_ground_tried(word: str) -> str:
    return await grind.options(retries=2, backoff=SOON)(word)


@workflow
async def att_twice(word: str) -> list[str]:
    first = await work.options(retries=1, backoff=SOON)(word)
    return [first, await work.options(retries=1, backoff=SOON)(word)]


@workflow
async def att_both(word: str) -> list[str]:
    left, right = await gather(work.options(retries=1, backoff=SOON)(f"{word} 1"), grind(f"{word} 2"))
    return [left, right]


@workflow
async def att_slowly_tried(word: str) -> str:
    return await work.options(retries=5, backoff=SPREAD)(word)


@workflow
async def att_picky(word: str) -> str:
    return await work.options(retries=3, backoff=SOON, not_retried=(Wrong,))(word)


@workflow
async def att_impatient(word: str) -> str:
    return await work.options(retries=3, backoff=SOON, timeout=MOMENT, not_retried=(TimeoutError,))(word)


@workflow
async def att_nap() -> None:
    await sleep(MOMENT)
    await sleep(MOMENT)


# -- what the tests look at ----------------------------------------------------------------------------------------
async def told(run: RunHandle[Any], *kinds: str) -> list[Answer]:
    """What the history has of these kinds, in its order."""
    return [
        json.loads(bytes(event.data)) | {"kind": event.kind}
        async for event in run.history()
        if event.kind in kinds
    ]


async def ends(run: RunHandle[Any]) -> list[Answer]:
    return await told(run, "task-completed", "task-failed")


class RawWorker:
    """A worker that is written in another language, and knows the protocol alone."""

    def __init__(self, engine: Engine, queue: str) -> None:
        self.engine, self.queue = engine, queue

    async def take(self) -> tuple[Any, Answer]:
        js = (await self.engine.nats()).jetstream()
        pull = await js.pull_subscribe_bind(f"task_{self.queue}", stream=self.engine.names.shard_stream(0))
        (message,) = await pull.fetch(1, timeout=8)
        return message, json.loads(message.data)

    async def say(self, given: Answer, **what: Any) -> Answer:
        """A result of an attempt, or progress."""
        told = {
            "type": "task-result",
            "task_id": given["task_id"],
            "by": {"worker": "raw", "duration_ms": 1.0},
            **what,
        }
        return await self.engine.send_raw(given["run_id"], json.dumps(told).encode())

    async def tell(self, given: Answer, **what: Any) -> Answer:
        told = {"type": "attempt-progress", "task_id": given["task_id"], "worker": "raw", **what}
        return await self.engine.send_raw(given["run_id"], json.dumps(told).encode())


@pytest.fixture
def raw(engine: Engine) -> RawWorker:
    return RawWorker(engine, app.name)


def refusal(answer: Answer) -> str:
    return "" if answer.get("accepted") else str(answer["code"])


ERROR: Final = {"name": "OSError", "message": "down", "kind": "task-error"}


# -- times ---------------------------------------------------------------------------------------------------------
async def test_what_a_sync_handler_returns_behind_its_timeout_changes_nothing(
    engine: Engine, until: Until
) -> None:
    def grinds(word: str) -> str:
        if current_task().attempt > 1:
            return "in time"
        floor.free.wait(20)
        floor.done.append("late")
        return "late"

    floor.grinds = grinds
    client = await engine.registered(att_ground_timed, att_mark)
    async with engine.working(app):
        run = await client.start(att_ground_timed, {"word": "a"})
        assert await run.result(10) == "in time"
        floor.free.set()
        await until(lambda: floor.done == ["late"], "the first handler has ended")
        await (await client.start(att_mark, {"word": "b"})).result(10)
    first, second = await ends(run)
    assert (first["kind"], first["failure"]["kind"], first["retry"]) == ("task-failed", "timeout", True)
    assert (second["kind"], second["output"]) == ("task-completed", "in time")
    assert await run.result(10) == "in time"


async def test_what_an_async_handler_that_swallows_its_cancellation_returns_late_changes_nothing(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        if current_task().attempt > 1:
            return "in time"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await floor.gate.wait()
            current_task().heartbeat("of the first one")
        floor.done.append("late")
        return "late"

    floor.does = does
    client = await engine.registered(att_timed, att_mark)
    async with engine.working(app):
        run = await client.start(att_timed, {"word": "a"})
        assert await run.result(10) == "in time"
        floor.gate.set()
        await until(lambda: floor.done == ["late"], "the first handler has ended")
        await (await client.start(att_mark, {"word": "b"})).result(10)
    assert [each["kind"] for each in await ends(run)] == ["task-failed", "task-completed"]


async def test_a_deadline_holds_although_a_sync_handler_blocks(engine: Engine) -> None:
    floor.grinds = lambda word: f"{word} {floor.free.wait(20)}"
    client = await engine.registered(att_ground_deadline)
    async with engine.working(app):
        run = await client.start(att_ground_deadline, {"word": "a"})
        assert (await run.result(10)).startswith("late: ")
        floor.free.set()
    (end,) = await ends(run)
    assert (end["kind"], end["failure"]["kind"], end.get("retry", False)) == ("task-failed", "timeout", False)


async def test_an_attempt_that_waits_in_its_queue_when_its_run_is_cancelled_counts_for_nothing(
    engine: Engine,
) -> None:
    client = await engine.registered(att_plain, att_mark)
    run = await client.start(att_plain, {"word": "a"})
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(10)
    await engine.worker(app)
    await (await client.start(att_mark, {"word": "b"})).result(10)
    assert await ends(run) == []


# -- heartbeats and progress ---------------------------------------------------------------------------------------
async def test_the_attempt_behind_a_silent_one_has_the_details_that_were_told_last(engine: Engine) -> None:
    async def does(word: str) -> str:
        here = current_task()
        if here.attempt > 1:
            return json.dumps(here.resumed(dict))
        here.heartbeat({"row": 1})
        here.heartbeat({"row": 2, "file": "ü"})
        await asyncio.sleep(60)
        return "never"

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(att_beating)
    run = await client.start(att_beating, {"word": "a"})
    assert json.loads(await run.result(10)) == {"row": 2, "file": "ü"}
    first, _ = await ends(run)
    assert first["failure"]["kind"] == "timeout"


async def test_a_sync_handler_that_beats_on_behind_the_deadline_is_told_to_end(
    engine: Engine, until: Until
) -> None:
    def grinds(word: str) -> str:
        try:
            while not floor.free.wait(0.01):
                current_task().heartbeat(1)
        except asyncio.CancelledError:
            floor.done.append(f"told: {current_task().stopped}")
            raise
        return "never"

    floor.grinds = grinds
    client = await engine.registered(att_ground_deadline)
    async with engine.working(app, identity="beats-on"):
        run = await client.start(att_ground_deadline, {"word": "a"})
        assert (await run.result(10)).startswith("late: ")
        await until(lambda: len(floor.done) == 1, "the handler is told")
    assert floor.done[0] != "told: "
    (end,) = await ends(run)
    assert (end["failure"]["kind"], end["worker"], end.get("log", "")) == ("timeout", "beats-on", "")


async def test_progress_is_fenced_by_attempt_and_by_who_has_begun_it_last(
    engine: Engine, raw: RawWorker
) -> None:
    client = await engine.registered(att_tried)
    run = await client.start(att_tried, {"word": "a"})
    _, first = await raw.take()
    assert "progress" not in first
    assert refusal(await raw.tell(first, progress={"row": 1})) == ""
    assert refusal(await raw.say(first, error=ERROR)) == ""
    _, second = await raw.take()
    assert (second["attempt"], second["progress"]) == (2, {"row": 1})
    assert refusal(await raw.tell(first, progress={"row": 0})) == "RESULT_STALE"
    assert refusal(await raw.tell(second, progress={"row": 2})) == ""
    assert refusal(await raw.tell(second, worker="other", begins=True)) == ""
    assert refusal(await raw.tell(second, progress={"row": 0})) == "ATTEMPT_TAKEN"
    assert refusal(await raw.tell(second, worker="other", progress={"row": 3})) == ""
    assert refusal(await raw.say(second, error=ERROR)) == ""
    _, third = await raw.take()
    assert (third["attempt"], third["progress"]) == (3, {"row": 3})
    assert refusal(await raw.say(third, output="done")) == ""
    assert refusal(await raw.tell(third, progress={"row": 9})) == "RUN_FINISHED"
    assert await run.result(10) == "done"


# -- checkpoints ---------------------------------------------------------------------------------------------------
async def test_a_checkpoint_that_is_too_large_is_refused_and_the_one_before_stays(engine: Engine) -> None:
    def grinds(word: str) -> str:
        here = current_task()
        if here.attempt > 1:
            return ", ".join(here.resumed(list) or [])
        here.checkpoint_blocking(["small"])
        wrongs: list[Any] = ["x" * 20_000, {1, object()}, [[[]]] * 9_000]
        for wrong in wrongs:
            with pytest.raises(BadValue):
                here.checkpoint_blocking(wrong)
        raise OSError("down")

    floor.grinds = grinds
    await engine.worker(app)
    client = await engine.registered(att_ground_tried)
    assert await (await client.start(att_ground_tried, {"word": "a"})).result(10) == "small"


async def test_an_attempt_whose_worker_ends_goes_on_with_another_one_from_its_checkpoint(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        here = current_task()
        rows = here.resumed(int) or 0
        floor.done.append(f"from {rows}")
        if rows:
            return f"attempt {here.attempt} from {rows}"
        await here.checkpoint(500)
        floor.done.append("kept")
        await asyncio.sleep(60)
        return "never"

    floor.does = does
    client = await engine.registered(att_plain)
    async with engine.working(app, identity="first", drain_s=0.05):
        run = await client.start(att_plain, {"word": "a"})
        await until(lambda: floor.done == ["from 0", "kept"], "the checkpoint is stored")
    async with engine.working(app, identity="second"):
        assert await run.result(10) == "attempt 1 from 500"
    (end,) = await ends(run)
    assert end["worker"] == "second"


async def test_a_checkpoint_is_kept_where_an_orchestrator_ends(engine: Engine, raw: RawWorker) -> None:
    client = await engine.registered(att_tried)
    run = await client.start(att_tried, {"word": "a"})
    _, first = await raw.take()
    assert refusal(await raw.tell(first, progress="half")) == ""
    await engine.down()
    await engine.up()
    assert refusal(await raw.say(first, error=ERROR)) == ""
    _, second = await raw.take()
    assert second["progress"] == "half"
    assert refusal(await raw.say(second, output="done")) == ""
    assert await run.result(10) == "done"


async def test_checkpoints_are_those_of_their_call_alone(engine: Engine) -> None:
    async def does(word: str) -> str:
        here = current_task()
        before = here.resumed(str) or "nothing"
        await here.checkpoint(f"of attempt {here.attempt}")
        if here.attempt == 1:
            raise OSError("down")
        return before

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(att_twice)
    assert await (await client.start(att_twice, {"word": "a"})).result(10) == ["of attempt 1"] * 2


async def test_a_handler_that_tidies_up_and_keeps_a_checkpoint_is_let_do_so(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        floor.done.append("begun")
        try:
            await floor.gate.wait()
        except asyncio.CancelledError:
            floor.done.append("cancelled")
            await current_task().checkpoint("of no use")
            floor.done.append("tidied")
            raise
        return "never"

    floor.does = does
    client = await engine.registered(att_plain)
    async with engine.working(app):
        run = await client.start(att_plain, {"word": "a"})
        await until(lambda: floor.done == ["begun"], "the handler runs")
        await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result(10)
        await until(lambda: floor.done == ["begun", "cancelled", "tidied"], "the handler has tidied up")


# -- cancelling ----------------------------------------------------------------------------------------------------
async def test_a_cancelled_run_cancels_its_async_handler_which_tidies_up_in_peace(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        floor.done.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            floor.done.append("tidied")
            raise OSError("while it tidied up")
        return "never"

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(att_tried, att_mark)
    run = await client.start(att_tried, {"word": "a"})
    await until(lambda: floor.done == ["begun"], "the handler runs")
    await run.cancel("no need")
    with pytest.raises(RunCancelled, match="no need"):
        await run.result(10)
    await until(lambda: floor.done == ["begun", "tidied"], "the handler has tidied up")
    await (await client.start(att_mark, {"word": "b"})).result(10)
    assert await ends(run) == []
    assert floor.done == ["begun", "tidied", "mark b"]


async def test_a_cancelled_run_tells_its_sync_handler_by_a_word_and_by_its_next_heartbeat(
    engine: Engine, until: Until
) -> None:
    def grinds(word: str) -> str:
        here = current_task()
        floor.done.append(f"{word} begun")
        while not floor.free.wait(0.01):
            if word == "looks" and here.stopped:
                break
            if word == "beats":
                here.heartbeat()
            if word == "keeps":
                here.checkpoint_blocking("a")
        floor.done.append(f"{word} looked")
        return "of no use"

    floor.grinds = grinds
    client = await engine.registered(att_ground)
    async with engine.working(app):
        runs = [await client.start(att_ground, {"word": word}) for word in ("looks", "beats", "keeps")]
        await until(lambda: len(floor.done) == 3, "all of them have begun")
        for run in runs:
            await run.cancel()
            with pytest.raises(RunCancelled):
                await run.result(10)
        await until(lambda: "looks looked" in floor.done, "who looks is told")
    # The worker has ended: none of the handlers goes on.
    assert [each for each in floor.done if each.endswith("looked")] == ["looks looked"]
    for run in runs:
        assert await ends(run) == []


async def test_a_handler_that_swallows_its_cancellation_counts_for_nothing_and_leaves_its_place(
    engine: Engine, until: Until
) -> None:
    async def does(word: str) -> str:
        floor.done.append(word)
        if word != "stubborn":
            return word
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            floor.done.append("swallowed")
        return "after all"

    floor.does = does
    await engine.worker(app, concurrency=1)
    client = await engine.registered(att_plain)
    run = await client.start(att_plain, {"word": "stubborn"})
    await until(lambda: floor.done == ["stubborn"], "the handler runs")
    other = await client.start(att_plain, {"word": "next"})
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(10)
    assert await other.result(10) == "next"
    assert floor.done == ["stubborn", "swallowed", "next"]
    assert await ends(run) == []


async def test_no_attempt_is_made_for_a_run_that_was_cancelled_during_a_backoff(engine: Engine) -> None:
    async def does(word: str) -> str:
        floor.done.append(word)
        raise OSError("down")

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(att_slowly_tried, att_nap)
    run = await client.start(att_slowly_tried, {"word": "a"})
    await run.wait_for_event("task-failed", timeout_s=10)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(10)
    begun = len(floor.done)
    await (await client.start(att_nap)).result(10)
    assert len(floor.done) == begun


# -- failures ------------------------------------------------------------------------------------------------------
async def test_failures_that_are_named_are_not_retried_whoever_reports_them(
    engine: Engine, raw: RawWorker
) -> None:
    client = await engine.registered(att_picky)

    async def attempts_with(**what: Any) -> int:
        run = await client.start(att_picky, {"word": "a"})
        for number in range(1, 9):
            _, given = await raw.take()
            assert given["attempt"] == number
            assert refusal(await raw.say(given, **what)) == ""
            if (await run.state()).status != "running":
                return number
        raise AssertionError("retried for ever")

    assert await attempts_with(error=ERROR) == 4
    assert await attempts_with(error={**ERROR, "name": "Wrong"}) == 1
    assert await attempts_with(error={**ERROR, "name": "VeryWrong", "family": ["Wrong", "ValueError"]}) == 1
    assert await attempts_with(error={**ERROR, "kind": "type-error"}) == 1
    assert await attempts_with(failure={"name": "refused", "message": "no"}) == 1
    assert await attempts_with(output=4711) == 1  # of another type, as it would be again


async def test_a_timeout_can_be_named_as_well(engine: Engine) -> None:
    async def does(word: str) -> str:
        floor.done.append(word)
        await asyncio.sleep(60)
        return "never"

    floor.does = does
    await engine.worker(app)
    client = await engine.registered(att_impatient)
    with pytest.raises(RunFailed):
        await (await client.start(att_impatient, {"word": "a"})).result(10)
    assert floor.done == ["a"]


def raise_odd(word: str) -> str:
    """What a handler may come to by mistake."""
    match word:
        case "stop":
            return next(iter(list[str]()))
        case "panic":
            raise Panic("in another language")
        case "unsayable":
            raise Unsayable
        case "surrogate":
            raise OSError("no such file: \udcff")
        case "group":
            raise ExceptionGroup("some", [ValueError("a"), KeyError("b")])
        case "exit":
            raise SystemExit(3)
        case "cancelled":
            raise asyncio.CancelledError("by itself")
        case "deep":
            return raise_odd(word)
        case _:
            raise OSError("x" * 1_000_000)


ODD: Final = ("stop", "panic", "unsayable", "surrogate", "group", "exit", "cancelled", "deep", "long")


@pytest.mark.parametrize("odd", ODD)
async def test_whatever_a_handler_raises_is_the_end_of_its_attempt(shared: Engine, odd: str) -> None:
    async def does(word: str) -> str:
        return raise_odd(word)

    floor.does, floor.grinds = does, raise_odd
    client = await shared.registered(att_plain, att_ground, att_ground_timed, att_timed, att_mark)
    async with shared.working(app):
        for definition in (att_plain, att_ground, att_timed, att_ground_timed):
            run = await client.start(definition, {"word": odd})
            with pytest.raises(RunFailed):
                await run.result(5)
        # The worker is well.
        assert await (await client.start(att_mark, {"word": "b"})).result(5) == "b"


class Anything:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


RETURNED: Final[dict[str, Callable[[], Any]]] = {
    "an object": Anything,
    "an int that is huge": lambda: 2**200,
    "not a number": lambda: float("nan"),
    "a list in itself": endless,
    "no characters": lambda: "\udcff",
    "keys that are none": lambda: {(1, 2): 3},
    "a function": lambda: endless,
}


@app.task
def give_anything(which: str) -> Any:
    return RETURNED[which]()


@workflow
async def att_anything(which: str) -> Any:
    return await give_anything(which)


async def test_whatever_a_handler_returns_is_the_end_of_its_attempt(shared: Engine) -> None:
    client = await shared.registered(att_anything, att_mark)
    async with shared.working(app):
        for which in RETURNED:
            run = await client.start(att_anything, {"which": which})
            assert (await client.wait(run.run_id, timeout_s=5)).status in {"failed", "completed"}, which
        assert await (await client.start(att_mark, {"word": "b"})).result(5) == "b"


@dataclass
class Checked:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise RuntimeError("below zero")


@app.task
async def take_checked(given: Checked) -> Checked:
    if given.number == 7:
        given.number = -7
    return given


@workflow
async def att_checked(given: Checked) -> Checked:
    return await take_checked(given)


async def test_arguments_and_results_that_their_own_classes_refuse_are_the_end_of_an_attempt(
    shared: Engine,
) -> None:
    client = await shared.registered(att_checked)
    async with shared.working(app):
        for number in (-1, 7):
            run = await client.start("att-checked", {"given": {"number": number}})
            with pytest.raises(RunFailed, match="below zero"):
                await run.result(5)
        run = await client.start("att-checked", {"given": {"number": 1}})
        assert await run.result(5) == {"number": 1}


# -- retries -------------------------------------------------------------------------------------------------------
async def test_a_retry_policy_is_data_of_the_version_that_a_run_is_of(engine: Engine) -> None:
    async def does(word: str) -> str:
        floor.done.append(word)
        raise OSError("down")

    floor.does = does

    def of(retries: int) -> Any:
        if retries == 1:

            @workflow(name="att-policy", retries=1, backoff=SOON)
            async def policy(word: str) -> str:
                await go.wait()
                return await work(word)

        else:

            @workflow(name="att-policy", retries=3, backoff=SOON)
            async def policy(word: str) -> str:
                await go.wait()
                return await work(word)

        return policy

    await engine.worker(app)
    client = await engine.registered(of(1))
    old = await client.start("att-policy", {"word": "old"})
    await client.register(of(3))
    new = await client.start("att-policy", {"word": "new"})
    for run in (old, new):
        await run.post(go, "on")
        with pytest.raises(RunFailed):
            await run.result(10)
    assert (floor.done.count("old"), floor.done.count("new")) == (2, 4)
    for version, retries in ((1, 1), (2, 3)):
        known = await engine.call("get-workflow", {"name": "att-policy", "version": version})
        assert f'"retries": {retries}' in json.dumps(known), known


# -- late and twice ------------------------------------------------------------------------------------------------
async def test_results_that_are_late_or_come_twice_are_refused_and_change_nothing(
    engine: Engine, raw: RawWorker
) -> None:
    client = await engine.registered(att_tried)
    run = await client.start(att_tried, {"word": "a"})
    _, first = await raw.take()
    assert refusal(await raw.say(first, output="a", error=ERROR)) == "RESULT_MALFORMED"
    assert refusal(await raw.say(first)) == "RESULT_MALFORMED"
    assert refusal(await raw.say(first, error=ERROR)) == ""
    for what in ({"error": ERROR}, {"output": "late"}, {"failure": {"name": "refused"}}):
        assert refusal(await raw.say(first, **what)) == "RESULT_STALE"
    _, second = await raw.take()
    forged = {**second, "task_id": second["task_id"][:-1] + "3"}
    assert refusal(await raw.say(forged, output="early")) == "RESULT_STALE"
    answers = await asyncio.gather(*(raw.say(second, output=f"by {n}") for n in range(5)))
    assert sorted(map(refusal, answers)) == ["", *["RUN_FINISHED"] * 4]
    won = next(n for n, answer in enumerate(answers) if refusal(answer) == "")
    assert await run.result(10) == f"by {won}"
    assert refusal(await raw.say(first, output="late")) == "RUN_FINISHED"
    assert [each["kind"] for each in await ends(run)] == ["task-failed", "task-completed"]
    assert len(await told(run, "task-scheduled")) == 2


async def test_an_attempt_that_two_workers_have_ends_once(engine: Engine, raw: RawWorker) -> None:
    async def does(word: str) -> str:
        floor.done.append(word)
        return "by the second"

    floor.does = does
    client = await engine.registered(att_plain)
    run = await client.start(att_plain, {"word": "a"})
    message, first = await raw.take()
    await message.nak()  # as if the server thought it lost
    await engine.worker(app)
    assert await run.result(10) == "by the second"
    assert refusal(await raw.say(first, output="by the first")) == "RUN_FINISHED"
    assert [each["output"] for each in await ends(run)] == ["by the second"]
    assert floor.done == ["a"]


# -- who it was ----------------------------------------------------------------------------------------------------
async def test_each_attempt_has_its_worker_its_version_and_its_own_log(engine: Engine) -> None:
    logger = logging.getLogger("issue-attempts")
    handler = TaskLog()
    logger.addHandler(handler)

    async def noted(number: int) -> None:
        current_task().log(f"inner {number}")

    async def does(word: str) -> str:
        here = current_task()
        here.log(f"{word} attempt {here.attempt}")
        logger.warning("%s by logging", word)
        await asyncio.gather(*(noted(n) for n in range(2)))
        here.log("\udcff is no character")
        if here.attempt == 1:
            raise OSError("down")
        return word

    def grinds(word: str) -> str:
        logger.warning("%s from a thread", word)
        return word

    floor.does, floor.grinds = does, grinds
    try:
        client = await engine.registered(att_both)
        async with engine.working(app, identity="host-7"):
            run = await client.start(att_both, {"word": "w"})
            assert await run.result(10) == ["w 1", "w 2"]
    finally:
        logger.removeHandler(handler)
    found = await ends(run)
    assert {(each["worker"], each["build"]) for each in found} == {("host-7", "7.1")}
    logs = {(each["task"], each["attempt"]): each["log"].splitlines() for each in found}
    assert logs["grind", 1] == ["w 2 from a thread"]
    for attempt in (1, 2):
        first, second, *inner, odd = logs["work", attempt]
        assert (first, second) == (f"w 1 attempt {attempt}", "w 1 by logging")
        assert sorted(inner) == ["inner 0", "inner 1"]
        assert odd.endswith("is no character")


async def test_what_an_attempt_has_logged_is_kept_although_it_was_not_done_in_time(
    engine: Engine, start: Start
) -> None:
    async def does(word: str) -> str:
        for number in range(2_000):
            current_task().log(f"line {number}")
        if current_task().attempt == 1:
            await asyncio.sleep(60)
        return word

    floor.does = does
    client = await engine.registered(att_timed)
    async with engine.working(app, identity="host-7"):
        run = await client.start(att_timed, {"word": "a"})
        await run.result(10)
    for end in await ends(run):
        assert end["log"].endswith("line 1998\nline 1999")
        assert 4_000 < len(end["log"]) < 10_000
        assert end["worker"] == "host-7"
    program = start(
        "run", "history", run.run_id, "--json", "--server", engine.url, "--namespace", engine.namespace
    )
    assert await asyncio.to_thread(program.ended) == 0
    assert program.said.count("line 1999") == 2


@task(name="issue-attempts-foreign", queue="issue-attempts-foreign")
async def foreign(word: str) -> str:
    raise NotImplementedError


@workflow
async def att_foreign(word: str) -> str:
    return await foreign(word)


async def test_an_attempt_that_is_lost_again_and_again_is_delivered_until_somebody_does_it(
    engine: Engine,
) -> None:
    raw = RawWorker(engine, "issue-attempts-foreign")
    client = await engine.registered(att_foreign)
    run = await client.start(att_foreign, {"word": "a"})
    for _ in range(5):
        message, given = await raw.take()
        assert given["attempt"] == 1
        await message.nak()
    _, given = await raw.take()
    assert refusal(await raw.say(given, output="at last")) == ""
    assert await run.result(10) == "at last"
