"""User tasks, as the issue asks for them: forms of every type, whom they are for, what people do with them, their
clocks, their audit trail, how they are found, and that done is final."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import Event, Masked, UserTask, UserTaskCancelled, first_completed, gather, workflow
from dressage.protocol.errors import DressageError, Refused
from dressage.protocol.user_tasks import Claim
from dressage.testing import WorkflowTest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Address:
    city: str
    zip: str = ""


@dataclass
class Form:
    text: str
    number: int
    ratio: float
    price: Decimal
    yes: bool
    day: date
    colour: Colour
    size: Literal["s", "m"]
    home: Address
    items: list[Address] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    ok: bool
    words: str = ""
    pin: Masked[str] = "none"


fill = UserTask("issue-fill", form=Form)
judge = UserTask("issue-judge", form=Verdict)
over = Event("over")


@workflow
async def issue_form() -> str:
    filled = await fill.assign(group="clerks")
    return (
        f"{filled.text} {filled.number + 1} {filled.ratio} {filled.price * 2} {not filled.yes} {filled.day.year}"
        f" {filled.colour.value} {filled.size} {filled.home.city} {[each.city for each in filled.items]} {filled.tags}"
    )


@workflow
async def issue_judged(who: str | None, team: str | None, minutes: int) -> str:
    try:
        verdict = await judge.assign(
            user=f"{who}@example.org" if who else None,
            group=team,
            notes=f"please look, {who or team}",
            due=timedelta(minutes=minutes),
        )
    except UserTaskCancelled as error:
        return f"cancelled: {error}"
    return f"{verdict.ok} {verdict.words}"


@workflow
async def issue_watched(remind_s: int, due_s: float, timeout_s: float) -> str:
    try:
        verdict = await judge.assign(
            user="ann",
            group="leads",
            due=due_s,
            remind=remind_s,
            escalate_after=2 * remind_s,
            timeout=timeout_s,
        )
    except TimeoutError:
        return "nobody"
    return verdict.words


@workflow
async def issue_withdrawn() -> str:
    place, _ = await first_completed(judge.assign(group="leads"), over.wait())
    return f"won by {place}"


@workflow
async def issue_board(board: list[str]) -> int:
    verdicts = await gather(*(judge.assign(user=each) for each in board))
    return len([each for each in verdicts if each.ok])


@workflow
async def issue_for_nobody() -> str:
    try:
        await judge.assign(group="")
    except ValueError as error:
        return f"nobody: {error}"
    return ""


GOOD = {
    "text": "abc",
    "number": 6,
    "ratio": 0.5,
    "price": "1.50",
    "yes": True,
    "day": "2026-02-28",
    "colour": "blue",
    "size": "m",
    "home": {"city": "Ghent"},
    "items": [{"city": "Bruges", "zip": "8000"}, {"city": "Lier"}],
    "tags": ["x", "y"],
}


async def opened(client: Client, run_id: str) -> Any:
    (view,) = await client.user_tasks(run_id)
    return view


async def refusal(action: Awaitable[Any]) -> DressageError:
    with pytest.raises(DressageError) as refused:
        await action
    return refused.value


async def trail(client: Client, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (event.kind, json.loads(bytes(event.data)))
        async for event in client.history(run_id)
        if event.kind.startswith("user-task")
    ]


async def test_a_form_has_text_number_boolean_date_choice_struct_and_list(sharded: Engine) -> None:
    client = await sharded.registered(issue_form)
    run = await client.start(issue_form, {})
    view = await opened(client, run.run_id)
    answer = await sharded.call("user-tasks", {"run_id": run.run_id})
    assert answer["ok"], answer
    schema = json.dumps(answer["forms"])
    for word in ("string", "integer", "number", "boolean", "date", "enum", "array", "object"):
        assert word in schema
    # Any program fills it in, as JSON has it; the workflow has it as Python has it.
    acted = await sharded.call(
        "act",
        {
            "run_id": run.run_id,
            "user_task_id": view.id,
            "action": {"do": "complete", "user": "ann", "values": GOOD},
        },
    )
    assert acted["ok"], acted
    assert await run.result(10) == "abc 7 0.5 3.00 False 2026 blue m Ghent ['Bruges', 'Lier'] ['x', 'y']"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("text", 5),
        ("number", "five"),
        ("number", True),
        ("ratio", "x"),
        ("price", "x"),
        ("yes", "yes"),
        ("day", "2026-02-30"),
        ("colour", "green"),
        ("size", "xl"),
        ("home", {"zip": "9000"}),
        ("items", [{"city": 5}]),
        ("tags", "x"),
        ("text", None),
    ],
)
async def test_a_form_that_is_filled_in_wrongly_is_refused_with_the_field_and_stays_open(
    shared: Engine, name: str, wrong: Any
) -> None:
    client = await shared.registered(issue_form)
    run = await client.start(issue_form, {})
    view = await opened(client, run.run_id)
    mine = client.user_task(run.run_id, view.id)
    error = await refusal(mine.complete("ann", {**GOOD, name: wrong}))
    assert error.code == "USER_TASK_INVALID"
    assert name in str(error)
    saved = await refusal(mine.save("ann", {name: wrong}))
    assert saved.code == "USER_TASK_INVALID"
    unfilled = {key: value for key, value in GOOD.items() if key not in {"text", "items"}}
    missing = await refusal(mine.complete("ann", unfilled))
    assert missing.code == "USER_TASK_INVALID"
    assert "text" in str(missing)
    assert (await opened(client, run.run_id)).id == view.id


async def test_whom_it_is_for_comes_from_expressions_and_so_do_notes_and_due(engine: Engine) -> None:
    client = await engine.registered(issue_judged, issue_for_nobody)
    by_user = await client.start(issue_judged, {"who": "ann", "team": None, "minutes": 90})
    by_group = await client.start(issue_judged, {"who": None, "team": "leads", "minutes": 5})
    first, second = await opened(client, by_user.run_id), await opened(client, by_group.run_id)
    assert (first.user, first.group, first.notes, first.state) == (
        "ann@example.org",
        "",
        "please look, ann",
        "assigned",
    )
    assert (second.user, second.group, second.state) == ("", "leads", "unassigned")
    due = datetime.fromisoformat(first.due_at) - datetime.fromisoformat(first.opened_at)
    assert due == timedelta(minutes=90)
    nobody = await client.start(issue_for_nobody, {})
    assert (await nobody.result(10)).startswith("nobody: ")


async def test_claim_reassign_release_and_who_may_not(engine: Engine) -> None:
    client = await engine.registered(issue_judged)
    run = await client.start(issue_judged, {"who": None, "team": "leads", "minutes": 5})
    view = await opened(client, run.run_id)
    mine = client.user_task(run.run_id, view.id)
    await mine.claim("ann")
    assert (await mine.view()).user == "ann"
    for action in (
        mine.claim("bob"),
        mine.release("bob"),
        mine.save("bob", {"ok": True}),
        mine.complete("bob", Verdict(True)),
        mine.assign(user="bob"),
    ):
        error = await refusal(action)
        assert error.code == "USER_TASK_TAKEN"
        assert "ann" in str(error)
    await mine.release("ann")
    released = await mine.view()
    assert (released.user, released.group, released.state) == ("", "leads", "unassigned")
    await mine.assign(user="cid", group="others")
    moved = await mine.view()
    assert (moved.user, moved.group) == ("cid", "others")
    assert moved.epoch > released.epoch > view.epoch
    await mine.claim("bob", override=True)
    await mine.complete("bob", Verdict(True, "fine"))
    assert await run.result(10) == "True fine"
    history = await trail(client, run.run_id)
    hows = [data["how"] for kind, data in history if kind == "user-task-assigned"]
    assert hows == ["claimed", "released", "assigned", "claimed"]
    assert history[-1][0] == "user-task-completed"
    assert history[-1][1]["user"] == "bob"


async def test_one_of_a_user_without_a_group_cannot_be_released(engine: Engine) -> None:
    client = await engine.registered(issue_judged)
    run = await client.start(issue_judged, {"who": "ann", "team": None, "minutes": 5})
    mine = client.user_task(run.run_id, (await opened(client, run.run_id)).id)
    assert (await refusal(mine.release("ann@example.org"))).code == "USER_TASK_INVALID"
    assert (await refusal(mine.assign())).code == "USER_TASK_INVALID"


async def test_comments_saved_progress_and_what_is_masked(engine: Engine) -> None:
    client = await engine.registered(issue_judged)
    run = await client.start(issue_judged, {"who": None, "team": "leads", "minutes": 5})
    mine = client.user_task(run.run_id, (await opened(client, run.run_id)).id)
    await mine.comment("ann", "is it so?")
    await mine.comment("bob", "it is")
    await mine.edit_comment("bob", 2, "it was")
    assert (await refusal(mine.edit_comment("bob", 1, "mine"))).code == "USER_TASK_INVALID"
    await mine.delete_comment("ann", 1)
    await mine.save("ann", {"ok": True, "words": "half", "pin": "1234"})
    view = await mine.view()
    assert view.values == {"ok": True, "words": "half"}
    assert [(each.number, each.user, each.text) for each in view.comments if each.text] == [
        (2, "bob", "it was")
    ]
    await engine.down()
    await engine.up()
    assert (await mine.view()).values == {"ok": True, "words": "half"}
    await mine.complete("ann")
    assert await run.result(10) == "True half"
    told = json.dumps(await trail(client, run.run_id))
    assert "1234" not in told
    for kind in ("user-task-commented", "user-task-saved", "user-task-completed"):
        assert kind in told


async def test_done_is_final_and_a_click_that_comes_twice_counts_once(sharded: Engine) -> None:
    client = await sharded.registered(issue_board)
    run = await client.start(issue_board, {"board": ["ann", "bob"]})
    ids = {view.user: view.id for view in await client.user_tasks(run.run_id)}
    anns = client.user_task(run.run_id, ids["ann"])
    await anns.complete("ann", Verdict(True), action_id="click-1")
    await anns.complete("ann", Verdict(True), action_id="click-1")
    for action in (
        anns.complete("ann", Verdict(False)),
        anns.claim("ann", override=True),
        anns.comment("ann", "late"),
        anns.save("ann", {"ok": False}),
        anns.cancel("ann", "no"),
        anns.assign(user="bob", override=True),
    ):
        assert (await refusal(action)).code == "USER_TASK_UNKNOWN"
    await client.user_task(run.run_id, ids["bob"]).complete("bob", Verdict(False))
    assert await run.result(10) == 1
    assert (await refusal(anns.comment("ann", "later"))).code in {"RUN_FINISHED", "USER_TASK_UNKNOWN"}
    kinds = [kind for kind, _ in await trail(client, run.run_id)]
    assert kinds.count("user-task-completed") == 2


async def test_one_that_is_cancelled_is_an_error_of_the_workflow_with_the_reason(engine: Engine) -> None:
    client = await engine.registered(issue_judged)
    run = await client.start(issue_judged, {"who": "ann", "team": None, "minutes": 5})
    await client.user_task(run.run_id, (await opened(client, run.run_id)).id).cancel("eve", "not needed")
    assert await run.result(10) == "cancelled: not needed"


async def test_one_that_loses_a_race_and_one_of_a_cancelled_run_are_withdrawn(engine: Engine) -> None:
    client = await engine.registered(issue_withdrawn)
    raced = await client.start(issue_withdrawn, {})
    cancelled = await client.start(issue_withdrawn, {})
    await raced.post(over)
    assert await raced.result(10) == "won by 1"
    await cancelled.cancel()
    await client.wait(cancelled.run_id, timeout_s=10)
    for run in (raced, cancelled):
        assert await client.user_tasks(run.run_id) == []
        kind, data = (await trail(client, run.run_id))[-1]
        assert (kind, data["how"]) == ("user-task-cancelled", "withdrawn")


async def test_reminders_due_escalation_and_timeout_come_by_themselves(engine: Engine) -> None:
    client = await engine.registered(issue_watched)
    run = await client.start(issue_watched, {"remind_s": 1, "due_s": 0.5, "timeout_s": 4.0})
    await run.wait_for_event("user-task-overdue", timeout_s=10)
    assert (await opened(client, run.run_id)).overdue
    await run.wait_for_event("user-task-reminded", timeout_s=10)
    await run.wait_for_event("user-task-assigned", timeout_s=10)
    view = await opened(client, run.run_id)
    assert (view.user, view.group) == ("", "leads")
    assert await run.result(15) == "nobody"
    kind, data = (await trail(client, run.run_id))[-1]
    assert (kind, data["how"]) == ("user-task-cancelled", "timed-out")


def test_clocks_of_an_assignment_begin_again_with_the_next_one_and_end_with_it() -> None:
    run = WorkflowTest(issue_watched).start(3600, 7200.0, 1e6)
    run.advance(timedelta(minutes=59))
    run.act(judge, Claim("bob", override=True))
    run.advance(timedelta(minutes=59))
    assert [event.kind for event in run.events].count("user-task-reminded") == 0
    run.advance(timedelta(minutes=2))
    assert [event.kind for event in run.events].count("user-task-reminded") == 1
    (view,) = run.user_tasks
    assert (view.user, view.overdue) == ("bob", True)
    run.advance(
        timedelta(minutes=60)
    )  # two hours with bob: it goes to the group, not two hours after it was given
    (view,) = run.user_tasks
    assert (view.user, view.group) == ("", "leads")
    told = len(run.events)
    run.complete(judge, Verdict(True, "done"), user="cid")
    run.advance(timedelta(days=400))
    assert run.result == "done"
    assert not [
        event.kind for event in run.events[told:] if event.kind in {"user-task-reminded", "user-task-overdue"}
    ]


async def test_they_are_found_by_user_group_state_and_due_date(
    engine: Engine, start: Start, until: Until, tmp_path: Path
) -> None:
    client = await engine.registered(issue_judged)
    given: dict[str, dict[str, Any]] = {
        "anns": {"who": "ann", "team": "leads", "minutes": 5},
        "free": {"who": None, "team": "leads", "minutes": 9000},
        "done": {"who": None, "team": "leads", "minutes": 9000},
        "other": {"who": None, "team": "clerks", "minutes": 5},
    }
    for run_id, arguments in given.items():
        await client.start(issue_judged, arguments, run_id=run_id)
    await client.user_task("done", (await opened(client, "done")).id).complete("eve", Verdict(True))
    program = start(
        *(
            "analytics",
            "--db",
            str(tmp_path / "a.duckdb"),
            "--server",
            engine.url,
            "--namespace",
            engine.namespace,
        )
    )

    async def found(**by: Any) -> list[str]:
        return [each.run_id for each in await client.find_user_tasks(**by)]

    async def ready() -> bool:
        assert program.process.poll() is None, program.said
        try:
            return len(await found()) == 3
        except DressageError:
            return False

    await until(ready, "the three that are open are found", timeout_s=20.0)
    assert await found(user="ann@example.org") == ["anns"]
    assert sorted(await found(group="leads")) == ["anns", "free"]
    assert await found(group="leads", state="unassigned") == ["free"]
    assert await found(state="done") == ["done"]
    assert await found(user="eve", state="done") == ["done"]
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert sorted(await found(due_before=soon)) == ["anns", "other"]
    assert await found(group="clerks", due_before=soon) == ["other"]


async def test_an_unknown_task_and_an_unknown_run_are_refused(engine: Engine) -> None:
    client = await engine.registered(issue_judged)
    run = await client.start(issue_judged, {"who": "ann", "team": None, "minutes": 5})
    assert (await refusal(client.user_task(run.run_id, "0-0-99").claim("ann"))).code == "USER_TASK_UNKNOWN"
    with pytest.raises(Refused) as refused:
        await client.user_task("nobody", "0-0-1").claim("ann")
    assert refused.value.code == "RUN_UNKNOWN"
