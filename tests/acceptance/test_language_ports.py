"""Public examples of other engines, written anew for this one, some of them from what their pages describe.

- `greeting`: temporalio/samples-python, hello/hello_activity.py and hello/hello_activity_retry.py
- `purchase`: temporalio/samples-python, hello/hello_activity_choice.py
- `parallel_greetings`: temporalio/samples-python, hello/hello_parallel_activity.py
- `book_vacation`: the booking saga of Temporal's blog ("Saga pattern made easy"): car, hotel, flight
- `transfer`: temporalio/money-transfer-project-template-python, workflows.py
- `identity`: LittleHorse's quickstart (verify an identity, notify the customer), without its external event
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING

import pytest

from dressage.client import RunFailed
from dressage.flow import (
    App,
    Exponential,
    Masked,
    Saga,
    Searchable,
    TaskError,
    WorkflowFailure,
    gather,
    sleep,
    workflow,
)
from dressage.protocol.errors import DefinitionError

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio


app = App("language-ports")
calls: list[str] = []


@dataclass
class ComposeGreetingInput:
    greeting: str
    name: str


@app.task(retries=3, backoff=Exponential(base=timedelta(milliseconds=20)))
def compose_greeting(value: ComposeGreetingInput) -> str:
    calls.append("compose")
    if value.name == "flaky" and len(calls) < 3:
        raise RuntimeError("not yet")
    return f"{value.greeting}, {value.name}!"


@workflow
async def greeting(name: str) -> str:
    return await compose_greeting(ComposeGreetingInput("Hello", name))


async def test_hello_activity(run: Run) -> None:
    assert await run(greeting, name="World") == "Hello, World!"


async def test_hello_activity_with_retries(run: Run) -> None:
    assert await run(greeting, name="flaky") == "Hello, flaky!"
    assert calls == ["compose", "compose", "compose"]


class Fruit(IntEnum):
    APPLE = 1
    BANANA = 2
    CHERRY = 3
    ORANGE = 4


@dataclass
class Wish:
    fruit: Fruit
    amount: int


@dataclass
class Wishes:
    items: list[Wish]


@app.task
def buy_apples(amount: int) -> str:
    return f"{amount} apples;"


@app.task
def buy_bananas(amount: int) -> str:
    return f"{amount} bananas;"


@app.task
def buy_cherries(amount: int) -> str:
    return f"{amount} cherries;"


@app.task
def buy_oranges(amount: int) -> str:
    return f"{amount} oranges;"


class UnknownFruit(WorkflowFailure): ...


@workflow
async def purchase(shopping: Wishes) -> str:
    ordered: list[str] = []
    for item in shopping.items:
        if item.fruit is Fruit.APPLE:
            ordered = [*ordered, await buy_apples(item.amount)]
        elif item.fruit is Fruit.BANANA:
            ordered = [*ordered, await buy_bananas(item.amount)]
        elif item.fruit is Fruit.CHERRY:
            ordered = [*ordered, await buy_cherries(item.amount)]
        elif item.fruit is Fruit.ORANGE:
            ordered = [*ordered, await buy_oranges(item.amount)]
        else:
            raise UnknownFruit(f"Unrecognized fruit: {item.fruit.value}")
    return "".join(ordered)


async def test_hello_activity_choice(run: Run) -> None:
    wanted = Wishes([Wish(Fruit.APPLE, 8), Wish(Fruit.ORANGE, 5)])
    assert await run(purchase, shopping=wanted) == "8 apples;5 oranges;"


def test_a_task_in_a_variable_is_refused() -> None:
    with pytest.raises(DefinitionError, match="task buy_apples is no value"):

        @workflow
        async def chosen(wish: Wish) -> str:
            buy = buy_apples if wish.fruit is Fruit.APPLE else buy_oranges
            return await buy(wish.amount)


@app.task
async def greet_slowly(name: str) -> str:
    await asyncio.sleep(0.05)
    return f"Hello, {name}"


@workflow
async def parallel_greetings() -> list[str]:
    results = await gather(
        greet_slowly("user1"),
        greet_slowly("user2"),
        greet_slowly("user3"),
        greet_slowly("user4"),
        greet_slowly("user5"),
    )
    return sorted(results)


async def test_hello_parallel_activity(run: Run) -> None:
    assert await run(parallel_greetings) == [f"Hello, user{number}" for number in range(1, 6)]


@dataclass
class BookVacationInput:
    user: str
    car: str
    hotel: str
    flight: str


@dataclass
class VacationView:
    status: Searchable[str] = "BOOKING"
    car: str = ""
    hotel: str = ""
    flight: str = ""


@app.task
def book_car(trip: BookVacationInput) -> str:
    calls.append("book car")
    return f"car {trip.car}"


@app.task
def book_hotel(trip: BookVacationInput) -> str:
    calls.append("book hotel")
    return f"hotel {trip.hotel}"


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=10)))
def book_flight(trip: BookVacationInput) -> str:
    calls.append("book flight")
    if trip.flight == "full":
        raise RuntimeError("no flight left")
    return f"flight {trip.flight}"


@app.task
def undo_book_car(trip: BookVacationInput) -> None:
    calls.append("undo car")


@app.task
def undo_book_hotel(trip: BookVacationInput) -> None:
    calls.append("undo hotel")


@app.task
def undo_book_flight(trip: BookVacationInput) -> None:
    calls.append("undo flight")


@workflow
async def book_vacation(trip: BookVacationInput) -> str:
    view = VacationView()
    try:
        async with Saga() as saga:
            saga.undo(undo_book_car, trip)
            view.car = await book_car(trip)
            saga.undo(undo_book_hotel, trip)
            view.hotel = await book_hotel(trip)
            await sleep(timedelta(milliseconds=20))
            saga.undo(undo_book_flight, trip)
            view.flight = await book_flight(trip)
    except TaskError as error:
        view.status = "CANCELLED"
        return f"trip of {trip.user} is cancelled: {error}"
    view.status = "BOOKED"
    return f"{view.car}, {view.hotel}, {view.flight}"


async def test_booking_saga(run: Run) -> None:
    trip = BookVacationInput("ann", "vw", "ritz", "lh1")
    assert await run(book_vacation, trip=trip) == "car vw, hotel ritz, flight lh1"


async def test_booking_saga_undoes_in_reverse_with_undo_registered_ahead(run: Run) -> None:
    trip = BookVacationInput("ann", "vw", "ritz", "full")
    said = await run(book_vacation, trip=trip)
    assert said == "trip of ann is cancelled: no flight left (task book-flight, attempt 3 of 3)"
    assert calls[2:5] == ["book flight"] * 3
    assert calls[5:] == ["undo flight", "undo hotel", "undo car"]


class InsufficientFunds(WorkflowFailure): ...


class InvalidAccount(WorkflowFailure):
    account: str


@dataclass
class PaymentDetails:
    source_account: str
    target_account: str
    amount: int
    reference_id: str


@app.task(retries=3)
async def withdraw(data: PaymentDetails) -> str:
    if data.amount > 250:
        raise InsufficientFunds("balance is too low")
    return f"W{data.reference_id}"


@app.task(retries=3)
async def deposit(data: PaymentDetails) -> str:
    if data.target_account == "nowhere":
        raise InvalidAccount("no such account", account=data.target_account)
    return f"D{data.reference_id}"


@app.task
async def refund(data: PaymentDetails) -> str:
    calls.append("refund")
    if data.source_account == "closed":
        raise InvalidAccount("account is closed", account=data.source_account)
    return f"R{data.reference_id}"


@workflow
async def transfer(details: PaymentDetails) -> str:
    withdrawal = await withdraw(details)
    try:
        deposited = await deposit(details)
    except Exception as deposit_error:
        try:
            await refund(details)
        except Exception as refund_error:
            raise refund_error from deposit_error
        raise deposit_error
    return f"Transfer complete (transaction IDs: {withdrawal}, {deposited})"


async def test_money_transfer(run: Run) -> None:
    said = await run(transfer, details=PaymentDetails("a", "b", 250, "1"))
    assert said == "Transfer complete (transaction IDs: W1, D1)"
    with pytest.raises(RunFailed, match="balance is too low"):
        await run(transfer, details=PaymentDetails("a", "b", 251, "1"))
    assert calls == []


async def test_money_transfer_refunds_and_raises_the_failure_of_the_deposit(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(transfer, details=PaymentDetails("a", "nowhere", 5, "1"))
    failure = caught.value.failure
    assert (failure.name, failure.message) == ("invalid-account", "no such account")
    assert calls == ["refund"]


async def test_money_transfer_raises_the_failure_of_the_refund(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(transfer, details=PaymentDetails("closed", "nowhere", 5, "1"))
    assert caught.value.failure.message == "account is closed"


@dataclass
class Customer:
    full_name: Searchable[str]
    email: Searchable[str]
    ssn: Masked[int]
    approved: Searchable[bool | None] = None


class CustomerNotVerified(WorkflowFailure): ...


@app.task(retries=3)
def verify_identity(full_name: str, email: str, ssn: Masked[int]) -> bool:
    return ssn != 0


@app.task
def notify_customer(full_name: str, email: str, approved: bool) -> str:
    word = "verified" if approved else "rejected"
    return f"{full_name} was {word}"


@workflow(name="quickstart")
async def identity(full_name: str, email: str, ssn: Masked[int]) -> str:
    customer = Customer(full_name, email, ssn)
    customer.approved = await verify_identity(full_name, email, ssn)
    told = await notify_customer(full_name, email, approved=customer.approved)
    if not customer.approved:
        raise CustomerNotVerified("Unable to verify customer identity.")
    return told


async def test_littlehorse_quickstart(run: Run) -> None:
    given = {"full_name": "Obi-Wan", "email": "obi@jedi"}
    assert await run(identity, **given, ssn=5) == "Obi-Wan was verified"
    with pytest.raises(RunFailed) as caught:
        await run(identity, **given, ssn=0)
    assert caught.value.failure.name == "customer-not-verified"
