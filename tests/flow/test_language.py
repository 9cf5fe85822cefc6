"""The language's page: its table is the compiler's, complete against `ast`, and its examples run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from dressage.expressions import builtins
from dressage.flow.compiler.language import LANGUAGE, table
from dressage.flow.compiler.statements import SUPPORTED_STATEMENTS
from dressage.protocol.spec_reading import read_spec
from dressage.protocol.types import RecordType

PAGE = Path(__file__).resolve().parents[2] / "docs" / "language.md"
BUILTIN_TABLE = re.compile(r"(?s)(?<=<!-- builtins -->\n).*(?=<!-- end of builtins -->)")
TABLE = re.compile(r"(?s)(?<=<!-- table -->\n).*(?=<!-- end of table -->)")


def test_every_class_of_the_syntax_is_in_the_table() -> None:
    classes = {
        name for name, found in vars(ast).items() if isinstance(found, type) and issubclass(found, ast.AST)
    }
    assert classes - LANGUAGE.keys() == set()


def test_every_refusal_has_advice() -> None:
    assert [name for name, entry in LANGUAGE.items() if entry.status == "refused" and not entry.advice] == []


def test_the_compiler_has_a_function_for_exactly_the_supported_statements() -> None:
    statements = {name for name, found in vars(ast).items() if _is_statement(found)}
    supported = {name for name in statements if LANGUAGE[name].status == "supported"}
    assert {kind.__name__ for kind in SUPPORTED_STATEMENTS} == supported


def _is_statement(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, ast.stmt) and found is not ast.stmt


def test_the_page_shows_the_compilers_table() -> None:
    shown = TABLE.search(PAGE.read_text())
    assert shown is not None
    # After a change: print(table()), and put it between the marks.
    assert shown[0].strip() == table().strip()


def test_the_page_shows_every_builtin() -> None:
    shown = BUILTIN_TABLE.search(PAGE.read_text())
    assert shown is not None
    # After a change: print(builtins.table()), and put it between the marks.
    assert shown[0].strip() == builtins.table().strip()
    names = set(re.findall(r"`([\w.]+)`", shown[0]))
    assert {name.removeprefix(".") for name in builtins.BUILTINS} <= names


@pytest.fixture(scope="module")
def page(define: Callable[[str], ModuleType]) -> ModuleType:
    """All Python of the page, executed in its order, with the assertions that it holds."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    return define("\n\n".join(blocks))


def test_the_examples_of_the_page_compile(page: ModuleType) -> None:
    names = [name for name, found in vars(page).items() if type(found).__name__ == "Workflow"]
    assert names == [
        *(
            "process_order",
            "ship_order",
            "label",
            "review",
            "store_card",
            "deliver",
            "patient_order",
            "describe",
            "summarize",
        )
    ]


def test_the_specs_of_the_page_survive_their_json(page: ModuleType) -> None:
    specs = [found.spec for found in vars(page).values() if type(found).__name__ == "Workflow"]
    assert [read_spec(spec.encode()) for spec in specs] == specs
    forms = {each.form for spec in specs for each in spec.types if isinstance(each, RecordType)}
    assert forms == {"object", "tuple", "dict"}


async def test_the_pages_records_mean_the_same_in_python_and_as_a_spec(
    page: ModuleType, interpret: Callable[..., Any]
) -> None:
    given = {
        "id": "12345678-1234-5678-1234-567812345678",
        "to": {"city": "Bonn"},
        "size": [1],
        "tier": "gold",
    }
    tasks = {
        "measure": lambda parcel: [2.0, 3.0],
        "rate": lambda applicant: {"name": applicant.name, "score": 0.9},
    }
    parcel = page.label.signature.decode_args(msgspec.json.encode({"parcel": given}))["parcel"]
    expected = await page.label(parcel)
    assert expected == "Bonn ?: 6.0 gold slow True"
    assert interpret(page.label.spec, tasks, {"parcel": given}).result == expected
    rated = await page.review("Ada")
    assert (rated.name, rated.score) == ("Ada", 0.9)
    assert interpret(page.review.spec, tasks, {"name": "Ada"}).result == {"name": "Ada", "score": 0.9}
    assert interpret(page.deliver.spec, {}, {"city": "Bonn", "tags": []}).result == await page.deliver(
        "Bonn", []
    )


async def test_the_pages_masked_token_is_returned_as_in_python(
    page: ModuleType, interpret: Callable[..., Any]
) -> None:
    card = {"holder": "Ada", "number": "4111-1234"}
    python = await page.store_card(page.Card(**card))
    outcome = interpret(page.store_card.spec, {"tokenize": lambda card: "token-1234"}, {"card": card})
    assert outcome.result == python == "token-1234"
    assert "4111" not in repr(outcome.calls)
    missing = interpret(page.store_card.spec, {"tokenize": lambda card: None}, {"card": card})
    assert missing.failure == ("card-declined", "Ada has no token", {})


def test_the_examples_of_the_page_run_as_specs(page: ModuleType, interpret: Callable[..., Any]) -> None:
    tasks = {
        "fetch-price": lambda item: Decimal("9.50"),
        "charge-card": lambda order, amount: f"receipt-{order.id}",
    }
    order = {"id": "o-1", "item": "lamp", "quantity": 2}
    assert interpret(page.process_order.spec, tasks, {"order": order}).result == "receipt-o-1"
    described = interpret(page.describe.spec, {}, {"order": order, "discounts": {"lamp": "0.5"}})
    assert described.result == "O-1: small,      39.50"

    orders = [
        {"id": str(n), "item": item, "quantity": n + 1} for n, item in enumerate(["lamp", "desk", "lamp"])
    ]
    given = {"orders": orders, "prices": {"lamp": "9.50", "desk": "20"}, "width": 6}
    assert interpret(page.summarize.spec, {}, given).result == ["1. lamp     4", "2. desk     2", ""]
    missing = given | {"prices": {"lamp": "9.50"}}
    assert interpret(page.summarize.spec, {}, missing).result == ["1 of 3 have no price"]

    def decline(order: Any, amount: Any) -> str:
        raise page.CardDeclined("no cover")

    outcome = interpret(page.patient_order.spec, {"charge-card": decline}, {"order": order})
    assert outcome.failure == ("cancelled", "gave up: no cover", {"attempts": 3})
    assert len(outcome.slept) == 2
