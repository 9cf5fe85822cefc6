"""The 24 points that a re-implementation commonly gets wrong: each has an answer in docs/semantics.md, and those whose
answer no other test shows have one here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import RunFailed
from dressage.flow import App, Event, Exponential, UserTask, Workflow, interruptible, sleep, workflow
from dressage.protocol.errors import Refused
from dressage.worker import current_task

Until = Callable[..., Awaitable[None]]

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "semantics.md").read_text()
app = App("issue-points")
said = Event("said", of=str)
end = Event("end")

POINTS: Final[dict[int, list[str]]] = {
    1: [
        "When do variables change, and is a change undone by a failure?",
        "Which way does a run go where several",
    ],
    2: ["Where does a run go on after a handled failure?"],
    3: ["What if a handler fails?", "What does an event do that interrupts?"],
    4: ["Can a run end while a branch goes on?", "What does a parent see of a child run that fails?"],
    5: ["When is a branch's failure noticed, and how many?"],
    6: ["Does an event count that comes before its wait?", "Can an event both interrupt and be waited for?"],
    7: ["Who gets an event that is posted to a correlation key?"],
    8: ["What is retried?", "From when does a task's timeout count"],
    9: ["What if a report comes late, or twice?"],
    10: ["What goes on of a stopped run?"],
    11: ["What if a run is stopped for several reasons?"],
    12: ["What becomes of the others when the first of several has ended?"],
    13: [
        "What if the moment that is slept for changes meanwhile?",
        "When does a wait for a condition notice",
    ],
    14: ["What if a run id is used again?"],
    15: ["What of missing, null and unknown inputs?"],
    16: ["When is a new version a major one?"],
    17: ["Which version of a child is run?", "By which version of its form is a user task filled in?"],
    18: ["Where does a child run live", "What does a child run see of its parent's variables?"],
    19: ["Can a run that has failed be rescued?"],
    20: ["What do a user task's timers do", "Who can complete a user task that somebody has?"],
    21: ["Who sees masked values?"],
    22: ["What stops an endless loop?"],
    23: ["What does a name mean in a loop?"],
    24: ["Does an answer mean that it is done?"],
}


def test_each_of_the_24_points_is_answered_on_the_page() -> None:
    assert sorted(POINTS) == list(range(1, 25))
    missing = {point: text for point, texts in POINTS.items() for text in texts if text not in PAGE}
    assert missing == {}
    questions = re.findall(r"^\| ([^|]+\?) \|", PAGE, re.MULTILINE)
    assert len(questions) == len(set(questions)) >= 24
    # And a test is named after it, to which the page leads.
    named = re.findall(r"#test_point_(\d+)_", PAGE)
    assert {int(point) for point in named} == set(POINTS)


# -- point 1 -----------------------------------------------------------------------------------------------------------
@workflow
async def issue_ways(number: int) -> str:
    way = "none"
    if number > 10:
        way = "first"
    elif number > 5:
        way = "second"
    match number:  # pyright: ignore[reportMatchNotExhaustive]  that none fits is the point
        case 7:
            way = way + " seven"
        case int() if number > 6:
            way = way + " above"
    return way


async def test_point_1_the_first_condition_that_holds_is_taken_and_none_is_no_error(engine: Engine) -> None:
    client = await engine.registered(issue_ways)
    found = [
        await (await client.start(issue_ways, {"number": number})).result(10) for number in (11, 7, 6, 1)
    ]
    assert found == ["first above", "second seven", "second", "none"]


# -- point 6 -----------------------------------------------------------------------------------------------------------
@dataclass
class View:
    taken: str = ""


@workflow
async def issue_in_turn() -> str:
    words = View()

    async def body() -> str:
        return await said.wait()

    async def take(word: str) -> None:
        words.taken = word

    last = await interruptible(body(), said.interrupts(take))
    return f"{words.taken} {last}"


@workflow
async def issue_shared() -> str:
    async def body() -> str:
        await end.wait()
        return "body"

    async def take(word: str) -> None:
        await sleep(timedelta(0))

    first = await interruptible(body(), said.interrupts(take))
    return f"{first} {await said.wait()}"


async def test_point_6_one_event_feeds_an_interrupt_or_a_wait_and_never_both(engine: Engine) -> None:
    client = await engine.registered(issue_shared)
    run = await client.start(issue_shared, {})
    await run.post(said, "interrupts")
    await run.wait_for_event("interrupt-ended", timeout_s=10)
    await run.post(end)
    await run.wait_for_state(lambda state: "said" in state.waiting_for, timeout_s=10)
    assert (await run.state()).status == "running"
    await run.post(said, "is taken")
    assert await run.result(10) == "body is taken"


async def test_point_6_of_an_interrupt_and_a_wait_the_one_that_has_waited_longest_takes_it(
    engine: Engine,
) -> None:
    client = await engine.registered(issue_in_turn)
    run = await client.start(issue_in_turn, {})
    await run.post(said, "one")
    await run.post(said, "two")
    assert await run.result(10) == "one two"


# -- point 8 -----------------------------------------------------------------------------------------------------------
@app.task(
    retries=1,
    start_timeout=timedelta(milliseconds=500),
    timeout=timedelta(milliseconds=900),
    backoff=Exponential(base=timedelta(milliseconds=300), limit=timedelta(milliseconds=300), jitter=0.0),
)
async def slow_second() -> str:
    if current_task().attempt == 1:
        raise OSError("down")
    await asyncio.sleep(0.6)  # beyond the first attempt's time to start, and within its own time
    return "done"


@workflow
async def issue_slow_second() -> str:
    return await slow_second()


async def test_point_8_the_timers_of_one_attempt_do_not_end_another(engine: Engine) -> None:
    await engine.worker(app)
    client = await engine.registered(issue_slow_second)
    run = await client.start(issue_slow_second, {})
    assert await run.result(10) == "done"
    kinds = [event.kind async for event in run.history()]
    assert (kinds.count("task-scheduled"), kinds.count("task-failed")) == (2, 1)


# -- point 14 ----------------------------------------------------------------------------------------------------------
async def test_point_14_a_used_id_is_the_same_run_or_a_conflict(engine: Engine) -> None:
    client = await engine.registered(issue_ways)
    first = await client.start(issue_ways, {"number": 1}, run_id="used")
    again = await client.start(issue_ways, {"number": 1}, run_id="used")
    assert await first.result(10) == await again.result(10) == "none"
    with pytest.raises(Refused) as refused:
        await client.start(issue_ways, {"number": 2}, run_id="used")
    assert refused.value.code == "RUN_ID_CONFLICT"
    kinds = [event.kind async for event in first.history()]
    assert kinds.count("run-started") == 1


# -- point 17 ----------------------------------------------------------------------------------------------------------
@dataclass
class Short:
    ok: bool


@dataclass
class Long:
    ok: bool
    why: str


def with_short_form() -> Workflow[..., Any]:
    ask = UserTask("issue-ask", form=Short)

    @workflow(name="issue-asks")
    async def asks() -> str:
        answer = await ask.assign(user="ann")
        return f"short {answer.ok}"

    return asks


def with_long_form() -> Workflow[..., Any]:
    ask = UserTask("issue-ask", form=Long)

    @workflow(name="issue-asks")
    async def asks() -> str:
        answer = await ask.assign(user="ann")
        return f"long {answer.ok} {answer.why}"

    return asks


async def test_point_17_a_form_is_that_of_the_version_that_the_run_began_with(engine: Engine) -> None:
    client = await engine.registered(with_short_form())
    old = await client.start("issue-asks", {})
    await client.register(with_long_form())
    new = await client.start("issue-asks", {})

    async def complete(run_id: str, values: dict[str, Any]) -> None:
        (view,) = await client.user_tasks(run_id)
        await client.user_task(run_id, view.id).complete("ann", values)

    await complete(old.run_id, {"ok": True})
    with pytest.raises(Refused) as refused:
        await complete(new.run_id, {"ok": True})
    assert refused.value.code == "USER_TASK_INVALID"
    await complete(new.run_id, {"ok": True, "why": "so"})
    assert [await old.result(10), await new.result(10)] == ["short True", "long True so"]


# -- point 22 ----------------------------------------------------------------------------------------------------------
@workflow
async def issue_spins(number: int) -> int:
    while number > 0:
        number += 1
    return number


async def test_point_22_an_endless_loop_ends_by_a_limit_and_others_go_on(engine: Engine) -> None:
    client = await engine.registered(issue_spins, issue_ways)
    spins = await client.start(issue_spins, {"number": 1})
    assert await (await client.start(issue_ways, {"number": 1})).result(10) == "none"
    with pytest.raises(RunFailed) as raised:
        await spins.result(10)
    assert raised.value.failure.kind == "limit"
