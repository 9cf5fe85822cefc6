"""Every way through the small examples: what goes in, how it ends, and which tasks are called."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.testing.ways import CANCELS, ESCALATES, Case  # pyright: ignore[reportMissingImports]

from dressage.flow import App, Event, Task, UserTask, Workflow
from dressage.worker import current_task

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import batch_import.workflow as imports  # noqa: E402
import checkout.workflow as shop  # noqa: E402
import document_signing.workflow as documents  # noqa: E402
import live_migration.after as reminded  # noqa: E402
import live_migration.before as trial  # noqa: E402
import long_import.workflow as catalogue  # noqa: E402
import monthly_billing.workflow as billing  # noqa: E402
import onboarding.workflow as colleagues  # noqa: E402
import order_approval.workflow as approvals  # noqa: E402
import order_changes.workflow as changes  # noqa: E402
import patient_checkout.workflow as patience  # noqa: E402
import product_reviews.workflow as reviews  # noqa: E402
import sign_up.workflow as customers  # noqa: E402
import support_tickets.workflow as support  # noqa: E402
import ticket_triage.workflow as triage  # noqa: E402
import trip_booking.workflow as trips  # noqa: E402
import two_opinions.workflow as claims  # noqa: E402
import two_suppliers.workflow as suppliers  # noqa: E402


class Way(NamedTuple):
    """One way through an example: `ends` is the failure's name, or a part of the result as text.

    `calls` are the tasks in the order of their calls, each with the number of its attempts if it is not one.
    """

    case: Case
    ends: str
    status: str
    calls: str


def case(
    workflow: Workflow[..., Any],
    app: App,
    *arguments: Any,
    plain: bool = True,
    coming: tuple[tuple[Event[Any] | UserTask[Any], Any], ...] = (),
    **others: Callable[[], Callable[..., Any]],
) -> Case:
    """`others` make what some tasks do instead of what the example says, by the tasks' names in Python."""

    def make() -> App:
        copy = App(app.name)
        for name, handler in app.handlers.items():
            other = others.get(name.replace("-", "_"))
            function = functools.wraps(handler.function)(other()) if other else handler.function
            copy._handlers[name] = dataclasses.replace(handler, function=function)
        return copy

    return Case(workflow, arguments, make, plain, coming)


def failing(error: Exception, *, times: int | None = None, then: Task[..., Any] | None = None) -> Any:
    """A task that fails with a technical error, for ever or the first times."""

    def make() -> Callable[..., Any]:
        left = [error] * (times or 0)

        def fail(*given: Any, **arguments: Any) -> Any:
            if times is None:
                raise error
            if left:
                raise left.pop()
            assert then is not None
            return then.function(*given, **arguments)

        return fail

    return make


# -- checkout --------------------------------------------------------------------------------------
LINES: Final = [shop.Line("lamp", 2, Decimal("9.50")), shop.Line("desk", 1, Decimal("120.00"))]


def checkout(
    *, email: str = "ada@example.com", address: str = "Bonn", lines: Any = LINES, **others: Any
) -> Case:
    order = shop.Order("o-1", email, address, lines)
    return case(shop.checkout, shop.app, order, **others)


CHECKOUT: Final = {
    "checkout: delivered": Way(checkout(), "139.00", "SHIPPED", "reserve charge ship notify"),
    "checkout: out of stock": Way(
        checkout(lines=[shop.Line("lamp", 101, Decimal(1))]), "out-of-stock", "NEW", "reserve"
    ),
    "checkout: card declined": Way(
        checkout(email="bob@broke.example"), "card-declined", "DECLINED", "reserve charge release notify"
    ),
    "checkout: no answer from the bank": Way(
        checkout(email="bob@offline.example"),
        "payment-unavailable",
        "UNPAID",
        "reserve charge*5 release notify",
    ),
    "checkout: paid at the third attempt": Way(
        checkout(plain=False, charge=failing(ConnectionError("down"), times=2, then=shop.charge)),
        "payment-o-1",
        "SHIPPED",
        "reserve charge*3 ship notify",
    ),
    "checkout: no carrier": Way(
        checkout(address="the moon"), "no-carrier", "REFUNDED", "reserve charge ship refund release notify"
    ),
}


# -- trip booking ----------------------------------------------------------------------------------
def trip(city: str, **others: Any) -> Case:
    return case(trips.book_trip, trips.app, trips.Trip("7", "Ada", city), **others)


TRIPS: Final = {
    "trip: booked": Way(trip("Rome"), "flight-7", "BOOKED", "book-car book-hotel book-flight"),
    "trip: no car": Way(
        trip("Rome", book_car=failing(OSError("down"))), "trip-failed", "CANCELLED", "book-car*3"
    ),
    "trip: no hotel": Way(trip("Atlantis"), "trip-failed", "CANCELLED", "book-car book-hotel cancel"),
    "trip: no flight": Way(
        trip("Avalon"), "trip-failed", "CANCELLED", "book-car book-hotel book-flight cancel cancel"
    ),
    "trip: the airline is silent": Way(
        trip("Laputa"), "trip-failed", "CANCELLED", "book-car book-hotel book-flight*3 cancel cancel"
    ),
    "trip: one cannot be cancelled": Way(
        trip("Atlantis", cancel=failing(OSError("down"))),
        "trip-failed",
        "STUCK",
        "book-car book-hotel cancel*6",
    ),
}


# -- product reviews -------------------------------------------------------------------------------
def batch(*texts: tuple[str, str], **others: Any) -> Case:
    given = [
        reviews.Review(f"r-{number}", "lamp", language, text)
        for number, (language, text) in enumerate(texts, 1)
    ]
    return case(reviews.process_reviews, reviews.app, given, **others)


REVIEWS: Final = {
    "reviews: none": Way(batch(), "published=0", "DONE", ""),
    "reviews: all published": Way(
        batch(("en", "good"), ("fr", "assez bon")),
        "average=3.5",
        "DONE",
        "rate publish translate rate publish",
    ),
    "reviews: one is offensive": Way(
        batch(("en", "worst!!!"), ("en", "good")), "r-1: shouting", "DONE", "rate rate publish"
    ),
    "reviews: one is a dead letter": Way(
        batch(("xx", "?"), ("en", "good")),
        "dead=['r-1']",
        "DONE WITH DEAD LETTERS",
        "translate*4 bury rate publish",
    ),
    "reviews: a fault that passes": Way(
        batch(("en", "good"), plain=False, rate=failing(OSError("down"), times=2, then=reviews.rate)),
        "published=1",
        "DONE",
        "rate*3 publish",
    ),
}


# -- long import -----------------------------------------------------------------------------------
def cataloguing(**others: Any) -> Case:
    """Python alone has nowhere to keep progress."""
    return case(catalogue.import_catalogue, catalogue.app, "lamps.csv", plain=False, **others)


async def _breaks_twice(file: str, lines: int) -> int:
    """Each execution comes a thousand lines further."""
    task = current_task()
    progress = task.resumed(catalogue.Progress) or catalogue.Progress(0, 0)
    executions = progress.executions + 1
    await task.checkpoint(catalogue.Progress(progress.line + 1000, executions))
    if progress.line + 1000 < lines - 1000:
        raise OSError("the disk is full")
    return executions


async def _not_utf8(file: str, lines: int) -> int:
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


LONG_IMPORTS: Final = {
    "long import: at once": Way(
        cataloguing(), "3600 lines in 1 executions", "IMPORTED", "count-lines import-lines"
    ),
    "long import: goes on where it was": Way(
        cataloguing(import_lines=lambda: _breaks_twice),
        "3600 lines in 3 executions",
        "IMPORTED",
        "count-lines import-lines*3",
    ),
    "long import: what no retry mends": Way(
        cataloguing(import_lines=lambda: _not_utf8), "unfinished", "BROKEN", "count-lines import-lines"
    ),
}


# -- batch import ----------------------------------------------------------------------------------
def importing(*prices: str, tolerated: int = 1, **others: Any) -> Case:
    rows = [imports.Row(line, "lamp", price) for line, price in enumerate(prices, 1)]
    return case(imports.import_file, imports.app, imports.File(rows, tolerated), **others)


def _no_room_for_two(row: imports.Row) -> str:
    if row.line == 2:
        raise OSError("full")
    return f"{row.name}-{row.line}"


IMPORTS: Final = {
    "import: no rows": Way(importing(), "imported=0", "IMPORTED", ""),
    "import: all rows": Way(
        importing("10", "20", "30"),
        "imported=3",
        "IMPORTED",
        "check-row check-row check-row store store store",
    ),
    "import: one is refused": Way(
        importing("10", "dear"), "line 2: 'dear' is no price", "IMPORTED", "check-row check-row store"
    ),
    "import: one cannot be stored": Way(
        importing("10", "20", store=lambda: _no_room_for_two),
        "line 2: not stored: full",
        "IMPORTED",
        "check-row check-row store store*3",
    ),
    "import: a bad file": Way(
        importing("10", "dear", "20", "cheap"),
        "bad-file",
        "ROLLED BACK",
        "check-row check-row check-row check-row store store remove remove",
    ),
    "import: a bad file, of which something is left": Way(
        importing("dear", "10", tolerated=0, remove=failing(OSError("down"))),
        "bad-file",
        "STUCK",
        "check-row check-row store remove*3",
    ),
}


# -- sign-up ---------------------------------------------------------------------------------------
def sign_up(name: str, email: str = "ada@example.com", **others: Any) -> Case:
    form = customers.SignUp(email, name, customers.Plan.TEAM)
    return case(customers.sign_up, customers.app, form, **others)


SIGN_UP: Final = {
    "sign-up: confirmed": Way(
        sign_up("Ada"),
        "days=3",
        "ACTIVE",
        "open-account make-workspace start-billing send-mail is-confirmed",
    ),
    "sign-up: confirmed after two reminders": Way(
        sign_up("Slow"),
        "days=9",
        "ACTIVE",
        "open-account make-workspace start-billing send-mail is-confirmed send-mail is-confirmed send-mail "
        "is-confirmed",
    ),
    "sign-up: never confirmed": Way(
        sign_up("Never"),
        "not-confirmed",
        "CLOSED",
        "open-account make-workspace start-billing send-mail is-confirmed send-mail is-confirmed send-mail "
        "is-confirmed send-mail close-account",
    ),
    "sign-up: address taken": Way(sign_up("Ada", "taken@example.com"), "email-taken", "NEW", "open-account"),
    "sign-up: no billing": Way(
        sign_up("Nobody"),
        "setup-failed",
        "FAILED",
        "open-account make-workspace start-billing send-mail close-account",
    ),
}


# -- support tickets -------------------------------------------------------------------------------
def ticket(text: str, paid: int = 0, **others: Any) -> Case:
    given = support.Ticket("t-1", "Ada", text, Decimal(paid))
    return case(support.route_ticket, support.app, given, **others)


SUPPORT: Final = {
    "ticket: a small refund": Way(
        ticket("refund please", 20), "refund-t-1", "closed", "classify refund reply"
    ),
    "ticket: a large refund": Way(ticket("refund please", 51), "billing-t-1", "billing", "classify assign"),
    "ticket: an urgent outage": Way(
        ticket("it is down now"), "on-call-t-1", "on-call", "classify page-engineer assign"
    ),
    "ticket: an outage": Way(ticket("it was down"), "outage-t-1", "outage", "classify assign"),
    "ticket: a question": Way(
        ticket("how do I start ?"), "answered", "closed", "classify draft-answer reply"
    ),
    "ticket: nobody knows": Way(ticket("hmm"), "people-t-1", "people", "classify assign"),
    "ticket: the classifier is down": Way(
        ticket("refund please", classify=failing(OSError("down"))),
        "people-t-1",
        "people",
        "classify*3 assign",
    ),
}


# -- document signing ------------------------------------------------------------------------------
def signing(*answers: documents.Answer, **others: Any) -> Case:
    given = documents.Document("d-1", ["Ann", "Bob"])
    coming = tuple((documents.answered, answer) for answer in answers)
    return case(documents.sign_document, documents.app, given, coming=coming, **others)


_ANN, _BOB = documents.Answer("Ann", agrees=True), documents.Answer("Bob", agrees=True)

SIGNING: Final = {
    "signing: by all": Way(
        signing(_BOB, _ANN), "draft-d-1 signed by Ann and Bob", "SIGNED", "lock-draft invite invite seal"
    ),
    "signing: one twice": Way(
        signing(_BOB, _BOB, _ANN),
        "draft-d-1 signed by Ann and Bob",
        "SIGNED",
        "lock-draft invite invite seal",
    ),
    "signing: one is missing": Way(
        signing(_ANN),
        "not-signed",
        "TOO LATE",
        "lock-draft invite invite withdraw withdraw unlock-draft",
    ),
    "signing: one refuses": Way(
        signing(_ANN, documents.Answer("Bob", agrees=False, remark="too dear")),
        "not-signed",
        "REFUSED",
        "lock-draft invite invite withdraw withdraw unlock-draft",
    ),
}


# -- two suppliers ---------------------------------------------------------------------------------
def buying(*offers: tuple[Event[suppliers.Offer], str], **others: Any) -> Case:
    part = suppliers.Part("p-1", "gear", Decimal(100))
    coming = tuple((event, suppliers.Offer(Decimal(price))) for event, price in offers)
    return case(suppliers.buy_part, suppliers.app, part, coming=coming, **others)


def _only_south(supplier: str, part: suppliers.Part) -> None:
    if supplier == "north":
        raise OSError("down")


_NORTH, _SOUTH = suppliers.north_offers, suppliers.south_offers

BUYING: Final = {
    "buying: the first offer": Way(
        buying((_SOUTH, "90.00"), (_NORTH, "80.00"), plain=False),
        "gear from south for 90.00",
        "ORDERED",
        "request-offer request-offer withdraw-request order-part",
    ),
    "buying: too dear at first": Way(
        buying((_NORTH, "900.00"), (_NORTH, "99.00"), plain=False),
        "gear from north for 99.00",
        "ORDERED",
        "request-offer request-offer withdraw-request order-part",
    ),
    "buying: no offer": Way(
        buying(), "no-offer", "NO OFFER", "request-offer request-offer withdraw-request withdraw-request"
    ),
    "buying: one cannot be asked": Way(
        buying((_SOUTH, "90.00"), plain=False, request_offer=lambda: _only_south),
        "gear from south for 90.00",
        "ORDERED",
        "request-offer request-offer*4 withdraw-request order-part",
    ),
}


# -- monthly billing ---------------------------------------------------------------------------------
_FIRST_OF_DECEMBER: Final = datetime(2026, 12, 1, 5, tzinfo=UTC)


def _all_pay(month: str) -> list[billing.Customer]:
    return [billing.Customer("ada", "4242", "pro"), billing.Customer("bob", "4242", "team")]


BILLING: Final = {
    "billing: one card is declined": Way(
        case(billing.bill_month, billing.app, _FIRST_OF_DECEMBER),
        "2026-11: 2 of 3 have paid 140",
        "SOME UNPAID",
        "month-to-bill customers-of charge charge charge send-invoice send-invoice ask-for-card",
    ),
    "billing: all have paid": Way(
        case(billing.bill_month, billing.app, _FIRST_OF_DECEMBER, customers_of=lambda: _all_pay),
        "2026-11: 2 of 2 have paid 140",
        "DONE",
        "month-to-bill customers-of charge charge send-invoice send-invoice",
    ),
}


# -- order changes -----------------------------------------------------------------------------------
def changed(*coming: tuple[Event[Any], Any], **others: Any) -> Case:
    order = changes.Order("o-1", "lamp", Decimal(20), changes.Address("High St 1", "Ulm"))
    return case(changes.deliver, changes.app, order, coming=coming, **others)


_MOVED = (changes.address_changed, changes.Address("Main St 5", "Bonn"))
_AGAIN = (changes.address_changed, changes.Address("Main St 6", "Bonn"))
_CANCELLED = (changes.order_cancelled, "found it cheaper")

CHANGES: Final = {
    "changes: none": Way(changed(), "High St 1, Ulm", "SHIPPED", "charge hand-over"),
    "changes: another address": Way(
        changed(_MOVED, plain=False),
        "Main St 5, Bonn",
        "SHIPPED",
        "charge confirm-address hand-over",
    ),
    "changes: two addresses": Way(
        changed(_MOVED, _AGAIN, plain=False),
        "Main St 6, Bonn",
        "SHIPPED",
        "charge confirm-address confirm-address hand-over",
    ),
    "changes: cancelled": Way(
        changed(_MOVED, _CANCELLED, plain=False),
        "order-cancelled",
        "CANCELLED",
        "charge confirm-address refund",
    ),
}


# -- patient checkout ------------------------------------------------------------------------------
def patient(item: str, card: str, *coming: tuple[Event[Any], Any], **others: Any) -> Case:
    order = patience.Order("o-1", item, Decimal("20.00"), card)
    return case(patience.check_out, patience.app, order, coming=coming, **others)


_WAIT = (patience.decided, patience.Decision.WAIT)
_CANCEL = (patience.decided, patience.Decision.CANCEL)

PATIENT: Final = {
    "patient: paid": Way(patient("desk", "4242"), "20.00 from 4242", "PAID", "reserve charge"),
    "patient: another card": Way(
        patient("desk", "0000", (patience.card_given, "0001"), (patience.card_given, "4242")),
        "20.00 from 4242",
        "PAID",
        "reserve charge charge charge",
    ),
    "patient: no other card": Way(
        patient("desk", "0000"), "abandoned", "CARD NEEDED", "reserve charge release"
    ),
    "patient: sold out, and cancelled": Way(
        patient("lamp", "4242", _CANCEL), "abandoned", "SOLD OUT", "reserve"
    ),
    "patient: sold out, and no answer": Way(patient("lamp", "4242"), "abandoned", "SOLD OUT", "reserve"),
    "patient: there again": Way(
        patient("lamp", "4242", _WAIT, (patience.restocked, None)),
        "20.00 from 4242",
        "PAID",
        "reserve reserve charge",
    ),
    "patient: cancelled while waiting": Way(
        patient("lamp", "4242", _WAIT, _CANCEL), "abandoned", "WAITING FOR STOCK", "reserve"
    ),
    "patient: never there again": Way(
        patient("lamp", "4242", _WAIT), "abandoned", "WAITING FOR STOCK", "reserve"
    ),
}


# -- order approval ----------------------------------------------------------------------------------
def approval(customer: str, total: int, *said: Any, **others: Any) -> Case:
    order = approvals.Order("o-7", customer, Decimal(total))
    coming = tuple((approvals.approve_order, each) for each in said)
    return case(approvals.accept_order, approvals.app, order, coming=coming, **others)


APPROVALS: Final = {
    "approval: below the limit": Way(
        approval("ann", 500), "confirmed o-7", "ACCEPTED", "check-credit confirm"
    ),
    "approval: a person says yes": Way(
        approval("ann", 501, approvals.Approval(True, pay_until=date(2030, 3, 1))),
        "to be paid until 2030-03-01",
        "ACCEPTED",
        "check-credit confirm",
    ),
    "approval: a person says no": Way(
        approval("ann", 501, approvals.Approval(False, "too much at once")),
        "not-accepted",
        "REFUSED",
        "check-credit turn-down",
    ),
    "approval: somebody withdraws it": Way(
        approval("ann", 501, CANCELS), f"withdrawn: {CANCELS}", "WITHDRAWN", "check-credit"
    ),
    "approval: nobody decides": Way(
        approval("ann", 501), "not-accepted", "EXPIRED", "check-credit turn-down"
    ),
    "approval: no credit": Way(approval("broke bob", 1), "not-accepted", "REFUSED", "check-credit turn-down"),
    "approval: the credit check is down at first": Way(
        approval(
            "ann",
            1,
            plain=False,
            check_credit=failing(OSError("down"), times=2, then=approvals.check_credit),
        ),
        "confirmed o-7",
        "ACCEPTED",
        "check-credit*3 confirm",
    ),
}


# -- ticket triage -----------------------------------------------------------------------------------
def triaged(customer: str, text: str, *said: Any, **others: Any) -> Case:
    coming = tuple((triage.take_over, each) for each in said)
    return case(triage.triage, triage.app, triage.Ticket("t-1", customer, text), coming=coming, **others)


TRIAGE: Final = {
    "triage: the model answers": Way(
        triaged("ann", "how do I pay"), "see our handbook", "CLOSED", "decide reply"
    ),
    "triage: a refund of one's own order": Way(
        triaged("ann", "refund o-1"), "refunded 30 of o-1", "CLOSED", "decide find-owner refund reply"
    ),
    "triage: a refund of somebody else's order": Way(
        triaged("ann", "refund o-2", triage.Ruling(answer="that is not yours")),
        "that is not yours",
        "CLOSED",
        "decide find-owner reply",
    ),
    "triage: a refund of an order that nobody has": Way(
        triaged("ann", "refund o-9", triage.Ruling(Decimal(5), "o-1")),
        "refunded 5 of o-1",
        "CLOSED",
        "decide find-owner find-owner refund reply",
    ),
    "triage: a person, too, may refund what is the customer's own alone": Way(
        triaged("ann", "help", triage.Ruling(Decimal(80), "o-2"), triage.Ruling(Decimal(20), "o-1")),
        "refunded 20 of o-1",
        "CLOSED",
        "decide find-owner find-owner refund reply",
    ),
    "triage: not sure, and it goes to the leads": Way(
        triaged("ann", "help", ESCALATES, triage.Ruling(answer="we call you")),
        "we call you",
        "CLOSED",
        "decide reply",
    ),
    "triage: the model is down": Way(
        triaged("ann", "help", triage.Ruling(answer="sorry"), decide=failing(OSError("down"))),
        "sorry",
        "CLOSED",
        "decide*3 reply",
    ),
}


# -- two opinions ------------------------------------------------------------------------------------
def claim(text: str, *said: Any, **others: Any) -> Case:
    coming = tuple((claims.judge, each) for each in said)
    given = claims.Claim("c-1", text, Decimal(70))
    return case(claims.settle_claim, claims.app, given, coming=coming, **others)


CLAIMS: Final = {
    "claim: both would pay": Way(
        claim("a receipt"), "there is a receipt", "PAID", "read-strictly read-kindly pay tell"
    ),
    "claim: both refuse": Way(claim("old"), "nothing proves it", "REFUSED", "read-strictly read-kindly tell"),
    "claim: they differ, and a person pays": Way(
        claim("an old receipt", claims.Judgement(True, "it is within the year")),
        "it is within the year",
        "PAID",
        "read-strictly read-kindly pay tell",
    ),
    "claim: they differ, and it is for the seniors": Way(
        claim("an old receipt", ESCALATES, claims.Judgement(False, "it is not")),
        "it is not",
        "REFUSED",
        "read-strictly read-kindly tell",
    ),
    "claim: one agent fails": Way(
        claim("blurred", claims.Judgement(False, "send another picture")),
        "send another picture",
        "REFUSED",
        "read-strictly read-kindly tell",
    ),
}


# -- onboarding --------------------------------------------------------------------------------------
def onboarding(*said: Any) -> Case:
    mia = colleagues.Colleague("Mia", "ann", datetime(2030, 3, 1, tzinfo=UTC))
    return case(colleagues.onboard, colleagues.app, mia, coming=said)


LAPTOP: Final = (colleagues.hand_out, colleagues.Equipment("light", "s-1", ["mouse"]))
BUDDY: Final = (colleagues.find_buddy, colleagues.Welcome("bob"))

ONBOARDING: Final = {
    "onboarding: everybody does their part": Way(
        onboarding(BUDDY, LAPTOP, (colleagues.sign_contract, colleagues.Contract(True, 3))),
        "mia@example.com",
        "READY",
        "open-accounts send-welcome",
    ),
    "onboarding: the leads hand the laptop out": Way(
        onboarding(
            (colleagues.sign_contract, colleagues.Contract(True)),
            BUDDY,
            (colleagues.hand_out, ESCALATES),
            LAPTOP,
        ),
        "mia@example.com",
        "READY",
        "open-accounts send-welcome",
    ),
    "onboarding: no contract": Way(
        onboarding(LAPTOP, BUDDY, (colleagues.sign_contract, colleagues.Contract(False))),
        "not-ready",
        "CANCELLED",
        "",
    ),
}


WAYS: Final[dict[str, Way]] = {
    **CHECKOUT,
    **TRIPS,
    **REVIEWS,
    **IMPORTS,
    **LONG_IMPORTS,
    **SIGN_UP,
    **SUPPORT,
    **SIGNING,
    **BILLING,
    **BUYING,
    **CHANGES,
    **PATIENT,
    **APPROVALS,
    **TRIAGE,
    **CLAIMS,
    **ONBOARDING,
}
CASES: Final[dict[str, Case]] = {
    **{name: way.case for name, way in WAYS.items()},
    "member-stays": case(trial.membership, trial.app, "ann", coming=((trial.decided, "stay"),)),
    "member-is-reminded": case(reminded.membership, reminded.app, "bob"),
}
