"""A checkout that asks instead of giving up: for another card, for two days, and whether to wait for what is sold out.

The customer answers from outside: `dressage run post order-7 card-given '"4242"'`, `... decided '"wait"'`; the
warehouse says `... restocked`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum

from dressage.flow import App, Event, Saga, Searchable, WorkflowFailure, first_completed, sleep, workflow

app = App("patient-shop")


class Decision(Enum):
    WAIT = "wait"
    CANCEL = "cancel"


class OutOfStock(WorkflowFailure):
    item: str


class CardDeclined(WorkflowFailure): ...


class Abandoned(WorkflowFailure):
    """The customer has cancelled, or has not answered."""


@dataclass
class Order:
    id: str
    item: str
    amount: Decimal
    card: str


@dataclass
class CheckoutView:
    status: Searchable[str] = "NEW"


card_given = Event("card-given", of=str)
decided = Event("decided", of=Decision)
restocked = Event("restocked")


@app.task(retries=3)
def reserve(order: str, item: str, again: int) -> str:
    if item == "lamp" and again == 0:
        raise OutOfStock(f"{item} is sold out", item=item)
    return f"reservation-{order}"


@app.task(retries=10)
def release(reservation: str) -> None: ...


@app.task(retries=3)
def charge(card: str, amount: Decimal) -> str:
    if card.startswith("0"):
        raise CardDeclined(f"card {card} is not valid")
    return f"{amount} from {card}"


@workflow
async def check_out(order: Order) -> str:
    view, card, receipt = CheckoutView(), order.card, ""

    async def decision() -> Decision:
        try:
            return await decided.wait(timeout=timedelta(days=7))
        except TimeoutError:
            return Decision.CANCEL

    async with Saga() as saga:
        try:
            reservation = await reserve(order.id, order.item, 0)
        except OutOfStock as gone:
            view.status = "SOLD OUT"
            if await decision() == Decision.CANCEL:
                raise Abandoned(f"without {gone.item}") from gone
            view.status = "WAITING FOR STOCK"
            # Waiting, too, can be given up.
            match await first_completed(restocked.wait(), decided.wait(), sleep(timedelta(days=90))):
                case 0, _:
                    reservation = await reserve(order.id, order.item, 1)
                case _:
                    raise Abandoned(f"{order.item} was not there again") from gone
        saga.undo(release, reservation)
        while not receipt:
            try:
                receipt = await charge(card, order.amount)
            except CardDeclined as declined:
                view.status = "CARD NEEDED"
                try:
                    card = await card_given.wait(timeout=timedelta(days=2))
                except TimeoutError as late:
                    raise Abandoned(f"no other card: {declined}") from late
    view.status = "PAID"
    return receipt
