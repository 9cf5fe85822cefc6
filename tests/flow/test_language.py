"""The language's page: its table is the compiler's, complete against `ast`, and its examples run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from dressage.expressions import builtins
from dressage.flow.compiler.language import LANGUAGE, table
from dressage.flow.compiler.statements import SUPPORTED_STATEMENTS
from dressage.protocol.spec_reading import read_spec
from dressage.protocol.types import RecordType
from dressage.testing import FakeTask, WorkflowTest

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
    assert {name.removeprefix(".") for name in builtins.BUILTINS} - builtins.INTERNAL.keys() <= names


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
            "can_ship",
            "ship_all",
            "route",
            "locate",
            "quote",
            "invoice",
            "travel",
            "both_or_none",
            "with_what_is_left",
            "plan_tour",
            "offer_trip",
            "contract",
            "settled",
            "judged",
            "send_order",
            "escalate",
            "approve_article",
            "label",
            "review",
            "store_card",
            "deliver",
            "patient_order",
            "best_price",
            "book_trip",
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
    assert missing.failure == ("card-declined", "Ada has no token", {"again_in": "PT3600S"})


class Way(NamedTuple):
    """One way through an example of the page: what goes in, what the tasks raise, and what comes out."""

    workflow: str
    given: dict[str, Any]
    expected: str
    broken: tuple[str, ...] = ()
    slept: int = 0


LAMP = {"id": "o-1", "item": "lamp", "quantity": 2}
DESK = {"id": "o-2", "item": "desk"}
PRICES = {"lamp": "9.50", "bulb": "1"}
WAYS = {
    "loops": Way("ship_all", {"orders": [DESK, LAMP], "prices": PRICES}, "'19.00 bulb'", slept=2),
    "an await in a condition": Way("can_ship", {"order": LAMP, "reserve": "bulb"}, "True"),
    "awaits behind `and`": Way("can_ship", {"order": {**LAMP, "quantity": 8}, "reserve": "bulb"}, "True"),
    "an await that is left out": Way(
        "can_ship", {"order": {**LAMP, "quantity": 9}, "reserve": "bulb"}, "False"
    ),
    "a guard": Way("route", {"message": {"kind": "refund", "amount": 101}}, "'manager: 101'"),
    "alternatives": Way("route", {"message": {"kind": "return", "amount": 101}}, "'billing: 1'"),
    "a sequence": Way("route", {"message": {"items": ["a", 1, 2]}}, "'stock: a and 2'"),
    "a class": Way(
        "route", {"message": {}, "order": {"id": "o", "item": "gold", "quantity": 3}}, "'vault: 3'"
    ),
    "no pattern but the last": Way("route", {"message": {}, "order": LAMP}, "'desk: o-1'"),
    "a part of a group": Way("with_what_is_left", {"city": "Rome"}, "'2 of 3'", ("reserve-seat",)),
    "a saga that succeeds": Way("book_trip", {"city": "Rome", "days": [1, 2]}, "'room in Rome'"),
    "a saga that fails": Way(
        "book_trip", {"city": "Rome", "days": [1, 2, 3]}, "not-shipped: 3 seats are too many"
    ),
    "loops over nothing": Way("ship_all", {"orders": [], "prices": {}}, "'0 '"),
    "else of a loop": Way(
        "ship_all",
        {"orders": [LAMP], "prices": PRICES},
        "not-shipped: o-1 is number 1 of 1",
        ("shipped",),
        slept=5,
    ),
    "unpacking": Way("locate", {"item": "lamp"}, "'HALL 4 1 4'"),
    "functions": Way("quote", {"orders": [LAMP, DESK], "customer": "Ada"}, "'Ada: 26.50'"),
    "functions of expressions": Way(
        "invoice",
        {"orders": [LAMP, DESK], "prices": PRICES, "vip": False},
        "'22.61, of which 22.61 for lamp'",
    ),
    "branches": Way("travel", {"city": "Rome", "day": 1}, "['room in Rome', 'seat 1, seat 3']", slept=1),
    "a failure inside a branch": Way(
        "both_or_none", {"city": "Rome"}, "'room in Rome, no seat'", ("reserve-seat",)
    ),
    "a branch for each item": Way(
        "plan_tour",
        {"cities": ["Rome", "", "Bonn"], "day": 1},
        "{'room in Rome': 'seat 1', 'room in Bonn': 'seat 3'}",
    ),
    "a group": Way(
        "both_or_none", {"city": "Rome"}, "'nothing: branches failed (1 sub-exception)'", ("reserve-room",)
    ),
    "failures": Way("best_price", {"items": ["a", "b"], "budget": "1"}, "'9.50 of 2, 9.50'"),
    "a technical error": Way(
        "best_price", {"items": ["a", "b"], "budget": "0"}, "'none of 2'", ("fetch-price",)
    ),
    "an error of Python's own": Way("best_price", {"items": [], "budget": "0"}, "'none of 0'"),
    "any failure": Way(
        "best_price",
        {"items": [], "budget": "1"},
        "cancelled: after 0: nothing to look at",
    ),
}


@pytest.mark.parametrize("name", WAYS)
async def test_an_example_means_the_same_in_python_and_as_a_spec(
    name: str, page: ModuleType, interpret: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    way = WAYS[name]
    workflow = getattr(page, way.workflow)

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("down")

    def never(order_id: str, attempt: int) -> bool:
        return False

    slept: list[Any] = []

    async def sleep(duration: Any) -> None:
        slept.append(duration)

    # Not asyncio's own `sleep`: what else runs in this loop would spin, and never let go of it.
    monkeypatch.setattr("dressage.flow.sleeping.asyncio", SimpleNamespace(sleep=sleep))
    faults = {each: never if each == "shipped" else broken for each in way.broken}
    tasks = {each: task.function for each, task in workflow.tasks.items()} | faults
    arguments = workflow.signature.decode_args(msgspec.json.encode(way.given))
    with ExitStack() as fakes:
        for each, fault in faults.items():
            fakes.enter_context(workflow.tasks[each].faked(fault))
        try:
            python = repr(await workflow(**arguments))
        except page.WorkflowFailure as failure:
            python = f"{failure.name}: {failure.message}"
    outcome = interpret(workflow.spec, tasks, way.given)
    assert outcome.error is None
    compiled = repr(outcome.result) if outcome.failure is None else "{}: {}".format(*outcome.failure)
    assert python == compiled == way.expected
    assert len(slept) == len(outcome.slept) == way.slept


def test_the_pages_trip_goes_to_whoever_answers_first(page: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.offer_trip)
    asked: FakeTask[..., Any] = test.task(page.ask_price)
    asked.does(lambda supplier, city: {"north": 20, "south": 18}[supplier])
    north = test.run("Rome", 3)
    assert (north.result, north.elapsed) == ("no answer within 3 days", timedelta(days=3))
    assert [call.arguments["supplier"] for call in test.task(page.take_back).calls] == ["north", "south"]
    test.comes(page.accepted, "Ann", after=timedelta(days=1))
    assert test.run("Rome", 3).result == "Ann goes to Rome for 20"
    test.comes(page.rejected)
    assert test.run("Rome", 3).result == "rejected"


def test_the_pages_contract_takes_signatures_in_their_order(page: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.contract)
    test.comes(page.signed, page.Signature("Ann"), after=timedelta(days=1))
    assert test.run(2, 3).result == "1 of 2 have signed"
    test.comes(page.signed, page.Signature("Bob", "at last"), after=timedelta(days=3))
    run = test.run(2, 3)
    assert (run.result, run.elapsed) == ("signed by Ann, Bob", timedelta(days=3))
    test.comes(page.withdrawn, after=timedelta(days=2))
    assert test.run(2, 3).result == "withdrawn"


def test_the_pages_ticket_is_escalated_when_it_is_due_at_last(page: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.escalate)
    due = datetime(2030, 1, 1, 9, tzinfo=UTC)
    assert test.run("T-1", due).result == "T-1 was due at 09:00"
    test.comes(page.postponed, timedelta(hours=5), after=timedelta(hours=8))
    later = test.run("T-1", due)
    assert (later.result, later.elapsed) == ("T-1 was due at 14:00", timedelta(hours=14))
    assert later.view.status == "ESCALATED"
    test.comes(page.answered, "solved", after=timedelta(hours=9))
    assert test.run("T-1", due).result == "T-1: solved"


def test_the_pages_article_is_published_when_enough_have_approved(page: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.approve_article)
    test.comes(page.approved, "Ann", after=timedelta(hours=1)).comes(
        page.approved, "Bob", after=timedelta(hours=2)
    )
    enough = test.run("news", 2)
    assert (enough.result, enough.elapsed) == ("news is published", timedelta(hours=2))
    late = test.run("news", 3)
    assert (late.result, late.elapsed) == ("news has 2 of 3", timedelta(days=2))


def test_the_pages_order_is_settled_by_what_comes_to_its_keys(page: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.settled)
    test.comes(page.paid, page.Payment(5), key="o-4711").comes(
        page.opened, key="Bonn", after=timedelta(days=2)
    )
    run = test.run("o-4711", "Bonn")
    assert (run.result, run.elapsed) == (5, timedelta(days=2))
    other = test.run("o-4712", "Bonn")
    assert other.failure is not None
    assert (other.failure.kind, other.elapsed) == ("timeout", timedelta(days=32))
    waiting = test.start("o-4711", "Rome")
    assert waiting.waiting_for == "event market-opened at key Rome"


def test_an_event_that_nobody_claims_in_its_time_is_dropped(page: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.contract)
    test.comes(page.withdrawn).comes(page.signed, page.Signature("Ann"), after=timedelta(days=30))
    run = test.run(1, 40)
    assert run.result == "signed by Ann"
    assert "event-expired" in [event.kind for event in run.events]


async def test_the_pages_contract_means_the_same_in_python(page: ModuleType) -> None:
    coming = [page.Signature("Ann"), page.Signature("Bob")]

    def sign(timeout: timedelta) -> Any:
        if not coming:
            raise TimeoutError("signed")
        return coming.pop(0)

    def never(timeout: float) -> None:
        raise TimeoutError("withdrawn")

    with page.signed.faked(sign), page.withdrawn.faked(never):
        assert await page.contract(2, 1) == "signed by Ann, Bob"
        assert await page.contract(1, 1) == "0 of 1 have signed"
    with pytest.raises(NotImplementedError, match=r"signed\.faked"):
        await page.contract(1, 1)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_cancelled_run_runs_its_finally_and_one_that_is_ended_at_once_does_not(
    page: ModuleType, *, at_once: bool
) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.best_price)
    test.task(page.fetch_price).hangs()
    run = test.start(["lamp"], Decimal(1))
    run.cancel("no longer wanted", at_once=at_once)
    assert run.status == "cancelled"
    assert run.variables["looked"] == (0 if at_once else 1)
    assert run.view.status == ("RECEIVED" if at_once else "LOOKED")


def test_a_passed_limit_runs_no_finally_and_no_handler(define: Callable[[str], ModuleType]) -> None:
    module = define(
        "from dressage.flow import workflow\n"
        "@workflow\n"
        "async def flow(n: int) -> str:\n"
        "    step = 'began'\n"
        "    try:\n"
        "        text = 'a' * n\n"
        "    except Exception:\n"
        "        step = 'caught'\n"
        "    finally:\n"
        "        step = 'left'\n"
        "    return step\n"
    )
    test: WorkflowTest[..., Any] = WorkflowTest(module.flow)
    assert test.run(3).result == "left"
    run = test.run(2_000_000)
    assert run.failure is not None
    assert (run.failure.kind, run.failure.name) == ("limit", "text-size")
    assert run.variables["step"] == "began"


def test_point_4_the_failures_of_all_branches_are_the_causes_of_a_run_that_nobody_saves(
    page: ModuleType,
) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(page.travel)
    test.task(page.reserve_room).fails(page.CardDeclined("no cover"))
    test.task(page.reserve_seat).raises(OSError("down"))
    run = test.run("Rome", 1)
    assert run.failure is not None
    assert (run.failure.kind, run.failure.name) == ("group", "exception-group")
    assert [cause.name for cause in run.failure.causes] == ["card-declined", "exception-group"]
    assert run.elapsed == timedelta(minutes=5)
    started = [event.data for event in run.events if event.kind == "branch-started"]
    ended = [event for event in run.events if event.kind == "branch-ended"]
    assert [each["branch"] for each in started] == [0, 1, 2, 0, 1]
    assert len(ended) == 5


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
