"""The shop's workers.

    dressage worker online_retail.worker:app

A handler has the parameters of its task and says nothing of retries, queues or brokers. What it returns or
raises is reported; a `WorkflowFailure` is an answer, any other exception a fault that is retried.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from dressage.flow import App
from dressage.worker import current_task
from online_retail import workflow as shop
from online_retail.outside import bank_declines, gateway_times_out, seconds_of
from online_retail.workflow import CardDeclined, Line
from online_retail.workflow import process_order as process_order  # so that `dressage dev` registers it too

app = App("shop")


class GatewayTimeout(Exception):
    """The payment gateway did not answer: nobody knows, so ask again."""


@app.handles(shop.price)
async def price(lines: list[Line]) -> Decimal:
    return sum((line.quantity * line.unit_price for line in lines), Decimal(0))


@app.handles(shop.reserve)
async def reserve(invoice: str, lines: list[Line]) -> str:
    await asyncio.sleep(seconds_of("reserve", invoice, 2, 8))
    return f"R-{invoice}"


@app.handles(shop.release)
async def release(reservation: str) -> None:
    await asyncio.sleep(seconds_of("release", reservation, 2, 4))


@app.handles(shop.charge)
async def charge(invoice: str, amount: Decimal) -> str:
    attempt = current_task().attempt
    await asyncio.sleep(seconds_of("charge", invoice, 10, 40))
    if gateway_times_out(invoice, attempt):
        raise GatewayTimeout(f"no answer for invoice {invoice}")
    if bank_declines(invoice):
        raise CardDeclined(f"the bank declined {amount}", invoice=invoice)
    return f"payment-{invoice}"


@app.handles(shop.credit)
async def credit(invoice: str, customer: str, amount: Decimal) -> str:
    await asyncio.sleep(seconds_of("credit", invoice, 5, 20))
    return f"credit-note-{invoice}"


@app.handles(shop.ship)
async def ship(reservation: str, country: str) -> str:
    longest_ms = 10 if country == "United Kingdom" else 30
    await asyncio.sleep(seconds_of("ship", reservation, 3, longest_ms))
    return f"P{reservation.removeprefix('R')}"


@app.handles(shop.notify)
def notify(invoice: str, customer: str | None, text: str) -> None:
    """A plain function: it may block, so the worker runs it in a thread."""
