"""What must come of each order, worked out from the CSV files without the workflow, the worker or Dressage.

It is what the demo compares every run with. It shares one thing with the worker: the hash that decides what
banks and gateways do.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from online_retail.outside import bank_declines, gateway_times_out

DATA = Path(__file__).with_name("data")
CHARGE_ATTEMPTS_MAX = 7
RUN_ID_PREFIX = "order-"


@dataclass(frozen=True)
class Outcome:
    """How an order ends: its status, the failure it ends with, and how many attempts each task needs."""

    status: str
    failure: str | None
    attempts: Mapping[str, int]


def outcomes(folder: Path = DATA) -> dict[str, Outcome]:
    """The outcome of every invoice, by its number."""
    amounts: defaultdict[str, Decimal] = defaultdict(Decimal)
    customers: dict[str, str] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                amounts[row["InvoiceNo"]] += int(row["Quantity"]) * Decimal(row["UnitPrice"])
                customers[row["InvoiceNo"]] = row["CustomerID"]
    return {number: outcome(number, amount, bool(customers[number])) for number, amount in amounts.items()}


def outcome(number: str, amount: Decimal, has_customer: bool) -> Outcome:
    """The outcome of one order."""
    if number[0] == "C" and not has_customer:
        return Outcome("REJECTED", "nobody-to-credit", {"price": 1})
    if number[0] == "C":
        return Outcome("CANCELLED", None, {"price": 1, "credit": 1, "notify": 1})
    if amount <= 0:
        return Outcome("REJECTED", "nothing-to-charge", {"price": 1})
    if not has_customer and amount > 1000:
        return Outcome("REJECTED", "guest-limit-exceeded", {"price": 1})
    return _charged(number)


def _charged(number: str) -> Outcome:
    failed = 0
    while failed < CHARGE_ATTEMPTS_MAX and gateway_times_out(number, failed + 1):
        failed += 1
    begun = {"price": 1, "reserve": 1, "charge": min(failed + 1, CHARGE_ATTEMPTS_MAX)}
    if failed == CHARGE_ATTEMPTS_MAX:
        return Outcome("RECEIVED", "GatewayTimeout", begun)
    if bank_declines(number):
        return Outcome("DECLINED", "card-declined", begun | {"release": 1, "notify": 1})
    return Outcome("FULFILLED", None, begun | {"ship": 1, "notify": 1})
