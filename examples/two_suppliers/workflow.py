"""Two suppliers are asked for a part, and the first offer is taken; who has made none within two days is too late.

The suppliers answer from outside: `dressage run post part-7 north-offers '{"price": "120.00"}'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from dressage.flow import (
    App,
    Event,
    Saga,
    Searchable,
    WorkflowFailure,
    first_completed,
    first_successful,
    sleep,
    workflow,
)

app = App("purchasing")
PATIENCE = timedelta(days=2)


class NoOffer(WorkflowFailure):
    """No supplier has made an offer in time."""


@dataclass
class Part:
    id: str
    name: str
    most: Decimal


@dataclass
class Offer:
    price: Decimal


@dataclass
class PurchaseView:
    status: Searchable[str] = "ASKING"
    supplier: Searchable[str] | None = None


north_offers = Event("north-offers", of=Offer)
south_offers = Event("south-offers", of=Offer)


@app.task(retries=3)
def request_offer(supplier: str, part: Part) -> None: ...


@app.task(retries=10)
def withdraw_request(supplier: str, part: str) -> None: ...


@app.task(retries=3)
def order_part(supplier: str, part: Part, price: Decimal) -> str:
    return f"{part.name} from {supplier} for {price}"


@workflow
async def buy_part(part: Part) -> str:
    view = PurchaseView()

    async def from_north() -> Offer:
        async with Saga() as saga:
            # Registered first: whoever is cancelled while it asks may have been heard.
            saga.undo(withdraw_request, "north", part.id)
            await request_offer("north", part)
            offer = await north_offers.wait()
            while offer.price > part.most:
                offer = await north_offers.wait()
        return offer

    async def from_south() -> Offer:
        async with Saga() as saga:
            saga.undo(withdraw_request, "south", part.id)
            await request_offer("south", part)
            offer = await south_offers.wait()
            while offer.price > part.most:
                offer = await south_offers.wait()
        return offer

    async def fastest() -> tuple[int, Offer]:
        # Who cannot even be asked does not win.
        return await first_successful(from_north(), from_south())

    try:
        match await first_completed(fastest(), sleep(PATIENCE)):
            case 0, (place, offer):
                supplier, price = ("north", "south")[place], offer.price
            case _:
                raise NoOffer(f"nobody offers {part.name} for {part.most} or less")
    except (NoOffer, ExceptionGroup):
        view.status = "NO OFFER"
        raise
    view.supplier = supplier
    view.status = "ORDERED"
    return await order_part(supplier, part, price)
