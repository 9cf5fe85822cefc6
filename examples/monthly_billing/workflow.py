"""Billing at the first of each month: a schedule starts a run, and that a child run for each customer.

A run is for the month that is over at its moment, however late it is, also when somebody makes up for others.

`python -m monthly_billing.workflow` makes the schedule, of which `dressage schedule get monthly-billing` shows more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from dressage.client import Client, Cron
from dressage.flow import (
    App,
    ChildError,
    Exponential,
    Searchable,
    TaskError,
    WorkflowFailure,
    gather,
    workflow,
)

app = App("billing")
ZONE = ZoneInfo("Europe/Berlin")
AT_ONCE = 20
PATIENT = Exponential(base=timedelta(seconds=1), limit=timedelta(minutes=10))


class CardDeclined(WorkflowFailure):
    """The customer has to be asked for another one."""


@dataclass
class Customer:
    id: str
    card: str
    plan: str


@dataclass
class Bill:
    customer: str
    amount: Decimal


@dataclass
class BillingView:
    month: str = ""
    customers: int = 0
    status: Searchable[str] = "RUNNING"


PRICES = {"pro": Decimal(40), "team": Decimal(100)}


@app.task
def month_to_bill(due: datetime) -> str:
    """The month that is over then."""
    return f"{due.astimezone(ZONE) - timedelta(days=1):%Y-%m}"


@app.task(retries=5, backoff=PATIENT)
def customers_of(month: str) -> list[Customer]:
    return [Customer("ada", "4242", "pro"), Customer("bob", "4242", "team"), Customer("eve", "0000", "pro")]


@app.task(retries=8, backoff=PATIENT)
def charge(customer: Customer, month: str) -> Decimal:
    """Idempotent by the customer and the month."""
    if customer.card == "0000":
        raise CardDeclined(customer.id)
    return PRICES[customer.plan]


@app.task(retries=8, backoff=PATIENT)
def send_invoice(customer: str, month: str, amount: Decimal) -> None: ...


@app.task(retries=8, backoff=PATIENT)
def ask_for_card(customer: str) -> None: ...


@workflow
async def bill_customer(customer: Customer, month: str) -> Decimal:
    try:
        amount = await charge(customer, month)
    except CardDeclined:
        await ask_for_card(customer.id)
        raise
    await send_invoice(customer.id, month, amount)
    return amount


@workflow
async def bill_month(due: datetime) -> str:
    view = BillingView()
    view.month = await month_to_bill(due)

    async def bill(customer: Customer) -> Bill | None:
        # A run of its own for each: it can be found, stopped and looked at by itself, and fails alone.
        try:
            return Bill(customer.id, await bill_customer(customer, view.month))
        except (CardDeclined, TaskError, ChildError):
            return None

    customers = await customers_of(view.month)
    view.customers = len(customers)
    bills = await gather(*(bill(customer) for customer in customers), limit=AT_ONCE)
    paid = [each for each in bills if each is not None]
    view.status = "DONE" if len(paid) == len(bills) else "SOME UNPAID"
    total = sum([each.amount for each in paid], Decimal(0))
    return f"{view.month}: {len(paid)} of {len(bills)} have paid {total}"


async def set_up(client: Client) -> None:
    """Makes the schedule, as each deployment may: to set it again as it is changes nothing."""
    for each in bill_month.with_children():
        await client.register(each)
    await client.set_schedule(
        "monthly-billing",
        bill_month,
        when=Cron("0 6 1 * *", zone=ZONE.key),
        moment_as="due",
        overlap="queue",
        catch_up=timedelta(days=3),
    )


async def main() -> None:
    async with Client("nats://127.0.0.1:4222") as client:
        await set_up(client)


if __name__ == "__main__":
    asyncio.run(main())
