"""`process-order`: what happens to an order, from its arrival to its end.

The function is compiled, not executed: each step is durable, and a crash of anything goes on where it was. The
tasks are contracts alone; `worker.py` has the functions that execute them, and could be another team's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from dressage.flow import Exponential, Searchable, WorkflowFailure, task, workflow

QUEUE = "shop"
GUEST_LIMIT = Decimal(1_000)


class Rejected(WorkflowFailure):
    """The shop does not accept the order."""


class NothingToCharge(Rejected):
    """It amounts to nothing, as a warehouse note that was booked as a sale does."""


class GuestLimitExceeded(Rejected):
    """Nobody whom we know orders for more than we lend to strangers."""


class NobodyToCredit(Rejected):
    """A cancellation that names no customer: there is no account that the money could go to."""


class CardDeclined(WorkflowFailure):
    """The bank said no. That is an answer and not a fault, so it is not asked again."""

    invoice: str


@dataclass
class Line:
    sku: str
    quantity: int
    unit_price: Decimal


@dataclass
class Order:
    invoice: str
    customer: str | None
    country: str
    lines: list[Line]


@dataclass
class Confirmation:
    invoice: str
    amount: Decimal
    reference: str


@dataclass
class OrderView:
    """What search and analytics see of an order."""

    status: Searchable[str] = "RECEIVED"
    guest: Searchable[bool] = False
    country: Searchable[str] = ""


@task(queue=QUEUE)
async def price(lines: list[Line]) -> Decimal:
    raise NotImplementedError


@task(queue=QUEUE)
async def reserve(invoice: str, lines: list[Line]) -> str:
    raise NotImplementedError


@task(queue=QUEUE)
async def release(reservation: str) -> None:
    raise NotImplementedError


# The payment gateway times out now and then. A second attempt carries the same idempotency key.
@task(
    queue=QUEUE, retries=6, backoff=Exponential(base=timedelta(milliseconds=100), limit=timedelta(seconds=1))
)
async def charge(invoice: str, amount: Decimal) -> str:
    raise NotImplementedError


@task(queue=QUEUE)
async def credit(invoice: str, customer: str, amount: Decimal) -> str:
    raise NotImplementedError


@task(queue=QUEUE)
async def ship(reservation: str, country: str) -> str:
    raise NotImplementedError


@task(queue=QUEUE)
async def notify(invoice: str, customer: str | None, text: str) -> None:
    raise NotImplementedError


@workflow(name="process-order", retries=2)
async def process_order(order: Order) -> Confirmation:
    view = OrderView(guest=order.customer is None, country=order.country)
    amount = await price(order.lines)

    if order.invoice.startswith("C"):
        if order.customer is None:
            view.status = "REJECTED"
            raise NobodyToCredit(f"cancellation {order.invoice} names no customer to credit {-amount} to")
        note = await credit(order.invoice, order.customer, -amount)
        await notify(order.invoice, order.customer, f"{-amount} is on its way back to you")
        view.status = "CANCELLED"
        return Confirmation(order.invoice, amount, note)

    if amount <= 0:
        view.status = "REJECTED"
        raise NothingToCharge(f"invoice {order.invoice} amounts to {amount}")
    if order.customer is None and amount > GUEST_LIMIT:
        view.status = "REJECTED"
        raise GuestLimitExceeded(f"guests order for at most {GUEST_LIMIT}, not for {amount}")

    reservation = await reserve(order.invoice, order.lines)
    try:
        payment = await charge(order.invoice, amount)
    except CardDeclined:
        await release(reservation)
        await notify(order.invoice, order.customer, "your bank declined the payment; nothing was sent")
        view.status = "DECLINED"
        raise
    view.status = "PAID"
    parcel = await ship(reservation, order.country)
    await notify(order.invoice, order.customer, f"paid by {payment}, parcel {parcel} is on its way")
    view.status = "FULFILLED"
    return Confirmation(order.invoice, amount, parcel)
