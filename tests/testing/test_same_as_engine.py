"""`WorkflowTest`, the engine on a real server, and plain Python: a workflow with the same tasks comes to the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import pytest
from tests.examples import cases as examples  # pyright: ignore[reportMissingImports]
from tests.testing.ways import Case, by_engine, by_harness, by_python  # pyright: ignore[reportMissingImports]

from dressage.flow import App, Workflow

pytestmark = pytest.mark.anyio

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"


# -- the cases -------------------------------------------------------------------------------------
def shop_cases(shop: ModuleType) -> Iterator[tuple[str, Case]]:
    def bank(*answers: Exception | None) -> Callable[[], App]:
        def make() -> App:
            left = list(answers)
            app = App("shop")
            app.register(shop.fetch_price, shop.fetch_price.function)
            app.register(shop.reserve_stock, shop.reserve_stock.function)

            app.register(shop.release_stock, release)

            def charge(order: Any, price: Decimal) -> Any:
                answer = left.pop(0) if left else None
                if answer is not None:
                    raise answer
                return shop.Receipt(order.id, price)

            app.register(shop.charge_card, charge)
            return app

        return make

    def release(reservation: str) -> None:
        assert reservation.startswith("reservation-")

    order = shop.Order("o-1", "lamp", 3)
    declined = shop.CardDeclined("no cover")
    yield "paid", Case(shop.process_order, (order,), bank())
    yield "paid at the second try", Case(shop.process_order, (order,), bank(declined))
    yield "declined for ever", Case(shop.process_order, (order,), bank(declined, declined, declined))
    yield "stolen", Case(shop.process_order, (order,), bank(shop.CardStolen("reported")))
    yield "too much", Case(shop.process_order, (shop.Order("o-2", "lamp", 2_000),), bank())
    urgent = shop.Order("o-3", "lamp", 2_000, shop.Priority.HIGH)
    yield "much and urgent", Case(shop.process_order, (urgent,), bank())
    yield "a fault, then paid", Case(shop.process_order, (order,), bank(OSError("down")), plain=False)


def retail_cases() -> Iterator[tuple[str, Case]]:
    """An invoice for each way that an order can end, and one whose payment needs several attempts."""
    worker = importlib.import_module("online_retail.worker")
    orders = importlib.import_module("online_retail.orders")
    outcomes = importlib.import_module("online_retail.expected").outcomes()
    chosen: dict[str, Any] = {}
    for invoice in orders.read_invoices():
        outcome = outcomes[invoice.number]
        again = " at a later attempt" if outcome.attempts.get("charge", 0) > 1 else ""
        chosen.setdefault(f"{outcome.failure or outcome.status.lower()}{again}", (invoice, outcome))
    for name, (invoice, outcome) in chosen.items():
        order = {
            "invoice": invoice.number,
            "customer": invoice.customer,
            "country": invoice.country,
            "lines": invoice.lines,
        }
        arguments = worker.process_order.signature.decode_args(msgspec.json.encode({"order": order}))
        # The gateway asks which attempt it is, and Python alone knows of none.
        plain = "charge" not in outcome.attempts
        yield f"retail: {name}", Case(worker.process_order, (arguments["order"],), lambda: worker.app, plain)


# -- the same --------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def cases(shop: ModuleType) -> dict[str, Case]:
    return dict([*shop_cases(shop), *retail_cases()])


async def test_every_case_comes_to_the_same_on_the_engine(cases: dict[str, Case], engine: str) -> None:
    for name, case in cases.items():
        assert by_harness(case) == await by_engine(case, engine), name


async def test_every_case_comes_to_the_same_in_plain_python(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: case for name, case in cases.items() if case.plain}
    assert len(plain) > 8
    for name, case in plain.items():
        harness = by_harness(case)
        harness.events = []
        assert await by_python(case, monkeypatch) == harness, name


def test_the_cases_end_in_every_way(cases: dict[str, Case]) -> None:
    ends = {name: by_harness(case) for name, case in cases.items()}
    assert {seen.status for seen in ends.values()} == {"completed", "failed"}
    kinds = {kind for seen in ends.values() for kind in seen.kinds}
    assert kinds >= {"task-failed", "failure-caught", "sleep-started", "sleep-ended", "run-failed"}


def test_every_workflow_of_the_examples_has_a_case(cases: dict[str, Case]) -> None:
    modules = [
        importlib.import_module(".".join(path.relative_to(EXAMPLES).with_suffix("").parts))
        for path in sorted(EXAMPLES.rglob("*.py"))
        if "@workflow" in path.read_text()
    ]
    there = {found for module in modules for found in vars(module).values() if isinstance(found, Workflow)}
    cased = [*cases.values(), *examples.CASES.values()]
    tried = {each for case in cased for each in case.workflow.with_children()}
    assert there
    untried = {found.spec.module for found in there - tried}
    assert untried == {"signup_outbox.workflow", "node_worker.workflow"}, (
        "the tasks of one write to a database, those of the other are not in Python: both have tests of their own"
    )
