"""An order: the item is reserved and paid, and after two hours without payment it goes back on the shelf."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from dressage.flow import App, Event, Searchable, WorkflowFailure, workflow

app = App("orders")

paid = Event("paid", of=Decimal)


class SoldOut(WorkflowFailure): ...  # an answer, which nobody retries


@dataclass
class Order:
    item: str
    amount: Decimal


@dataclass
class View:
    """What anybody may look up while the run goes on."""

    status: Searchable[str] = "RESERVING"


@app.task(retries=3)
async def reserve(item: str) -> str:
    if item == "unicorn":
        raise SoldOut(f"there is no {item} left")
    return f"shelf 7, {item}"


@app.task(retries=3)
def release(reservation: str) -> None:
    print(f"back on the shelf: {reservation}", flush=True)


@app.task(retries=3)
def send(reservation: str) -> str:
    return f"parcel with {reservation}"


@workflow
async def order(order: Order) -> str:
    view = View()
    reservation = await reserve(order.item)
    view.status = "AWAITING_PAYMENT"
    try:
        amount = await paid.wait(timeout=timedelta(hours=2))
    except TimeoutError:
        await release(reservation)
        view.status = "EXPIRED"
        return "not paid in time"
    if amount < order.amount:
        await release(reservation)
        view.status = "UNDERPAID"
        return f"paid {amount} of {order.amount}"
    parcel = await send(reservation)
    view.status = "SENT"
    return parcel
