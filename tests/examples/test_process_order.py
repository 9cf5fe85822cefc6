"""The workflow, run as plain Python with the worker's own functions, against the prediction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest

from dressage.flow import WorkflowFailure
from dressage.protocol.spec import TaskDef
from online_retail import outside, worker, workflow
from online_retail.expected import CHARGE_ATTEMPTS_MAX, RUN_ID_PREFIX, Outcome, outcome, outcomes
from online_retail.orders import Invoice, read_invoices

pytestmark = pytest.mark.anyio

TASKS = (
    workflow.price,
    workflow.reserve,
    workflow.release,
    workflow.charge,
    workflow.credit,
    workflow.ship,
    workflow.notify,
)


class Attempts(Counter[str]):
    """Counts the attempts of each task of one run, and retries them as the engine does."""

    def watched(self, definition: TaskDef, function: Callable[..., Any]) -> Callable[..., Any]:
        retry = definition.retry
        attempts_max = 1 + (retry.retries or 0 if retry else 2)

        async def call(*args: Any, **keywords: Any) -> Any:
            for attempt in range(1, attempts_max + 1):
                self[definition.name] += 1
                number.attempt = attempt
                try:
                    result = function(*args, **keywords)
                    return await result if asyncio.iscoroutine(result) else result
                except worker.GatewayTimeout:
                    if attempt == attempts_max:
                        raise
            raise AssertionError

        return call


class Current:
    """Stands for the worker's context: handlers ask it for the number of their attempt."""

    attempt = 1


number = Current()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "seconds_of", lambda *_: 0.0)
    monkeypatch.setattr(worker, "current_task", lambda: number)


@pytest.fixture
def faked() -> Iterator[Attempts]:
    attempts = Attempts()
    with ExitStack() as stack:
        for task in TASKS:
            function = worker.app.handlers[task.name].function
            stack.enter_context(task.faked(attempts.watched(task.definition, function)))
        yield attempts


async def outcome_of(invoice: Invoice, attempts: Attempts) -> Outcome:
    """What the workflow makes of an invoice, in the words of the prediction."""
    attempts.clear()
    views: list[workflow.OrderView] = []
    original = workflow.OrderView

    def view(**values: Any) -> workflow.OrderView:
        views.append(original(**values))
        return views[-1]

    lines = [workflow.Line(line.sku, line.quantity, line.unit_price) for line in invoice.lines]
    order = workflow.Order(invoice.number, invoice.customer, invoice.country, lines)
    failure = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "OrderView", view)
        try:
            await workflow.process_order(order)
        except WorkflowFailure as raised:
            failure = raised.name
    return Outcome(views[0].status, failure, dict(attempts))


async def test_every_invoice_ends_as_predicted(faked: Attempts) -> None:
    expected = outcomes()
    wrong = {
        invoice.number: (await outcome_of(invoice, faked), expected[invoice.number])
        for invoice in read_invoices()
        if await outcome_of(invoice, faked) != expected[invoice.number]
    }
    assert wrong == {}


def test_every_kind_of_outcome_occurs() -> None:
    assert Counter((each.status, each.failure) for each in outcomes().values()) == {
        ("FULFILLED", None): 780,
        ("CANCELLED", None): 125,
        ("REJECTED", "nothing-to-charge"): 118,
        ("DECLINED", "card-declined"): 32,
        ("REJECTED", "guest-limit-exceeded"): 22,
        ("REJECTED", "nobody-to-credit"): 11,
    }


def test_some_charges_need_more_than_one_attempt() -> None:
    assert sum(each.attempts.get("charge", 0) > 1 for each in outcomes().values()) > 30


def test_no_charge_needs_more_attempts_than_it_may_have() -> None:
    assert max(each.attempts.get("charge", 0) for each in outcomes().values()) < CHARGE_ATTEMPTS_MAX


def test_the_prediction_allows_as_many_attempts_as_the_workflow() -> None:
    retry = workflow.charge.definition.retry
    assert retry is not None
    assert retry.retries == CHARGE_ATTEMPTS_MAX - 1


@pytest.mark.parametrize(("amount", "status"), [("1000.00", "FULFILLED"), ("1000.01", "REJECTED")])
def test_a_guest_may_order_for_exactly_the_limit(amount: str, status: str) -> None:
    invoice = next(str(n) for n in range(100) if not outside.bank_declines(str(n)))
    assert outcome(invoice, Decimal(amount), has_customer=False).status == status


def test_a_gateway_that_never_answers_is_predicted_as_a_technical_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("online_retail.expected.gateway_times_out", lambda *_: True)
    assert outcome("1", Decimal(5), has_customer=True).failure == "GatewayTimeout"


def test_every_task_of_the_workflow_has_a_handler() -> None:
    assert {task.name for task in workflow.process_order.spec.tasks} <= set(worker.app.handlers)


def test_the_worker_consumes_the_queue_of_the_tasks() -> None:
    assert worker.app.queues == (workflow.QUEUE,)


def test_the_trigger_gives_the_run_id_that_the_prediction_looks_for() -> None:
    from dressage.brokers.interface import Delivery
    from dressage.connectors import load_triggers
    from dressage.connectors.mapping import EventMapping, Start
    from online_retail.orders import DATA, event_of

    (trigger,) = load_triggers(DATA.with_name("triggers.toml"))
    event = event_of(read_invoices()[0])
    placed = Delivery("shop.orders.placed", event, None, 1, 1, 1, time_ns=0, reply="")
    start = EventMapping(trigger).asked_by(placed, "id")
    assert isinstance(start, Start)
    assert start.run_id == f"{RUN_ID_PREFIX}536365"
