"""What is measured: three tasks, 500 bytes in, 200 out, one searchable and three plain variables; branches; sleeps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from dressage.flow import App, Event, Limits, Searchable, gather, sleep, workflow

app = App("bench")
TASKS_PER_RUN: Final = 3
EVENTS_PER_RUN: Final = 13
"""run-started, two changes of the view, scheduled + completed + variable for each task, and run-completed."""


@dataclass
class Order:
    id: str
    customer: str
    address: str
    note: str


@dataclass
class View:
    status: Searchable[str] = "RECEIVED"


@app.task(retries=3)
async def price(order: Order) -> str:
    return "p" * 198


@app.task(retries=3)
async def charge(text: str) -> str:
    return "c" * 198


@app.task(retries=3)
async def ship(text: str) -> str:
    return "s" * 198


@workflow(name="bench-order")
async def bench_order(order: Order) -> str:
    view = View()
    priced = await price(order)
    charged = await charge(priced)
    shipped = await ship(charged)
    view.status = "SHIPPED"
    return shipped


def order_input(number: int) -> dict[str, Any]:
    """Input of about 500 bytes as JSON."""
    return {
        "order": {
            "id": f"{number:012d}",
            "customer": "c" * 36,
            "address": "a" * 150,
            "note": "n" * 232,
        }
    }


told = Event("bench-told", of=int)


rung = Event("bench-rung")


@workflow(name="bench-idle")
async def idle() -> str:
    await rung.wait(timeout=timedelta(days=365))
    return "awake"


@workflow(name="bench-told-by-key")
async def told_by_key(key: str) -> int:
    return await told.wait(key=key)


@app.task(retries=3)
async def echo(number: int) -> int:
    return number


@workflow(name="bench-one")
async def one(number: int) -> int:
    return await echo(number)


@workflow(name="bench-wide", limits=Limits(history_events=1_000_000))
async def wide(count: int) -> int:
    return sum(await gather(*(echo(number) for number in range(count))))


@workflow(name="bench-nap")
async def nap(seconds: float) -> None:
    await sleep(seconds)


@app.task(retries=3)
async def clock() -> float:
    """Unix time in seconds at which a worker has begun with it."""
    return time.time()


@workflow(name="bench-begun")
async def begun() -> float:
    return await clock()


@workflow(name="bench-nothing")
async def nothing(number: int) -> int:
    return number
