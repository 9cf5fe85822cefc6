"""Ticket triage by a decision worker: a model reads the ticket and says what should be done, and the workflow decides.

What the model answers is data. It may name any order and any sum: that the order is the customer's own, and that so
much was paid for it, is looked up and enforced here. Where that does not hold, or the model is not sure, a person takes
over, for whom the same holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from dressage.flow import App, Exponential, Searchable, TaskError, UserTask, workflow

app = App("triage")
SURE = 0.8


@dataclass
class Ticket:
    id: str
    customer: str
    text: str


@dataclass
class Decision:
    action: Literal["refund", "answer", "person"]
    confidence: float
    order: str = ""
    amount: Decimal = Decimal(0)
    answer: str = ""


@dataclass
class Owner:
    customer: str
    paid: Decimal


@dataclass
class Ruling:
    """What a person makes of it."""

    refund: Decimal = Decimal(0)
    order: str = ""
    answer: str = ""


@dataclass
class TriageView:
    customer: Searchable[str]
    status: Searchable[str] = "READING"


take_over = UserTask("take-over-ticket", form=Ruling)


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=20)), timeout=timedelta(minutes=2))
def decide(text: str) -> Decision:
    """Asks the model. Here a few words stand for it."""
    words = text.lower().split()
    if "refund" in words:
        order = next((word for word in words if word.startswith("o-")), "")
        return Decision("refund", 0.95 if order else 0.5, order, Decimal(30))
    return Decision("answer", 0.9, answer="see our handbook") if "how" in words else Decision("person", 0.2)


@app.task(retries=3)
def find_owner(order: str) -> Owner | None:
    return {"o-1": Owner("ann", Decimal(30)), "o-2": Owner("bob", Decimal(80))}.get(order)


@app.task(retries=5)
def refund(order: str, amount: Decimal, key: str) -> str:
    return f"refunded {amount} of {order}"


@app.task(retries=5)
def reply(customer: str, text: str) -> None: ...


def wrong_with(customer: str, order: str, amount: Decimal, owner: Owner | None) -> str:
    """Why the customer cannot have so much of this order back; empty if they can."""
    return (
        f"order {order or '?'} is not one of {customer}"
        if owner is None or owner.customer != customer
        else ""
        if amount.is_finite() and 0 < amount <= owner.paid
        else f"{amount} is not between 0 and the {owner.paid} that was paid for {order}"
    )


@workflow
async def triage(ticket: Ticket) -> str:
    view, why = TriageView(ticket.customer), ""
    try:
        said = await decide(ticket.text)
    except TaskError as error:
        said, why = Decision("person", 0.0), f"no decision: {error}"
    ruling = Ruling(said.amount if said.action == "refund" else Decimal(0), said.order, said.answer)
    if said.action == "refund":
        owner = await find_owner(said.order) if said.order else None
        why = wrong_with(ticket.customer, said.order, said.amount, owner)
    if not why and (said.action == "person" or said.confidence < SURE):
        why = f"not sure ({said.confidence})"
    while why:
        view.status = "WITH A PERSON"
        ruling = await take_over.assign(
            group="support",
            notes=f"{ticket.customer}: {ticket.text}\n{why}",
            due=timedelta(hours=8),
            escalate_after=timedelta(days=1),
            escalate_to="support-leads",
        )
        # What holds for the model holds for people: they are asked again, and told why.
        why = ""
        if ruling.refund != 0:
            why = wrong_with(ticket.customer, ruling.order, ruling.refund, await find_owner(ruling.order))
    done = ruling.answer
    if ruling.refund > 0:
        done = await refund(ruling.order, ruling.refund, ticket.id)
    await reply(ticket.customer, done)
    view.status = "CLOSED"
    return done
