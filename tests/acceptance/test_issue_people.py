"""People who work against each other, late, twice, or with nonsense: user tasks as the issue asks for them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.client import Client, RunFailed, RunHandle
from dressage.client.user_tasks import UserTaskHandle
from dressage.flow import (
    Event,
    Masked,
    UserTask,
    UserTaskCancelled,
    Workflow,
    first_completed,
    gather,
    interruptible,
    sleep,
    workflow,
)
from dressage.protocol.errors import BadInput, DressageError, Refused
from dressage.protocol.user_tasks import UserTaskView

Until = Callable[..., Awaitable[None]]

go = Event("issue-people-go", of=str)
came = Event("issue-people-came", of=str)


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class Line:
    item: str
    amount: int = 1


@dataclass
class Report:
    text: str
    number: int
    share: float
    yes: bool
    day: date
    level: Level
    place: Literal["here", "there"]
    line: Line
    lines: list[Line]
    moment: datetime | None = None
    note: str = ""


@dataclass
class Answer:
    yes: bool
    why: str = ""


@dataclass
class Sealed:
    pin: Masked[str]
    place: str = "here"


report = UserTask("issue-people-report", form=Report)
agree = UserTask("issue-people-agree", form=Answer)
seal = UserTask("issue-people-seal", form=Sealed)


@workflow
async def people_report() -> Report:
    return await report.assign(user="ann")


@workflow
async def people_asked(
    user: str | None = None,
    group: str | None = None,
    notes: str | None = None,
    due: float | None = None,
    remind: float | None = None,
    escalate_after: float | None = None,
    escalate_to: str | None = None,
    timeout: float | None = None,
    then: bool = False,
) -> str:
    try:
        answer = await agree.assign(
            user=user,
            group=group,
            notes=notes,
            due=due,
            remind=remind,
            escalate_after=escalate_after,
            escalate_to=escalate_to,
            timeout=timeout,
        )
        said = f"{answer.yes} {answer.why}"
    except UserTaskCancelled as error:
        said = f"cancelled: {error}"
    except TimeoutError:
        said = "too late"
    except ValueError as error:
        said = f"refused: {error}"
    if then:
        await go.wait()
    return said


@workflow
async def people_due(moment: datetime) -> str:
    answer = await agree.assign(user="ann", due=moment)
    return answer.why


@workflow
async def people_rounds(rounds: int) -> list[str]:
    said: list[str] = []
    for number in range(rounds):
        answer = await agree.assign(group="board", notes=f"round {number}")
        said = [*said, answer.why]
    return said


@workflow
async def people_board(users: list[str]) -> list[str]:
    votes = await gather(*(agree.assign(user=each) for each in users))
    return [vote.why for vote in votes]


@workflow
async def people_race() -> str:
    async def first() -> str:
        return (await agree.assign(user="ann")).why

    async def second() -> str:
        return (await agree.assign(user="bob")).why

    _, why = await first_completed(first(), second())
    await go.wait()
    return why


@workflow
async def people_posted() -> str:
    word = await go.wait()
    answer = await agree.assign(user="ann")
    return f"{word} {answer.why}"


@workflow
async def people_interrupted(due: float | None = None, timeout: float | None = None) -> str:
    async def body() -> str:
        try:
            answer = await agree.assign(user="ann", group="board", notes="body", due=due, timeout=timeout)
        except TimeoutError:
            return "too late"
        return f"{answer.yes} {answer.why}"

    async def handle(word: str) -> None:
        await agree.assign(user="eve", notes=word)

    return await interruptible(body(), came.interrupts(handle))


@workflow
async def people_parent() -> str:
    return await people_asked(user="ann", group="board")


@workflow
async def people_tidied() -> str:
    try:
        return await go.wait()
    finally:
        await agree.assign(user="eve", notes="clean up")


@workflow
async def people_sealed() -> str:
    filled = await seal.assign(group="board")
    return filled.place


@workflow
async def people_marker(seconds: float) -> None:
    await sleep(seconds)


async def begin(
    engine: Engine, definition: Workflow[..., Any], **given: Any
) -> tuple[Client, RunHandle[Any]]:
    client = await engine.registered(definition)
    return client, await client.start(definition, given)


async def asked(engine: Engine, **given: Any) -> tuple[RunHandle[Any], UserTaskHandle]:
    """A run that has asked people, and what it has asked them."""
    client, run = await begin(engine, people_asked, **given)
    (view,) = await client.user_tasks(run.run_id)
    return run, client.user_task(run.run_id, view.id)


async def pass_time(engine: Engine, seconds: float) -> None:
    """By the clock that timers of runs have."""
    _, run = await begin(engine, people_marker, seconds=seconds)
    await run.result(15)


async def code_of(action: Awaitable[Any]) -> str:
    """What it was refused with; empty if it was done."""
    try:
        await action
    except DressageError as error:
        return error.code
    return ""


async def in_order(actions: Sequence[Awaitable[str]], first: bool) -> list[str]:
    """Does both at once, the first one of them first, or the other."""
    turned = actions if first else actions[::-1]
    found = await asyncio.gather(*turned)
    return found if first else found[::-1]


@dataclass
class Told:
    kind: str
    data: dict[str, Any]
    time: datetime
    actor: str


async def told(run: RunHandle[Any]) -> list[Told]:
    """What the run's history tells of user tasks."""
    return [
        Told(
            event.kind.removeprefix("user-task-"),
            json.loads(bytes(event.data)),
            moment(event.time),
            event.actor,
        )
        async for event in run.history()
        if event.kind.startswith("user-task-")
    ]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def kinds(run: RunHandle[Any]) -> list[str]:
    return [each.kind for each in await told(run)]


async def one(run: RunHandle[Any], kind: str) -> Told:
    (found,) = [each for each in await told(run) if each.kind == kind]
    return found


async def until_told(run: RunHandle[Any], kind: str, until: Until, count: int = 1) -> None:
    async def is_told() -> bool:
        return (await kinds(run)).count(kind) >= count

    await until(is_told, f"{kind} is told of")


async def tasks_of(client: Client, run_id: str, count: int, until: Until) -> list[UserTaskView]:
    """Those that are open, once there are so many."""
    found: list[UserTaskView] = []

    async def are_open() -> bool:
        found[:] = await client.user_tasks(run_id)
        return len(found) == count

    await until(are_open, f"{count} user tasks are open")
    return found


FULL = Report(
    text='a "text" with \u0000, \u2028 and \U0001f600, </script>',
    number=-(2**53) - 1,
    share=1e-300,
    yes=False,
    day=date(2024, 2, 29),
    level=Level.HIGH,
    place="there",
    line=Line("", 0),
    lines=[Line("a"), Line("b", 2)],
    moment=datetime(2027, 3, 28, 2, 30, tzinfo=UTC),
    note="",
)
FILLED: dict[str, Any] = {
    "text": "",
    "number": 0,
    "share": 1,
    "yes": True,
    "day": "2024-02-29",
    "level": "low",
    "place": "here",
    "line": {"item": "a"},
    "lines": [],
}
WRONG: dict[str, dict[str, Any]] = {
    "a number for a text": {"text": 5},
    "a text for a number": {"number": "5"},
    "a fraction for a number": {"number": 0.5},
    "a boolean for a number": {"number": True},
    "a number for a boolean": {"yes": 1},
    "a text for a boolean": {"yes": "true"},
    "a text for a fraction": {"share": "0.5"},
    "a day that is not in the calendar": {"day": "2023-02-29"},
    "an empty day": {"day": ""},
    "a moment for a day": {"day": "2024-02-29T10:00:00Z"},
    "a choice by its name": {"level": "LOW"},
    "a choice that is none": {"place": "nowhere"},
    "a text for a struct": {"line": "a"},
    "a struct without what it needs": {"line": {"amount": 1}},
    "a list with one wrong element": {"lines": [{"item": "a"}, {"item": 7}]},
    "an object for a list": {"lines": {"item": "a"}},
    "a wrong optional one": {"moment": "tomorrow"},
    "a field that the form does not have": {"txet": "a"},
    "nothing where something is needed": {"text": None},
}


# -- the form ------------------------------------------------------------------------------------------------------
async def test_a_form_with_every_kind_of_field_comes_back_as_it_was_filled_in(shared: Engine) -> None:
    client, run = await begin(shared, people_report)
    (view,) = await client.user_tasks(run.run_id)
    await client.user_task(run.run_id, view.id).complete("ann", FULL)
    assert await run.result(10) == FULL


async def test_each_wrong_field_is_refused_by_its_name_and_nothing_is_kept_of_it(shared: Engine) -> None:
    client, run = await begin(shared, people_report)
    (view,) = await client.user_tasks(run.run_id)
    task = client.user_task(run.run_id, view.id)
    await task.save("ann", {"text": "a draft"})
    before = await task.view()
    for what, wrong in WRONG.items():
        for action in (task.complete("ann", FILLED | wrong), task.save("ann", wrong)):
            with pytest.raises(Refused, match=re.escape(next(iter(wrong)))) as caught:
                await action
            assert caught.value.code == "USER_TASK_INVALID", what
    for name in FILLED:
        missing = {key: value for key, value in FILLED.items() if key != name}
        with pytest.raises(Refused, match=name) as refused_:
            await task.complete("ann", missing)
        assert refused_.value.code == "USER_TASK_INVALID"
    no_forms: list[Any] = [None, [], "text", 5, True]
    for no_form in no_forms:
        assert await code_of(task.complete("ann", no_form)) in {"USER_TASK_INVALID", "COMMAND_MALFORMED"}
        assert await code_of(task.save("ann", no_form)) in {"USER_TASK_INVALID", "COMMAND_MALFORMED"}
    assert await task.view() == before
    assert await kinds(run) == ["opened", "saved"]
    await task.complete("ann", FILLED)
    result = await run.result(10)
    assert (result.level, result.share, result.line) == (Level.LOW, 1.0, Line("a"))


NONSENSE: dict[str, bytes] = {
    "a lone surrogate": rb'{"do": "complete", "user": "ann", "values": {"yes": true, "why": "\ud800"}}',
    "a lone surrogate in a name": rb'{"do": "claim", "user": "\udfff"}',
    "no utf-8": b'{"do": "comment", "user": "ann", "text": "\xff\xfe"}',
    "no number": b'{"do": "complete", "user": "ann", "values": {"yes": NaN}}',
    "a deed that is none": b'{"do": "fly", "user": "ann"}',
    "no deed": b'{"user": "ann"}',
    "nobody": b'{"do": "claim"}',
    "an empty name": b'{"do": "claim", "user": ""}',
    "no name": b'{"do": "complete", "user": null, "values": {"yes": true}}',
    "a truth as a text": b'{"do": "claim", "user": "bob", "override": "yes"}',
    "a field too many": b'{"do": "claim", "user": "ann", "force": true}',
    "a form as a text": b'{"do": "complete", "user": "ann", "values": "{\\"yes\\": true}"}',
    "a name that is too long": b'{"do": "claim", "user": "' + 513 * b"a" + b'"}',
    "depth": b'{"do": "complete", "user": "ann", "values": ' + 3000 * b"[" + 3000 * b"]" + b"}",
}


async def test_nonsense_is_refused_with_a_code_and_harms_nothing(shared: Engine) -> None:
    run, task = await asked(shared, user="ann")
    other, others = await asked(shared, user="bob")
    accepted: list[str] = []
    for what, action in NONSENSE.items():
        request = json.dumps({"run_id": run.run_id, "user_task_id": task.user_task_id}).encode()
        answer = await shared.call("act", request[:-1] + b', "action": ' + action + b"}")
        if answer.get("ok"):
            accepted.append(what)
        else:
            assert answer["code"], what
            assert answer["message"], what
    assert accepted == []
    assert await kinds(run) == ["opened"]
    await task.complete("ann", Answer(True, "fine"))
    await others.complete("bob", Answer(False, "too"))
    assert [await run.result(10), await other.result(10)] == ["True fine", "False too"]


async def test_a_run_keeps_the_form_that_it_began_with(engine: Engine) -> None:
    def version(form: type[Any]) -> Workflow[..., Any]:
        vote = UserTask("issue-people-vote", form=form)

        @workflow(name="people-voting")
        async def voting() -> bool:
            return bool((await vote.assign(user="ann")).yes)

        return voting

    @dataclass
    class Longer:
        yes: bool
        words: str

    client = await engine.registered(version(Answer))
    old = await client.start("people-voting")
    await client.register(version(Longer))
    new = await client.start("people-voting")
    (view,) = await client.user_tasks(old.run_id)
    assert "words" not in json.dumps(view.form)
    await client.user_task(old.run_id, view.id).complete("ann", {"yes": True})
    (view,) = await client.user_tasks(new.run_id)
    assert "words" in json.dumps(view.form)
    task = client.user_task(new.run_id, view.id)
    assert await code_of(task.complete("ann", {"yes": True})) == "USER_TASK_INVALID"
    await task.complete("ann", {"yes": False, "words": "no"})
    assert [await old.result(10), await new.result(10)] == [True, False]


# -- for whom ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"user": "", "group": ""},
        {"user": 513 * "a"},
        {"group": 513 * "a"},
        {"user": "ann", "notes": 8193 * "a"},
        {"user": "ann", "escalate_after": 1.0},
        {"user": "ann", "group": "board", "escalate_to": "bosses"},
    ],
    ids=["nobody", "empty", "user", "group", "notes", "escalates to nobody", "escalates never"],
)
async def test_what_is_for_nobody_is_a_failure_that_the_workflow_can_take(
    shared: Engine, given: dict[str, Any]
) -> None:
    _, run = await begin(shared, people_asked, **given)
    assert (await run.result(10)).startswith("refused: ")


async def test_any_duration_is_one_or_is_refused_and_never_breaks_the_run(shared: Engine) -> None:
    odd = [0.0, -1.0, 1e-9, 1e12, 1e300, -1e300]
    options = ["due", "remind", "escalate_after", "timeout"]
    client = await shared.registered(people_asked)

    async def ends(option: str, seconds: float) -> str:
        run = await client.start(people_asked, {"user": "ann", "group": "board", option: seconds})
        for view in await client.user_tasks(run.run_id):
            await code_of(client.user_task(run.run_id, view.id).complete("bob", Answer(True), override=True))
        try:
            return str(await run.result(10))
        except RunFailed as failed:
            return failed.failure.name

    cases = [(option, seconds) for option in options for seconds in odd]
    results = await asyncio.gather(*(ends(*case) for case in cases))
    for (option, seconds), result in zip(cases, results, strict=True):
        if seconds > 1e10:
            assert result == "sleep-length", (option, seconds)
        elif option == "timeout":
            assert result in {"True ", "too late"}, seconds
        else:
            assert result == "True ", (option, seconds)


# -- claim, reassign, release --------------------------------------------------------------------------------------
async def test_of_many_who_claim_at_once_one_has_it_and_the_others_are_told_who(sharded: Engine) -> None:
    run, task = await asked(sharded, group="board")
    users = [f"user-{n}" for n in range(12)]
    outcomes = await asyncio.gather(*(task.claim(user) for user in users), return_exceptions=True)
    winners = [user for user, outcome in zip(users, outcomes, strict=True) if isinstance(outcome, int)]
    assert len(winners) == 1
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == 11
    assert {each.code for each in refused} == {"USER_TASK_TAKEN"}
    assert all(winners[0] in each.message for each in refused)
    view = await task.view()
    assert (view.state, view.user, view.group) == ("assigned", winners[0], "board")
    assert await kinds(run) == ["opened", "assigned"]


async def test_who_has_it_may_claim_it_again_and_nothing_changes(shared: Engine) -> None:
    run, task = await asked(shared, group="board")
    await task.claim("ann")
    before = await task.view()
    await task.claim("ann")
    await task.assign(user="ann", group="board", override=True)
    assert await task.view() == before
    assert await kinds(run) == ["opened", "assigned"]


async def test_to_assign_replaces_user_and_group_and_what_somebody_has_is_theirs(shared: Engine) -> None:
    run, task = await asked(shared, user="ann", group="board")
    assert await code_of(task.assign(user="bob")) == "USER_TASK_TAKEN"
    assert await code_of(task.assign(group="others")) == "USER_TASK_TAKEN"
    await task.assign(user="bob", override=True)
    view = await task.view()
    assert (view.user, view.group) == ("bob", "")
    assert await code_of(task.release("bob")) == "USER_TASK_INVALID"
    assert await code_of(task.assign(override=True)) == "USER_TASK_INVALID"
    await task.assign(group="others", override=True)
    view = await task.view()
    assert (view.state, view.user, view.group) == ("unassigned", "", "others")
    await task.assign(user="cy", group="third")
    view = await task.view()
    assert (view.state, view.user, view.group, view.epoch) == ("assigned", "cy", "third", 3)
    assert await kinds(run) == ["opened", "assigned", "assigned", "assigned"]


async def test_to_release_gives_it_to_the_group_with_its_draft_and_only_who_has_it_can(
    shared: Engine,
) -> None:
    run, task = await asked(shared, user="ann", group="board")
    await task.save("ann", {"why": "half done"})
    assert await code_of(task.release("bob")) == "USER_TASK_TAKEN"
    await task.release("ann")
    released = await task.view()
    assert (released.state, released.group, released.values) == ("unassigned", "board", {"why": "half done"})
    await code_of(task.release("ann"))
    assert await task.view() == released
    await task.claim("bob")
    await task.complete("bob", Answer(True, "whole"))
    assert await run.result(10) == "True whole"


async def test_a_reassignment_that_crosses_a_completion_is_one_of_both(sharded: Engine) -> None:
    async def crossed() -> None:
        run, task = await asked(sharded, user="ann", group="board")
        assigned, completed = await asyncio.gather(
            code_of(task.assign(user="bob", override=True)),
            code_of(task.complete("ann", Answer(True, "ann"))),
        )
        if completed:
            assert (assigned, completed) == ("", "USER_TASK_TAKEN")
            assert (await task.view()).user == "bob"
            await task.complete("bob", Answer(False, "bob"))
            assert await run.result(10) == "False bob"
        else:
            assert assigned in {"USER_TASK_UNKNOWN", "RUN_FINISHED"}
            assert await run.result(10) == "True ann"
        assert (await kinds(run)).count("completed") == 1

    await asyncio.gather(*(crossed() for _ in range(8)))


async def test_what_one_saves_and_says_while_another_takes_it_is_kept_or_refused(shared: Engine) -> None:
    async def crossed() -> None:
        run, task = await asked(shared, user="ann", group="board")
        await task.save("ann", {"why": "first"})
        _, saved, said = await asyncio.gather(
            task.claim("bob", override=True),
            code_of(task.save("ann", {"why": "second"})),
            code_of(task.comment("ann", "mine")),
        )
        view = await task.view()
        assert (view.user, said, len(view.comments)) == ("bob", "", 1)
        assert saved in {"", "USER_TASK_TAKEN"}
        assert view.values == {"why": "first" if saved else "second"}
        assert (await kinds(run)).count("saved") == (1 if saved else 2)

    await asyncio.gather(*(crossed() for _ in range(5)))


@pytest.mark.parametrize(
    "name", ["a.b.*.>", "=schedule_x", "\u0000\n\t ", "\U0001f600" * 512, "NULL", "'; --"]
)
async def test_any_text_is_the_name_of_somebody(shared: Engine, name: str) -> None:
    run, task = await asked(shared, group=name)
    await task.claim(name)
    await task.comment(name, name)
    view = await task.view()
    assert (view.user, view.group, view.comments[0].user) == (name, name, name)
    await task.complete(name, Answer(True, name))
    assert await run.result(10) == f"True {name}"
    assert (await one(run, "completed")).data["user"] == name


# -- done is final -------------------------------------------------------------------------------------------------
async def test_of_many_who_complete_it_at_once_one_has_done_it(sharded: Engine) -> None:
    run, task = await asked(sharded, group="board")
    users = [f"user-{n}" for n in range(8)]
    outcomes = await asyncio.gather(*(code_of(task.complete(user, Answer(True, user))) for user in users))
    winners = [user for user, code in zip(users, outcomes, strict=True) if not code]
    assert len(winners) == 1
    assert set(outcomes) <= {"", "USER_TASK_UNKNOWN", "RUN_FINISHED"}
    assert await run.result(10) == f"True {winners[0]}"
    assert (await one(run, "completed")).data["user"] == winners[0]


@pytest.mark.parametrize("then", [True, False], ids=["the run goes on", "the run is over"])
async def test_nothing_changes_what_is_done(shared: Engine, then: bool) -> None:
    run, task = await asked(shared, user="ann", group="board", then=then)
    await task.comment("ann", "one")
    await task.complete("ann", Answer(True, "done"))
    before = await kinds(run)
    late = [
        task.claim("bob", override=True),
        task.assign(user="bob", override=True),
        task.release("ann"),
        task.comment("ann", "two"),
        task.edit_comment("ann", 1, "three"),
        task.delete_comment("ann", 1),
        task.save("ann", {"why": "no"}),
        task.complete("ann", Answer(False, "no")),
        task.complete("ann", Answer(True, "done")),
        task.cancel("ann", "no"),
    ]
    for action in late:
        assert await code_of(action) == ("USER_TASK_UNKNOWN" if then else "RUN_FINISHED")
    assert await code_of(task.view()) == "USER_TASK_UNKNOWN"
    assert await kinds(run) == before
    if then:
        await run.post(go, "x")
    assert await run.result(10) == "True done"


async def test_a_cancellation_that_crosses_a_completion_is_one_of_both(sharded: Engine) -> None:
    async def crossed(first: bool) -> None:
        run, task = await asked(sharded, user="ann")
        both = [code_of(task.complete("ann", Answer(True))), code_of(task.cancel("eve", "no need"))]
        completed, cancelled = await in_order(both, first)
        assert sorted([completed, cancelled])[0] == ""
        assert {completed, cancelled} & {"USER_TASK_UNKNOWN", "RUN_FINISHED"}
        assert await run.result(10) == ("cancelled: no need" if completed else "True ")

    await asyncio.gather(*(crossed(n % 2 == 0) for n in range(8)))


async def test_a_completion_that_crosses_the_timeout_counts_if_it_was_accepted(shared: Engine) -> None:
    async def crossed(delay: float) -> str:
        run, task = await asked(shared, user="ann", timeout=0.4)
        await asyncio.sleep(delay)
        completed = await code_of(task.complete("ann", Answer(True)))
        result = str(await run.result(10))
        assert result == ("too late" if completed else "True ")
        ends = [each for each in await kinds(run) if each in {"completed", "cancelled"}]
        assert ends == ["cancelled" if completed else "completed"]
        return result

    await asyncio.gather(*(crossed(0.25 + 0.02 * n) for n in range(14)))


async def test_the_same_click_twice_is_one_also_when_all_is_over(shared: Engine) -> None:
    run, task = await asked(shared, user="ann", then=True)
    await asyncio.gather(*(task.comment("ann", "once", action_id="c") for _ in range(5)))
    await asyncio.gather(*(task.complete("ann", Answer(True, "x"), action_id="click") for _ in range(5)))
    await task.complete("ann", Answer(True, "x"), action_id="click")
    await run.post(go, "x")
    assert await run.result(10) == "True x"
    await task.complete("ann", Answer(True, "x"), action_id="click")
    assert await kinds(run) == ["opened", "commented", "completed"]


async def test_a_click_of_one_round_is_none_of_the_next(shared: Engine) -> None:
    client, run = await begin(shared, people_rounds, rounds=2)
    (first,) = await client.user_tasks(run.run_id)
    old = client.user_task(run.run_id, first.id)
    await old.complete("ann", Answer(True, "one"), action_id="submit")
    (second,) = await client.user_tasks(run.run_id)
    assert second.id != first.id
    assert (second.notes, second.user, second.values) == ("round 1", "", {})
    assert await code_of(old.complete("bob", Answer(True, "late"))) == "USER_TASK_UNKNOWN"
    await old.complete("ann", Answer(True, "one"), action_id="submit")
    assert [view.id for view in await client.user_tasks(run.run_id)] == [second.id]
    await client.user_task(run.run_id, second.id).complete("bob", Answer(True, "two"), action_id="submit")
    assert await run.result(5) == ["one", "two"]


async def test_the_same_action_id_in_two_user_tasks_is_two_actions(shared: Engine) -> None:
    client, run = await begin(shared, people_board, users=["ann", "bob"])
    views = {view.user: view for view in await client.user_tasks(run.run_id)}
    for user in ("bob", "ann"):
        task = client.user_task(run.run_id, views[user].id)
        await task.complete(user, Answer(True, user), action_id="submit")
    assert await run.result(5) == ["ann", "bob"]


async def test_an_action_with_the_id_of_an_event_is_no_repeat_of_it(shared: Engine) -> None:
    client, run = await begin(shared, people_posted)
    await run.post(go, "word", event_id="7")
    (view,) = await client.user_tasks(run.run_id)
    await client.user_task(run.run_id, view.id).complete("ann", Answer(True, "x"), action_id="7")
    assert await run.result(5) == "word x"


async def test_an_empty_action_id_does_not_make_two_actions_one(shared: Engine) -> None:
    run, task = await asked(shared, user="ann")
    first = await code_of(task.comment("ann", "a", action_id=""))
    second = await code_of(task.complete("ann", Answer(True), action_id=""))
    if not first:
        assert second == ""
        assert await run.result(5) == "True "
        assert await kinds(run) == ["opened", "commented", "completed"]


# -- timers --------------------------------------------------------------------------------------------------------
async def test_what_is_done_in_time_is_told_of_no_more(shared: Engine) -> None:
    timers = {"due": 0.4, "remind": 1.0, "escalate_after": 0.5, "escalate_to": "bosses", "timeout": 0.6}
    done, task = await asked(shared, user="ann", then=True, **timers)
    dropped, other = await asked(shared, user="ann", then=True, **timers)
    await task.complete("ann", Answer(True))
    await other.cancel("eve")
    await pass_time(shared, 1.3)
    assert await kinds(done) == ["opened", "completed"]
    assert await kinds(dropped) == ["opened", "cancelled"]
    for run in (done, dropped):
        await run.post(go, "x")
    assert await done.result(10) == "True "
    assert (await dropped.result(10)).startswith("cancelled")


async def test_a_reminder_counts_from_when_it_went_to_others(shared: Engine, until: Until) -> None:
    run, task = await asked(shared, user="ann", group="board", remind=1.0)
    await pass_time(shared, 0.5)
    await task.assign(user="bob", override=True)
    await until_told(run, "reminded", until)
    reminded, assigned = await one(run, "reminded"), await one(run, "assigned")
    assert reminded.data["user"] == "bob"
    assert reminded.time - assigned.time >= timedelta(seconds=0.99)
    assert (await task.view()).reminders == 1
    await task.complete("bob", Answer(True))


async def test_an_escalation_is_of_one_assignment_and_happens_once(shared: Engine, until: Until) -> None:
    run, task = await asked(shared, user="ann", escalate_after=0.5, escalate_to="bosses")
    await pass_time(shared, 0.3)
    await task.assign(user="bob", override=True)
    await until_told(run, "assigned", until, 2)
    by_hand, escalated = [each for each in await told(run) if each.kind == "assigned"]
    assert (by_hand.data["how"], escalated.data["how"]) == ("assigned", "escalated")
    assert escalated.time - by_hand.time >= timedelta(seconds=0.49)
    view = await task.view()
    assert (view.state, view.user, view.group) == ("unassigned", "", "bosses")
    await task.claim("cy")
    assert await code_of(task.complete("bob", Answer(True))) == "USER_TASK_TAKEN"
    await pass_time(shared, 0.8)
    assert (await task.view()).user == "cy"
    await task.complete("cy", Answer(True, "at last"))
    assert await run.result(10) == "True at last"


async def test_a_due_date_stays_when_it_goes_to_others_and_is_told_once(shared: Engine, until: Until) -> None:
    run, task = await asked(shared, user="ann", group="board", due=0.8)
    due = (await task.view()).due_at
    await task.release("ann")
    await task.claim("bob")
    await until_told(run, "overdue", until)
    await task.assign(user="cy", override=True)
    await pass_time(shared, 0.5)
    view = await task.view()
    assert (view.due_at, view.overdue, view.user) == (due, True, "cy")
    assert (await one(run, "overdue")).data["user"] == "bob"
    await task.complete("cy", Answer(True, "late"))
    assert await run.result(10) == "True late"


@pytest.mark.parametrize(
    "due",
    [
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-12:00",
    ],
)
async def test_a_due_date_of_any_year_is_one_or_is_refused(shared: Engine, due: str) -> None:
    client = await shared.registered(people_due)
    code = await code_of(client.start(people_due, {"moment": due}, run_id=f"due-{due}"))
    if code:
        assert code == "INPUT_INVALID"
        return
    run = client.handle(f"due-{due}")
    views = await client.user_tasks(run.run_id)
    if views:
        assert views[0].overdue == (due < "2000")
        await client.user_task(run.run_id, views[0].id).complete("ann", Answer(True, "fine"))
        assert await run.result(10) == "fine"
        return
    with pytest.raises(DressageError, match=r"value-error|ValueError|Overflow"):
        await run.result(10)


# -- comments, drafts, the audit trail -----------------------------------------------------------------------------
async def test_comments_are_numbered_and_each_is_its_authors(shared: Engine) -> None:
    run, task = await asked(shared, group="board")
    users = [f"user-{n}" for n in range(10)]
    await asyncio.gather(*(task.comment(user, f"by {user}") for user in users))
    comments = (await task.view()).comments
    assert [each.number for each in comments] == list(range(1, 11))
    assert sorted(each.text for each in comments) == [f"by user-{n}" for n in range(10)]
    author = comments[2].user
    for number in (0, -1, 11, 2**63):
        assert await code_of(task.edit_comment(author, number, "x")) in {
            "USER_TASK_INVALID",
            "COMMAND_MALFORMED",
        }
    assert await code_of(task.edit_comment("eve", 3, "x")) == "USER_TASK_INVALID"
    assert await code_of(task.delete_comment("eve", 3)) == "USER_TASK_INVALID"
    await task.edit_comment(author, 3, "better")
    await task.delete_comment(author, 3)
    assert await code_of(task.edit_comment(author, 3, "again")) == "USER_TASK_INVALID"
    await task.comment("eve", "the last")
    comments = (await task.view()).comments
    assert [each.number for each in comments if each.text][-1] == 11
    assert [each.text for each in comments if each.number == 3] in ([], [""])
    hows = [each.data.get("how") for each in await told(run) if each.kind == "commented"]
    assert hows == [*(10 * ["added"]), "edited", "deleted", "added"]


async def test_a_draft_is_checked_field_by_field_and_completes_it_if_it_is_whole(shared: Engine) -> None:
    run, task = await asked(shared, user="ann", group="board")
    assert await code_of(task.complete("ann")) == "USER_TASK_INVALID"
    await task.save("ann", {"why": "not yet"})
    with pytest.raises(Refused, match="yes") as refused:
        await task.complete("ann")
    assert refused.value.code == "USER_TASK_INVALID"
    assert await code_of(task.save("bob", {"yes": True})) == "USER_TASK_TAKEN"
    await task.save("ann", {"yes": True})
    assert (await task.view()).values == {"yes": True}
    await task.save("ann", {})
    assert (await task.view()).values == {}
    await task.save("ann", Answer(False, "in the end"))
    await task.assign(user="bob", override=True)
    await task.complete("bob")
    assert await run.result(10) == "False in the end"


async def test_the_audit_trail_says_who_did_what_through_which_application(
    shared: Engine, until: Until
) -> None:
    run, own = await asked(shared, group="board", notes="look", escalate_after=1.0, escalate_to="bosses")
    portal = await shared.client("portal")
    task = portal.user_task(run.run_id, own.user_task_id)
    await task.claim("ann")
    await task.save("ann", {"why": "a"})
    await task.comment("bob", "hm")
    await task.release("ann")
    await task.assign(user="cy", actor="admin")
    await until_told(run, "assigned", until, 4)
    await task.complete("dan", Answer(True, "b"))
    trail = await told(run)
    assert [(each.kind, each.data.get("how", ""), each.data.get("user", "")) for each in trail] == [
        ("opened", "", ""),
        ("assigned", "claimed", "ann"),
        ("saved", "", "ann"),
        ("commented", "added", "bob"),
        ("assigned", "released", ""),
        ("assigned", "assigned", "cy"),
        ("assigned", "escalated", ""),
        ("completed", "", "dan"),
    ]
    assert [each.actor for each in trail[1:]] == [*(4 * ["portal"]), "admin", "timer", "portal"]
    assert [each.data["epoch"] for each in trail if each.kind == "assigned"] == [1, 2, 3, 4]
    assert sorted(each.time for each in trail) == [each.time for each in trail]
    assert trail[-1].data["values"] == {"yes": True, "why": "b"}


async def test_a_secret_field_is_given_on_and_told_to_nobody(shared: Engine) -> None:
    client, run = await begin(shared, people_sealed)
    (view,) = await client.user_tasks(run.run_id)
    task = client.user_task(run.run_id, view.id)
    await task.save("ann", {"pin": "s3cr3t", "place": "there"})
    await task.save("ann", {"place": "nowhere"})
    assert (await task.view()).values == {"place": "nowhere"}
    with pytest.raises(Refused) as refused:
        await task.complete("ann", {"pin": {"s3cr3t": 1}})
    assert "s3cr3t" not in refused.value.message
    await task.complete("ann")
    assert await run.result(10) == "nowhere"
    assert "s3cr3t" not in json.dumps([each.data for each in await told(run)])


# -- several, races, cancelled runs --------------------------------------------------------------------------------
async def test_who_loses_the_race_has_nothing_to_do_any_more(shared: Engine) -> None:
    client, run = await begin(shared, people_race)
    views = {view.user: view for view in await client.user_tasks(run.run_id)}
    ann, bob = (client.user_task(run.run_id, views[user].id) for user in ("ann", "bob"))
    codes = await asyncio.gather(
        code_of(ann.complete("ann", Answer(True, "ann"))), code_of(bob.complete("bob", Answer(True, "bob")))
    )
    assert sorted(codes) == ["", "USER_TASK_UNKNOWN"]
    assert await client.user_tasks(run.run_id) == []
    assert (await one(run, "cancelled")).data["how"] == "withdrawn"
    await run.post(go, "x")
    assert await run.result(10) == ("ann" if not codes[0] else "bob")


async def test_a_cancelled_run_withdraws_what_is_open_and_may_ask_people_to_clean_up(
    shared: Engine, until: Until
) -> None:
    run, task = await asked(shared, user="ann")
    await run.cancel("over")
    assert await code_of(task.complete("ann", Answer(True))) == "RUN_FINISHED"
    assert (await one(run, "cancelled")).data["how"] == "withdrawn"
    client, tidied = await begin(shared, people_tidied)
    await tidied.cancel("over")
    (view,) = await tasks_of(client, tidied.run_id, 1, until)
    assert (view.user, view.notes) == ("eve", "clean up")
    await client.user_task(tidied.run_id, view.id).complete("eve", Answer(True))
    assert (await client.wait(tidied.run_id, timeout_s=10)).status == "cancelled"


# -- stopped, interrupted, restarted -------------------------------------------------------------------------------
async def test_a_stopped_run_keeps_its_user_task_and_people_go_on(sharded: Engine, until: Until) -> None:
    run, task = await asked(sharded, user="ann", group="board", due=0.2, escalate_after=0.4)
    await task.save("ann", {"why": "a draft"})
    await run.stop("look at it")
    await until_told(run, "overdue", until)
    await until_told(run, "assigned", until)
    view = await task.view()
    assert (view.state, view.overdue, view.values) == ("unassigned", True, {"why": "a draft"})
    await task.claim("bob")
    await task.comment("bob", "I have it")
    await task.complete("bob", Answer(True, "meanwhile"))
    assert (await run.state()).status == "running"
    assert await code_of(task.complete("bob", Answer(False))) == "USER_TASK_UNKNOWN"
    assert await code_of(task.cancel("eve")) == "USER_TASK_UNKNOWN"
    await run.resume()
    assert await run.result(10) == "True meanwhile"


async def test_what_is_done_while_it_is_stopped_counts_although_its_time_is_over_later(
    shared: Engine,
) -> None:
    done, task = await asked(shared, user="ann", timeout=0.5)
    late, other = await asked(shared, user="ann", timeout=0.5)
    for run in (done, late):
        await run.stop()
    await task.complete("ann", Answer(True, "in time"))
    await pass_time(shared, 0.8)
    assert await code_of(other.complete("ann", Answer(True))) == "USER_TASK_UNKNOWN"
    for run in (done, late):
        await run.resume()
    assert [await done.result(10), await late.result(10)] == ["True in time", "too late"]


async def test_an_interrupted_run_keeps_its_user_task_as_it_was(sharded: Engine, until: Until) -> None:
    client, run = await begin(sharded, people_interrupted, due=0.2)
    (view,) = await client.user_tasks(run.run_id)
    body = client.user_task(run.run_id, view.id)
    await body.save("ann", {"why": "a draft"})
    before = await body.view()
    await run.post(came, "first")
    await run.post(came, "second")
    first = next(each for each in await tasks_of(client, run.run_id, 2, until) if each.user == "eve")
    kept = await body.view()
    assert (kept.epoch, kept.values, kept.user) == (before.epoch, before.values, before.user)
    await until_told(run, "overdue", until)
    await client.user_task(run.run_id, first.id).complete("eve", Answer(True))
    second = next(each for each in await tasks_of(client, run.run_id, 2, until) if each.user == "eve")
    assert (first.notes, second.notes) == ("first", "second")
    await body.complete("ann", Answer(True, "while it is interrupted"))
    assert (await run.state()).status == "running"
    await client.user_task(run.run_id, second.id).complete("eve", Answer(True))
    assert await run.result(10) == "True while it is interrupted"
    assert (await kinds(run)).count("opened") == 3
    assert "cancelled" not in await kinds(run)


async def test_its_time_is_over_while_it_is_interrupted_and_the_body_hears_of_it_later(
    shared: Engine, until: Until
) -> None:
    client, run = await begin(shared, people_interrupted, timeout=0.4)
    await run.post(came, "handler")
    await until_told(run, "cancelled", until)
    (handler,) = await client.user_tasks(run.run_id)
    assert handler.notes == "handler"
    assert (await one(run, "cancelled")).data["how"] == "timed-out"
    assert (await run.state()).status == "running"
    await client.user_task(run.run_id, handler.id).complete("eve", Answer(True))
    assert await run.result(10) == "too late"


async def test_a_user_task_of_a_child_run_is_kept_when_its_parent_is_stopped(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(people_asked, people_parent)
    run = await client.start(people_parent)
    child = await child_of(run)
    (view,) = await tasks_of(client, child, 1, until)
    task = client.user_task(child, view.id)
    await run.stop("wait")

    async def is_stopped() -> bool:
        return len((await client.get(child)).stops) == 1

    await until(is_stopped, "the child run is stopped")
    await task.claim("ann")
    await task.complete("ann", Answer(True, "below"))
    assert (await client.get(child)).status == "running"
    await run.resume()
    assert await run.result(10) == "True below"


async def child_of(run: RunHandle[Any]) -> str:
    event = await run.wait_for_event("child-started", timeout_s=10)
    found: str = json.loads(bytes(event.data))["run_id"]
    return found


async def test_everything_of_a_user_task_survives_the_engine_and_time_goes_on(
    engine: Engine, until: Until
) -> None:
    run, task = await asked(
        engine, user="ann", group="board", notes="n", due=0.5, escalate_after=0.6, escalate_to="bosses"
    )
    await task.save("ann", {"why": "a draft"})
    await task.comment("bob", "hm", action_id="once")
    before = await task.view()
    await engine.down()
    due = moment(before.due_at)
    await until(lambda: datetime.now(UTC) > due + timedelta(seconds=0.3), "it is overdue while nobody serves")
    await engine.up()
    await until_told(run, "assigned", until)
    after = await task.view()
    assert (after.values, after.comments, after.notes) == (before.values, before.comments, before.notes)
    assert (after.group, after.overdue, after.epoch) == ("bosses", True, 1)
    await task.comment("bob", "hm", action_id="once")
    await task.complete("cy", Answer(True))
    assert await run.result(10) == "True "
    assert await kinds(run) == ["opened", "saved", "commented", "overdue", "assigned", "completed"]


# -- search --------------------------------------------------------------------------------------------------------
async def test_an_inbox_is_found_by_user_group_state_and_due_date(engine: Engine, tmp_path: Path) -> None:
    evil = "o'); DROP TABLE user_tasks; --"
    client = await engine.registered(people_asked)

    async def given(run_id: str, **options: Any) -> UserTaskHandle:
        await client.start(people_asked, options, run_id=run_id)
        (view,) = await client.user_tasks(run_id)
        return client.user_task(run_id, view.id)

    await given("free", group="board", due=3600.0)
    await given("anns", user="ann", group="board", due=7200.0)
    claimed = await given("claimed", group="board")
    await claimed.claim("ann")
    moved = await given("moved", user="ann", group="board")
    await moved.assign(user=evil, override=True)
    done = await given("done", user="ann", group="board", due=3600.0)
    await done.complete("ann", Answer(True))
    dropped = await given("dropped", user="ann")
    await dropped.cancel("eve", "no need")
    withdrawn = await given("withdrawn", user="ann")
    await client.cancel("withdrawn")
    late = await given("late", user="ann", timeout=0.6)
    await client.wait("late", timeout_s=10)
    gone = await given("gone", user="ann", group="board")
    await gone.complete("ann", Answer(True))
    await client.wait("gone", timeout_s=10)
    await client.delete("gone")
    assert withdrawn.user_task_id
    assert late.user_task_id
    async with AnalyticsService(engine.url, engine.namespace, tmp_path / "a.duckdb"):

        async def found(**said: Any) -> list[str]:
            return [each.run_id for each in await client.find_user_tasks(**said)]

        assert await found(user="ann") == ["anns", "claimed"]
        assert await found(group="board") == ["free", "anns", "claimed"]
        assert await found(group="board", state="unassigned") == ["free"]
        assert await found(user="ann", group="board", state="assigned") == ["anns", "claimed"]
        assert await found(user=evil) == ["moved"]
        assert await found(user="ann", state="done") == ["done"]
        assert await found(state="cancelled") == ["dropped"]
        assert await found(state="withdrawn") == ["withdrawn"]
        assert await found(state="timed-out") == ["late"]
        soon = datetime.now(UTC) + timedelta(seconds=5400)
        assert await found(due_before=soon) == ["free"]
        assert await found(due_before=soon.astimezone(), user="ann") == []
        assert await found(limit=2) == ["free", "anns"]
        assert await found(user_task="issue-people-agree", workflow="people-asked", limit=1) == ["free"]
        assert await found(workflow="nobody") == []
        with pytest.raises(BadInput):
            await found(due_before=soon.replace(tzinfo=None))
