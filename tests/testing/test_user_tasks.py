"""User tasks on the engine's fold: whom they are for, what people do with them, and what time does to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import msgspec
import pytest

from dressage.client import RunFailed
from dressage.flow import (
    App,
    Limits,
    Masked,
    Saga,
    UserTask,
    UserTaskCancelled,
    first_completed,
    gather,
    sleep,
    workflow,
)
from dressage.orchestrator.fold.limits import POSTED_MAX
from dressage.orchestrator.fold.nodes.user_task import SAVES_KEPT
from dressage.protocol.commands import UserTaskAction
from dressage.protocol.errors import BadInput, Refused
from dressage.protocol.names import ACTOR_CHARS_MAX
from dressage.protocol.user_tasks import (
    COMMENT_BYTES_MAX,
    COMMENTS_MAX,
    NOTES_BYTES_MAX,
    REMINDERS_MAX,
    Action,
    AddComment,
    Assign,
    CancelTask,
    Claim,
    Complete,
    DeleteComment,
    EditComment,
    Release,
    SaveProgress,
)
from dressage.testing import Run, WorkflowTest

app = App("people")


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Address:
    street: str
    city: str = "Bern"


@dataclass
class Form:
    ok: bool
    count: int = 0
    size: Size = Size.SMALL
    colour: Literal["red", "green"] = "red"
    on: date | None = None
    address: Address | None = None
    tags: list[str] | None = None
    secret: Masked[str] | None = None


fill = UserTask("fill", form=Form)
look = UserTask("look", form=Address)


@app.task
def note(what: str) -> None: ...


@app.task
def reveal(secret: Masked[str]) -> str:
    return secret


@workflow
async def simple(user: str | None, group: str | None) -> str:
    filled = await fill.assign(user=user, group=group, notes=f"for {user or group}")
    told = f"{filled.ok} {filled.count} {filled.size.name} {filled.colour} {filled.on}"
    if filled.secret is None:
        return told
    return f"{told} {await reveal(filled.secret)}"


@workflow
async def timed(due_s: int, remind_s: int, escalate_s: int, timeout_s: int) -> str:
    try:
        filled = await fill.assign(
            user="ann",
            group="billing",
            due=timedelta(seconds=due_s),
            remind=timedelta(seconds=remind_s),
            escalate_after=timedelta(seconds=escalate_s),
            escalate_to="leads",
            timeout=timedelta(seconds=timeout_s),
        )
    except TimeoutError as error:
        return f"late: {error}"
    except UserTaskCancelled as error:
        return f"cancelled: {error}"
    return f"{filled.ok}"


def began(user: str | None = None, group: str | None = "billing") -> Run[str]:
    return WorkflowTest(simple).start(user, group)


def kinds(run: Run[Any]) -> list[str]:
    return [
        event.kind.removeprefix("user-task-") for event in run.events if event.kind.startswith("user-task-")
    ]


def who(run: Run[Any]) -> tuple[str, str, int]:
    (view,) = run.user_tasks
    return view.user, view.group, view.epoch


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def refusal(run: Run[Any], action: Action) -> str:
    before = run.user_tasks, len(run.events)
    with pytest.raises(Refused) as refused:
        run.act(fill, action)
    assert (run.user_tasks, len(run.events)) == before
    return refused.value.code


# -- whom it is for ----------------------------------------------------------------------------------
def test_a_group_s_task_is_claimed_released_and_done() -> None:
    run = began()
    assert run.waiting_for == "user task fill for group billing"
    (view,) = run.user_tasks
    assert (view.state, view.notes, view.user_task) == ("unassigned", "for billing", "fill")
    run.act(fill, Claim("ann"))
    assert run.waiting_for == "user task fill with user ann of group billing"
    assert who(run) == ("ann", "billing", 1)
    run.act(fill, Claim("ann"))
    assert who(run) == ("ann", "billing", 1)
    assert refusal(run, Claim("bob")) == "USER_TASK_TAKEN"
    assert refusal(run, Release("bob")) == "USER_TASK_TAKEN"
    run.act(fill, Release("ann"))
    assert who(run) == ("", "billing", 2)
    run.act(fill, Claim("bob"))
    run.act(fill, Claim("eve", override=True))
    assert who(run) == ("eve", "billing", 4)
    assert refusal(run, Complete("bob", raw({"ok": True}))) == "USER_TASK_TAKEN"
    run.act(fill, Complete("eve", raw({"ok": True, "size": "large", "on": "2030-02-01", "count": 3})))
    assert run.result == "True 3 LARGE red 2030-02-01"
    assert kinds(run) == ["opened", *["assigned"] * 4, "completed"]
    last = next(event for event in run.events if event.kind == "user-task-completed")
    assert (last.data["user"], last.actor) == ("eve", "test")


def test_one_that_is_given_to_a_user_can_go_to_others() -> None:
    run = began("ann", None)
    assert who(run) == ("ann", "", 0)
    assert refusal(run, Release("ann")) == "USER_TASK_INVALID"
    assert refusal(run, Assign(user="bob")) == "USER_TASK_TAKEN"
    assert refusal(run, Assign(override=True)) == "USER_TASK_INVALID"
    run.act(fill, Assign(group="billing", override=True))
    assert who(run) == ("", "billing", 1)
    assert refusal(run, Release("ann")) == "USER_TASK_INVALID"
    run.act(fill, Assign(user="bob", group="leads"))
    assert who(run) == ("bob", "leads", 2)
    assert refusal(run, Assign(user="bob", group="other")) == "USER_TASK_TAKEN"
    assert refusal(run, Release("eve")) == "USER_TASK_TAKEN"
    run.act(fill, Release("eve", override=True)).act(fill, Claim("bob"))
    assert who(run) == ("bob", "leads", 4)
    run.complete(fill, Form(False))
    assert run.result == "False 0 SMALL red None"


def test_whoever_completes_one_that_nobody_has_is_told_as_who_did_it() -> None:
    run = began()
    run.act(fill, Complete("bob", raw({"ok": True})))
    done = next(event for event in run.events if event.kind == "user-task-completed")
    assert done.data["user"] == "bob"


@pytest.mark.parametrize(
    ("user", "group", "said"),
    [
        (None, None, "a user task is for somebody: give a user, a group, or both"),
        ("", "", "a user task is for somebody: give a user, a group, or both"),
        (
            "x" * (ACTOR_CHARS_MAX + 1),
            None,
            f"the name of a user or a group has at most {ACTOR_CHARS_MAX} characters, not {ACTOR_CHARS_MAX + 1}",
        ),
    ],
)
def test_one_for_nobody_is_an_error_where_it_stands(user: str | None, group: str | None, said: str) -> None:
    run = began(user, group)
    assert run.failure is not None
    assert run.failure.name == "expression-error"
    assert run.failure.message.partition(": ")[2] == f"ValueError: {said}"


# -- its form ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ok": "yes"},
        {"ok": True, "count": 1.5},
        {"ok": True, "size": "huge"},
        {"ok": True, "colour": "blue"},
        {"ok": True, "on": "soon"},
        {"ok": True, "address": {"city": "Bern"}},
        {"ok": True, "tags": [1]},
        {"ok": True, "more": 1},
        [True],
        None,
    ],
)
def test_a_form_that_is_not_filled_as_it_should_is_refused_and_stays_open(values: Any) -> None:
    run = began()
    assert refusal(run, Complete("ann", raw(values))) == "USER_TASK_INVALID"
    run.complete(fill, Form(True))
    assert run.status == "completed"


def test_what_is_saved_is_kept_shown_and_taken_if_nothing_else_is_given() -> None:
    run = began("ann", "billing")
    assert refusal(run, Complete("ann")) == "USER_TASK_INVALID"
    run.act(fill, SaveProgress("ann", raw({"count": 4, "secret": "s"})))
    run.act(fill, SaveProgress("ann", raw({"ok": True, "count": 5, "secret": "s3cret"})))
    run.act(fill, SaveProgress("ann", raw({"ok": True, "count": 5})))
    assert run.user_tasks[0].values == {"ok": True, "count": 5}
    told = [event.data["values"] for event in run.events if event.kind == "user-task-saved"]
    assert told[-1] == {"ok": True, "count": 5, "secret": "***"}
    assert "s3cret" not in str(run.events)
    assert refusal(run, SaveProgress("bob", raw({}))) == "USER_TASK_TAKEN"
    assert refusal(run, SaveProgress("ann", raw({"count": "five"}))) == "USER_TASK_INVALID"
    assert refusal(run, SaveProgress("ann", raw({"colour": "red", "more": 1}))) == "USER_TASK_INVALID"
    assert refusal(run, SaveProgress("ann", raw([]))) == "USER_TASK_INVALID"
    run.act(fill, Claim("bob", override=True))
    assert run.user_tasks[0].values["count"] == 5
    run.act(fill, Complete("bob"))
    assert run.result == "True 5 SMALL red None s3cret"


def test_a_form_is_described_as_json_schema() -> None:
    (view,) = began().user_tasks
    record = view.form["$defs"][view.form["$ref"].rpartition("/")[2]]
    assert record["required"] == ["ok"]
    assert record["properties"]["colour"] == {"enum": ["green", "red"]}
    assert list(record["properties"]) == ["ok", "count", "size", "colour", "on", "address", "tags", "secret"]
    assert record["properties"]["secret"]["writeOnly"]
    assert view.form["$defs"]["Size"] == {"title": "Size", "enum": ["large", "small"]}


# -- comments ----------------------------------------------------------------------------------------
def test_comments_are_numbered_and_changed_by_who_made_them() -> None:
    run = began()
    run.act(fill, AddComment("ann", "please look"))
    run.act(fill, AddComment("bob", "mine"))
    run.act(fill, EditComment("ann", 1, "please look twice"))
    run.act(fill, DeleteComment("bob", 2))
    for action in (EditComment("bob", 1, "x"), DeleteComment("ann", 2), EditComment("ann", 3, "x")):
        assert refusal(run, action) == "USER_TASK_INVALID"
    assert refusal(run, EditComment("ann", 0, "x")) == "USER_TASK_INVALID"
    one, two = run.user_tasks[0].comments
    assert (one.number, one.user, one.text) == (1, "ann", "please look twice")
    assert (two.number, two.user, two.text) == (2, "bob", "")
    told = [event.data for event in run.events if event.kind == "user-task-commented"]
    assert [(each["number"], each["how"], each.get("text", "")) for each in told] == [
        (1, "added", "please look"),
        (2, "added", "mine"),
        (1, "edited", "please look twice"),
        (2, "deleted", ""),
    ]


@pytest.mark.limit("protocol.user_tasks.COMMENT_BYTES_MAX")
@pytest.mark.limit("protocol.user_tasks.COMMENTS_MAX")
def test_comments_have_limits() -> None:
    run = began()
    assert refusal(run, AddComment("ann", "x" * (COMMENT_BYTES_MAX + 1))) == "USER_TASK_INVALID"
    run.act(fill, AddComment("ann", "x" * COMMENT_BYTES_MAX))
    for _ in range(COMMENTS_MAX - 1):
        run.act(fill, AddComment("ann", "x"))
    assert refusal(run, AddComment("ann", "x")) == "USER_TASK_FULL"
    run.act(fill, DeleteComment("ann", 7))
    assert refusal(run, AddComment("ann", "x")) == "USER_TASK_FULL"


# -- time --------------------------------------------------------------------------------------------
def test_people_are_reminded_it_is_overdue_escalates_once_and_times_out() -> None:
    run = WorkflowTest(timed).run(25, 10, 35, 100)
    assert run.result == "late: user task fill was not done within 100 s"
    told = [
        (int((event.at - run.events[0].at).total_seconds()), event.kind[10:]) for event in run.events[1:-2]
    ]
    assert told == [
        (0, "opened"),
        (10, "reminded"),
        (20, "reminded"),
        (25, "overdue"),
        (30, "reminded"),
        (35, "assigned"),
        *[(second, "reminded") for second in range(45, 100, 10)],
        (100, "cancelled"),
    ]
    assigned = next(event for event in run.events if event.kind == "user-task-assigned")
    assert (assigned.data["how"], assigned.data["group"], assigned.data.get("user")) == (
        "escalated",
        "leads",
        None,
    )


def test_point_20_an_assignment_has_clocks_of_its_own() -> None:
    run = WorkflowTest(timed).start(1000, 10, 30, 2000)
    run.advance(timedelta(seconds=25))
    run.act(fill, Claim("bob", override=True))
    run.advance(timedelta(seconds=29))
    assert who(run) == ("bob", "billing", 1)
    assert run.user_tasks[0].reminders == 2
    run.act(fill, Release("bob"))
    assert run.user_tasks[0].reminders == 0
    run.advance(timedelta(seconds=29))
    assert who(run) == ("", "billing", 2)
    run.advance(timedelta(seconds=1))
    assert who(run) == ("", "leads", 3)
    run.advance(timedelta(seconds=950))
    assert who(run) == ("", "leads", 3)
    assert run.user_tasks[0].overdue
    run.complete(fill, Form(True))
    assert run.result == "True"
    assert run.finish().events[-1].kind == "run-completed"


@pytest.mark.limit("protocol.user_tasks.REMINDERS_MAX")
@pytest.mark.limit("protocol.user_tasks.REMIND_S_MIN")
def test_reminders_come_to_an_end_and_no_faster_than_each_second() -> None:
    @workflow
    async def hurried() -> str:
        filled = await fill.assign(group="g", remind=timedelta(milliseconds=1))
        return f"{filled.ok}"

    run = WorkflowTest(hurried).start().advance(timedelta(seconds=10))
    assert kinds(run).count("reminded") == 10
    run.advance(timedelta(days=1))
    assert kinds(run).count("reminded") == REMINDERS_MAX
    run.act(fill, Claim("ann")).advance(timedelta(seconds=3))
    assert kinds(run).count("reminded") == REMINDERS_MAX + 3


def test_one_that_is_due_at_a_moment_that_has_passed_is_overdue_at_once() -> None:
    @workflow
    async def late(when: datetime) -> bool:
        return (await fill.assign(group="g", due=when)).ok

    run = WorkflowTest(late).start(datetime(2029, 12, 31, tzinfo=UTC))
    assert kinds(run) == ["opened", "overdue"]
    run = WorkflowTest(late).start(datetime(2030, 1, 2, tzinfo=UTC)).advance(timedelta(hours=23, minutes=59))
    assert kinds(run) == ["opened"]
    assert run.user_tasks[0].due_at == "2030-01-02T00:00:00.000Z"
    run.advance(timedelta(minutes=1))
    assert kinds(run) == ["opened", "overdue"]
    failed = WorkflowTest(late).run(datetime(2030, 1, 2))  # noqa: DTZ001
    assert failed.failure is not None
    assert "due of a datetime without a time zone" in failed.failure.message


def test_without_a_group_to_escalate_to_it_goes_back_to_its_own() -> None:
    @workflow
    async def released() -> bool:
        return (await fill.assign(user="ann", group="g", escalate_after=timedelta(hours=1))).ok

    run = WorkflowTest(released).start().advance(timedelta(hours=1))
    assert who(run) == ("", "g", 1)


# -- its end -----------------------------------------------------------------------------------------
def test_somebody_cancels_it() -> None:
    run = WorkflowTest(timed).start(1000, 10, 30, 2000)
    run.act(fill, CancelTask("boss", "not needed"))
    assert run.result == "cancelled: not needed"
    assert kinds(run)[-1] == "cancelled"
    run = began()
    run.act(fill, CancelTask())
    with pytest.raises(RunFailed) as failed:
        _ = run.result
    assert failed.value.failure.name == "user-task-cancelled"
    assert failed.value.failure.message == "user task fill was cancelled"


def test_done_is_final() -> None:
    run = WorkflowTest(simple).start("ann", "g")
    (view,) = run.user_tasks
    run.complete(fill, Form(True))
    assert run.user_tasks == []
    for action in (
        CancelTask("ann"),
        Claim("ann"),
        Complete("ann", raw({"ok": False})),
        AddComment("ann", "x"),
    ):
        with pytest.raises(Refused) as refused:
            run.act(view, action)
        assert refused.value.code == "RUN_FINISHED"
    assert run.result == "True 0 SMALL red None"

    @workflow
    async def again() -> str:
        one = await fill.assign(group="g")
        two = await fill.assign(group="g")
        return f"{one.ok} {two.ok}"

    run = WorkflowTest(again).start()
    (view,) = run.user_tasks
    run.complete(fill, Form(True))
    with pytest.raises(Refused) as refused:
        run.act(view, CancelTask("ann"))
    assert refused.value.code == "USER_TASK_UNKNOWN"
    run.complete(fill, Form(False))
    assert run.result == "True False"


def test_one_that_nobody_waits_for_any_more_is_withdrawn() -> None:
    @workflow
    async def raced() -> str:
        async with Saga() as saga:
            saga.undo(note, "undone")
            place, _ = await first_completed(
                fill.assign(group="g", due=timedelta(hours=5)), sleep(timedelta(hours=1))
            )
            return f"{place}"

    run = WorkflowTest(raced).start()
    assert len(run.user_tasks) == 1
    run.finish()
    assert run.result == "1"
    withdrawn = next(event for event in run.events if event.kind == "user-task-cancelled")
    assert withdrawn.data["how"] == "withdrawn"
    for at_once in (True, False):
        run = WorkflowTest(raced).start().cancel("changed", at_once=at_once).finish()
        assert run.status == "cancelled"
        assert kinds(run) == ["opened", "cancelled"]


def test_branches_have_user_tasks_of_their_own() -> None:
    @workflow
    async def both() -> str:
        one, two = await gather(fill.assign(user="ann"), look.assign(group="g", notes="look"))
        return f"{one.count} {two.street} {two.city}"

    run = WorkflowTest(both).start()
    assert [view.user_task for view in run.user_tasks] == ["fill", "look"]
    run.complete(look, Address("Main St", "Rome")).complete(fill, Form(True, 2))
    assert run.result == "2 Main St Rome"

    @workflow
    async def all_of(people: list[str]) -> list[int]:
        filled = await gather(*(fill.assign(user=person) for person in people))
        return [each.count for each in filled]

    run_all = WorkflowTest(all_of).start(["ann", "bob"])
    with pytest.raises(BadInput, match="2 user tasks 'fill' are open"):
        run_all.complete(fill, Form(True))
    for view in run_all.user_tasks:
        run_all.act(view, Complete(view.user, raw({"ok": True, "count": len(view.user)})))
    assert run_all.result == [3, 3]


def test_the_same_action_again_changes_nothing_also_when_all_is_over() -> None:
    run = began()
    (view,) = run.user_tasks
    from dressage.protocol.commands import UserTaskAction

    said = UserTaskAction(view.id, "a", AddComment("ann", "once"))
    done = UserTaskAction(view.id, "b", Complete("ann", raw({"ok": True})))
    for command in (said, said, done, done, said):
        run._fold(command, asked=True)
    assert kinds(run) == ["opened", "commented", "completed"]
    with pytest.raises(Refused, match="give it one that no other has"):
        began()._fold(UserTaskAction(view.id, "", Claim("ann")), asked=True)


@pytest.mark.limit("protocol.user_tasks.NOTES_BYTES_MAX")
@pytest.mark.limit("form-size")
def test_limits_of_what_is_kept() -> None:
    @workflow
    async def noted(size: int) -> bool:
        return (await fill.assign(group="g", notes="x" * size)).ok

    failed = WorkflowTest(noted).run(NOTES_BYTES_MAX + 1)
    assert failed.failure is not None
    assert "(limit user-task-notes)" in failed.failure.message
    run = WorkflowTest(noted).start(NOTES_BYTES_MAX)
    around, most = len(bytes(raw({"tags": [""]}))), Limits().value_bytes
    assert (
        refusal(run, SaveProgress("ann", raw({"tags": ["x" * (most - around + 1)]}))) == "USER_TASK_INVALID"
    )
    run.act(fill, SaveProgress("ann", raw({"tags": ["x" * (most - around)]})))

    @workflow(limits=Limits(history_events=5))
    async def short() -> bool:
        return (await fill.assign(group="g")).ok

    brief = WorkflowTest(short).start()
    for _ in range(3):
        brief.act(fill, AddComment("ann", "x"))
    assert refusal(brief, AddComment("ann", "x")) == "USER_TASK_FULL"
    brief.complete(fill, Form(True))
    assert brief.failure is not None
    assert brief.failure.name == "history-limit"
    many = WorkflowTest(noted).start(1)
    for number in range(POSTED_MAX):
        many.act(fill, Claim(f"user {number % 2}", override=True))
    assert refusal(many, Claim("ann", override=True)) == "USER_TASK_FULL"
    for number in range(POSTED_MAX + 50):
        many.act(fill, SaveProgress("user 1", raw({"count": number})))
    assert many.complete(fill, Form(True)).status == "completed"


@pytest.mark.limit("orchestrator.fold.nodes.user_task.ROOM_BYTES")
def test_what_people_add_leaves_room_for_what_the_engine_does() -> None:
    @workflow
    async def four() -> int:
        filled = await gather(*(fill.assign(group="g", remind=timedelta(hours=1)) for _ in range(4)))
        return len(filled)

    run, size, saved = WorkflowTest(four).start(), 256_000, 0
    while size > 100:
        for view in run.user_tasks:
            try:
                run.act(view, SaveProgress("ann", raw({"tags": ["x" * size]})))
                saved += 1
            except Refused as refused:
                assert refused.code == "USER_TASK_FULL"  # noqa: PT017
        size //= 2
    assert saved > 3
    run.advance(timedelta(hours=50))
    assert {view.reminders for view in run.user_tasks} == {50}
    assert run.status == "running"


def test_reminders_leave_room_in_the_history_for_what_people_do() -> None:
    @workflow(limits=Limits(history_events=200))
    async def many() -> int:
        filled = await gather(*(fill.assign(group="g", remind=timedelta(hours=1)) for _ in range(20)))
        return len(filled)

    run = WorkflowTest(many).start().advance(timedelta(days=9))
    assert run.user_tasks[0].reminders < 5
    for view in run.user_tasks:
        run.act(view, Complete("ann", raw({"ok": True})))
    assert run.result == 20


def test_numbers_that_only_decimal_knows_are_shown_as_they_are() -> None:
    @dataclass
    class Priced:
        price: Decimal
        name: str = ""

    priced = UserTask("priced", form=Priced)

    @workflow
    async def prices() -> str:
        return f"{(await priced.assign(group='g')).price}"

    run = WorkflowTest(prices).start()
    run.act(priced, SaveProgress("ann", msgspec.Raw(b'{"price": 1e400}')))
    assert run.user_tasks[0].values == {"price": "1E+400"}
    run.act(priced, Complete("ann", msgspec.Raw(b'{"price": 10.50}')))
    assert run.result == "10.50"
    assert run.events[-2].kind == "user-task-completed"
    assert run.events[-2].data["values"]["price"] == "10.50"


def test_what_would_be_told_must_fit_a_message() -> None:
    @dataclass
    class Row:
        a_column_with_a_name_that_is_rather_long: str = ""
        another_column_with_a_name_that_is_rather_long: str = ""
        secret: Masked[str] | None = None

    @dataclass
    class Table:
        rows: list[Row]

    table = UserTask("table", form=Table)

    @workflow
    async def tabled() -> int:
        return len((await table.assign(group="g")).rows)

    run = WorkflowTest(tabled).start()
    for action in (SaveProgress, Complete):
        with pytest.raises(Refused) as refused:
            run.act(table, action("ann", raw({"rows": [{}] * 30_000})))
        assert refused.value.code == "USER_TASK_INVALID"


def test_an_escalation_goes_to_somebody_and_is_not_used_up_by_nothing() -> None:
    @workflow
    async def escalates() -> bool:
        return (await fill.assign(group="g", escalate_after=timedelta(days=1))).ok

    run = WorkflowTest(escalates).start().advance(timedelta(days=2))
    assert who(run) == ("", "g", 0)
    run.act(fill, Claim("ann")).advance(timedelta(days=1))
    assert who(run) == ("", "g", 2)
    run.act(fill, Claim("ann")).advance(timedelta(days=30))
    assert who(run) == ("ann", "g", 3)
    run = WorkflowTest(escalates).start()
    run.act(fill, Assign(user="bob")).advance(timedelta(days=30))
    assert who(run) == ("bob", "", 1)


@pytest.mark.parametrize("year", [1, 999, 1969, 1970])
def test_any_moment_of_the_past_is_overdue(year: int) -> None:
    @workflow
    async def old(when: datetime) -> bool:
        return (await fill.assign(group="g", due=when)).ok

    run = WorkflowTest(old).start(datetime(year, 1, 1, tzinfo=UTC))
    assert kinds(run) == ["opened", "overdue"]
    assert run.user_tasks[0].due_at == f"{year:04}-01-01T00:00:00.000Z"
    far = WorkflowTest(old).start(datetime(9999, 12, 31, tzinfo=UTC))
    assert far.user_tasks[0].due_at == "9999-12-31T00:00:00.000Z"
    assert far.advance(timedelta(days=99)).complete(fill, Form(True)).result is True


@pytest.mark.limit("orchestrator.fold.nodes.user_task.SAVES_KEPT")
def test_a_save_that_comes_again_at_once_changes_nothing() -> None:
    run = began()
    (view,) = run.user_tasks
    saves = [
        UserTaskAction(view.id, f"save {number}", SaveProgress("ann", raw({"count": number})))
        for number in range(SAVES_KEPT + 1)
    ]
    for save in saves:
        run._fold(save, asked=True)
    for save in saves[1:]:
        run._fold(save, asked=True)
    assert run.user_tasks[0].values == {"count": SAVES_KEPT}
    assert kinds(run).count("saved") == SAVES_KEPT + 1
    # The first of so many is forgotten.
    run._fold(saves[0], asked=True)
    assert run.user_tasks[0].values == {"count": 0}


def test_comments_that_are_none() -> None:
    run = began()
    assert refusal(run, AddComment("ann", "")) == "USER_TASK_INVALID"
    run.act(fill, AddComment("ann", "x")).act(fill, DeleteComment("ann", 1))
    assert refusal(run, EditComment("ann", 1, "again")) == "USER_TASK_INVALID"
    assert refusal(run, DeleteComment("ann", 1)) == "USER_TASK_INVALID"


def test_a_unit_test_says_what_people_do() -> None:
    @workflow
    async def thrice() -> str:
        said: list[str] = []
        for number in range(3):
            try:
                filled = await fill.assign(group="g", notes=f"{number}")
                said = [*said, f"{filled.count}"]
            except UserTaskCancelled as error:
                said = [*said, f"{error}"]
        return " ".join(said)

    test = WorkflowTest(thrice).completes(fill, Form(True, 1), after=timedelta(hours=1))
    run = test.cancels(fill, reason="no", user="eve").completes(fill, Form(True, 3), user="bob").run()
    assert run.result == "1 no 3"
    assert run.elapsed == timedelta(hours=1)
    with pytest.raises(BadInput, match="has no user task 'look'"):
        test.completes(look, Address("x"))
    with pytest.raises(BadInput, match="0 user tasks 'fill' are open"):
        run.complete(fill, Form(True))
