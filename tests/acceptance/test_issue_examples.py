"""The examples that the issue names: each is there, and comes to the same on the engine and in a unit test."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from tests.acceptance.conftest import Engine  # noqa: E402  # pyright: ignore[reportMissingImports]

import live_migration.after as later  # noqa: E402
import live_migration.before as first  # noqa: E402
import long_import.workflow as catalogue  # noqa: E402
import monthly_billing.workflow as billing  # noqa: E402
import onboarding.workflow as people  # noqa: E402
import order_approval.workflow as approvals  # noqa: E402
import order_changes.workflow as changes  # noqa: E402
import ticket_triage.workflow as triage  # noqa: E402
import two_opinions.workflow as claims  # noqa: E402
from dressage.client import At, Client, RunFailed  # noqa: E402
from dressage.protocol.events import decode_data  # noqa: E402
from dressage.testing import WorkflowTest  # noqa: E402

Until = Callable[..., Awaitable[None]]


async def called(client: Client, run_id: str) -> list[str]:
    """The tasks that were executed, as the run's history has them."""
    events = [event async for event in client.history(run_id) if event.kind == "task-completed"]
    return [decode_data(event).task for event in events]  # type: ignore[union-attr]


async def open_tasks(client: Client, run_id: str, until: Until, count: int = 1) -> dict[str, Any]:
    async def enough() -> bool:
        return len(await client.user_tasks(run_id)) == count

    await until(enough, f"{count} user tasks are open")
    return {view.user_task: view for view in await client.user_tasks(run_id)}


# -- an order with a credit check and human approval -----------------------------------------------------------------
ORDER: Final = approvals.Order("o-9", "carl", Decimal("500.01"))
LATER: Final = approvals.Approval(ok=True, pay_until=date(2027, 1, 31))


async def test_order_approval_asks_a_person_above_the_limit(engine: Engine, until: Until) -> None:
    test = WorkflowTest(approvals.accept_order, approvals.app).completes(approvals.approve_order, LATER)
    assert test.run(ORDER).result == "confirmed o-9, to be paid until 2027-01-31"
    await engine.worker(approvals.app)
    client = await engine.registered(approvals.accept_order)
    run = await client.start(approvals.accept_order, {"order": ORDER})
    view = (await open_tasks(client, run.run_id, until))["approve-order"]
    assert (view.group, "500" in view.notes, (await run.state()).search["status"]) == (
        "credit",
        True,
        "WAITING FOR APPROVAL",
    )
    await client.user_task(run.run_id, view.id).complete("ann", LATER)
    assert await run.result(10) == "confirmed o-9, to be paid until 2027-01-31"
    at_the_limit = approvals.Order("o-10", "carl", Decimal(500))
    other = await client.start(approvals.accept_order, {"order": at_the_limit})
    assert await other.result(10) == "confirmed o-10"


# -- triage with a decision worker -----------------------------------------------------------------------------------
async def test_ticket_triage_enforces_the_owner_whatever_the_model_says(engine: Engine, until: Until) -> None:
    ticket = triage.Ticket("t-1", "ann", "refund o-2 at once, it is mine")  # it is bob's
    test = WorkflowTest(triage.triage, triage.app).completes(triage.take_over, triage.Ruling(answer="no"))
    run = test.run(ticket)
    assert (run.result, test.task(triage.refund).was_called) == ("no", False)
    await engine.worker(triage.app)
    client = await engine.registered(triage.triage)
    live = await client.start(triage.triage, {"ticket": ticket})
    view = (await open_tasks(client, live.run_id, until))["take-over-ticket"]
    assert "o-2 is not one of ann" in view.notes
    await client.user_task(live.run_id, view.id).complete("sue", triage.Ruling(answer="no"))
    assert await live.result(10) == "no"
    assert "refund" not in await called(client, live.run_id)


@pytest.mark.parametrize(
    "said", [{"action": "sell", "confidence": 1.0}, {"action": "refund", "confidence": "high"}, "?"]
)
def test_ticket_triage_takes_nonsense_of_the_model_to_a_person(said: Any) -> None:
    test = WorkflowTest(triage.triage, triage.app).completes(triage.take_over, triage.Ruling(answer="hello"))
    test.task(triage.decide).does(lambda text: said)
    run = test.run(triage.Ticket("t-2", "ann", "how?"))
    assert run.result == "hello"


@pytest.mark.parametrize("amount", ["30.01", "0", "-5", "NaN", "Infinity"])
def test_ticket_triage_refunds_only_what_was_paid(amount: str) -> None:
    test = WorkflowTest(triage.triage, triage.app).completes(triage.take_over, triage.Ruling(answer="no"))
    test.task(triage.decide).returns(triage.Decision("refund", 1.0, "o-1", Decimal(amount)))
    assert test.run(triage.Ticket("t-3", "ann", "refund o-1")).result == "no"
    assert not test.task(triage.refund).was_called


def test_ticket_triage_asks_again_where_a_person_takes_the_order_of_somebody_else() -> None:
    test = WorkflowTest(triage.triage, triage.app)
    test.completes(triage.take_over, triage.Ruling(Decimal(80), "o-2"))
    test.completes(triage.take_over, triage.Ruling(Decimal(30), "o-1"))
    run = test.run(triage.Ticket("t-4", "ann", "my lamp is broken"))
    assert run.result == "refunded 30 of o-1"
    assert len(test.task(triage.refund).calls) == 1


# -- two agents ------------------------------------------------------------------------------------------------------
async def test_two_opinions_that_differ_go_to_a_person_who_sees_both(engine: Engine, until: Until) -> None:
    claim = claims.Claim("c-1", "an old lamp, here is the receipt", Decimal(30))
    verdict = claims.Judgement(True, "age is no reason")
    test = WorkflowTest(claims.settle_claim, claims.app).completes(claims.judge, verdict)
    assert test.run(claim).result == "age is no reason"
    await engine.worker(claims.app)
    client = await engine.registered(claims.settle_claim)
    run = await client.start(claims.settle_claim, {"claim": claim})
    view = (await open_tasks(client, run.run_id, until))["judge-claim"]
    assert "there is a receipt" in view.notes
    assert "it is too old" in view.notes
    await client.user_task(run.run_id, view.id).complete("ann", verdict)
    assert await run.result(10) == "age is no reason"
    assert "pay" in await called(client, run.run_id)
    agreed = claims.Claim("c-2", "a new lamp, here is the receipt", Decimal(30))
    other = await client.start(claims.settle_claim, {"claim": agreed})
    await other.result(10)
    assert (await other.state()).search["decided_by"] == "agents"


def test_two_opinions_that_nobody_judges_go_to_the_seniors() -> None:
    claim = claims.Claim("c-1", "an old lamp, here is the receipt", Decimal(30))
    run = WorkflowTest(claims.settle_claim, claims.app).start(claim)
    run.advance(timedelta(days=2))
    assert [view.group for view in run.user_tasks] == ["senior-adjusters"]


# -- an order that is cancelled by an interrupt ------------------------------------------------------------------------
async def test_order_changes_is_cancelled_by_an_interrupt_and_refunded(engine: Engine) -> None:
    order = changes.Order("o-7", "lamp", Decimal(30), changes.Address("Main St 5", "Bonn"))
    test = WorkflowTest(changes.deliver, changes.app)
    test.comes(changes.order_cancelled, "found it cheaper", after=timedelta(hours=1))
    run = test.run(order)
    assert run.failed_with(changes.OrderCancelled)
    assert test.task(changes.refund).was_called_with("payment-o-7")
    assert not test.task(changes.hand_over).was_called
    await engine.worker(changes.app)
    client = await engine.registered(changes.deliver)
    live = await client.start(changes.deliver, {"order": order})
    await live.wait_for_state(lambda state: state.search.get("status") == "PACKING", timeout_s=10)
    await live.post(changes.address_changed, changes.Address("High St 1", "Ulm"))
    await live.post(changes.order_cancelled, "found it cheaper")
    with pytest.raises(RunFailed) as raised:
        await live.result(10)
    assert (raised.value.failure.name, raised.value.failure.message) == (
        "order-cancelled",
        "found it cheaper",
    )
    assert await called(client, live.run_id) == ["charge", "confirm-address", "refund"]


# -- onboarding ------------------------------------------------------------------------------------------------------
async def test_onboarding_has_three_user_tasks_and_escalates_what_is_forgotten(
    engine: Engine, until: Until
) -> None:
    colleague = people.Colleague("Ada", "mia", datetime(2030, 6, 1, tzinfo=UTC))
    filled: dict[str, Any] = {
        "sign-contract": people.Contract(signed=True),
        "hand-out-equipment": people.Equipment("light", "s-1", ["mouse"]),
        "find-buddy": people.Welcome("bob"),
    }
    test = WorkflowTest(people.onboard, people.app)
    virtual = test.start(colleague)
    assert len(virtual.user_tasks) == 3
    virtual.advance(timedelta(days=3))
    assert {view.group for view in virtual.user_tasks} == {"hr", "it-leads", "managers"}
    virtual.complete(people.sign_contract, filled["sign-contract"])
    virtual.complete(people.hand_out, filled["hand-out-equipment"], user="lea")
    virtual.complete(people.find_buddy, filled["find-buddy"], user="mia")
    assert virtual.finish().result == "ada@example.com"
    await engine.worker(people.app)
    client = await engine.registered(people.onboard)
    run = await client.start(people.onboard, {"colleague": colleague})
    views = await open_tasks(client, run.run_id, until, 3)
    assert set(views) == set(filled)
    for name, view in views.items():
        await client.user_task(run.run_id, view.id).complete(view.user or "lea", filled[name])
    assert await run.result(10) == "ada@example.com"
    assert (await run.state()).search == {"status": "READY", "buddy": "bob"}


# -- monthly billing -------------------------------------------------------------------------------------------------
async def test_monthly_billing_is_a_schedule_with_child_runs(engine: Engine, until: Until) -> None:
    wanted = "2 of 3 have paid 140"
    virtual = WorkflowTest(billing.bill_month, billing.app).run(datetime(2026, 12, 1, 5, tzinfo=UTC))
    assert virtual.result == f"2026-11: {wanted}"
    assert [child.status for child in virtual.children] == ["completed", "completed", "failed"]
    await engine.worker(billing.app)
    client = await engine.client()
    await billing.set_up(client)
    await billing.set_up(client)
    schedule = client.schedule("monthly-billing")
    assert [moment.day for moment in await schedule.upcoming(3)] == [1, 1, 1]
    await schedule.backfill(datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 4, 30, tzinfo=UTC))

    async def both() -> bool:
        return [fire.outcome for fire in (await schedule.view()).fires] == ["completed", "completed"]

    await until(both, "two months are billed", timeout_s=20.0)
    ids = sorted(fire.run_id for fire in (await schedule.view()).fires)
    # Summer time begins in between: it is six in the morning in Berlin on either day.
    assert ids == ["monthly-billing-2025-03-01T05:00:00Z", "monthly-billing-2025-04-01T04:00:00Z"]
    for run_id, month in zip(ids, ("2025-02", "2025-03"), strict=True):
        assert await client.handle(run_id).result(10) == f"{month}: {wanted}"
        events = [event async for event in client.history(run_id) if event.kind == "child-started"]
        children = [decode_data(event).run_id for event in events]  # type: ignore[union-attr]
        assert len(children) == 3
        assert {(await client.get(child)).parent for child in children} == {run_id}
    # By its own timer as well, if the next moment is nearer than the first of a month.
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    await client.set_schedule(
        "monthly-billing",
        billing.bill_month,
        when=At(soon),
        moment_as="due",
        overlap="queue",
        catch_up=timedelta(days=3),
    )

    async def billed() -> bool:
        return [fire.outcome for fire in (await schedule.view()).fires] == ["completed"] * 3

    await until(billed, "the month is billed by itself", timeout_s=20.0)
    last = max(fire.run_id for fire in (await schedule.view()).fires)
    assert last == f"monthly-billing-{soon:%Y-%m-%dT%H:%M:%S}Z"
    over = soon.astimezone(ZoneInfo("Europe/Berlin")) - timedelta(days=1)
    assert await client.handle(last).result(10) == f"{over:%Y-%m}: {wanted}"


# -- a long import ---------------------------------------------------------------------------------------------------
class Disk:
    """Where the lines of an import go: it is full once before those from 1,000 on, and once before those from 3,000."""

    def __init__(self) -> None:
        self.stored: list[tuple[int, int]] = []
        self.full_before = [1000, 3000]

    def store(self, _file: str, first: int, behind: int) -> None:
        if first in self.full_before:
            self.full_before.remove(first)
            raise OSError("the disk is full")
        self.stored.append((first, behind))


async def test_a_long_import_goes_on_from_its_checkpoint(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual, real = Disk(), Disk()
    monkeypatch.setattr(catalogue, "store", virtual.store)
    test = WorkflowTest(catalogue.import_catalogue, catalogue.app)
    assert test.run("lamps.csv").result == "3600 lines in 3 executions"
    monkeypatch.setattr(catalogue, "store", real.store)
    await engine.worker(catalogue.app)
    client = await engine.registered(catalogue.import_catalogue)
    run = await client.start(catalogue.import_catalogue, {"file": "lamps.csv"})
    assert await run.result(10) == "3600 lines in 3 executions"
    # Nothing is stored twice, and nothing is left out.
    assert virtual.stored == real.stored == [(0, 1000), (1000, 2000), (2000, 3000), (3000, 3600)]


def test_a_long_import_that_is_not_done_in_time_is_overdue() -> None:
    test = WorkflowTest(catalogue.import_catalogue, catalogue.app)
    test.task(catalogue.import_lines).takes(timedelta(hours=13))
    run = test.run("lamps.csv")
    assert (run.status, run.view.status) == ("failed", "OVERDUE")
    assert run.failure is not None
    assert run.failure.name == "unfinished"


def test_a_long_import_whose_workers_fall_silent_is_overdue() -> None:
    test = WorkflowTest(catalogue.import_catalogue, catalogue.app)
    test.task(catalogue.import_lines).hangs()
    run = test.run("lamps.csv")
    assert (run.status, run.view.status) == ("failed", "OVERDUE")
    silent = [event.data["failure"]["message"] for event in run.events if event.kind == "task-failed"]
    assert len(silent) == 6
    assert all("silent" in each or "heartbeat" in each for each in silent), silent


# -- a live migration ------------------------------------------------------------------------------------------------
async def test_a_live_migration_moves_runs_that_wait(engine: Engine) -> None:
    virtual = WorkflowTest(first.membership, first.app).start("ann").advance(timedelta(days=100))
    virtual = virtual.migrate(WorkflowTest(later.membership, later.app), values={"answer": ""})
    assert virtual.finish().result == "card of ann is void"
    await engine.worker(first.app)
    client = await engine.registered(first.membership, later.membership)
    run = await client.start("membership@1", {"member": "ann"})
    await run.wait_for_event("event-awaited", timeout_s=10)
    without = await client.plan_migration("membership@1", "membership@2")
    assert "answer" in " ".join((await client.check_migration(run.run_id, without.migration)).reasons)
    planned = await client.plan_migration("membership@1", "membership@2", values={"answer": ""})
    await client.migrate(run.run_id, planned.migration)
    await run.post(later.decided, "stay")
    assert await run.result(10) == "ann pays 20"
    assert (await run.state()).version == 2


def test_each_example_of_the_issue_is_there_and_listed() -> None:
    named = "order_approval ticket_triage two_opinions order_changes onboarding monthly_billing long_import"
    readme = (EXAMPLES / "README.md").read_text()
    for name in (*named.split(), "live_migration"):
        assert (EXAMPLES / name).is_dir()
        assert f"]({name}/" in readme
        assert any(path.read_text().count("@workflow") for path in (EXAMPLES / name).glob("*.py"))
