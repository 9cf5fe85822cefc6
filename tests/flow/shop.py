"""An order workflow as authors write one: the example of the design, reduced to what the language has now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum

from dressage.flow import App, Exponential, Searchable, WorkflowFailure, sleep, task, workflow


class CardDeclined(WorkflowFailure): ...


class CardStolen(CardDeclined):
    order: str = ""


class Rejected(WorkflowFailure):
    limit: Decimal | None = None


class Priority(Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class Order:
    id: str
    item: str
    quantity: int = 1
    priority: Priority = Priority.LOW


@dataclass
class Receipt:
    order_id: str
    amount: Decimal


@dataclass
class OrderView:
    status: Searchable[str] = "RECEIVED"
    attempts: int = 0


LIMIT = Decimal(10_000)
app = App("shop")


@app.task
async def fetch_price(item: str, quantity: int = 1) -> Decimal:
    return Decimal("9.50") * quantity


@task(retries=3, backoff=Exponential(base=timedelta(seconds=1), factor=2.0, limit=timedelta(minutes=1)))
async def charge_card(order: Order, price: Decimal) -> Receipt:
    raise NotImplementedError


@task
def release_stock(reservation: str) -> None:
    raise NotImplementedError


@app.task
def reserve_stock(order: Order) -> str:
    return f"reservation-{order.id}"


@app.handles(charge_card)
def charge(order: Order, price: Decimal) -> Receipt:
    if order.item == "stolen":
        raise CardStolen("reported", order=order.id)
    return Receipt(order.id, price)


@workflow(name="process-order", retries=1)
async def process_order(order: Order) -> Receipt:
    """Prices, reserves, charges and ships an order."""
    view, price = OrderView(), await fetch_price(order.item, quantity=order.quantity)
    if price > LIMIT and order.priority is not Priority.HIGH:
        raise Rejected(f"{price:.2f} is too much for {order.id}", limit=LIMIT)
    reservation = await reserve_stock(order)
    while True:
        view.attempts += 1
        try:
            receipt = await charge_card.options(retries=5)(order, price)
            view.status = "SHIPPING" if view.attempts == 1 else "SHIPPING LATE"
            return receipt
        except CardStolen as error:
            await release_stock(reservation)
            raise Rejected(f"card {error.message}") from error
        except CardDeclined:
            if view.attempts == 3:
                await release_stock(reservation)
                raise
            view.status = "DECLINED"
            await sleep(timedelta(minutes=view.attempts))
