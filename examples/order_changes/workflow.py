"""An order that its customer changes, or cancels, while it is on its way: each of that interrupts what is being done.

`dressage run post o-7 order-cancelled '"found it cheaper"'`, or `address-changed` with `{"street": "Main St 5", "city":
"Bonn"}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from dressage.flow import App, Event, Saga, Searchable, WorkflowFailure, interruptible, sleep, workflow

app = App("order-changes")


class OrderCancelled(WorkflowFailure):
    """The customer wants it no more."""


@dataclass
class Address:
    street: str
    city: str


@dataclass
class Order:
    id: str
    item: str
    price: Decimal
    address: Address


@dataclass
class OrderView:
    address: Address
    status: Searchable[str] = "NEW"
    changes: int = 0


address_changed = Event("address-changed", of=Address)
order_cancelled = Event("order-cancelled", of=str)


@app.task(retries=3)
def charge(order: str, price: Decimal) -> str:
    return f"payment-{order}"


@app.task(retries=10, exhausted="wait")
def refund(payment: str) -> None: ...


@app.task(retries=3)
def confirm_address(order: str, address: Address) -> None: ...


@app.task(retries=3)
def hand_over(order: str, address: Address) -> str:
    return f"{order} to {address.street}, {address.city}"


@workflow
async def deliver(order: Order) -> str:
    view = OrderView(order.address)

    async def fulfil() -> str:
        async with Saga() as saga:
            payment = await charge(order.id, order.price)
            saga.undo(refund, payment)
            view.status = "PACKING"
            await sleep(timedelta(hours=8))
            # It may be another one by now.
            tracking = await hand_over(order.id, view.address)
        view.status = "SHIPPED"
        return tracking

    async def readdress(address: Address) -> None:
        await confirm_address(order.id, address)
        view.address = address
        view.changes += 1

    async def give_up(reason: str) -> None:
        raise OrderCancelled(reason)

    try:
        return await interruptible(
            fulfil(), address_changed.interrupts(readdress), order_cancelled.interrupts(give_up)
        )
    except OrderCancelled:
        view.status = "CANCELLED"
        raise
