"""The shop's side: from rows to invoices to events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from online_retail.orders import Invoice, Line, event_of, malformed_events, read_invoices, sample
from online_retail.publish import events

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
HEADER: Final = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


@pytest.fixture(scope="module")
def invoices() -> list[Invoice]:
    return read_invoices()


def read(folder: Path, *rows: str) -> list[Invoice]:
    (folder / "2010-12-01.csv").write_text(HEADER + "\n".join(rows), encoding="utf-8")
    return read_invoices(folder)


def test_there_are_1088_invoices(invoices: list[Invoice]) -> None:
    assert len(invoices) == 1088


def test_rows_of_an_invoice_are_its_lines(tmp_path: Path) -> None:
    (invoice,) = read(
        tmp_path,
        "536365,85123A,HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
        "536365,71053,LANTERN,8,2010-12-01 08:26:00,3.39,17850.0,United Kingdom",
    )
    assert invoice.lines == [Line("85123A", 6, Decimal("2.55")), Line("71053", 8, Decimal("3.39"))]


def test_rows_of_one_article_at_one_price_are_one_line(tmp_path: Path) -> None:
    (invoice,) = read(
        tmp_path,
        "536365,85123A,HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
        "536365,85123A,HOLDER,2,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
        "536365,85123A,HOLDER,1,2010-12-01 08:26:00,0,17850.0,United Kingdom",
    )
    assert invoice.lines == [Line("85123A", 8, Decimal("2.55")), Line("85123A", 1, Decimal("0"))]


def test_a_customer_is_a_number_without_a_fraction(tmp_path: Path) -> None:
    (invoice,) = read(tmp_path, "536365,71053,LANTERN,8,2010-12-01 08:26:00,3.39,17850.0,United Kingdom")
    assert invoice.customer == "17850"


def test_no_customer_is_none(tmp_path: Path) -> None:
    (invoice,) = read(tmp_path, "536365,71053,LANTERN,8,2010-12-01 08:26:00,3.39,,United Kingdom")
    assert invoice.customer is None


def test_a_cancellation_has_a_negative_amount(tmp_path: Path) -> None:
    (invoice,) = read(tmp_path, "C536365,71053,LANTERN,-2,2010-12-01 08:26:00,3.39,17850.0,United Kingdom")
    assert invoice.amount == Decimal("-6.78")


def test_money_travels_as_text() -> None:
    invoice = Invoice("1", "2010-12-01T08:26:00", None, "EIRE", [Line("71053", 1, Decimal("0.10"))])
    assert json.loads(event_of(invoice))["lines"] == [{"sku": "71053", "quantity": 1, "unit_price": "0.10"}]


def test_a_sample_is_spread_over_all() -> None:
    assert sample(list(range(100)), 4) == [0, 25, 50, 75]


def test_a_sample_of_more_than_all_is_all() -> None:
    assert sample([1, 2], 3) == [1, 2]


def test_every_invoice_is_published(invoices: list[Invoice]) -> None:
    assert {event_of(invoice) for invoice in invoices} <= set(events(None, malformed=False))


def test_every_fiftieth_event_is_published_twice(invoices: list[Invoice]) -> None:
    published = Counter(events(None, malformed=False))
    assert [
        number for number, invoice in enumerate(invoices, 1) if published[event_of(invoice)] == 2
    ] == list(range(50, 1089, 50))


def test_malformed_events_are_published_only_when_asked_for() -> None:
    assert not set(malformed_events()) & set(events(None, malformed=False))


def test_each_malformed_event_is_published_once() -> None:
    published = Counter(events(60, malformed=True))
    assert [published[event] for event in malformed_events()] == [1, 1, 1, 1]


def test_the_publisher_knows_nothing_of_dressage() -> None:
    code = "import sys, online_retail.publish; sys.exit('dressage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES, check=False).returncode == 0
