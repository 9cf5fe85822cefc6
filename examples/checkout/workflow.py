"""E-commerce checkout: reserve the stock, charge the card, ship the parcel, notify the customer.

What was done is undone when a later step fails: no stock stays reserved and no money is kept for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from dressage.flow import App, Exponential, Searchable, TaskError, WorkflowFailure, gather, workflow

app = App("checkout")


class OutOfStock(WorkflowFailure):
    missing: list[str]


class CardDeclined(WorkflowFailure): ...


class NoCarrier(WorkflowFailure): ...


class PaymentUnavailable(WorkflowFailure): ...


@dataclass
class Line:
    sku: str
    quantity: int
    price: Decimal


@dataclass
class Order:
    id: str
    email: str
    address: str
    lines: list[Line]


@dataclass
class Receipt:
    order: str
    total: Decimal
    payment: str
    parcel: str


@dataclass
class CheckoutView:
    status: Searchable[str] = "NEW"
    total: Decimal = Decimal(0)


@app.task
def reserve(order: str, lines: list[Line]) -> str:
    missing = [line.sku for line in lines if line.quantity > 100]
    if missing:
        raise OutOfStock(f"not enough of {', '.join(missing)}", missing=missing)
    return f"reservation-{order}"


@app.task(retries=10)
def release(reservation: str) -> None: ...


# The payment gateway is asked again when it does not answer; "declined" is an answer.
@app.task(retries=4, backoff=Exponential(base=timedelta(milliseconds=50)))
def charge(order: str, email: str, total: Decimal) -> str:
    if email.endswith("@broke.example"):
        raise CardDeclined("no cover")
    if email.endswith("@offline.example"):
        raise ConnectionError("the gateway does not answer")
    return f"payment-{order}"


@app.task(retries=10)
def refund(payment: str) -> None: ...


@app.task
def ship(order: str, address: str) -> str:
    if address == "the moon":
        raise NoCarrier(f"nobody delivers to {address}")
    return f"parcel-{order}"


@app.task(retries=3)
def notify(email: str, text: str) -> None: ...


@workflow
async def checkout(order: Order) -> Receipt:
    total = sum((line.price * line.quantity for line in order.lines), Decimal(0))
    view = CheckoutView(total=total)
    reservation = await reserve(order.id, order.lines)

    async def give_up(status: str, reason: str) -> str:
        await gather(release(reservation), notify(order.email, f"Your order was not placed: {reason}"))
        return status

    try:
        payment = await charge(order.id, order.email, total)
    except CardDeclined as declined:
        view.status = await give_up("DECLINED", declined.message)
        raise
    except TaskError as error:
        view.status = await give_up("UNPAID", "we could not reach your bank")
        raise PaymentUnavailable(str(error)) from error
    view.status = "PAID"

    try:
        parcel = await ship(order.id, order.address)
    except NoCarrier as failure:
        await refund(payment)
        view.status = await give_up("REFUNDED", failure.message)
        raise
    view.status = "SHIPPED"
    await notify(order.email, f"Parcel {parcel} is on its way; you paid {total}")
    return Receipt(order.id, total, payment, parcel)
