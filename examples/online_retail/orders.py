"""The shop's own view of its orders: real invoices, read from CSV and told as events.

Nothing here knows of Dressage, and neither does `publish.py`: this is the service upstream.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

DATA = Path(__file__).with_name("data")

T = TypeVar("T")


@dataclass
class Line:
    """So many of one article at one price. A cancellation has negative quantities."""

    sku: str
    quantity: int
    unit_price: Decimal


@dataclass
class Invoice:
    """One invoice. A number that begins with `C` is a cancellation; `customer` None is a guest, or nobody."""

    number: str
    placed_at: str
    customer: str | None
    country: str
    lines: list[Line] = field(default_factory=list[Line])

    @property
    def amount(self) -> Decimal:
        return sum((line.quantity * line.unit_price for line in self.lines), Decimal(0))


def read_invoices(folder: Path = DATA) -> list[Invoice]:
    """All invoices of the folder's files in the order of their first lines.

    An invoice is spread over many rows; rows of one article at one price become one line.
    """
    invoices: dict[str, Invoice] = {}
    for row in _rows(folder):
        number = row["InvoiceNo"]
        invoice = invoices.get(number)
        if invoice is None:
            placed_at = row["InvoiceDate"].replace(" ", "T")
            invoice = Invoice(number, placed_at, _customer(row["CustomerID"]), row["Country"])
            invoices[number] = invoice
        _add(invoice, row["StockCode"], int(row["Quantity"]), Decimal(row["UnitPrice"]))
    return list(invoices.values())


def sample(things: list[T], count: int | None) -> list[T]:
    """`count` of them, spread evenly over all, so that a few still show every kind; None means all."""
    if count is None or count >= len(things):
        return things
    return [things[index * len(things) // count] for index in range(count)]


def event_of(invoice: Invoice) -> bytes:
    """What the shop tells the world about an invoice. Money travels as text, because JSON's numbers round."""
    lines = [
        {"sku": line.sku, "quantity": line.quantity, "unit_price": str(line.unit_price)}
        for line in invoice.lines
    ]
    event = {
        "invoice": invoice.number,
        "placed_at": invoice.placed_at,
        "customer": invoice.customer,
        "country": invoice.country,
        "lines": lines,
    }
    return json.dumps(event).encode()


def malformed_events() -> list[bytes]:
    """Events that no order can be made of. The CSV files have none, so these were made up for the demo."""
    lines = [{"sku": "71053", "quantity": "two", "unit_price": "3.39"}]
    return [
        b"",
        b"two lanterns for Mr Smith, as always",
        json.dumps({"customer": "17850", "country": "United Kingdom", "lines": []}).encode(),
        json.dumps({"invoice": "999999", "customer": None, "country": "EIRE", "lines": lines}).encode(),
    ]


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _customer(text: str) -> str | None:
    """`17850` of a cell that says `17850.0`: some tool along the way took the number for a quantity."""
    return text.removesuffix(".0") or None


def _add(invoice: Invoice, sku: str, quantity: int, unit_price: Decimal) -> None:
    for line in _same(invoice.lines, sku, unit_price):
        line.quantity += quantity
        return
    invoice.lines.append(Line(sku, quantity, unit_price))


def _same(lines: Iterable[Line], sku: str, unit_price: Decimal) -> Iterator[Line]:
    return (line for line in lines if line.sku == sku and line.unit_price == unit_price)
