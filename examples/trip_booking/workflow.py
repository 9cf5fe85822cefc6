"""A saga: book a car, a hotel and a flight, and if one cannot be had, cancel what was booked, the last one first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from dressage.flow import App, Exponential, Searchable, TaskError, WorkflowFailure, workflow

app = App("trips")
Kind = Literal["car", "hotel", "flight"]


class NothingFree(WorkflowFailure):
    """There is no car, room or seat for this trip."""


class TripFailed(WorkflowFailure):
    """The trip was not booked. `open` names the bookings that could not be cancelled: somebody has to call."""

    open: list[str]


@dataclass
class Trip:
    id: str
    traveller: str
    city: str


@dataclass
class Booking:
    kind: Kind
    reference: str


@dataclass
class TripView:
    status: Searchable[str] = "BOOKING"
    city: Searchable[str] = ""


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=50)))
def book_car(trip: Trip) -> Booking:
    return Booking("car", f"car-{trip.id}")


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=50)))
def book_hotel(trip: Trip) -> Booking:
    if trip.city == "Atlantis":
        raise NothingFree("all rooms are under water")
    return Booking("hotel", f"hotel-{trip.id}")


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=50)))
def book_flight(trip: Trip) -> Booking:
    if trip.city == "Avalon":
        raise NothingFree("there is no airport")
    if trip.city == "Laputa":
        raise TimeoutError("the airline does not answer")
    return Booking("flight", f"flight-{trip.id}")


@app.task(retries=5, backoff=Exponential(base=timedelta(milliseconds=20)))
def cancel(booking: Booking) -> None: ...


@workflow
async def book_trip(trip: Trip) -> list[Booking]:
    view = TripView(city=trip.city)
    booked: list[Booking] = []
    try:
        car = await book_car(trip)
        booked = [*booked, car]
        hotel = await book_hotel(trip)
        booked = [*booked, hotel]
        flight = await book_flight(trip)
        booked = [*booked, flight]
    except (NothingFree, TaskError) as error:
        view.status = "CANCELLING"
        left: list[str] = []
        for booking in reversed(booked):
            try:
                await cancel(booking)
            except TaskError:
                left = [*left, booking.reference]
        view.status = "CANCELLED" if not left else "STUCK"
        raise TripFailed(f"no trip to {trip.city}: {error}", open=left) from error
    view.status = "BOOKED"
    return booked
