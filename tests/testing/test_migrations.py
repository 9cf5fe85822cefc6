"""Runs that move to another version of their workflow: on the fold, by `WorkflowTest`."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from dressage.flow import (
    App,
    Event,
    Masked,
    Saga,
    Searchable,
    UserTask,
    gather,
    interruptible,
    sleep,
    wait_until,
    workflow,
)
from dressage.orchestrator.fold.definition import Definition
from dressage.protocol.alignment import Proposal, propose
from dressage.protocol.errors import BadInput, Refused
from dressage.protocol.spec import RegisteredWorkflow
from dressage.protocol.user_tasks import Claim, SaveProgress
from dressage.testing import Run, WorkflowTest
from dressage.testing.run import Settings

app = App("moves")
DAY = timedelta(days=1)
paid = Event("paid", of=int)
ring = Event("ring", of=int)


@dataclass
class Form:
    text: str
    note: str = ""


@dataclass
class LongForm:
    text: str
    note: str = ""
    stars: int = 0


ask = UserTask("ask", form=Form)
ask_more = UserTask("ask", form=LongForm)


@app.task
def pack(what: str) -> str:
    return f"packed {what}"


@app.task
def ship(what: str) -> str:
    return f"shipped {what}"


def moving(before: Any, *args: Any) -> Run[Any]:
    return WorkflowTest(before, app).start(*args)


def moved(before: Any, after: Any, *args: Any, **given: Any) -> Run[Any]:
    return moving(before, *args).migrate(WorkflowTest(after, app), **given)


def planned(before: Any, after: Any, **given: Any) -> Proposal:
    old, new = RegisteredWorkflow(before.spec, 1, ""), RegisteredWorkflow(after.spec, 2, "")
    return propose(old, new, **given)


def refused(before: Any, after: Any, *args: Any, **given: Any) -> str:
    run = moving(before, *args)
    events, waits = len(run.events), run.waiting_for
    with pytest.raises(Refused) as error:
        run.migrate(WorkflowTest(after, app), **given)
    assert error.value.code == "MIGRATION_REFUSED"
    assert (len(run.events), run.waiting_for) == (events, waits), "the run stays as it was"
    return error.value.message.partition(" cannot move: ")[2]


@workflow(name="order")
async def order(what: str) -> str:
    amount = await paid.wait()
    return f"{await ship(what)} for {amount}"


@workflow(name="order")
async def order_packed(what: str, gift: bool = False) -> str:
    if gift:
        await pack("paper")
    parcel = await pack(what) if gift else what
    amount = await paid.wait()
    parcel = await pack(parcel)
    return f"{await ship(parcel)} for {amount}"


def test_a_run_that_waits_goes_on_at_the_same_step_with_what_it_has() -> None:
    run = (
        moving(order, "a")
        .advance(DAY)
        .migrate(WorkflowTest(order_packed, app), values={"gift": True, "parcel": "the box"})
    )
    assert [call.task for call in run.calls] == []
    assert run.post(paid, 5).result == "shipped packed the box for 5"
    told = [event for event in run.events if event.kind == "run-migrated"]
    assert [event.data for event in told] == [{"before": 1, "after": 2}]
    waited = next(event for event in run.events if event.kind == "event-received")
    assert waited.data["waited_ms"] == DAY.total_seconds() * 1000, "it has waited since it began to"


def test_what_a_run_reads_there_and_does_not_have_is_in_the_way() -> None:
    assert refused(order, order_packed, "a") == "variable parcel has no value: give one"


def test_a_value_that_is_given_has_the_variables_type() -> None:
    assert refused(order, order_packed, "a", values={"parcel": 7}) == (
        "the value that is given for variable parcel: value: Expected str, got int"
    )


def test_a_variable_keeps_its_value_under_another_name() -> None:
    @workflow(name="order")
    async def renamed(item: str) -> str:
        euros = await paid.wait()
        return f"{await ship(item)} at {euros}"

    run = moved(order, renamed, "a", variables={"what": "item"})
    assert run.post(paid, 5).result == "shipped a at 5"


def test_what_was_posted_before_is_there_after() -> None:
    @workflow(name="order")
    async def slow(what: str) -> str:
        await sleep(DAY)
        return f"{what} {await paid.wait()}"

    @workflow(name="order")
    async def fast(what: str) -> str:
        await sleep(timedelta(seconds=1))
        return f"{what}, {await paid.wait()}"

    run = moving(slow, "a").post(paid, 9).migrate(WorkflowTest(fast, app))
    assert run.advance(timedelta(hours=23)).status == "running", "a moment that was set stays"
    assert run.advance(timedelta(hours=1)).result == "a, 9"


def test_an_attempt_that_is_on_its_way_is_applied_and_a_retry_goes_on() -> None:
    @workflow(name="order")
    async def one(what: str) -> str:
        return await ship(what)

    @workflow(name="order")
    async def two(what: str) -> str:
        told = await ship(what)
        return await pack(told)

    test, after = WorkflowTest(one, app), WorkflowTest(two, app)
    test.task(ship).takes(timedelta(hours=1))
    run = test.start("a").migrate(after)
    assert run.waiting_for == "task ship (attempt 1) on queue moves"
    assert run.finish().result == "packed shipped a"
    assert [call.attempt for call in run.calls] == [1, 1]


def test_loops_and_handlers_go_on_where_they_were() -> None:
    @workflow(name="order")
    async def loops(what: list[str]) -> list[str]:
        told: list[str] = []
        for each in what:
            try:
                told = [*told, f"{each} {await paid.wait()}"]
            finally:
                told = [*told, "."]
        return told

    @workflow(name="order")
    async def more_loops(what: list[str]) -> list[str]:
        told: list[str] = []
        for number in range(3):
            if number > 5:
                await sleep(1)
        async with Saga() as saga:
            if what == ["never"]:
                saga.undo(pack, await ship("nothing"))
        for each in what:
            try:
                told = [*told, f"{each} {await paid.wait()}"]
            finally:
                told = [*told, "!"]
        return told

    run = moving(loops, ["a", "b", "c"]).post(paid, 1).migrate(WorkflowTest(more_loops, app))
    assert run.post(paid, 2).post(paid, 3).result == ["a 1", ".", "b 2", "!", "c 3", "!"]


def test_a_loop_that_a_run_was_not_in_is_in_the_way() -> None:
    @workflow(name="order")
    async def once(what: str) -> str:
        amount = await paid.wait()
        return f"{what} {amount}"

    @workflow(name="order")
    async def often(what: str) -> str:
        amount = 0
        for _ in [1, 2]:
            amount += await paid.wait()
        return f"{what} {amount}"

    reason = refused(once, often, "a")
    assert "variable amount has no value: give one" in reason
    assert "goes on with something that version 1 does not keep there" in reason


def test_branches_move_with_their_variables() -> None:
    @workflow(name="order")
    async def side_by_side(what: str) -> list[str]:
        async def one(name: str) -> str:
            first = await pack(name)
            return f"{first} {await paid.wait()}"

        return list(await gather(one(what), one("b")))

    @workflow(name="order")
    async def side_by_side_later(what: str) -> list[str]:
        async def one(name: str) -> str:
            first = await pack(name)
            amount = await paid.wait()
            return f"{await ship(first)} for {amount}"

        if what == "never":
            await sleep(1)
        return list(await gather(one(what), one("b")))

    run = moving(side_by_side, "a").post(paid, 1).migrate(WorkflowTest(side_by_side_later, app))
    assert run.post(paid, 2).result == ["packed a 1", "shipped packed b for 2"]


def test_another_number_of_branches_is_in_the_way() -> None:
    @workflow(name="order")
    async def two(what: str) -> str:
        await gather(pack(what), paid.wait())
        return what

    @workflow(name="order")
    async def three(what: str) -> str:
        await gather(pack(what), paid.wait(), ship(what))
        return what

    reason = refused(two, three, "a")
    assert "has branches, which cannot be given up: it has 3 branches, and not 2" in reason


def test_what_is_interrupted_moves_with_its_handler() -> None:
    @dataclass
    class View:
        rung: int = 0

    async def work(what: str) -> str:
        return f"{what} {await paid.wait()}"

    @workflow(name="order")
    async def once(what: str) -> str:
        view = View()

        async def on_ring(number: int) -> None:
            view.rung += number
            await sleep(DAY)

        told = await interruptible(work(what), ring.interrupts(on_ring))
        return f"{told} {view.rung}"

    @workflow(name="order")
    async def tenfold(what: str) -> str:
        view = View()
        if what == "never":
            await sleep(1)

        async def on_ring(number: int) -> None:
            view.rung += 10 * number
            await sleep(DAY)

        told = await interruptible(work(what), ring.interrupts(on_ring))
        return f"{told} {view.rung}"

    run = moving(once, "a").post(ring, 1).migrate(WorkflowTest(tenfold, app))
    run.post(paid, 5).post(ring, 2)
    assert run.status == "running", "what the handler interrupts waits for its end"
    assert run.finish().result == "a 5 21"
    assert moved(once, tenfold, "a").post(ring, 2).advance(DAY).post(paid, 3).result == "a 3 20"


def test_a_condition_is_looked_at_again() -> None:
    @dataclass
    class View:
        count: int = 0

    @workflow(name="order")
    async def never(what: str) -> str:
        view = View()
        await wait_until(lambda: view.count > 5)
        return what

    @workflow(name="order")
    async def at_once(what: str) -> str:
        view = View()
        await wait_until(lambda: view.count >= 0)
        return f"{what}!"

    assert moved(never, at_once, "a").result == "a!"


def test_the_view_is_told_anew_where_more_of_it_can_be_searched() -> None:
    @dataclass
    class View:
        status: Searchable[str] = "NEW"

    @dataclass
    class Wider:
        status: Searchable[str] = "NEW"
        risk: Searchable[int] = 3

    @workflow(name="order")
    async def narrow(what: str) -> str:
        view = View()
        await paid.wait()
        view.status = what
        return what

    @workflow(name="order")
    async def wide(what: str) -> str:
        view = Wider()
        await paid.wait()
        view.status = what
        return what

    run = moving(narrow, "a")
    told = len(run.events)
    run = run.migrate(WorkflowTest(wide, app))
    assert run.view == Wider("NEW", 3)
    fields = [each.data["name"] for each in run.events[told:] if each.kind == "variable-changed"]
    assert fields == ["status", "risk"]


def test_a_user_task_stays_with_who_has_it_and_its_draft_is_checked() -> None:
    @workflow(name="order")
    async def short(what: str) -> str:
        return (await ask.assign(group="all", notes=what)).text

    @workflow(name="order")
    async def longer(what: str) -> str:
        form = await ask_more.assign(group="all", notes=what)
        return f"{form.text} {form.stars}"

    @dataclass
    class Other:
        name: str

    asked = UserTask("ask", form=Other)

    @workflow(name="order")
    async def other(what: str) -> str:
        return (await asked.assign(group="all", notes=what)).name

    run = moving(short, "a")
    [task] = run.user_tasks
    run.act(task, Claim("ann")).act(ask, SaveProgress("ann", msgspec.Raw(b'{"text": "draft"}')))
    with pytest.raises(Refused, match="what is saved does not fit version 2"):
        run.migrate(WorkflowTest(other, app))
    run = run.migrate(WorkflowTest(longer, app))
    [task] = run.user_tasks
    assert (task.user, task.values) == ("ann", {"text": "draft"})
    assert run.complete(ask_more, LongForm("done", stars=4), user="ann").result == "done 4"


def test_another_step_that_somebody_names_begins_and_what_was_waited_for_is_given_up() -> None:
    @workflow(name="order")
    async def asks(what: str) -> str:
        return (await ask.assign(group="all", notes=what, due=DAY)).text

    @workflow(name="order")
    async def decides(what: str) -> str:
        return await pack(what)

    (step,) = planned(asks, decides).steps
    assert step.why == "it has no place in the version after"
    line = planned(asks, decides).steps[0].line
    there = next(node.line for node in decides.spec.nodes if type(node).__name__ == "TaskNode")
    assert "line" in refused(asks, decides, "a")
    run = moved(asks, decides, "a", lines={line: there})
    assert run.result == "packed a"
    kinds = [event.kind for event in run.events]
    assert "user-task-cancelled" in kinds
    assert run.finish().user_tasks == []


def test_a_child_run_goes_on_and_one_that_is_given_up_is_cancelled() -> None:
    @workflow(name="inner")
    async def inner(what: str) -> str:
        await sleep(DAY)
        return f"inner {what}"

    @workflow(name="order")
    async def outer(what: str) -> str:
        return await inner(what)

    @workflow(name="order")
    async def outer_later(what: str) -> str:
        told = await inner(what)
        return await pack(told)

    @workflow(name="order")
    async def alone(what: str) -> str:
        return await pack(what)

    run = moved(outer, outer_later, "a")
    assert run.finish().result == "packed inner a"
    line, there = outer.spec.nodes[0].line, alone.spec.nodes[0].line
    run = moved(outer, alone, "a", lines={line: there})
    assert run.finish().result == "packed a"
    assert [child.status for child in run.children] == ["cancelled"]


def test_a_stopped_run_moves_and_what_has_come_to_it_counts() -> None:
    run = moving(order, "a").stop().post(paid, 4)
    run = run.migrate(WorkflowTest(order_packed, app), values={"parcel": "b"})
    assert run.status == "running"
    assert run.stopped
    assert run.resume().result == "shipped packed b for 4"


def test_a_value_of_a_record_that_has_grown_takes_its_defaults() -> None:
    @dataclass
    class Item:
        name: str

    @workflow(name="order")
    async def small(item: Item) -> str:
        await paid.wait()
        return item.name

    @dataclass
    class Item2:
        name: str
        size: int = 7

    @workflow(name="order")
    async def large(item: Item2) -> str:
        await paid.wait()
        return f"{item.name} {item.size}"

    @dataclass
    class Item3:
        name: str
        size: int

    @workflow(name="order")
    async def larger(item: Item3) -> str:
        await paid.wait()
        return f"{item.name} {item.size}"

    assert moved(small, large, Item("a")).post(paid, 1).result == "a 7"
    reason = refused(small, larger, Item("a"))
    assert reason.startswith("variable item has a value that version 2 does not take:")
    assert "size" in reason


def test_masked_values_stay_masked() -> None:
    @workflow(name="order")
    async def secret(card: Masked[str]) -> str:
        await paid.wait()
        return await pack("secret")

    @workflow(name="order")
    async def secret_later(card: Masked[str]) -> Masked[str]:
        await paid.wait()
        return card

    run = moved(secret, secret_later, "4711").post(paid, 1)
    assert run.result == "4711"
    assert "4711" not in str([event.data for event in run.events])


def test_one_that_is_over_or_on_another_version_stays_where_it_is() -> None:
    run = moving(order, "a").post(paid, 1)
    with pytest.raises(Refused, match="it is completed"):
        run.migrate(WorkflowTest(order_packed, app))


def test_a_run_that_is_being_cancelled_ends_as_it_began() -> None:
    @workflow(name="order")
    async def tidies(what: str) -> str:
        try:
            await paid.wait()
        finally:
            await sleep(DAY)
        return what

    run = moving(tidies, "a").cancel()
    with pytest.raises(Refused, match="it is being cancelled"):
        run.migrate(WorkflowTest(tidies, app))


def test_a_result_that_the_parent_does_not_expect_is_in_the_way() -> None:
    @workflow(name="inner")
    async def inner(what: str) -> str:
        await paid.wait()
        return what

    @workflow(name="outer")
    async def outer(what: str) -> str:
        return await inner(what)

    @workflow(name="inner")
    async def inner_number(what: str) -> int:
        await paid.wait()
        return 7

    run = WorkflowTest(outer, app).start("a")
    [child] = run.children
    with pytest.raises(Refused, match=f"run {run.run_id} waits for its result: it is int now, and was str"):
        child.migrate(WorkflowTest(inner_number, app))


def test_steps_of_other_branches_are_no_places() -> None:
    @workflow(name="order")
    async def before(what: str) -> str:
        amount = await paid.wait()
        return f"{what} {amount}"

    @workflow(name="order")
    async def after(what: str) -> str:
        await gather(paid.wait(), sleep(1))
        return what

    (step,) = planned(before, after).steps
    assert step.node_after is None
    line, there = step.line, after.spec.nodes[-1].line
    gathers = [node.line for node in after.spec.nodes if type(node).__name__ == "EventNode"]
    with pytest.raises(BadInput, match="stands in another branch"):
        planned(before, after, lines={line: gathers[0]})
    assert there


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lines": {1: 2}}, "no run can wait at line 1 of the version before"),
        ({"values": {"nothing": 1}}, "version 2 of order has no variable 'nothing'"),
        ({"variables": {"what": "nothing"}}, "version 2 of order has no variable 'nothing'"),
    ],
)
def test_what_names_nothing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as error:
        planned(order, order_packed, **given)
    assert (error.value.code, error.value.message) == ("MIGRATION_INVALID", message)


def test_another_workflow_is_no_version() -> None:
    @workflow(name="other")
    async def other(what: str) -> str:
        return what

    with pytest.raises(BadInput, match="order and other are two workflows"):
        planned(order, other)


limited = App("limited")


@limited.task(concurrency=1)
def scarce(what: str) -> str:
    return f"scarce {what}"


def test_an_attempt_that_waits_for_its_limit_moves_with_that() -> None:
    @workflow(name="order")
    async def two(what: str) -> list[str]:
        return list(await gather(scarce("a"), scarce("b")))

    @workflow(name="order")
    async def two_later(what: str) -> list[str]:
        if what == "never":
            await sleep(1)
        told = await gather(scarce("a"), scarce("b"))
        return [each.upper() for each in told]

    test, after = WorkflowTest(two, limited), WorkflowTest(two_later, limited)
    test.task(scarce).takes(DAY)
    run = test.start("x").migrate(after)
    assert run.finish().result == ["SCARCE A", "SCARCE B"]
    assert run.elapsed == DAY, "the second one was let go when the first had ended"


class OfBuild(WorkflowTest[..., Any]):
    """A version whose tasks go to workers of build b2."""

    def settings(self, run_id: str, version: int = 1) -> Settings:
        made = super().settings(run_id, version)
        registered = RegisteredWorkflow(self.workflow.spec, version, "", build="b2")
        return replace(made, definitions={**made.definitions, self.workflow.name: Definition(registered)})


def queues(run: Run[Any]) -> list[tuple[int, str]]:
    """Where attempts went."""
    return [
        (event.data["attempt"], event.data["queue"]) for event in run.events if event.kind == "task-scheduled"
    ]


def test_the_next_attempt_goes_to_the_build_of_the_other_version() -> None:
    @workflow(name="order")
    async def one(what: str) -> str:
        return await ship.options(retries=2)(what)

    test, after = WorkflowTest(one, app), OfBuild(one, app)
    test.task(ship).raises(OSError("down")).takes(timedelta(hours=1))
    run = test.start("a").migrate(after)
    assert run.waiting_for == "task ship (attempt 1) on queue moves", "a worker may have it"
    assert run.finish().result == "shipped a"
    assert queues(run) == [(1, "moves"), (2, "moves_b2")]


def test_an_attempt_that_waits_for_its_limit_goes_to_the_build_of_the_other_version() -> None:
    @workflow(name="order")
    async def two(what: str) -> list[str]:
        return list(await gather(scarce("a"), scarce("b")))

    test = WorkflowTest(two, limited)
    test.task(scarce).takes(DAY)
    run = test.start("x").migrate(OfBuild(two, limited))
    assert run.finish().result == ["scarce a", "scarce b"]
    assert queues(run) == [(1, "limited"), (1, "limited_b2")]


def test_a_permit_of_a_call_that_is_given_up_is_returned() -> None:
    @workflow(name="order")
    async def waits(what: str) -> str:
        return await scarce(what)

    @workflow(name="order")
    async def asks_again(what: str) -> str:
        await sleep(DAY)
        return await scarce(f"{what}!")

    test = WorkflowTest(waits, limited)
    test.task(scarce).takes(10 * DAY)
    run = test.start("x")
    there = asks_again.spec.nodes[0].line
    run = run.migrate(WorkflowTest(asks_again, limited), lines={waits.spec.nodes[0].line: there})
    assert run.finish().result == "scarce x!"
    assert run.elapsed == DAY


def test_a_permit_is_returned_where_the_task_has_no_limit_any_more() -> None:
    free = App("free")

    @free.task(name="scarce")
    def plenty(what: str) -> str:
        return f"plenty of {what}"

    @workflow(name="order")
    async def two(what: str) -> list[str]:
        return list(await gather(scarce("a"), scarce("b")))

    @workflow(name="order")
    async def two_at_once(what: str) -> list[str]:
        return list(await gather(plenty("a"), plenty("b")))

    @workflow(name="order")
    async def one(what: str) -> str:
        return await scarce(what)

    @workflow(name="order")
    async def one_at_once(what: str) -> str:
        return await plenty(what)

    test = WorkflowTest(two, limited)
    test.task(scarce).takes(DAY)
    with pytest.raises(Refused, match="waits for a limit that it does not have there"):
        test.start("x").migrate(WorkflowTest(two_at_once, free))
    test_of_one = WorkflowTest(one, limited)
    test_of_one.task(scarce).takes(DAY)
    run = test_of_one.start("x")
    [limiter] = run._world.limiters.values()
    assert len(limiter.taken) == 1
    run = run.migrate(WorkflowTest(one_at_once, free))
    [limiter] = run._world.limiters.values()
    assert limiter.taken == {}
    assert run.finish().result == "scarce x"
