"""The application of the kill tests, loaded by worker processes and by the tests: every path of the language."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import App, Exponential, Saga, Searchable, WorkflowFailure, gather, sleep, workflow
from dressage.worker import current_task

app = App("kills")


class Declined(WorkflowFailure): ...


@dataclass
class View:
    status: Searchable[str] = "STARTED"


@app.task(retries=5, backoff=Exponential(base=timedelta(milliseconds=100)))
async def first(n: int) -> int:
    await asyncio.sleep(
        2.0 if n % 5 == 1 else 0.05
    )  # so that every worker holds an attempt when it is killed
    if n % 7 == 0 and current_task().attempt == 1:
        raise RuntimeError("a passing fault")
    return n + 1


@app.task(retries=5)
async def second(n: int) -> int:
    await asyncio.sleep(0.05)
    if n % 5 == 0:
        raise Declined(f"{n} is declined")
    return n * 2


@app.task(retries=5)
def third(n: int) -> int:
    return n - 1


@workflow(name="killed")
async def killed(n: int) -> int:
    view = View()
    a = await first(n)
    if n % 3 == 0:
        await sleep(0.2)
    c = 0
    try:
        a, c = await gather(second(a), third(n))
    except* Declined:
        view.status = "DECLINED"
        a = -a
    b = c
    async with Saga() as saga:
        b += await third(a)
        saga.undo(third, b)
        if n % 11 == 0:
            raise Declined(f"{b} at the end")
    view.status = "DONE"
    return b


def expected(n: int) -> int | None:
    """What the run must give; None when it must fail."""
    a = n + 1
    b = -a - 1 if a % 5 == 0 else 2 * a - 1 + n - 1
    return None if n % 11 == 0 else b
