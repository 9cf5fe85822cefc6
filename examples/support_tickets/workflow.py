"""Support tickets: a classifier says what a ticket is about, and the workflow decides what happens next.

The classifier may be a language model. What it answers is data of declared types: a topic that does not exist is an
error of that task, which is retried, and never a branch that nobody thought of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Literal

from dressage.flow import App, Exponential, Searchable, TaskError, gather, workflow

app = App("support")
SURE = 0.7
REFUND_MAX = Decimal(50)


class Topic(Enum):
    BILLING = "billing"
    OUTAGE = "outage"
    QUESTION = "question"


@dataclass
class Ticket:
    id: str
    customer: str
    text: str
    paid: Decimal = Decimal(0)


@dataclass
class Classification:
    topic: Topic
    urgency: Literal["low", "high"]
    confidence: float


@dataclass
class TicketView:
    customer: Searchable[str]
    queue: Searchable[str] = "new"
    topic: Searchable[Topic | None] = None


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=20)))
def classify(text: str) -> Classification:
    words = text.lower().split()
    urgency: Literal["low", "high"] = "high" if "now" in words else "low"
    if "refund" in words:
        return Classification(Topic.BILLING, urgency, 0.9)
    if "down" in words:
        return Classification(Topic.OUTAGE, urgency, 0.95)
    return Classification(Topic.QUESTION, urgency, 0.8 if words[-1:] == ["?"] else 0.3)


@app.task
def draft_answer(text: str) -> str:
    return f"About {text!r}: please see our handbook"


@app.task
def refund(ticket: str, amount: Decimal) -> str:
    return f"refund-{ticket}"


@app.task
def page_engineer(ticket: str, text: str) -> None: ...


@app.task
def assign(ticket: str, queue: str, urgent: bool) -> str:
    """Puts the ticket into a queue of people."""
    return f"{queue}-{ticket}"


@app.task(retries=5)
def reply(customer: str, text: str) -> None: ...


@workflow
async def route_ticket(ticket: Ticket) -> str:
    view = TicketView(ticket.customer)
    try:
        found = await classify(ticket.text)
    except TaskError:
        view.queue = "people"
        return await assign(ticket.id, "people", urgent=True)
    view.topic = found.topic
    urgent = found.urgency == "high"

    if found.confidence < SURE:
        view.queue = "people"
        return await assign(ticket.id, "people", urgent)
    if found.topic is Topic.OUTAGE and urgent:
        view.queue = "on-call"
        _, place = await gather(page_engineer(ticket.id, ticket.text), assign(ticket.id, "on-call", urgent))
        return place
    if found.topic is Topic.BILLING and ticket.paid <= REFUND_MAX:
        reference = await refund(ticket.id, ticket.paid)
        await reply(ticket.customer, f"{ticket.paid} is on its way back to you: {reference}")
        view.queue = "closed"
        return reference
    if found.topic is Topic.QUESTION:
        answer = await draft_answer(ticket.text)
        await reply(ticket.customer, answer)
        view.queue = "closed"
        return "answered"
    view.queue = found.topic.value
    return await assign(ticket.id, found.topic.value, urgent)
