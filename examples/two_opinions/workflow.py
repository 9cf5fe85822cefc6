"""Two opinions: two agents look at a claim on their own; where they differ, or one of them fails, a person decides.

Neither agent sees what the other one says, and the person sees both.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from dressage.flow import App, Searchable, TaskError, UserTask, gather, workflow

app = App("claims")


@dataclass
class Claim:
    id: str
    text: str
    amount: Decimal


@dataclass
class Opinion:
    verdict: Literal["pay", "refuse", "unclear"]
    because: str


@dataclass
class Judgement:
    pay: bool
    because: str


@dataclass
class ClaimView:
    status: Searchable[str] = "READING"
    decided_by: Searchable[str] = ""


judge = UserTask("judge-claim", form=Judgement)


@app.task(timeout=timedelta(minutes=5))
def read_strictly(text: str) -> Opinion:
    """The first agent."""
    if "blurred" in text:
        raise ValueError("the picture cannot be read")
    return (
        Opinion("pay", "there is a receipt") if "receipt" in text else Opinion("refuse", "nothing proves it")
    )


@app.task(timeout=timedelta(minutes=5))
def read_kindly(text: str) -> Opinion:
    """The second agent, of another maker."""
    return Opinion("refuse", "it is too old") if "old" in text else Opinion("pay", "it sounds true")


@app.task(retries=5)
def pay(claim: str, amount: Decimal) -> None: ...


@app.task(retries=5)
def tell(claim: str, text: str) -> None: ...


async def strict(text: str) -> Opinion:
    try:
        return await read_strictly(text)
    except TaskError as error:
        return Opinion("unclear", f"{error}")


async def kind(text: str) -> Opinion:
    try:
        return await read_kindly(text)
    except TaskError as error:
        return Opinion("unclear", f"{error}")


@workflow
async def settle_claim(claim: Claim) -> str:
    view = ClaimView()
    one, two = await gather(strict(claim.text), kind(claim.text))
    if one.verdict == two.verdict and one.verdict != "unclear":
        view.decided_by = "agents"
        judgement = Judgement(one.verdict == "pay", one.because)
    else:
        view.status = "DISPUTED"
        judgement = await judge.assign(
            group="adjusters",
            notes=f"{claim.text}\none: {one.verdict}, {one.because}\ntwo: {two.verdict}, {two.because}",
            due=timedelta(days=1),
            escalate_after=timedelta(days=2),
            escalate_to="senior-adjusters",
        )
        view.decided_by = "person"
    if judgement.pay:
        await pay(claim.id, claim.amount)
    await tell(claim.id, judgement.because)
    view.status = "PAID" if judgement.pay else "REFUSED"
    return judgement.because
