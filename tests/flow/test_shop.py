"""The example workflow, as plain Python against fakes and as a compiled spec: the same outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any

import msgspec
import pytest

Interpret = Callable[..., Any]
ORDER = {"id": "o-1", "item": "lamp", "quantity": 3}


@pytest.fixture
def tasks(shop: ModuleType) -> dict[str, Callable[..., Any]]:
    """Tasks as workers would run them, on the values that the engine sends."""
    return {
        "fetch-price": lambda item, quantity: Decimal("9.50") * quantity,
        "reserve-stock": lambda order: f"reservation-{order.id}",
        "charge-card": lambda order, price: {"order_id": order.id, "amount": str(price)},
        "release-stock": lambda reservation: None,
    }


def test_the_whole_way(shop: ModuleType, interpret: Interpret, tasks: dict[str, Callable[..., Any]]) -> None:
    outcome = interpret(shop.process_order.spec, tasks, {"order": ORDER})
    assert outcome.result == {"order_id": "o-1", "amount": "28.50"}
    assert [name for name, _ in outcome.calls] == ["fetch-price", "reserve-stock", "charge-card"]


def test_the_same_in_plain_python(shop: ModuleType) -> None:
    order = shop.Order("o-1", "lamp", 3)
    with shop.charge_card.faked(lambda order, price: shop.Receipt(order.id, price)):
        assert asyncio.run(shop.process_order(order)) == shop.Receipt("o-1", Decimal("28.50"))


def test_a_declined_card_is_tried_again_and_compensated(
    shop: ModuleType, interpret: Interpret, tasks: dict[str, Callable[..., Any]]
) -> None:
    def decline(order: Any, price: Any) -> Any:
        raise shop.CardDeclined("no cover")

    outcome = interpret(shop.process_order.spec, {**tasks, "charge-card": decline}, {"order": ORDER})
    assert outcome.failure == ("card-declined", "no cover", {})
    assert outcome.slept == [60_000, 120_000]
    assert outcome.calls[-1] == ("release-stock", {"reservation": "reservation-o-1"})


def test_a_family_is_caught_by_its_nearest_clause(
    shop: ModuleType, interpret: Interpret, tasks: dict[str, Callable[..., Any]]
) -> None:
    def stolen(order: Any, price: Any) -> Any:
        raise shop.CardStolen("reported")

    outcome = interpret(shop.process_order.spec, {**tasks, "charge-card": stolen}, {"order": ORDER})
    assert outcome.failure == ("rejected", "card reported", {"limit": None})


def test_a_failure_carries_its_details(
    shop: ModuleType, interpret: Interpret, tasks: dict[str, Callable[..., Any]]
) -> None:
    tasks["fetch-price"] = lambda item, quantity: Decimal(20_000)
    outcome = interpret(shop.process_order.spec, tasks, {"order": ORDER})
    assert outcome.failure == ("rejected", "20000.00 is too much for o-1", {"limit": "10000"})
    order = {**ORDER, "priority": "high"}
    assert interpret(shop.process_order.spec, tasks, {"order": order}).failure is None


def test_input_and_output_have_the_authors_types(shop: ModuleType) -> None:
    raw = shop.process_order.encode_input(shop.Order("o-1", "lamp"))
    assert msgspec.json.decode(raw)["order"]["priority"] == "low"
    receipt = shop.process_order.decode_output(b'{"order_id": "o-1", "amount": "1.10"}')
    assert receipt == shop.Receipt("o-1", Decimal("1.10"))
